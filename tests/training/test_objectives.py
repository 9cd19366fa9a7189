from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from t2.engine.hf import HfEngine
from t2.tasks.item import Item
from t2.tasks.options import reordered
from t2.training.objectives import ExpectedReward, Grade, NextToken, Objective, Reinforce, Rollout

from .setting import adapted, choices, grade, items, moved, no_dropout, recipe, reward, training


def _objective(
    model: Any,
    tokenizer: Any,
    objective: str,
    kl: float = 0.1,
    wrong: float = -1.0,
    grade: Grade = grade,
    max_new_tokens: int = 4,
    rollouts: list[Rollout] | None = None,
    **settings: Any,
) -> Objective:
    of_recipe = {name: settings.pop(name) for name in ("batch", "samples") if name in settings}
    engine, shared, wanted = HfEngine(model, tokenizer, batch_size=16), training(**settings), recipe(kl=kl, **of_recipe)
    if objective == "next_token":
        return NextToken(model, engine, wanted, shared)
    generator = torch.Generator().manual_seed(0)
    earned = reward(wrong=wrong, max_new_tokens=max_new_tokens)
    if objective == "expected_reward":
        return ExpectedReward(model, engine, wanted, shared, earned, generator)
    return Reinforce(
        model, engine, grade, wanted, shared, earned, generator, (rollouts if rollouts is not None else []).extend
    )


def _gradient(model: torch.nn.Module) -> torch.Tensor:
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(gradients)


@pytest.mark.parametrize("method", ["svf", "lora"])
@pytest.mark.parametrize("objective", ["reinforce", "expected_reward", "next_token"])
def test_micro_batches_and_chunks_add_up_to_the_whole_batch(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, method: str, objective: str
) -> None:
    model = moved(adapted(tiny_model, method, **no_dropout(method)))
    measured, gradients = [], []
    batch = choices(16) if objective == "expected_reward" else items(16)
    for cut in (
        {"micro_batch": 16},
        {"micro_batch": 5},
        {"micro_batch": 1},
        {"micro_batch": 16, "micro_tokens": 100},
        {"micro_batch": 16, "logit_chunk": 7},
        {"micro_batch": 5, "micro_tokens": 100, "logit_chunk": 1},
    ):
        settings = {"baseline": "mean", "normalise_rewards": True, "batch": 16, **cut}
        measured.append(_objective(model, tiny_tokenizer, objective, **settings).accumulate(batch))
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


@pytest.mark.parametrize("objective", ["reinforce", "expected_reward", "next_token"])
def test_a_micro_batch_that_memory_cannot_hold_names_the_parameters(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, objective: str
) -> None:
    model = adapted(tiny_model, "svf")

    def exhaust(module: torch.nn.Module, *_: Any) -> None:
        if module.training:
            torch.empty(1 << 50)  # more than a process can address

    model.register_forward_pre_hook(exhaust)
    with pytest.raises(MemoryError, match=r"^out of memory \(.*lower training\.micro_batch or micro_tokens, set"):
        batch = choices(8) if objective == "expected_reward" else items(8)
        _objective(model, tiny_tokenizer, objective).accumulate(batch)


def test_a_step_has_as_many_samples_whatever_their_number_a_prompt(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    graded: list[str] = []

    def grade(batch: Any, replies: Any) -> list[bool]:
        graded.extend(item.id for item in batch)
        return [False] * len(replies)

    objective = _objective(adapted(tiny_model), tiny_tokenizer, "reinforce", grade=grade, batch=12, samples=3)
    assert objective.step_items == 4
    objective.accumulate(items(4))
    assert graded == [f"t-{n}" for n in range(4) for _ in range(3)]


def test_prompts_whose_samples_agree_teach_nothing_and_are_counted(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Samples of the first two prompts agree; the gradient is that of the third alone, as its share of the batch."""
    verdicts = [True] * 4 + [False] * 4 + [True, False, False, True]

    def grade(batch: Any, replies: Any) -> list[bool]:
        return verdicts[: len(replies)]

    model = moved(adapted(tiny_model))
    settings: dict[str, Any] = {"samples": 4, "batch": 12, "baseline": "group", "grade": grade}
    row = _objective(model, tiny_tokenizer, "reinforce", kl=0.0, **settings).accumulate(items(2))
    assert (row["agreed"], row["loss"]) == (2, 0.0)
    assert row["tokens"] > 0  # type: ignore[operator]
    assert all(p.grad is None for p in model.parameters())
    row = _objective(model, tiny_tokenizer, "reinforce", kl=0.0, **settings).accumulate(items(3))
    assert row["agreed"] == 2
    skipping = _gradient(model)
    # Where the divergence is measured all samples pass through the model.
    measured = _objective(model, tiny_tokenizer, "reinforce", kl=0.0, **settings).accumulate(items(3), measure_kl=True)
    torch.testing.assert_close(_gradient(model), skipping, rtol=1e-3, atol=1e-5)
    assert skipping.norm() > 1e-3
    assert measured["kl"] > 0.01  # type: ignore[operator]
    assert row["kl"] is None


@pytest.mark.parametrize("objective", ["reinforce", "expected_reward"])
def test_a_divergence_that_is_only_measured_changes_no_bit_of_the_gradient(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, objective: str
) -> None:
    model = moved(adapted(tiny_model))
    batch = choices(6) if objective == "expected_reward" else items(6)
    found = []
    for measure_kl in (False, True):
        row = _objective(model, tiny_tokenizer, objective, kl=0.0).accumulate(batch, measure_kl=measure_kl)
        found.append((row["loss"], row["kl"], _gradient(model)))
    assert found[0][0] == found[1][0]
    assert (found[0][1], found[1][1] is None) == (None, False)
    assert found[0][2].equal(found[1][2])


def test_the_expected_reward_is_what_sampled_replies_earn_and_teach(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The model is first made to like letters, as a random one hardly does."""
    liked = torch.zeros(len(tiny_tokenizer))
    liked[tiny_tokenizer.convert_tokens_to_ids(list("ABCD"))] = 9.0
    model = moved(adapted(tiny_model))
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits + liked)

    def grade(batch: Any, replies: Any) -> list[bool]:
        return [reply == item.answer for item, reply in zip(batch, replies, strict=True)]

    (item,) = choices(1)
    settings: dict[str, Any] = {"kl": 0.0, "wrong": 0.0, "max_new_tokens": 1, "grade": grade}
    closed = _objective(model, tiny_tokenizer, "expected_reward", **settings).accumulate([item])
    expected = _gradient(model)
    shown = reordered(item, torch.randperm(4, generator=torch.Generator().manual_seed(0)).tolist())
    many = {"batch": 8192, "samples": 8192, "micro_batch": 1024, "generation_batch": 8192, "baseline": "group"}
    sampled = _objective(model, tiny_tokenizer, "reinforce", **settings, **many).accumulate([shown])
    found = _gradient(model)
    assert 0.05 < closed["reward"] < 0.95  # type: ignore[operator]
    assert closed["reward"] == closed["correct"] == pytest.approx(sampled["reward"], abs=0.02)
    assert cosine_similarity(found, expected, dim=0) > 0.99
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.1)


def test_options_are_shown_in_another_order_at_each_visit(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = moved(adapted(tiny_model))

    def losses() -> list[Any]:
        objective = _objective(model, tiny_tokenizer, "expected_reward")
        return [objective.accumulate(choices(1))["loss"] for _ in range(8)]

    first = losses()
    assert len(set(first)) > 3
    assert losses() == first  # from the seed


def test_an_option_that_is_no_token_of_its_own_is_refused(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    (item,) = choices(1)
    asked = Item("c", item.prompt[0].content, "B", options=item.options)  # type: ignore[union-attr]
    objective = _objective(adapted(tiny_model), tiny_tokenizer, "expected_reward")
    with pytest.raises(ValueError, match="the prompt does not open the reply"):
        objective.accumulate([asked])


def test_rollouts_say_what_was_asked_and_what_became_of_the_reply(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[Rollout] = []
    settings = {"batch": 8, "samples": 2, "baseline": "group"}
    batch = items(4)
    row = _objective(adapted(tiny_model, "svf"), tiny_tokenizer, "reinforce", rollouts=seen, **settings).accumulate(
        batch
    )
    assert [(each.item, each.prompt) for each in seen] == [(item.id, item.prompt) for item in batch for _ in range(2)]
    assert [each.right for each in seen] == grade([item for item in batch for _ in range(2)], [e.reply for e in seen])
    assert [each.reward for each in seen] == [1.0 if each.right else -1.0 for each in seen]
    for one, other in zip(seen[::2], seen[1::2], strict=True):
        assert one.advantage == -other.advantage == (one.reward - other.reward) / 2
    assert sum(each.tokens for each in seen) == row["tokens"]
    assert all(each.finished or each.tokens == 4 for each in seen)
