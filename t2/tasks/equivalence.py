r"""Whether two answers mean the same, as the graders of MATH (arXiv 2103.03874) see it.

Most pairs are decided by their text, without layout commands. Units, degrees, percent and currency signs are set
aside, and compared where both sides have them. What a computer algebra system would get wrong is ruled out next; the
rest goes to it.
"""

from __future__ import annotations

import re
from itertools import pairwise

from t2.tasks import symbolic, units
from t2.tasks.math import number

_LONGEST = 1000
"""Characters; beyond, only the same text is right. MATH-500's longest answer has 53."""

_SET = "{}"
_TEXT = re.compile(r"\\text\{(?P<inner>[^{}]*)\}")
_OPTION = re.compile(r"\((?P<letter>[A-Z])\)")
_BASED = re.compile(r"(?P<digits>-?[0-9A-Za-z.]+)_\{?(?P<base>[0-9]+)\}?")
_MEMBER = re.compile(r"[A-Za-z]\\in(?![A-Za-z])")
_CLOCK = re.compile(
    r"(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2}))?(?:\\text\{)?(?P<half>[ap])\.?m\.?\}?", re.IGNORECASE
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREE = re.compile(r"\s*(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|°)")

# In this order: each line may rely on those before it.
_TIDY = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^\s*(?:\$([^$]+)\$|\\\((.+)\\\))\s*$", r"\1\2"),  # delimiters
        (r",\\!\s*|\{,\}(?=[0-9]{3})", ""),  # thousands: 10,\!080
        (r"(?<!\\)\\[!,;:> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:mbox|text[a-z]+|mathrm)\s*\{", r"\\text{"),
        ("−", "-"),
        (rf"{_DEGREE.pattern}\s*(?:\\text\{{\s*C\s*\}}|C)\s*$", r"\\text{ celsius}"),
        (rf"{_DEGREE.pattern}\s*(?:\\text\{{\s*F\s*\}}|F)\s*$", r"\\text{ fahrenheit}"),
        (r"\.\s*$", ""),
        (r"^\s*\\text\{([^{}]*[0-9][^{}]*)\}\s*$", r"\1"),  # a number that is set as text with its unit
    )
]
_SIGNS = {"degree": _DEGREE, "dollar": re.compile(r"\\?\$"), "percent": re.compile(r"\\?%")}
_UPRIGHT = re.compile(r"\\text\{\s*([A-Za-z])\s*\}")


def equivalent(answer: str, written: str, seconds: int) -> bool:
    r"""Compares an answer with what a reply has in its box, both LaTeX without delimiters.

    Right are other spellings (``\dfrac``, ``\left(``, ``10,\!080``), other forms of the same value or expression
    (``0.5``, ``x(x+1)``; decimals to six places), an equation for its value (``x=5``), a missing unit or base, an
    option without its parentheses, a list in another order, a word in other case. Wrong are tuples and intervals
    with other brackets or in another order, other bases, other units, other names (``X`` for ``x``), words that are
    no units and stand on one side only, and whatever cannot be read, or not compared in ``seconds`` of processor time.
    """
    if max(len(answer), len(written)) > _LONGEST:
        return answer == written
    if _compact(answer) == _compact(written):
        return True
    (expected, unit), (given, other) = _tidied(answer), _tidied(written)
    if unit and other and unit != other:
        return False
    if _compact(expected) == _compact(given):
        return True
    clocks = [_CLOCK.fullmatch(_compact(text)) for text in (expected, given)]
    if any(clocks):
        return len({clock and (clock["hour"], clock["minute"] or "00", clock["half"].lower()) for clock in clocks}) == 1
    if _TEXT.fullmatch(expected) or _TEXT.fullmatch(given):
        word = _TEXT.fullmatch(expected) is not None
        expected, given = (_unwrapped(text) for text in (expected, given))
        if _same_word(expected, given, by_case=not word and not expected.islower()):
            return True
        if word and number(expected) is None:
            return False  # computer algebra takes a word for a product of letters
    if (verdict := _compare_numbers(expected, given)) is not None:
        return verdict
    kinds = _kind(expected), _kind(given)
    if None not in kinds and kinds[0] != kinds[1]:
        return False
    return symbolic.equal(expected, given, seconds)


def _tidied(text: str) -> tuple[str, units.Unit]:
    """The answer in one spelling, and its unit, by whatever sign or words."""
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    if _TRIGONOMETRY.search(text):
        text = _DEGREE.sub(r"\\cdot\\frac{\\pi}{180}", text)
    text, unit = units.split(text.strip())
    for name, sign in _SIGNS.items():
        text, found = sign.subn("", text)
        unit |= {(name, 1)} if found else set()
    text = _UPRIGHT.sub(r"\1", text).strip()
    option = _OPTION.fullmatch(_unwrapped(text))
    return f"\\text{{{option['letter']}}}" if option else text, unit


def _same_word(expected: str, given: str, *, by_case: bool) -> bool:
    expected, given = _compact(expected), _compact(given)
    if by_case or len(expected) == 1:  # a name
        return expected == given
    return expected.casefold() == given.casefold()


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
