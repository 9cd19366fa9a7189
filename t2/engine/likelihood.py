"""Log-likelihoods of given replies: one pass over each prompt, one over the replies to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@torch.inference_mode()
def loglikelihoods(
    model: Any,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    prompt_of: Sequence[int],
    on_replies: Callable[[], object] | None = None,
) -> Tensor:
    """What a model gives to replies, several of which may belong to one prompt.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of B prompts, each at least one.
        replies: Token ids of R replies, each at least one.
        prompt_of: For each reply, the index of its prompt.
        on_replies: Called between the two passes, when the batch is no longer the prompts but the replies.

    Returns:
        Log-probabilities at temperature 1, summed over a reply's tokens: (R,) float32, in nats.
    """
    width, longest = max(map(len, prompts)), max(map(len, replies))
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    # Padding behind a reply changes nothing before it.
    chosen, counted = torch.zeros(len(replies), longest, dtype=torch.long), torch.zeros(len(replies), longest)
    for row, reply in enumerate(replies):
        chosen[row, : len(reply)] = torch.tensor(reply)
        counted[row, : len(reply)] = 1
    ids, mask, chosen, counted = (tensor.to(model.device) for tensor in (ids, mask, chosen, counted))
    of = torch.tensor(prompt_of)
    cache = DynamicCache(config=model.config)
    first = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    cache.batch_select_indices(of)  # from the CPU: layers may lie on several devices
    of = of.to(model.device)
    if on_replies:
        on_replies()
    logits = first[of].float()
    if longest > 1:
        rest = model(
            input_ids=chosen[:, :-1],
            attention_mask=torch.cat([mask[of], torch.ones_like(chosen[:, :-1])], 1),
            position_ids=mask.sum(1, keepdim=True)[of] + torch.arange(longest - 1, device=model.device),
            past_key_values=cache,
            use_cache=True,
        ).logits
        logits = torch.cat([logits, rest.float()], 1)
    found = logits.gather(2, chosen[..., None])[..., 0] - logits.logsumexp(2)
    return (found * counted).sum(1)
