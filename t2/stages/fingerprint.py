"""What a stage's result depends on, as DVC sees it: its command, its dependencies, its parameters."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any


def fingerprint(stage: str) -> str:
    """Digests the declared inputs of a DVC stage of the project in the working directory, as they are now.

    Args:
        stage: The stage as DVC addresses it, ``train@svf-math`` or ``reports/x/dvc.yaml:train@svf-math``.

    Returns:
        64 hex digits; equal exactly where DVC would call the stage unchanged.

    Raises:
        ValueError: ``dvc.yaml`` has no such stage.
    """
    return digest(declared(stage))


def declared(stage: str) -> dict[str, Any]:
    """The declared inputs of a stage as they are now: its command, the hash of each dependency, its parameters.

    Paths are relative to the project's root.

    Raises:
        ValueError: ``dvc.yaml`` has no such stage.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound

    with Repo() as repo:
        try:
            (found,) = repo.stage.collect(stage)
        except (StageNotFound, StageFileDoesNotExistError, DvcException) as error:
            raise ValueError(f"no stage {stage!r} in dvc.yaml; `dvc stage list` names them ({error})") from None
        return inputs_of(found)


def inputs_of(stage: Any) -> dict[str, Any]:
    """What :func:`declared` gives, of a stage as DVC's ``Repo`` has it; what is not there has the hash None."""
    from dvc.dependency.param import ParamsDependency

    inputs: dict[str, Any] = {"cmd": stage.cmd}
    for dependency in stage.deps:
        path = os.path.relpath(dependency.fs_path, stage.repo.root_dir)
        if isinstance(dependency, ParamsDependency):
            inputs[f"params {path}"] = dependency.read_params()
        else:
            inputs[path] = dependency.get_hash().value if dependency.exists else None
    return inputs


def digest(values: Any) -> str:
    """The SHA-256, in hex, of plain values; equal ones give equal digests."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
