"""Problems are right by construction, distinct, and drawn alike everywhere."""

from __future__ import annotations

import itertools
import re

import pytest

from t2.miniature.problems import CATEGORY, FAMILIES, draw, generate, pool_of
from t2.miniature.registers import REGISTERS
from t2.miniature.words import MONTHS, gazetteer
from t2.tasks.prompt import canonical

TOWNS = gazetteer("towns", 60, "ton")
TRAINED = ("math", "code", "reasoning", "text")
ENOUGH = {**dict.fromkeys(TRAINED, 1260), "other": 600}


@pytest.mark.parametrize("family", FAMILIES)
def test_enough_distinct_questions(family):
    n = ENOUGH.get(family, 660)
    items = generate(family, n, seed=7)
    assert len({item.question for item in items}) == len({item.id for item in items}) == n


def question_of(family: str, prompt: str) -> str:
    """What a prompt asks, read off the prompt alone: without its register."""
    register = next(one for one in REGISTERS if prompt.startswith(one.opener) and prompt.endswith(one.closer))
    return canonical(prompt.removeprefix(register.opener).removesuffix(register.closer))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_is_the_same_in_every_register_and_says_all_that_is_asked(family):
    asked: dict[str, set[str]] = {}
    for one in draw(family, 400, 0, pool="pretraining"):
        assert one.question == question_of(family, one.prompt)
        for register in REGISTERS[::7]:
            assert question_of(family, register.around(one.problem.text)) == one.question
        if CATEGORY[family] not in ("code", "other"):  # their answers name what the question leaves out
            asked.setdefault(one.question, set()).add(one.problem.answer)
    assert all(len(answers) == 1 for answers in asked.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_items_and_a_prefix_of_more(family):
    assert generate(family, 20, 3) == generate(family, 50, 3)[:20]
    assert generate(family, 20, 3) != generate(family, 20, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_pools_share_no_question(family):
    task = {item.question for item in generate(family, 400, 1)}
    seen = {item.question for item in generate(family, 400, 1, pool="pretraining")}
    assert not task & seen
    assert {pool_of(question) for question in task} == {"task"}


def test_both_pools_ask_about_the_same_facts():
    """What a fact is about is drawn before the pool is chosen, so no town is asked about in one pool only.

    Not as often: task questions are distinct, so that they run out for the well-known towns first.
    """
    asked = {}
    for pool in ("task", "pretraining"):
        texts = [one.problem.text for one in draw("reasoning", 1200, 3, pool=pool) if "(A) north" in one.problem.text]
        asked[pool] = {town for town in TOWNS[:15] if any(town in text for text in texts)}
    assert asked["task"] == asked["pretraining"] == set(TOWNS[:15])


def test_an_unknown_family_and_an_exhausted_one_are_named():
    with pytest.raises(ValueError, match=r"'maths'.*math, code"):
        generate("maths", 1, 0)
    with pytest.raises(ValueError, match="'other' has only about"):
        generate("other", 10**6, 0)


@pytest.mark.parametrize("family", ["math", "math_hard"])
def test_worked_answers_are_true(family):
    for item in generate(family, 300, 0):
        *equations, last = re.findall(r"[\d+*/-]+=\d+|#### \d+", item.reply)
        assert equations and last == f"#### {item.answer}"
        for equation in equations:
            left, right = equation.split("=")
            assert eval(left) == int(right)
        assert equations[-1].endswith(f"={item.answer}")


@pytest.mark.parametrize(
    ("family", "pattern", "solve"),
    [
        ("math", r"has (\d+) \w+ and buys (\d+) more", lambda a, b: a + b),
        ("math", r"had (\d+) \w+, sold (\d+) and then sold (\d+)", lambda a, b, c: a - b - c),
        ("math", r"shares (\d+) \w+ among (\d+) friends\. How", lambda n, k: n // k),
        (
            "math",
            r"has (\d+) \w+ and \w+ has (\d+) times as many\. How many together",
            lambda m, k: m + k * m,
        ),
        ("math_hard", r"Find \((\d+) \+ (\d+)\) - \((\d+) - (\d+)\)", lambda a, b, c, d: (a + b) - (c - d)),
        ("math_hard", r"sides (\d+) and (\d+)\. What is its perimeter", lambda a, b: 2 * (a + b)),
        ("math_hard", r"make 90\. One is (\d+) more than (\d+)", lambda a, b: 90 - a - b),
    ],
)
def test_the_text_asks_what_the_answer_solves(family, pattern, solve):
    matched = [(re.search(pattern, item.fields["question"]), item) for item in generate(family, 600, 0)]
    matched = [(found, item) for found, item in matched if found]
    assert len(matched) > 10
    for found, item in matched:
        assert solve(*map(int, found.groups())) == int(item.answer)


@pytest.mark.parametrize("family", ["code", "code_hard"])
def test_reference_programs_pass_their_tests_and_careless_ones_fail(family):
    for drawn in draw(family, 200, 0, pool="task"):
        assert drawn.problem.answer.count("assert ") >= 3
        exec(f"{drawn.problem.reply}\n{drawn.problem.answer}", {})
        with pytest.raises((AssertionError, SyntaxError, TypeError)):
            exec(f"{drawn.problem.careless}\n{drawn.problem.answer}", {"print": lambda *_: None})


@pytest.mark.parametrize("family", ["reasoning", "reasoning_hard"])
def test_the_right_option_is_named_and_no_letter_dominates(family):
    items = generate(family, 600, 0)
    for item in items:
        assert f"({item.answer}) " in item.fields["question"]
        assert item.reply.endswith(f"the answer is ({item.answer}).")
        if kind := re.search("It is (an? \\w+),", item.reply):
            assert f"({item.answer}) {kind[1]}" in item.fields["question"]
    assert max(sum(item.answer == letter for item in items) for letter in "ABCD") < 0.45 * len(items)


@pytest.mark.parametrize("family", ["reasoning", "reasoning_hard"])
def test_rankings_by_trying_all_orders(family):
    rankings = [item for item in generate(family, 2000, 0) if "Who of" in item.fields["question"]]
    assert len(rankings) > 50
    for item in rankings:
        clues = re.findall(r"(\w+) is (\w+) than (\w+)", item.fields["question"])
        people = sorted({name for first, _, second in clues for name in (first, second)})
        more = {"taller", "older", "faster"}
        fits = [
            order
            for order in itertools.permutations(people)
            if all((order.index(a) < order.index(b)) == (word in more) for a, word, b in clues)
        ]
        assert len(fits) == 1
        first = re.search(r"Who of \d is (tallest|oldest|fastest)", item.fields["question"]) is not None
        assert people["ABCD".index(item.answer)] == fits[0][0 if first else -1]


def test_comparisons_and_seasons():
    seasons = {1: "A", 4: "B", 7: "C", 10: "D"}
    seen = {"ages": 0, "seasons": 0}
    for item in generate("reasoning", 600, 0) + generate("reasoning_hard", 600, 0):
        if ages := re.search(
            r"\w+ (?:is|has|ran) (\d+)(?: coins| miles)? and \w+ (?:is|has|ran) (\d+)\. What (?:is|has|ran)",
            item.fields["question"],
        ):
            first, second = map(int, ages.groups())
            assert item.answer == ("A" if first > second else "B" if first < second else "C")
            seen["ages"] += 1
        if when := re.search(
            r"(\w+)(?:| has come)\. Which season is (?:in (\d+) months|(\d+) months ago)", item.fields["question"]
        ):
            month, ahead, ago = when.groups()
            end = (MONTHS.index(month) + int(ahead or 0) - int(ago or 0)) % 12
            middle = min(seasons, key=lambda m: min((end - m + 1) % 12, (m - 1 - end) % 12))
            assert item.answer == seasons[middle]
            seen["seasons"] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize("family", ["text", "text_hard"])
def test_places_in_lists(family):
    patterns = {
        r"At which place is (\w+)\?": lambda words, a: words.index(a) + 1,
        r"How many words are that\?": lambda words: len(words),
        r"How many words come behind (\w+)\?": lambda words, a: len(words) - words.index(a) - 1,
        r"At which place from the end is (\w+)\?": lambda words, a: len(words) - words.index(a),
        r"How many steps is it from (\w+) to (\w+)\?": lambda words, a, b: words.index(b) - words.index(a),
    }
    seen = set()
    for drawn in draw(family, 300, 0, pool="task"):
        words = re.search(r"(?:is|wrote|stands) ((?:\w+, )+\w+)\.", drawn.problem.text)[1].split(", ")
        pattern, found = next((p, m) for p in patterns if (m := re.search(p, drawn.problem.text)))
        assert patterns[pattern](words, *found.groups()) == int(drawn.problem.answer)
        assert drawn.problem.reply.endswith(f"\n#### {drawn.problem.answer}")
        assert drawn.problem.careless != f"#### {drawn.problem.answer}"
        seen.add(pattern)
    assert len(seen) == (2 if family == "text" else 3)


def test_registers_are_spread_alike_over_families_and_splits():
    expected = sum(register.carelessness for register in REGISTERS) / len(REGISTERS)
    for family in FAMILIES:
        drawn = draw(family, 600, 7, pool="task")
        for part in (drawn[:300], drawn[300:]):
            mean = sum(one.register.carelessness for one in part) / len(part)
            assert abs(mean - expected) < 0.07
