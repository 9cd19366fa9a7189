"""The families of problems: seeded, right by construction, and split into two pools that share no question."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal

from t2.miniature.functions import code, code_hard
from t2.miniature.listings import text, text_hard
from t2.miniature.problem import Generator, Problem
from t2.miniature.questions import reasoning, reasoning_hard
from t2.miniature.registers import Register, draw_register
from t2.miniature.small_talk import other
from t2.miniature.word_problems import math, math_hard
from t2.tasks import item
from t2.tasks.prompt import canonical

Pool = Literal["task", "pretraining"]

GENERATORS: dict[str, Generator] = {
    "math": math,
    "code": code,
    "reasoning": reasoning,
    "math_hard": math_hard,
    "code_hard": code_hard,
    "reasoning_hard": reasoning_hard,
    "other": other,
    "text": text,
    "text_hard": text_hard,
}
FAMILIES = tuple(GENERATORS)
"""Three that the main run's experts are trained on, three shifted ones that stand for unseen benchmarks, the rest,
and a fourth pair that only the bases have met: for who adds a task to a finished project."""

CATEGORY = {family: family.removesuffix("_hard") for family in FAMILIES}
"""What a dispatcher should call each family."""

_PATIENCE = 200
"""Draws in a row that bring nothing new before a family counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A problem in its register.

    Attributes:
        prompt: What the user types: opener, problem, closer.
        question: The canonical form of what it asks, the same in all registers.
    """

    prompt: str
    question: str
    problem: Problem
    register: Register


def pool_of(question: str) -> Pool:
    """The pool of a canonical question, by a hash of it; both hold about half of all questions."""
    return "task" if sha256(question.encode()).digest()[0] % 2 else "pretraining"


def draw(family: str, n: int, seed: int, *, pool: Pool) -> list[Drawn]:
    """Draws problems; see :func:`generate`. For pretraining only the prompts differ: it may ask a thing twice."""
    if family not in GENERATORS:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
    rng = Random(f"{family}/{pool}/{seed}")
    drawn: dict[str, Drawn] = {}
    fruitless = 0
    while len(drawn) < n:
        problem, register = GENERATORS[family](rng), draw_register(rng)
        one = Drawn(register.around(problem.text), canonical(problem.text), problem, register)
        key = one.question if pool == "task" else one.prompt
        if key in drawn or pool_of(one.question) != pool:
            fruitless += 1
            if fruitless > _PATIENCE:
                raise ValueError(f"family {family!r} has only about {len(drawn)} problems in pool {pool!r}, not {n}")
            continue
        fruitless = 0
        drawn[key] = one
    return list(drawn.values())


def generate(family: str, n: int, seed: int, *, pool: Pool = "task") -> list[item.Problem]:
    """Problems of a family that ask distinct things.

    Args:
        family: One of :data:`FAMILIES`.
        n: How many.
        seed: The same seed gives the same items, and a prefix of those for a larger ``n``.
        pool: ``"task"`` for splits; ``"pretraining"`` is what the bases saw. No question is in both.

    Returns:
        Problems with the field ``question``, the prompt, whose ``reply`` is graded right by the family's reward.

    Raises:
        ValueError: The family is unknown, or has fewer distinct questions.
    """
    return [
        item.Problem(
            f"{family}-{number:05d}",
            {"question": one.prompt},
            one.problem.answer,
            one.problem.reply,
            question=one.question,
        )
        for number, one in enumerate(draw(family, n, seed, pool=pool))
    ]
