"""Experts folded into the weights of a live vLLM engine: one at a time, each from the pristine base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from t2.engine.vllm.pushing import Pushing
from t2.engine.vllm_svf.slots import digest
from t2.svf import BasisCache


class Folded:
    """Runs the requests of one expert after those of another, each under W' (float32 arithmetic, rounded once).

    A push sends z; vLLM's workers make W' from it where the weights live, always from the checkpoint's weights and
    never from what the engine holds, so that the way back to the base is exact.
    """

    def __init__(self, checkpoint: Path, basis: BasisCache) -> None:
        """Nothing is read yet.

        Args:
            checkpoint: The base model's folder, with safetensors files.
            basis: Made from these weights in the engine's dtype.
        """
        self._checkpoint = checkpoint
        self._basis = basis
        self._live: str | None = digest({})

    def options(self) -> dict[str, Any]:
        """What ``vllm.LLM`` has to be called with."""
        return {"worker_extension_cls": f"{Pushing.__module__}.{Pushing.__qualname__}"}

    def start(self, llm: Any) -> None:
        """Takes over a fresh engine."""
        self._llm = llm
        llm.collective_rpc("open_base", args=(str(self._checkpoint.resolve()), str(self._basis.folder.resolve())))

    def batches(self, experts: Mapping[str, Tensor], rows: Sequence[int]) -> Iterator[tuple[list[int], None]]:
        """Pushes one expert after the other; yields the indices of its rows while it is live."""
        experts_in = sorted(set(rows))
        z = {row: {name: table[row] for name, table in experts.items()} if row >= 0 else {} for row in experts_in}
        for row in sorted(experts_in, key=lambda row: digest(z[row]) != self._live):
            self.push(z[row])
            yield [index for index, of in enumerate(rows) if of == row], None

    def push(self, z: Mapping[str, Tensor]) -> None:
        """Makes an expert live; {} is the base.

        Args:
            z: (r,) by module name; other modules become the base's.

        Raises:
            RuntimeError: A tensor did not arrive, or could not be made. The engine's weights are void until the next
                push.
        """
        name = digest(z)
        if name == self._live:
            return
        # Until the engine has answered, nobody knows what it holds.
        self._live = None
        packed = save({module: values.detach().to("cpu", torch.float32, copy=True) for module, values in z.items()})
        problems = [problem for problem in self._llm.collective_rpc("push", args=(packed,)) if problem]
        if problems:
            raise RuntimeError(f"an expert could not be pushed into vLLM's weights: {problems[0]}")
        # A cached prompt would otherwise be continued from keys and values of the old weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running; push between calls")
        self._live = name
