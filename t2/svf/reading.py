"""Files of tensors and JSON as they come from elsewhere: whole, or an error that names the file and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

_LFS = b"version https://git-lfs"


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Opens a safetensors file, whose tensors are then read one by one; its length is checked against its header.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is a Git LFS pointer, cut, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise _unreadable(path, "whole safetensors file", error) from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name; raises as :func:`open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_object(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is a Git LFS pointer, cut, no UTF-8, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "whole JSON file", error) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}; expected an object")
    return found


def _unreadable(path: str | Path, kind: str, error: Exception) -> ValueError:
    with open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return ValueError(f"{path} is a Git LFS pointer, not the file itself; `git lfs pull` fetches it")
    return ValueError(f"{path} is no {kind} ({error}); copy or fetch it again")
