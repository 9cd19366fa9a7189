"""Prompts with their answers, cut into micro-batches and made tensors of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2.engine.decode import as_ids
from t2.tasks.prompt import Image

Tokens = Sequence[int]
Inputs = Callable[[Tensor, Sequence[Sequence[Image]]], Mapping[str, Tensor]]
"""What a model is given of token ids (B, S) and of what each row shows, as :meth:`t2.engine.base.Engine.inputs`."""


class Pair(NamedTuple):
    """The token ids of a prompt, and of an answer with its end-of-sequence token; either may be sampled.

    Attributes:
        prompt: Expanded, where it shows images.
        answer: Empty where nothing is learned from it.
        images: What the prompt shows.
    """

    prompt: Tokens
    answer: Tokens
    images: tuple[Image, ...] = ()


class Batch(NamedTuple):
    """Pairs as tensors: S tokens in the longest, N answer tokens in all.

    Attributes:
        ids: (B, S), padded on the right. No mask is needed: under causal attention nothing looks there.
        positions: (N,), where in the flattened ``ids`` an answer's token is predicted.
        tokens: (N,), the answers' tokens.
        sample: (N,), the row that each token belongs to.
        inputs: What the model is given: ``ids``, or where images are shown, embeddings (B, S, hidden).
    """

    ids: Tensor
    positions: Tensor
    tokens: Tensor
    sample: Tensor
    inputs: Mapping[str, Tensor]


def micro_batches(pairs: Sequence[Pair], size: int, tokens: int | None = None) -> list[list[int]]:
    """Splits pairs into groups of similar length; a pair without an answer is in none.

    Args:
        pairs: Of the whole batch.
        size: The most pairs in a group.
        tokens: The most tokens in a group, prompts, answers and padding together, as far as a group of one pair
            can keep to it; None: no limit.

    Returns:
        Indices into ``pairs``; which group a pair is in changes no sum over the batch.
    """
    lengths = {i: len(pair.prompt) + len(pair.answer) for i, pair in enumerate(pairs) if pair.answer}
    groups: list[list[int]] = []
    # From short to long: the newest pair is what its group is padded to.
    for i in sorted(lengths, key=lambda i: lengths[i]):
        last = groups[-1] if groups else []
        too_long = tokens is not None and (len(last) + 1) * lengths[i] > tokens
        if not last or len(last) == size or too_long:
            groups.append([i])
        else:
            last.append(i)
    return groups


def pad(pairs: Sequence[Pair], device: torch.device | str = "cpu", given: Inputs | None = None) -> Batch:
    """Makes tensors of pairs, and by ``given`` what the model gets of them; None: their ids."""
    # The answer's last token predicts nothing that counts, so it is not fed in.
    inputs = [torch.tensor([*pair.prompt, *pair.answer][:-1]) for pair in pairs]
    ids = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    lengths = torch.tensor([len(pair.answer) for pair in pairs])
    positions = [
        torch.arange(len(pair.answer)) + row * ids.shape[1] + len(pair.prompt) - 1 for row, pair in enumerate(pairs)
    ]
    tokens = torch.tensor([token for pair in pairs for token in pair.answer])
    sample = torch.arange(len(pairs)).repeat_interleave(lengths)
    ids = ids.to(device)
    got = as_ids(ids) if given is None else given(ids, [pair.images for pair in pairs])
    return Batch(ids, torch.cat(positions).to(device), tokens.to(device), sample.to(device), got)
