"""What a generator of problems makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem before a register is put around it.

    Attributes:
        text: The bare problem; two with the same text ask the same.
        answer: What grading compares with.
        reply: The careful reply, always right.
        careless: The reply of someone who does not think, almost always wrong.
    """

    text: str
    answer: str
    reply: str
    careless: str


Generator = Callable[[Random], Problem]
