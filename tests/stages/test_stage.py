"""What surrounds every stage, in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from small_pipeline import copy_project, run

SCRIPT = """
import sys
from pathlib import Path
from t2.stages.stage import open_stage

with open_stage("split") as stage:
    if "harm" in sys.argv:
        Path("mlflow.db").unlink()
    stage.run.log_metrics({"reward": 1.0})
print((stage.scratch / "done").exists(), stage.run.whole)
"""


def test_a_stage_whose_run_is_not_whole_keeps_its_scratch_for_the_next_time(tmp_path: Path) -> None:
    copy_project(tmp_path)
    harmed = run(tmp_path, sys.executable, "-c", SCRIPT, "harm")
    assert harmed.stdout.split() == ["False", "False"]
    assert "`dvc repro -s -f split` logs the rest" in harmed.stderr
    assert (tmp_path / "data/runs/split.json").exists(), "the stage's result"
    assert run(tmp_path, sys.executable, "-c", SCRIPT).stdout.split() == ["True", "True"]


GRADING = """
import sys
from t2.stages.stage import open_stage
from t2.stages.workers import run_jobs

with open_stage("split") as stage:
    jobs = {walls: lambda report, walls=walls: stage.note_isolation(walls) for walls in sys.argv[2:]}
    run_jobs(jobs, at_once=2, on_report=lambda job, row: None)
    if "killed" in sys.argv[1]:
        raise SystemExit(3)
"""


def test_the_run_file_names_the_walls_behind_which_programs_were_graded(tmp_path: Path) -> None:
    """Also those of the life in which a stage was killed, whose work goes on."""
    copy_project(tmp_path)
    run(tmp_path, sys.executable, "-c", GRADING, "whole")
    assert json.loads((tmp_path / "data/runs/split.json").read_text())["isolation"] == []
    with pytest.raises(AssertionError):
        run(tmp_path, sys.executable, "-c", GRADING, "killed", "landlock")
    run(tmp_path, sys.executable, "-c", GRADING, "whole", "namespaces", "namespaces")
    assert json.loads((tmp_path / "data/runs/split.json").read_text())["isolation"] == ["landlock", "namespaces"]
