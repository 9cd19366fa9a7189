"""Logits of answers' tokens from one forward pass: all at once, or a chunk of tokens after the other.

N tokens of a large vocabulary V are the largest tensors of a training step, several of them (N, V) in float32. In
chunks only the hidden states (N, H) in front of the output layer exist as a whole. A loss that is a sum over tokens
has the same gradient either way: each chunk's part goes back to the hidden states at once, while its logits are
there, and from all of these on through the model together. Nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2.training.sequences import Batch


def answer_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The logits (N, V) from which each answer token is sampled.

    The output layer, whose work grows with the vocabulary, sees those N positions alone.
    """
    with _output_layer_gets(model, lambda states: _at(states, batch)):
        logits: Tensor = model(**batch.inputs, use_cache=False).logits
    return logits


def accumulate_gradient(
    model: nn.Module, batch: Batch, loss: Callable[[Tensor, slice], Tensor], chunk: int | None
) -> float:
    """Adds the gradient of a loss that is a sum over answer tokens to the trainable parameters.

    Args:
        model: With trainable parameters in front of its output layer.
        batch: N answer tokens.
        loss: The part of some of the tokens: takes their logits (n, V) and which of the N they are.
        chunk: Tokens whose logits exist at once; None: all N, and the gradient goes through the model's own pass.

    Returns:
        The loss.

    Raises:
        ValueError: The model changes its logits behind the output layer, and ``chunk`` is not None.
    """
    if chunk is None:
        whole = loss(answer_logits(model, batch), slice(None))
        whole.backward()
        return whole.item()
    states, output = _answer_states(model, batch), _output_layer(model)
    total = 0.0
    gradients: list[Any] = []
    for start in range(0, len(states), chunk):
        leaf = states[start : start + chunk].detach().requires_grad_()
        part = loss(output(leaf).to(batch.ids.device), slice(start, start + chunk))
        part.backward()
        total += part.item()
        gradients.append(leaf.grad)
    states.backward(torch.cat(gradients))
    return total


def base_logits(model: PeftModel, batch: Batch, chunk: int | None) -> Callable[[slice], Tensor]:
    """The base model's logits without gradient, for :func:`accumulate_gradient` with the same ``chunk``.

    The pass over the batch is made here, before the policy's: PEFT freezes the adapter for as long as it is disabled.

    Returns:
        Gives the logits (n, V) of a slice of the N tokens.

    Raises:
        ValueError: The model changes its logits behind the output layer, and ``chunk`` is not None.
    """
    with torch.no_grad(), model.disable_adapter():
        if chunk is None:
            logits = answer_logits(model, batch)
            return lambda tokens: logits[tokens]
        states, output = _answer_states(model, batch), _output_layer(model)
    plain = output.get_base_layer() if isinstance(output, BaseTunerLayer) else output

    def of(tokens: slice) -> Tensor:
        with torch.no_grad():
            logits: Tensor = plain(states[tokens]).to(batch.ids.device)
        return logits

    return of


def _at(states: Tensor, batch: Batch) -> Tensor:
    """The hidden states (N, H) among those of all positions (B, S, H), wherever the output layer lies."""
    return states.flatten(0, 1)[batch.positions.to(states.device)]


def _answer_states(model: nn.Module, batch: Batch) -> Tensor:
    """The hidden states (N, H) that the output layer makes the answers' logits of."""
    taken: list[Tensor] = []
    made: list[Tensor] = []

    def take(states: Tensor) -> Tensor:
        taken.append(_at(states, batch))
        return taken[0][:1]

    # Of the first token alone, to see whether what the output layer makes is what the model returns.
    handle = _output_layer(model).register_forward_hook(lambda _, __, logits: made.append(logits.detach().clone()))
    try:
        with _output_layer_gets(model, take):
            returned = model(**batch.inputs, use_cache=False).logits
    finally:
        handle.remove()
    if not torch.allclose(made[0].to(returned.device), returned, rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            "this model changes its logits behind the output layer (by a cap or a scale, as Gemma 2 and Cohere do), "
            "which chunks of logits would miss; set training.logit_chunk to null"
        )
    return taken[0]


@contextmanager
def _output_layer_gets(model: nn.Module, choose: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Hands the output layer what ``choose`` makes of the hidden states (B, S, H)."""
    handle = _output_layer(model).register_forward_pre_hook(lambda _, args: (choose(args[0]),))
    try:
        yield
    finally:
        handle.remove()


def _output_layer(model: Any) -> nn.Module:
    layer: nn.Module = model.get_output_embeddings()
    return layer
