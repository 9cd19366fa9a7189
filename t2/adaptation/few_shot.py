"""Few-shot adaptation: what mixing weights score on held-out prompts (paper, section 3.2 C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2.adaptation.cem import Evaluate, Scores
from t2.config.rows import Budget
from t2.engine.base import Engine, Generation, Sampling
from t2.sandbox import Sandbox
from t2.svf import mix_population
from t2.tasks.grading import grade
from t2.tasks.item import Item


def shot_evaluator(
    engine: Engine,
    kind: str,
    shots: Sequence[Item],
    experts: Sequence[Mapping[str, Tensor]],
    settings: Budget,
    *,
    sampling: Sampling,
    sigma: Mapping[str, Tensor] | None = None,
    sandbox: Sandbox | None = None,
) -> Evaluate:
    """A function that scores a whole population on the shots in one call of the engine, greedily.

    Each sample runs under the z' of its own candidate.

    Args:
        engine: Runs the model.
        kind: How replies are graded.
        shots: S held-out items.
        experts: z (r,) by module name of K experts, the base among them where it is to be mixed in.
        settings: ``form`` and ``renormalise`` are used, see :func:`t2.svf.mix_population`.
        sampling: How tokens are chosen; greedily.
        sigma: Singular values (r,) by module name, for the free form.
        sandbox: Where generated code runs; the kind ``code`` needs one.

    Returns:
        Alphas (P, K) or (P, L, K) to :class:`t2.adaptation.cem.Scores`; the accuracy of a candidate that
        cannot be rescaled (Σσz' ≤ 0) is −∞.

    Raises:
        ValueError: There are no shots.
    """
    if not shots:
        raise ValueError("few-shot adaptation needs shots, got none; see the budget's shots")

    def evaluate(alphas: Tensor) -> Scores:
        tables, valid = mix_population(experts, alphas, settings.form, sigma, settings.renormalise)
        members = valid.nonzero()[:, 0].tolist()
        items = [item for _ in members for item in shots]
        generations = engine.generate(
            [item.prompt for item in items],
            sampling,
            experts=tables,
            rows=[member for member in members for _ in shots],
        )
        right = grade(kind, items, [generation.text for generation in generations], sandbox)
        accuracy = torch.full((len(alphas),), -torch.inf, dtype=torch.float64)
        loglik = accuracy.clone()
        for index, member in enumerate(members):
            own = slice(index * len(shots), (index + 1) * len(shots))
            accuracy[member] = sum(right[own]) / len(shots)
            loglik[member] = mean_loglik(generations[own], right[own])
        return Scores(accuracy, loglik)

    return evaluate


def mean_loglik(generations: Sequence[Generation], right: Sequence[bool]) -> float:
    """Mean log-likelihood over all tokens of the right answers; −∞ if there is none."""
    logprobs = [
        logprob
        for generation, is_right in zip(generations, right, strict=True)
        if is_right
        for logprob in generation.logprobs
    ]
    return sum(logprobs) / len(logprobs) if logprobs else -torch.inf
