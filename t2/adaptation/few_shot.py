"""Few-shot adaptation: what mixing weights score on held-out prompts (paper, section 3.2 C)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2.adaptation.cem import Evaluate, Scores
from t2.config.rows import Accuracy, Budget, Reward
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
    reward: Reward | None = None,
) -> Evaluate:
    """A function that scores a whole population on the shots in one call of the engine.

    Each sample runs under the z' of its own candidate.

    Args:
        engine: Runs the model.
        kind: How replies are graded.
        shots: S held-out items.
        experts: z (r,) by module name of K experts, the base among them where it is to be mixed in.
        settings: ``objective`` is used, and ``form`` and ``renormalise``, see :func:`t2.svf.mix_population`.
        sampling: How tokens are chosen where replies are graded; its temperature is the objective's.
        sigma: Singular values (r,) by module name, for the free form.
        sandbox: Where generated code runs; the kind ``code`` needs one.
        reward: The task's; the kind ``vqa`` needs it.

    Returns:
        Alphas (P, K) or (P, L, K) to :class:`t2.adaptation.cem.Scores`; the score of a candidate that
        cannot be rescaled (Σσz' ≤ 0) is −∞.

    Raises:
        ValueError: There are no shots, or one has no reply that could be read.
    """
    if not shots:
        raise ValueError("few-shot adaptation needs shots, got none; see the budget's shots")
    objective = settings.objective
    graded = isinstance(objective, Accuracy)
    asked = [item for item in shots for _ in range(objective.samples if isinstance(objective, Accuracy) else 1)]
    if not graded and (bare := [item.id for item in shots if not item.reply]):
        raise ValueError(f"{', '.join(bare[:5])}: no worked reply to read; set the budget's objective to accuracy")

    def evaluate(alphas: Tensor) -> Scores:
        tables, valid = mix_population(experts, alphas, settings.form, sigma, settings.renormalise)
        members = valid.nonzero()[:, 0].tolist()
        items = [item for _ in members for item in asked]
        prompts, rows = [item.prompt for item in items], [member for member in members for _ in asked]
        score = torch.full((len(alphas),), -torch.inf, dtype=torch.float64)
        loglik = score.clone()
        own = {member: slice(place * len(asked), (place + 1) * len(asked)) for place, member in enumerate(members)}
        if graded:
            generations = engine.generate(prompts, sampling, experts=tables, rows=rows)
            right = grade(kind, items, [generation.text for generation in generations], sandbox, reward=reward)
            for member, part in own.items():
                score[member] = sum(right[part]) / len(asked)
                loglik[member] = mean_loglik(generations[part], right[part])
        else:
            logprobs = engine.read(prompts, [item.reply for item in items], experts=tables, rows=rows)
            for member, part in own.items():
                loglik[member] = _mean([logprob for reply in logprobs[part] for logprob in reply])
                score[member] = math.exp(loglik[member])
        return Scores(score, loglik)

    return evaluate


def mean_loglik(generations: Sequence[Generation], right: Sequence[bool]) -> float:
    """Mean log-likelihood over all tokens of the right answers; −∞ if there is none."""
    return _mean(
        [
            logprob
            for generation, is_right in zip(generations, right, strict=True)
            if is_right
            for logprob in generation.logprobs
        ]
    )


def _mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf
