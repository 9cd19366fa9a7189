"""Equality of LaTeX expressions by computer algebra, in a process of its own.

Some expressions take a computer algebra system for ever, or all memory; an interrupt does not reach it inside a
long multiplication, and time-outs by signals do not work in threads. So a warm worker process,
:mod:`t2.tasks.algebra` run as a script, compares under limits that the kernel keeps.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

_REMEMBERED = 50_000
_PROGRAM = Path(__file__).with_name("algebra.py")

_lock = threading.Lock()
_worker: _Worker | None = None


@lru_cache(_REMEMBERED)
def equal(answer: str, written: str, seconds: int) -> bool:
    """Whether two LaTeX expressions, both without delimiters, have the same meaning.

    What cannot be read, or decided within the limits, is not equal.

    Args:
        answer: One expression.
        written: The other.
        seconds: Of processor time for the comparison; what takes longer counts as different.

    Raises:
        RuntimeError: The worker does not start.
    """
    global _worker
    with _lock:
        if _worker is not None and _worker.seconds != seconds:
            _worker.close()
            _worker = None
        if _worker is None or _worker.owner != os.getpid():  # a forked child must not share its parent's pipes
            _worker = _Worker(seconds)
        verdict = None
        try:
            verdict = _worker.ask(answer, written)
        finally:
            if verdict is None:  # it ended, or an interrupt left its answer unread
                _worker.close()
                _worker = None
    return bool(verdict)


class _Worker:
    """The caller's end of a worker process."""

    def __init__(self, seconds: int) -> None:
        self.owner, self.seconds = os.getpid(), seconds
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(seconds)],  # -P: beside it lies a `math.py`
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is for the caller
        )
        atexit.register(self.close)
        if self._read() != "ready":
            assert self._process.stderr
            reason = self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            self.close()
            raise RuntimeError(
                f"comparing expressions needs latex2sympy2_extended, and its worker does not start ({reason}); "
                "pip install --constraint constraints.txt 'latex2sympy2_extended[antlr4_9_3]'"
            )

    def ask(self, answer: str, written: str) -> bool | None:
        """The verdict; None where the worker ended over it."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps([answer, written]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._read()

    def close(self) -> None:
        """End the process; the one that a parent started is left to it."""
        atexit.unregister(self.close)
        if self.owner == os.getpid():
            self._process.kill()
            self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else None
