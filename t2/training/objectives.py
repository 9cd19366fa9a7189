"""What an adapter is trained towards: each objective adds the gradient of one batch to the parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from peft import PeftModel

from t2.config.rows import Reward, Train, Training
from t2.engine import chat
from t2.engine.base import Engine, Sampling
from t2.engine.device import naming_memory
from t2.tasks.item import Item
from t2.training import next_token, reinforce
from t2.training.logits import base_logits, learn
from t2.training.sequences import Pair, micro_batches, pad
from t2.training.state import Row

Grade = Callable[[Sequence[Item], Sequence[str]], list[bool]]


_LESS_MEMORY = (
    "lower training.micro_batch or micro_tokens, set training.logit_chunk, or training.gradient_checkpointing to true"
)


class Objective(Protocol):
    """One of the two ways to learn."""

    def accumulate(self, items: Sequence[Item]) -> Row:
        """Adds the gradient of a batch's loss to the trainable parameters.

        Returns:
            ``loss``; ``tokens``, of the answers learned from; ``too_long``, items that the context could not
            hold and nothing was learned from; ``reward`` and ``kl``, means over samples, and ``correct``, a
            fraction, where the objective has them.
        """


@dataclass(frozen=True)
class Reinforce:
    """Samples an answer to each prompt and makes it more or less likely by its reward (paper, section 3.2).

    Attributes:
        reward: What answers earn, and where they end.
        seeds: Draws the seed of each batch's rollout.
    """

    model: PeftModel
    engine: Engine
    grade: Grade
    recipe: Train
    training: Training
    reward: Reward
    seeds: torch.Generator

    def accumulate(self, items: Sequence[Item]) -> Row:
        """See :meth:`Objective.accumulate`."""
        prompts = [item.prompt for item in items]
        seed = int(torch.randint(2**62, (), generator=self.seeds))
        greedy = Sampling.greedy(self.reward)
        answers = self.engine.generate(prompts, replace(greedy, temperature=self.training.temperature, seed=seed))
        correct = torch.tensor(self.grade(items, [answer.text for answer in answers]))
        rewards = reinforce.rewards(correct, self.reward.right, self.reward.wrong)
        pairs = [
            Pair(prompt, answer.tokens) for prompt, answer in zip(self.engine.encode(prompts), answers, strict=True)
        ]
        measured = self._backward(
            pairs, reinforce.advantages(rewards, self.training.baseline, self.training.normalise_rewards)
        )
        return {
            "reward": float(rewards.mean()),
            "correct": float(correct.float().mean()),
            **measured,
            "tokens": sum(len(pair.answer) for pair in pairs),
            "too_long": sum(answer.too_long for answer in answers),
        }

    def _backward(self, pairs: Sequence[Pair], advantages: torch.Tensor) -> Row:
        loss_sum = kl_sum = 0.0
        self.model.train()
        for rows in micro_batches(pairs, self.training.micro_batch, self.training.micro_tokens):
            with naming_memory(_LESS_MEMORY):
                loss, kl = self._learn([pairs[row] for row in rows], advantages[rows], len(pairs))
            loss_sum += loss
            kl_sum += kl
        return {"loss": loss_sum, "kl": kl_sum / len(pairs) if self.recipe.kl > 0 else None}

    def _learn(self, pairs: Sequence[Pair], advantages: torch.Tensor, samples: int) -> tuple[float, float]:
        """Adds a micro-batch's gradient; returns its part of the loss and the sum of its divergences."""
        batch, advantages = pad(pairs, self.model.device), advantages.to(self.model.device)
        base = base_logits(self.model, batch, self.training.logit_chunk) if self.recipe.kl > 0 else None
        divergences: list[float] = []

        def loss(logits: torch.Tensor, tokens: slice) -> torch.Tensor:
            terms = reinforce.terms(
                logits,
                batch.tokens[tokens],
                batch.sample[tokens],
                advantages,
                temperature=self.training.temperature,
                base_logits=None if base is None else base(tokens),
                direction=self.training.kl_direction,
            )
            if terms.kl is not None:
                divergences.append(terms.kl.item())
            return terms.loss(self.recipe.kl, samples)

        return learn(self.model, batch, loss, self.training.logit_chunk), sum(divergences)


@dataclass(frozen=True)
class NextToken:
    """Imitates the items' worked replies."""

    model: PeftModel
    engine: Engine
    training: Training

    def accumulate(self, items: Sequence[Item]) -> Row:
        """See :meth:`Objective.accumulate`."""
        prompts = self.engine.encode([item.prompt for item in items])
        pairs = [self._pair(prompt, item) for prompt, item in zip(prompts, items, strict=True)]
        tokens = sum(len(pair.answer) for pair in pairs)
        loss_sum = 0.0
        self.model.train()
        for rows in micro_batches(pairs, self.training.micro_batch, self.training.micro_tokens):
            with naming_memory(_LESS_MEMORY):
                loss_sum += self._learn([pairs[row] for row in rows], tokens)
        return {
            "reward": None,
            "correct": None,
            "loss": loss_sum,
            "kl": None,
            "tokens": tokens,
            "too_long": sum(not pair.answer for pair in pairs),
        }

    def _learn(self, pairs: Sequence[Pair], batch_tokens: int) -> float:
        """Adds a micro-batch's gradient; returns its part of the loss."""
        batch = pad(pairs, self.model.device)

        def loss(logits: torch.Tensor, tokens: slice) -> torch.Tensor:
            return next_token.loss(logits, batch.tokens[tokens], batch_tokens)

        return learn(self.model, batch, loss, self.training.logit_chunk)

    def _pair(self, prompt: Sequence[int], item: Item) -> Pair:
        if not item.reply:
            raise ValueError(
                f"item {item.id} has no reply to imitate; give it one, or train with objective 'reinforce'"
            )
        answer = chat.encode_reply(self.engine.tokenizer, item.reply)
        fits = len(prompt) + len(answer) <= self.engine.context
        return Pair(prompt, answer if fits else ())
