"""One forward pass over prompts with their answers, with logits for the answers' tokens only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

Tokens = Sequence[int]


class Pair(NamedTuple):
    """The token ids of a prompt, and of an answer with its end-of-sequence token; either may be sampled."""

    prompt: Tokens
    answer: Tokens


class Batch(NamedTuple):
    """Pairs as tensors: S tokens in the longest, N answer tokens in all.

    Attributes:
        ids: (B, S), padded on the right. No mask is needed: under causal attention nothing looks there.
        positions: (N,), where in the flattened ``ids`` an answer's token is predicted.
        tokens: (N,), the answers' tokens.
        sample: (N,), the row that each token belongs to.
    """

    ids: Tensor
    positions: Tensor
    tokens: Tensor
    sample: Tensor


def micro_batches(pairs: Sequence[Pair], size: int) -> list[list[int]]:
    """Splits pairs into groups of at most ``size`` of similar length; a pair without an answer is in none.

    Returns:
        Indices into ``pairs``; which group a pair is in changes no sum over the batch.
    """
    order = sorted(
        (i for i, pair in enumerate(pairs) if pair.answer),
        key=lambda i: len(pairs[i].prompt) + len(pairs[i].answer),
    )
    return [order[start : start + size] for start in range(0, len(order), size)]


def pad(pairs: Sequence[Pair], device: torch.device | str = "cpu") -> Batch:
    """Makes tensors of pairs."""
    # The answer's last token predicts nothing that counts, so it is not fed in.
    inputs = [torch.tensor([*pair.prompt, *pair.answer][:-1]) for pair in pairs]
    ids = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    lengths = torch.tensor([len(pair.answer) for pair in pairs])
    positions = [
        torch.arange(len(pair.answer)) + row * ids.shape[1] + len(pair.prompt) - 1 for row, pair in enumerate(pairs)
    ]
    tokens = torch.tensor([token for pair in pairs for token in pair.answer])
    sample = torch.arange(len(pairs)).repeat_interleave(lengths)
    return Batch(ids.to(device), torch.cat(positions).to(device), tokens.to(device), sample.to(device))


def answer_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The logits (N, V) from which each answer token would be drawn.

    The output layer, whose work grows with the vocabulary, sees those N positions alone.
    """
    with _output_only_at(model, batch.positions):
        logits: Tensor = model(input_ids=batch.ids, use_cache=False).logits
    return logits


@contextmanager
def _output_only_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Hands the output layer the hidden states (N, H) at flat positions in place of (B, S, H)."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, args: (args[0].flatten(0, 1)[positions],))
    try:
        yield
    finally:
        handle.remove()
