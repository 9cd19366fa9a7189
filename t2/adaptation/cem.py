"""The cross-entropy method over mixing weights α (paper, sections 2, 3.2 C and appendix A.4), and random search.

Tensors in, tensors out: what a candidate scores is the business of the ``evaluate`` function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from t2.config.rows import Budget


class Scores(NamedTuple):
    """What a population achieved; P candidates.

    Attributes:
        score: (P,) what the objective says, from 0 to 1; −∞: the candidate is not valid.
        loglik: (P,) mean log-likelihood per token, which breaks ties: of the candidate's own right replies, or of the
            worked ones; −∞ where there is none.
    """

    score: Tensor
    loglik: Tensor


Evaluate = Callable[[Tensor], Scores]
"""Scores alphas (P, K) or (P, L, K)."""


@dataclass(frozen=True)
class Step:
    """What one generation found, and what was made of it.

    Attributes:
        elites: The elite alphas (E, K) or (E, L, K), best first; none if nobody was right, and in random search.
        mean: Of the distribution after it, (K,) or (L, K).
        std: Its standard deviation.
        best: The best α so far.
        score: The score of ``best``.
        loglik: Its mean log-likelihood.
        mean_score: Over the valid candidates of the generation.
        any_right: Whether a candidate had any right answer; otherwise mean and std stayed as they were.
    """

    elites: Tensor
    mean: Tensor
    std: Tensor
    best: Tensor
    score: float
    loglik: float
    mean_score: float
    any_right: bool


@dataclass(frozen=True)
class State:
    """A search between two generations; with :func:`advance` all that a continuation needs.

    Attributes:
        mean: Of the distribution that the next generation is drawn from, (K,) or (L, K).
        std: Its standard deviation.
        best: The best α so far; the start's mean until a candidate has a right answer.
        score: The score of ``best``.
        loglik: Its mean log-likelihood.
        random: The random generator's state.
        history: A step per generation so far.
    """

    mean: Tensor
    std: Tensor
    best: Tensor
    score: float
    loglik: float
    random: Tensor
    history: tuple[Step, ...] = ()

    @property
    def best_generation(self) -> int:
        """The generation, from 1, that ``best`` comes from; 0 where nobody was right."""
        return self._first(lambda step: (step.score, step.loglik) == (self.score, self.loglik))

    @property
    def score_generation(self) -> int:
        """The generation, from 1, that was the first with the score of ``best``; 0 where nobody was right."""
        return self._first(lambda step: step.score == self.score)

    @property
    def first_score(self) -> float:
        """The best score of the first generation, which is as many random samples."""
        return self.history[0].score

    def _first(self, holds: Callable[[Step], bool]) -> int:
        places = (place for place, step in enumerate(self.history, start=1) if holds(step))
        return next(places, 0) if self.score > 0 else 0

    @property
    def without_answer(self) -> int:
        """Generations in which no candidate had a right answer."""
        return sum(not step.any_right for step in self.history)


def start(shape: tuple[int, ...], settings: Budget, seed: int) -> State:
    """The state before the first generation: the uniform mix.

    Args:
        shape: Of α: (K,), or (L, K) for weights of each layer.
        settings: ``init_std`` is used.
        seed: Seeds the search's random generator.
    """
    mean = torch.full(shape, 1 / shape[-1])
    random = torch.Generator().manual_seed(seed).get_state()
    return State(mean, torch.full(shape, settings.init_std), mean, 0.0, -torch.inf, random)


def advance(state: State, settings: Budget, evaluate: Evaluate) -> State:
    """Samples one generation, scores it and moves the distribution to its elites; in random search it stays.

    Candidates are ranked by score, then by log-likelihood, then by the order in which they were sampled.

    Raises:
        ValueError: ``evaluate`` returned something other than two (P,) tensors, or NaN.
    """
    generator = torch.Generator()
    generator.set_state(state.random)
    noise = torch.randn(settings.population, *state.mean.shape, generator=generator)
    alphas = state.mean + state.std * noise
    score, loglik = _checked(evaluate(alphas), settings.population)
    state = replace(state, random=generator.get_state())

    order = _ranked(score, loglik)
    first = int(order[0])
    right = float(score[first]) > 0
    elites = alphas[:0]
    if right and settings.algorithm == "cem":
        count = max(1, round(settings.elite_share * settings.population))
        elites = alphas[[i for i in order[:count].tolist() if score[i] > -torch.inf]]
        state = replace(
            state,
            mean=elites.mean(0),
            std=elites.std(0, correction=0).clamp(min=settings.min_std),
        )
    if right:
        found = float(score[first]), float(loglik[first])
        if found > (state.score, state.loglik):
            state = replace(state, best=alphas[first], score=found[0], loglik=found[1])
    valid = score[score > -torch.inf]
    step = Step(
        elites=elites,
        mean=state.mean,
        std=state.std,
        best=state.best,
        score=state.score,
        loglik=state.loglik,
        mean_score=float(valid.mean()) if len(valid) else 0.0,
        any_right=right,
    )
    return replace(state, history=(*state.history, step))


def search(
    state: State,
    settings: Budget,
    evaluate: Evaluate,
    on_generation: Callable[[State], object] = lambda state: None,
) -> State:
    """Advances a state, fresh or resumed, until it has seen ``settings.generations``.

    Args:
        state: From :func:`start`, or one that an earlier search had reached.
        settings: Of the search.
        evaluate: Scores a population.
        on_generation: Called with the state after each generation; the place to save it.

    Returns:
        The last state: ``best`` is the result, ``mean`` the distribution's centre.
    """
    while len(state.history) < settings.generations:
        state = advance(state, settings, evaluate)
        on_generation(state)
    return state


def _ranked(score: Tensor, loglik: Tensor) -> Tensor:
    """Indices of candidates, best first; the sorts are stable, so the first drawn wins what is left."""
    by_loglik = loglik.argsort(descending=True, stable=True)
    return by_loglik[score[by_loglik].argsort(descending=True, stable=True)]


def _checked(scores: Scores, population: int) -> tuple[Tensor, Tensor]:
    score, loglik = (torch.as_tensor(part, dtype=torch.float64) for part in scores)
    for name, values in (("score", score), ("loglik", loglik)):
        if values.shape != (population,) or bool(values.isnan().any()):
            raise ValueError(
                f"evaluate must score {population} candidates with numbers; {name} has the shape "
                f"{tuple(values.shape)} and {int(values.isnan().sum())} NaN"
            )
    return score, loglik
