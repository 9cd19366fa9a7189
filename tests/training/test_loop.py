from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from t2.engine.hf import HfEngine
from t2.svf import SvfConfig
from t2.tasks.item import Item
from t2.training import loop
from t2.training.loop import Result, learning_rate, train
from t2.training.state import Row, Sampler

from .setting import adapted, choices, grade, items, moved, recipe, reward, trainable, training


@pytest.fixture
def run(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Any:
    def run(model: Any, recipe: Any, training: Any, **changes: Any) -> Result:
        settings: dict[str, Any] = {
            "train_items": items(20),
            "valid_items": items(10, start=50),
            "grade": grade,
            "reward": reward(),
            "seed": 0,
            "scratch": tmp_path / "scratch",
            "fingerprint": "inputs",
        }
        engine = HfEngine(model, tiny_tokenizer, batch_size=32)
        return train(model, engine, recipe, training, **{**settings, **changes})

    return run


def _scripted(scores: Sequence[float]) -> Any:
    """Grades validation batches, told by their ids, with given scores one after the other."""
    remaining = iter(scores)

    def grade(batch: Sequence[Item], replies: Sequence[str]) -> list[bool]:
        if batch[0].id != "t-50":
            return [index % 2 == 0 for index in range(len(batch))]
        right = round(next(remaining) * len(batch))
        return [index < right for index in range(len(batch))]

    return grade


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_reinforce_learns_what_is_rewarded(run: Any, tiny_model: LlamaForCausalLM, method: str) -> None:
    wanted = recipe(steps=25, batch=32, lr=0.1 if method == "svf" else 0.05, kl=0.0)
    shared = training(micro_batch=32, valid_every=5, checkpoint_every=25, baseline="mean")
    rows: list[Row] = []
    result = run(adapted(tiny_model, method), wanted, shared, on_step=rows.append)
    start, first, *_, last = result.history
    assert last["reward"] > first["reward"] + 0.3
    assert result.best_score > start["valid_score"] + 0.1
    assert rows == result.history
    assert [row["step"] for row in rows] == list(range(26))
    assert [row["step"] for row in rows if row["valid_score"] is not None] == [0, 5, 10, 15, 20, 25]


def test_next_token_learns_the_replies(run: Any, tiny_model: LlamaForCausalLM) -> None:
    wanted = recipe(objective="next_token", steps=15, batch=16, lr=0.02, kl=0.0)
    result = run(adapted(tiny_model, "lora"), wanted, training(micro_batch=16, valid_every=15))
    assert result.history[-1]["loss"] < 0.8 * result.history[1]["loss"]
    assert result.history[-1]["reward"] is None


def test_best_parameters_are_kept_and_a_tie_goes_to_the_earlier(run: Any, tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    seen: dict[float, dict[str, torch.Tensor]] = {}

    def on_step(row: Row) -> None:
        seen[row["step"]] = {name: value.clone() for name, value in trainable(model).items()}  # type: ignore[index]

    scores = [0.1, 0.5, 0.5, 0.2]
    result = run(model, recipe(), training(), grade=_scripted(scores), on_step=on_step)
    assert (result.best_step, result.best_score, result.stopped_early) == (2, 0.5, False)
    for name, value in trainable(model).items():
        assert value.equal(seen[2][name])
        assert not value.equal(seen[4][name])


def test_untrained_start_is_kept_when_nothing_beats_it(run: Any, tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    result = run(model, recipe(), training(), grade=_scripted([0.6, 0.1, 0.6, 0.3]))
    assert result.best_step == 0
    assert all((value == 1).all() for value in trainable(model).values())


def test_patience_counts_validations_without_a_gain(run: Any, tiny_model: LlamaForCausalLM) -> None:
    scores = [0.1, 0.5, 0.4, 0.5, 0.9]
    wanted, shared = recipe(steps=8), training(patience=2, checkpoint_every=5)
    result = run(adapted(tiny_model), wanted, shared, grade=_scripted(scores))
    assert (result.history[-1]["step"], result.best_step, result.stopped_early) == (6, 2, True)


def test_a_finished_training_is_not_repeated(run: Any, tiny_tokenizer: Any, tiny_folder: Path) -> None:
    outcomes = []
    for grades in (_scripted([0.1, 0.3, 0.2, 0.0]), _scripted([])):
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder))
        outcomes.append((run(model, recipe(), training(), grade=grades), trainable(model)))
    (first, kept), (second, restored) = outcomes
    assert second == first
    assert all(restored[name].equal(value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"fingerprint": "others"}, "fingerprint"), ({"train_items": items(21)}, "items"), ({"seed": 1}, "seed")],
)
def test_a_checkpoint_of_other_inputs_is_refused(
    run: Any, tiny_model: LlamaForCausalLM, changes: dict[str, Any], named: str
) -> None:
    model = adapted(tiny_model)
    run(model, recipe(steps=1), training())
    with pytest.raises(ValueError, match=f"another run .*\n  {named}: "):
        run(model, recipe(steps=1), training(), **changes)


def test_a_checkpoint_of_prompts_that_were_encoded_otherwise_is_refused(
    run: Any, tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(tiny_model)
    run(model, recipe(steps=1), training())
    monkeypatch.setattr(tiny_tokenizer, "chat_template", "Sat 1 " + tiny_tokenizer.chat_template)
    with pytest.raises(ValueError, match=r"another run .*\n  encoding: "):
        run(model, recipe(steps=1), training())


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_equal_seeds_give_equal_bits(run: Any, tiny_folder: Path, tmp_path: Path, method: str) -> None:
    outcomes = []
    for attempt, seed in enumerate((0, 0, 1)):
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder), method)
        torch.rand(attempt)  # the global generators' state beforehand plays no part
        result = run(model, recipe(), training(), seed=seed, scratch=tmp_path / str(attempt))
        outcomes.append((result.history, trainable(model)))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(value.equal(outcomes[1][1][name]) for name, value in outcomes[0][1].items())
    assert outcomes[0][0] != outcomes[2][0]


def test_dropout_is_active_in_training(run: Any, tiny_folder: Path, tmp_path: Path) -> None:
    losses = []
    for dropout in (0.0, 0.5):
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder), "lora", lora_dropout=dropout)
        wanted = recipe(objective="next_token", steps=3, kl=0.0)
        result = run(model, wanted, training(), scratch=tmp_path / str(dropout))
        losses.append([row["loss"] for row in result.history[1:]])
    assert losses[0][0] == losses[1][0]  # B = 0 at the start
    assert losses[0][1:] != losses[1][1:]


@pytest.mark.parametrize("objective", ["reinforce", "next_token"])
@pytest.mark.parametrize("method", ["svf", "lora"])
def test_layers_run_again_in_the_backward_pass_change_no_bit(
    run: Any, tiny_folder: Path, tmp_path: Path, method: str, objective: str
) -> None:
    """LoRA's dropout draws the same again; the layers of SVF run folded."""
    outcomes, passes = [], []
    for again in (False, True):
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder), method, **_dropout(method, 0.5))
        counted: list[int] = []
        # Beforehand: the second time a layer stops as soon as it has all that the gradient needs.
        model.get_decoder().layers[0].mlp.register_forward_pre_hook(lambda *_, seen=counted: seen.append(1))
        wanted = recipe(objective=objective, kl=0.1 if objective == "reinforce" else 0.0)
        shared = training(gradient_checkpointing=again)
        result = run(model, wanted, shared, scratch=tmp_path / str(again))
        outcomes.append((result.history, trainable(model)))
        passes.append(len(counted))
    assert passes[1] == passes[0] + wanted.steps * wanted.batch // shared.micro_batch
    assert outcomes[0][0] == outcomes[1][0]
    assert all(value.equal(outcomes[1][1][name]) for name, value in outcomes[0][1].items())


def _dropout(method: str, share: float) -> dict[str, float]:
    return {"lora_dropout": share} if method == "lora" else {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid_items": []}, "got 20 and 0"),
        ({"frozen": True}, "no trainable parameter"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    run: Any, tiny_model: LlamaForCausalLM, changes: dict[str, Any], message: str
) -> None:
    model = adapted(tiny_model)
    if changes.pop("frozen", False):
        model.requires_grad_(False)
    with pytest.raises(ValueError, match=message):
        run(model, recipe(), training(), **changes)


def test_a_gradient_that_is_not_finite_stops_the_training(run: Any, tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    with pytest.raises(FloatingPointError, match="step 1"):
        run(model, recipe(), training(), reward=reward(right=float("inf")))


def test_learning_rate_warms_up_and_decays_along_a_cosine() -> None:
    wanted, shared = recipe(steps=12, lr=1.0), training(warmup_steps=2)
    rates = [learning_rate(step, wanted, shared) for step in range(12)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[7] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in pairwise(rates[2:]))


def test_sampler_shuffles_epochs_and_loses_nothing() -> None:
    sampler = Sampler(10, seed=0)
    taken = [index for count in (3, 4, 8, 15) for index in sampler.take(count)]
    epochs = [taken[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert Sampler(10, seed=0).take(30) == taken
    assert Sampler(10, seed=1).take(30) != taken


@pytest.mark.parametrize(
    ("method", "changes", "rest"),
    [
        ("svf", {}, 1.0),
        ("svf", {"parametrisation": "sigmoid", "init_mean": 1.0, "max_mult": 3.0}, -math.log(2)),
        ("svf", {"parametrisation": "sigmoid", "init_mean": 0.1, "renormalise": True}, 0.1),
        ("ia3", {}, 1.0),
        ("lora", {}, 0.0),
    ],
)
def test_weight_decay_pulls_towards_the_base_model(run, tiny_model, method, changes, rest, monkeypatch):
    """Without a gradient decay is all that moves: a step goes lr · decay of the way to where z is 1."""
    model = moved(adapted(tiny_model, method, **changes))
    before = {name: value.clone() for name, value in trainable(model).items()}

    class Still:
        step_items = 8

        def accumulate(self, items, *, measure_kl):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            return dict.fromkeys(("reward", "correct", "loss", "kl", "tokens", "too_long", "agreed"))

    monkeypatch.setattr(loop, "_objective", lambda *_: Still())
    graded = []

    def later_is_better(asked, replies):
        graded.append(1)
        return [len(graded) > 1] * len(asked)

    settings = training(weight_decay=0.2, warmup_steps=0)
    assert run(model, recipe(steps=1, lr=0.5), settings, grade=later_is_better).best_step == 1
    for name, value in trainable(model).items():
        torch.testing.assert_close(value, before[name] - 0.5 * 0.2 * (before[name] - rest))


def test_decay_towards_a_z_that_a_sigmoid_never_reaches_is_refused():
    config = SvfConfig(parametrisation="sigmoid", max_mult=1.0)
    with pytest.raises(ValueError, match=r"never reaches z = 1.*larger max_mult"):
        _ = config.at_rest


def test_the_expected_reward_learns_resumes_to_the_bit_and_measures_its_divergence(
    run: Any, tiny_tokenizer: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    wanted = recipe(objective="expected_reward", steps=12, kl=0.0)
    shared = training(micro_batch=8, valid_every=6, checkpoint_every=4, kl_every=5)
    settings = {"train_items": choices(20), "valid_items": choices(4), "reward": reward(wrong=0.0)}

    def stop(row: Row) -> None:
        if row["step"] == 7:
            raise KeyboardInterrupt

    model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder))
    with pytest.raises(KeyboardInterrupt):
        run(model, wanted, shared, **settings, on_step=stop)
    ends = []
    for scratch in (tmp_path / "scratch", tmp_path / "whole"):
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder))
        result = run(model, wanted, shared, **settings, scratch=scratch)
        ends.append((result.history, trainable(model)))
    (history, resumed), (expected, whole) = ends
    assert history == expected
    assert all(resumed[name].equal(value) for name, value in whole.items())
    assert history[-1]["reward"] > 2 * history[1]["reward"]
    assert [row["step"] for row in history if row["kl"] is not None] == [5, 10]


@pytest.mark.parametrize("objective", ["reinforce", "next_token", "expected_reward"])
def test_training_uses_no_random_numbers_but_torchs(run: Any, tiny_model: LlamaForCausalLM, objective: str) -> None:
    """Those of Python and NumPy are not in its checkpoints."""
    several = choices if objective == "expected_reward" else items
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    wanted = recipe(objective=objective, steps=2, kl=0.1 if objective == "reinforce" else 0.0)
    run(adapted(tiny_model, "lora"), wanted, training(), train_items=several(20), valid_items=several(10))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
