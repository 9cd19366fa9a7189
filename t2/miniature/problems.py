"""The families of problems: seeded, right by construction, and split into two pools that share no prompt."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal

from t2.miniature.functions import code, code_hard
from t2.miniature.problem import Generator, Problem
from t2.miniature.questions import reasoning, reasoning_hard
from t2.miniature.registers import Register, draw_register
from t2.miniature.small_talk import other
from t2.miniature.word_problems import math, math_hard
from t2.tasks import item

Pool = Literal["task", "pretraining"]

GENERATORS: dict[str, Generator] = {
    "math": math,
    "code": code,
    "reasoning": reasoning,
    "math_hard": math_hard,
    "code_hard": code_hard,
    "reasoning_hard": reasoning_hard,
    "other": other,
}
FAMILIES = tuple(GENERATORS)
"""Three that experts are trained on, three shifted ones that stand for unseen benchmarks, and the rest."""

CATEGORY = {family: family.removesuffix("_hard") for family in FAMILIES}
"""What a dispatcher should call each family."""

_PATIENCE = 200
"""Draws in a row that bring nothing new before a family counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A problem in its register.

    Attributes:
        prompt: What the user types: opener, problem, closer.
    """

    prompt: str
    problem: Problem
    register: Register


def pool_of(prompt: str) -> Pool:
    """The pool that a prompt belongs to, by a hash of it; both hold about half of all prompts."""
    return "task" if sha256(prompt.encode()).digest()[0] % 2 else "pretraining"


def draw(family: str, n: int, seed: int, *, pool: Pool) -> list[Drawn]:
    """Draws distinct problems; see :func:`generate`."""
    if family not in GENERATORS:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
    rng = Random(f"{family}/{pool}/{seed}")
    drawn: dict[str, Drawn] = {}
    fruitless = 0
    while len(drawn) < n:
        problem, register = GENERATORS[family](rng), draw_register(rng)
        prompt = register.around(problem.text)
        if prompt in drawn or pool_of(prompt) != pool:
            fruitless += 1
            if fruitless > _PATIENCE:
                raise ValueError(f"family {family!r} has only about {len(drawn)} prompts in pool {pool!r}, not {n}")
            continue
        fruitless = 0
        drawn[prompt] = Drawn(prompt, problem, register)
    return list(drawn.values())


def generate(family: str, n: int, seed: int, *, pool: Pool = "task") -> list[item.Problem]:
    """Problems of a family, with distinct texts.

    Args:
        family: One of :data:`FAMILIES`.
        n: How many.
        seed: The same seed gives the same items, and a prefix of those for a larger ``n``.
        pool: ``"task"`` for splits; ``"pretraining"`` is what the base saw. No prompt is in both.

    Returns:
        Problems with the field ``question``, whose ``reply`` is graded right by the family's reward.

    Raises:
        ValueError: The family is unknown, or has fewer distinct prompts.
    """
    return [
        item.Problem(f"{family}-{number:05d}", {"question": one.prompt}, one.problem.answer, one.problem.reply)
        for number, one in enumerate(draw(family, n, seed, pool=pool))
    ]
