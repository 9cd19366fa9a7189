"""Text: what stands where in a list of words, and harder questions about such lists.

The fourth pair of families: the bases meet it in pretraining, and the main run leaves it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from t2.miniature.problem import Problem
from t2.miniature.words import KINDS, THINGS

_WORDS = (*THINGS, *(word for members in KINDS.values() for word in members))
_OPENINGS = ("The list is {}.", "Someone wrote {}.", "There stands {}.")


def text(rng: Random) -> Problem:
    """At which place a word stands, or how many words there are."""
    listed = _list(rng)
    place = rng.randint(2, len(listed))
    if rng.random() < 0.75:
        asked, counted = f"At which place is {listed[place - 1]}?", listed[:place]
    else:
        asked, counted = "How many words are that?", listed
    return _problem(rng, listed, asked, counted, "", len(counted))


def text_hard(rng: Random) -> Problem:
    """How many words stand behind another, or before it from the end, or between two."""
    listed = _list(rng)
    first, second = sorted(rng.sample(range(1, len(listed) + 1), 2))
    left, right = listed[first - 1], listed[second - 1]
    kind = rng.randrange(3)
    if kind == 0:
        answer = len(listed) - first
        return _problem(rng, listed, f"How many words come behind {left}?", listed, f"{len(listed)}-{first}", answer)
    if kind == 1:
        steps = f"{len(listed)}-{first}={len(listed) - first}. Then {len(listed) - first}+1"
        return _problem(rng, listed, f"At which place from the end is {left}?", listed, steps, len(listed) - first + 1)
    asked = f"How many steps is it from {left} to {right}?"
    return _problem(rng, listed, asked, listed[:second], f"{second}-{first}", second - first)


def _list(rng: Random) -> list[str]:
    return rng.sample(_WORDS, rng.randint(3, 6))


def _problem(
    rng: Random, listed: Sequence[str], asked: str, counted: Sequence[str], steps: str, answer: int
) -> Problem:
    words = f"{rng.choice(_OPENINGS).format(', '.join(listed))} {asked}"
    numbered = ", ".join(f"{place} {word}" for place, word in enumerate(counted, start=1))
    then = f" Then {steps}={answer}." if steps else ""
    guess = rng.choice([number for number in range(1, 7) if number != answer])
    return Problem(
        text=words,
        answer=str(answer),
        reply=f"See 1{numbered[1:]}.{then}\n#### {answer}",
        careless=f"#### {guess}",
    )
