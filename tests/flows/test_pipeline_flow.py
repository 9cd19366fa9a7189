"""The flows against a real server: order, skips, failures, retries, kills, cancelling."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import Project, free_port, wait_for

ROOT = Path(__file__).parents[2]
SLOW = pytest.mark.slow


def spans(project: Project) -> dict[str, tuple[float, float]]:
    times = {(name, event): at for name, event, _, at in project.journal}
    return {name: (at, times[name, "end"]) for (name, event), at in times.items() if event == "start"}


def test_siblings_run_side_by_side_in_the_order_of_the_dag_and_the_lock_is_as_by_hand(project: Project) -> None:
    by_hand = Project(Path(shutil.copytree(project.folder, project.folder.with_name("by-hand"))), project.api)
    for each in (project, by_hand):
        each.tell("left", steps=30)
        each.tell("right", steps=30)
    by_hand.dvc("repro", "-q")
    flow_run, kind, _, message = project.run(parallel=2)
    assert kind == "COMPLETED", message
    when = spans(project)
    assert when["root"][1] < min(when["left"][0], when["right"][0])
    assert max(when["left"][0], when["right"][0]) < min(when["left"][1], when["right"][1]) < when["join"][0]
    assert {state["name"] for state in project.tasks(flow_run).values()} == {"Completed"}
    locks = [yaml.safe_load((each.folder / "dvc.lock").read_text()) for each in (project, by_hand)]
    assert locks[0] == locks[1]
    (artifact,) = [found for found in project.call("/artifacts/latest/filter", {}) if found["key"] == "progress-left"]
    assert float(artifact["data"]) == 100.0

    before = project.journal
    start = time.monotonic()
    flow_run, kind, name, _ = project.run()
    assert (kind, name) == ("COMPLETED", "Unchanged")
    assert {state["name"] for state in project.tasks(flow_run).values()} == {"Skipped"}
    assert project.journal == before
    assert time.monotonic() - start < 60

    (project.folder / "seed").write_text("2")  # its stage writes the same again
    flow_run, kind, _, _ = project.run()
    names = {stage: state["name"] for stage, state in project.tasks(flow_run).items()}
    assert names == {"root": "Completed", "left": "Skipped", "right": "Skipped", "join": "Skipped"}


def test_an_experiment_folder_runs_alone_and_says_what_is_due_in_the_main_run(project: Project) -> None:
    flow_run, kind, _, message = project.run("table", name="x")
    assert kind == "FAILED" and "reports/x/dvc.yaml:extra" in message  # the main run has made nothing
    assert project.journal == []
    assert project.run()[1] == "COMPLETED"
    before = len(project.journal)
    (project.folder / "seed").write_text("2")
    flow_run, kind, _, message = project.run("table", name="x")
    assert (kind, message) == ("COMPLETED", "ran 2 of 2 stages; DVC's status is clean")
    assert [(name, event) for name, event, *_ in project.journal[before:]] == [
        ("extra", "start"),
        ("extra", "end"),
        ("last", "start"),
        ("last", "end"),
    ]
    assert {stage: state["name"] for stage, state in project.tasks(flow_run).items()} == {
        "reports/x/dvc.yaml:extra": "Completed",
        "reports/x/dvc.yaml:last": "Completed",
    }
    logs = project.call("/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run]}}})
    assert any("due in the main run, and not run here: root, left;" in log["message"] for log in logs)
    assert project.run("table", name="x")[2] == "Unchanged"


@SLOW
def test_one_at_a_time_where_the_limit_says_so(project: Project) -> None:
    project.tell("left", steps=10)
    project.tell("right", steps=10)
    assert project.run(parallel=1)[1] == "COMPLETED"
    (first, second) = sorted(spans(project)[name] for name in ("left", "right"))
    assert first[1] <= second[0]


def test_a_failed_stage_stops_its_descendants_only_and_shows_what_it_said(project: Project) -> None:
    project.tell("left", fail=True)
    project.tell("right", steps=20)
    flow_run, kind, _, message = project.run()
    assert kind == "FAILED" and "failed: left; not reached: join" in message
    states = project.tasks(flow_run)
    assert {stage: state["name"] for stage, state in states.items()} == {
        "root": "Completed",
        "left": "Failed",
        "right": "Completed",
        "join": "NotReached",
    }
    assert "the very reason" in states["left"]["message"]
    project.tell("left")
    flow_run, kind, _, message = project.run()
    assert kind == "COMPLETED", message
    assert {stage: state["name"] for stage, state in project.tasks(flow_run).items()} == {
        "root": "Skipped",
        "left": "Completed",
        "right": "Skipped",
        "join": "Completed",
    }


@pytest.mark.slow
def test_a_stage_that_someone_else_holds_is_tried_again(project: Project) -> None:
    project.tell("root", steps=150)
    other = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "-s", "root"], cwd=project.folder, env=project.environment()
    )
    wait_for(lambda: project.journal)
    flow_run, kind, _, message = project.run()
    assert other.wait() == 0
    assert kind == "COMPLETED", message
    found = project.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
    assert [task["run_count"] > 1 for task in found if task["name"] == "root"] == [True]
    assert len([1 for name, event, *_ in project.journal if (name, event) == ("root", "start")]) == 1


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["recipes.svf.train.steps=-3", "training.micro_batch=0"], r"2 problem\(s\)"),
        (["recipes.nobody.lr=1"], "Could not override 'recipes.nobody.lr'"),
    ],
)
def test_a_bad_parameter_is_refused_before_any_stage_starts(
    project: Project, overrides: list[str], reason: str
) -> None:
    import re

    before = (project.folder / "params.yaml").read_text()
    _, kind, _, message = project.run(overrides=overrides)
    assert kind == "FAILED"
    assert re.search(reason, message)
    assert project.journal == []
    assert (project.folder / "params.yaml").read_text() == before


@SLOW
def test_an_override_reaches_the_parameters_and_leaves_the_comments(project: Project) -> None:
    assert project.run(overrides=["recipes.svf.train.lr=1.5e-3"])[1] == "COMPLETED"
    text = (project.folder / "params.yaml").read_text()
    assert yaml.safe_load(text)["recipes"]["svf"]["train"]["lr"] == 1.5e-3
    assert text.startswith((ROOT / "params.yaml").read_text().splitlines()[0])


def dvc_of(pid: int) -> int:
    """The DVC that runs a stage's process."""
    while "dvc" not in (command := Path(f"/proc/{pid}/cmdline").read_text()) or "supervisor.py" in command:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return pid


@pytest.mark.parametrize("victim", ["flow", pytest.param("dvc", marks=SLOW), pytest.param("stage", marks=SLOW)])
def test_kill_9_leaves_no_writer_and_the_next_run_goes_on(project: Project, victim: str) -> None:
    project.tell("left", steps=40)
    flow = project.start()
    wait_for(lambda: [1 for name, event, *_ in project.journal if (name, event) == ("left", "step")][5:])
    stage = project.stage_pid("left")
    os.kill({"flow": flow.pid, "dvc": dvc_of(stage), "stage": stage}[victim], signal.SIGKILL)
    flow.communicate(timeout=120)
    wait_for(lambda: not project.processes(), 30)
    steps = [1 for name, event, *_ in project.journal if (name, event) == ("left", "step")]
    time.sleep(1)
    assert len([1 for name, event, *_ in project.journal if (name, event) == ("left", "step")]) == len(steps)
    assert len(steps) < 40
    _, kind, _, message = project.run()
    assert kind == "COMPLETED", message
    assert len([1 for name, event, *_ in project.journal if (name, event) == ("left", "step")]) == 40  # none twice
    assert (project.folder / "out" / "left").read_text() == "left after 40"


class Served:
    """``make serve`` for a project, on a port of its own."""

    def __init__(self, project: Project) -> None:
        self.port = free_port()
        self.project = Project(project.folder, f"http://127.0.0.1:{self.port}/api")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--port", str(self.port)],
            cwd=project.folder,
            env=project.environment() | {"PYTHONPATH": str(project.folder) + os.pathsep + os.environ["PYTHONPATH"]}
            if "PYTHONPATH" in os.environ
            else project.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert f"http://127.0.0.1:{self.port}" in line, line + self.process.stdout.read()

    def start(self, deployment: str, **parameters: object) -> str:
        (found,) = [d for d in self.project.call("/deployments/filter", {}) if d["name"] == deployment]
        return self.project.call(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, flow_run: str) -> str:
        (found,) = self.project.call("/flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return found["state"]["type"]


@SLOW
def test_served_deployments_run_cancel_and_survive_a_killed_worker(project: Project) -> None:
    served = Served(project)
    try:
        deployments = {d["name"]: d for d in served.project.call("/deployments/filter", {})}
        assert set(deployments) == {"nightly", "pipeline", "train", "adapt", "measure", "table"}
        assert [s["active"] for s in deployments["nightly"]["schedules"]] == [False]
        params = yaml.safe_load((project.folder / "params.yaml").read_text())
        for deployment, field, choices in (
            ("train", "adapter", list(params["adapters"])),
            ("adapt", "search", list(params["searches"])),
            ("table", "name", ["x"]),
        ):
            assert deployments[deployment]["parameter_openapi_schema"]["properties"][field]["enum"] == choices

        # Cancelling ends the stage's processes; the next run goes on where it stood.
        project.tell("left", steps=100)
        flow_run = served.start("pipeline")
        wait_for(lambda: [1 for name, event, *_ in project.journal if (name, event) == ("left", "step")][5:], 120)
        stage = project.stage_pid("left")
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        served.project.call(f"/flow_runs/{flow_run}/set_state", state)
        wait_for(lambda: served.state(flow_run) == "CANCELLED", 60)
        wait_for(lambda: not Path(f"/proc/{stage}").exists(), 30)
        done = len([1 for name, event, *_ in project.journal if (name, event) == ("left", "step")])
        time.sleep(1)
        assert len([1 for name, event, *_ in project.journal if (name, event) == ("left", "step")]) == done < 100

        # kill -9 of the worker and all that it started: no orphan writes on.
        flow_run = served.start("pipeline")
        wait_for(lambda: project.stage_pid("left") != stage, 120)
        stage = project.stage_pid("left")
        for pid in project.processes():
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            if ("worker start" in command and "supervisor" not in command) or "flow-run execute" in command:
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{stage}").exists(), 30)
        assert served.process.wait(60) == 1  # it says that its worker is gone
    finally:
        served.process.terminate()
        served.process.wait(60)
    wait_for(lambda: not project.processes(), 30)  # stopping leaves nothing behind

    assert project.run()[1] == "COMPLETED"
    assert len([1 for name, event, *_ in project.journal if (name, event) == ("left", "step")]) == 100
