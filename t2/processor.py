"""What a program computes on: the last bits of its results are those of this kind of processor."""

from __future__ import annotations

import platform
import sys
from pathlib import Path


def central() -> str:
    """The model of the CPU, and the vector instructions that torch uses on it, where torch was imported."""
    torch = sys.modules.get("torch")
    return " ".join([_model(), *([torch.backends.cpu.get_cpu_capability()] if torch else [])])


def computed_on(device: str) -> str | None:
    """What a model ran on: the GPUs by name, or the CPU; None for a program that has not imported torch.

    Args:
        device: As ``execution.device``.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if device != "cpu" and torch.cuda.is_available():
        names = (torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count()))
        return ", ".join(dict.fromkeys(names))
    return central()


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
