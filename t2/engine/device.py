"""Where a model runs."""

from __future__ import annotations

import torch


def find_device(name: str) -> str:
    """What ``execution.device`` means on this machine: ``"auto"`` is the GPU where there is one, else the CPU.

    CUDA starts here: a process that forks workers leaves the question to them.
    """
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
