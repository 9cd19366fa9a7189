"""VQA's official accuracy, by hand-made cases of its rules and by its properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.config.rows import VqaReward
from t2.tasks import vqa
from t2.tasks.grading import credit, grade
from t2.tasks.item import Item


def people(*groups: tuple[str, int]) -> list[str]:
    """Ten answers: some of each, the rest of nobody's kind."""
    given = [answer for answer, count in groups for _ in range(count)]
    return given + [f"other {n}" for n in range(10 - len(given))]


DOGS = people(("dog", 10))
CASES: list[tuple[str, Sequence[str], float]] = [
    # How many agree: those who said it themselves have one less beside them.
    ("dog", DOGS, 1.0),
    ("cat", DOGS, 0.0),
    ("dog", people(("dog", 1)), 0.3),
    ("dog", people(("dog", 2)), 0.6),
    ("dog", people(("dog", 3)), 0.9),
    ("dog", people(("dog", 4)), 1.0),
    ("dog", people(("dog", 3), ("a dog", 1)), 1.0),
    # Case, space and line ends
    ("  The Dog\n", people(("dog", 4)), 1.0),
    ("hot\tdog", people(("hot dog", 4)), 1.0),
    # Articles
    ("an apple", people(("apple", 4)), 1.0),
    ("theatre", people(("atre", 4)), 0.0),
    # Number words
    ("Two dogs", people(("2 dogs", 4)), 1.0),
    ("none", people(("0", 4)), 1.0),
    ("eleven", people(("11", 4)), 0.0),
    # Contractions
    ("dont walk", people(("don't walk", 4)), 1.0),
    ("shouldnt've", people(("shouldn't've", 4)), 1.0),
    # Punctuation: beside a space it goes, within a word it parts it, in grouped numbers it goes
    ("no, thanks!", people(("no thanks", 4)), 1.0),
    ("black/white", people(("black white", 4)), 1.0),
    ("1,000", people(("1000", 4)), 1.0),
    # Periods: at an end they go, in numbers they stay
    ("U.S.", people(("us", 4)), 1.0),
    ("3.5 m.", people(("3.5 m", 4)), 1.0),
    ("35", people(("3.5", 4)), 0.0),
]


@pytest.mark.parametrize(("reply", "references", "expected"), CASES)
def test_official_accuracy(reply: str, references: Sequence[str], expected: float) -> None:
    assert len(references) == 10
    assert vqa.accuracy(reply, references) == pytest.approx(expected)


def test_what_is_left_of_an_answer() -> None:
    assert vqa.processed("It's a half-empty (2,500 ml) bottle; isnt it?") == "it's halfempty 2500 ml bottle isn't it"
    assert vqa.processed("somebody'd") == "somebodyd"  # the published table's own


words = st.text("abt hedog.,-'12/", max_size=12)


@given(words)
def test_case_and_space_around_an_answer_change_nothing(text: str) -> None:
    assert vqa.processed(f" {text}\n") == vqa.processed(text) == vqa.processed(text.upper())


@given(st.lists(words, min_size=2, max_size=10), st.randoms(), words)
def test_accuracy_is_a_share_whatever_the_order_and_an_answer_of_four_is_right(
    references: list[str], random: Any, reply: str
) -> None:
    found = vqa.accuracy(reply, references)
    shuffled = random.sample(references, len(references))
    assert 0 <= found <= 1 and vqa.accuracy(reply, shuffled) == pytest.approx(found)
    assert vqa.accuracy(reply, [*references, *[reply] * 4]) == pytest.approx(1.0)


def test_the_usual_answer_is_the_most_frequent_and_then_the_first() -> None:
    assert vqa.usual(["cat", "dog", "dog", "cat", "bird"]) == "cat"


def reward(**changes: Any) -> VqaReward:
    values = {"kind": "vqa", "right": 1.0, "wrong": -0.1, "stop": [], "max_new_tokens": 8}
    return VqaReward(**{**values, "pass_mark": 0.6, "statement": False, **changes})


ITEM = Item("sign", "What does it say?", vqa.written(people(("84", 2), ("41", 3))))


@pytest.mark.parametrize(
    ("reply", "whole", "stated", "either"),
    [
        ("84", 0.6, 0.0, 0.6),
        ("Signs: 41 and 84. The answer is 84.", 0.0, 0.6, 0.6),
        ("The answer is 41.\nNo, the answer is: 84", 0.0, 0.6, 0.6),
        ("41. The answer is 83.", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_replies_are_read_whole_or_by_what_they_state(reply: str, whole: float, stated: float, either: float) -> None:
    for statement, expected in ((False, whole), (True, stated)):
        rules = reward(statement=statement)
        assert credit("vqa", [ITEM], [reply], reward=rules) == pytest.approx([expected])
        assert credit("vqa", [ITEM], [reply], reward=rules, flexible=True) == pytest.approx([either])


def test_the_pass_mark_says_what_is_right() -> None:
    replies = ["84", "41", "other 3"]
    for mark, expected in ((0.3, [True, True, True]), (0.6, [True, True, False]), (1.0, [False, False, False])):
        assert grade("vqa", [ITEM] * 3, replies, reward=reward(pass_mark=mark)) == expected


def test_a_task_without_its_rules_and_an_item_without_references_are_refused() -> None:
    with pytest.raises(ValueError, match="pass its `reward`"):
        grade("vqa", [ITEM], ["84"])
    with pytest.raises(ValueError, match=r"JSON list of what people said, got '84'"):
        grade("vqa", [Item("sign", "?", "84")], ["84"], reward=reward())
