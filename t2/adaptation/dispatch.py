"""The first pass: which expert does a prompt need? (paper, section 3.2 A and B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2.config.rows import OTHER, Reading
from t2.config.rows import Prompt as Template
from t2.engine.base import Engine, Progress, Sampling
from t2.svf import stack
from t2.tasks.dispatch import category, classification_prompt, classification_reply
from t2.tasks.prompt import Prompt


@dataclass(frozen=True)
class Ask:
    """How a first pass asks for the category of a prompt, and how its answer is read.

    Attributes:
        template: Of the question.
        categories: What may be answered: the experts' families, and ``other``.
        max_new_tokens: The longest answer that is generated.
        reading: ``generation``: the model answers greedily. ``choice``: the same, and the engine holds it to the
            categories' replies. ``likelihood``: the category whose reply is the likeliest, in one pass over prompts
            and replies and without decoding.

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
) -> list[str]:
    """Asks the model for the category of each prompt.

    Args:
        engine: Runs the model.
        prompts: The prompts to classify.
        ask: How they are asked about.
        classifier: z (r,) by module name of the classifier expert, under which the model is asked; None: the
            base model is asked.
        progress: Called as prompts are finished.

    Returns:
        One of the categories for each prompt; a generated answer that names none of them counts as ``other``.
    """
    questions = [classification_prompt(ask.template, prompt, ask.categories) for prompt in prompts]
    experts = {} if classifier is None else stack([classifier])
    row = -1 if classifier is None else 0
    if ask.reading == "likelihood":
        return _likeliest(engine, questions, ask.categories, experts, row, progress)
    choices = tuple(map(classification_reply, ask.categories)) if ask.reading == "choice" else ()
    sampling = Sampling(ask.max_new_tokens, choices=choices)
    answers = engine.generate(questions, sampling, experts=experts, rows=[row] * len(prompts), progress=progress)
    return [category(answer.text, ask.categories) or OTHER for answer in answers]


def _likeliest(
    engine: Engine,
    questions: Sequence[Prompt],
    categories: Sequence[str],
    experts: Mapping[str, Tensor],
    row: int,
    progress: Progress | None,
) -> list[str]:
    """The category with the likeliest reply to each question; ``other`` where none fits into the context."""
    asked = [question for question in questions for _ in categories]
    replies = [classification_reply(name) for name in categories] * len(questions)
    scores = torch.tensor(engine.score(asked, replies, experts=experts, rows=[row] * len(asked)))
    if progress:
        progress(len(questions))
    best = scores.reshape(len(questions), len(categories)).max(1)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [OTHER if value == -torch.inf else categories[index] for value, index in pairs]
