"""A system-call filter for programs and tests nobody vouches for.

Namespaces hide the machine, the filter closes what they leave open: memory that no limit counts (System V
shared memory, memory files), nested namespaces, and the corners of the kernel that a unit test never needs.
Where namespaces are refused, the ``strict`` filter stands in for them: no further process, signal, socket or
change of attributes. Tests are under the strict one everywhere, so that they do the same everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .syscalls import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENT, _SECOND = 0, 4, 16, 24
_X32_BIT = 0x40000000

_CLONE_THREAD = 0x10000
_CLONE_NAMESPACES = 0x7E020000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_KINDS = 1, 0xF
# fcntl's ways to have a descriptor send signals, to whomever and whichever.
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15

# Audit number of each architecture, and its column below (None: it has no such call).
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_setup": (206, 0), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "open_by_handle_at": (304, 265), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "syslog": (103, 116),
}  # fmt: skip

_DENIED_STRICTLY: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "setsid": (112, 157), "setpgid": (109, 154),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "file_setattr": (469, 469), "truncate": (76, 45),
    "shmat": (30, 196), "shmctl": (31, 195), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_unlink": (241, 181),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "process_mrelease": (448, 448),
}  # fmt: skip

_CLONE, _CLONE3, _PRCTL, _PRLIMIT, _SOCKET = (56, 220), (435, 435), (157, 167), (302, 261), (41, 198)
_SOCKETPAIR, _FCNTL = (53, 199), (72, 25)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def program(*, strict: bool) -> bytes:
    """The filter as Berkeley packet filter code for this machine.

    Raises:
        OSError: the machine's architecture has no table here.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system-call table for {machine}, only for {', '.join(_ARCHITECTURES)}")
    audit, column = _ARCHITECTURES[machine]
    deny = [_instruction(_RETURN, _FAIL | errno.EPERM)]
    allow = [_instruction(_RETURN, _ALLOW)]

    def when(call: tuple[int | None, int | None], then: list[bytes]) -> list[bytes]:
        number = call[column]
        return [] if number is None else [_instruction(_EQUAL, number, 0, len(then)), *then]

    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, audit, 1, 0),
        *deny,
        _instruction(_LOAD, _NUMBER),
        # The x32 interface of x86_64 numbers the same calls differently.
        _instruction(_AT_LEAST, _X32_BIT, 0, 1),
        *deny,
    ]
    for call in [*_DENIED.values(), *(_DENIED_STRICTLY.values() if strict else ())]:
        code += when(call, deny)
    # Its flags are in memory, out of a filter's sight; "not implemented" makes libc fall back to clone.
    code += when(_CLONE3, [_instruction(_RETURN, _FAIL | errno.ENOSYS)])
    flags = [_instruction(_LOAD, _ARGUMENT), _instruction(_ANY_BIT, _CLONE_NAMESPACES, 0, 1), *deny]
    if strict:
        flags += [_instruction(_ANY_BIT, _CLONE_THREAD, 1, 0), *deny]
    code += when(_CLONE, [*flags, *allow])
    code += when(
        _PRCTL,
        [_instruction(_LOAD, _ARGUMENT), _instruction(_EQUAL, PR_SET_PDEATHSIG, 0, 1), *deny, *allow],
    )
    code += when(
        _SOCKET,  # Others, such as AF_VSOCK, are not confined by a net namespace.
        [
            _instruction(_LOAD, _ARGUMENT),
            *(_instruction(_EQUAL, family, 3 - i, 0) for i, family in enumerate((_AF_UNIX, _AF_INET, _AF_INET6))),
            *deny,
            *allow,
        ],
    )
    if strict:
        code += when(_PRLIMIT, [_instruction(_LOAD, _ARGUMENT), _instruction(_EQUAL, 0, 1, 0), *deny, *allow])
        code += when(
            _SOCKETPAIR,  # One of a pair of datagram sockets sends to whatever address it is told.
            [
                _instruction(_LOAD, _ARGUMENT),
                _instruction(_EQUAL, _AF_UNIX, 1, 0),
                *deny,
                _instruction(_LOAD, _SECOND),
                _instruction(_AND, _SOCK_KINDS),
                _instruction(_EQUAL, _SOCK_STREAM, 1, 0),
                *deny,
                *allow,
            ],
        )
        commands = (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)
        owning = [_instruction(_EQUAL, command, len(commands) - i, 0) for i, command in enumerate(commands)]
        code += when(_FCNTL, [_instruction(_LOAD, _SECOND), *owning, *allow, *deny])
    return b"".join(code + allow)


def install(code: bytes) -> None:
    """Put this process and its children under ``code``, for good."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(_Filter(len(code) // 8, code)))


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
