r"""Units at the end of an answer, and the words that are none: ``5\text{ cm}^2``, ``5\text{ million dollars}``."""

from __future__ import annotations

import re
from collections import Counter

Unit = frozenset[tuple[str, int]]
"""Powers by name, such as ``("cm", 2)``; empty where there is no unit."""

_SPELLINGS = """
mm millimeter millimetre | cm centimeter centimetre | m meter metre | km kilometer kilometre
in inch | ft foot feet | yd yard | mi mile | unit
mg milligram | g gm gram | kg kilogram | oz ounce | lb pound | ton tonne
ml milliliter millilitre | l liter litre | gal gallon | qt quart | pt pint | cup | tablespoon | teaspoon
acre | hectare | s sec second | min minute | h hr hour | day | week | month | yr year
degree deg | rad radian | celsius | fahrenheit | percent
dollar | cent | penny pennies | nickel | dime | quarter | euro | rupee
hertz hz | newton | joule | watt | volt | ohm | byte | bit
way | time | digit | point | edge | vertex vertices | face | side | diagonal | line | triangle | circle | tile | block
integer | number | solution | root | factor | divisor | term | zero | set | subset | function | element
student | person people | child children | boy | girl | man men | woman women | friend | player | team | member | worker
coin | marble | ball | card | book | page | game | step | apple | orange | cookie | candy candies | pencil | car | box
"""
_NAMES = {word: names.split()[0] for names in re.split(r"[|\n]", _SPELLINGS) for word in names.split()}
_COMPOUND: dict[str, Unit] = {"mph": frozenset({("mi", 1), ("h", -1)}), "kph": frozenset({("km", 1), ("h", -1)})}
_SQUARE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_SQUARED = {"squared": 2, "cubed": 3, "²": 2, "³": 3}
_MULTIPLIERS = {
    "dozen": "12",
    "hundred": "100",
    "thousand": "10^{3}",
    "million": "10^{6}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
}

_POWER = r"\^\s*(?:[0-9]|\{\s*[0-9]\s*\})|[²³]"
_TAIL = re.compile(rf"(?:\s*(?:\\text\{{[^{{}}]*\}}|(?<![A-Za-z\\])[A-Za-z]{{2,}}\.?|/)(?:{_POWER})?)+\s*$")
_TOKEN = re.compile(rf"[A-Za-z]+|{_POWER}|[^\s.]")


def split(text: str) -> tuple[str, Unit]:
    r"""Takes a unit off the end of an answer.

    Args:
        text: LaTeX, with ``\text`` for every macro that sets words upright.

    Returns:
        What stands before the unit, multipliers such as *million* written out as factors; and the unit. Words of
        which one is neither stay where they are.
    """
    match = _TAIL.search(text)
    if match is None or not text[: match.start()].strip():
        return text, frozenset()
    words = [_TOKEN.findall(word) for word in re.findall(rf"\\text\{{[^{{}}]*\}}|{_POWER}|[^\\\s]+", match[0])]
    tokens = [token for word in words for token in word if token not in ("\\", "{", "}", "text")]
    factors = []
    while tokens and tokens[0].lower() in _MULTIPLIERS:
        factors.append(_MULTIPLIERS[tokens.pop(0).lower()])
    unit = _unit(tokens)
    if unit is None:
        return text, frozenset()
    return "".join([text[: match.start()], *(f" \\cdot {factor}" for factor in factors)]), unit


def _unit(tokens: list[str]) -> Unit | None:
    """The unit that words, powers and slashes make; None where one of them is of no unit."""
    powers: Counter[str] = Counter()
    last, sign, power = "", 1, 1
    for token in tokens:
        word = token.lower()
        name = next(
            (_NAMES[form] for form in (word, word.removesuffix("s"), word.removesuffix("es")) if form in _NAMES), ""
        )
        if word in ("per", "/"):
            sign = -1
        elif word in _SQUARE:
            power = _SQUARE[word]
        elif last and (word in _SQUARED or word.startswith("^")):
            powers[last] = sign * (_SQUARED.get(word) or int(re.sub(r"[^0-9]", "", word)))
        elif word in _COMPOUND:
            powers.update(dict(_COMPOUND[word]))
        elif name:
            powers[name] += sign * power
            last, power = name, 1
        else:
            return None
    return frozenset(powers.items()) if power == 1 else None
