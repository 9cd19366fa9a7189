"""Two-pass generation: the first pass chooses a mixture for each prompt, the second answers under it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2.adaptation.strategies import Choice, Setting, Strategy
from t2.engine.base import Engine, Generation, Progress, Sampling
from t2.svf import stack
from t2.svf.mixture import BASE, Mixture
from t2.tasks.prompt import Prompt


@dataclass(frozen=True)
class TwoPass:
    """Replies and how they came about.

    Attributes:
        generations: One per prompt, in their order.
        choice: The mixture that each was given under, and what the first pass called the prompt.
        first_seconds: Wall-clock time of choosing, a first pass of the model's included.
        second_seconds: Wall-clock time of the answers, mixing included.
    """

    generations: list[Generation]
    choice: Choice
    first_seconds: float
    second_seconds: float


def answer(
    engine: Engine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    strategy: Strategy,
    setting: Setting,
    experts: Mapping[str, Mapping[str, Tensor]],
    *,
    progress: Progress | None = None,
) -> TwoPass:
    """Answers each prompt under the mixture that a strategy chooses for it; all mixtures share their batches.

    Args:
        engine: Runs the model.
        prompts: Texts as users type them, or messages.
        sampling: How the second pass chooses tokens.
        strategy: One of :data:`t2.adaptation.strategies.STRATEGIES`.
        setting: What it may look at.
        experts: z (r,) by module name of each expert, by its name.
        progress: Called as prompts are finished.
    """
    start = time.perf_counter()
    choice = strategy(setting, prompts)
    between = time.perf_counter()
    generations = generate(engine, prompts, sampling, choice, experts, progress=progress)
    return TwoPass(generations, choice, between - start, time.perf_counter() - between)


def generate(
    engine: Engine,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    choice: Choice,
    experts: Mapping[str, Mapping[str, Tensor]],
    *,
    progress: Progress | None = None,
) -> list[Generation]:
    """The second pass: each prompt under its mixture; arguments as of :func:`answer`."""
    base = Mixture({BASE: 1.0})
    mixed = [mixture for mixture in choice.mixtures if mixture != base]
    tables = stack([mixture.z(experts) for mixture in mixed]) if mixed else {}
    row = [mixed.index(mixture) if mixture in mixed else -1 for mixture in choice.mixtures]
    rows = [row[index] for index in choice.rows]
    return engine.generate(prompts, sampling, experts=tables, rows=rows, progress=progress)
