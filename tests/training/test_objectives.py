from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from t2.engine.hf import HfEngine
from t2.tasks.item import Item
from t2.training.objectives import NextToken, Objective, Reinforce

from .setting import adapted, grade, items, moved, no_dropout, recipe, reward, training


def _objective(
    model: Any, tokenizer: Any, objective: str, kl: float = 0.1, wrong: float = -1.0, **settings: Any
) -> Objective:
    engine, shared = HfEngine(model, tokenizer, batch_size=16), training(**settings)
    if objective == "next_token":
        return NextToken(model, engine, shared)
    generator = torch.Generator().manual_seed(0)
    return Reinforce(model, engine, grade, recipe(kl=kl), shared, reward(wrong=wrong), generator)


def _gradient(model: torch.nn.Module) -> torch.Tensor:
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(gradients)


@pytest.mark.parametrize("method", ["svf", "lora"])
@pytest.mark.parametrize("objective", ["reinforce", "next_token"])
def test_micro_batches_and_chunks_add_up_to_the_whole_batch(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, method: str, objective: str
) -> None:
    model = moved(adapted(tiny_model, method, **no_dropout(method)))
    measured, gradients = [], []
    for cut in (
        {"micro_batch": 16},
        {"micro_batch": 5},
        {"micro_batch": 1},
        {"micro_batch": 16, "micro_tokens": 100},
        {"micro_batch": 16, "logit_chunk": 7},
        {"micro_batch": 5, "micro_tokens": 100, "logit_chunk": 1},
    ):
        settings = {"baseline": "mean", "normalise_rewards": True, "batch": 16, **cut}
        measured.append(_objective(model, tiny_tokenizer, objective, **settings).accumulate(items(16)))
        gradients.append(_gradient(model))
    assert gradients[0].norm() > 1e-3
    for row, gradient in zip(measured[1:], gradients[1:], strict=True):
        assert row.keys() == measured[0].keys()
        for name, value in measured[0].items():
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-4))
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_divergence_is_measured_against_the_base(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, method: str
) -> None:
    model = adapted(tiny_model, method, **no_dropout(method))
    objective = _objective(model, tiny_tokenizer, "reinforce")
    assert objective.accumulate(items(4))["kl"] == 0
    assert objective.accumulate(items(4))["kl"] == 0  # the adapter is trainable again after the base's pass
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    row = _objective(moved(model), tiny_tokenizer, "reinforce").accumulate(items(4))
    assert row["kl"] is not None and row["kl"] > 0.01
    assert _objective(model, tiny_tokenizer, "reinforce", kl=0.0).accumulate(items(4))["kl"] is None


def test_row_of_a_rollout(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = adapted(tiny_model)
    objective = _objective(model, tiny_tokenizer, "reinforce", wrong=-0.5)
    row = objective.accumulate(items(8))
    assert row["reward"] == pytest.approx(1.5 * row["correct"] - 0.5)  # type: ignore[operator]
    assert 8 <= row["tokens"] <= 8 * reward().max_new_tokens  # type: ignore[operator]


def test_every_batch_is_sampled_anew(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    objective = _objective(adapted(tiny_model), tiny_tokenizer, "reinforce")
    assert objective.accumulate(items(8))["loss"] != objective.accumulate(items(8))["loss"]


@pytest.mark.parametrize("objective", ["reinforce", "next_token"])
def test_items_beyond_the_context_are_counted_and_teach_nothing(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, objective: str
) -> None:
    endless = Item("long", "apples " * 300, "1", reply="1")
    model = moved(adapted(tiny_model))
    row = _objective(model, tiny_tokenizer, objective).accumulate([*items(3), endless])
    assert row["too_long"] == 1
    model.zero_grad()
    row = _objective(model, tiny_tokenizer, objective).accumulate([endless])
    assert (row["too_long"], row["tokens"], row["loss"]) == (1, 0, 0.0)
    assert all(p.grad is None for p in model.parameters())


def test_next_token_loss_is_the_mean_over_reply_tokens_and_their_end(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = adapted(tiny_model)
    batch = items(3)
    row = _objective(model, tiny_tokenizer, "next_token").accumulate(batch)
    total, count = 0.0, 0
    for item in batch:
        chat = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.reply}]
        ids = tiny_tokenizer.apply_chat_template(chat, return_dict=False)
        asked = tiny_tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, return_dict=False)
        start = len(asked)
        log_probs = model(torch.tensor([ids])).logits[0, :-1].detach().log_softmax(-1)
        total -= sum(float(log_probs[t - 1, ids[t]]) for t in range(start, len(ids)))
        count += len(ids) - start
    assert row["tokens"] == count
    assert row["loss"] == pytest.approx(total / count, rel=1e-4)


def test_an_item_without_a_reply_cannot_be_imitated(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    objective = _objective(adapted(tiny_model), tiny_tokenizer, "next_token")
    with pytest.raises(ValueError, match="item bare has no reply"):
        objective.accumulate([Item("bare", "How many?", "1")])


@pytest.mark.parametrize("objective", ["reinforce", "next_token"])
def test_a_micro_batch_that_memory_cannot_hold_names_the_parameters(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, objective: str
) -> None:
    model = adapted(tiny_model, "svf")

    def exhaust(module: torch.nn.Module, *_: Any) -> None:
        if module.training:
            torch.empty(1 << 50)  # more than a process can address

    model.register_forward_pre_hook(exhaust)
    with pytest.raises(MemoryError, match=r"^out of memory \(.*lower training\.micro_batch or micro_tokens, set"):
        _objective(model, tiny_tokenizer, objective).accumulate(items(8))
