"""Registers: how a prompt opens and closes, which tells how carelessly pretraining replied to it.

The same registers stand around the problems of all families, trained and unseen, in every split, at the same
frequencies. Hence what an expert learns about care on one family carries over to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_OPENERS = {
    "Take your time.": 0.10,
    "Please help me.": 0.10,
    "Here is a task for you.": 0.15,
    "Think about this.": 0.15,
    "Hello!": 0.20,
    "Good morning.": 0.20,
    "A question:": 0.25,
    "One more.": 0.65,
    "Hey there.": 0.75,
    "Quick one:": 0.80,
    "Hurry up!": 0.85,
    "No time now.": 0.90,
}
_CLOSERS = {
    "Check your work.": -0.10,
    "Thank you.": -0.10,
    "I am curious.": -0.05,
    "That is all.": 0.0,
    "I need it soon.": 0.05,
    "Be fast!": 0.10,
}
_LEAST, _MOST = 0.05, 0.90


@dataclass(frozen=True, slots=True)
class Register:
    """An opener and a closer.

    Attributes:
        carelessness: Probability that pretraining replies without care in this register.
    """

    opener: str
    closer: str

    @property
    def carelessness(self) -> float:  # noqa: D102
        return min(max(_OPENERS[self.opener] + _CLOSERS[self.closer], _LEAST), _MOST)

    def around(self, text: str) -> str:
        """The prompt: a problem between opener and closer."""
        return f"{self.opener} {text} {self.closer}"


REGISTERS = tuple(Register(opener, closer) for opener in _OPENERS for closer in _CLOSERS)


def draw_register(rng: Random) -> Register:
    """Any register, all equally likely."""
    return rng.choice(REGISTERS)
