"""Seeded draws in vLLM, with the numbers that the transformers engine draws with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from t2.engine.decode import look_up

DRAWS, TEMPERATURE = "t2_draws", "t2_temperature"
"""Keys of ``SamplingParams.extra_args``: a reply's row of ``uniform_draws``, and the temperature (> 0)."""


class Draws(LogitsProcessor):
    """Leaves the token that a request's own draw falls on as the only one that greedy sampling can take.

    vLLM's own seeded sampling draws other numbers, and its log-probabilities are taken before processors run,
    at temperature 1, as the protocol has them.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, tuple[list[float], float, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError unless there is one draw for each token that the reply may have."""
        given = sampling_params.extra_args or {}
        if DRAWS in given and len(given[DRAWS]) != sampling_params.max_tokens:
            raise ValueError(f"{len(given[DRAWS])} draws for max_tokens={sampling_params.max_tokens}; pass one a token")

    def is_argmax_invariant(self) -> bool:
        """It is not: it decides."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests through the rows of the batch."""

        def draws_of(params: SamplingParams, _: Any, output: list[int]) -> tuple[list[float], float, list[int]] | None:
            given = params.extra_args or {}
            return (given[DRAWS], given[TEMPERATURE], output) if DRAWS in given else None

        process_dict_updates(self._requests, batch_update, draws_of)

    def apply(self, logits: Tensor) -> Tensor:
        """Edits the rows of requests with draws in logits (B, V)."""
        if not self._requests:
            return logits
        rows = list(self._requests)
        # The step is the output's length: a row of an unfinished prompt is sampled too, and thrown away.
        draws = [[draws[min(len(output), len(draws) - 1)]] for draws, _, output in self._requests.values()]
        temperatures = logits.new_tensor([[temperature] for _, temperature, _ in self._requests.values()])
        chosen = look_up(
            logits[rows].float() / temperatures, torch.tensor(draws, dtype=torch.float64, device=logits.device)
        )
        # What is no number stays so, for t2.engine.vllm_svf.guard to see.
        kept = torch.where(logits[rows].isnan().any(1), torch.nan, 0.0).to(logits.dtype)
        logits[rows] = -torch.inf
        logits[rows, chosen] = kept
        return logits
