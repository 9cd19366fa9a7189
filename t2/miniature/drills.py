"""Drills: what pretraining practises bare, since a model of this size would not learn it in passing."""

from __future__ import annotations

from random import Random

from t2.miniature.word_problems import equations
from t2.miniature.words import NAMES, THINGS, invent

Pieces = tuple[tuple[str, bool], ...]
"""Pieces of a text, each with whether it is learned."""


def arithmetic(rng: Random, length: int = 7) -> tuple[str, Pieces]:
    """Equations of which the results are learned: prompt and reply."""
    pieces = [piece for left, right in equations(rng, length) for piece in ((left, False), (f"{right}.", True))]
    return "Work these out.", tuple(pieces)


def copying(rng: Random, length: int = 9) -> tuple[str, Pieces]:
    """Words and numbers to repeat: prompt and reply."""
    entries = (
        lambda: invent(rng),
        lambda: invent(rng, rng.choice(("ks", "ton"))).capitalize(),
        lambda: str(rng.randint(2, 99)),
        lambda: rng.choice(NAMES),
        lambda: rng.choice(THINGS),
    )
    text = "".join(f" {rng.choice(entries)()}" for _ in range(length))
    return f"Repeat:{text}", (("Again:", False), (text, True))


DRILLS = (arithmetic, arithmetic, arithmetic, copying)
