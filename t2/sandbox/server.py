"""The warm parent: a process with its imports done, from which every program's processes are forked.

Two processes. The *warden* watches the caller: when that ends, however it does, so does everything here. The
*server*, its child and the first process of a pid namespace, prepares a jail, passes one program on to it,
waits for the verdict, and kills and reaps whatever is left before it reports. It never reads a program or its
tests, or else the next program could find them in its memory; and it believes the referee no more than it must,
who has run tests that nobody vouches for.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import select
import signal
import sys
import time

from . import isolation, scratch, seccomp, wire
from .player import Player
from .referee import Conversation, judge
from .syscalls import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, drop_capabilities, prctl

_REQUESTS, _VERDICTS = 0, 1  # the pipes to the caller
_TICK = 0.05
_FILES = "reached the limit on files"
_LONGEST_REASON = 500  # so that a verdict is written at once
# Imported once for all programs; the tests may use them without importing them.
_MODULES = frozenset(
    {
        *("array", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools"),
        *("heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "sys"),
        *("time", "typing"),
    }
)
# `threading` is left out: its hooks cost 0.3 ms at every fork.
_ALSO_WARM = ("collections.abc", "dataclasses", "enum", "hashlib", "io", "numbers", "textwrap", "unicodedata")


def main(mode: str, limits_json: str, folder: str) -> None:
    """Serve the caller at standard input and output until either end is gone; ``folder``, if any, goes with it."""
    caller, warden = os.pidfd_open(os.getppid()), os.pidfd_open(os.getpid())
    limits: isolation.Limits = json.loads(limits_json)
    os.environ.clear()
    sys.argv[:] = [""]
    sys.path[:] = [os.path.realpath(folder) for folder in sys.path if folder]
    for name in (*sorted(_MODULES), *_ALSO_WARM):
        importlib.import_module(name)
    importlib.import_module(".differential", __package__)  # the tests import it; no file is in reach then
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page of this
    try:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        if mode == "namespaces":
            isolation.enter_namespaces()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            if not wire.readable(warden, seconds=0):
                Server(mode, limits, proc, folder).serve()
            os._exit(0)
        os.close(_VERDICTS)
        ends = select.poll()
        ends.register(_REQUESTS, 0)  # no matter what can be read there: the caller closed it
        for process in (caller, os.pidfd_open(pid)):
            ends.register(process, select.POLLIN)
        ends.poll()
        end_descendants(proc, pid)
    except OSError as error:
        wire.send(_VERDICTS, _complaint(error))
    finally:
        if folder:
            scratch.remove(folder)


def die_with_parent() -> None:
    """Be killed when the parent dies; to be said again after every change of user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def close_others(kept: list[int]) -> None:
    """Close every descriptor but these."""
    start = 0
    for fd in sorted(kept):
        if start < fd:  # closerange(0, 0) closes them all
            os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1 << 20)


def end_descendants(proc: int, child: int) -> None:
    """Kill and reap ``child`` and all below; orphans among them become children of this process."""
    doomed = [child]
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in doomed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.001)
            doomed = [int(pid) for pid in isolation.descendants(proc)]


class Jail:
    """A referee and a player who wait for a program. ``missing`` names a wall that the kernel refused."""

    def __init__(self, server: Server) -> None:
        task, self.task = os.pipe()
        self.verdict, verdict = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _referee(server, task, verdict)
            except OSError as error:
                wire.send(verdict, ["failed", error.errno, error.strerror or str(error)])
            finally:
                os._exit(0)
        os.close(task)
        os.close(verdict)
        state, *told = wire.receive(self.verdict)
        if state != "ready":
            raise OSError(*told)
        (self.missing,) = told

    def close(self) -> None:
        """Let go of its pipes."""
        os.close(self.task)
        os.close(self.verdict)


class Server:
    """One program at a time, each in a jail of its own."""

    def __init__(self, mode: str, limits: isolation.Limits, proc: int, scratch: str) -> None:
        self.mode, self.limits, self.proc, self.scratch = mode, limits, proc, scratch
        self.libraries: dict[str, int | None] = {}
        try:
            self.filters = {strict: seccomp.program(strict=strict) for strict in (True, False)}
        except OSError:
            self.filters = {}

    def serve(self) -> None:
        """Report the isolation that was reached, then a verdict for every program."""
        try:
            if self.scratch:
                held = isolation.hold_libraries()
                isolation.drop_root(self.proc, self.scratch)
                self.libraries = isolation.reach_libraries(held)
                prctl(PR_SET_CHILD_SUBREAPER, 1)
            else:
                isolation.enter_root(self.proc)
            die_with_parent()
            jail = Jail(self)
        except OSError as error:
            wire.send(_VERDICTS, _complaint(error))
            return
        wire.send(_VERDICTS, {"mode": self.mode, "missing": jail.missing})
        with contextlib.suppress(EOFError):
            while True:
                wire.forward(_REQUESTS, jail.task)
                verdict = self._await(jail)
                jail.close()
                self._sweep(jail)
                wire.send(_VERDICTS, verdict)
                jail = Jail(self)  # while the caller digests the verdict
        self._sweep(jail)

    def _await(self, jail: Jail) -> tuple[bool, str]:
        passed, reason = self._outcome(jail)
        if passed and self._too_many_files():
            return False, _FILES
        return passed, reason

    def _too_many_files(self) -> bool:
        """Where no file system of the program's own keeps it from writing them."""
        return self.scratch != "" and scratch.exceeds(self.scratch, self.limits["file_mb"] << 20, isolation.MOST_FILES)

    def _outcome(self, jail: Jail) -> tuple[bool, str]:
        deadline = time.monotonic() + self.limits["wall_seconds"]
        while (left := deadline - time.monotonic()) > 0:
            if wire.readable(jail.verdict, seconds=min(left, _TICK)):
                try:
                    match wire.receive_at_once(jail.verdict):
                        case [bool(passed), str(reason)]:
                            return passed, reason
                except EOFError:
                    return False, "the tests reached a limit"
                except wire.Malformed:
                    pass
                return False, "the tests broke the protocol"
            if isolation.memory_mb(self.proc) > self.limits["memory_mb"]:
                return False, "reached the memory limit"
            if self._too_many_files():
                return False, _FILES
        return False, "reached the time limit"

    def _sweep(self, jail: Jail) -> None:
        """Leave no process of the jail, whatever became of it."""
        if not self.scratch:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # from a namespace's first process: all others in it
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
            return
        end_descendants(self.proc, jail.pid)
        scratch.empty(self.scratch)

    def kept(self) -> list[int]:
        """Descriptors that programs and tests import by."""
        return [fd for fd in self.libraries.values() if fd is not None]


def _complaint(error: OSError) -> dict[str, object]:
    """What the caller hears of a server that does not start; ``refused``: these walls cannot be had here."""
    return {"error": str(error), "refused": error.errno not in isolation.SHORTAGE}


def _referee(server: Server, task: int, verdict: int) -> None:
    die_with_parent()
    if server.scratch:
        os.chdir(server.scratch)
    else:
        isolation.enter_jail(server.proc, server.limits)
        die_with_parent()
    isolation.set_limits(server.limits, processes=not server.scratch)
    read_request, write_request = os.pipe()
    read_reply, write_reply = os.pipe()
    read_output, write_output = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    pid = os.fork()
    if pid == 0:
        _player(server, [null, write_output, write_output, read_request, write_reply])
    ended = os.pidfd_open(pid)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_others([0, 1, 2, task, verdict, write_request, read_reply, read_output, ended, *server.kept()])
    random.seed(0)  # what is unseeded, too, draws the same numbers in every run
    missing = _put_up_walls(server, strict=True)
    state, *told = wire.receive(read_reply)
    wire.send(verdict, [state, missing or told[0]] if state == "ready" else [state, *told])
    code, tests = wire.receive(task)
    output_bytes = server.limits["output_kb"] << 10
    conversation = Conversation(pid, ended, write_request, read_reply, read_output, output_bytes)
    passed, reason = judge(code, tests, conversation, _MODULES)
    wire.send(verdict, [passed, reason[:_LONGEST_REASON]])


def _player(server: Server, fds: list[int]) -> None:
    """Keep few descriptors, put up the walls, and play; never returns."""
    try:
        die_with_parent()
        for fd, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 32) for fd in fds]):
            os.dup2(source, fd)
        close_others([*range(len(fds)), *server.kept()])
        random.seed(0)
        wire.send(4, ["ready", _put_up_walls(server, strict=server.mode != "namespaces")])
    except OSError as error:
        wire.send(4, ["failed", error.errno, error.strerror or str(error)])
        os._exit(1)
    with contextlib.suppress(EOFError):
        Player(3, 4).play()
    os._exit(0)


def _put_up_walls(server: Server, *, strict: bool) -> str:
    """The last walls, those that referee and player each put up for themselves; returns what is missing of them."""
    os.setsid()  # kill(0, …) reaches a whole process group, across pid namespaces
    drop_capabilities()
    if server.mode == "landlock":
        isolation.restrict_files(list(server.libraries), server.scratch)
    try:
        if not server.filters:
            raise OSError("no system-call table for this machine")
        seccomp.install(server.filters[strict])
    except OSError as error:
        if server.mode == "landlock":  # which stops neither signals nor processes by itself
            raise
        return f"no system-call filter ({error})"
    return ""
