"""Never two writers: a stage dies with its pipeline, a worker with its stage, and scratch is locked."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from t2.stages.guard import Busy, exclusive

ROOT = Path(__file__).parents[2]


def start(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def ends(pid: int, within: float = 5.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("work", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"], ids=["python", "import"])
@pytest.mark.parametrize("shell", [False, True], ids=["direct", "through-a-shell"])
def test_a_stage_dies_with_the_process_that_runs_the_pipeline(shell: bool, work: str) -> None:
    """Also while it holds the interpreter's lock, as it does when it imports a library of C++."""
    stage = (
        "import ctypes, os, time; from t2.stages.guard import die_with_pipeline; die_with_pipeline(); "
        f"print(os.getpid(), flush=True); {work}"
    )
    pipeline = start(
        f"""
        import subprocess, sys
        stage = [sys.executable, "-c", {stage!r}]
        # A list of commands keeps the shell alive as a parent between the two.
        command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, {stage!r}] if {shell} else stage
        subprocess.run(command)
        """,
        DVC_ROOT=str(ROOT),
    )
    assert pipeline.stdout
    pid = int(pipeline.stdout.readline())
    pipeline.kill()
    pipeline.wait()
    assert ends(pid)


def test_who_takes_in_the_orphan_of_a_pipeline_is_none(tmp_path: Path) -> None:
    """A pipeline is killed while its stage's interpreter starts, below a process that adopts orphans."""
    stage = "import os, sys; from t2.stages.guard import die_with_pipeline; die_with_pipeline(); print('lives on')"
    pipeline = f"""
import os, subprocess, sys, time
if os.fork() == 0:
    dead = os.getppid()
    while os.getppid() == dead:
        time.sleep(0.01)
    os.execv(sys.executable, [sys.executable, "-c", {stage!r}])
"""
    adopter = start(
        f"""
        import ctypes, os, subprocess, sys
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        subprocess.run([sys.executable, "-c", {pipeline!r}], start_new_session=True)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        """,
        DVC_ROOT=str(ROOT),
    )
    assert adopter.communicate(timeout=30)[0].split() == ["1"]


def test_without_dvc_a_stage_outlives_its_starter() -> None:
    stage = "from t2.stages.guard import die_with_pipeline as d; d(); import time; print(1, flush=True); time.sleep(60)"
    starter = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stage!r}], stdout=subprocess.PIPE,"
        " stderr=subprocess.DEVNULL)\n"
        "child.stdout.readline(); print(child.pid, flush=True)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"}
    pid = int(subprocess.check_output([sys.executable, "-c", starter], cwd=ROOT, env=environment, text=True))
    try:
        assert not ends(pid, within=0.5)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_held_scratch_folder_is_refused_with_the_holder_named(tmp_path: Path) -> None:
    holder = start(
        f"""
        import time; from pathlib import Path; from t2.stages.guard import exclusive
        with exclusive(Path({str(tmp_path / "work")!r}), patience=0):
            print("held", flush=True); time.sleep(60)
        """
    )
    assert holder.stdout
    holder.stdout.readline()
    with pytest.raises(Busy, match=str(holder.pid)), exclusive(tmp_path / "work", patience=0.2):
        pass
    holder.kill()
    with exclusive(tmp_path / "work", patience=5):
        assert (tmp_path / "work").is_dir()


def test_a_forked_worker_keeps_the_lock_of_its_dead_stage(tmp_path: Path) -> None:
    stage = start(
        f"""
        import os, time; from pathlib import Path; from t2.stages.guard import exclusive
        with exclusive(Path({str(tmp_path / "work")!r}), patience=0):
            if (pid := os.fork()) == 0:
                time.sleep(60)
            print(pid, flush=True)
            time.sleep(60)
        """
    )
    assert stage.stdout
    worker = int(stage.stdout.readline())
    stage.kill()
    stage.wait()
    with pytest.raises(Busy), exclusive(tmp_path / "work", patience=0.2):
        pass
    os.kill(worker, signal.SIGKILL)
    with exclusive(tmp_path / "work", patience=5):
        pass


def test_nothing_that_a_stage_runs_reads_standard_input() -> None:
    code = """
    import subprocess
    from t2.stages import stage

    def ask():
        print(repr(subprocess.check_output(["cat"], text=True)))
        input("run the code of this model? ")

    stage.config.load = ask  # the first thing that a stage does
    with stage.open_stage("split"):
        pass
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, input="yes\n" * 9, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("''\n") and done.stderr.splitlines()[-1].startswith("EOFError")
