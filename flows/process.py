"""A command under the supervisor: its lines as they come, its end for certain."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_TAIL = 40
"""Lines of standard error that an error message quotes."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, and the last lines of its standard error."""

    status: int
    tail: str


class Processes:
    """The commands that run at present; :meth:`stop` ends them all, whichever threads wait for them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(
        self,
        command: Sequence[str],
        *,
        on_line: Callable[[str, bool], None],
        grace: float,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Runs a command to its end, in a process group that cannot outlive this process.

        Args:
            command: Program and arguments.
            on_line: Called with each line and whether it came on standard error.
            grace: Seconds between SIGTERM and SIGKILL when it is stopped.
            environment: Variables beside the present ones.

        Raises:
            Stopped: :meth:`stop` was called before it could start.
        """
        with self._lock:
            self.pause(0.0)
            # One group a command: a signal to the flow's own group must not reach it past its supervisor.
            process = subprocess.Popen(
                [sys.executable, "-I", str(_SUPERVISOR), str(grace), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
            self._running.add(process)
        try:
            tail: deque[str] = deque(maxlen=_TAIL)

            def keep(line: str, is_error: bool) -> None:
                if is_error:
                    tail.append(line)
                on_line(line, is_error)

            assert process.stdout is not None and process.stderr is not None
            _stream(process.stdout, process.stderr, keep)
            return Ended(process.wait(), "\n".join(tail))
        finally:
            assert process.stdin is not None
            process.stdin.close()  # the supervisor ends what may still run
            process.wait()
            with self._lock:
                self._running.discard(process)

    def pause(self, seconds: float) -> None:
        """Waits.

        Raises:
            Stopped: :meth:`stop` was called, before or meanwhile.
        """
        if self._stopped.wait(seconds):
            raise Stopped("the flow is being stopped")

    def stop(self) -> None:
        """Asks every running command to end; none starts any more."""
        with self._lock:
            self._stopped.set()
            for process in self._running:
                process.terminate()


class Stopped(RuntimeError):
    """A command was not started, or not waited for, because the flow is ending."""


def _stream(out: IO[bytes], err: IO[bytes], on_line: Callable[[str, bool], None]) -> None:
    """Reads both pipes until they close; progress bars' carriage returns end lines as well."""
    rest = {out: b"", err: b""}
    with selectors.DefaultSelector() as selector:
        for each in rest:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                pipe = cast(IO[bytes], key.fileobj)
                data = os.read(pipe.fileno(), 65536)
                if not data:
                    selector.unregister(pipe)
                lines = (rest[pipe] + data).replace(b"\r", b"\n").split(b"\n")
                rest[pipe] = lines.pop() if data else b""
                for line in lines:
                    if text := line.decode(errors="replace").rstrip():
                        on_line(text, pipe is err)
