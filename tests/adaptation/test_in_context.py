"""Shots stand as finished turns before the question, behind what the task's own prompt opens with."""

from __future__ import annotations

import pytest

from t2.adaptation.in_context import with_shots
from t2.tasks.item import Item
from t2.tasks.prompt import Message

SHOTS = [Item("1", "One?", "1", "It is 1."), Item("2", "Two?", "2", "It is 2.")]
TURNS = (
    Message("user", "One?"),
    Message("assistant", "It is 1."),
    Message("user", "Two?"),
    Message("assistant", "It is 2."),
)


def test_shots_come_before_a_plain_question() -> None:
    assert with_shots("Three?", SHOTS) == (*TURNS, Message("user", "Three?"))


def test_system_message_stays_first_and_the_opening_last() -> None:
    system, opening = Message("system", "Answer."), Message("assistant", "It is ")
    prompt = (system, Message("user", "Three?"), opening)
    shots = [Item("1", (system, Message("user", "One?"), opening), "1", "1.")]
    expected = (system, Message("user", "One?"), Message("assistant", "It is 1."), Message("user", "Three?"), opening)
    assert with_shots(prompt, shots) == expected


def test_a_shot_without_a_worked_reply_is_refused() -> None:
    with pytest.raises(ValueError, match="7: no worked reply to show"):
        with_shots("Three?", [Item("7", "Seven?", "7")])
