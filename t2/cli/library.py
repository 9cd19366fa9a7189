"""The finished experts of a project and what they are called; torch-free.

An expert is named by its row of ``adapters``, ``svf-math``, which means the seed with the best validation score (the
first among equals); by row and seed, ``svf-math/seed-1``; or by an adapter folder, ``path/to/folder``. A row goes
before a folder of its name: write ``./svf-math`` for that.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from t2 import config
from t2.cli.base import known_bases
from t2.config.rows import Base
from t2.stages import members, paths

BASE = "base"
"""In a mix: the base model, z = 1."""


@contextmanager
def shelf() -> Iterator[None]:
    """Where experts are looked for: among those of the project's own run, or before it has any, those that ship."""
    shipped = paths.shipped()
    # Git keeps the folder, for what DVC has it ignore.
    trained = any(path.is_dir() for path in paths.adapters("").glob("*"))
    if trained or not (shipped / "data").is_dir():
        yield
        return
    print(f"— the experts of the committed run, from {shipped}; `make repro` makes your own", file=sys.stderr)
    with paths.within(shipped, frozenset()):
        yield


def parameters(folder: Path | None) -> config.Params:
    """Those of an experiment folder; None: of the main run."""
    return config.load() if folder is None else config.load(folder / "params.yaml", main="params.yaml")


def require_base(base: Base) -> None:
    """Whether a local base model is there.

    Raises:
        FileNotFoundError: It is not; says what makes it.
    """
    path = Path(base.path)
    if not base.is_hub_id and not path.is_dir():
        makes = f"`t2 base {path.name}` makes it" if path.name in known_bases() else "bring the model there"
        raise FileNotFoundError(f"the base model {path} is not here; {makes}")


def held(params: config.Params, system: str) -> tuple[list[members.Member], Callable[[str, int], Path]]:
    """The adapters that a system answers with, and where each seed of them lies.

    Of an experiment folder git may keep the sets alone.
    """
    named, own = params.adapters_of(system), getattr(params.systems[system], "set", None)
    holding = [own] if own else [name for name, row in params.sets.items() if {*named} <= {*row.members}]
    of_set = next((name for name in holding if paths.members(name).is_dir()), None)
    if of_set is not None and not paths.adapters(named[0]).is_dir():
        kept = partial(paths.member, of_set)
        found = [member for member in members.read_set(of_set) if member.name in named]
        return found, lambda name, seed: (kept if name in named else paths.adapter)(name, seed)
    return [members.read(name) for name in named], paths.adapter


@dataclass(frozen=True)
class Entry:
    """A finished expert.

    Attributes:
        name: Row and seed, ``svf-math/seed-0``; of an adapter folder elsewhere, the folder.
        folder: Where it lies.
        adapter: Its row.
        task: What it was trained on.
        seed: The seed of its training.
        step: The training step that was kept; None: unknown.
        valid_score: The validation score there.
    """

    name: str
    folder: Path
    adapter: str | None = None
    task: str | None = None
    seed: int | None = None
    step: int | None = None
    valid_score: float | None = None


def trained_experts() -> list[Entry]:
    """The project's SVF experts, in the order of the rows, seed by seed; none outside of a project."""
    if not Path("params.yaml").exists():
        return []
    params = config.load()
    entries = []
    for name, row in params.adapters.items():
        if params.recipes[row.recipe].method == "svf" and paths.adapters(name).is_dir():
            member = members.read(name)
            for seed, score in member.valid_scores.items():
                folder = paths.adapter(name, seed)
                step = _chosen(folder / "history.csv")
                entries.append(Entry(f"{name}/seed-{seed}", folder, name, member.task, seed, step, score))
    return entries


def find(name: str) -> Entry:
    """The expert of a name.

    Raises:
        ValueError: There is none.
    """
    entries = trained_experts()
    if any(entry.adapter == name for entry in entries):
        seed = members.chosen_seed([members.read(name)])
        return next(entry for entry in entries if (entry.adapter, entry.seed) == (name, seed))
    for entry in entries:
        if entry.name == name:
            return entry
    if (Path(name) / "adapter_config.json").is_file():
        return Entry(name, Path(name))
    known = ", ".join(entry.name for entry in entries)
    there = (
        f"this project has {known}" if known else f"{paths.data() / 'adapters'} holds none; `make repro` trains them"
    )
    raise ValueError(f"there is no expert {name!r}: it is no adapter folder, and {there}")


def search_result(params: config.Params, search: str, seed: int | None = None) -> Path:
    """The file of the mix that a search found: for the seed that answers, in its first draw; none is chosen by a score.

    Args:
        params: Those of the project, or of the experiment folder that is meant.
        search: A row of ``searches``.
        seed: Of the experts; None: that of :func:`t2.stages.members.chosen_seed`.

    Raises:
        ValueError: There is none.
    """
    rows = params.searches
    done = [name for name in rows if paths.searches(name).is_dir()]
    if search not in done:
        there = f"there is one of {', '.join(done)}" if done else "`make repro` searches them"
        raise ValueError(f"no mix was found by search {search!r}; {there}")
    if seed is None:
        seed = members.chosen_seed([members.read(name) for name in params.sets[rows[search].set].members])
    return paths.search(search, seed, 0) / "alpha.json"


def temperature(params: config.Params, search: str, seed: int) -> Path:
    """The file of the temperature that a search found for the experts of a seed.

    Raises:
        ValueError: There is none.
    """
    path = paths.temperature(search, seed)
    if not path.is_file():
        raise ValueError(
            f"no temperature was found by search {search!r} for seed {seed}; `make repro` searches it, and what is "
            f"published answers without: {', '.join(params.publish.systems)}"
        )
    return path


def weights(terms: Sequence[str]) -> dict[str, float] | str:
    """Reads what a user writes for an expert, ``svf-math``, or for a mix, ``svf-math=0.7 svf-code=0.3``.

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
            raise ValueError(
                f"{term!r} is no part of a mix; write each expert once, as NAME=WEIGHT: svf-math=0.7 svf-code=0.3"
            )
        alpha[name] = number
    if len(alpha) < 2:
        # In the normalised form a single weight, whatever it is, comes to 1.
        raise ValueError(
            f"a mix has two parts at least, got {' '.join(terms)}; half an expert is svf-math=0.5 base=0.5"
        )
    return alpha


def _chosen(history: Path) -> int | None:
    """The step of the checkpoint that was kept, as the learning curve has it."""
    if not history.exists():
        return None
    with open(history, encoding="utf-8", newline="") as file:
        return next((int(row["step"]) for row in csv.DictReader(file) if row["chosen"] == "True"), None)
