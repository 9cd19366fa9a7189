"""One writer at a time: a stage ends with the process that runs the pipeline, and locks its scratch folder.

DVC frees its own lock when it is killed but leaves the stage's process alive; a second run would then
work beside the orphan on the same files.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish"}
_PR_SET_PDEATHSIG = 1


class Busy(RuntimeError):
    """Another process holds the scratch folder."""


def die_with_pipeline() -> None:
    """Kills this process as soon as the ``dvc`` that started it is gone; without DVC, does nothing.

    Call it as early as possible: whoever takes in the orphan of a pipeline that has ended already looks like one, but
    that it is of another session, or the first process of all.

    A process of its own watches: a thread would wait for the interpreter's lock, which the import of a big library
    holds for seconds. ``PR_SET_PDEATHSIG`` is not enough: between DVC and the stage may stand a shell that outlives
    DVC.
    """
    if "DVC_ROOT" not in os.environ:
        return
    pipeline = _nearest_ancestor_that_is_no_shell()
    if pipeline <= 1 or os.getsid(pipeline) != os.getsid(0):
        sys.exit("the dvc that started this stage has already ended; run `dvc repro` again")
    watched, stage = os.pidfd_open(pipeline), os.pidfd_open(os.getpid())
    if os.fork():
        os.close(watched)
        os.close(stage)
        return
    try:
        os.closerange(0, min(watched, stage))  # whoever reads what the stage writes waits for all who could write
        ended, _, _ = select.select([watched, stage], [], [])
        if stage not in ended:
            signal.pidfd_send_signal(stage, signal.SIGKILL)
    finally:
        os._exit(0)


def close_standard_input() -> None:
    """From now on this process and those that it starts read nothing: no library is to ask a question in a stage."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.dup2(descriptor, 0)
    if descriptor:
        os.close(descriptor)


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent ends; for forked workers."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request was heard
        os._exit(1)


@contextmanager
def exclusive(folder: Path, *, patience: float) -> Iterator[None]:
    """Holds ``folder`` for this process and the workers that it forks (they inherit the lock).

    Args:
        folder: Created where absent; the lock is a file beside it, which stays.
        patience: Seconds to wait for a holder that is about to end.

    Raises:
        Busy: The holder did not end in time; the message names its process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "a+") as lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.seek(0)
                    holder = lock.read().strip() or "unknown"
                    raise Busy(
                        f"process {holder} is working in {folder}; wait for it to end, or end it, and run again"
                    ) from None
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        folder.mkdir(exist_ok=True)
        yield


def _nearest_ancestor_that_is_no_shell() -> int:
    try:
        return next((process.pid for process in psutil.Process().parents() if process.name() not in _SHELLS), 1)
    except psutil.NoSuchProcess:
        return os.getppid()
