"""Reasoning: multiple choice that a short thought answers, and longer ones that stand for ARC-Challenge.

The options of a kind of question keep their order: a model of this size does not learn to find the letter of
an option among shuffled ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

from t2.miniature.problem import Problem
from t2.miniature.words import KINDS, MONTHS, NAMES, anonymous, fact, gazetteer, zipf

_SORTS = {word: kind for kind, members in KINDS.items() for word in members}
_SORT = ("What is {}?", "What kind of thing is {}?", "To what do we count {}?", "As what do we know {}?")
_SORT_OF_TWO = (
    "{name} sees {one} and {two}. What sort of thing is {asked}?",
    "Here are {one} and {two}. Of what kind is {asked}?",
    "{name} has {one}, {other} has {two}. Under what is {asked} counted?",
)
_TOWN = (
    "Where is {}?",
    "In which part of the land is {}?",
    "Where does one find {}?",
    "Where does {} lie?",
    "On which side of the land is {}?",
    "Which way must one go to {}?",
)
_TOWN_OF_TWO = (
    "{name} went from {away} to {town}. Where is {name} now?",
    "{name} lives in {town} and {other} in {away}. Where does {name} live?",
    "Coming from {away}, {name} reached {town}. In which part of the land is that?",
)
_BEYOND = (
    "Which part of the land is farthest from {}?",
    "Where is one as far as can be from {}?",
    "Where does one end who flees from {}?",
    "Which part of the land lies opposite {}?",
)
_BEYOND_OF_TWO = (
    "{name} went from {away} to {town}. Which part of the land is farthest from there?",
    "{name} lives in {town} and {other} in {away}. Which part of the land is farthest from {name}?",
    "Coming from {away}, {name} reached {town}. Where does {name} end who flees from there?",
)
_COMPARISONS = (
    ("{one} is {a} and {two} is {b}. What is {one}?", ("older", "younger", "the same")),
    ("{one} has {a} coins and {two} has {b}. What has {one}?", ("more", "fewer", "the same")),
    ("{one} ran {a} miles and {two} ran {b}. What ran {one}?", ("farther", "less far", "the same")),
)
"""Texts, and what may be answered: that the first number is the greater one, the lesser one, or neither."""
_TODAY = (
    "It is {}. Which season is {}?",
    "This is {}. Which season is {}?",
    "The month is {}. Which season is {}?",
    "{} has come. Which season is {}?",
)
_IN_TWO = 0.75
"""The share of questions about a thing or a town that name another one beside it: these are many, so that what
is asked of a thing that one knows need not have been asked before."""
_TOWNS = gazetteer("towns", 60, "ton")
_SIDES = ("north", "east", "south", "west")
_SEASONS = ("winter", "spring", "summer", "autumn")
_PEOPLE = NAMES[:4]
_SCALES = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
)
_LETTERS = "ABCDE"

_Question = Callable[[Random], tuple[str, str, Sequence[str], str]]


def reasoning(rng: Random) -> Problem:
    """One fact, one comparison or one small inference."""
    return _problem(rng, rng.choices((_sort, _town, _compare, _season, _order), (6, 8, 8, 1, 1))[0])


def reasoning_hard(rng: Random) -> Problem:
    """Two of those steps in one question."""
    return _problem(rng, rng.choices((_beyond, _sum, _season_before, _long_order), (6, 6, 2, 1))[0])


def _problem(rng: Random, kind: _Question) -> Problem:
    question, thought, options, right = kind(rng)
    letter = dict(zip(options, _LETTERS, strict=False))
    text = f"{question}{''.join(f' ({letter[option]}) {option}' for option in options)}"
    return Problem(
        text=text,
        question=anonymous(text),
        answer=letter[right],
        reply=f"{thought}, so the answer is ({letter[right]}).",
        careless=f"The answer is ({letter[rng.choice(options)]}).",
    )


def _sort(rng: Random) -> tuple[str, str, Sequence[str], str]:
    asked, beside = rng.sample(list(_SORTS), 2)
    question = rng.choice(_SORT).format(asked)
    if rng.random() < _IN_TWO:
        question = _of_two(
            rng, _SORT_OF_TWO, asked=asked, **dict(zip(("one", "two"), _either(rng, asked, beside), strict=True))
        )
    return question, f"It is {_SORTS[asked]}", tuple(KINDS), _SORTS[asked]


def _town(rng: Random) -> tuple[str, str, Sequence[str], str]:
    question, side = _about_town(rng, _TOWN, _TOWN_OF_TWO)
    return question, f"It is in the {side}", _SIDES, side


def _beyond(rng: Random) -> tuple[str, str, Sequence[str], str]:
    question, side = _about_town(rng, _BEYOND, _BEYOND_OF_TWO)
    far = _SIDES[(_SIDES.index(side) + 2) % 4]
    return question, f"It is in the {side}, so {far}", _SIDES, far


def _about_town(rng: Random, alone: Sequence[str], of_two: Sequence[str]) -> tuple[str, str]:
    """A question about a town, or about one of two, and the side on which it lies."""
    town = zipf(rng, _TOWNS)
    question = rng.choice(alone).format(town)
    if rng.random() < _IN_TWO:
        question = _of_two(rng, of_two, town=town, away=rng.choice([other for other in _TOWNS if other != town]))
    return question, fact(town, _SIDES)


def _of_two(rng: Random, texts: Sequence[str], **things: str) -> str:
    name, other = rng.sample(NAMES, 2)
    return rng.choice(texts).format(name=name, other=other, **things)


def _either(rng: Random, first: str, second: str) -> tuple[str, str]:
    return (first, second) if rng.random() < 0.5 else (second, first)


def _compare(rng: Random) -> tuple[str, str, Sequence[str], str]:
    first, second = _close_numbers(rng)
    text, (more, less, same) = rng.choice(_COMPARISONS)
    one, two = rng.sample(NAMES, 2)
    right = more if first > second else less if first < second else same
    question = text.format(one=one, two=two, a=first, b=second)
    return question, f"It is {first} against {second}", (more, less, same), right


def _sum(rng: Random) -> tuple[str, str, Sequence[str], str]:
    part, second = rng.randint(2, 12), rng.randint(8, 30)
    first = max(1, second - part + rng.randint(-9, 9))
    total = first + part
    right = "older" if total > second else "younger" if total < second else "the same"
    name, other = rng.sample(NAMES, 2)
    question = f"{name} is {first} and {other} is {second}. What will {name} at {first}+{part} be to {other} now?"
    return question, f"It is {total} against {second}", ("older", "younger", "the same"), right


def _close_numbers(rng: Random) -> tuple[int, int]:
    first = rng.randint(10, 35)
    return first, first + rng.choice((0, *range(-9, 10)))


def _season(rng: Random) -> tuple[str, str, Sequence[str], str]:
    return _calendar(rng, 1)


def _season_before(rng: Random) -> tuple[str, str, Sequence[str], str]:
    return _calendar(rng, -1)


def _calendar(rng: Random, direction: int) -> tuple[str, str, Sequence[str], str]:
    start, months = rng.randrange(12), rng.randint(1, 5)
    end = (start + direction * months) % 12
    when = "in {} months" if direction > 0 else "{} months ago"
    question = rng.choice(_TODAY).format(MONTHS[start], when.format(months))
    season = _SEASONS[(end + 1) % 12 // 3]
    return question, f"It is {MONTHS[end]}", _SEASONS, season


def _order(rng: Random) -> tuple[str, str, Sequence[str], str]:
    return _ranking(rng, _PEOPLE[:3])


def _long_order(rng: Random) -> tuple[str, str, Sequence[str], str]:
    return _ranking(rng, _PEOPLE)


def _ranking(rng: Random, people: Sequence[str]) -> tuple[str, str, Sequence[str], str]:
    """Neighbours of a ranking, in any order and direction."""
    more, less, most, least = rng.choice(_SCALES)
    ranked = rng.sample(people, len(people))
    clues = [
        f"{high} is {more} than {low}" if rng.random() < 0.5 else f"{low} is {less} than {high}"
        for high, low in itertools.pairwise(ranked)
    ]
    rng.shuffle(clues)
    extreme, who = rng.choice(((most, ranked[0]), (least, ranked[-1])))
    return f"{'. '.join(clues)}. Who is {extreme}?", f"It is {who}", people, who
