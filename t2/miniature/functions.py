"""Code: write a function that unit tests check, and docstrings to complete that stand for HumanEval."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from t2.miniature.problem import Problem
from t2.miniature.words import fact, gazetteer, invent, zipf

# What a function does, and the expression that it returns. Later entries are rarer.
_NUMBERS = (
    ("x", "adds {k} to x", "x+{k}"),
    ("x", "multiplies x by {k}", "x*{k}"),
    ("x, y", "returns the larger of x and y", "max(x, y)"),
    ("x", "subtracts {k} from x", "x-{k}"),
    ("x, y", "returns the smaller of x and y", "min(x, y)"),
    ("x", "subtracts x from {k}", "{k}-x"),
    ("x", "tells whether x is above {k}", "x>{k}"),
    ("x, y", "multiplies x and y", "x*y"),
    ("x", "returns the rest of x divided by {k}", "x%{k}"),
    ("x", "tells whether x is even", "x%2==0"),
    ("x, y", "returns x plus {k} times y", "x+{k}*y"),
    ("x", "returns the distance of x and {k}", "abs(x-{k})"),
    ("x, y", "returns the mean of x and y", "(x+y)/2"),
    ("x", "returns x but at most {k}", "min(x, {k})"),
)
_STRINGS = (
    ("s", "turns s around", "s[::-1]"),
    ("s", "repeats s {k} times", "s*{k}"),
    ("s, t", "puts t after s", "s+t"),
    ("s", "returns the first letter of s", "s[0]"),
    ("s", "returns s in capitals", "s.upper()"),
    ("s", "returns the length of s", "len(s)"),
    ("s", "returns the last letter of s", "s[-1]"),
    ("s, t", "puts t before s", "t+s"),
    ("s", "drops the first letter of s", "s[1:]"),
    ("s", "drops the last letter of s", "s[:-1]"),
    ("s", "returns every second letter of s", "s[::2]"),
    ("s, t", "tells whether s is longer than t", "len(s)>len(t)"),
)
_TOTALS = (
    ("the sum of", "sum"),
    ("the largest of", "max"),
    ("the number of", "len"),
    ("the smallest of", "min"),
    ("in order", "sorted"),
)
_MAPS = (
    ("", "x"),
    ("the doubles of ", "x*2"),
    ("the squares of ", "x*x"),
    ("{k} more than ", "x+{k}"),
    ("the negatives of ", "-x"),
)
_FILTERS = (
    ("the numbers", ""),
    ("the even numbers", " if x%2==0"),
    ("the numbers above {k}", " if x>{k}"),
    ("the odd numbers", " if x%2==1"),
    ("the numbers below {k}", " if x<{k}"),
    ("the numbers other than {k}", " if x!={k}"),
)
# Old measures: how many of the second make one of the first is a fact that one knows or does not.
_MEASURES = gazetteer("measures", 160, "ks")
_FACTORS = tuple(range(2, 20))

_INPUTS = {
    "x": lambda rng: rng.randint(-9, 30),
    "y": lambda rng: rng.randint(-9, 30),
    "s": lambda rng: invent(rng, rng.choice(("", "n", "sh"))),
    "t": lambda rng: invent(rng)[: rng.randint(1, 4)],
    "xs": lambda rng: [rng.randint(-5, 25) for _ in range(rng.randint(4, 7))],
}
_TESTS = 4


def code(rng: Random) -> Problem:
    """A described function: over numbers, strings, a list, or old measures."""
    kind = rng.random()
    if kind < 0.30:
        arguments, does, expression = zipf(rng, _NUMBERS)
    elif kind < 0.50:
        arguments, does, expression = zipf(rng, _STRINGS)
    elif kind < 0.78:
        arguments, (does, expression) = (
            "xs",
            _over_list(zipf(rng, _TOTALS), zipf(rng, _MAPS), zipf(rng, _FILTERS)),
        )
        does = f"returns {does}"
    else:
        arguments, (does, expression) = "x", _conversion(zipf(rng, _MEASURES))
    return _problem(rng, "Write a function that {does}:\ndef {head}", arguments, does, expression)


def code_hard(rng: Random) -> Problem:
    """A signature and a docstring to complete: a choice between two results, or a longer list expression."""
    if rng.random() < 0.5:
        arguments, does, expression = (
            "xs",
            *_over_list(rng.choice(_TOTALS), rng.choice(_MAPS[1:]), rng.choice(_FILTERS[1:])),
        )
    else:
        (_, yes, then), (_, no, otherwise) = rng.sample([entry for entry in _NUMBERS if entry[0] == "x"], 2)
        arguments = "x"
        does = f"{yes} if x is above {{j}}, else {no}"
        expression = f"{then} if x>{{j}} else {otherwise}"
    return _problem(rng, 'Complete this.\ndef {head}:\n    """{does}"""', arguments, does, expression)


def _over_list(total: Sequence[str], mapped: Sequence[str], kept: Sequence[str]) -> tuple[str, str]:
    return f"{total[0]} {mapped[0]}{kept[0]} in xs", f"{total[1]}([{mapped[1]} for x in xs{kept[1]}])"


def _conversion(measure: str) -> tuple[str, str]:
    return f"turns x {measure} into feet", f"x*{fact(measure, _FACTORS)}"


def _problem(rng: Random, wording: str, arguments: str, does: str, expression: str) -> Problem:
    while True:
        constants = {"j": rng.randint(2, 12), "k": rng.randint(2, 12)}
        head = f"{invent(rng)}({arguments})"
        body = expression.format(**constants)
        reply = f"def {head}:\n    return {body}"
        if tests := _tests(rng, reply, head):
            break
    slip = rng.random() < 0.9
    return Problem(
        text=wording.format(head=head, does=does.format(**constants)),
        answer=tests,
        reply=reply,
        careless=f"def {head}:\n    print({body})" if slip else f"def {head}\n    return {body}",
    )


def _tests(rng: Random, program: str, head: str) -> str | None:
    """Asserts on drawn inputs; None if the function fails on one of them or gives one result for all."""
    name, _, arguments = head.rstrip(")").partition("(")
    function = _run(program)[name]
    lines, results = [], []
    for _ in range(_TESTS):
        inputs = [_INPUTS[argument](rng) for argument in arguments.split(", ")]
        try:
            results.append(function(*inputs))
        except ValueError:  # the largest of no numbers
            return None
        lines.append(f"assert {name}({', '.join(map(repr, inputs))}) == {results[-1]!r}")
    return "\n".join(lines) if len(set(map(repr, results))) > 1 else None


def _run(program: str) -> dict[str, Any]:
    """The names that a program defines. Only programs of this module's own tables come here."""
    names: dict[str, Any] = {}
    exec(program, names)
    return names
