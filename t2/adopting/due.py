"""What may be adopted: stages that run a model, and differ from their last run in code alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    with _stages(Path()) as stages:
        for name in [name for name, stage in stages.items() if name in known and (stage.meta or {}).get("gpu")]:
            then, now = known[name], inputs_of(stages[name])
            if then == now:
                continue
            others = [what for what in _differing(then, now) if not _is_code(what)]
            if outs:
                others += [f"{path} ({what})" for out in stages[name].outs for path, what in out.status().items()]
            refused += [f"  - {name}: {', '.join(others)}"] if others else []
            found[name] = code_in(then)
    if refused:
        raise ValueError(
            "more than code differs from what these stages ran on:\n" + "\n".join(refused) + "\ntake that back, adopt, "
            "and make the edit again; or run them (`dvc repro -s STAGE`)"
        )
    return found


def code_of(root: Path) -> dict[str, Code]:
    """The hashes of the code that each stage of a checkout depends on."""
    with _stages(root) as stages:
        return {name: code_in(inputs_of(stage)) for name, stage in stages.items()}


def code_in(inputs: Mapping[str, Any]) -> Code:
    """Those of a stage's inputs that are code."""
    return {path: value for path, value in inputs.items() if _is_code(path)}


def _is_code(what: str) -> bool:
    return what.startswith("t2/")


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The inputs that differ, parameters by their names."""
    for what in dict.fromkeys([*then, *now]):
        left, right = then.get(what), now.get(what)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from (f"{what.removeprefix('params ')}: {name}" for name, *_ in differences(left, right))
        elif left != right:
            yield what


@contextmanager
def _stages(root: Path) -> Iterator[dict[str, Any]]:
    """DVC's stages of the main run's pipeline, by name."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        yield {stage.name: stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"}
