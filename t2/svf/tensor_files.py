"""Files of tensors as they come from elsewhere: whole, or an error that names the file and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2.files import damaged


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
        raise damaged(path, "whole safetensors file", error) from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name; raises as :func:`open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
