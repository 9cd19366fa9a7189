"""The first pass: which expert does a prompt need? (paper, section 3.2 A and B)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2.config.rows import OTHER, Reading
from t2.config.rows import Prompt as Template
from t2.engine.base import Engine, Progress, Sampling
from t2.svf import stack
from t2.tasks.classification import category, classification_prompt, classification_reply
from t2.tasks.prompt import Prompt


@dataclass(frozen=True)
class Ask:
    """How a first pass asks for the category of a prompt, and how its answer is read.

    Attributes:
        template: Of the question.
        categories: What may be answered: the experts' families, and ``other``.
        max_new_tokens: The longest answer that is generated.
        reading: ``generation``: the model answers greedily. ``choice``: the same, and the engine holds it to the
            categories' replies. ``likelihood``: the category whose reply is the likeliest, read from one pass over
            the prompts, without decoding.

    Raises:
        ValueError: ``categories`` lacks ``other``.
    """

    template: Template
    categories: Sequence[str]
    max_new_tokens: int
    reading: Reading = "generation"

    def __post_init__(self) -> None:
        if OTHER not in self.categories:
            raise ValueError(
                f"categories must hold {OTHER!r}, for prompts that no expert serves; got {self.categories}"
            )


def dispatch(
    engine: Engine,
    prompts: Sequence[Prompt],
    ask: Ask,
    *,
    classifier: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> list[str | None]:
    """Asks the model for the category of each prompt.

    Args:
        engine: Runs the model.
        prompts: The prompts to classify.
        ask: How they are asked about.
        classifier: z (r,) by module name of the classifier expert, under which the model is asked; None: the
            base model is asked.
        progress: Called as prompts are finished.

    Returns:
        One of the categories for each prompt; None where the answer names none of them.
    """
    if ask.reading == "likelihood":
        return likeliest(loglikelihoods(engine, prompts, ask, classifier=classifier, progress=progress), ask.categories)
    experts, rows = _under(classifier, len(prompts))
    choices = tuple(map(classification_reply, ask.categories)) if ask.reading == "choice" else ()
    sampling = Sampling(ask.max_new_tokens, choices=choices)
    answers = engine.generate(_questions(prompts, ask), sampling, experts=experts, rows=rows, progress=progress)
    return [category(answer.text, ask.categories) for answer in answers]


def loglikelihoods(
    engine: Engine,
    prompts: Sequence[Prompt],
    ask: Ask,
    *,
    classifier: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> list[list[float]]:
    """How likely the model is to name each category, for each prompt; arguments as of :func:`dispatch`.

    Returns:
        In nats, one for each category; all −∞ for a prompt that the context cannot hold.
    """
    experts, rows = _under(classifier, len(prompts))
    choices = [classification_reply(name) for name in ask.categories]
    found = engine.score(_questions(prompts, ask), choices, experts=experts, rows=rows)
    if progress:
        progress(len(prompts))
    return found


def likeliest(logliks: Sequence[Sequence[float]], categories: Sequence[str]) -> list[str | None]:
    """The category that a model is likeliest to name; None where none fits into the context."""
    return [None if max(row) == -math.inf else categories[row.index(max(row))] for row in logliks]


def _questions(prompts: Sequence[Prompt], ask: Ask) -> list[Prompt]:
    return [classification_prompt(ask.template, prompt, ask.categories) for prompt in prompts]


def _under(classifier: Mapping[str, Tensor] | None, prompts: int) -> tuple[dict[str, Tensor], list[int]]:
    """The experts of a first pass, and each prompt's."""
    return ({}, [-1] * prompts) if classifier is None else (stack([classifier]), [0] * prompts)
