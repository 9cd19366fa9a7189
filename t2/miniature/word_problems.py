"""Math: short word problems with a worked answer, and harder, symbolic ones that stand for MATH."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from random import Random

from t2.miniature.problem import Problem
from t2.miniature.words import NAMES, THINGS

# A template is a text and its steps. Letters are drawn numbers, `_` is the result of the step before and
# capitals name the results of the first, second, … step.
_Template = tuple[str, tuple[str, ...]]

_STORIES: tuple[_Template, ...] = (
    ("{name} has {a} {things} and buys {b} more. How many {things} is that?", ("a+b",)),
    ("{name} has {a} {things} and gives {b} to {other}. How many are left?", ("a-b",)),
    ("{name} has {a} {things}, finds {b} and loses {c}. How many are left?", ("a+b", "_-c")),
    ("{name} had {a} {things}, sold {b} and then sold {c}. How many are left?", ("a-b", "_-c")),
    ("{name} has {a} {things}, {other} has {b} and {third} has {c}. How many in all?", ("a+b", "_+c")),
    (
        "{name} fills {k} boxes with {m} {things} each and has {a} more. How many {things} in all?",
        ("k*m", "_+a"),
    ),
    ("{name} has {k} bags of {m} {things} and eats {b}. How many are left?", ("k*m", "_-b")),
    ("{name} has {a} {things}. {other} has {k} times as many. How many has {other}?", ("k*a",)),
    ("{name} has {m} {things} and {other} has {k} times as many. How many together?", ("k*m", "m+_")),
    ("{name} has {a} {things} and {other} has {b} more than that. How many together?", ("a+b", "a+_")),
    ("{name} has {a} {things} and {other} has {b} fewer. How many together?", ("a-b", "a+_")),
    ("{name} shares {n} {things} among {k} friends. How many does each get?", ("n/k",)),
    (
        "{name} shares {n} {things} among {k} friends, who had {a} each. How many has each now?",
        ("n/k", "a+_"),
    ),
    ("A pen costs {a} and a cup {b}. {name} pays with {d}. How much comes back?", ("a+b", "d-_")),
)

_PUZZLES: tuple[_Template, ...] = (
    ("Let {x} = {a} and {y} = {k}{x}. Find {x} + {y}.", ("k*a", "a+_")),
    ("Let {x} = {a} and {y} = {x} + {b}. Find {x} + {y} + {c}.", ("a+b", "a+_", "_+c")),
    ("Let {x} = {k}*{m} and {y} = {x} - {b}. Find {x} + {y}.", ("k*m", "_-b", "A+B")),
    ("Find ({a} + {b}) - ({c} - {m}).", ("a+b", "c-m", "A-B")),
    ("Find {k}*{m} + {j}*{i}.", ("k*m", "j*i", "A+B")),
    ("Find {k}*{m} - {j}*{i}.", ("k*m", "j*i", "A-B")),
    ("A {shape} has sides {a} and {m}. What is its perimeter?", ("a+m", "2*_")),
    ("A {shape} has sides {a} and {m}. What is its area less {b}?", ("m*a", "_-b")),
    ("Solve {k}{x} = {n}, then give {x} + {a}.", ("n/k", "_+a")),
    ("Solve {x} + {a} = {d}, then give {k}{x}.", ("d-a", "k*_")),
    ("{row} starts at {a} and grows by {b}. What is its fourth term?", ("a+b", "_+b", "_+b")),
    ("Two {angles} make 90. One is {a} more than {b}. What is the other?", ("a+b", "90-_")),
)

_UNKNOWNS = (("x", "y"), ("u", "v"), ("p", "q"), ("s", "t"), ("m", "n"))
_NOUNS = {
    "shape": ("rectangle", "garden", "field", "room"),
    "row": ("A sequence", "A row", "A list of numbers"),
    "angles": ("angles", "corners", "numbers"),
}
"""What a puzzle is about; nothing hangs on it."""

_RANGES = {
    **dict.fromkeys("abc", range(2, 14)),
    "d": range(15, 45),
    "n": range(8, 50),
    **dict.fromkeys("ijkm", range(2, 8)),
}
_LARGEST = 99
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def math(rng: Random) -> Problem:
    """A word problem of one or two steps."""
    return _problem(rng, _STORIES)


def math_hard(rng: Random) -> Problem:
    """A symbolic problem of two or three steps."""
    return _problem(rng, _PUZZLES)


def equations(rng: Random, length: int) -> list[tuple[str, str]]:
    """Equations as (``"17+5="``, ``"22"``), over the numbers that the problems use."""
    drawn: list[tuple[str, str]] = []
    while len(drawn) < length:
        step = rng.choice(("a+b", "d-a", "k*a", "k*m", "n/k", "d+a", "a-b"))
        if worked := _work((step,), {letter: rng.choice(values) for letter, values in _RANGES.items()}):
            left, right = worked[0].split("=")
            drawn.append((f"{left}=", right))
    return drawn


def _problem(rng: Random, templates: Sequence[_Template]) -> Problem:
    text, steps = rng.choice(templates)
    while True:
        numbers = {letter: rng.choice(values) for letter, values in _RANGES.items()}
        if worked := _work(steps, numbers):
            break
    name, other, third = rng.sample(NAMES, 3)
    x, y = rng.choice(_UNKNOWNS)
    about = {"name": name, "other": other, "third": third, "x": x, "y": y, "things": rng.choice(THINGS)}
    about |= {noun: rng.choice(some) for noun, some in _NOUNS.items()}
    answer = int(worked[-1].split("=")[1])
    thoughts = " ".join(f"{word} {line}." for word, line in zip(("First", "Then", "Then"), worked, strict=False))
    return Problem(
        text=text.format(**about, **numbers),
        answer=str(answer),
        reply=f"{thoughts}\n#### {answer}",
        careless=f"#### {max(1, answer + rng.choice((-1, 1)) * rng.randint(1, 20))}",
    )


def _work(steps: Sequence[str], numbers: dict[str, int]) -> list[str] | None:
    """The equations of the steps; None if a result is fractional, not positive or too large."""
    values, equations = dict(numbers), []
    for letter, step in zip("ABC", steps, strict=False):
        sign = next(sign for sign in _OPERATORS if sign in step)
        left, right = (values.get(name) or int(name) for name in step.split(sign))
        if sign == "/" and left % right:
            return None
        result = _OPERATORS[sign](left, right)
        if not 0 < result <= _LARGEST:
            return None
        equations.append(f"{left}{sign}{right}={result}")
        values[letter] = values["_"] = result
    return equations
