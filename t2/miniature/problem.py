"""What a generator of problems makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem before a register is put around it.

    Attributes:
        text: The bare problem.
        question: What it asks, whoever it is about: the text with people's names numbered, and without what else
            could be any. Problems with the same one are the same problem.
        answer: What grading compares with.
        reply: The careful reply, always right.
        careless: The reply of someone who does not think, almost always wrong.
    """

    text: str
    question: str
    answer: str
    reply: str
    careless: str


Generator = Callable[[Random], Problem]
