"""The folder of programs that have no file system of their own: whatever they leave there goes."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make() -> str:
    """A new folder; in /tmp, which other users may enter too."""
    return tempfile.mkdtemp(prefix="t2-sandbox-", dir="/tmp")


def empty(folder: str) -> None:
    """Removes all that is in a folder in which nobody is at work.

    Folders within folders are moved up before they are emptied: a tree may be deeper than a path may be long, than
    functions may call each other, and than a process may hold folders open.

    Raises:
        OSError: ``folder`` is none, or is someone else's.
    """
    attic_name, numbers = os.urandom(16).hex(), itertools.count()
    with _opened(folder) as top:
        os.mkdir(attic_name, 0o700, dir_fd=top)
        with _opened(attic_name, top) as attic:

            def clear(within: int) -> None:
                for entry in list(os.scandir(within)):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=within)
                    elif entry.name != attic_name:
                        os.chmod(entry.name, 0o700, dir_fd=within)  # else it cannot be moved
                        os.rename(entry.name, str(next(numbers)), src_dir_fd=within, dst_dir_fd=attic)

            clear(top)
            while waiting := os.listdir(attic):
                for name in waiting:
                    with _opened(name, attic) as inner:
                        clear(inner)
                    os.rmdir(name, dir_fd=attic)
        os.rmdir(attic_name, dir_fd=top)


def exceeds(folder: str, size: int, entries: int) -> bool:
    """Whether a folder, seen while programs may be at work in it, holds more than ``size`` bytes or ``entries``.

    What cannot be looked into counts as too much: no honest program shuts its folders.
    """
    waiting = [folder]
    while waiting:
        try:
            for entry in os.scandir(waiting.pop()):
                entries -= 1
                size -= 512 * entry.stat(follow_symlinks=False).st_blocks
                if size < 0 or entries < 0:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
        except FileNotFoundError:  # it went meanwhile
            continue
        except OSError:
            return True
    return False


def remove(folder: str) -> None:
    """Removes a folder and all that is in it; one that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        try:
            empty(folder)
        except NotADirectoryError:  # a program without walls put a link there: what it points at is not ours
            os.unlink(folder)
        else:
            os.rmdir(folder)


@contextlib.contextmanager
def _opened(folder: str, within: int | None = None) -> Iterator[int]:
    """A descriptor of a folder, which may have lost its permissions, but never of what a link points at."""
    path = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        os.chmod(f"/proc/self/fd/{path}", 0o700)
        fd = os.open(".", _FOLDER, dir_fd=path)
    finally:
        os.close(path)
    try:
        yield fd
    finally:
        os.close(fd)
