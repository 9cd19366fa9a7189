"""The few kernel calls that Python 3.11 has no function for, through ctypes."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

# One number on every architecture: system calls are numbered alike since 5.1.
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("folder", ctypes.c_int32)]


_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces (pid: its next children)."""
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount ``source`` on ``target``."""
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _checked(_libc.mount(*arguments), f"mount({kind or source} on {target})")


def make_read_only(path: str) -> None:
    """Make the mount at ``path`` and everything below it read-only, without devices and set-uid programs."""
    attributes = _MountAttributes(MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    arguments = (-100, path.encode(), _AT_RECURSIVE, ctypes.byref(attributes), ctypes.c_size_t(32))
    _checked(_libc.syscall(_MOUNT_SETATTR, *arguments), f"mount_setattr({path})")


def pivot_root(new: str) -> None:
    """Make the mount at ``new`` the root of this mount namespace and let go of the old one."""
    os.chdir(new)
    _checked(_libc.pivot_root(b".", b"."), f"pivot_root({new})")
    _checked(_libc.umount2(b".", MNT_DETACH), "umount2(old root)")
    os.chdir("/")


def prctl(option: int, value: int = 0, pointer: object = None) -> None:
    """Set an attribute of the calling process."""
    arguments = (option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))
    _checked(_libc.prctl(*arguments), f"prctl({option})")


def drop_capabilities() -> None:
    """Give up every capability; together with no_new_privs nothing brings one back."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def landlock_abi() -> int:
    """Version of the kernel's Landlock interface; raises OSError where there is none."""
    return _checked(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1), "landlock_create_ruleset")


def landlock(handled: int, rules: list[tuple[str, int]], network: int = 0, scoped: int = 0) -> None:
    """Restrict this process and its children to ``rules``, pairs of a path and the rights beneath it."""
    # An older kernel accepts the longer structure as long as what it does not know is zero.
    ruleset = _Ruleset(handled, network, scoped)
    size = ctypes.c_size_t(ctypes.sizeof(ruleset))
    fd = _checked(_libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), size, 0), "landlock_create_ruleset")
    try:
        for path, rights in rules:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = _PathBeneath(rights, folder)
                arguments = (fd, 1, ctypes.byref(rule), 0)
                _checked(_libc.syscall(_LANDLOCK_ADD_RULE, *arguments), f"landlock_add_rule({path})")
            finally:
                os.close(folder)
        _checked(_libc.syscall(_LANDLOCK_RESTRICT_SELF, fd, 0), "landlock_restrict_self")
    finally:
        os.close(fd)
