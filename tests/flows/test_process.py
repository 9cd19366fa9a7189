"""A command under the supervisor: every line arrives, and nothing of it outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import wait_for

from flows.process import Processes, Stopped

ROOT = Path(__file__).parents[2]
STUBBORN = r"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
os.write(1, b"%d\n" % os.getpid())  # in one piece
while True:
    time.sleep(0.05)
"""


def alive(pid: int) -> bool:
    """Whether a process still does something; one that nobody has asked about yet (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def run(*command: str, grace: float = 5.0, **environment: str):
    lines: list[tuple[str, bool]] = []
    ended = Processes().run(
        command, on_line=lambda *line: lines.append(line), grace=grace, environment=environment or None
    )
    return ended, lines


def test_lines_of_both_streams_come_and_a_bars_returns_end_lines_too() -> None:
    code = r"""
import os, sys
sys.stdout.write("one\rtwo\n\nlast without an end"); sys.stderr.write("oh\n"); sys.stdout.write(os.environ["WORD"])
sys.exit(3)
"""
    ended, lines = run(sys.executable, "-c", code, WORD="!")
    assert ended.status == 3 and ended.tail == "oh"
    assert [line for line, is_error in lines if not is_error] == ["one", "two", "last without an end!"]


def test_the_tail_holds_the_last_lines_of_standard_error_only() -> None:
    ended, _ = run(sys.executable, "-c", "import sys; [print(n, file=sys.stderr) for n in range(100)]; print('out')")
    assert ended.tail.splitlines() == [str(number) for number in range(60, 100)]


def test_a_signals_status_is_written_as_shells_do() -> None:
    ended, _ = run(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert ended.status == 128 + signal.SIGKILL


def test_stopping_kills_a_group_that_ignores_the_request_after_its_grace() -> None:
    processes, pids = Processes(), []
    command = [sys.executable, "-c", STUBBORN]
    thread = threading.Thread(
        target=lambda: processes.run(command, on_line=lambda line, _: pids.append(int(line)), grace=0.5)
    )
    thread.start()
    wait_for(lambda: len(pids) == 2)
    start = time.monotonic()
    processes.stop()
    thread.join(10)
    assert 0.4 < time.monotonic() - start < 5
    wait_for(lambda: not any(map(alive, pids)), 5)
    with pytest.raises(Stopped):
        processes.run(command, on_line=lambda *_: None, grace=1.0)
    with pytest.raises(Stopped):
        processes.pause(60.0)


def test_a_killed_holder_takes_the_whole_group_with_it() -> None:
    code = f"""
from flows.process import Processes
Processes().run([{sys.executable!r}, "-c", {STUBBORN!r}], on_line=lambda line, _: print(line, flush=True), grace=0.2)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert holder.stdout is not None
    pids = [int(holder.stdout.readline()) for _ in range(2)]
    holder.kill()
    holder.wait()
    wait_for(lambda: not any(map(alive, pids)), 10)
