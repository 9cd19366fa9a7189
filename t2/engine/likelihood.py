"""Log-likelihoods of given replies, in one pass over prompt and reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def loglikelihoods(model: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> Tensor:
    """What a model gives to one reply for each prompt.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of B prompts, each at least one.
        replies: Token ids of their replies, each at least one.

    Returns:
        Log-probabilities at temperature 1, summed over a reply's tokens: (B,) float32, in nats.
    """
    width = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    longest = max(map(len, replies))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask, counted = torch.zeros_like(ids), torch.zeros(len(prompts), longest)
    # Padded on the left, so that every reply ends in the last column.
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids[row, width - len(prompt) - len(reply) :] = torch.tensor([*prompt, *reply])
        mask[row, width - len(prompt) - len(reply) :] = 1
        counted[row, longest - len(reply) :] = 1
    ids, mask, counted = (tensor.to(model.device) for tensor in (ids, mask, counted))
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=longest + 1,
    ).logits[:, :-1]
    logits = logits.float()
    chosen = logits.gather(2, ids[:, -longest:, None])[..., 0]
    return ((chosen - logits.logsumexp(2)) * counted).sum(1)
