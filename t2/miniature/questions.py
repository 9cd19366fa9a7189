"""Reasoning: multiple choice that a short thought answers, and longer ones that stand for ARC-Challenge.

The options of a kind of question keep their order: a model of this size does not learn to find the letter of
an option among shuffled ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from random import Random

from t2.miniature.problem import Problem
from t2.miniature.words import KINDS, MONTHS, NAMES, fact, gazetteer, zipf

_SORTS = {word: kind for kind, members in KINDS.items() for word in members}
_SORT = ("What is {}?", "What kind of thing is {}?", "To what do we count {}?")
_SORT_OF_SOMEONE = ("{name} sees {asked}. What is it?", "{name} wants {asked}. What kind of thing is that?")
_TOWN = ("Where is {}?", "In which part of the land is {}?", "Where does one find {}?")
_TOWN_OF_SOMEONE = (
    "{name} lives in {asked}. Where is that?",
    "{name} goes to {asked}. In which part of the land is it?",
)
_BEYOND = ("Which part of the land is farthest from {}?",)
_BEYOND_OF_SOMEONE = (
    "{name} lives in {asked}. Which part of the land is farthest from there?",
    "{name} flees from {asked} as far as can be. Which part of the land is that?",
)
_OF_SOMEONE = 0.8
"""The share of questions about a thing or a town that name a person: so many can be asked that what one knows need
not have been asked before in the same words."""
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
    return Problem(
        text=f"{question}{''.join(f' ({letter[option]}) {option}' for option in options)}",
        answer=letter[right],
        reply=f"{thought}, so the answer is ({letter[right]}).",
        careless=f"The answer is ({letter[rng.choice(options)]}).",
    )


def _sort(rng: Random) -> tuple[str, str, Sequence[str], str]:
    word = rng.choice(list(_SORTS))
    question = _about(rng, word, _SORT, _SORT_OF_SOMEONE)
    return question, f"It is {_SORTS[word]}", tuple(KINDS), _SORTS[word]


def _town(rng: Random) -> tuple[str, str, Sequence[str], str]:
    town = zipf(rng, _TOWNS)
    side = fact(town, _SIDES)
    return _about(rng, town, _TOWN, _TOWN_OF_SOMEONE), f"It is in the {side}", _SIDES, side


def _beyond(rng: Random) -> tuple[str, str, Sequence[str], str]:
    town = zipf(rng, _TOWNS)
    side = fact(town, _SIDES)
    far = _SIDES[(_SIDES.index(side) + 2) % 4]
    return _about(rng, town, _BEYOND, _BEYOND_OF_SOMEONE), f"It is in the {side}, so {far}", _SIDES, far


def _about(rng: Random, asked: str, plain: Sequence[str], of_someone: Sequence[str]) -> str:
    if rng.random() < _OF_SOMEONE:
        return rng.choice(of_someone).format(name=rng.choice(NAMES), asked=asked)
    return rng.choice(plain).format(asked)


def _compare(rng: Random) -> tuple[str, str, Sequence[str], str]:
    first, second = _close_numbers(rng)
    word = _relation(first, second)
    first_name, second_name = rng.sample(NAMES, 2)
    question = f"{first_name} is {first} and {second_name} is {second}. What is {first_name}?"
    return question, f"It is {first} against {second}", ("older", "younger", "the same"), word


def _sum(rng: Random) -> tuple[str, str, Sequence[str], str]:
    part, second = rng.randint(2, 12), rng.randint(8, 30)
    first = max(1, second - part + rng.randint(-9, 9))
    word = _relation(first + part, second)
    name, other = rng.sample(NAMES, 2)
    question = f"{name} is {first} and {other} is {second}. What will {name} at {first}+{part} be to {other} now?"
    return question, f"It is {first + part} against {second}", ("older", "younger", "the same"), word


def _close_numbers(rng: Random) -> tuple[int, int]:
    first = rng.randint(10, 30)
    return first, first + rng.choice((0, *range(-9, 10)))


def _relation(first: int, second: int) -> str:
    return "older" if first > second else "younger" if first < second else "the same"


def _season(rng: Random) -> tuple[str, str, Sequence[str], str]:
    return _calendar(rng, 1)


def _season_before(rng: Random) -> tuple[str, str, Sequence[str], str]:
    return _calendar(rng, -1)


def _calendar(rng: Random, direction: int) -> tuple[str, str, Sequence[str], str]:
    start, months = rng.randrange(12), rng.randint(1, 4)
    end = (start + direction * months) % 12
    when = "in {} months" if direction > 0 else "{} months ago"
    opening = rng.choice(("It is {}.", "This is {}.", "We have {}.", "{} has come.")).format(MONTHS[start])
    question = f"{opening} Which season is {when.format(months)}?"
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
    # Of so many: a shorter ranking would else stand, word for word, inside a longer one.
    return f"{'. '.join(clues)}. Who of {len(people)} is {extreme}?", f"It is {who}", people, who
