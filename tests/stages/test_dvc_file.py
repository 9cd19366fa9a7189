"""``dvc.yaml`` names what each stage imports and reads, no more and no less."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from t2.tasks.grading import GRADERS

ROOT = Path(__file__).parents[2]
STAGES = {
    name: declared.get("do", declared)
    for name, declared in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
# What surrounds every stage: it moves files, locks and logs, and no result depends on it.
AROUND = {
    f"t2/stages/{name}.py" for name in ("stage", "scratch", "fingerprint", "guard", "workers", "progress", "paths")
}
AROUND |= {"t2/__init__.py", "t2/files.py", "t2/tracking.py", "t2/stages/__init__.py"}
# The values are dependencies, the code that checks them is none: it changes nothing that it reads.
AROUND |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "t2" / "config").glob("*.py")}
CODE = (".py", ".css", ".jinja")
SANDBOX = "t2/sandbox/client.py"
"""Starts the programs beside it."""


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
        if isinstance(node, ast.Constant) and str(node.value).endswith(CODE):
            sibling = (ROOT / path).parent / str(node.value)  # a program that it starts, a style sheet, a template
            found |= {sibling.relative_to(ROOT).as_posix()} if sibling.is_file() else set()
    if path == SANDBOX:
        found |= {file.relative_to(ROOT).as_posix() for file in (ROOT / path).parent.glob("*.py")}
    return frozenset(found)


def closure(path: str) -> set[str]:
    found: set[str] = set()
    waiting = {path}
    while waiting:
        module = waiting.pop()
        found.add(module)
        if module.endswith(".py") and (module not in AROUND or module == path):
            waiting |= imported(module) - found
    return found


def files(dependency: str) -> set[str]:
    """The modules, style sheets and templates that a dependency on code stands for."""
    path = ROOT / dependency
    listed = [path] if path.is_file() else [found for found in path.rglob("*") if found.suffix in CODE]
    return {found.relative_to(ROOT).as_posix() for found in listed}


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_depends_on_is_what_it_imports(stage: str) -> None:
    code = [dependency for dependency in STAGES[stage]["deps"] if dependency.startswith("t2/")]
    declared = set().union(*map(files, code))
    assert declared == closure(f"t2/stages/{stage}.py") - AROUND


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_an_output_that_git_does_not_hold(stage: str) -> None:
    """Otherwise a clean clone would show the report instead of making it."""
    listed = STAGES[stage]["outs"]
    outs = [next(iter(out)) if isinstance(out, dict) and "persist" in str(out) else out for out in listed]
    assert any(isinstance(out, str) and out.startswith("data/") and "runs" not in out for out in outs)


@pytest.mark.parametrize("folder", ["data/runs", "data/timings"])
def test_only_the_report_reads_run_ids_and_seconds(folder: str) -> None:
    assert [name for name, stage in STAGES.items() if folder in stage["deps"]] == ["report"]


def test_graders_are_dependencies_that_measure_knows() -> None:
    """Else a changed grader would count as code of the replies."""
    declared = set(STAGES["measure"]["deps"])
    assert {path for of_kind in GRADERS.values() for path in of_kind} <= declared
