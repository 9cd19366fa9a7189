"""Mixtures of LoRA adapters, to set beside SVF's: W' = W + Σ_k w_k ΔW_k (paper, section 3.2, on composability)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from t2.config.rows import Base
from t2.engine.base import Generation, Progress, Sampling, check_rows
from t2.engine.hf import HfEngine
from t2.engine.select import load, vision
from t2.svf.experts import Z
from t2.svf.pretrained import load_adapter
from t2.tasks.prompt import Prompt

_Result = TypeVar("_Result")
_WEIGHTS = "weights"


def coordinates(names: Sequence[str]) -> dict[str, Z]:
    """Adapters as what :func:`t2.svf.mix_population` mixes: an axis each, so that a mixture of them is its weights.

    Args:
        names: Of K adapters.

    Returns:
        By name, the one entry that :class:`WeightedAdapters` reads, (K,).
    """
    axes = torch.eye(len(names))
    return {name: {_WEIGHTS: axis} for name, axis in zip(names, axes, strict=True)}


class WeightedAdapters(HfEngine):
    """Answers prompts under weighted sums of LoRA adapters, one sum after the other.

    Experts are mixtures of :func:`coordinates`: weights (P, K).
    """

    def __init__(self, base: Base, folders: Sequence[Path], *, device: str, batch: int) -> None:
        """Loads a base with K adapters.

        Args:
            base: The base model.
            folders: Where the adapters lie, in the order of their axes.
            device: As ``execution.device``.
            batch: Prompts side by side.

        Raises:
            ValueError: An adapter is of another method, or was made for another model.
        """
        model, tokenizer = load(base, device)
        adapted: Any = load_adapter(model, folders[0])
        self._names = [str(adapted.active_adapter)]
        for folder in folders[1:]:
            self._names.append(f"member-{len(self._names)}")
            fit = adapted.load_adapter(str(folder), self._names[-1])
            if fit.missing_keys or fit.unexpected_keys:
                raise ValueError(f"{folder} does not fit {base.path}, or is damaged; train or copy it again")
        self._layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
        if not self._layers:
            raise ValueError(f"{folders[0]} holds no LoRA adapter; only LoRA's are summed")
        # Active together, each adds its part to what a layer gives.
        adapted.base_model.set_adapter(self._names, inference_mode=True)
        super().__init__(adapted.eval(), tokenizer, batch_size=batch, vision=vision(base, adapted))

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Answers prompts, in their order; see :meth:`t2.engine.base.Engine.generate`."""
        ask = super().generate
        return self._row_by_row(
            lambda own: ask([prompts[i] for i in own], sampling, progress=progress), prompts, experts, rows
        )

    def read(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """How likely given replies are, token by token; see :meth:`t2.engine.base.Engine.read`."""
        ask = super().read
        return self._row_by_row(
            lambda own: ask([prompts[i] for i in own], [replies[i] for i in own]), prompts, experts, rows
        )

    def _row_by_row(
        self,
        ask: Callable[[Sequence[int]], Sequence[_Result]],
        prompts: Sequence[Prompt],
        experts: Mapping[str, Tensor] | None,
        rows: Sequence[int] | None,
    ) -> list[_Result]:
        check_rows(prompts, experts, rows)
        if experts is None or rows is None:
            raise ValueError("a mix of adapters needs their weights; pass experts and rows")
        found: dict[int, _Result] = {}
        for row in dict.fromkeys(rows):
            weights = [0.0] * len(self._names) if row < 0 else experts[_WEIGHTS][row].tolist()
            for layer in self._layers:
                for name, weight in zip(self._names, weights, strict=True):
                    layer.set_scale(name, weight)
            own = [place for place, of in enumerate(rows) if of == row]
            found |= zip(own, ask(own), strict=True)
        return [found[place] for place in range(len(prompts))]
