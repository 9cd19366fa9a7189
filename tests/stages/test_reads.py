"""``dvc.yaml`` names the data and the parameters that each stage really reads, recorded while the pipeline runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from small_pipeline import copy_project, run
from test_folder import HERE, ROWS, STAGES, smaller

from t2 import config

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
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("project"))
    shutil.copy(Path(__file__).with_name("recorder.py"), folder / "sitecustomize.py")
    return folder


def test_each_stage_declares_what_it_reads(project: Path, tmp_path: Path) -> None:
    run(project, "dvc", "repro", "-q", T2_RECORD=str(tmp_path))
    undeclared, unread = compare(project, Path(), tmp_path)
    assert undeclared == {}
    assert unread == UNREAD


def test_each_stage_of_the_documented_folder_declares_what_it_reads(project: Path, tmp_path: Path) -> None:
    run(project, "dvc", "repro", "-q")  # if that has not been yet
    (project / HERE).mkdir(parents=True)
    (project / HERE / "params.yaml").write_text(smaller(ROWS))
    (project / HERE / "dvc.yaml").write_text(STAGES)
    run(project, "dvc", "repro", "-q", "-s", f"{HERE}/dvc.yaml", T2_RECORD=str(tmp_path))
    taken = config.load(project / HERE / "params.yaml", main=project / "params.yaml").taken
    undeclared, unread = compare(project, HERE, tmp_path, taken)
    assert undeclared == {}
    # None of its systems has two passes.
    assert unread == {"measure": {"adapters", "data/timings"}, "report": {f"{HERE}/data/timings"}}


Names = dict[str, set[str]]


def compare(project: Path, folder: Path, reads: Path, taken: Iterable[str] = ()) -> tuple[Names, Names]:
    """What the stages of a ``dvc.yaml`` read and do not declare, and the other way round, by stage.

    Args:
        project: The root.
        folder: Where that file lies, from there.
        reads: What the recorder has written.
        taken: The parameters that are those of the main run's file.
    """
    stages = yaml.safe_load((project / folder / "dvc.lock").read_text())["stages"]
    undeclared, unread = {}, {}
    for name, stage in stages.items():
        (log,) = (path for path in reads.iterdir() if path.name.rpartition(":")[2] == name)
        lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
        opened = {what for kind, what in lines if kind == "open" and is_data(project, what)}
        values = {what for kind, what in lines if kind == "read" and not within(what, [MACHINE], ".")}
        deps, outs = (
            [os.path.normpath(folder / entry["path"]) for entry in stage[kind] if "t2/" not in entry["path"]]
            for kind in ("deps", "outs")
        )
        by_file = {file: list(values) for file, values in stage.get("params", {}).items()}
        own, of_main = by_file.pop("params.yaml", []), [each for others in by_file.values() for each in others]
        params = [*own, *of_main]
        given = [what for path in deps for what in STANDS_FOR.get(path, ())]
        missed = {path for path in opened if not within(path, [*deps, *outs, *given], "/")}
        missed |= {
            value
            for value in values
            if not within(value, [*(of_main if within(value, taken, ".") else own), *given], ".")
        }
        idle = {path for path in deps if not any(within(each, [path], "/") for each in opened)}
        idle |= {value for value in params if not any(within(each, [value], ".") for each in values)}
        undeclared |= {name: missed} if missed else {}
        unread |= {name: idle} if idle else {}
        print(
            f"{name}: reads {len(opened)} files, {len(values)} parameters; not read: {', '.join(sorted(idle)) or '-'}"
        )
    return undeclared, unread


def is_data(folder: Path, path: str) -> bool:
    """Whether a file belongs to the experiment's data: not code, nor what DVC, git and scratch keep."""
    return path.startswith(("data/", "reports/")) and (folder / path).is_file()


def within(name: str, declared: Iterable[str], separator: str) -> bool:
    return any(name == each or name.startswith(f"{each}{separator}") for each in declared)
