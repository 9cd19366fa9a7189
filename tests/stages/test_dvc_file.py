"""``dvc.yaml`` names what each stage imports and reads, no more and no less."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = {
    name: declared.get("do", declared)
    for name, declared in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
# What surrounds every stage: it moves files, locks and logs, and no result depends on it.
AROUND = {f"t2/stages/{name}.py" for name in ("stage", "fingerprint", "guard", "workers", "progress", "paths")}
AROUND |= {"t2/__init__.py", "t2/files.py", "t2/tracking.py", "t2/stages/__init__.py"}


@cache
def imported(path: str) -> frozenset[str]:
    """The project's modules that a module imports, itself and indirect ones included."""
    found = {path}
    tree = ast.parse((ROOT / path).read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("t2"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("t2")]
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                stem = ROOT.joinpath(*parts[:end])
                for file in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if file.is_file() and (relative := file.relative_to(ROOT).as_posix()) not in found:
                        found |= {relative}
    return frozenset(found)


def closure(path: str) -> set[str]:
    found: set[str] = set()
    waiting = {path}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= imported(module) - found
    return found


def covers(dependency: str, module: str) -> bool:
    return module == dependency or module.startswith(dependency + "/")


@pytest.mark.parametrize("stage", STAGES)
def test_every_imported_module_is_a_dependency(stage: str) -> None:
    declared = STAGES[stage]["deps"]
    used = closure(f"t2/stages/{stage}.py") - AROUND
    missing = {module for module in used if not any(covers(dependency, module) for dependency in declared)}
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_is_idle(stage: str) -> None:
    used = closure(f"t2/stages/{stage}.py")
    code = [dependency for dependency in STAGES[stage]["deps"] if dependency.startswith("t2/")]
    assert not [dependency for dependency in code if not any(covers(dependency, module) for module in used)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_an_output_that_git_does_not_hold(stage: str) -> None:
    """Otherwise a clean clone would show the report instead of making it."""
    assert any(isinstance(out, str) and out.startswith("data/") and "runs" not in out for out in STAGES[stage]["outs"])


def test_only_the_report_reads_run_ids_and_seconds() -> None:
    assert [name for name, stage in STAGES.items() if "data/runs" in stage["deps"]] == ["report"]
