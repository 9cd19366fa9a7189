"""Equality of LaTeX expressions by computer algebra, in a process of its own.

Some expressions take a computer algebra system for ever, or all memory; an interrupt does not reach it inside a
long multiplication, and ``math-verify``'s own time-outs are signals, which threads cannot use. So a warm worker
process compares, under limits that the kernel keeps. The worker is this file, run as a script: it imports
nothing else of the project. Nothing of an expression is ever evaluated as Python: the LaTeX grammar alone reads it.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import resource
import subprocess
import sys
import threading
import time
from functools import lru_cache
from typing import Any

_SECONDS = 5
"""Processor time for one comparison, ``math-verify``'s own default; what takes longer counts as different."""
_MEMORY = 2 << 30
_REMEMBERED = 50_000

_lock = threading.Lock()
_worker: _Worker | None = None


@lru_cache(_REMEMBERED)
def equal(answer: str, written: str) -> bool:
    """Whether two LaTeX expressions, both without delimiters, have the same meaning.

    The order matters to ``math-verify`` where one side is an assignment. What cannot be read or decided within
    the limits is not equal.

    Raises:
        RuntimeError: The worker does not start.
    """
    global _worker
    with _lock:
        if _worker is None or _worker.owner != os.getpid():  # a forked child must not share its parent's pipes
            _worker = _Worker()
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

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__), str(_SECONDS)],  # -P: beside this file lies a `math.py`
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
                f"comparing expressions needs math-verify, and its worker does not start ({reason}); "
                "pip install --constraint constraints.txt 'math-verify[antlr4_9_3]'"
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


def main(seconds: int) -> None:
    """Answers questions until the caller closes standard input."""
    answers, nowhere = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the parser's runtime prints
    from math_verify import LatexExtractionConfig, parse, verify

    os.dup2(nowhere, 2)  # what is never read would fill the pipe
    logging.disable()
    how = [LatexExtractionConfig(boxed_match_priority=0)]
    _limit(resource.RLIMIT_AS, _MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))  # beyond it, the kernel ends this
        try:
            answer, written = (
                parse(f"\\boxed{{{text}}}", how, fallback_mode="no_fallback", parsing_timeout=None)
                for text in json.loads(line)
            )
            verdict = verify(answer, written, timeout_seconds=None)
        except Exception:
            verdict = False
        print(json.dumps(verdict), file=answers, flush=True)


def _limit(what: int, value: int) -> None:
    """Sets a limit that can be raised again."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
