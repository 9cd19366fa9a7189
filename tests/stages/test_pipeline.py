"""The pipeline as a user runs it: skips, partial reruns, kills at any level, experiments, equal bytes.

Each test works in a copy of the project with the smallest parameters that still run every stage.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_pipeline import copy_project, run, surroundings

from t2 import profiles

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("T2_DATA", ROOT.parent / "shared" / "data"))
SLOW = pytest.mark.slow
pytestmark = pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not on the PATH; run `make test`")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose pipeline has run once; tests that change it copy it first."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    run(folder, "dvc", "repro", "-q")
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(finished, tmp_path / "own", symlinks=True))


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def mlflow_runs(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "mlflow.db") as store:
        return store.execute("select run_uuid, name from runs order by start_time").fetchall()


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_stage_leaves_one_run_under_one_parent(finished: Path) -> None:
    names = [name for _, name in mlflow_runs(finished)]
    stages = [name for name in names if not name.startswith("pipeline") and "/" not in name]
    declared = run(finished, "dvc", "stage", "list", "--name-only").stdout.split()
    assert sorted(stages) == sorted(declared)
    assert sum(name.startswith("pipeline") for name in names) == 1
    # No stage writes below what it depends on: the report reads all of these.
    assert {path.stem for path in (finished / "data" / "runs").iterdir()} == {
        name.replace("@", "-") for name in declared if name != "report"
    }
    nested = {"svf-reasoning/seed-0", "classifier/seed-0", "reasoning_hard/seed-0/draw-0", "miniature/svf-own"}
    assert nested <= set(names)
    # What a training has sampled, for whoever wonders why its reward stands still.
    pages = list(finished.glob("mlartifacts/**/rollouts/step-*.html"))
    assert pages and all(page.with_suffix(".json").exists() for page in pages)


def test_scores_have_the_promised_columns_and_no_trace_of_the_run(finished: Path) -> None:
    text = (finished / "reports" / "scores.csv").read_text()
    header, *rows = text.splitlines()
    assert header == "base,suite,task,family,method,strategy,variant,seed,draw,n,correct,score,ci_low,ci_high"
    strategies = {row.split(",")[5] for row in rows}
    assert strategies == {"none", "own", "prompt", "classifier", "soft", "fewshot", "uniform", "oracle"}
    assert not any(run_id in text for run_id, _ in mlflow_runs(finished))


def test_an_oracle_answers_with_the_member_that_is_right_most_often(finished: Path) -> None:
    predictions = finished / "data" / "predictions"
    (cell,) = (row for row in json.loads((predictions / "cells.json").read_text()) if row["system"] == "oracle")
    right = [sum(json.loads((predictions / "grades" / f"{key}.json").read_text())) for key in cell["grades"]]
    assert len(right) == 2 and set(cell["rows"]) == {right.index(max(right))}
    with (finished / "reports" / "scores.csv").open() as file:
        (scored,) = (row for row in csv.DictReader(file) if row["strategy"] == "oracle")
    assert int(scored["correct"]) == max(right)


def test_a_clone_that_has_run_nothing_answers_with_the_experts_that_ship(finished: Path, tmp_path: Path) -> None:
    for name in ("t2", "params.yaml", "data/miniature", "reports/published"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(finished / name)
    (tmp_path / "data" / "adapters").mkdir()
    (tmp_path / "data" / "adapters" / ".gitignore").touch()  # which git keeps
    asked = run(tmp_path, sys.executable, "-m", "t2", "ask", "What is 3+4?")
    assert "the experts of the committed run, from reports/published" in asked.stderr
    own = run(finished, sys.executable, "-m", "t2", "ask", "What is 3+4?")
    assert asked.stdout == own.stdout and "committed run" not in own.stderr
    listed = run(tmp_path, sys.executable, "-m", "t2", "expert", "list").stdout
    assert "svf-reasoning/seed-0" in listed and "classifier/seed-0" in listed
    run(tmp_path, sys.executable, "-m", "t2", "expert", "diff", "svf-reasoning", "classifier")
    expert = finished / "reports" / "published" / "data" / "adapters" / "svf-reasoning" / "seed-0"
    assert digest(expert) == digest(finished / "data" / "adapters" / "svf-reasoning" / "seed-0")


def test_a_second_run_skips_every_stage_and_makes_no_mlflow_run(finished: Path) -> None:
    before = mlflow_runs(finished)
    start = time.monotonic()
    output = run(finished, "dvc", "repro").stdout
    assert stages_run(output) == []
    assert time.monotonic() - start < 20
    assert mlflow_runs(finished) == before


@SLOW
def test_an_adapters_parameter_reruns_that_adapter_and_its_descendants_only(own: Path) -> None:
    edit(own, lambda params: params["recipes"]["svf"]["train"].update(lr=1.1e-2))
    ran = stages_run(run(own, "dvc", "repro").stdout)
    assert ran[0] == "train@svf-reasoning"
    assert not {"split", "basis@main", "train@classifier", "train@lora-reasoning"} & set(ran)


@SLOW
def test_two_runs_write_the_same_bytes_also_under_another_hash_seed(own: Path, tmp_path: Path) -> None:
    other = copy_project(tmp_path / "other")
    run(other, "dvc", "repro", "-q", PYTHONHASHSEED="123")
    for folder in ("splits", "basis", "adapters", "sets", "searches", "predictions", "scores"):
        assert digest(own / "data" / folder) == digest(other / "data" / folder), folder
    for table in ("scores.csv", "comparisons.csv", "confusions.csv", "dispatch.csv", "metrics.json"):
        assert (own / "reports" / table).read_bytes() == (other / "reports" / table).read_bytes()


@pytest.mark.parametrize("victim", [pytest.param("stage", marks=SLOW), "dvc", pytest.param("parent", marks=SLOW)])
def test_a_killed_expert_resumes_to_the_same_bytes_and_never_has_two_writers(own: Path, victim: str) -> None:
    expected = digest(own / "data" / "adapters" / "svf-reasoning")
    run_before = len(mlflow_runs(own))
    # The run cache would restore the result instead of computing it.
    shutil.rmtree(own / ".dvc" / "cache" / "runs", ignore_errors=True)
    shutil.rmtree(own / "data" / "adapters" / "svf-reasoning")
    command = ["dvc", "repro", "-s", "-f", "train@svf-reasoning"]
    starter = [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
    process = subprocess.Popen(
        starter if victim == "parent" else command,
        cwd=own,
        env=surroundings(own),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    scratch = own / ".t2" / "scratch" / "train@svf-reasoning"
    wait_for(lambda: any(scratch.glob("*/svf-reasoning/seed-0/checkpoint/*")))
    stage = stage_process(own)
    os.kill({"stage": stage, "dvc": process.pid, "parent": process.pid}[victim], signal.SIGKILL)
    process.wait()
    if victim == "parent":
        # DVC outlives its parent and finishes; a second one meanwhile is refused by DVC itself.
        wait_for(lambda: not alive(stage))
        wait_for(lambda: not working(own))
    else:
        wait_for(lambda: not working(own))
        assert any(scratch.glob("*/svf-reasoning/seed-0/checkpoint/*"))
    run(own, *command[:-1], command[-1])
    assert digest(own / "data" / "adapters" / "svf-reasoning") == expected
    if victim != "parent":
        # The resumed stage continues its MLflow run: a parent, a stage and a seed were added, not two of each.
        added = [name for _, name in mlflow_runs(own)][run_before:]
        assert sorted(name for name in added if not name.startswith("pipeline")) == [
            "svf-reasoning/seed-0",
            "train@svf-reasoning",
        ]


@SLOW
def test_a_queued_experiment_reaches_the_main_store(own: Path) -> None:
    before = {run_id for run_id, _ in mlflow_runs(own)}
    run(own, "dvc", "exp", "run", "--queue", "--name", "faster", "-S", "recipes.svf.train.lr=3e-2")
    run(own, "dvc", "exp", "run", "--run-all")
    added = [name for run_id, name in mlflow_runs(own) if run_id not in before]
    assert "experiment faster" in added
    assert "train@svf-reasoning" in added
    assert "split" not in added


@SLOW
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no benchmark files in {REAL}")
def test_the_real_profile_runs_from_split_to_report_and_sees_its_files_change(tmp_path: Path) -> None:
    params = yaml.safe_load(profiles.compose("real"))
    folder = copy_project(tmp_path / "real", params)
    shutil.copytree(REAL, folder / "data" / "sources", dirs_exist_ok=True)
    run(folder, "dvc", "repro", "-q")
    with open(folder / "reports" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    tasks = {name for name, task in params["tasks"].items() if task["role"] in ("trained", "unseen")}
    assert {(row["task"], row["n"]) for row in rows} == {(task, "24") for task in tasks}
    counts = json.loads((folder / "reports" / "metrics.json").read_text())["too_long"]
    assert counts.keys() == tasks
    index = json.loads((folder / "data" / "predictions" / "cells.json").read_text())
    (cell,) = (cell for cell in index if (cell["system"], cell["task"]) == ("base", "mbpp"))
    replies = (folder / "data" / "predictions" / "replies" / f"{cell['replies'][0]}.jsonl").read_text().splitlines()
    right = json.loads((folder / "data" / "predictions" / "grades" / f"{cell['grades'][0]}.json").read_text())
    too_long = [json.loads(line)["too_long"] for line in replies]
    assert counts["mbpp"] == sum(too_long)
    assert not any(good for good, long in zip(right, too_long, strict=True) if long)
    report = (folder / "reports" / "report.md").read_text()
    assert "too long for the context" in report
    assert all(f"{count} of 24 on {task}" in report for task, count in counts.items() if count)
    with open(folder / "data" / "sources" / "gsm8k" / "train.jsonl", "a") as file:
        file.write("\n")
    assert "split" in json.loads(run(folder, "dvc", "status", "--json").stdout)


def test_a_bad_parameter_is_refused_before_any_work(own: Path) -> None:
    edit(own, lambda params: params["recipes"]["svf"]["train"].update(steps=-1))
    edit(own, lambda params: params["training"].update(surprise=True))
    done = subprocess.run(["dvc", "repro"], cwd=own, env=surroundings(own), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "recipes.svf.train.steps" in done.stderr
    assert "training.surprise" in done.stderr


def test_the_metrics_are_readable_by_dvc(finished: Path) -> None:
    shown = json.loads(run(finished, "dvc", "metrics", "show", "--json").stdout)
    assert "reports/metrics.json" in json.dumps(shown)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def wait_for(condition, within: float = 90.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def working(folder: Path) -> list[int]:
    """Processes of stages that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            if "t2.stages." in command and (process / "cwd").resolve() == folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def stage_process(folder: Path) -> int:
    return min(working(folder))


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
