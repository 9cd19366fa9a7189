"""The finished experts of a project and what they are called; torch-free.

An expert is named by what it was trained on, ``math``, which means the seed with the best validation score (the
lowest among equals); by task and seed, ``math/seed-1``; or by an adapter folder, ``path/to/folder``. ``classifier`` is
the classifier expert. A task's name goes before a folder's: write ``./math`` for a folder that is called so.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2.stages import paths

BASE = "base"
"""In a mix: the base model, z = 1."""


@dataclass(frozen=True)
class Entry:
    """A finished expert.

    Attributes:
        name: Task and seed, ``math/seed-0``; of an adapter folder elsewhere, the folder.
        folder: Where it lies.
        task: What it was trained on; ``classifier`` for the classifier expert.
        seed: The seed of its training.
        step: The training step that was kept; None: unknown.
        valid_score: The validation score there.
    """

    name: str
    folder: Path
    task: str | None = None
    seed: int | None = None
    step: int | None = None
    valid_score: float | None = None


def finished() -> list[Entry]:
    """The project's experts, by task and seed, the classifier expert last."""
    return [*_below(paths.EXPERTS), *_seeds(paths.CLASSIFIER)]


def find(name: str) -> Entry:
    """The expert of a name.

    Raises:
        ValueError: There is none.
    """
    entries = finished()
    of_task = [entry for entry in entries if entry.task == name]
    if of_task:
        return max(of_task, key=lambda entry: (_score(entry), -(entry.seed or 0)))
    for entry in entries:
        if entry.name == name:
            return entry
    if (Path(name) / "adapter_config.json").is_file():
        return Entry(name, Path(name))
    known = ", ".join(entry.name for entry in entries)
    raise ValueError(
        f"there is no expert {name!r}: it is no adapter folder, and "
        + (f"this project has {known}" if known else f"{paths.EXPERTS} holds none; `make repro` trains them")
    )


def found(task: str) -> Path:
    """The file of the α that few-shot search found for an unseen task, in its first draw: none is chosen by a score.

    Raises:
        ValueError: There is none.
    """
    path = paths.draw(task, 0) / "alpha.json"
    if not task or not path.exists():
        there = ", ".join(sorted(draw.parent.name for draw in paths.ADAPTATION.glob("*/draw-0")))
        raise ValueError(
            (f"no mix was found for task {task!r}; " if task else "no --task is named whose found mix is meant; ")
            + (f"there is one for {there}" if there else f"{paths.ADAPTATION} holds none: `make repro` searches them")
        )
    return path


def weights(terms: Sequence[str]) -> dict[str, float] | str:
    """Reads what a user writes for an expert, ``math``, or for a mix, ``math=0.7 code=0.3``.

    Returns:
        The expert's name, or α by name.

    Raises:
        ValueError: The terms are neither.
    """
    if len(terms) == 1 and ("=" not in terms[0] or Path(terms[0]).is_dir()):
        return terms[0]
    alpha: dict[str, float] = {}
    for term in terms:
        name, sign, value = term.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not sign or not name or name in alpha or not abs(number) < float("inf"):
            raise ValueError(f"{term!r} is no part of a mix; write each expert once, as NAME=WEIGHT: math=0.7 code=0.3")
        alpha[name] = number
    if len(alpha) < 2:
        # In the normalised form a single weight, whatever it is, comes to 1.
        raise ValueError(f"a mix has two parts at least, got {' '.join(terms)}; half an expert is math=0.5 base=0.5")
    return alpha


def _below(folder: Path) -> Iterator[Entry]:
    for of_task in sorted(folder.glob("*")):
        yield from _seeds(of_task)


def _seeds(folder: Path) -> Iterator[Entry]:
    found = ((re.fullmatch(r"seed-(\d+)", path.name), path) for path in folder.glob("seed-*"))
    for seed, path in sorted((int(match[1]), path) for match, path in found if match):
        if (path / "adapter_config.json").is_file():
            yield Entry(f"{folder.name}/{path.name}", path, folder.name, seed, *_chosen(path / "history.csv"))


def _chosen(history: Path) -> tuple[int | None, float | None]:
    """Step and validation score of the checkpoint that was kept, as the learning curve has them."""
    if not history.exists():
        return None, None
    with open(history, encoding="utf-8", newline="") as file:
        row = next((row for row in csv.DictReader(file) if row["chosen"] == "True"), None)
    return (int(row["step"]), float(row["valid_score"])) if row else (None, None)


def _score(entry: Entry) -> float:
    return float("-inf") if entry.valid_score is None else entry.valid_score
