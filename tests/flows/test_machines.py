"""Several machines, as processes on loopback: one stage is computed once, by whichever worker comes first.

Prefect's server, two workers in clones of their own, a DVC remote, and one MLflow server over PostgreSQL.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Project, free_port, listening, wait_for
from mlflow.tracking import MlflowClient
from small_pipeline import copy_project, run

ROOT = Path(__file__).parents[2]
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=None)
pytestmark = pytest.mark.slow


def cloned(project: Project, folder: Path, remote: Path) -> Project:
    """A clone with the shared DVC remote, as a second machine would have it."""
    subprocess.run(["git", "clone", "-q", str(project.folder), str(folder)], check=True)
    made = Project(folder, project.api)
    made.dvc("remote", "add", "--local", "--default", "shared", str(remote))
    return made


def computed(*clones: Project) -> list[str]:
    return sorted(name for clone in clones for name, event, *_ in clone.journal if event == "end")


@pytest.fixture
def clones(project: Project, tmp_path: Path) -> tuple[Project, Project]:
    project.dvc("config", "core.autostage", "false")
    for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "project"]):
        subprocess.run(["git", *command], cwd=project.folder, check=True)
    return cloned(project, tmp_path / "a", tmp_path / "remote"), cloned(project, tmp_path / "b", tmp_path / "remote")


def test_two_clones_compute_each_stage_once_and_end_with_the_same(clones: tuple[Project, Project]) -> None:
    for clone in clones:
        for stage in ("left", "right"):
            clone.tell(stage, steps=100)
    flows = [clone.start(parallel=1) for clone in clones]
    for flow in flows:
        output, _ = flow.communicate(timeout=180)
        assert json.loads(output.splitlines()[-1])[1] == "COMPLETED", output[-4000:]
    assert computed(*clones) == ["join", "left", "right", "root"]
    assert {"left", "right"} & set(computed(clones[0])) and {"left", "right"} & set(computed(clones[1]))  # shared out
    locks = [yaml.safe_load((clone.folder / "dvc.lock").read_text()) for clone in clones]
    assert locks[0] == locks[1]
    assert [(clone.folder / "out" / "join").read_text() for clone in clones] == ["join after 0"] * 2


def test_the_stage_of_a_killed_machine_is_taken_over(clones: tuple[Project, Project]) -> None:
    first, second = clones
    first.tell("root", steps=600)
    doomed = first.start()
    wait_for(lambda: [1 for name, event, *_ in first.journal if (name, event) == ("root", "step")])
    taking_over = second.start()
    time.sleep(5)
    assert second.journal == []  # it waits
    first.kill()
    doomed.communicate()
    output, _ = taking_over.communicate(timeout=300)
    assert json.loads(output.splitlines()[-1])[1] == "COMPLETED", output[-4000:]
    assert computed(first, second) == computed(second) == ["join", "left", "right", "root"]


def test_a_fresh_clone_of_a_finished_run_computes_nothing(clones: tuple[Project, Project]) -> None:
    """Finished by hand: `dvc.lock` in git, data in the remote, no records."""
    by_hand, fresh = clones
    by_hand.dvc("repro", "-q")
    by_hand.dvc("push", "-q")
    for name in ("dvc.lock", "report"):
        shutil.copy(by_hand.folder / name, fresh.folder)
    flow_run, kind, _, message = fresh.run()
    assert kind == "COMPLETED", message
    assert computed(fresh) == []
    assert {state["name"] for state in fresh.tasks(flow_run).values()} == {"Skipped"}
    assert (fresh.folder / "out" / "left").read_text() == "left after 0"


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty database in a PostgreSQL server of its own."""
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="the driver is not installed: pip install -e '.[server]'")
    # As root PostgreSQL does not start; its own user does not reach pytest's folders.
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    if as_postgres:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    initdb = [str(POSTGRES.with_name("initdb")), "--auth=trust", "--username=mlflow", "--pgdata", str(data)]
    subprocess.run([*as_postgres, *initdb], cwd="/", check=True, stdout=subprocess.DEVNULL)
    command = [str(POSTGRES), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen([*as_postgres, *command], cwd="/", stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port))
        create = [str(POSTGRES.with_name("createdb")), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        wait_for(lambda: subprocess.run(create, cwd="/", stderr=subprocess.DEVNULL).returncode == 0)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        stop = [str(POSTGRES.with_name("pg_ctl")), "stop", "--mode=immediate", "--pgdata", str(data)]
        subprocess.run([*as_postgres, *stop], cwd="/", check=True, stdout=subprocess.DEVNULL)
        server.wait(30)
        shutil.rmtree(folder)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def mlflow_server(postgres: str, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    options = ["--workers", "1", "--backend-store-uri", postgres, "--artifacts-destination", str(folder / "artifacts")]
    with listening(folder, "/health", "mlflow", "server", *options) as address:
        yield address


def test_two_workers_share_the_experiment(server: str, mlflow_server: str, tmp_path: Path) -> None:
    """The project's own stages: a worker dies with all that it started, the other one finishes the pipeline."""
    origin = Project(copy_project(tmp_path / "origin"), server)
    machines = [cloned(origin, tmp_path / name, tmp_path / "remote") for name in ("a", "b")]
    pool = f"machines-{free_port()}"

    def prefect(*arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        subprocess.run(command, cwd=origin.folder, env=origin.environment(), check=True, capture_output=True)

    def worker(machine: Project) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--limit", "1"]
        here = {"T2_CHECKOUT": str(machine.folder), "MLFLOW_TRACKING_URI": mlflow_server, "OMP_NUM_THREADS": "1"}
        environment = machine.environment() | here | {"PYTHONPATH": str(machine.folder)}
        with open(machine.folder.with_suffix(".log"), "a") as log:
            return subprocess.Popen(command, cwd=machine.folder, env=environment, stdout=log, stderr=log, text=True)

    def start() -> str:
        (found,) = [d for d in origin.call("/deployments/filter", {}) if d["name"] == "pipeline"]
        parameters = {"parameters": {"parallel": 1}}
        return origin.call(f"/deployments/{found['id']}/create_flow_run", parameters)["id"]

    def state(flow_run: str) -> str:
        (found,) = origin.call("/flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return found["state"]["type"]

    described = yaml.safe_load((origin.folder / "prefect.yaml").read_text())
    for deployment in described["deployments"]:
        deployment["work_pool"] = {"name": pool}
    (origin.folder / "prefect.yaml").write_text(yaml.safe_dump(described))
    prefect("work-pool", "create", pool, "--type", "process")
    prefect("--no-prompt", "deploy", "--all")

    def seen(stage: str, status: str) -> list[str]:
        client = MlflowClient(mlflow_server)
        experiment = client.get_experiment_by_name("transformer-squared")
        if experiment is None:
            return []
        found = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{stage}'", max_results=100)
        return [run.info.run_id for run in found if run.info.status == status]

    workers = [worker(machine) for machine in machines]
    try:
        runs = [start(), start()]
        wait_for(lambda: seen("train@svf-reasoning", "RUNNING"), 240)
        # Which machine trains it? The one whose scratch folder is there.
        at_work = [bool(list(machine.folder.glob(".t2/scratch/train@svf-reasoning/*"))) for machine in machines]
        assert sorted(at_work) == [False, True]
        lost, left = machines if at_work[0] else machines[::-1]
        lost.kill()
        wait_for(lambda: "COMPLETED" in [state(each) for each in runs], 400)
        assert "FAILED" not in [state(each) for each in runs], left.folder.with_suffix(".log").read_text()[-4000:]
        stages = run(left.folder, "dvc", "stage", "list", "--name-only").stdout.split()
        assert {stage: len(seen(stage, "FINISHED")) for stage in stages} == dict.fromkeys(stages, 1)

        # The lost machine comes back, and the other one leaves: it computes nothing, and ends with the same.
        staying = workers[machines.index(left)]
        staying.terminate()
        staying.wait(60)
        workers.append(worker(lost))
        again = start()
        wait_for(lambda: state(again) == "COMPLETED", 240)
        locks = [yaml.safe_load((machine.folder / "dvc.lock").read_text()) for machine in machines]
        assert locks[0] == locks[1]
        assert {stage: len(seen(stage, "FINISHED")) for stage in stages} == dict.fromkeys(stages, 1)
        experts = MlflowClient(mlflow_server).search_model_versions("name='svf-reasoning'")
        assert [version.version for version in experts] == ["1"] or [v.version for v in experts] == [1]
    finally:
        for each in workers:
            each.terminate()
        for each in workers:
            each.wait(60)
        for machine in machines:
            machine.kill()
