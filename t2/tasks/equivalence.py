r"""Whether two answers mean the same, as the graders of MATH (arXiv 2103.03874) see it.

Most pairs are decided by their text: layout commands, units, degrees, percent and currency signs are set aside.
What a computer algebra system would get wrong is ruled out next; the rest goes to it.
"""

from __future__ import annotations

import re
from itertools import pairwise

from t2.tasks import symbolic
from t2.tasks.math import number

_LONGEST = 1000
"""Characters; beyond, only the same text is right. MATH-500's longest answer has 53."""

_SET = "{}"
_TEXT = re.compile(r"\\text\{(?P<inner>[^{}]*)\}")
_OPTION = re.compile(r"\((?P<letter>[A-Z])\)")
_BASED = re.compile(r"(?P<digits>-?[0-9A-Za-z.]+)_\{?(?P<base>[0-9]+)\}?")
_MEMBER = re.compile(r"[A-Za-z]\\in(?![A-Za-z])")

# In this order: each line may rely on those before it.
_TIDY = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r",\\!\s*|\{,\}(?=[0-9]{3})", ""),  # thousands: 10,\!080
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:mbox|text[a-z]+|mathrm)\s*\{", r"\\text{"),
        (r"\\text\{\s*([A-Za-z])\s*\}", r"\1"),  # a variable set upright
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|°", ""),
        (r"\\?[$%]", ""),
        ("−", "-"),
        (r"(?<=[\w})\]])\s*\\text\{[A-Za-z. ]{2,}\}(?:\^\{?[23]\}?)?\s*$", ""),  # a unit
        (r"\.\s*$", ""),
    )
]


def equivalent(answer: str, written: str) -> bool:
    r"""Compares an answer with what a reply has in its box, both LaTeX without delimiters.

    Right are other spellings (``\dfrac``, ``\left(``, ``10,\!080``), other forms of the same value or expression
    (``0.5``, ``x(x+1)``; decimals to six places), an assignment for its value (``x=5``), a missing unit or base,
    an option without its parentheses, a list in another order. Wrong are tuples and intervals with other
    brackets or in another order, other bases, and whatever cannot be read.
    """
    if max(len(answer), len(written)) > _LONGEST:
        return answer == written
    expected, given = _tidied(answer), _tidied(written)
    if _compact(expected) == _compact(given):
        return True
    names = _TEXT.fullmatch(expected), _TEXT.fullmatch(given)
    if any(names):
        expected, given = (_unwrapped(text) for text in (expected, given))
        if _compact(expected).casefold() == _compact(given).casefold():
            return True
        if names[0] and number(expected) is None:
            return False  # computer algebra takes a word for a product of letters
    if (verdict := _compare_numbers(expected, given)) is not None:
        return verdict
    kinds = _kind(expected), _kind(given)
    if None not in kinds and kinds[0] != kinds[1]:
        return False
    return symbolic.equal(expected, given)


def _tidied(text: str) -> str:
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    text = text.strip()
    bare = _unwrapped(text)
    option = _OPTION.fullmatch(bare)
    return f"\\text{{{option['letter']}}}" if option else text


def _unwrapped(text: str) -> str:
    match = _TEXT.fullmatch(text)
    return match["inner"].strip() if match else text


def _compact(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _compare_numbers(expected: str, given: str) -> bool | None:
    """Numbers in digits, and numbers in a base; None where they are something else."""
    values = number(expected), number(given)
    if None not in values:
        return values[0] == values[1]
    based, also = (_BASED.fullmatch(_compact(text)) for text in (expected, given))
    if based and also:
        return (based["digits"], int(based["base"])) == (also["digits"], int(also["base"]))
    if based and values[1] is not None:  # the question says the base
        return based["digits"] == _compact(given)
    if also and values[0] is not None:
        try:
            return int(also["digits"], int(also["base"])) == values[0]
        except ValueError:
            return False
    return None


def _kind(text: str) -> str | None:
    """The brackets of a tuple or interval, such as ``(]``; ``{}`` for a list of values; None for one value."""
    compact = _MEMBER.sub("", _compact(text), count=1)
    if _encloses(compact) and "," in compact:
        return compact[0] + compact[-1]
    compact = compact.replace("\\{", "").replace("\\}", "")
    return _SET if any(depth == 0 and sign == "," for sign, depth in _depths(compact)) else None


def _encloses(text: str) -> bool:
    """Whether the bracket at the start is closed by the one at the end, of either shape."""
    depths = [depth for _, depth in _depths(text)]
    return text[:1] in ("(", "[") and text[-1:] in (")", "]") and all(depths[:-1]) and depths[-1] == 0


def _depths(text: str) -> list[tuple[str, int]]:
    """Every sign with the number of brackets that are open behind it."""
    depth, found = 0, []
    for before, sign in pairwise(" " + text):
        if before != "\\" or sign not in "{}":
            depth += (sign in "([{") - (sign in ")]}")
        found.append((sign, depth))
    return found
