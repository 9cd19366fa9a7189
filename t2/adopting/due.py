"""What may be adopted: stages that run a model, and differ from their last run in code alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2.profiles import differences
from t2.stages import scratch
from t2.stages.fingerprint import inputs_of

Code = Mapping[str, str | None]
"""The hash of each dependency on code, by its path from the root."""


def due_by_code(*, outs: bool = True) -> dict[str, Code]:
    """The code that each stage ran on, of those stages whose code is another now.

    Stages that run no model are none of them: they take seconds, and running them shows more.

    Args:
        outs: Whether what the stages have made must be as it was.

    Raises:
        ValueError: More than code differs from what such a stage ran on: all of it, by stage, and what to do.
    """
    known, found, refused = scratch.recorded(), {}, []
    for name, stage in _stages(Path()).items():
        if name not in known or not (stage.meta or {}).get("gpu"):
            continue
        then, now = known[name], inputs_of(stage)
        if then == now:
            continue
        others = [where for where, *_ in _flat(then, now) if not where.startswith("t2/")]
        if outs:
            others += [f"{path} ({what})" for out in stage.outs for path, what in out.status().items()]
        if others:
            refused.append(f"  - {name}: {', '.join(others)}; `dvc repro -s {name}`")
        found[name] = code_in(then)
    if refused:
        raise ValueError(
            "not only code differs from what these stages ran on, so that they have to run, or take the edit back "
            "and adopt first:\n" + "\n".join(refused)
        )
    return found


def code_of(root: Path) -> dict[str, Code]:
    """The hashes of the code that each stage of a checkout depends on."""
    return {
        name: code_in({key: value for key, value in inputs_of(stage).items()}) for name, stage in _stages(root).items()
    }


def code_in(inputs: Mapping[str, Any]) -> Code:
    """Those of a stage's inputs that are code."""
    return {path: value for path, value in inputs.items() if path.startswith("t2/")}


def _flat(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What differs; of parameters, their dotted names. A path has dots too, so that it is no mapping's key here."""
    found = []
    for what in dict.fromkeys([*then, *now]):
        left, right = then.get(what), now.get(what)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += [(f"{what.removeprefix('params ')} {where}", *values) for where, *values in differences(left, right)]
        elif left != right:
            found.append((what, left, right))
    return found


def _stages(root: Path) -> dict[str, Any]:
    """DVC's stages of the main run's pipeline, by name."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return {stage.name: stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"}
