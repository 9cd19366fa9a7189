"""Seeded sampling in vLLM, with the random numbers that the transformers engine samples with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from t2.engine.decode import sample_tokens

UNIFORMS, TEMPERATURE = "t2_uniforms", "t2_temperature"
"""Keys of ``SamplingParams.extra_args``: a reply's row of ``uniform_numbers``, and the temperature (> 0)."""


class SeededSampling(LogitsProcessor):
    """Leaves the token that a request's own uniform number falls on as the only one that greedy sampling can take.

    vLLM's own seeded sampling uses other numbers, and its log-probabilities are taken before processors run,
    at temperature 1, as the protocol has them.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, tuple[list[float], float, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError unless there is one uniform number for each token that the reply may have."""
        given = sampling_params.extra_args or {}
        if UNIFORMS in given and len(given[UNIFORMS]) != sampling_params.max_tokens:
            raise ValueError(
                f"{len(given[UNIFORMS])} uniforms for max_tokens={sampling_params.max_tokens}; pass one per token"
            )

    def is_argmax_invariant(self) -> bool:
        """It is not: it decides."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests through the rows of the batch."""

        def uniforms_of(
            params: SamplingParams, _: Any, output: list[int]
        ) -> tuple[list[float], float, list[int]] | None:
            given = params.extra_args or {}
            return (given[UNIFORMS], given[TEMPERATURE], output) if UNIFORMS in given else None

        process_dict_updates(self._requests, batch_update, uniforms_of)

    def apply(self, logits: Tensor) -> Tensor:
        """Edits the rows of requests with uniform numbers in logits (B, V)."""
        if not self._requests:
            return logits
        rows = list(self._requests)
        # The step is the output's length: a row of an unfinished prompt is sampled too, and thrown away.
        uniforms = [[uniforms[min(len(output), len(uniforms) - 1)]] for uniforms, _, output in self._requests.values()]
        temperatures = logits.new_tensor([[temperature] for _, temperature, _ in self._requests.values()])
        chosen = sample_tokens(
            logits[rows].float() / temperatures, torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
        )
        # What is no number stays so, for t2.engine.vllm_svf.guard to see.
        kept = torch.where(logits[rows].isnan().any(1), torch.nan, 0.0).to(logits.dtype)
        logits[rows] = -torch.inf
        logits[rows, chosen] = kept
        return logits
