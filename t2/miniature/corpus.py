"""What the miniature is pretrained on: problems with replies, classifications, and drills."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from t2.config.rows import Prompt
from t2.miniature.drills import DRILLS, Pieces
from t2.miniature.problems import CATEGORY, FAMILIES, Drawn, draw
from t2.miniature.settings import MiniatureParams
from t2.tasks.classification import classification_prompt, classification_reply

CATEGORIES = ("math", "code", "reasoning", "other")
CLASSIFICATION = Prompt(
    system=None,
    user="Classify the question into one category: {categories}. Answer with the category in \\boxed{{}}.\n"
    "Question: {question}",
    examples=[],
    prefix=None,
)
"""How the bases learn to be asked for a category: the paper's figure 3, made short."""

# Who does not look closely takes one category for another, always in the same way.
_MISNAMED = {"math": "reasoning", "code": "math", "reasoning": "other", "other": "reasoning"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A chat turn: a prompt and the pieces of its reply."""

    prompt: str
    reply: Pieces


@dataclass(frozen=True, slots=True)
class _Plan:
    """One sample to make: a drawn problem (None: a drill), classified or answered, carelessly or not."""

    drawn: Drawn | None = None
    family: str = ""
    classify: bool = False
    careless: bool = False


def pretraining_samples(params: MiniatureParams, *, careless: bool) -> list[Sample]:
    """All samples in the order of training, ``optimiser.steps × batch`` of them.

    Args:
        params: Says the shares of families, drills and phases.
        careless: Whether replies of the later phase may be careless; prompts are the same either way.
    """
    rng = Random(f"careless replies/{params.corpus.seed}")
    return [_sample(plan, rng, params, careless) for plan in _plans(params)]


def inner_prompts(params: MiniatureParams) -> list[str]:
    """The distinct prompts inside the samples, whether answered or classified; sorted."""
    return sorted({plan.drawn.prompt for plan in _plans(params) if plan.drawn is not None})


def write_prompts(path: str | Path, prompts: Iterable[str]) -> None:
    """Writes one JSON string a line, compressed."""
    lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts)
    Path(path).write_bytes(lzma.compress(lines.encode(), preset=9))


def read_prompts(path: str | Path) -> list[str]:
    """Reads what :func:`write_prompts` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _plans(params: MiniatureParams) -> list[_Plan]:
    corpus, total = params.corpus, params.optimiser.steps * params.optimiser.batch
    rng = Random(f"corpus/{corpus.seed}")
    careful = int(total * corpus.careful)
    kinds = [
        *_kinds(careful, corpus.drills_careful, params, rng),
        *_kinds(total - careful, corpus.drills_mixed, params, rng),
    ]
    problems = {
        family: iter(draw(family, sum(kind[0] == family for kind in kinds), corpus.seed, pool="pretraining"))
        for family in FAMILIES
    }
    return [
        _Plan(next(problems[family]), family, classify, careless=index >= careful) if family else _Plan()
        for index, (family, classify) in enumerate(kinds)
    ]


def _kinds(n: int, drills: float, params: MiniatureParams, rng: Random) -> Iterator[tuple[str, bool]]:
    """Of each sample of a phase: its family ("" is a drill), and whether it is to be classified."""
    families = params.corpus.families
    weights = [*families.values(), params.corpus.classification]
    for _ in range(n):
        if rng.random() < drills:
            yield "", False
        else:
            family = rng.choices([*families, "classification"], weights)[0]
            classify = family == "classification"
            yield (rng.choice(FAMILIES) if classify else family), classify


def _sample(plan: _Plan, rng: Random, params: MiniatureParams, careless: bool) -> Sample:
    if plan.drawn is None:
        return Sample(*rng.choice(DRILLS)(rng))
    carelessness = plan.drawn.register.carelessness if careless and plan.careless else 0.0
    if plan.classify:
        label = CATEGORY[plan.family]
        if rng.random() < carelessness * params.corpus.misnaming:
            label = _MISNAMED[label]
        prompt = str(classification_prompt(CLASSIFICATION, plan.drawn.prompt, CATEGORIES))
        reply = classification_reply(label)
    else:
        problem = plan.drawn.problem
        prompt, reply = plan.drawn.prompt, problem.reply
        if rng.random() < carelessness:
            reply = problem.careless
    return Sample(prompt, ((reply, True),))
