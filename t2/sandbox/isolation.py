"""The walls around a program and its tests, built by the processes that are going to live inside.

Two kinds of walls. ``namespaces``: :func:`enter_namespaces` gives the server a root folder that holds the
standard library and nothing else; :func:`enter_jail` gives a program namespaces of its own within, which end
with it. ``landlock``, where namespaces are refused: file rights alone, with the strict system-call filter for
the rest. A third, ``none``, has only the limits and whatever filter the kernel takes. :data:`MODES` says what
each of them lacks.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import resource
import sys
from collections.abc import Iterator
from typing import TypedDict

from . import syscalls
from .syscalls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER

MODES = {
    "namespaces": "",
    "landlock": (
        "programs see which files and processes exist, and how large and old they are; files all together reach their "
        "limit a moment late; a program fails that starts a process, sends a signal, opens a socket, changes "
        "permissions or times of files, or writes to /tmp by that name"
    ),
    "none": "programs and tests read and write whatever files the user may; the same programs fail as with landlock",
}
"""The walls, best first: what they let through, and which honest programs fail behind them alone."""

MOST_FILES = 1024
"""Files and folders of one program."""

SHORTAGE = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""Errors of a machine that is short of something now: they say nothing about the walls that it has."""

_NOBODY = 65534
_FIRST_FD = 40  # out of the way of pipes
# Far above the users that a system knows, so that no process of anyone else has the same one.
_FIRST_UID = 1_800_000_000
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_WRITE_FILE, _READ_FILE, _READ_FOLDER, _REFER, _TRUNCATE, _IOCTL = (
    1 << 1,
    1 << 2,
    1 << 3,
    1 << 13,
    1 << 14,
    1 << 15,
)


class Limits(TypedDict):
    """What one program may use, all of its processes together."""

    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    file_mb: int
    processes: int
    output_kb: int


def libraries() -> list[str]:
    """Folders that a program may read: the standard library and the shared libraries it is linked to."""
    folders = {os.path.realpath(folder) for folder in (os.path.dirname(os.__file__), *_LIBRARIES)}
    folders = {folder for folder in folders if os.path.isdir(folder)}
    return sorted(f for f in folders if not any(f.startswith(other + "/") for other in folders))


def hold_libraries() -> dict[str, int]:
    """A descriptor of each of :func:`libraries`, for :func:`reach_libraries`."""
    held = {}
    for folder in libraries():
        low = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        held[folder] = fcntl.fcntl(low, fcntl.F_DUPFD, _FIRST_FD)
        os.close(low)
    return held


def reach_libraries(held: dict[str, int]) -> dict[str, int | None]:
    """Has this process import by descriptor what it cannot by name, now that it is no longer root.

    An interpreter may lie in root's home, which nobody else may enter; a descriptor leads there still.

    Args:
        held: What :func:`hold_libraries` gave to root.

    Returns:
        The paths where libraries can be read, each with the descriptor that has to stay open for it.
    """
    found: dict[str, int | None] = {}
    for folder, fd in held.items():
        if os.access(folder, os.R_OK | os.X_OK):
            found[folder] = None
            continue
        way = f"/proc/self/fd/{fd}"
        found[way] = fd
        sys.path[:] = [way + path[len(folder) :] if f"{path}/".startswith(f"{folder}/") else path for path in sys.path]
    return found


def drop_root(proc: int, folder: str | None = None) -> None:
    """Root becomes an ordinary user that nobody else is, and the owner of ``folder``."""
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
    except PermissionError:  # root in name only, of a user namespace that has one user
        return
    for user in (_FIRST_UID + int(os.readlink("self", dir_fd=proc)), _NOBODY):
        try:
            if folder:
                os.chown(folder, user, user)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            break
        except OSError:  # a container may know the first 65536 users only
            if user == _NOBODY:
                raise
    # Changing users hides /proc/self from its own process, which has to write its user map there.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def enter_namespaces() -> None:
    """Leave the machine's namespaces; pid: the next child does. Works as root or where users may do so."""
    flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC
    if os.geteuid() == 0:
        syscalls.unshare(flags)
    else:
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        _new_user_namespace(flags, proc)
        os.close(proc)


def enter_root(proc: int) -> None:
    """Swap the root folder for libraries, /dev/null and an empty /tmp, all read-only; then drop root."""
    root = "/tmp"
    mirrored = libraries()
    links = {path: os.readlink(path) for path in _LIBRARIES if os.path.islink(path)}
    # The machine's mounts must not learn of ours.
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    # A scratch mount covers /tmp, so a library below the old /tmp is bound through a descriptor.
    sources = {path: os.open(path, os.O_PATH) for path in [*mirrored, "/dev/null"]}
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("tmpfs", root, "tmpfs", flags, "size=64k,mode=755")
    for path, fd in sources.items():
        target = root + path
        if path == "/dev/null":
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o666))
        else:
            os.makedirs(target, exist_ok=True)
        syscalls.mount(f"/proc/self/fd/{fd}", target, "", syscalls.MS_BIND | syscalls.MS_REC)
        os.close(fd)
        if path != "/dev/null":
            syscalls.make_read_only(target)
    for path, target in links.items():
        if not os.path.lexists(root + path):
            os.symlink(target, root + path)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    syscalls.pivot_root(root)
    syscalls.mount("none", "/", "", flags | syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
    if os.geteuid() == 0:
        drop_root(proc)
        _new_user_namespace(CLONE_NEWNS, proc)


def enter_jail(proc: int, limits: Limits) -> None:
    """Give this process namespaces of its own and an empty /tmp; pid: its next child is the first in it."""
    _new_user_namespace(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC, proc)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    options = f"size={limits['file_mb']}m,nr_inodes={MOST_FILES},mode=700"
    syscalls.mount("tmpfs", "/tmp", "tmpfs", flags, options)
    os.chdir("/tmp")


def restrict_files(readable: list[str], writable: str) -> None:
    """Leave this process ``readable`` folders and one ``writable``, by Landlock, and no TCP if it can.

    Raises:
        OSError: the kernel has no Landlock, or it is refused.
    """
    abi = syscalls.landlock_abi()
    files = (1 << 13) - 1
    files |= (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (_IOCTL if abi >= 5 else 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    rules = [(folder, _READ_FILE | _READ_FOLDER) for folder in readable]
    null = _READ_FILE | _WRITE_FILE | (files & _TRUNCATE)
    rules += [("/dev/null", null), (writable, files)]
    syscalls.landlock(files, rules, network=3 if abi >= 4 else 0, scoped=3 if abi >= 6 else 0)


def set_limits(limits: Limits, *, processes: bool) -> None:
    """Bind this process and its children. Hard limits equal soft ones, so nobody raises them again.

    The kernel counts ``processes`` by user and user namespace: only where a program has its own does the
    number mean the program's. Elsewhere the strict system-call filter allows no second process at all.
    """
    values = {
        resource.RLIMIT_CPU: math.ceil(limits["cpu_seconds"]),
        resource.RLIMIT_AS: limits["memory_mb"] << 20,
        resource.RLIMIT_FSIZE: limits["file_mb"] << 20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if processes:
        values[resource.RLIMIT_NPROC] = limits["processes"] + 1  # the referee is one more in there
    for what, value in values.items():
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def descendants(proc: int, parent: str = "self") -> Iterator[str]:
    """Pids, as the /proc at ``proc`` counts them, of all processes below ``parent``."""
    try:
        tasks = _open(proc, f"{parent}/task", os.O_DIRECTORY)
        try:
            numbers = os.listdir(tasks)
        finally:
            os.close(tasks)
        for task in numbers:
            for child in _read(proc, f"{parent}/task/{task}/children").split():
                yield child
                yield from descendants(proc, child)
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return


def memory_mb(proc: int) -> float:
    """Private memory of all descendants together, in MiB."""
    pages = 0
    for pid in descendants(proc):
        try:
            _, resident, shared, *_ = _read(proc, f"{pid}/statm").split()
            pages += int(resident) - int(shared)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * resource.getpagesize() / 2**20


def _new_user_namespace(others: int, proc: int) -> None:
    user, group = os.geteuid(), os.getegid()
    syscalls.unshare(CLONE_NEWUSER | others)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        fd = _open(proc, f"self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


def _open(proc: int, path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, dir_fd=proc)


def _read(proc: int, path: str) -> str:
    fd = _open(proc, path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16).decode()
    finally:
        os.close(fd)
