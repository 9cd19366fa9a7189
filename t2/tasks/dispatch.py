"""Job classification: the first pass's prompt and how its reply is read (paper, figure 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\[A-Za-z]+\s*\{\s*)*([^{}]*?)\s*\}")
_AROUND = " .,;:!?*_`'\"$"


def classification_prompt(inner: str, categories: Sequence[str]) -> str:
    """Asks which category a prompt belongs to.

    The format of the paper's figure 3, made short; the miniature base model was pretrained on this wording.

    Args:
        inner: The prompt to classify, as a user types it.
        categories: What may be answered, usually the experts' families and then ``other``.
    """
    return (
        f"Classify the question into one category: {', '.join(categories)}. "
        f"Answer with the category in \\boxed{{}}.\nQuestion: {inner}"
    )


def classification_reply(category: str) -> str:
    """The reply that names a category."""
    return f"\\boxed{{{category}}}"


def category(reply: str, categories: Sequence[str]) -> str | None:
    r"""The category that a reply names in its last ``\boxed{}``; None if it names none.

    Its case, macros around it such as ``\textbf``, and punctuation do not matter.
    """
    boxes = _BOXED.findall(reply)
    named = boxes[-1].strip(_AROUND).casefold() if boxes else None
    return next((name for name in categories if name.casefold() == named), None)
