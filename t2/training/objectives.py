"""What an adapter is trained towards: each objective adds the gradient of one batch to the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from peft import PeftModel

from t2.config.rows import Reward, Train, Training
from t2.engine import chat
from t2.engine.base import Engine, Sampling
from t2.engine.device import naming_memory
from t2.tasks.item import Item
from t2.tasks.options import letters, reordered
from t2.tasks.prompt import question, shown
from t2.training import expected_reward, next_token, reinforce
from t2.training.logits import accumulate_gradient, base_logits
from t2.training.reinforce import Terms
from t2.training.sequences import Batch, Inputs, Pair, micro_batches, pad
from t2.training.state import Row

Grade = Callable[[Sequence[Item], Sequence[str]], list[bool]]

TermsOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], Terms]
"""The sums that make up −J, of some tokens: from the logits (n, V) that they come from, the tokens (n,), the sample of
the whole batch that each belongs to (n,), and the base's logits where there are any."""

_LESS_MEMORY = (
    "lower training.micro_batch or micro_tokens, set training.logit_chunk, or training.gradient_checkpointing to true"
)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled reply, and what became of it.

    Attributes:
        item: The item's id.
        prompt: What was asked.
        reply: The reply.
        tokens: Its length.
        finished: Whether it came to its end.
        right: Whether it is right.
        reward: What it earned.
        advantage: What it was made likelier by.
    """

    item: str
    prompt: str
    reply: str
    tokens: int
    finished: bool
    right: bool
    reward: float
    advantage: float


class Objective(Protocol):
    """One of the ways to learn."""

    @property
    def step_items(self) -> int:
        """Items of a step."""
        ...

    def accumulate(self, items: Sequence[Item], *, measure_kl: bool = False) -> Row:
        """Adds the gradient of a batch's loss to the trainable parameters.

        Args:
            items: Of the batch.
            measure_kl: Measure the divergence also where its weight is 0, if the objective has one.

        Returns:
            ``loss``; ``tokens``, of the answers; ``too_long``, answers that the context could not hold and nothing was
            learned from; ``reward`` and ``kl``, means over samples, ``correct``, a fraction, and ``agreed``, prompts
            whose samples all earned the same, where the objective has them.
        """


@dataclass(frozen=True)
class Reinforce:
    """Samples answers to each prompt and makes them more or less likely by their reward (paper, section 3.2).

    Attributes:
        reward: What answers earn, and where they end.
        seeds: Gives the seed of each batch's rollout.
        on_rollouts: Receives each batch's.
    """

    model: PeftModel
    engine: Engine
    grade: Grade
    recipe: Train
    training: Training
    reward: Reward
    seeds: torch.Generator
    on_rollouts: Callable[[list[Rollout]], None]

    @property
    def step_items(self) -> int:
        """See :attr:`Objective.step_items`."""
        return self.recipe.batch // self.recipe.samples

    def accumulate(self, items: Sequence[Item], *, measure_kl: bool = False) -> Row:
        """See :meth:`Objective.accumulate`."""
        samples = self.recipe.samples
        items = [item for item in items for _ in range(samples)]
        prompts = [item.prompt for item in items]
        seed = int(torch.randint(2**62, (), generator=self.seeds))
        sampling = Sampling.of(self.reward, temperature=self.training.temperature, seed=seed)
        answers = self.engine.generate(prompts, sampling)
        correct = torch.tensor(self.grade(items, [answer.text for answer in answers]))
        rewards = reinforce.rewards(correct, self.reward.right, self.reward.wrong)
        advantages = reinforce.advantages(rewards, self.training.baseline, self.training.normalise_rewards, samples).to(
            self.model.device
        )
        seen = zip(items, answers, correct.tolist(), rewards.tolist(), advantages.tolist(), strict=True)
        self.on_rollouts(
            [
                Rollout(item.id, question(item.prompt), answer.text, len(answer.tokens), answer.finished, *earned)
                for item, answer, *earned in seen
            ]
        )
        with_kl = self.recipe.kl > 0 or measure_kl
        # An advantage of 0 has no gradient, so that there is no pass to make.
        pairs = [
            Pair(ids, answer.tokens if with_kl or advantage else (), shown(prompt))
            for ids, prompt, answer, advantage in zip(
                self.engine.encode(prompts), prompts, answers, advantages.tolist(), strict=True
            )
        ]

        def terms(logits: torch.Tensor, tokens: torch.Tensor, sample: torch.Tensor, base: torch.Tensor | None) -> Terms:
            return reinforce.terms(
                logits,
                tokens,
                sample,
                advantages,
                temperature=self.training.temperature,
                base_logits=base,
                direction=self.training.kl_direction,
            )

        measured = _accumulate_batch(
            self.model, self.recipe, self.training, pairs, terms, self.engine.inputs, with_kl=with_kl
        )
        return {
            "reward": float(rewards.mean()),
            "correct": float(correct.float().mean()),
            **measured,
            "tokens": sum(len(answer.tokens) for answer in answers),
            "too_long": sum(answer.too_long for answer in answers),
            "agreed": reinforce.agreeing(rewards, samples) if samples > 1 else None,
        }


@dataclass(frozen=True)
class ExpectedReward:
    """Makes the right one of a choice's options likelier, by what all of them earn on average: nothing is sampled.

    The options are shuffled at each visit. What follows the option's token is not looked at.

    Attributes:
        reward: What options earn.
        seeds: Shuffles the order of the options.
    """

    model: PeftModel
    engine: Engine
    recipe: Train
    training: Training
    reward: Reward
    seeds: torch.Generator

    @property
    def step_items(self) -> int:
        """See :attr:`Objective.step_items`."""
        return self.recipe.batch

    def accumulate(self, items: Sequence[Item], *, measure_kl: bool = False) -> Row:
        """See :meth:`Objective.accumulate`."""
        turned = [reordered(item, torch.randperm(len(item.options), generator=self.seeds).tolist()) for item in items]
        prompts = self.engine.encode([item.prompt for item in turned])
        pairs = [self._pair(prompt, item) for prompt, item in zip(prompts, turned, strict=True)]
        right, wrong, temperature = self.reward.right, self.reward.wrong, self.training.temperature
        chances = 0.0

        def terms(logits: torch.Tensor, answers: torch.Tensor, _: torch.Tensor, base: torch.Tensor | None) -> Terms:
            nonlocal chances
            chances += float(expected_reward.chances(logits.detach(), answers, temperature).sum())
            return expected_reward.terms(
                logits,
                answers,
                right=right,
                wrong=wrong,
                temperature=temperature,
                base_logits=base,
                direction=self.training.kl_direction,
            )

        with_kl = self.recipe.kl > 0 or measure_kl
        measured = _accumulate_batch(
            self.model, self.recipe, self.training, pairs, terms, self.engine.inputs, with_kl=with_kl
        )
        correct = chances / len(items)
        return {
            "reward": wrong + (right - wrong) * correct,
            "correct": correct,
            **measured,
            "tokens": sum(len(pair.answer) for pair in pairs),
            "too_long": sum(not pair.answer for pair in pairs),
            "agreed": None,
        }

    def _pair(self, prompt: Sequence[int], item: Item) -> Pair:
        among = letters(item)
        tokens = chat.tokens_behind(self.engine.tokenizer, item.prompt, list(among))
        fits = len(prompt) + 1 <= self.engine.context
        return Pair(prompt, (tokens[among.index(item.answer)],) if fits else (), shown(item.prompt))


@dataclass(frozen=True)
class NextToken:
    """Imitates the items' worked replies."""

    model: PeftModel
    engine: Engine
    recipe: Train
    training: Training

    @property
    def step_items(self) -> int:
        """See :attr:`Objective.step_items`."""
        return self.recipe.batch

    def accumulate(self, items: Sequence[Item], *, measure_kl: bool = False) -> Row:
        """See :meth:`Objective.accumulate`; there is no divergence."""
        prompts = self.engine.encode([item.prompt for item in items])
        pairs = [self._pair(prompt, item) for prompt, item in zip(prompts, items, strict=True)]
        tokens = sum(len(pair.answer) for pair in pairs)
        loss_sum = 0.0
        self.model.train()
        for rows in micro_batches(pairs, self.training.micro_batch, self.training.micro_tokens):
            with naming_memory(_LESS_MEMORY):
                loss_sum += self._accumulate_micro_batch([pairs[row] for row in rows], tokens)
        return {
            "reward": None,
            "correct": None,
            "loss": loss_sum,
            "kl": None,
            "tokens": tokens,
            "too_long": sum(not pair.answer for pair in pairs),
            "agreed": None,
        }

    def _accumulate_micro_batch(self, pairs: Sequence[Pair], batch_tokens: int) -> float:
        """Adds a micro-batch's gradient; returns its part of the loss."""
        batch = pad(pairs, self.model.device, self.engine.inputs)

        def loss(logits: torch.Tensor, tokens: slice) -> torch.Tensor:
            return next_token.loss(logits, batch.tokens[tokens], batch_tokens)

        return accumulate_gradient(self.model, batch, loss, self.training.logit_chunk)

    def _pair(self, prompt: Sequence[int], item: Item) -> Pair:
        if not item.reply:
            raise ValueError(
                f"item {item.id} has no reply to imitate; give it one, or train with objective 'reinforce'"
            )
        answer = chat.encode_reply(self.engine.tokenizer, item.reply)
        fits = len(prompt) + len(answer) <= self.engine.context
        return Pair(prompt, answer if fits else (), shown(item.prompt))


def _accumulate_batch(
    model: PeftModel,
    recipe: Train,
    training: Training,
    pairs: Sequence[Pair],
    terms_of: TermsOf,
    inputs: Inputs,
    *,
    with_kl: bool,
) -> Row:
    """Adds the gradient of −J over a batch, micro-batch by micro-batch.

    Args:
        model: The policy.
        recipe: Has λ.
        training: How the batch is cut.
        pairs: Of the whole batch; those without an answer have no part in the sums, and count as samples.
        terms_of: The sums.
        inputs: What the model is given of them.
        with_kl: Whether the base model runs too.

    Returns:
        ``loss`` and ``kl``.
    """
    loss_sum = kl_sum = 0.0
    model.train()
    for rows in micro_batches(pairs, training.micro_batch, training.micro_tokens):
        with naming_memory(_LESS_MEMORY):
            batch = pad([pairs[row] for row in rows], model.device, inputs)
            sample = torch.tensor(rows, device=model.device)[batch.sample]
            base = base_logits(model, batch, training.logit_chunk) if with_kl else None
            loss, kl = _accumulate_micro_batch(
                model, batch, sample, base, terms_of, recipe.kl, len(pairs), training.logit_chunk
            )
        loss_sum += loss
        kl_sum += kl
    return {"loss": loss_sum, "kl": kl_sum / len(pairs) if with_kl else None}


def _accumulate_micro_batch(
    model: PeftModel,
    batch: Batch,
    sample: torch.Tensor,
    base: Callable[[slice], torch.Tensor] | None,
    terms_of: TermsOf,
    kl_weight: float,
    samples: int,
    chunk: int | None,
) -> tuple[float, float]:
    """Adds a micro-batch's gradient; returns its part of the loss and the sum of its divergences."""
    divergences: list[float] = []

    def loss(logits: torch.Tensor, tokens: slice) -> torch.Tensor:
        terms = terms_of(logits, batch.tokens[tokens], sample[tokens], None if base is None else base(tokens))
        if terms.kl is not None:
            divergences.append(terms.kl.item())
        return terms.loss(kl_weight, samples)

    return accumulate_gradient(model, batch, loss, chunk), sum(divergences)
