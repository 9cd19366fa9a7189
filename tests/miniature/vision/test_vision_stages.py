"""The stages of the miniature name the modules that they run on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from t2.stages.pretrain_vision import BENCHMARKS, FOLDER, TEXT

MODULES = {path.as_posix() for path in Path("t2/miniature").rglob("*.py")}
TENSORS = {f"t2/miniature/{name}.py" for name in ("pretraining", "tokenizer", "vision/model", "vision/tower")}
CORPUS = {"t2/miniature/vision/corpus.py"}
MAKING = {"t2/miniature/vision/benchmarks.py"}
SEEING = {module for module in MODULES if "/vision/" in module}


def stage(folder, name):
    declared = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"][name]
    return declared.get("do", declared)


@pytest.mark.parametrize(
    ("folder", "name", "without"),
    [
        (TEXT, "pretrain", SEEING),
        (TEXT, "prompts", SEEING | TENSORS),
        (FOLDER, "pretrain", MAKING),
        (FOLDER, "prompts", MAKING | TENSORS),
        (FOLDER / "derived", "benchmarks", CORPUS | TENSORS),
    ],
)
def test_a_stage_depends_on_the_modules_that_decide_what_it_makes(folder, name, without):
    deps = stage(folder, name)["deps"]
    assert {dep for dep in deps if dep.startswith("t2/miniature")} == MODULES - without
    assert all(Path(dep).exists() for dep in deps if dep.startswith("t2/"))


def test_only_what_git_does_not_hold_is_an_out():
    outs = stage(FOLDER / "derived", "benchmarks")["outs"] + stage(FOLDER / "derived", "language")["outs"]
    ignored = (FOLDER / ".gitignore").read_text().split()
    names = [Path(out.replace("${item}", base)).name for out in outs for base in ("base", "control")]
    assert BENCHMARKS.name in names and {f"/{name}" for name in names} == set(ignored)
    assert not any("outs" in stage(folder, name) for folder in (TEXT, FOLDER) for name in ("pretrain", "prompts"))
