"""Job classification: the first pass's prompt and how its reply is read (paper, figure 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from t2.config.rows import OTHER, Dispatching, Task
from t2.config.rows import Prompt as Template
from t2.tasks.prompt import Prompt, asked, render

_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\[A-Za-z]+\s*\{\s*)*([^{}]*?)\s*\}")
_AROUND = " .,;:!?*_`'\"$"


def categories_of(dispatch: Task, tasks: Mapping[str, Task]) -> list[str]:
    """What may be answered to a task of role ``dispatch``: the families of its tasks, and ``other`` last."""
    if not isinstance(dispatch.source, Dispatching):
        raise ValueError(f"a task of role 'dispatch' names the tasks that it tells apart, got {dispatch.source}")
    families = dict.fromkeys(tasks[name].family for name in dispatch.source.tasks)
    return [*(family for family in families if family != OTHER), OTHER]


def classification_prompt(template: Template, prompt: Prompt, categories: Sequence[str]) -> Prompt:
    """Asks which category a prompt belongs to.

    Args:
        template: Of the task that asks; its fields are ``question`` and ``categories``.
        prompt: The prompt to classify; what it shows is shown here too.
        categories: What may be answered, usually the experts' families and then ``other``.
    """
    last = asked(prompt)
    return render(template, {"question": last.content, "categories": ", ".join(categories)}, last.images)


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
