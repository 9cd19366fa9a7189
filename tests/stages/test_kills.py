"""Killed at random times, again and again, the pipeline ends as one that nobody killed.

Kills are alternately of the whole process group and of DVC alone, whose stage then has to end itself; the next run
starts at once. ``pytest -s`` shows the times, which a seeded generator draws.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from small_pipeline import copy_project, run, surroundings

pytestmark = pytest.mark.slow

SEED = 10
FIRST_SECONDS, FIRST_KILLS, FIRST_WHOLE = 2.0, 10, 1
FIRST_STAGES = ("split", "basis@main")
KILLS, MOST = 20, 0.4  # of the time that a run takes
OWN_END = 10.0  # seconds until a stage without its pipeline is gone, of which a busy machine takes most
# Run ids and seconds, and the pages and tables that show them.
OF_THE_RUN = ("data/runs/", "data/timings", "data/report", "reports/runs.csv", "reports/timings.csv", "reports/report.")


class Unkilled(NamedTuple):
    """A project whose pipeline nobody killed, and how many seconds that took."""

    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Unkilled:
    folder = copy_project(tmp_path_factory.mktemp("unkilled"))
    start = time.monotonic()
    run(folder, "dvc", "repro", "-q")
    return Unkilled(folder, time.monotonic() - start)


class Project:
    """A fresh project whose pipeline is killed; its temporary files lie below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_project(folder)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._orphans: list[int] = []

    def repro(self, *stages: str) -> subprocess.Popen[str]:
        """Starts ``dvc repro`` in a process group of its own; orphans of a kill must be gone soon."""
        process = subprocess.Popen(
            ["dvc", "repro", *stages],
            cwd=self.folder,
            env=surroundings(self.folder, TMPDIR=str(self.temporary)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )
        killed = time.monotonic()
        while left := [pid for pid in self._orphans if self._works_here(pid)]:
            assert time.monotonic() < killed + OWN_END, f"stages that outlived their pipeline: {left}"
            time.sleep(0.02)
        return process

    def kill(self, process: subprocess.Popen[str], way: str) -> None:
        if way == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        self._orphans = [int(found.name) for found in Path("/proc").glob("[0-9]*") if self._works_here(int(found.name))]
        process.wait()

    def finish(self, *stages: str) -> None:
        output, _ = self.repro(*stages).communicate()
        status = run(self.folder, "dvc", "status", *stages).stdout
        assert "up to date" in status, output[-3000:] + status

    def _works_here(self, pid: int) -> bool:
        """Whether it is a stage of this project, or a process that one has started."""
        try:
            ended = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
            return not ended and Path(f"/proc/{pid}/cwd").resolve() == self.folder.resolve()
        except OSError:
            return False


def ways() -> Iterator[str]:
    while True:
        yield from ("group", "dvc")


def test_killed_in_the_first_two_seconds_of_a_fresh_project(unkilled: Unkilled, tmp_path: Path) -> None:
    """The first goes on to the end, the others as far as their second stage."""
    times, way = random.Random(SEED), ways()
    for number in range(FIRST_KILLS):
        project = Project(tmp_path / str(number))
        seconds, how = FIRST_SECONDS * times.random(), next(way)
        process = project.repro()
        time.sleep(seconds)
        project.kill(process, how)
        print(f"fresh project {number}: {how} killed after {seconds:.3f} s", flush=True)
        if number < FIRST_WHOLE:
            project.finish()
            check(project, unkilled.folder)
        else:
            project.finish(*FIRST_STAGES)
            check(project, unkilled.folder, FIRST_STAGES)


def test_killed_at_any_time_until_it_ends(unkilled: Unkilled, tmp_path: Path) -> None:
    times, way, killed, number = random.Random(SEED), ways(), 0, 0
    while killed < KILLS:
        project = Project(tmp_path / str(number))
        ended = False
        while not ended and killed < KILLS:
            seconds, how = MOST * unkilled.seconds * times.random(), next(way)
            start = time.monotonic()
            process = project.repro()
            try:
                output, _ = process.communicate(timeout=max(0.0, seconds - (time.monotonic() - start)))
                assert process.returncode == 0, output[-3000:]
                ended = True
            except subprocess.TimeoutExpired:
                at = stages_begun(project.folder)
                project.kill(process, how)
                killed += 1
                print(f"project {number}: kill {killed} of {how} after {seconds:.3f} s, in {at}", flush=True)
        project.finish()
        check(project, unkilled.folder)
        number += 1


def stages_begun(folder: Path) -> str:
    """The stages whose program runs; for the log only."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
            if (process / "cwd").resolve() == folder.resolve() and "-m" in command:
                found.add(" ".join(command[command.index("-m") + 1 :]).strip())
        except OSError:
            continue
    return ", ".join(sorted(word for word in found if word.startswith("t2.stages."))) or "no stage"


def check(project: Project, unkilled: Path, stages: Sequence[str] = ()) -> None:
    """Outs, scratch, temporary files and the MLflow store are those of a run that nobody killed."""
    outs = recorded(project.folder, stages)
    assert outs == recorded(unkilled, stages)
    for out in outs:
        if not out.startswith(OF_THE_RUN):
            assert content(project.folder / out) == content(unkilled / out), out
    left = [path for path in (project.folder / ".t2" / "scratch").glob("*/*") if path.is_dir()]
    # That of the stage which came last goes when the next one starts.
    assert len(left) <= 1 and all((path / "done").exists() for path in left), left
    assert not list(project.temporary.iterdir())
    assert not list(project.folder.rglob(".*.tmp"))
    expected = {name: runs for name, runs in logged(unkilled).items() if not stages or belongs(name, stages)}
    assert logged(project.folder) == expected
    assert models(project.folder) == {name: 1 for name in models(unkilled) if not stages or name in str(stages)}


def recorded(folder: Path, stages: Sequence[str]) -> list[str]:
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    assert not stages or set(lock) == set(stages)
    return sorted(out["path"] for name in stages or lock for out in lock[name]["outs"])


def content(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
    return {
        found.relative_to(path.parent).as_posix(): hashlib.sha256(found.read_bytes()).hexdigest() for found in files
    }


def belongs(name: str, stages: Sequence[str]) -> bool:
    return name in stages or f"train@{name.partition('/')[0]}" in stages


def logged(folder: Path) -> dict[str, list[object]]:
    """By name of a run: how it ended, its metrics by key and step, its parameters, its artifacts, its parent."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        runs = store.execute("select run_uuid, name, status, artifact_uri from runs").fetchall()
        names = Counter(name for _, name, _, _ in runs if not name.startswith("pipeline "))
        assert set(names.values()) == {1}, names
        assert {status for _, _, status, _ in runs} == {"FINISHED"}, runs
        known = {uuid: name for uuid, name, _, _ in runs}
        found: dict[str, list[object]] = {}
        for uuid, name, status, uri in runs:
            if name.startswith("pipeline "):
                continue
            metrics = store.execute("select key, step, count(*) from metrics where run_uuid = ? group by 1, 2", [uuid])
            params = store.execute("select key, value from params where run_uuid = ?", [uuid])
            values = [(key, value.replace(str(folder.resolve()), "<folder>")) for key, value in params]
            parent = store.execute("select value from tags where run_uuid = ? and key = 'mlflow.parentRunId'", [uuid])
            above = known[parent.fetchone()[0]].partition(" ")[0]  # a pipeline is called after its time
            found[name] = [status, sorted(metrics), sorted(values), artifacts(uri), above]
    return found


def artifacts(uri: str) -> list[str]:
    """Paths below a run's folder, without the time and id that an image has in its name."""
    folder = Path(uri.removeprefix("file://"))
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(re.sub(r"(\+step\+\d+\+).*?(\.\w+)$", r"\1\2", path) for path in paths)


def models(folder: Path) -> dict[str, int]:
    """How many versions each registered model has, and how often each model was logged."""
    versions = "select name, count(*) from model_versions group by name"
    logged = "select 'logged ' || name, count(*) from logged_models where lifecycle_stage = 'active' group by name"
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return dict(store.execute(f"{versions} union all {logged}").fetchall())
