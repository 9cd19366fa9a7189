r"""Problems whose worked reply ends with a line ``#### n``, as in GSM8K (arXiv 2110.14168)."""

from __future__ import annotations

import re
from decimal import Decimal

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(rf"(?P<sign>[-+−]?)[$£€]?(?P<digits>{_DIGITS})%?\.?")
_ANYWHERE = re.compile(rf"(?:(?<![\w)])[-+−])?[$£€]?(?:{_DIGITS})")  # a sign behind a digit is a minus between two
_ANSWER = re.compile(r"####[ \t]*(\S+)[ \t]*\r?$", re.MULTILINE)


def number(text: str) -> Decimal | None:
    """Reads one number: sign (also ``−``), currency sign, thousands commas, decimals, ``%``, a final period.

    Returns:
        Its value, a percentage as the number before the sign; None where the whole text is no such number.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    value = Decimal(match["digits"].replace(",", ""))
    return value.copy_negate() if match["sign"] in ("-", "−") else value  # unary minus would round to 28 digits


def final_number(reply: str) -> Decimal | None:
    """The number after the last ``####`` that ends its line; None where there is none."""
    written = [value for text in _ANSWER.findall(reply) if (value := number(text)) is not None]
    return written[-1] if written else None


def last_number(reply: str) -> str | None:
    """The last number of a reply, wherever it stands, as it is written; None where there is none."""
    written = _ANYWHERE.findall(reply)
    return written[-1] if written else None


def correct(answer: str, reply: str, *, flexible: bool = False) -> bool:
    """Compares numerically, so ``1,000.0`` equals ``1000``. A reply without a number to read is wrong.

    Args:
        answer: The right number.
        reply: What is graded.
        flexible: Where there is no :func:`final_number`, :func:`last_number` counts.

    Raises:
        ValueError: The item's own answer is no number.
    """
    expected = number(answer)
    if expected is None:
        raise ValueError(f"the answer of a math item is a number, got {answer!r}; correct the item")
    found = final_number(reply)
    if found is None and flexible and (written := last_number(reply)) is not None:
        found = number(written)
    return found == expected
