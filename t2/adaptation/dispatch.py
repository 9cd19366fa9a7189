"""The first pass: which expert does a prompt need? (paper, section 3.2 A and B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from t2.config import OTHER
from t2.engine.base import Engine, Progress, Sampling
from t2.svf import stack
from t2.tasks.dispatch import category, classification_prompt


def dispatch(
    engine: Engine,
    prompts: Sequence[str],
    categories: Sequence[str],
    *,
    max_new_tokens: int,
    classifier: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Asks the model for the category of each prompt, greedily.

    Args:
        engine: Runs the model.
        prompts: The prompts to classify, as users type them.
        categories: What may be answered: the experts' families, and ``other``.
        max_new_tokens: The longest answer.
        classifier: z (r,) by module name of the classifier expert, under which the model is asked; None: the
            base model is asked.
        progress: Called as prompts are finished.

    Returns:
        One of ``categories`` for each prompt; an answer that names none of them counts as ``other``.

    Raises:
        ValueError: ``categories`` lacks ``other``.
    """
    if OTHER not in categories:
        raise ValueError(f"categories must hold {OTHER!r}, for prompts that no expert serves; got {categories}")
    answers = engine.generate(
        [classification_prompt(prompt, categories) for prompt in prompts],
        Sampling(max_new_tokens),
        experts={} if classifier is None else stack([classifier]),
        rows=[-1 if classifier is None else 0] * len(prompts),
        progress=progress,
    )
    return [category(answer.text, categories) or OTHER for answer in answers]
