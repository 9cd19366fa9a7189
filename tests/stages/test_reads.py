"""``dvc.yaml`` names the data and the parameters that each stage really reads, recorded while the pipeline runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from small_pipeline import copy_project, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not on the PATH; run `make test`"),
]
MACHINE = "execution"
"""Where the work runs: no result depends on it."""
STANDS_FOR = {
    # The digest of each of a base's files; so also for how its tokenizer encodes, which a training's checkpoint holds.
    "data/basis/main": ["data/miniature/base"],
    "data/basis": ["data/miniature/base"],
    # Beside each member, the task that it was trained on.
    "data/sets/published": ["adapters.svf-reasoning.task"],
}
"""What is read, and what a stage depends on in its place."""
UNREAD = {
    "split": {"data/sources"},  # benchmark files: none of these tasks has any
    "train@lora-reasoning": {"data/basis/main", "engine"},  # the one for the base's files; the other for SVF alone
    "measure": {"adapters"},  # their names only: what they became is in their folders
    "report": {"tasks"},  # their sizes, where a prompt was too long
}
"""Declared, and not read by the small pipeline."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project that has run, and the folder of what its stages have read."""
    folder, reads = copy_project(tmp_path_factory.mktemp("project")), tmp_path_factory.mktemp("reads")
    shutil.copy(Path(__file__).with_name("recorder.py"), folder / "sitecustomize.py")
    run(folder, "dvc", "repro", "-q", T2_RECORD=str(reads))
    return folder, reads


def test_each_stage_declares_what_it_reads(recorded: tuple[Path, Path]) -> None:
    folder, reads = recorded
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    undeclared, unread = {}, {}
    for name, stage in stages.items():
        lines = [line.split(" ", 1) for line in (reads / name).read_text().splitlines()]
        opened = {what for kind, what in lines if kind == "open" and is_data(folder, what)}
        values = {what for kind, what in lines if kind == "read" and not within(what, [MACHINE], ".")}
        deps = [entry["path"] for entry in stage["deps"] if not entry["path"].startswith("t2/")]
        outs = [entry["path"] for entry in stage["outs"]]
        params = list(stage.get("params", {}).get("params.yaml", {}))
        given = [what for path in deps for what in STANDS_FOR.get(path, ())]
        missed = {path for path in opened if not within(path, [*deps, *outs, *given], "/")}
        missed |= {value for value in values if not within(value, [*params, *given], ".")}
        idle = {path for path in deps if not any(within(each, [path], "/") for each in opened)}
        idle |= {value for value in params if not any(within(each, [value], ".") for each in values)}
        undeclared |= {name: missed} if missed else {}
        unread |= {name: idle} if idle else {}
        print(
            f"{name}: reads {len(opened)} files, {len(values)} parameters; not read: {', '.join(sorted(idle)) or '-'}"
        )
    assert undeclared == {}
    assert unread == UNREAD


def is_data(folder: Path, path: str) -> bool:
    """Whether a file belongs to the experiment's data: not code, nor what DVC, git and scratch keep."""
    return path.startswith(("data/", "reports/")) and (folder / path).is_file()


def within(name: str, declared: Iterable[str], separator: str) -> bool:
    return any(name == each or name.startswith(f"{each}{separator}") for each in declared)
