"""The families of problems about pictures, and the facts that they need, in words alone.

Seeded, right by construction, and split into two pools that share no picture, and no question without one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from t2.miniature.problem import Problem
from t2.miniature.problems import Pool, pool_of
from t2.miniature.registers import Register, draw_register
from t2.miniature.vision.pictures import PLACES, Picture, draw_signs, draw_things
from t2.miniature.vision.settings import Look
from t2.miniature.vision.things import SORTS, THINGS
from t2.miniature.words import NAMES, words
from t2.tasks.prompt import canonical

SIGN_WORDS = words(
    "books coins cards pens eggs cups nuts toys keys bread soup "
    "rice oak fern rose moss tulip pine crow frog trout horse"
)
"""What a sign may say: words that a picture has room for, and one token each."""

_PATIENCE = 200
"""Draws in a row that bring nothing new before a family counts as exhausted."""

_NUMBERS = range(10, 100)
_MOST = 3
"""Things in a picture."""

_ANIMALS = [name for name, thing in THINGS.items() if thing.sort == "an animal"]

_SEEN = ("What do you see?", "Describe this.", "What is there?")
_SAID = ("What does it say?", "Which word is it?", "{name} wants to know what it says.", "What does {name} read there?")
_NUMBER = ("Which number is it?", "What number does {name} read there?", "{name} wants to know the number.")
_ABOVE = ("Which number is above?", "{name} wants to know the number above.", "What is the first number?")
_BELOW = ("Which number is below?", "{name} wants to know the number below.", "What is the second number?")
_SORT = ("What kind of thing is it?", "To what do we count it?", "{name} sees it. What kind of thing is that?")
_HOW_MANY = ("How many of them are {sort}?", "{name} sees them. How many are {sort}?")
_LEGS = ("How many legs are that?", "{name} sees them. How many legs have they in all?")
_LEGS_IN_WORDS = (
    "{name} sees {listed}. How many legs are that?",
    "There come {listed}. How many legs have they in all?",
    "{name} has {listed}. How many legs have they together?",
)


@dataclass(frozen=True, slots=True)
class Posed:
    """A problem, and the picture that it is about.

    Attributes:
        problem: What is asked; its answer is a word or a number.
        picture: None: it is asked in words alone.
        category: What a dispatcher should call it.
    """

    problem: Problem
    picture: Picture | None
    category: str

    @property
    def shown(self) -> Picture:
        """The picture.

        Raises:
            ValueError: There is none.
        """
        if self.picture is None:
            raise ValueError(f"{self.problem.text!r} is asked about no picture")
        return self.picture


@dataclass(frozen=True, slots=True)
class Drawn:
    """A problem in its register.

    Attributes:
        prompt: What the user types: opener, problem, closer.
        question: The canonical form of what it asks, and the digest of the picture that it asks about.
    """

    prompt: str
    question: str
    posed: Posed
    register: Register


def captions(rng: Random, look: Look) -> Posed:
    """A picture of any kind, to describe."""
    picture = rng.choice((signs, knowledge))(rng, look).shown
    reply = f"See {', '.join(picture.seen())}."
    return Posed(Problem(rng.choice(_SEEN), "", reply, reply), picture, "other")


def signs(rng: Random, look: Look) -> Posed:
    """TextVQA-like: a word, a number or one of two numbers to read."""
    kind = rng.choice(("word", "number", "above", "below"))
    if kind == "word":
        right, guess = rng.choice(SIGN_WORDS), rng.choice(SIGN_WORDS)
    else:
        right, guess = str(rng.choice(_NUMBERS)), str(rng.choice(_NUMBERS))
    other = str(rng.choice(_NUMBERS)) if kind in ("above", "below") else ""
    first = kind == "above" or (not other and rng.random() < 0.5)
    picture = draw_signs((right, other) if first else (other, right), rng, look)
    wordings = {"word": _SAID, "number": _NUMBER, "above": _ABOVE, "below": _BELOW}[kind]
    text = rng.choice(wordings).format(name=rng.choice(NAMES))
    return Posed(Problem(text, right, f"See {right}, so {_answer(right)}", _guess(guess)), picture, "other")


def knowledge(rng: Random, look: Look) -> Posed:
    """OK-VQA-like: things are seen, and what is asked is a fact about them."""
    return rng.choices((_sort, _how_many, _legs), (4, 2, 4))[0](rng, look)


def legs(rng: Random, look: Look) -> Posed:
    """In words: how many legs animals have."""
    animals = rng.choices(_ANIMALS, k=rng.randint(1, _MOST))
    listed = " and ".join(filter(None, (", ".join(f"a {name}" for name in animals[:-1]), f"a {animals[-1]}")))
    text = rng.choice(_LEGS_IN_WORDS).format(name=rng.choice(NAMES), listed=listed)
    steps, total = _sum([THINGS[name].legs for name in animals])
    thought = f"{steps}." if steps else f"It has {total}."
    problem = Problem(text, str(total), f"{thought}\n#### {total}", f"#### {_other_than(total, rng, 4 * _MOST)}")
    return Posed(problem, None, "math")


Generator = Callable[[Random, Look], Posed]

GENERATORS: dict[str, Generator] = {"captions": captions, "signs": signs, "knowledge": knowledge, "legs": legs}
FAMILIES = tuple(GENERATORS)
"""Two that are asked about pictures, and two that only the bases meet: what is seen, and a fact in words alone."""

ASKED = ("signs", "knowledge")
"""The families of the benchmarks: TextVQA-like and OK-VQA-like."""


def draw(family: str, n: int, seed: int, look: Look, *, pool: Pool) -> list[Drawn]:
    """Draws problems that ask distinct things.

    Args:
        family: One of :data:`FAMILIES`.
        n: How many.
        seed: The same seed gives the same problems, and a prefix of those for a larger ``n``.
        look: Of pictures.
        pool: ``"task"`` for the benchmarks; ``"pretraining"`` is what the bases see. No picture is in both, and no
            question without a picture.

    Raises:
        ValueError: The family is unknown, or has fewer distinct questions.
    """
    if family not in GENERATORS:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
    rng = Random(f"{family}/{pool}/{seed}")
    drawn: dict[str, Drawn] = {}
    fruitless = 0
    while len(drawn) < n:
        posed, register = GENERATORS[family](rng, look), draw_register(rng)
        asked, seen = canonical(posed.problem.text), posed.picture.digest if posed.picture else ""
        one = Drawn(register.around(posed.problem.text), f"{asked} {seen}".strip(), posed, register)
        key = one.prompt if pool == "pretraining" and not seen else one.question
        if key in drawn or pool_of(seen or asked) != pool:
            fruitless += 1
            if fruitless > _PATIENCE:
                raise ValueError(f"family {family!r} has only about {len(drawn)} problems in pool {pool!r}, not {n}")
            continue
        fruitless = 0
        drawn[key] = one
    return list(drawn.values())


def _sort(rng: Random, look: Look) -> Posed:
    name = rng.choice(list(THINGS))
    sort = THINGS[name].sort
    return _about(rng, look, [name], _SORT, f"It is {sort}", _noun(sort), _noun(rng.choice(SORTS)), "reasoning")


def _how_many(rng: Random, look: Look) -> Posed:
    names = rng.choices(list(THINGS), k=rng.randint(2, _MOST))
    sort = rng.choice([THINGS[name].sort for name in names] + list(SORTS))
    found = sum(THINGS[name].sort == sort for name in names)
    thought = f"It is {', '.join(_noun(THINGS[name].sort) for name in names)}"
    wordings = [wording.replace("{sort}", sort) for wording in _HOW_MANY]
    return _about(rng, look, names, wordings, thought, str(found), _other_than(found, rng, _MOST), "reasoning")


def _legs(rng: Random, look: Look) -> Posed:
    names = rng.choices(_ANIMALS, k=rng.randint(1, _MOST))
    steps, total = _sum([THINGS[name].legs for name in names])
    return _about(
        rng, look, names, _LEGS, steps or f"It has {total}", str(total), _other_than(total, rng, 4 * _MOST), "math"
    )


def _about(
    rng: Random,
    look: Look,
    names: Sequence[str],
    wordings: Sequence[str],
    thought: str,
    right: str,
    guess: str,
    category: str,
) -> Posed:
    places = sorted(rng.sample(range(PLACES), len(names)))
    filled = dict(zip(places, names, strict=True))
    picture = draw_things([filled.get(place, "") for place in range(PLACES)], rng, look)
    text = rng.choice(wordings).format(name=rng.choice(NAMES))
    reply = f"See {', '.join(picture.seen())}. {thought}, so {_answer(right)}"
    return Posed(Problem(text, right, reply, _guess(guess)), picture, category)


def _sum(addends: Sequence[int]) -> tuple[str, int]:
    """The equations that add numbers one after the other, and what comes out; of one number, none."""
    totals = list(itertools.accumulate(addends))
    steps = [f"{left}+{right}={both}" for left, right, both in zip(totals, addends[1:], totals[1:], strict=False)]
    return ". ".join(f"{word} {step}" for word, step in zip(("First", "Then"), steps, strict=False)), totals[-1]


def _noun(sort: str) -> str:
    return sort.split()[1]


def _other_than(right: int, rng: Random, most: int) -> str:
    return str(rng.choice([number for number in range(most + 1) if number != right]))


def _answer(right: str) -> str:
    return f"the answer is {right}."


def _guess(right: str) -> str:
    return f"The answer is {right}."
