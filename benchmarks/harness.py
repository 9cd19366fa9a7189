"""What the scripts of this folder share: options, prompts, random experts, seconds and peak memory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from t2.miniature.problems import generate

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def options(doc: str, **defaults: Any) -> argparse.Namespace:
    """Reads the command line: an option per default, of its type, or of a type and without a default.

    A list takes several, ``False`` becomes a switch, and ``threads`` is set.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        how: dict[str, Any] = {"default": default, "type": type(default)}
        if isinstance(default, type):
            how = {"type": default}
        elif isinstance(default, list):
            how |= {"nargs": "+", "type": type(default[0])}
        elif default is False:
            how = {"action": "store_true"}
        parser.add_argument(f"--{name.replace('_', '-')}", **how)
    chosen = parser.parse_args()
    torch.set_num_threads(getattr(chosen, "threads", torch.get_num_threads()))
    return chosen


def questions(families: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """``count`` prompts of the miniature's families, family after family."""
    each = -(-count // len(families))
    return [problem.fields["question"] for family in families for problem in generate(family, each, seed)][:count]


def random_experts(sigmas: Mapping[str, Tensor], count: int, seed: int = 0) -> dict[str, Tensor]:
    """z (count, r) by module name, near the base."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 1 + 0.1 * torch.randn(count, len(sigma), generator=generator) for name, sigma in sigmas.items()}


def in_turns(runs: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The best wall seconds of each, taken in turns, and what each returned last."""
    best, found = dict.fromkeys(runs, float("inf")), {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best, found


def mean_seconds(run: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Mean of some runs, after two that do not count: wall time on a GPU, processor time on a CPU."""
    clock = {"timer": time.process_time} if device == "cpu" else {}
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads(), **clock)
    return float(timer.timeit(repeats).mean)


def resident(field: str = "VmRSS") -> int:
    """Resident bytes now, or (``VmHWM``) at most since :func:`reset_peak`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def reset_peak(device: str = "cpu") -> None:
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str = "cpu") -> int:
    """Bytes of torch's allocator on a GPU, of resident memory on a CPU."""
    return resident("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()
