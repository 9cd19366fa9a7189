"""Trains one adapter: steps, validation, the best parameters kept, exact resume.

The whole recipe for an SVF expert with REINFORCE (paper, section 3.2)::

    z = 1                                                       # the base model
    best = (validate(z), z)
    for step in range(steps):
        x = the next batch of training items, from shuffled epochs           # state.Sampler
        ŷ = replies to x, sampled from π_z at the rollout's temperature T    # Engine.generate
        r = +1 where a reply is right, −1 elsewhere                          # grade, reinforce.rewards
        A = r − baseline                                                     # reinforce.advantages
        for each micro-batch of (x, ŷ):                                      # objectives.Reinforce
            logits, base_logits = π_z(x, ŷ), π_base(x, ŷ)
            log π_z(ŷ | x) = Σ over the reply's tokens, at temperature T     # reinforce.terms
            KL(π_z ‖ π_base) = Σ over the reply's tokens, exact, at temperature 1
            loss = (−Σ A log π_z(ŷ | x) + λ Σ KL) / batch
            z.grad += ∂ loss / ∂z                                            # logits.accumulate_gradient
        clip the norm of z.grad
        z = AdamW(z, z.grad, learning rate after warm-up and cosine decay), decayed towards 1
        every valid_every steps:
            score = the share of validation items that z answers right, greedily
            best = (score, z) if score > best score
            stop if `patience` validations brought nothing better
        every checkpoint_every steps: store all of this, for a killed run to go on bit for bit
    return best

Other PEFT methods take the place of z, and the other objectives that of what lies between the items and the gradient.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from t2.config.rows import Reward, Train, Training
from t2.engine import chat
from t2.engine.base import Engine, Sampling
from t2.seeds import derive
from t2.tasks.item import Item
from t2.training import checkpoint
from t2.training.objectives import ExpectedReward, Grade, NextToken, Objective, Reinforce, Rollout
from t2.training.state import Row, Sampler, TrainingState


@dataclass(frozen=True)
class Result:
    """How a training went; its best parameters are in the model.

    Attributes:
        history: A row per step, beginning with 0, the untrained start. It holds ``step`` (updates taken),
            ``valid_score`` (share of validation items that are right after them; None where not measured), and of
            the update: ``reward`` (mean), ``correct`` (share), ``kl`` (mean per sample, nats), ``loss``,
            ``tokens`` (of the answers), ``too_long`` (samples that did not fit into the context), ``agreed`` (prompts
            whose samples all earned the same), ``grad_norm`` (before clipping), ``lr``; None where there is no such
            thing.
        best_step: After how many updates the best parameters were reached.
        best_score: Their validation score, a fraction.
        stopped_early: Whether the patience ran out.
    """

    history: list[Row]
    best_step: int
    best_score: float
    stopped_early: bool


def train(
    model: PeftModel,
    engine: Engine,
    recipe: Train,
    training: Training,
    *,
    reward: Reward,
    train_items: Sequence[Item],
    valid_items: Sequence[Item],
    grade: Grade,
    seed: int,
    scratch: Path,
    fingerprint: str,
    on_step: Callable[[Row], None] | None = None,
    on_rollouts: Callable[[int, list[Rollout]], None] | None = None,
) -> Result:
    """Trains the active adapter of a model and leaves its best parameters there.

    Continues from the checkpoint in ``scratch`` if there is one. Killed at any moment and called again with
    the same inputs, it ends with the same bits as without the kill; called again after its end, it returns
    at once. Seeds torch's global generators.

    Args:
        model: With a fresh adapter of any PEFT method.
        engine: Generates with the model's active adapter as it stands at each call.
        recipe: Objective, steps and their samples, learning rate, clip and λ.
        training: Micro-batches, rollouts, validation, checkpoints.
        reward: What replies earn, and where they end: validation items are answered greedily, rollouts at the
            temperature and from seeds.
        train_items: Items to learn from.
        valid_items: Items on which the best parameters are chosen.
        grade: Tells which replies to which items are right.
        seed: All random numbers follow from it.
        scratch: Folder of the checkpoint, this training's alone.
        fingerprint: Digest of the inputs that cannot be seen from here: the base model, the adapter's
            settings, how replies are graded.
        on_step: Receives every new row of the history. The steps between the last checkpoint and a kill are
            taken, and reported, again.
        on_rollouts: Receives, before its row, the rollouts of the first step and of each that is validated.

    Raises:
        ValueError: No items, nothing trainable, settings that contradict each other, or a checkpoint that is
            damaged or belongs to other inputs, versions, threads or another processor.
        FloatingPointError: The gradient is not finite.
    """
    if not train_items or not valid_items:
        raise ValueError(
            f"training needs items to learn from and to validate on, got {len(train_items)} and {len(valid_items)}"
        )
    identity = {
        "fingerprint": fingerprint,
        "items": hashlib.sha256(repr([*train_items, None, *valid_items]).encode()).hexdigest(),
        "encoding": chat.encoding(engine.tokenizer),
        "reward": reward.model_dump(),
        "seed": seed,
        "recipe": recipe.model_dump(),
        "training": training.model_dump(exclude={"threads", "checkpoint_every"}),
        **checkpoint.environment(model.device),
    }
    if training.gradient_checkpointing:
        recompute_layers(model)
    torch.manual_seed(derive(seed, "torch"))  # dropout
    state = _start(model, recipe, training, len(train_items), seed)
    rests = _rests(model, training.weight_decay)

    def validated(step: int) -> bool:
        return step % training.valid_every == 0 or step == recipe.steps

    def note_rollouts(rollouts: list[Rollout]) -> None:
        step = state.step + 1
        if on_rollouts is not None and (step == 1 or validated(step)):
            on_rollouts(step, rollouts)

    objective = _objective(model, engine, grade, recipe, training, reward, state.rollouts, note_rollouts)
    sampling = Sampling.of(reward)

    def finish(row: Row, *, validate: bool) -> None:
        """Completes and reports the row of a step, and stores the state when that is due."""
        row["valid_score"] = _validate(engine, valid_items, grade, sampling) if validate else None
        if row["valid_score"] is not None:
            state.note_score(row["valid_score"])
        state.history.append(row)
        if on_step is not None:
            on_step(row)
        if state.step % training.checkpoint_every == 0 or _is_over(state, recipe, training):
            checkpoint.write(scratch, state.capture(), identity)

    saved = checkpoint.read(scratch, identity)
    if saved is not None:
        state.restore(saved)
    else:
        finish({"step": 0, **dict.fromkeys(_MEASURED)}, validate=True)

    while not _is_over(state, recipe, training):
        lr = learning_rate(state.step, recipe, training)
        items = [train_items[index] for index in state.sampler.take(objective.step_items)]
        kl_due = training.kl_every is not None and (state.step + 1) % training.kl_every == 0
        measured = objective.accumulate(items, measure_kl=kl_due)
        grad_norm = _update(state, lr, recipe.clip)
        _pull(state, lr * training.weight_decay, rests)
        state.step += 1
        finish({"step": state.step, **measured, "grad_norm": grad_norm, "lr": lr}, validate=validated(state.step))

    state.load_best()
    model.eval()
    return Result(state.history, state.best_step, state.best_score, stopped_early=state.step < recipe.steps)


def recompute_layers(model: PeftModel) -> None:
    """In training mode, from now on: keeps each decoder layer's input only and runs the layer again for the gradient.

    Raises:
        ValueError: The model's class does not support it.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # That made the embedding's output ask for a gradient, as reentrant checkpoints need it: the backward pass would
    # go through all the layers below the lowest adapted one.
    model.disable_input_require_grads()


_MEASURED = ("reward", "correct", "loss", "kl", "tokens", "too_long", "agreed", "grad_norm", "lr")


def learning_rate(step: int, recipe: Train, training: Training) -> float:
    """The learning rate of update ``step`` (from 0): linear warm-up, then cosine decay towards 0."""
    if step < training.warmup_steps:
        return recipe.lr * (step + 1) / (training.warmup_steps + 1)
    done = (step - training.warmup_steps) / (recipe.steps - training.warmup_steps)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


def _rests(model: PeftModel, weight_decay: float) -> dict[str, float]:
    """Where weight decay pulls each trainable parameter that does not leave the base model as it is at 0."""
    if not weight_decay:
        return {}
    config: Any = model.active_peft_config
    rests = {}
    for name, value in model.named_parameters():
        if value.requires_grad and "svf_z" in name:
            rests[name] = config.at_rest
        elif value.requires_grad and "ia3_l" in name:
            rests[name] = 1.0
    return rests


def _start(model: PeftModel, recipe: Train, training: Training, items: int, seed: int) -> TrainingState:
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not parameters:
        raise ValueError("the model has no trainable parameter; attach an adapter, not in inference mode")
    return TrainingState(
        parameters,
        torch.optim.AdamW(parameters.values(), lr=recipe.lr, weight_decay=training.weight_decay),
        Sampler(items, seed),
        torch.Generator().manual_seed(derive(seed, "rollouts")),
    )


def _objective(
    model: PeftModel,
    engine: Engine,
    grade: Grade,
    recipe: Train,
    training: Training,
    reward: Reward,
    seeds: torch.Generator,
    on_rollouts: Callable[[list[Rollout]], None],
) -> Objective:
    if recipe.objective == "next_token":
        return NextToken(model, engine, recipe, training)
    if recipe.objective == "expected_reward":
        return ExpectedReward(model, engine, recipe, training, reward, seeds)
    return Reinforce(model, engine, grade, recipe, training, reward, seeds, on_rollouts)


def _update(state: TrainingState, lr: float, clip: float) -> float:
    """Steps along the accumulated gradient and clears it; returns its norm before clipping."""
    norm = float(torch.nn.utils.clip_grad_norm_(state.parameters.values(), clip))
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the gradient's norm is {norm} at step {state.step + 1}; lower the recipe's lr or clip, or use "
            "a wider dtype for the base model"
        )
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    state.optimizer.zero_grad()
    return norm


def _pull(state: TrainingState, decay: float, rests: Mapping[str, float]) -> None:
    """Turns AdamW's decay towards 0 into one towards where a parameter leaves the base model as it is, z = 1."""
    with torch.no_grad():
        for name, rest in rests.items():
            state.parameters[name].add_(decay * rest)


def _validate(engine: Engine, items: Sequence[Item], grade: Grade, sampling: Sampling) -> float:
    """The share of items whose replies are right."""
    answers = engine.generate([item.prompt for item in items], sampling)
    return sum(grade(items, [answer.text for answer in answers])) / len(items)


def _is_over(state: TrainingState, recipe: Train, training: Training) -> bool:
    stale = training.patience is not None and state.stale >= training.patience
    return stale or state.step == recipe.steps
