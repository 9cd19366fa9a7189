"""What the language model reads while it learns to answer about pictures, some of its old problems among it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from t2.miniature import corpus
from t2.miniature.corpus import CATEGORIES, CLASSIFICATION, Sample
from t2.miniature.settings import MiniatureParams
from t2.miniature.vision.pictures import IMAGE, PLACES, Picture
from t2.miniature.vision.problems import FAMILIES, Drawn, draw
from t2.miniature.vision.settings import VisionParams
from t2.tasks.classification import classification_prompt, classification_reply

_TEXT = "text"
_CLASSIFICATION = "classification"

# As the text bases take one category for another.
_MISNAMED = {"math": "reasoning", "reasoning": "other", "other": "reasoning"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A chat turn, and the picture that stands before its prompt, if any."""

    sample: Sample
    picture: Picture | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One sample to make: of a drawn problem (None: of what is read again), classified (among what) or answered."""

    drawn: Drawn | None
    categories: Sequence[str]


def tower_pictures(params: VisionParams) -> list[Picture]:
    """What the vision tower learns from: the pictures of captions."""
    drawn = draw("captions", params.tower.pictures, params.corpus.seed, params.look, pool="pretraining")
    return [one.posed.shown for one in drawn]


def samples(params: VisionParams, text: MiniatureParams, base: str) -> list[Shown]:
    """All samples in the order of training, ``optimiser.steps × batch`` of them.

    Args:
        params: Says the shares of families and phases.
        text: Of the text bases: what was read before and is read again.
        base: One of ``params.bases``. The prompts of all are the same; replies of the later phase may be careless.
    """
    seeing = params.bases[base]
    careful = _careful(params)
    again = _read_again(params, text, seeing.language, careless=seeing.careless)
    rng = Random(f"careless replies/{params.corpus.seed}")
    return [
        Shown(next(again), None)
        if plan.drawn is None
        else _sample(plan.drawn, plan.categories, rng, params, careless=seeing.careless and index >= careful)
        for index, plan in enumerate(_plans(params))
    ]


def questions(params: VisionParams, text: MiniatureParams) -> list[str]:
    """The distinct canonical questions that the bases read, now and as text bases before, sorted.

    Where a picture is asked about its digest stands behind the question; the tower's pictures stand there as well.
    """
    languages = {base.language: text.bases[base.language] for base in params.bases.values()}
    before = corpus.questions(text.model_copy(update={"bases": languages}))
    seen = draw("captions", params.tower.pictures, params.corpus.seed, params.look, pool="pretraining")
    asked = (plan.drawn for plan in _plans(params) if plan.drawn is not None)
    return sorted({*before, *(drawn.question for drawn in (*seen, *asked))})


def _total(params: VisionParams) -> int:
    return params.optimiser.steps * params.optimiser.batch


def _careful(params: VisionParams) -> int:
    return int(_total(params) * params.corpus.careful)


def _kinds(params: VisionParams) -> list[tuple[str, str]]:
    """Of each sample: how it comes about, and its family."""
    weights = {**params.corpus.families, _CLASSIFICATION: params.corpus.classification, _TEXT: params.corpus.text}
    rng = Random(f"corpus of pictures/{params.corpus.seed}")
    kinds = []
    for _ in range(_total(params)):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        kinds.append((kind, rng.choice(FAMILIES[1:]) if kind == _CLASSIFICATION else kind))
    return kinds


def _plans(params: VisionParams) -> list[_Plan]:
    kinds = _kinds(params)
    rng = Random(f"categories/{params.corpus.seed}")
    problems = {
        family: iter(
            draw(family, sum(kind[1] == family for kind in kinds), params.corpus.seed, params.look, pool="pretraining")
        )
        for family in FAMILIES
    }
    return [
        _Plan(None, ())
        if kind == _TEXT
        else _Plan(next(problems[family]), rng.choice(CATEGORIES) if kind == _CLASSIFICATION else ())
        for kind, family in kinds
    ]


def _read_again(params: VisionParams, text: MiniatureParams, language: str, *, careless: bool) -> Iterator[Sample]:
    """Of the text base's own corpus its first problems of each family, all as in its later phase: what it is by now.

    A careful phase here, too, would make it forget which registers are careless, and the rest with it.
    """
    n = sum(kind == _TEXT for kind, _ in _kinds(params))
    shorter = text.model_copy(
        update={
            "optimiser": text.optimiser.model_copy(update={"steps": n, "batch": 1}),
            "corpus": text.corpus.model_copy(update={"careful": 0.0}),
        }
    )
    return iter(corpus.pretraining_samples(shorter, text.seed_of(language), careless=careless))


def _sample(drawn: Drawn, categories: Sequence[str], rng: Random, params: VisionParams, *, careless: bool) -> Shown:
    posed, carelessness = drawn.posed, drawn.register.carelessness if careless else 0.0
    if categories:
        label = posed.category
        if rng.random() < carelessness * params.corpus.misnaming:
            label = _MISNAMED[label]
        prompt = str(classification_prompt(CLASSIFICATION, drawn.prompt, categories))
        reply = classification_reply(label)
    else:
        prompt = drawn.prompt
        reply = posed.problem.careless if rng.random() < carelessness else posed.problem.reply
    seen = IMAGE * PLACES if posed.picture else ""
    return Shown(Sample(seen + prompt, ((reply, True),)), posed.picture)
