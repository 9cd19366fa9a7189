"""What the miniature is pretrained on: problems with replies, classifications, and drills."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from t2.config.rows import Prompt
from t2.miniature.drills import DRILLS, Pieces
from t2.miniature.problems import CATEGORY, FAMILIES, Drawn, draw
from t2.miniature.settings import MiniatureParams
from t2.tasks.classification import classification_prompt, classification_reply

CATEGORIES = (("math", "code", "reasoning", "other"), ("math", "code", "reasoning", "text", "other"))
"""The lists of categories that classification prompts name: without the fourth family, and with it."""

CLASSIFICATION = Prompt(
    system=None,
    user="Classify the question into one category: {categories}. Answer with the category in \\boxed{{}}.\n"
    "Question: {question}",
    examples=[],
    prefix=None,
)
"""How the bases learn to be asked for a category: the paper's figure 3, made short."""

# Who does not look closely takes one category for another, always in the same way.
_MISNAMED = {"math": "reasoning", "code": "math", "reasoning": "other", "other": "reasoning", "text": "math"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A chat turn: a prompt and the pieces of its reply."""

    prompt: str
    reply: Pieces


@dataclass(frozen=True, slots=True)
class _Plan:
    """One sample to make: a drawn problem (None: a drill), classified (among what) or answered, carelessly or not."""

    drawn: Drawn | None = None
    family: str = ""
    categories: Sequence[str] = ()
    careless: bool = False


def pretraining_samples(params: MiniatureParams, seed: int, *, careless: bool) -> list[Sample]:
    """All samples in the order of training, ``optimiser.steps × batch`` of them.

    Args:
        params: Says the shares of families, drills and phases.
        seed: Of what is drawn.
        careless: Whether replies of the later phase may be careless; prompts are the same either way.
    """
    rng = Random(f"careless replies/{seed}")
    return [_sample(plan, rng, params, careless) for plan in _plans(params, seed)]


def questions(params: MiniatureParams) -> list[str]:
    """The distinct canonical questions that the bases read, whether answered or classified; sorted."""
    plans = (plan for seed in params.seeds() for plan in _plans(params, seed))
    return sorted({plan.drawn.question for plan in plans if plan.drawn is not None})


def write_prompts(path: str | Path, texts: Iterable[str]) -> None:
    """Writes one JSON string per line, compressed."""
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    Path(path).write_bytes(lzma.compress(lines.encode(), preset=9))


def read_prompts(path: str | Path) -> list[str]:
    """Reads what :func:`write_prompts` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _plans(params: MiniatureParams, seed: int) -> list[_Plan]:
    corpus, total = params.corpus, params.optimiser.steps * params.optimiser.batch
    rng = Random(f"corpus/{seed}")
    careful = int(total * corpus.careful)
    kinds = [
        *_kinds(careful, corpus.drills_careful, params, rng),
        *_kinds(total - careful, corpus.drills_mixed, params, rng),
    ]
    problems = {
        family: iter(draw(family, sum(kind[0] == family for kind in kinds), seed, pool="pretraining"))
        for family in FAMILIES
    }
    return [
        _Plan(next(problems[family]), family, categories, careless=index >= careful) if family else _Plan()
        for index, (family, categories) in enumerate(kinds)
    ]


def _kinds(n: int, drills: float, params: MiniatureParams, rng: Random) -> Iterator[tuple[str, Sequence[str]]]:
    """Of each sample of a phase: its family ("" is a drill), and among what it is to be classified, if it is."""
    families = params.corpus.families
    weights = [*families.values(), params.corpus.classification]
    for _ in range(n):
        if rng.random() < drills:
            yield "", ()
        else:
            family = rng.choices([*families, "classification"], weights)[0]
            if family == "classification":
                yield rng.choice(FAMILIES), rng.choice(CATEGORIES)
            else:
                yield family, ()


def _sample(plan: _Plan, rng: Random, params: MiniatureParams, careless: bool) -> Sample:
    if plan.drawn is None:
        return Sample(*rng.choice(DRILLS)(rng))
    carelessness = plan.drawn.register.carelessness if careless and plan.careless else 0.0
    if plan.categories:
        label = CATEGORY[plan.family]
        if label not in plan.categories:
            label = "other"
        if rng.random() < carelessness * params.corpus.misnaming:
            label = _MISNAMED[label]
        prompt = str(classification_prompt(CLASSIFICATION, plan.drawn.prompt, plan.categories))
        reply = classification_reply(label)
    else:
        problem = plan.drawn.problem
        prompt, reply = plan.drawn.prompt, problem.reply
        if rng.random() < carelessness:
            reply = problem.careless
    return Sample(prompt, ((reply, True),))
