"""How likely given texts are behind prompts, read from passes over the prompts, without decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from t2.engine.chat import shared_beginning
from t2.engine.decode import Look, as_ids, last


@torch.inference_mode()
def loglikelihoods(
    model: Any,
    prompts: Sequence[Sequence[int]],
    choices: Sequence[Sequence[int]],
    expert_of: Sequence[int] | None = None,
    on_batch: Callable[[Tensor], object] | None = None,
    look: Look = as_ids,
    alike: int | None = None,
) -> Tensor:
    """What a model gives to the same choices behind each of some prompts.

    What all prompts begin with is computed once for each expert, and all choices are read where the prompts end; only
    choices of several tokens need a second pass, over these tokens.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of B prompts, each at least one.
        choices: Token ids of C choices, each at least one.
        expert_of: The expert of each prompt, where they run under several.
        on_batch: Called before each pass with the prompts, as indices, int64 on the CPU, whose experts it runs under.
        look: What the model is given of the prompts, but for what they share.
        alike: The most tokens that they can share, where behind these equal tokens stand for different images.

    Returns:
        Log-probabilities at temperature 1, summed over a choice's tokens: (B, C) float32, in nats.
    """
    told = on_batch or (lambda rows: None)
    everybody = torch.arange(len(prompts))
    shared = _shared(model, prompts) if alike is None else min(_shared(model, prompts), alike)
    cache = DynamicCache(config=model.config)
    if shared:
        groups = list(dict.fromkeys(expert_of or [0]))
        first = [expert_of.index(expert) if expert_of else 0 for expert in groups]
        told(torch.tensor(first))
        ids = torch.tensor([prompts[row][:shared] for row in first], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=last(model))
        cache.batch_select_indices(torch.tensor([groups.index(expert) for expert in expert_of or [0] * len(prompts)]))
    told(everybody)
    own, mask = _padded([prompt[shared:] for prompt in prompts], model.device)
    mask = torch.cat([mask.new_ones(len(prompts), shared), mask], 1)
    logits = model(
        **look(own),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=last(model),
    ).logits[:, -1]
    found = logits.float().log_softmax(1)[:, [choice[0] for choice in choices]]
    longer = [index for index, choice in enumerate(choices) if len(choice) > 1]
    if longer:
        of = everybody.repeat_interleave(len(longer))
        cache.batch_select_indices(of)  # from the CPU: layers may lie on several devices
        told(of)
        rest = _rest(model, [choices[index] for index in longer], cache, mask[of.to(model.device)], len(prompts))
        found[:, longer] += rest.reshape(len(prompts), len(longer))
    return found


@torch.inference_mode()
def reply_loglikelihoods(
    model: Any,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    on_batch: Callable[[Tensor], object] | None = None,
    look: Look = as_ids,
) -> list[list[float]]:
    """What a model gives to the tokens of one reply behind each of some prompts.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of B prompts, each at least one.
        replies: Token ids of B replies, each at least one.
        on_batch: As for :func:`loglikelihoods`.
        look: What the model is given of prompts and replies.

    Returns:
        Log-probabilities at temperature 1 of each reply's tokens, in nats.
    """
    if on_batch:
        on_batch(torch.arange(len(prompts)))
    asked, mask = _padded(prompts, model.device)
    longest = max(map(len, replies))
    answered = torch.tensor([[*reply, *[0] * (longest - len(reply))] for reply in replies], device=model.device)
    # Padding behind a reply changes nothing before it, so it needs no mask.
    mask = torch.cat([mask, torch.ones_like(answered)], 1)
    logits = model(
        **look(torch.cat([asked, answered], 1)),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=last(model, longest + 1),
    ).logits[:, :-1]
    found = logits.float().log_softmax(2).gather(2, answered[..., None])[..., 0].tolist()
    return [row[: len(reply)] for row, reply in zip(found, replies, strict=True)]


def _shared(model: Any, prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; 0 where a sliding window would count the padding behind them."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window is not None and max(map(len, prompts)) >= window:
        return 0
    return min(shared_beginning(prompts), min(map(len, prompts)) - 1)


def _padded(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Token ids (B, longest), padded on the left, and the mask of what is no padding."""
    width = max(map(len, prompts))
    ids, mask = torch.zeros(2, len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _rest(model: Any, choices: Sequence[Sequence[int]], cache: DynamicCache, mask: Tensor, prompts: int) -> Tensor:
    """The sum for all tokens of each choice but its first, behind each prompt: (B · C,)."""
    longest = max(map(len, choices)) - 1
    # Padding behind a choice changes nothing before it.
    given, wanted = torch.zeros(2, len(choices), longest, dtype=torch.long)
    counted = torch.zeros(len(choices), longest)
    for row, choice in enumerate(choices):
        size = len(choice) - 1
        given[row, :size], wanted[row, :size] = torch.tensor(choice[:-1]), torch.tensor(choice[1:])
        counted[row, :size] = 1
    given, wanted, counted = (each.repeat(prompts, 1).to(model.device) for each in (given, wanted, counted))
    logits = model(
        input_ids=given,
        attention_mask=torch.cat([mask, torch.ones_like(given)], 1),
        position_ids=mask.sum(1, keepdim=True) + torch.arange(longest, device=model.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    return (logits.float().log_softmax(2).gather(2, wanted[..., None])[..., 0] * counted).sum(1)
