"""Against real SQLite stores, opened by real processes."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from small_pipeline import copy_project, surroundings

from t2 import tracking
from t2.config.rows import Tracking
from t2.report import expert_figures
from t2.svf.experts import Expert, Z, save_expert

SETTINGS = Tracking(uri=None, experiment="tests")
REPOSITORY = Path(__file__).parents[1]
STAGE_AND_PIPELINE = 2


def adapter(root: Path, z: Z | None = None) -> Path:
    """The folder of an expert in ``root``, which scales one matrix by 1 unless ``z`` is given."""
    save_expert(Expert(z or {"layers.0.q_proj": torch.ones(3)}), root / "adapter")
    return root / "adapter"


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory) -> Path:
    """A store that is set up once; copies of it are quick."""
    root = tmp_path_factory.mktemp("store")
    tracking._open(SETTINGS.model_copy(update={"experiment": "unused"}), root)
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path, fresh_store, monkeypatch) -> Path:
    for name in (tracking.PARENT, "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mlflow.db").write_bytes(fresh_store.read_bytes())
    return tmp_path


def open_stage(root: Path, stage: str = "expert@math", **options):
    return tracking.stage_run(
        stage, settings=SETTINGS, root=root, fingerprint="f" * 64, base_model="miniature", **options
    )


def store(root: Path) -> MlflowClient:
    return MlflowClient(tracking.store_uri(SETTINGS, root))


def runs(root: Path) -> list:
    client = store(root)
    return list(client.search_runs([client.get_experiment_by_name("tests").experiment_id]))


def parents(root: Path) -> list:
    return [run for run in runs(root) if "t2.pipeline" in run.data.tags]


def steps(root: Path, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in store(root).get_metric_history(run_id, key)]


def test_processes_may_open_a_fresh_store_at_once_and_share_one_parent(tmp_path):
    script = f"""
from pathlib import Path
from t2.config.rows import Tracking
from t2.tracking import stage_run
root = Path({str(tmp_path)!r})
settings = Tracking(uri=None, experiment="tests")
with stage_run("s", settings=settings, root=root, fingerprint="f", base_model="m", params={{"a": 1}}) as run:
    run.log_history([{{"step": i, "reward": i / 3, "kl": 0.1}} for i in range(400)])
"""
    environment = os.environ | {"DVC_EXP_NAME": "brave-cat", "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    (parent,) = parents(tmp_path)
    assert parent.info.run_name == "experiment brave-cat"
    assert parent.info.status == "FINISHED"
    stages = [run for run in runs(tmp_path) if run.info.run_id != parent.info.run_id]
    assert [run.data.tags["mlflow.parentRunId"] for run in stages] == [parent.info.run_id] * 3
    assert {run.data.tags["t2.experiment"] for run in stages} == {"brave-cat"}
    assert all(run.info.status == "FINISHED" for run in stages)
    assert all(steps(tmp_path, run.info.run_id, "reward") == list(range(400)) for run in stages)


def kill_while_making(root: Path, make: Callable[[], object], seconds: float) -> None:
    """Kills a process that makes a store, so long after it has begun to write one."""
    pid = os.fork()
    if pid == 0:
        try:
            make()
        finally:
            os._exit(0)
    while not any(file.stat().st_size for file in root.glob("*mlflow.db*")):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def runs_after_opening(root: Path) -> int:
    """How many runs the store holds when a stage has logged to it, its pipeline's among them."""
    with open_stage(root) as run:
        run.log_metrics({"reward": 1.0})
    assert steps(root, run.run_id, "reward") == [0]
    assert not list(root.glob("*mlflow.db.tmp*"))
    again = tracking._open(SETTINGS, root)[1]
    assert again == tracking._open(SETTINGS, root)[1]
    return len(runs(root))


def test_kills_while_the_store_is_made_do_not_block_the_project(tmp_path):
    for seconds in (0.0, 0.3):
        kill_while_making(tmp_path, lambda: tracking._open(SETTINGS, tmp_path), seconds)
    assert runs_after_opening(tmp_path) == STAGE_AND_PIPELINE


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5])
def test_a_kill_at_any_moment_while_the_store_is_made(tmp_path, seconds):
    kill_while_making(tmp_path, lambda: tracking._open(SETTINGS, tmp_path), seconds)
    assert runs_after_opening(tmp_path) == STAGE_AND_PIPELINE


def test_a_store_that_was_left_half_made_is_made_anew(tmp_path):
    path = tmp_path / "mlflow.db"
    kill_while_making(tmp_path, lambda: SqlAlchemyStore(f"sqlite:///{path}", str(tmp_path)), 0.2)
    assert runs_after_opening(tmp_path) == STAGE_AND_PIPELINE


def test_an_empty_file_becomes_a_store_and_one_that_holds_something_else_is_left_alone(tmp_path):
    path = tmp_path / "mlflow.db"
    path.touch()
    assert runs_after_opening(tmp_path) == STAGE_AND_PIPELINE
    path.write_bytes(b"something else " * 1000)
    with pytest.raises(ValueError, match=r"mlflow\.db is no MLflow store .* move it away"), open_stage(tmp_path):
        pass
    assert path.read_bytes() == b"something else " * 1000


def test_stages_of_one_dvc_process_share_a_parent_and_the_next_process_has_its_own(root):
    (root / "dvc").write_text(f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from t2.config.rows import Tracking
from t2.tracking import stage_run
for stage in ("split", "basis"):
    if os.fork() == 0:
        settings = Tracking(uri=None, experiment="tests")
        with stage_run(stage, settings=settings, root=Path({str(root)!r}), fingerprint="f", base_model="m"):
            pass
        os._exit(0)
    assert os.wait()[1] == 0
""")
    for _ in range(2):
        subprocess.run([sys.executable, str(root / "dvc")], check=True, cwd=root)
    assert len(parents(root)) == 2
    for parent in parents(root):
        query = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
        nested = store(root).search_runs([parent.info.experiment_id], query)
        assert sorted(run.info.run_name for run in nested) == ["basis", "split"]


def test_a_killed_stage_continues_its_runs_and_logs_nothing_twice(root):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open_stage(root, work="w") as run:
            child = run.child("seed-0", seed=0)
            child.log_history([{"step": i, "reward": 0.1 * i, "valid_score": None} for i in range(5)])
            child.log_history([{"step": 4, "valid_score": 0.5}])
            run.log_table(pd.DataFrame({"a": [1, 2]}), "scores")
            child.log_expert(adapter(root))
            os.write(writer, json.dumps([run.run_id, child.run_id]).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    run_id, child_id = json.loads(os.read(reader, 1000))
    assert store(root).get_run(run_id).info.status == "RUNNING"

    with open_stage(root, work="w") as run:
        child = run.child("seed-0", seed=0)
        assert (run.run_id, child.run_id) == (run_id, child_id)
        assert run.resumed
        rows = [{"step": i, "reward": 0.1 * i, "valid_score": 0.5 if i in (4, 9) else None} for i in range(10)]
        child.log_history(rows)
        run.log_table(pd.DataFrame({"a": [1, 2]}), "scores")
        child.log_expert(adapter(root))
        other = run.child("seed-1", seed=1)
        assert other.run_id not in (run_id, child_id)
    client = store(root)
    assert steps(root, child_id, "reward") == list(range(10))
    assert steps(root, child_id, "valid_score") == [4, 9]
    (table,) = root.glob(f"mlartifacts/{run_id}/**/scores.json")
    assert len(json.loads(table.read_text())["data"]) == 2
    assert len([file for file in client.list_artifacts(child_id, "images") if file.path.endswith(".png")]) == 1
    assert {client.get_run(one).info.status for one in (run_id, child_id, other.run_id)} == {"FINISHED"}
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == run.parent_id


def test_a_page_holds_texts_whole_and_as_texts(root: Path) -> None:
    rows = [{"reply": "<b>no bold</b>\n" + "a long reply " * 50, "reward": 1.0}, {"reply": "", "reward": -1.0}]
    with open_stage(root) as run:
        run.log_page(rows, "rollouts/step-00001")
    (page,) = root.glob(f"mlartifacts/{run.run_id}/**/step-00001.html")
    assert "&lt;b&gt;no bold&lt;/b&gt;" in page.read_text() and "a long reply " * 50 in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text()) == rows


def calls_of_a_client(reached: Callable[[int], None]) -> None:
    """Makes every MlflowClient say how many calls were made when one has returned; those within calls count not."""
    made, inside = 0, False

    def counted(method):
        def call(*arguments, **options):
            nonlocal made, inside
            if inside:
                return method(*arguments, **options)
            inside = True
            try:
                return method(*arguments, **options)
            finally:
                inside, made = False, made + 1
                reached(made)

        return call

    for name, method in list(vars(MlflowClient).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(MlflowClient, name, counted(method))


def register_twice(root: Path) -> None:
    """Two stages' works, the second with the better expert."""
    for work, score in (("v", 0.5), ("w", 0.7)):
        with open_stage(root, f"expert@{work}", work=work) as run:
            child = run.child("seed-0", seed=0)
            child.log_params({"seed": 0})
            child.log_history([{"step": step, "reward": 0.5} for step in range(4)])
            child.log_table(pd.DataFrame({"a": [1, 2]}), "scores")
            child.register_expert("experts-math", adapter(root), score, "a test")


def forked(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def summary(root: Path) -> object:
    """What the store holds, but for ids, times, and the number of pipelines, as every life is one."""
    client = store(root)
    assert {run.info.status for run in runs(root)} == {"FINISHED"}
    found = [
        (run.info.run_name, run.data.params, {key: steps(root, run.info.run_id, key) for key in run.data.metrics})
        for run in runs(root)
        if "t2.pipeline" not in run.data.tags
    ]
    versions = [version.version for version in client.search_model_versions("name='experts-math'")]
    return sorted(found, key=str), sorted(versions), client.get_model_version_by_alias("experts-math", "best").version


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_after_any_call_to_the_store_doubles_and_loses_nothing(root, fresh_store, every):
    calls = root / "calls"
    assert forked(lambda: (calls_of_a_client(lambda made: calls.write_text(str(made))), register_twice(root))) == 0
    expected = summary(root)
    for last in range(1, int(calls.read_text()), every):
        (root / "mlflow.db").write_bytes(fresh_store.read_bytes())
        shutil.rmtree(root / "mlartifacts")

        def die(made: int, last: int = last) -> None:
            if made == last:
                os.kill(os.getpid(), signal.SIGKILL)

        assert forked(lambda die=die: (calls_of_a_client(die), register_twice(root))) == -signal.SIGKILL
        assert forked(lambda: register_twice(root)) == 0
        assert summary(root) == expected, last


def test_a_run_that_the_store_lost_is_begun_anew(root):
    with open_stage(root, work="w") as lost:
        pass
    store(root).delete_run(lost.run_id)
    with open_stage(root, work="w") as run:
        assert not run.resumed
    assert run.run_id != lost.run_id
    assert store(root).get_run(run.run_id).info.status == "FINISHED"


def test_runs_carry_what_they_rest_on(root, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "tall-owl")
    monkeypatch.chdir(REPOSITORY)
    params = {"svf": {"layers": "all", "init_std": 0.0}, "seeds": [0, 1]}
    with open_stage(root, params=params, seed=3) as run:
        run.log_dataset("math/train", "ab" * 32, 400, source="data/splits/math/train.jsonl", context="train")
        child = run.child("seed-7", seed=7, tags={"task": "math"})
    logged = store(root).get_run(run.run_id)
    assert logged.data.params == {"svf.layers": "all", "svf.init_std": "0.0", "seeds": "[0, 1]"}
    tags = logged.data.tags
    assert (tags["t2.stage"], tags["t2.seed"], tags["t2.base_model"]) == ("expert@math", "3", "miniature")
    assert (tags["t2.fingerprint"], tags["t2.experiment"]) == ("f" * 64, "tall-owl")
    assert tags["dataset.math/train"] == "ab" * 32
    ((dataset,),) = [logged.inputs.dataset_inputs]
    assert dataset.dataset.name == "math/train"
    assert json.loads(dataset.dataset.profile) == {"num_rows": 400}
    nested = store(root).get_run(child.run_id).data.tags
    assert (nested["t2.seed"], nested["task"], nested["t2.stage"]) == ("7", "math", "expert@math")
    assert nested["mlflow.parentRunId"] == run.run_id


def test_experts_and_alpha_are_artifacts_and_metrics(root, tmp_path):
    from safetensors.torch import load_file

    # Neither layer has the other's module.
    z = {"layers.1.up_proj": torch.tensor([0.75, 1.25, 0.5, 1.5]), "layers.0.q_proj": torch.ones(3)}
    history = pd.DataFrame(
        {"generation": [0, 1], "raw.math": [0.5, 0.8], "raw_std.math": [0.3, 0.1], "best": [0.1, float("-inf")]}
    )
    with open_stage(root) as run:
        run.log_expert(adapter(tmp_path, z))
        run.log_alpha({"math": [0.8, 0.7], "code": [0.2, 0.3]}, history)
    client = store(root)
    kept = load_file(client.download_artifacts(run.run_id, "expert/z.safetensors", str(tmp_path)))
    assert all(torch.equal(kept[name], z[name]) for name in z)
    names = [entry.path for folder in ("expert", "alpha") for entry in client.list_artifacts(run.run_id, folder)]
    assert {"expert/statistics.json", "expert/change.png", "alpha/alpha.json", "alpha/search.png"} <= set(names)
    assert steps(root, run.run_id, "raw.math") == [0, 1]
    assert steps(root, run.run_id, "best") == [0], "an infinite score has no place on a curve"
    metrics = client.get_run(run.run_id).data.metrics
    assert metrics["raw_std.math"] == 0.1
    assert (metrics["alpha.math"], metrics["alpha.code"]) == (pytest.approx(0.75), pytest.approx(0.25))
    assert metrics["z.change"] == pytest.approx(0.1875)
    assert (root / "mlartifacts").is_dir()


def test_a_failure_marks_the_stage_its_children_and_the_pipeline(root, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "sad-dog")
    with pytest.raises(ZeroDivisionError), open_stage(root) as run:
        child = run.child("seed-0")
        1 / 0  # noqa: B018
    client = store(root)
    assert {client.get_run(one).info.status for one in (run.run_id, child.run_id, run.parent_id)} == {"FAILED"}
    with open_stage(root, "basis") as later:
        pass
    assert later.parent_id == run.parent_id
    assert client.get_run(later.run_id).info.status == "FINISHED"
    assert client.get_run(run.parent_id).info.status == "FAILED", "one stage of this pipeline did fail"


def test_the_parent_that_a_flow_opened_is_used_and_left_to_it(root, monkeypatch):
    client, experiment = tracking._open(SETTINGS, root)
    mine = client.create_run(experiment).info.run_id
    monkeypatch.setenv(tracking.PARENT, mine)
    with open_stage(root) as run:
        pass
    assert run.parent_id == mine
    assert client.get_run(mine).info.status == "RUNNING"
    assert parents(root) == []
    monkeypatch.setenv(tracking.PARENT, "1" * 32)
    with pytest.raises(ValueError, match="unset it"), open_stage(root):
        pass


def test_a_relative_store_lies_in_the_root_wherever_the_stage_runs(tmp_path):
    assert tracking.store_uri(SETTINGS, tmp_path) == f"sqlite+pysqlite:///{tmp_path}/mlflow.db"
    relative = Tracking(uri="sqlite:///runs/mine.db", experiment="x")
    assert tracking.store_uri(relative, tmp_path) == f"sqlite+pysqlite:///{tmp_path}/runs/mine.db"
    for uri in ("sqlite+pysqlite:////srv/mlflow.db", "http://localhost:5000", "postgresql://t2@host/mlflow"):
        assert tracking.store_uri(Tracking(uri=uri, experiment="x"), tmp_path) == uri


@contextmanager
def locked(root: Path) -> Iterator[None]:
    with closing(sqlite3.connect(root / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def replaced(root: Path) -> Iterator[None]:
    copy = root / "copy.db"
    with closing(sqlite3.connect(root / "mlflow.db")) as store, closing(sqlite3.connect(copy)) as other:
        store.backup(other)
        for table in ("metrics", "latest_metrics", "tags", "runs"):
            other.execute(f"DELETE FROM {table}")
        other.commit()
    copy.replace(root / "mlflow.db")
    yield


@contextmanager
def removed(root: Path) -> Iterator[None]:
    (root / "mlflow.db").unlink()
    yield


@contextmanager
def experiment_deleted(root: Path) -> Iterator[None]:
    client = store(root)
    client.delete_experiment(client.get_experiment_by_name("tests").experiment_id)
    yield


@contextmanager
def no_room_for_artifacts(root: Path) -> Iterator[None]:
    (root / "mlartifacts").write_text("a file where the folder should be")
    yield
    (root / "mlartifacts").unlink()


def forget_connections() -> None:
    """The store as the next process finds it."""
    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()


def work(run: tracking.StageRun, root: Path) -> None:
    run.log_history([{"step": step, "reward": 0.5} for step in range(4)])
    child = run.child("seed-0", seed=0)
    child.log_table(pd.DataFrame({"a": [1, 2]}), "scores")
    child.log_expert(adapter(root))
    run.log_tags({"done": "yes"})


HARMS = [
    pytest.param(locked, marks=pytest.mark.slow),  # MLflow waits 20 seconds for it
    replaced,
    removed,
    experiment_deleted,
    no_room_for_artifacts,
]


@pytest.mark.parametrize("harm", HARMS)
def test_a_store_that_fails_in_mid_stage_costs_no_result_and_is_filled_up_later(root, harm, caplog):
    with open_stage(root, work="w") as run:
        run.log_history([{"step": 0, "reward": 0.5}])
        with harm(root):
            work(run, root)
    assert not run.whole
    assert caplog.text.count("MLflow's store failed") == 1
    assert "dvc repro -s -f expert@math" in caplog.text

    forget_connections()
    with open_stage(root, work="w") as again:
        work(again, root)
    assert again.whole
    client = store(root)
    assert steps(root, again.run_id, "reward") == [0, 1, 2, 3]
    assert client.get_run(again.run_id).data.tags["done"] == "yes"
    child = again.child("seed-0").run_id
    assert {client.get_run(one).info.status for one in (again.run_id, child)} == {"FINISHED"}
    names = {entry.path for folder in ("", "expert") for entry in client.list_artifacts(child, folder or None)}
    assert {"scores.json", "expert/z.safetensors", "expert/change.png"} <= names


def test_a_failing_store_does_not_hide_why_a_stage_or_a_flow_ended(root):
    with pytest.raises(ZeroDivisionError), open_stage(root), removed(root):
        1 / 0  # noqa: B018
    forget_connections()
    with tracking.pipeline_run("flow", settings=SETTINGS, root=root), removed(root):
        pass
    forget_connections()
    with pytest.raises(KeyError), tracking.pipeline_run("flow", settings=SETTINGS, root=root), removed(root):
        raise KeyError("stop")


STRANGE = "100% a%20b?é#'"


def test_a_checkout_may_have_any_name(tmp_path, fresh_store):
    root = tmp_path / STRANGE
    root.mkdir()
    (root / "mlflow.db").write_bytes(fresh_store.read_bytes())
    with open_stage(root) as run:
        run.log_table(pd.DataFrame({"a": [1, 2]}), "scores")
        run.log_metrics({"reward": 1.0})
    assert steps(root, run.run_id, "reward") == [0]
    (table,) = root.glob(f"mlartifacts/{run.run_id}/**/scores.json")
    assert len(json.loads(table.read_text())["data"]) == 2
    assert [folder.name for folder in tmp_path.iterdir()] == [STRANGE], "a folder of another spelling"


@pytest.mark.slow
def test_make_ui_shows_the_store_of_a_checkout_of_any_name(tmp_path):
    root = tmp_path / "100% a%20b"  # more than make itself can do with the rest
    root.mkdir()
    copy_project(root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["make", "-o", ".venv/installed", "ui"]  # the environment of the tests
    light = {"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = surroundings(root, MLFLOW_PORT=str(port), **light)
    page = subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)
    search = Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=transformer-squared"
    )
    try:
        end = time.monotonic() + 120
        while True:
            assert page.poll() is None
            try:
                with urlopen(search) as answer:
                    found = json.load(answer)["experiment"]
                break
            except URLError:
                assert time.monotonic() < end
                time.sleep(0.5)
    finally:
        os.killpg(page.pid, signal.SIGKILL)
        page.wait()
    assert found["name"] == "transformer-squared"
    assert (root / "mlflow.db").stat().st_size
    assert [folder.name for folder in tmp_path.iterdir()] == [root.name]


def test_an_experiment_that_was_deleted_in_mlflow_is_restored(root, caplog):
    with open_stage(root):
        pass
    client = store(root)
    client.delete_experiment(client.get_experiment_by_name("tests").experiment_id)
    with open_stage(root, "basis"):
        pass
    assert client.get_experiment_by_name("tests").lifecycle_stage == "active"
    assert {"expert@math", "basis"} <= {run.info.run_name for run in runs(root)}
    assert "'tests' was deleted" in caplog.text


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["dvc", "repro"], True),
        (["/venv/bin/python", "/venv/bin/dvc", "repro"], True),
        (["python", "-m", "dvc", "repro"], True),
        (["python", "-m", "t2.stages.expert", "dvc"], False),
        (["make", "repro"], False),
        ([], False),
    ],
)
def test_dvc_is_recognised_by_its_command_line(command, expected):
    assert tracking._is_dvc(command) is expected


def test_an_expert_is_registered_once_and_best_follows_the_score(root, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    for score in (0.5, 0.7, 0.6):
        with open_stage(root) as run:
            for _ in range(2):  # a resumed stage comes here again
                run.register_expert("experts-math", folder, score, "a test")
    client = store(root)
    versions = client.search_model_versions("name='experts-math'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3]
    best = client.get_model_version_by_alias("experts-math", "best")
    assert best.tags["best_valid_score"] == "0.700000"
    assert client.get_run(best.run_id).data.tags["t2.stage"] == "expert@math"
    assert "dvc repro -s -f expert@math" in client.get_run(best.run_id).data.tags["mlflow.note.content"]


def test_a_flows_parent_holds_its_stages_and_is_removed_if_there_are_none(root, monkeypatch):
    with tracking.pipeline_run("flow a", settings=SETTINGS, root=root, tags={"flow": "x"}) as parent:
        monkeypatch.setenv(tracking.PARENT, parent.run_id)
        with open_stage(root):
            pass
    with tracking.pipeline_run("flow b", settings=SETTINGS, root=root):
        pass
    with pytest.raises(KeyError), tracking.pipeline_run("flow c", settings=SETTINGS, root=root) as failing:
        monkeypatch.setenv(tracking.PARENT, failing.run_id)
        with open_stage(root):
            pass
        raise KeyError("stop")
    states = {run.info.run_name: run.info.status for run in runs(root)}
    assert states == {"flow a": "FINISHED", "flow c": "FAILED", "expert@math": "FINISHED"}


@pytest.mark.parametrize(("value", "top"), [(0.0, 1.0), (0.09, 0.1), (0.104, 0.2), (0.2, 0.2), (3.0, 5.0), (0.6, 1.0)])
def test_pictures_of_like_experts_have_the_same_colours(value, top):
    assert expert_figures._round_up(value) == pytest.approx(top)
