"""Seeds and draws side by side: each job in a forked process of its own, one thread each."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from t2.stages.guard import die_with_parent

_MALLOC = {-1: 2**30, -3: 2**25}
"""mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, in bytes; 32 MiB is the most that the latter may be."""

Report = Callable[[dict[str, Any]], None]
"""What a job calls to tell its parent how far it is."""


class JobFailed(RuntimeError):
    """A worker ended without finishing its job."""


def run_jobs(
    jobs: Mapping[str, Callable[[Report], Any]],
    *,
    at_once: int,
    on_report: Callable[[str, dict[str, Any]], None],
) -> dict[str, Any]:
    """Runs every job in a process of its own and returns what each returns.

    Workers are forked, so that they share the imported libraries; nothing may have started threads in
    the parent's tensor library before. They die with their parent.

    Args:
        jobs: A function by name; it gets a ``report`` callable and returns something picklable.
        at_once: Processes that run at the same time.
        on_report: Called in the parent with a job's name and what it reported.

    Raises:
        JobFailed: A job raised or was killed; the others are ended first. The message holds its traceback.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(jobs)
    running: dict[Connection, tuple[str, Any]] = {}
    results: dict[str, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(jobs[name], sender), name=name)
                process.start()
                sender.close()
                running[receiver] = (name, process)
            for receiver in cast(list[Connection], wait(list(running))):
                name, process = running[receiver]
                try:
                    kind, value = receiver.recv()
                except EOFError:
                    process.join()
                    raise JobFailed(f"{name}: the worker was ended by {_ending(process.exitcode)}") from None
                if kind == "report":
                    on_report(name, value)
                elif kind == "result":
                    results[name] = value
                    process.join()
                    del running[receiver]
                else:
                    raise JobFailed(f"{name} failed:\n{value}")
    finally:
        for _, process in running.values():
            process.kill()
            process.join()
    return {name: results[name] for name in jobs}


def _work(job: Callable[[Report], Any], sender: Connection) -> None:
    die_with_parent()
    _keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        result = job(lambda row: sender.send(("report", row)))
    except BaseException:
        sender.send(("error", traceback.format_exc()))
    else:
        sender.send(("result", result))
    sender.close()


def _keep_freed_memory() -> None:
    """Lets glibc keep what is freed: a batch's tensors come and go at every token, and fresh pages take time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        for option, size in _MALLOC.items():
            mallopt(option, size)


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"
