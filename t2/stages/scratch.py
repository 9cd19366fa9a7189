"""Scratch folders: work in progress, outside of DVC's outs, which DVC deletes before a stage starts.

A finished stage leaves its folder: if it is killed before DVC has recorded its outs, it would begin anew without. Once
``dvc.lock`` holds what the stage ran on, the folder is of no more use.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from t2.files import replace_file
from t2.stages.fingerprint import digest

_DONE, _NAME = "done", "work"


def folder(root: Path, stage: str, fingerprint: str) -> Path:
    """Where a stage works; other inputs have another folder.

    Args:
        root: The main checkout.
        stage: As DVC addresses it, see :func:`t2.stages.fingerprint.fingerprint`.
        fingerprint: Of its inputs.
    """
    return root / ".t2" / "scratch" / _name(stage) / fingerprint[:16]


def name_of(scratch: Path) -> str:
    """A name for the work in a folder, no other has it; it is as old as the work."""
    note = scratch / _NAME
    if not note.exists():
        replace_file(note, uuid4().hex)
    return note.read_text()


def finish(scratch: Path) -> None:
    """Marks a folder as that of a stage which has written its outs."""
    (scratch / _DONE).touch()


def tidy(root: Path, stage: str, fingerprint: str) -> None:
    """Removes the folders of finished stages whose results DVC has recorded, and this stage's of other inputs.

    Of an experiment folder, those of the same folder's stages. Call it before the stage takes its folder: what is
    recorded and runs all the same is to run from the beginning.

    Args:
        root: The main checkout.
        stage: The stage that is about to start.
        fingerprint: Of its inputs.
    """
    finished = [done.parent for done in (root / ".t2" / "scratch").glob(f"*/*/{_DONE}")]
    known = recorded(stage.rpartition(":")[0] or "dvc.yaml") if finished else {}
    of_runs = {_name(name): digest(inputs)[:16] for name, inputs in known.items()}
    for found in finished:
        name, inputs = found.parts[-2:]
        elsewhere = name == _name(stage) and inputs != fingerprint[:16]
        if elsewhere or of_runs.get(name) == inputs:
            shutil.rmtree(found)


def _name(stage: str) -> str:
    return stage.replace("/", "-")


def recorded(file: str = "dvc.yaml") -> dict[str, dict[str, Any]]:
    """What :func:`t2.stages.fingerprint.declared` gave when each stage ran, as the ``dvc.lock`` beside a file says."""
    lock = Path(file).with_name("dvc.lock")
    if not lock.is_file():
        return {}
    stages = (yaml.load(lock.read_bytes(), yaml.CSafeLoader) or {}).get("stages", {})
    folder, prefix = lock.parent, f"{file}:" if lock.parent.parts else ""
    return {f"{prefix}{name}": _inputs(entry, folder) for name, entry in stages.items()}


def _inputs(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    def from_root(path: str) -> str:
        return os.path.normpath(folder / path)

    hashes = {from_root(dependency["path"]): dependency.get("md5") for dependency in entry.get("deps", [])}
    params = {f"params {from_root(file)}": values for file, values in entry.get("params", {}).items()}
    return {"cmd": entry["cmd"], **hashes, **params}
