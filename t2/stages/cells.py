"""Cells of the measurement on disk: what a model said and whether it was right, under keys over all that it hangs on.

``data/predictions`` outlives the stage's runs. What is there under its key is not made again; what no cell of the
present parameters names is dropped.

* ``replies/<key>.jsonl``: a row per prompt of a task's test split, or of some of them, under one mixture or adapter.
* ``grades/<key>.json``: which of these rows are right, of questions about images how much; the key holds the grader's
  code, which that of replies does not.
* ``flexible/<key>.json``: which are right by the flexible reading, under the same key.
* ``categories/<key>.json``: what a first pass called each prompt of a test split, by the item's id.
* ``logliks/<key>.json``: where it was read by likelihood, how likely each category was, in nats, under the same key.
* ``cells.json``: which of these files make up each system on each task, with each seed and draw.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t2.files import replace_file
from t2.stages import paths
from t2.stages.fingerprint import digest

Place = tuple[str, str, int | None, int | None]
"""System, task, seed and draw."""


@dataclass(frozen=True)
class Reply:
    """What became of one prompt.

    Attributes:
        id: The item's.
        question: What it asks, in the canonical form.
        text: The reply.
        tokens: How many were generated.
        finished: Whether it came to its end, or was cut off.
        too_long: The prompt left no room for a reply in the model's context.
        prompt_tokens: The prompt's length, with the chat template around it.
    """

    id: str
    question: str
    text: str
    tokens: int
    finished: bool
    too_long: bool
    prompt_tokens: int


@dataclass(frozen=True)
class Answered:
    """What became of an item of a cell.

    Attributes:
        id: The item's.
        reply: What the system said; None where it was asked for a category only.
        right: The reply's grade, of questions about images a share; None without a reply.
        flexible: That by the flexible reading.
        category: What a first pass called the item; None without one, or where it named none.
        logliks: How likely each category was, in nats, where that was read.
    """

    id: str
    reply: Reply | None
    right: float | None
    flexible: float | None
    category: str | None
    logliks: list[float] | None


@dataclass(frozen=True)
class Cell:
    """A system on a task, with a seed and a draw.

    Attributes:
        system: Its row.
        task: The row of the task.
        seed: Of the adapters; None where nothing was trained.
        draw: Of the shots; None without a search.
        replies: Keys of files of replies; none where only categories were asked for.
        grades: Those of their grades.
        rows: Of the items, in the order of ``categories``, the file of replies that each is in; None: all in the first.
        categories: The key of what a first pass called the items; None without one.
    """

    system: str
    task: str
    seed: int | None = None
    draw: int | None = None
    replies: tuple[str, ...] = ()
    grades: tuple[str, ...] = ()
    rows: tuple[int, ...] | None = None
    categories: str | None = None

    @property
    def place(self) -> Place:
        """What no other cell of the index has."""
        return self.system, self.task, self.seed, self.draw


def index_file() -> Path:
    """Where the index lies."""
    return paths.predictions() / "cells.json"


def replies_file(key: str) -> Path:
    """Where replies lie."""
    return paths.predictions() / "replies" / f"{key}.jsonl"


def grades_file(key: str) -> Path:
    """Where grades lie."""
    return paths.predictions() / "grades" / f"{key}.json"


def flexible_file(key: str) -> Path:
    """Where grades by the flexible reading lie."""
    return paths.predictions() / "flexible" / f"{key}.json"


def categories_file(key: str) -> Path:
    """Where the answers of a first pass lie."""
    return paths.predictions() / "categories" / f"{key}.json"


def logliks_file(key: str) -> Path:
    """Where the log-likelihoods of a first pass lie."""
    return paths.predictions() / "logliks" / f"{key}.json"


def timings_file(cell: Cell) -> Path:
    """Where the seconds of both passes over a cell's items lie: apart, since only the report may depend on them."""
    return paths.timings() / f"{_name(cell)}.json"


def adopted_file(cell: Cell) -> Path:
    """Where it stands that a cell was made by earlier code, and which; see :mod:`t2.adopting`."""
    return paths.timings() / f"adopted-{_name(cell)}.json"


def isolation_file(grades: str) -> Path:
    """Where the walls stand behind which programs were graded: apart too, or other walls would be other grades."""
    return paths.timings() / f"isolation-{grades}.json"


def beside(cell: Cell) -> list[Path]:
    """What is known of a cell that no score may depend on: its seconds, whose code made it, its grades' walls."""
    return [timings_file(cell), adopted_file(cell), *map(isolation_file, cell.grades)]


def write_replies(key: str, replies: Iterable[Reply]) -> None:
    """Writes a file of replies as a whole."""
    text = "".join(json.dumps(asdict(reply), ensure_ascii=False) + "\n" for reply in replies)
    replace_file(replies_file(key), text)


def read_replies(key: str) -> list[Reply]:
    """Reads a file of replies.

    Raises:
        ValueError: A line is no reply; the message holds its number.
    """
    found: list[Reply] = []
    path = replies_file(key)
    # Not splitlines(): a reply may hold other line separators.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            found += [Reply(**json.loads(line))] if line else []
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: no reply ({error}); delete the file, and `dvc repro measure` makes it again"
            ) from None
    return found


def write_values(path: Path, values: Any) -> None:
    """Writes grades, categories or seconds as a whole."""
    replace_file(path, json.dumps(values, ensure_ascii=False) + "\n")


def read_values(path: Path) -> Any:
    """Reads what :func:`write_values` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_index(cells: Sequence[Cell]) -> None:
    """Writes the index, and drops every file that no cell names."""
    rows = ",\n".join(json.dumps(asdict(cell)) for cell in cells)
    replace_file(index_file(), f"[\n{rows}\n]\n")
    _drop_others(paths.predictions(), {index_file()}.union(*map(files, cells)))
    paths.timings().mkdir(parents=True, exist_ok=True)  # an out, also where no system has two passes
    _drop_others(paths.timings(), {file for cell in cells for file in beside(cell)})


def read_index() -> list[Cell]:
    """The cells that were measured, in the order of the systems and tasks."""
    return [Cell(**{**row, **_tuples(row)}) for row in json.loads(index_file().read_text())]


def take(places: Collection[Place]) -> list[Cell]:
    """Brings cells of the main run, by name, to where those of an experiment folder lie.

    Raises:
        ValueError: The main run has not measured them.
    """
    with paths.within(Path(), frozenset()):
        there = {cell.place: (cell, [*files(cell), *beside(cell)]) for cell in read_index()} if places else {}
    if missing := [place for place in places if place not in there]:
        system, task, *_ = missing[0]
        raise ValueError(
            f"the main run has not measured {system} on {task} ({len(missing)} such cells); `dvc repro measure` does, "
            f"or give the folder a system of its own in place of `{system}: {{from: main}}`"
        )
    for cell, named in (there[place] for place in places):
        for file, own in zip(named, [*files(cell), *beside(cell)], strict=True):
            if file.exists():
                replace_file(own, file.read_bytes())
    return [there[place][0] for place in places]


def files(cell: Cell) -> list[Path]:
    """What a cell names: the first pass, replies, grades; log-likelihoods need not be there."""
    first = cell.categories
    of_categories = [] if first is None else [logliks_file(first), categories_file(first)]
    of_grades = [file(key) for key in cell.grades for file in (flexible_file, grades_file)]
    return [*of_categories, *map(replies_file, cell.replies), *of_grades]


def answers(cell: Cell) -> list[Answered]:
    """What became of each item of a cell, from the files that it is in."""
    named: dict[str, str | None] = {}
    logliks: dict[str, list[float]] = {}
    if cell.categories is not None:
        named = read_values(categories_file(cell.categories))
        path = logliks_file(cell.categories)
        logliks = read_values(path) if path.exists() else {}
    if not cell.replies:
        return [Answered(id, None, None, None, called, logliks.get(id)) for id, called in named.items()]
    graded = []
    for key, of_grades in zip(cell.replies, cell.grades, strict=True):
        right, flexible = read_values(grades_file(of_grades)), read_values(flexible_file(of_grades))
        graded.append({row[0].id: row for row in zip(read_replies(key), right, flexible, strict=True)})
    ids = list(named) or list(graded[0])
    rows = zip(ids, cell.rows or (0,) * len(ids), strict=True)
    return [Answered(id, *graded[row][id], named.get(id), logliks.get(id)) for id, row in rows]


def _name(cell: Cell) -> str:
    return digest([cell.categories, cell.replies])[:32]


def _drop_others(folder: Path, named: set[Path]) -> None:
    """Deletes all files of a folder but those that are named, leftovers of a kill among them."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in named:
            path.unlink()


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(row[name]) for name in ("replies", "grades", "rows") if row[name] is not None}
