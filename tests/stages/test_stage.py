"""What surrounds every stage, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

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
