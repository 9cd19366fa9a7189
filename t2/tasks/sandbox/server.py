"""The warm parent: a process with its imports done, from which every program's processes are forked.

Two processes. The *warden* watches the caller: when that ends, however it does, so does everything here. The
*server*, its child and the first process of a pid namespace, prepares a jail, passes one program on to it,
waits for the verdict, and kills and reaps whatever is left before it reports. It never reads a program or its
tests, or else the next program could find them in its memory.
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
import shutil
import signal
import sys
import tempfile
import time

from . import isolation, seccomp, wire
from .player import Player
from .referee import Conversation, judge
from .syscalls import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl

_REQUESTS, _VERDICTS = 0, 1  # the pipes to the caller
_TICK = 0.05
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


def main(mode: str, limits_json: str) -> None:
    """Serve the caller at standard input and output until either end is gone."""
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
    scratch = None
    try:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        if mode == "namespaces":
            isolation.enter_namespaces()
        else:
            scratch = tempfile.mkdtemp(prefix="t2-sandbox-")
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            if not wire.readable(warden, seconds=0):
                Server(mode, limits, proc, scratch).serve()
            os._exit(0)
        os.close(_VERDICTS)
        ends = select.poll()
        ends.register(_REQUESTS, 0)  # no matter what can be read there: the caller closed it
        for process in (caller, os.pidfd_open(pid)):
            ends.register(process, select.POLLIN)
        ends.poll()
        end_descendants(proc, pid)
    except OSError as error:
        wire.send(_VERDICTS, {"error": str(error)})
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def die_with_parent() -> None:
    """Be killed when the parent dies; to be said again after every change of user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
            except BaseException as error:
                wire.send(verdict, ["failed", f"{type(error).__name__}: {error}"])
            finally:
                os._exit(0)
        os.close(task)
        os.close(verdict)
        state, self.missing = wire.receive(self.verdict)
        if state != "ready":
            raise OSError(self.missing)

    def close(self) -> None:
        """Let go of its pipes."""
        os.close(self.task)
        os.close(self.verdict)


class Server:
    """One program at a time, each in a jail of its own."""

    def __init__(self, mode: str, limits: isolation.Limits, proc: int, scratch: str | None) -> None:
        self.mode, self.limits, self.proc, self.scratch = mode, limits, proc, scratch
        try:
            self.filter = seccomp.program(strict=mode != "namespaces")
        except OSError:
            self.filter = b""

    def serve(self) -> None:
        """Report the isolation that was reached, then a verdict for every program."""
        try:
            if self.scratch is None:
                isolation.enter_root(self.proc)
            else:
                isolation.drop_root(self.proc, self.scratch)
                prctl(PR_SET_CHILD_SUBREAPER, 1)
            die_with_parent()
            jail = Jail(self)
        except OSError as error:
            wire.send(_VERDICTS, {"error": str(error)})
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
        deadline = time.monotonic() + self.limits["wall_seconds"]
        while (left := deadline - time.monotonic()) > 0:
            if wire.readable(jail.verdict, seconds=min(left, _TICK)):
                try:
                    passed, reason = wire.receive(jail.verdict)
                except EOFError:
                    return False, "the tests reached a limit"
                return passed is True, reason
            if isolation.memory_mb(self.proc) > self.limits["memory_mb"]:
                return False, "reached the memory limit"
        return False, "reached the time limit"

    def _sweep(self, jail: Jail) -> None:
        """Leave no process of the jail, whatever became of it."""
        if self.scratch is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # from a namespace's first process: all others in it
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
            return
        end_descendants(self.proc, jail.pid)
        _empty(self.scratch)


def _referee(server: Server, task: int, verdict: int) -> None:
    die_with_parent()
    if server.scratch is None:
        isolation.enter_jail(server.proc, server.limits)
        die_with_parent()
    else:
        os.chdir(server.scratch)
    isolation.set_limits(server.limits, processes=server.scratch is None)
    read_request, write_request = os.pipe()
    read_reply, write_reply = os.pipe()
    read_output, write_output = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    pid = os.fork()
    if pid == 0:
        _player(server, [null, write_output, write_output, read_request, write_reply])
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in (null, read_request, write_reply, write_output, server.proc):
        os.close(fd)
    wire.send(verdict, wire.receive(read_reply))
    code, tests = wire.receive(task)
    output_bytes = server.limits["output_kb"] << 10
    conversation = Conversation(pid, write_request, read_reply, read_output, output_bytes)
    wire.send(verdict, judge(code, tests, conversation, _MODULES))


def _player(server: Server, fds: list[int]) -> None:
    """Keep five descriptors, put up the last walls, and play; never returns."""
    try:
        die_with_parent()
        os.setsid()  # kill(0, …) reaches a whole process group, across pid namespaces
        for fd, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 32) for fd in fds]):
            os.dup2(source, fd)
        os.closerange(len(fds), 1 << 20)
        missing = ""
        if server.mode == "landlock":
            isolation.restrict_files(isolation.libraries(), str(server.scratch))
        try:
            if not server.filter:
                raise OSError("no system-call table for this machine")
            seccomp.install(server.filter)
        except OSError as error:
            if server.mode == "landlock":  # which stops neither signals nor processes by itself
                raise
            missing = f"no system-call filter ({error})"
        random.seed(0)  # unseeded programs, too, draw the same numbers in every run
        wire.send(4, ["ready", missing])
    except BaseException as error:
        wire.send(4, ["failed", str(error)])
        os._exit(1)
    with contextlib.suppress(EOFError):
        Player(3, 4).play()
    os._exit(0)


def _empty(folder: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            _empty(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
