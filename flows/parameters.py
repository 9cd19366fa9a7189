"""Overrides of ``params.yaml`` in DVC's own syntax, checked before anything starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from t2 import config

PARAMS = Path("params.yaml")


class OverrideError(ValueError):
    """An override that DVC cannot read, or that makes the parameters invalid."""


def names(section: str) -> list[str]:
    """The rows of a section of ``params.yaml``, for the choices of a form."""
    return list(yaml.safe_load(PARAMS.read_text())[section])


def apply(overrides: Sequence[str]) -> config.Params:
    """Writes overrides into ``params.yaml``, as ``dvc exp run -S`` does, and returns the valid parameters.

    They stay there afterwards, beside the results that they led to.

    Args:
        overrides: For example ``recipes.svf.train.lr=1e-2``.

    Raises:
        OverrideError: DVC cannot read an override, or a name is unknown; ``params.yaml`` is as it was.
        ConfigError: The parameters would not be valid, all problems at once; ``params.yaml`` is as it was.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    if not overrides:
        return config.load(PARAMS)
    candidate = PARAMS.with_name(f".{PARAMS.stem}.candidate{PARAMS.suffix}")
    shutil.copy(PARAMS, candidate)
    try:
        try:
            apply_overrides(candidate, list(overrides))
        except DvcException as error:
            reason = error.__cause__ or error
            raise OverrideError(
                f"cannot apply {', '.join(overrides)}: {reason}; write name=value with a name that stands in "
                f"{PARAMS}, for example recipes.svf.train.lr=1e-2"
            ) from error
        try:
            params = config.load(candidate)
        except config.ConfigError as error:
            raise config.ConfigError(f"{PARAMS} with {', '.join(overrides)}", error.problems) from None
        os.replace(candidate, PARAMS)
    finally:
        candidate.unlink(missing_ok=True)
    return params
