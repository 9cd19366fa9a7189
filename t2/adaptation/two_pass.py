"""Two-pass generation: the first pass picks an expert for each prompt, the second answers under it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from t2.adaptation.dispatch import dispatch
from t2.config import OTHER, Reading
from t2.engine.base import Engine, Generation, Progress, Sampling
from t2.svf import stack


@dataclass(frozen=True)
class TwoPass:
    """Replies and how they came about.

    Attributes:
        generations: One a prompt, in their order.
        categories: What the first pass made of each prompt.
        first_seconds: Wall-clock time of the first pass.
        second_seconds: Wall-clock time of the second pass.
        alpha: Where a found α answers and no first pass runs: the weight of each expert, or one a layer; the
            categories are then ``mix``, and ``first_seconds`` is the time of mixing.
    """

    generations: list[Generation]
    categories: list[str]
    first_seconds: float
    second_seconds: float
    alpha: Mapping[str, float | Sequence[float]] | None = None


def generate_two_pass(
    engine: Engine,
    prompts: Sequence[str],
    sampling: Sampling,
    experts: Mapping[str, Mapping[str, Tensor]],
    *,
    dispatch_tokens: int,
    classifier: Mapping[str, Tensor] | None = None,
    reading: Reading = "generation",
    progress: Progress | None = None,
) -> TwoPass:
    """Answers each prompt under the expert that the first pass chose for it.

    In the second pass samples of all experts share their batches. Prompts of the category ``other`` are
    answered by the base model.

    Args:
        engine: Runs the model.
        prompts: Texts as users type them.
        sampling: How the second pass chooses tokens.
        experts: z (r,) by module name of each expert, by family.
        dispatch_tokens: The longest answer of the first pass.
        classifier: The expert under which the first pass runs; None: the base model runs it.
        reading: How the first pass is read, see :func:`t2.adaptation.dispatch.dispatch`.
        progress: Called as prompts are finished, once in each pass.
    """
    families = list(experts)
    start = time.perf_counter()
    categories = dispatch(
        engine,
        prompts,
        [*families, OTHER],
        max_new_tokens=dispatch_tokens,
        classifier=classifier,
        reading=reading,
        progress=progress,
    )
    between = time.perf_counter()
    row = {family: index for index, family in enumerate(families)}
    generations = engine.generate(
        prompts,
        sampling,
        experts=stack(list(experts.values())),
        rows=[row.get(name, -1) for name in categories],
        progress=progress,
    )
    end = time.perf_counter()
    return TwoPass(generations, categories, between - start, end - between)
