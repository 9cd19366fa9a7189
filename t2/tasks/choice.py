"""Multiple choice: the reply names the letter of an option."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDE"

_JOINED = r"(?:(?:[,;/|&+]|(?i:and|or)\b)[\s(]*)+"
_FILLED = r"(?:(?i:maybe|perhaps|possibly|probably|also|even|else|either|option|choice)\b,?[\s(]*)*"
_NAMED = re.compile(rf"(?i:the answer is) \(([{LETTERS}])\)(\s*{_JOINED}{_FILLED}[{LETTERS}]\b|\s*\([{LETTERS}]\))?")
_LETTER = re.compile(rf"\(([{LETTERS}])\)|(?<![\w'’])([{LETTERS}])(?=[).:,*}}]|\s*$)", re.MULTILINE)


def options(texts: Sequence[str]) -> str:
    """One line per option, lettered by position whatever its label was in the source."""
    return "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False))


def statement(letter: str) -> str:
    """The sentence that gives the answer."""
    return f"the answer is ({letter})"


def named_letter(reply: str) -> str | None:
    """The option that the reply names last; None where it names none, or several at once. Nothing is guessed."""
    named = _NAMED.findall(reply)
    letter, another = named[-1] if named else (None, "")
    return None if another else letter


def first_letter(reply: str) -> str | None:
    """The first letter that stands as an option's does: ``(B)``, ``B.``, ``B:``, or alone at a line's end."""
    found = _LETTER.search(reply)
    return found and (found[1] or found[2])


def correct(answer: str, reply: str, *, flexible: bool = False) -> bool:
    """Whether the option that is read in a reply is the answer; an unparsed reply is wrong.

    Args:
        answer: The right letter.
        reply: What is graded.
        flexible: Where the reply nowhere says "the answer is (B)", :func:`first_letter` counts.
    """
    if flexible and not _NAMED.search(reply):
        return first_letter(reply) == answer
    return named_letter(reply) == answer
