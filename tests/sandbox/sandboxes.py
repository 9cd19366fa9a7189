"""Sandboxes of the tests, callers that have given up some rights among them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from t2 import config
from t2.sandbox import Program, isolation

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS = config.rows.Sandbox(
    cpu_seconds=1.0,
    wall_seconds=1.2,
    memory_mb=256,
    file_mb=2,
    processes=8,
    output_kb=64,
    symbolic_seconds=5,
    allow_unsafe=False,
)
HONEST = Program("def f(x):\n    return x + 1\n", "assert f(1) == 2\n")


def below(pid: int | str = "self") -> list[int]:
    """Descendants of ``pid``; of this process, those of its sandboxes."""
    proc = os.open("/proc", os.O_RDONLY)
    try:
        return [int(child) for child in isolation.descendants(proc, str(pid))]
    finally:
        os.close(proc)


def gone(pids: list[int]) -> bool:
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# Other callers: each runs in a process of its own, which may first give up some rights.

PREAMBLE = f"""
import errno, logging, os, sys
from pathlib import Path
from t2 import config
from t2.sandbox import Program, Sandbox, SandboxError, isolation, seccomp, syscalls
from t2.sandbox.seccomp import _EQUAL, _FAIL, _LOAD, _RETURN, _ALLOW, _instruction

logging.basicConfig(format="%(message)s")
LIMITS = config.rows.Sandbox(**{LIMITS.model_dump()!r})
HONEST = Program({HONEST.code!r}, {HONEST.tests!r})

def refuse(*numbers, answer=_FAIL | errno.EPERM):
    code = _instruction(_LOAD, 0)
    for number in numbers:
        code += _instruction(_EQUAL, number, 0, 1) + _instruction(_RETURN, answer)
    seccomp.install(code + _instruction(_RETURN, _ALLOW))

def become_ordinary():
    if os.getuid() != 0:
        return
    # What the interpreter needs may lie in root's home: show it in a private view of the files.
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    folders = {{path: os.open(path, os.O_PATH) for path in (sys.base_prefix, sys.prefix, os.getcwd())}}
    closed = {{str(p) for path in folders for p in Path(path).parents if not p.stat().st_mode & 1}}
    for top in sorted(closed, key=len)[:1]:
        syscalls.mount("tmpfs", top, "tmpfs", 0, "mode=755")
        for path, fd in folders.items():
            if path.startswith(top + "/"):
                os.makedirs(path, exist_ok=True)
                syscalls.mount(f"/proc/self/fd/{{fd}}", path, "", syscalls.MS_BIND | syscalls.MS_REC)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)

ARM = os.uname().machine == "aarch64"
UNSHARE, PIVOT_ROOT, CAPSET, LANDLOCK = 97 if ARM else 272, 41 if ARM else 155, 91 if ARM else 126, 444
KILL = 0x80000000
"""


def script(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(body)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(body: str) -> tuple[str, str]:
    process = script(body)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err
