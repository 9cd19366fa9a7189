r"""Computer algebra on pairs of LaTeX expressions: the program that :mod:`t2.tasks.symbolic` runs beside itself.

It imports nothing else of the project. An expression is read by the LaTeX grammar of ``latex2sympy2_extended``
alone, never as Python, and without evaluating anything. What would have too many digits is seen on this form; the
caller's limits, which the kernel keeps, are for what is not seen.

Exact values are compared exactly. A decimal stands for the values that agree with it to six places, or to six
digits where it lies between −1 and 1.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from sympy.core.function import AppliedUndef
from sympy.core.random import seed
from sympy.core.relational import Relational

_MEMORY = 2 << 30
_BITS = 1 << 16
"""Of the largest number that is worked out, about 20,000 digits."""
_TERMS = 10_000
"""Of a sum or product."""
_DEPTH = 20
"""Of brackets; the grammar's time grows with a power of it."""
_REMEMBERED = 1000
_PLACES = sympy.Rational(1, 10**6)

_SPELLING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_LETTERS = ConversionConfig(lowercase_symbols=False)
_COMPLEX = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])|\\(?:imath|Re|Im|arg)(?![A-Za-z])")
_MEMBER = re.compile(r"\s*(?P<name>[A-Za-z](?:_[A-Za-z0-9])?)\s*\\in(?![A-Za-z])")
_UNION = re.compile(r"\\cup(?![A-Za-z])")
_FACTOR = r"(?=\s*(?:[A-Za-z(]|\\(?:pi|sqrt|frac|theta|alpha|beta|sin|cos|tan|cot|sec|csc|ln|log|text)(?![A-Za-z])))"
_HUGE = re.compile(r"[0-9.]E\s*[+-]?[0-9]{4}")
_EAGER = re.compile(
    r"binom|(?=.*[\^!])(?:.*(?:,|;|\||sqrt\s*\[|e\s*\^|exp|norm|Vert|det|gcd|lcm|amma|operatorname))", re.DOTALL
)
_TIDY: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    # The grammar divides by all factors that follow: 2/3\pi is 2/3 of \pi.
    (re.compile(rf"(/\s*[0-9]+(?:\.[0-9]+)?)(?![0-9.]){_FACTOR}"), r"\1 \\cdot "),
    # A mixed number; the grammar's own reading of it needs evaluation.
    (re.compile(r"(?<![\w^.}])([0-9]+)\s*(\\frac\s*(?:\{[0-9]+\}|[0-9])\s*(?:\{[0-9]+\}|[0-9]))"), r"(\1+\2)"),
    # The grammar takes this letter for the imaginary unit.
    (
        re.compile(r"(\\(?:text|math[a-z]*|overline|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+)|I"),
        lambda match: match[1] or r"\text{I}",
    ),
]
_INEQUALITIES = {
    sympy.StrictGreaterThan: sympy.StrictLessThan,
    sympy.GreaterThan: sympy.LessThan,
}


class Unreadable(ValueError):
    """No expression, one without a value, or one whose value is too large to be worked out."""


def equal(answer: str, written: str) -> bool:
    """Whether two LaTeX expressions, both without delimiters, have the same meaning.

    Raises:
        Exception: One of them cannot be read or compared; of any kind, as grammar and algebra raise it.
    """
    real = not (_COMPLEX.search(answer) or _COMPLEX.search(written))
    return _same(read(answer, real), read(written, real))


@lru_cache(_REMEMBERED)
def read(text: str, real: bool) -> Any:
    """The expression that a text stands for, its values worked out.

    Raises:
        Unreadable: It is too deep, too large, or has no value.
        Exception: The grammar does not know it.
    """
    if _HUGE.search(text):
        raise Unreadable("too many digits")
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > _DEPTH:
        raise Unreadable(f"{deepest} brackets in one another")
    if member := _MEMBER.match(text):
        return sympy.Eq(read(member["name"], real), read(text[member.end() :], real), evaluate=False)
    if len(parts := _UNION.split(text)) > 1:  # the grammar's own unions cannot be read without evaluation
        return sympy.Union(*(read(part, real) for part in parts))
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    # Reading evaluates little by itself; to forbid the rest costs sympy its cache.
    with sympy.evaluate(False) if _EAGER.search(text) else nullcontext():
        lazy = latex2sympy(text, is_real=real or None, normalization_config=_SPELLING, conversion_config=_LETTERS)
    if not isinstance(lazy, sympy.Basic | sympy.MatrixBase):
        raise Unreadable("no expression")
    if _bits(lazy) > _BITS:
        raise Unreadable("too many digits")
    return _worked_out(lazy)


def _worked_out(lazy: Any) -> Any:
    """Evaluates the values in an expression, and leaves relations as they are written: ``6 = 5`` is not False."""
    if isinstance(lazy, Relational | sympy.And):
        return lazy.func(*(_worked_out(part) for part in _relations_or_sides(lazy)), evaluate=False)
    if isinstance(lazy, sympy.Tuple | sympy.FiniteSet):
        return lazy.func(*map(_worked_out, lazy.args))
    if isinstance(lazy, sympy.Interval):
        start, end = map(_worked_out, lazy.args[:2])
        is_point = sympy.Ge(start, end) if lazy.left_open and lazy.right_open else sympy.Gt(start, end)
        return sympy.Tuple(start, end) if is_point == True else sympy.Interval(start, end, *lazy.args[2:])  # noqa: E712
    value = lazy.doit()
    if value.has(sympy.nan, sympy.zoo):
        raise Unreadable("no value")
    return value.subs(sympy.Symbol("i"), sympy.I)


def _relations_or_sides(relation: Any) -> list[Any]:
    """The links of a chain such as ``1 < x < 2`` in their order, or the two sides of one link."""
    return list(getattr(relation, "_unsorted_args", relation.args))


def _bits(expression: Any) -> float:
    """At least the binary digits that the expression's numbers have when they are worked out."""
    if isinstance(expression, sympy.MatrixBase):
        return max(map(_bits, expression.flat()), default=0)
    if isinstance(expression, sympy.Rational):
        return max(abs(expression.p), expression.q).bit_length()
    if isinstance(expression, sympy.Float):
        return abs(expression._mpf_[2]) + expression._prec  # its exponent to base 2
    args = expression.args
    if not args:
        return 0 if expression.is_Symbol or expression.is_infinite else 2
    inner = [_bits(argument) for argument in args]
    if isinstance(expression, sympy.Pow | sympy.MatPow):
        return inner[0] * _most(inner[1]) if inner[0] else inner[1]
    if isinstance(expression, sympy.factorial | sympy.gamma):
        return _most(inner[0]) * inner[0]
    if isinstance(expression, sympy.binomial):
        return min(_most(inner[0]), _most(inner[1]) * inner[0])
    if isinstance(expression, sympy.Sum | sympy.Product):
        spans = (bounds.args[1:] for bounds in args[1:])
        terms = math.prod(_most(max(map(_bits, span))) for span in spans if not any(end.is_infinite for end in span))
        return sum(inner) * terms if terms <= _TERMS else math.inf
    return sum(inner) + len(inner) if isinstance(expression, sympy.Add | sympy.Mul) else max(inner)


def _most(bits: float) -> float:
    """The largest number of so many digits."""
    return 2.0**bits if bits < 64 else math.inf


def _same(answer: Any, written: Any) -> bool:
    chains = [_is_relation(side) for side in (answer, written)]
    if all(chains):
        return _same_relation(answer, written)
    if any(chains):
        chain, other = (answer, written) if chains[0] else (written, answer)
        value = _value(chain)
        return value is not None and _same(value, other)
    if any(isinstance(side, sympy.MatrixBase) for side in (answer, written)):
        return (
            getattr(answer, "shape", None) == getattr(written, "shape", None)
            and isinstance(answer, sympy.MatrixBase)
            and isinstance(written, sympy.MatrixBase)
            and all(map(_same, answer.flat(), written.flat()))
        )
    if isinstance(answer, sympy.FiniteSet) or isinstance(written, sympy.FiniteSet):
        return _same_members(*(list(s.args) if isinstance(s, sympy.FiniteSet) else [s] for s in (answer, written)))
    if isinstance(answer, sympy.Interval) and isinstance(written, sympy.Interval):
        ends = ((side.left_open, side.right_open) for side in (answer, written))
        return len(set(ends)) == 1 and _same(answer.start, written.start) and _same(answer.end, written.end)
    if isinstance(answer, sympy.Tuple) and isinstance(written, sympy.Tuple):
        return len(answer) == len(written) and all(map(_same, answer, written))
    if isinstance(answer, sympy.Set) and isinstance(written, sympy.Set):
        return answer == written or bool(answer.symmetric_difference(written).is_empty)
    if isinstance(answer, sympy.Expr) and isinstance(written, sympy.Expr):
        return _same_value(answer, written)
    return bool(answer == written)


def _is_relation(expression: Any) -> bool:
    return isinstance(expression, Relational | sympy.And)


def _value(chain: Any) -> Any:
    """What a relation says of the name on its left: the last side of ``x = 2 + 3 = 5``, the interval of ``x > 3``.

    None where it says nothing: ``2x = 5`` is not solved, ``6 = 5`` is not true.
    """
    links = _relations_or_sides(chain) if isinstance(chain, sympy.And) else [chain]
    if all(isinstance(link, sympy.Eq) for link in links):
        first, last = links[0].lhs, links[-1].rhs
        sides = [link.lhs for link in links[1:]] if _is_name(first) else [first, *(link.lhs for link in links[1:])]
        numbers = (side for side in sides if not side.free_symbols)
        named = _is_name(first) or not first.free_symbols
        return last if named and all(_same(side, last) for side in numbers) else None
    if len(chain.free_symbols) == 1 and not any(isinstance(link, sympy.Ne) for link in links):
        return chain.as_set()
    return None


def _is_name(expression: Any) -> bool:
    """``x``, ``x_1``, ``AB``, ``f(x)``, ``(x, y)``, ``a + b``: of letters only."""
    if expression.is_Symbol or isinstance(expression, AppliedUndef):
        return True
    if isinstance(expression, sympy.Interval):  # a pair of names, as the grammar reads it
        return _is_name(expression.start) and _is_name(expression.end)
    if isinstance(expression, sympy.Pow) and expression.exp == -1:
        return _is_name(expression.base)
    return bool(expression.args) and all(_is_name(argument) for argument in expression.args)


def _same_relation(answer: Any, written: Any) -> bool:
    if isinstance(answer, sympy.And) and isinstance(written, sympy.And):
        pairs = _relations_or_sides(answer), _relations_or_sides(written)
        forward = len(pairs[0]) == len(pairs[1]) and all(map(_same, *pairs))
        return forward or (len(pairs[0]) == len(pairs[1]) and all(map(_same, pairs[0], reversed(pairs[1]))))
    if not (isinstance(answer, Relational) and isinstance(written, Relational)):
        return False
    kinds, sides = zip(*map(_upward, (answer, written)), strict=True)
    if kinds[0] is not kinds[1]:
        return False
    if any(not isinstance(side, sympy.Expr) for pair in sides for side in pair):
        return all(map(_same, *sides))
    ours, theirs = (left - right for left, right in sides)
    if not (ours.free_symbols and theirs.free_symbols):
        return False
    factor = sympy.simplify(ours / theirs)
    if factor.free_symbols or factor.has(sympy.nan, sympy.zoo) or factor == 0:
        return False
    return bool(factor.is_positive) or issubclass(kinds[0], sympy.Eq | sympy.Ne)


def _upward(relation: Any) -> tuple[type, tuple[Any, Any]]:
    """A relation by ``=``, ``≠``, ``<`` or ``≤``."""
    kind = _INEQUALITIES.get(relation.func)
    return (kind, (relation.rhs, relation.lhs)) if kind else (relation.func, (relation.lhs, relation.rhs))


def _same_members(answer: list[Any], written: list[Any]) -> bool:
    """Whether each member of one has its own in the other."""
    if len(answer) != len(written):
        return False
    left = list(written)
    for member in answer:
        found = next((i for i, other in enumerate(left) if _same(member, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_value(answer: Any, written: Any) -> bool:
    if answer == written:
        return True
    if answer.has(sympy.oo, -sympy.oo) or written.has(sympy.oo, -sympy.oo):
        return False
    if answer.has(sympy.Float) or written.has(sympy.Float):
        return _close(answer, written)
    difference = answer - written
    if difference.is_Rational:
        return bool(difference == 0)
    seed(0)  # sympy tries random values
    verdict = difference.equals(0)
    if verdict is None and difference.is_number:  # not proved: equal to a hundred digits is equal
        verdict = abs(difference.evalf(15, maxn=200)) < sympy.Rational(1, 10**100)
    return bool(verdict)


def _close(answer: Any, written: Any) -> bool:
    exact = [sympy.nsimplify(side, rational=True) for side in (answer, written)]
    difference = sympy.simplify(exact[0] - exact[1])
    if difference == 0:
        return True
    if difference.free_symbols:  # of an expression, each coefficient
        terms = sympy.expand(exact[0]).as_coefficients_dict(), sympy.expand(exact[1]).as_coefficients_dict()
        return terms[0].keys() == terms[1].keys() and all(_close(terms[0][key], terms[1][key]) for key in terms[0])
    size = sympy.Max(*map(abs, exact))
    return bool(abs(difference) <= _PLACES * sympy.Min(size, 1))


def main(seconds: int) -> None:
    """Answers questions, a JSON list of two texts per line, until the caller closes standard input."""
    answers, nowhere = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the parser's runtime prints
    os.dup2(nowhere, 2)  # what is never read would fill the pipe
    logging.disable()
    _limit(resource.RLIMIT_AS, _MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))  # beyond it, the kernel ends this
        try:
            verdict = equal(*json.loads(line))
        except Exception:
            verdict = False
        print(json.dumps(verdict), file=answers, flush=True)


def _limit(what: int, value: int) -> None:
    """Sets a limit that can be raised again."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
