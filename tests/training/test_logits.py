from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM

from t2.training import next_token, reinforce
from t2.training.logits import accumulate_gradient, answer_logits, base_logits
from t2.training.sequences import Batch, Pair, pad

from .setting import adapted, moved, no_dropout

PAIRS = [Pair([5, 6, 7], [8, 9]), Pair([10], [11, 12, 13, 14]), Pair([3] * 6, [4])]


def test_logits_are_those_of_each_pair_alone(tiny_model: LlamaForCausalLM) -> None:
    batch = pad(PAIRS)
    logits = answer_logits(tiny_model, batch)
    for row, pair in enumerate(PAIRS):
        alone = tiny_model(torch.tensor([[*pair.prompt, *pair.answer]])).logits[0]
        before = len(pair.prompt) - 1
        torch.testing.assert_close(
            logits[batch.sample == row], alone[before : before + len(pair.answer)], atol=1e-5, rtol=1e-4
        )
        assert batch.tokens[batch.sample == row].tolist() == list(pair.answer)


def test_the_model_is_left_as_it_was(tiny_model: LlamaForCausalLM) -> None:
    answer_logits(tiny_model, pad(PAIRS[:2]))
    assert tiny_model(torch.tensor([[1, 2, 3]])).logits.shape[:2] == (1, 3)


def _learn(model: Any, batch: Batch, size: int | None) -> tuple[float, torch.Tensor]:
    """Loss and gradient of REINFORCE with its divergence, by chunks."""
    model.zero_grad()
    base = base_logits(model, batch, size)

    def loss(logits: torch.Tensor, tokens: slice) -> torch.Tensor:
        return reinforce.terms(
            logits,
            batch.tokens[tokens],
            batch.sample[tokens],
            torch.tensor([1.0, -1.0, 0.5]),
            temperature=0.7,
            base_logits=base(tokens),
        ).loss(0.3, 3)

    total = accumulate_gradient(model, batch, loss, size)
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("method", "targets"),
    [("svf", ["q_proj", "down_proj"]), ("lora", ["q_proj"]), ("lora", ["q_proj", "lm_head"])],
    ids=["svf", "lora", "lora of the output layer too"],
)
def test_chunks_have_the_gradient_of_the_whole(
    tiny_model: LlamaForCausalLM, method: str, targets: list[str], size: int
) -> None:
    """The log-softmax is taken in float32, row by row; all else is in float64 here."""
    model = moved(adapted(tiny_model.double(), method, target_modules=targets, **no_dropout(method)).double())
    batch = pad(PAIRS)
    loss, gradient = _learn(model, batch, None)
    in_chunks, gradient_of_chunks = _learn(model, batch, size)
    assert gradient.dtype == torch.float64 and gradient.norm() > 1e-2
    assert in_chunks == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(gradient_of_chunks, gradient, rtol=1e-6, atol=1e-8)


class Rows(TorchDispatchMode):
    """The most rows of any tensor as wide as the vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
                self.most = max(self.most, tensor.numel() // self.vocabulary)
        return result


def test_no_more_logits_exist_than_those_of_a_chunk(tiny_model: LlamaForCausalLM) -> None:
    """As wide as the vocabulary is also the transposed output layer, of 32 rows."""
    model, batch = adapted(tiny_model), pad(PAIRS * 10)
    model(torch.ones(1, 1, dtype=torch.long))  # W' is built
    for size, most in ((None, 70), (33, 33)):
        with Rows(tiny_model.config.vocab_size) as rows:
            _learn_next(model, batch, size)
        assert rows.most == most


def _learn_next(model: Any, batch: Batch, size: int | None) -> None:
    accumulate_gradient(model, batch, lambda logits, tokens: next_token.loss(logits, batch.tokens[tokens], 1), size)


def test_a_model_that_caps_its_logits_is_learned_from_whole_only() -> None:
    settings = Gemma2Config(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.1,
    )
    model = adapted(Gemma2ForCausalLM(settings))
    _learn_next(model, pad(PAIRS), None)
    with pytest.raises(ValueError, match=r"set training\.logit_chunk to null"):
        _learn_next(model, pad(PAIRS), 3)
    with pytest.raises(ValueError, match=r"set training\.logit_chunk to null"):
        base_logits(model, pad(PAIRS), 3)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_dropout_in_front_of_the_output_layer_is_no_change_of_the_logits(tiny_model: LlamaForCausalLM) -> None:
    model = moved(adapted(tiny_model, "lora", target_modules=["lm_head", "q_proj"], lora_dropout=0.5)).train()
    _learn_next(model, pad(PAIRS), 3)
    assert all(p.grad.norm() > 0 for p in model.parameters() if p.requires_grad)
