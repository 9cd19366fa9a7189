"""A real Prefect server on loopback, and a small DVC project whose stages do as a test tells them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from t2 import tracking
from t2.config.rows import Tracking

ROOT = Path(__file__).parents[2]

STAGES = """
stages:
  root:
    cmd: python work.py root
    deps: [work.py, seed]
    outs: [out/root]
  left:
    cmd: python work.py left
    deps: [work.py, out/root]
    outs: [out/left: {persist: true}]
  right:
    cmd: python work.py right
    deps: [work.py, out/root]
    outs: [out/right]
  join:
    cmd: python work.py join
    deps: [work.py, out/left, out/right]
    outs:
      - out/join
      - report: {cache: false}
"""

# An experiment folder of that project: a row of its own, and what the main run made of `left`.
FOLDER_STAGES = """
stages:
  extra:
    cmd: python ../../work.py extra
    deps: [../../work.py, ../../out/left]
    params: [recipes.extra]
    outs: [out/extra]
  last:
    cmd: python ../../work.py last
    deps: [../../work.py, out/extra]
    outs: [out/last]
"""
FOLDER_PARAMS = "recipes: {extra: {lr: 1e-05}}\n"

# `told/<stage>` says how long a stage works and whether it fails; it counts what it has done in `kept/<stage>`,
# as a stage of the pipeline does in its scratch folder. `journal` shows who wrote when.
WORK = """
import json, os, pathlib, sys, time
name = sys.argv[1]
root = pathlib.Path(os.environ["DVC_ROOT"])
told = root / "told" / name
orders = json.loads(told.read_text()) if told.exists() else {}
kept = root / "kept" / name
kept.parent.mkdir(exist_ok=True)

def note(event):
    with open(root / "journal", "a") as journal:
        journal.write(json.dumps([name, event, os.getpid(), time.time()]) + "\\n")

note("start")
if pathlib.Path("out", name).exists():
    note("goes on")
done = int(kept.read_text()) if kept.exists() else 0
while done < orders.get("steps", 0):
    time.sleep(0.1)
    done += 1
    kept.write_text(str(done))
    print(f"{name}  {done}/{orders['steps']}  working", flush=True)
    note("step")
if orders.get("fail"):
    sys.exit("the very reason")
pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out", name).write_text(f"{name} after {done}")
if name == "join":
    pathlib.Path("report").write_text("kept by git")
note("end")
"""


class Project:
    """A small DVC project, and a server to run its flows with."""

    def __init__(self, folder: Path, api: str) -> None:
        self.folder, self.api = folder, api

    def tell(self, stage: str, **orders: object) -> None:
        (self.folder / "told").mkdir(exist_ok=True)
        (self.folder / "told" / stage).write_text(json.dumps(orders))

    @property
    def journal(self) -> list[tuple[str, str, int, float]]:
        path = self.folder / "journal"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "T2_", "PREFECT_"))}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "DO_NOT_TRACK": "1",
        }

    def start(self, flow: str = "pipeline", **parameters: object) -> subprocess.Popen[str]:
        """A flow in a process of its own, which prints its final state as the last line."""
        code = (
            f"import json; from flows.pipeline import {flow} as flow\n"
            f"state = flow(**json.loads({json.dumps(json.dumps(parameters))}), return_state=True)\n"
            "print(json.dumps([str(state.state_details.flow_run_id), state.type.value, state.name, state.message]))"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, flow: str = "pipeline", **parameters: object) -> tuple[str, str, str, str]:
        """A flow to its end: id, type, name and message of its final state."""
        output, _ = self.start(flow, **parameters).communicate(timeout=600)
        try:
            return tuple(json.loads(output.splitlines()[-1]))
        except (ValueError, IndexError):
            raise AssertionError(output[-4000:]) from None

    def dvc(self, *arguments: str) -> str:
        return self._python("-m", "dvc", *arguments)

    def python(self, code: str) -> str:
        return self._python("-c", code)

    def _python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def call(self, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        with urlopen(Request(self.api + path, data=body, headers={"content-type": "application/json"})) as reply:
            return json.loads(reply.read() or "null")

    def tasks(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """The states of a flow run's tasks by stage."""
        found = self.call("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
        return {task["name"]: task["state"] for task in found}

    def processes(self) -> list[int]:
        """What runs in the project's folder: stages, DVC, flows."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                inside = (process / "cwd").resolve() == self.folder.resolve()
            except OSError:
                continue
            if command and inside:
                found.append(int(process.name))
        return found

    def kill(self) -> None:
        """Kills all that runs in the project's folder; some of it ends by itself when the rest does."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stage_pid(self, stage: str) -> int:
        return [pid for name, event, pid, _ in self.journal if (name, event) == (stage, "start")][-1]


def wait_for(condition: Callable[[], Any], within: float = 60.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def listening(folder: Path, health: str, *command: str, **environment: str) -> Iterator[str]:
    """The address on loopback of a server, ``python -m command``, that answers at ``health``; it logs to a folder."""
    port = free_port()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return urlopen(address + health, timeout=1).status == 200
        except OSError:
            return False

    try:
        wait_for(answers, 120)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server's API."""
    home = tmp_path_factory.mktemp("prefect-server")
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with listening(home, "/api/health", "prefect", "server", "start", **settings) as address:
        yield f"{address}/api"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project before its first run: DVC set up, MLflow's store opened once."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "work.py").write_text(WORK)
    (folder / "seed").write_text("1")
    (folder / "reports" / "x").mkdir(parents=True)
    (folder / "reports" / "x" / "dvc.yaml").write_text(FOLDER_STAGES)
    (folder / "reports" / "x" / "params.yaml").write_text(FOLDER_PARAMS)
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copy(ROOT / "prefect.yaml", folder)
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    tracking._open(Tracking(uri=None, experiment="transformer-squared"), folder)
    return folder


@pytest.fixture
def project(template: Path, server: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(Path(shutil.copytree(template, tmp_path / "project")), server)
    yield made
    made.kill()
