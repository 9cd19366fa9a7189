"""The decode loop: one batch of prompts, a key-value cache, and samples that leave when they have ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from t2.engine.base import Sampling

DROP_SHARE = 1 / 8
"""Ended samples leave once they are this share of the batch: each time, the whole cache is copied."""


Look = Callable[[Tensor], Mapping[str, Tensor]]
"""Makes what a model is given of the token ids (B, T) of prompts, and of what these show."""


def as_ids(ids: Tensor) -> dict[str, Tensor]:
    """What a model of text is given."""
    return {"input_ids": ids}


def last(model: Any, count: int = 1) -> int | Tensor:
    """What a model's ``logits_to_keep`` takes for the last positions, in the form that its output layer is fast for.

    A number makes a slice, which is not contiguous in a batch: in 16 bits PyTorch then copies the output layer's weight
    for each prompt. Indices make a copy of the states. In float32 the slice costs little, and its last bits are kept.
    """
    return torch.arange(-count, 0) if model.dtype.itemsize == 2 else count


class Decoded(NamedTuple):
    """A decoded batch; what stands behind a sample's length is void.

    Attributes:
        tokens: (B, max_new_tokens) int64.
        logprobs: Their log-probabilities at temperature 1, (B, max_new_tokens) float32.
        lengths: Tokens of each reply, what ended it included: (B,) int64.
    """

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor


def uniform_numbers(prompts: int, sampling: Sampling) -> Tensor:
    """All random numbers of a call, in [0, 1), (prompts, max_new_tokens); (prompts, 0) where greedy.

    Made beforehand, so that a sample's numbers do not depend on the batch it is in or on who else is in it.
    """
    steps = sampling.max_new_tokens if sampling.temperature > 0 else 0
    generator = torch.Generator().manual_seed(sampling.seed)
    return torch.rand(prompts, steps, dtype=torch.float64, generator=generator)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    ends: Collection[int],
    sampling: Sampling,
    uniforms: Tensor,
    on_drop: Callable[[Tensor], object] | None = None,
    stopped: Callable[[Sequence[Sequence[int]]], list[bool]] | None = None,
    look: Look = as_ids,
) -> Decoded:
    """Decodes one batch until every sample has ended or has ``max_new_tokens``.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of B samples; padded here, on the left.
        ends: Ids of end-of-sequence tokens.
        sampling: How tokens are chosen.
        uniforms: The samples' rows of :func:`uniform_numbers`.
        on_drop: Called with the indices in the batch, int64 on the CPU, of those who remain after some left.
        stopped: Tells by their token ids which replies end though their last token is no end token.
        look: What the model is given of the prompts; of the replies, it is given tokens.
    """
    device = model.device
    width, steps = max(map(len, prompts)), sampling.max_new_tokens
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.ones(len(prompts), width + steps, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, : width - len(prompt)] = 0
    ids, mask, uniforms = ids.to(device), mask.to(device), uniforms.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    end_ids = torch.tensor(sorted(ends), device=device)
    tokens = torch.zeros(len(prompts), steps, dtype=torch.long, device=device)
    logprobs = torch.zeros(len(prompts), steps, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    cache = DynamicCache(config=model.config)

    alive = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    past = 0
    for step in range(steps):
        now = width + step
        output = model(
            **(as_ids(ids) if step else look(ids)),
            attention_mask=mask[:, :now],
            position_ids=positions[:, past:now],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last(model),
        )
        logits = output.logits[:, -1].float()
        chosen = _choose(logits, sampling.temperature, uniforms[alive, step : step + 1])
        tokens[alive, step] = chosen
        logprobs[alive, step] = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
        lengths[alive] += ~ended
        ended |= torch.isin(chosen, end_ids)
        if stopped is not None:
            ended |= torch.tensor(stopped(tokens[alive, : step + 1].tolist()), device=device)
        count = int(ended.sum())
        if count == len(alive):
            break
        if count > DROP_SHARE * len(alive):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept.cpu())  # layers may lie on several devices
            alive, ended, chosen = alive[kept], ended[kept], chosen[kept]
            mask, positions = mask[kept], positions[kept]
            if on_drop:
                on_drop(alive.cpu())
        ids, past = chosen[:, None], now
    return Decoded(tokens, logprobs, lengths)


def _choose(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """The next token of each sample (B,) from logits (B, V): the likeliest, or one that is sampled."""
    return logits.argmax(1) if temperature == 0 else sample_tokens(logits / temperature, uniforms)


def sample_tokens(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Samples tokens (B,) from logits (B, V) by their inverse CDF at uniform numbers (B, 1), float64 in [0, 1)."""
    cdf = logits.softmax(1).cumsum(1, dtype=torch.float64)
    chosen = torch.searchsorted(cdf, uniforms * cdf[:, -1:], right=True)[:, 0]
    return chosen.clamp(max=logits.shape[1] - 1)
