"""Experts in the adapter slots of a live vLLM engine: a batch mixes them, and no weight is pushed."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from t2.engine.vllm_svf.slots import CONFIG_KEY, slot_number, write_slot
from t2.svf import BasisCache, base_expert


class PerRequest:
    """Runs all requests side by side, each under its own expert.

    No weight W' is made: a layer adds U ((z − 1) ⊙ Uᵀ W x) to W x, or passes x + V ((z − 1) ⊙ Vᵀ x) to W, with the
    factor of the narrow side, as :class:`t2.svf.SvfLinear` does.
    """

    def __init__(self, basis: BasisCache, *, slots: int) -> None:
        """Nothing is read yet.

        Args:
            basis: Of the base model's weights, in the engine's dtype.
            slots: Different experts in one step of the engine; requests of further ones wait.
        """
        self._basis = basis
        self._slots = slots
        self._folder = tempfile.TemporaryDirectory(prefix="t2-experts-")

    def options(self) -> dict[str, Any]:
        """What ``vllm.LLM`` has to be called with."""
        return {
            "enable_lora": True,
            "max_lora_rank": 1,
            "max_loras": self._slots,
            "lora_target_modules": sorted({name.rpartition(".")[2] for name in self._basis}),
            "additional_config": {CONFIG_KEY: str(self._basis.folder.resolve())},
        }

    def start(self, llm: Any) -> None:
        """Takes over a fresh engine.

        Raises:
            ValueError: Its layers cannot hold experts for every matrix of the basis cache.
            RuntimeError: vLLM runs without our plugin.
        """
        from vllm import SamplingParams, TokensPrompt

        ones = base_expert({name: self._basis.load(name).sigma for name in self._basis})
        request = self._request(ones)
        # vLLM loads adapters at their first use, in the middle of a step: whatever is wrong shows here instead.
        llm.llm_engine.add_lora(request)
        once = SamplingParams(max_tokens=1, temperature=0.0, logprobs=0, detokenize=False)
        (output,) = llm.generate([TokensPrompt(prompt_token_ids=[0])], once, lora_request=request, use_tqdm=False)
        logprobs = [entry.logprob for step in output.outputs[0].logprobs or () for entry in step.values()]
        # None: t2.engine.vllm_svf.guard, where it runs, has ended the request.
        if not logprobs or math.isnan(logprobs[0]):
            raise RuntimeError(
                "vLLM took an expert for a true LoRA, so it runs without the plugin t2.engine.vllm_svf: its entry "
                "point is missing from what is installed (pip install -e . anew), or VLLM_PLUGINS leaves it out"
            )
        llm.llm_engine.remove_lora(request.lora_int_id)
        self._clear()

    def batches(self, experts: Mapping[str, Tensor], rows: Sequence[int]) -> Iterator[tuple[list[int], list[Any]]]:
        """All rows at once, with their adapters."""
        requests = {
            row: self._request({name: table[row] for name, table in experts.items()}) for row in set(rows) - {-1}
        }
        try:
            yield list(range(len(rows))), [requests.get(row) for row in rows]
        finally:
            self._clear()

    def _request(self, z: Mapping[str, Tensor]) -> Any:
        """An adapter whose name, number and path follow from z alone, as vLLM's caches go by these."""
        from vllm.lora.request import LoRARequest

        folder = write_slot(z, Path(self._folder.name))
        return LoRARequest(f"svf-{folder.name}", slot_number(folder.name), str(folder))

    def _clear(self) -> None:
        """Removes the files: within a call vLLM may evict an expert and read it again, later calls write anew."""
        for folder in Path(self._folder.name).iterdir():
            shutil.rmtree(folder)
