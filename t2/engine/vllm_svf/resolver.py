"""Experts and their mixes as model names of vLLM's OpenAI server: ``svf:math``, ``svf:math=0.3,code=0.7``."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from t2.engine.vllm_svf.slots import BASIS_VARIABLE, EXPERTS_VARIABLE, write_slot
from t2.svf import BasisCache, Expert, load_expert, mix

PREFIX = "svf:"


class ExpertResolver(LoRAResolver):
    """Turns names into adapters, z' = Σ α_k z_k; what it cannot read or does not know is no model (404)."""

    def __init__(self, experts: Mapping[str, Expert], basis: BasisCache) -> None:
        """Checks the experts against the basis.

        Raises:
            ValueError: An expert was made for other base weights.
        """
        for expert in experts.values():
            try:
                expert.check(basis.matrices, str(basis.folder), quantisation=expert.provenance.get("quantisation"))
            except ValueError as error:
                raise ValueError(f"{error}; name experts of the served model in {EXPERTS_VARIABLE}") from None
        self._experts = experts
        self._folder = tempfile.TemporaryDirectory(prefix="t2-served-")

    @classmethod
    def from_environment(cls) -> ExpertResolver | None:
        """With the experts that the environment names (``name=folder,…``); None where it names none.

        Raises:
            ValueError: An entry is malformed, a folder holds no expert, or there is no basis cache.
        """
        if EXPERTS_VARIABLE not in os.environ:
            return None
        folders = [entry.split("=", 1) for entry in os.environ[EXPERTS_VARIABLE].split(",")]
        if any(len(entry) != 2 or not all(entry) for entry in folders):
            raise ValueError(
                f"{EXPERTS_VARIABLE} is {os.environ[EXPERTS_VARIABLE]!r}; it must be name=folder, more behind commas"
            )
        basis = BasisCache.open(os.environ.get(BASIS_VARIABLE, f"${BASIS_VARIABLE}"))
        return cls({name: load_expert(folder) for name, folder in folders}, basis)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter that a name means, or None; vLLM calls this once a name and numbers the adapter itself."""
        alpha = self._read(lora_name)
        if alpha is None:
            return None
        experts = [self._experts[name].z for name in alpha]
        z = mix(experts, torch.tensor(list(alpha.values())), form="free", renormalise=False)
        return LoRARequest(lora_name, 1, str(write_slot(z, Path(self._folder.name))))

    def _read(self, name: str) -> dict[str, float] | None:
        """The α that a name spells out, by expert."""
        alpha: dict[str, float] = {}
        for entry in name.removeprefix(PREFIX).split(","):
            expert, equals, weight = entry.partition("=")
            try:
                alpha[expert] = float(weight) if equals else 1.0
            except ValueError:
                return None
        whole = name.startswith(PREFIX) and len(alpha) == name.count(",") + 1
        finite = all(math.isfinite(weight) for weight in alpha.values())
        return alpha if whole and finite and alpha.keys() <= self._experts.keys() else None
