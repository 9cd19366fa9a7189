"""Cells under the names that present code gives them, and results that say whose code made them.

What is to be written is prepared as a whole beside the results; a kill while it is put in place leaves it there, and
the same command goes on with it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2.adopting.proof import of_main
from t2.config.rows import Params
from t2.files import replace_file
from t2.sandbox import Sandbox
from t2.stages import cells, paths
from t2.stages.cells import Cell, Place
from t2.stages.measure import Plan, Worker, make_cells

PREPARED = Path(".t2/adopting")
_READY = PREPARED / "ready.json"


def prepare(params: Params, plans: Sequence[Plan], record: Mapping[str, Any]) -> None:
    """Prepares the cells under new names; without plans, their names stay.

    Args:
        params: The parameters.
        plans: All cells, with the present code.
        record: ``stages`` that are adopted, the commit whose code ``made`` them, and the one ``at`` which they are.

    Raises:
        ValueError: A cell would not be the same.
    """
    shutil.rmtree(PREPARED / "data", ignore_errors=True)  # of a preparation that was killed
    if plans:
        there = {cell.place: cell for cell in cells.read_index()}
        answers = {place: cells.answers(cell) for place, cell in there.items()}
        worker = _Renaming(params, there, record)
        with paths.within(PREPARED, of_main(params)):
            found = {cell.place: cell for cell in make_cells(worker, plans, lambda _: None)}
            for place, cell in found.items():
                if cells.answers(cell) != answers[place]:
                    raise ValueError(f"the cell {place} would be another under its new name; `dvc repro -s measure`")
            cells.write_index([found[each.place] for each in plans])
    replace_file(_READY, json.dumps(record))


def prepared() -> dict[str, Any] | None:
    """The record of what was prepared and is not wholly in place."""
    return json.loads(_READY.read_text()) if _READY.exists() else None


def put_in_place(params: Params, record: Mapping[str, Any], stages: Sequence[str]) -> None:
    """Writes what was prepared for some stages, their notes and ``dvc.lock``; may be killed and called again.

    Raises:
        ValueError: DVC could not; the message is its own.
    """
    data = PREPARED / "data"
    if "measure" in stages:
        with paths.within(PREPARED, of_main(params)):
            index = cells.read_index()
            made = [file for cell in index for file in (*cells.files(cell), *cells.beside(cell)) if file.exists()]
        for file in made:
            own = paths.data() / file.relative_to(data)
            if not own.exists():  # its name is that of what it holds
                replace_file(own, file.read_bytes())
        cells.write_index(index)
    for stage in stages:
        run = json.loads(paths.run(stage).read_text())
        run["adopted"] = _note(record, run.get("adopted"))
        replace_file(paths.run(stage), json.dumps(run, indent=1, sort_keys=True) + "\n")
    command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", *stages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"dvc commit: {done.stderr.strip()}; then run `t2 adopt` again, which goes on from here")


class _Renaming(Worker):
    """Makes nothing, but gives what is there the names that present code gives it."""

    def __init__(self, params: Params, there: Mapping[Place, Cell], record: Mapping[str, Any]) -> None:
        super().__init__(params)
        self._there = {place: (cells.files(cell), cells.beside(cell)) for place, cell in there.items()}
        self._record = record
        self._old: list[Path] = []

    def cell(self, each: Plan, sandbox: Sandbox) -> Cell:
        """Copies a cell to its new name."""
        files, beside = self._there[each.place]
        self._old = list(files)
        new = super().cell(replace(each, timed=False), sandbox)
        for old, own in zip(beside, cells.beside(new), strict=True):
            _copy(old, own)
        note = cells.adopted_file(new)
        cells.write_values(note, _note(self._record, cells.read_values(note) if note.exists() else None))
        return new

    def keep(self, path: Path, make: Callable[[], None]) -> None:
        """Copies the file that stands in the old cell where this one does, and the one that stands with it."""
        key = path.stem
        with_it = {
            cells.categories_file(key): cells.logliks_file(key),
            cells.grades_file(key): cells.flexible_file(key),
        }
        if path in with_it:
            _copy(self._old.pop(0), with_it[path])
        _copy(self._old.pop(0), path)


def _copy(old: Path, new: Path) -> None:
    if old.exists() and not new.exists():
        replace_file(new, old.read_bytes())


def _note(record: Mapping[str, Any], before: Mapping[str, str] | None) -> dict[str, str]:
    """Of what was adopted before, the code that made it is still that of then."""
    return {"made": before["made"] if before else record["made"], "at": record["at"]}
