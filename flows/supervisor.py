"""Runs one command in a process group of its own, which ends with whoever started this.

``python -I supervisor.py <grace seconds> <command> …``. Whoever starts it holds a pipe to its standard input
and never writes. When that pipe closes (the holder was killed, in whatever way) or SIGTERM comes, the group
gets SIGTERM and, after the grace, SIGKILL. Standard library only: it starts in a few milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Returns the command's exit status, as shells write it: 128 + n where signal n ended it."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    asked, ask = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(ask, b"t"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the holder decides
    libc = ctypes.CDLL(None)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # were this process killed itself
    )
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([sys.stdin.fileno(), asked, ended], [], [])
    # The rest of the group goes after its leader too: nothing of a stage writes on when the stage has ended.
    deadline = time.monotonic() + (0.0 if ended in ready else grace)
    _signal(child.pid, signal.SIGTERM)
    while _exists(child.pid) and time.monotonic() < deadline:
        child.poll()
        time.sleep(0.02)
    _signal(child.pid, signal.SIGKILL)
    status = child.wait()
    return status if status >= 0 else 128 - status


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
