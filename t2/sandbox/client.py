"""The caller's side: start servers, hand them programs, collect verdicts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from t2.config.rows import Sandbox as Limits
from t2.sandbox import isolation, scratch, wire

_log = logging.getLogger(__name__)

# The server gets this folder as a package of its own, which leaves t2 and all that it imports outside.
_BOOT = (
    "import sys, types; package = types.ModuleType('sandbox'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['sandbox'] = package; from sandbox.server import main; main(*sys.argv[2:])"
)
_GRACE_SECONDS = 30.0
_ATTEMPTS = 3
_LIMITS = set(isolation.Limits.__annotations__)


class SandboxError(RuntimeError):
    """The sandbox itself failed; says nothing about a program."""


class _Refused(SandboxError):
    """This machine does not give the walls that were asked for."""


@dataclass(frozen=True, slots=True)
class Program:
    """Generated code, and the statements that test it."""

    code: str
    tests: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a program.

    Attributes:
        passed: the program ran and its tests ran to their end.
        reason: why, without addresses or times. Which of two limits ends a program first may depend on how
            busy the machine is.
        isolation: the walls that it ran behind.
    """

    passed: bool
    reason: str
    isolation: str


class Sandbox:
    """Runs programs nobody vouches for.

    A context manager. Threads may share one (calls of :meth:`run` then wait for each other); a forked child
    must open its own.

    Args:
        limits: what each program may use, all of its processes together; ``allow_unsafe`` permits running
            without any isolation where the kernel offers none, and with less than it offers where servers die.
        workers: programs that run at once.

    Attributes:
        isolation: Once open, the walls, a key of :data:`t2.sandbox.isolation.MODES`, and what is missing of them.

    Raises:
        ValueError: ``workers`` is not positive.
    """

    def __init__(self, limits: Limits, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"a sandbox needs at least 1 worker, got {workers}")
        self.limits, self.workers = limits, workers
        self.isolation = ""
        self._mode = ""
        self._servers: list[_Server] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self._servers = [self._start_best()]
            while len(self._servers) < self.workers:
                self._servers.append(self._start_equal())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of this sandbox."""
        for server in self._servers:
            server.close()
        self._servers = []

    def run(self, programs: Sequence[Program]) -> list[Verdict]:
        """Verdicts on ``programs``, in their order.

        Raises:
            SandboxError: the sandbox is not open, or a program's server died again and again.
        """
        with self._lock:
            if not self._servers:
                raise SandboxError("the sandbox is closed; use it inside `with Sandbox(...) as sandbox:`")
            try:
                return self._run(programs)
            except BaseException:  # a server may be in the midst of a program
                for i in range(len(self._servers)):
                    self._replace(i)
                raise

    def _run(self, programs: Sequence[Program]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        waiting = deque((index, 1) for index in range(len(programs)))
        busy: dict[int, tuple[int, int, float]] = {}  # worker: program, attempt, latest moment of an answer
        patience = self.limits.wall_seconds + _GRACE_SECONDS
        while waiting or busy:
            for worker, server in enumerate(self._servers):
                if worker in busy or not waiting:
                    continue
                index, attempt = waiting.popleft()
                busy[worker] = (index, attempt, time.monotonic() + patience)
                with contextlib.suppress(BrokenPipeError):  # found out below, where its answer is missing
                    server.send(programs[index])
            answered = wire.readable(*(self._servers[worker].verdicts for worker in busy), seconds=1)
            for worker, (index, attempt, latest) in list(busy.items()):
                server = self._servers[worker]
                if server.verdicts not in answered and time.monotonic() < latest:
                    continue
                del busy[worker]
                try:
                    if server.verdicts not in answered:
                        raise EOFError
                    passed, reason = wire.receive(server.verdicts)
                    verdicts[index] = Verdict(passed, reason, self.isolation)
                except EOFError:
                    self._replace(worker)
                    if attempt == _ATTEMPTS:
                        raise SandboxError(
                            f"the sandbox's server died {attempt} times over this program:\n" + programs[index].code
                        ) from None
                    _log.warning("a sandbox server died and was replaced")
                    waiting.appendleft((index, attempt + 1))
        return [verdicts[index] for index in range(len(programs))]

    def _replace(self, worker: int) -> None:
        self._servers[worker].close()
        self._servers[worker] = self._start_equal()

    def _start_best(self) -> _Server:
        """A server behind the best walls that this machine lets it build.

        Only a machine's refusal leads to lesser ones unasked: a death, as where memory is short, says nothing of walls.
        """
        refused: list[str] = []
        for mode in isolation.MODES:
            if mode == "none" and not self.limits.allow_unsafe:
                raise SandboxError(
                    "generated code cannot be isolated on this machine: "
                    + "; ".join(refused)
                    + ". Allow user namespaces or Landlock, or set sandbox.allow_unsafe to run it anyway."
                )
            try:
                server = _start(mode, self.limits)
            except SandboxError as error:
                if not (isinstance(error, _Refused) or self.limits.allow_unsafe):
                    raise
                refused.append(f"{mode}: {error}")
                continue
            self._mode, self.isolation = mode, server.isolation
            if refused or server.missing:
                _log.warning(
                    "reduced isolation of generated code: %s (%s)%s",
                    self.isolation,
                    "; ".join(refused) or "partial",
                    isolation.MODES[mode] and f": {isolation.MODES[mode]}",
                )
            return server
        raise SandboxError("no sandbox server starts on this machine: " + "; ".join(refused))

    def _start_equal(self) -> _Server:
        """A server behind the walls that the first one has."""
        server = _start(self._mode, self.limits)
        if server.isolation != self.isolation:
            server.close()
            raise SandboxError(f"the walls changed: {self.isolation} at first, now {server.isolation}")
        return server


def _start(mode: str, limits: Limits) -> _Server:
    """A server; where one dies at its start, another.

    Raises:
        _Refused: This machine does not give these walls.
        SandboxError: Server after server died.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _Server(mode, limits)
        except _Refused:
            raise
        except SandboxError as error:
            if attempt == _ATTEMPTS:
                raise SandboxError(
                    f"generated code is not run: servers of the sandbox behind {mode} died at their start, "
                    f"{_ATTEMPTS} in a row ({error}). See whether memory or processes are short; "
                    "sandbox.allow_unsafe lets programs run behind lesser walls."
                ) from None
            _log.warning("a sandbox server died at its start (%s); starting another", error)
    raise AssertionError("unreachable")


class _Server:
    """A running server. ``missing`` names what its walls lack.

    Raises:
        _Refused: This machine does not give the walls of ``mode``.
        SandboxError: It did not start.
    """

    def __init__(self, mode: str, limits: Limits) -> None:
        # Here, not in the server: whoever kills that leaves the folder to us.
        self._scratch = "" if mode == "namespaces" else scratch.make()
        folder = os.path.dirname(os.path.abspath(__file__))
        # -S, -s, -P: nothing but the standard library can be imported. One hash seed: the same order of a
        # set's items in every run.
        flags = ["-S", "-s", "-P", "-B", "-X", "utf8"]
        self._process = subprocess.Popen(
            [
                sys.executable,
                *flags,
                "-c",
                _BOOT,
                folder,
                mode,
                json.dumps(limits.model_dump(include=_LIMITS)),
                self._scratch,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            start_new_session=True,  # the terminal's Ctrl-C is for the caller
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self.verdicts = self._process.stdin.fileno(), self._process.stdout.fileno()
        try:
            if not wire.readable(self.verdicts, seconds=_GRACE_SECONDS):
                raise EOFError
            hello = wire.receive(self.verdicts)
        except EOFError:
            hello = {"error": "it said nothing", "refused": False}
        if "error" in hello:
            self.close()
            raise (_Refused if hello["refused"] else SandboxError)(hello["error"])
        self.missing: str = hello["missing"]
        self.isolation = f"{mode}, {self.missing}" if self.missing else mode

    def send(self, program: Program) -> None:
        """Hand over one program."""
        wire.send(self._requests, [program.code, program.tests])

    def close(self) -> None:
        """End the server and all of its processes, whatever they are at."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        if self._scratch:
            scratch.remove(self._scratch)
