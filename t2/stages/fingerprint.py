"""What a stage's result depends on, as DVC sees it: its command, its dependencies, its parameters."""

from __future__ import annotations

import hashlib
import json


def fingerprint(stage: str) -> str:
    """Digests the declared inputs of a DVC stage of the project in the working directory, as they are now.

    Args:
        stage: The stage's name, for example ``expert@math``.

    Returns:
        64 hex digits; equal exactly where DVC would call the stage unchanged.

    Raises:
        ValueError: ``dvc.yaml`` has no such stage.
    """
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound

    with Repo() as repo:
        try:
            (declared,) = repo.stage.collect(stage)
        except (StageNotFound, StageFileDoesNotExistError, DvcException) as error:
            raise ValueError(f"no stage {stage!r} in dvc.yaml; `dvc stage list` names them ({error})") from None
        inputs: dict[str, object] = {"cmd": declared.cmd}
        for dependency in declared.deps:
            if isinstance(dependency, ParamsDependency):
                inputs[f"params {dependency.def_path}"] = dependency.read_params()
            else:
                inputs[str(dependency.def_path)] = dependency.get_hash().value
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
