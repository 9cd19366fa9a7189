"""Where the stages' files lie, relative to the project's root; names are those of rows.

What an experiment folder makes lies below it, also where a row has the name of one of the main run. The files of rows
that it takes lie where the main run has put them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_folder = ContextVar("folder", default=Path())
_taken: ContextVar[frozenset[str]] = ContextVar("taken", default=frozenset())


@contextmanager
def within(folder: Path, taken: frozenset[str]) -> Iterator[None]:
    """Makes these functions give the paths of an experiment folder.

    Args:
        folder: Relative to the root, which itself stands for the main run.
        taken: See :attr:`t2.config.rows.Params.taken`.
    """
    tokens = _folder.set(folder), _taken.set(taken)
    try:
        yield
    finally:
        _folder.reset(tokens[0])
        _taken.reset(tokens[1])


def data() -> Path:
    """What is made here, and DVC keeps."""
    return _folder.get() / "data"


def reports() -> Path:
    """Small tables and figures, which git keeps."""
    return _folder.get() if _folder.get().parts else Path("reports")


def predictions() -> Path:
    """Replies, grades and the index of cells."""
    return data() / "predictions"


def timings() -> Path:
    """Seconds of both passes."""
    return data() / "timings"


def scores() -> Path:
    """The tables of ``score``."""
    return data() / "scores"


def runs() -> Path:
    """Run ids and seconds of the stages."""
    return data() / "runs"


def report() -> Path:
    """The report, as DVC keeps it."""
    return data() / "report"


def published() -> Path:
    """What was registered."""
    return data() / "published.json"


def shipped() -> Path:
    """The experts that answer, and their mixes, as an experiment folder of their own, which git keeps."""
    return reports() / "published"


def splits(task: str) -> Path:
    """The splits of a task."""
    return _of("tasks", task) / "splits" / task


def split(task: str, name: str) -> Path:
    """The items of one split of a task."""
    return splits(task) / f"{name}.jsonl"


def basis(base: str) -> Path:
    """The basis cache of a base model."""
    return _of("bases", base) / "basis" / base


def spectrum(base: str) -> Path:
    """The table and the figure of a base model's singular values, without their endings."""
    return reports() / "spectra" / base


def adapters(name: str) -> Path:
    """A trained adapter, all seeds of it."""
    return _of("adapters", name) / "adapters" / name


def adapter(name: str, seed: int) -> Path:
    """A trained adapter."""
    return adapters(name) / f"seed-{seed}"


def members(of_set: str) -> Path:
    """The adapters of a set."""
    return _of("sets", of_set) / "sets" / of_set


def member(of_set: str, name: str, seed: int) -> Path:
    """An adapter as a set holds it."""
    return members(of_set) / name / f"seed-{seed}"


def searches(name: str) -> Path:
    """The outcomes of a search."""
    return _of("searches", name) / "searches" / name


def search(name: str, seed: int, draw: int) -> Path:
    """The outcome of one search: for the adapters of one seed, on one draw of the shots."""
    return searches(name) / f"seed-{seed}" / f"draw-{draw}"


def temperature(name: str, seed: int) -> Path:
    """The temperature of soft dispatch that was found for the adapters of one seed."""
    return _of("temperatures", name) / "searches" / name / f"seed-{seed}" / "temperature.json"


def run(stage: str) -> Path:
    """The MLflow run id and the seconds of a stage.

    The report reads those of all other stages, so that its own must not lie among them.
    """
    return report() / "run.json" if stage == "report" else runs() / f"{stage.replace('@', '-')}.json"


def _of(section: str, row: str) -> Path:
    """The folder of what is made of a row."""
    return Path("data") if f"{section}.{row}" in _taken.get() else data()
