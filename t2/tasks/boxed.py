r"""Problems whose answer is an expression in ``\boxed{}``, as in MATH (arXiv 2103.03874)."""

from __future__ import annotations

import re

from t2.tasks.equivalence import equivalent
from t2.tasks.math import last_number

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*")


def last_box(reply: str) -> str | None:
    r"""What the last ``\boxed`` or ``\fbox`` holds.

    Braces are matched. Without braces, ``\boxed 5``, it holds what follows up to a space, ``$`` or the line's
    end. A box that is not closed, as of a reply cut short, holds nothing.

    Returns:
        The content without surrounding space; None where there is no box.
    """
    boxes = list(_BOX.finditer(reply))
    if not boxes:
        return None
    start = boxes[-1].end()
    end = _end_of_group(reply, start)
    if end is None:
        return None
    group = reply[start:end]
    return group[1:-1].strip() if group.startswith("{") else group.rstrip(".,;:").strip()


def correct(answer: str, reply: str, seconds: int, *, flexible: bool = False) -> bool:
    """Whether what is read in a reply means the same as the answer; where nothing is, the reply is wrong.

    Args:
        answer: The right expression.
        reply: What is graded.
        seconds: Of processor time for comparing both by computer algebra.
        flexible: Where there is no box, the last number counts.
    """
    written = last_box(reply)
    if not written and flexible:
        written = last_number(reply)
    return bool(written) and equivalent(answer, str(written), seconds)


def _end_of_group(text: str, start: int) -> int | None:
    """Behind the brace that closes the one at ``start``, else behind the last character before a space or ``$``."""
    braced = text.startswith("{", start)
    depth, position = 0, start
    while position < len(text):
        sign = text[position]
        if depth == 0 and (sign.isspace() or sign in "$}"):
            return position
        if sign == "\\":  # an escaped brace is no brace
            position += 1
        elif sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if braced and depth == 0:
                return position + 1
        position += 1
    return None if depth else position
