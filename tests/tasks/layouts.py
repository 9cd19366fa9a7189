"""Items of a layout, with prompts like those of the profiles."""

from __future__ import annotations

from typing import Any

from t2.config.rows import Prompt
from t2.tasks import sources
from t2.tasks.item import Item

_MBPP = "{question}\nIt has to pass {these}:\n{tests}\nReply with Python code only."
_HUMANEVAL = "Complete this Python function:\n```python\n{begun}\n```\nReply with Python code only."
PROMPTS = {
    "gsm8k": "{question}\nEnd with a line `#### n`, where n is the answer.",
    "math": "{question}\nPut the final answer in \\boxed{{}}.",
    "mbpp": _MBPP,
    "mbpp_base": _MBPP,
    "mbpp_plus": _MBPP,
    "humaneval": _HUMANEVAL,
    "humaneval_plus": _HUMANEVAL,
    "arc": '{question}\n{options}\nReply with "the answer is (X)", where X is a letter.',
}


def load(layout: str, *arguments: Any) -> list[Item]:
    """The problems of :func:`t2.tasks.sources.load` as items."""
    problems = sources.load(layout, *arguments)
    template = Prompt(system=None, user=PROMPTS[layout], examples=[], prefix=None)
    return [problem.item(template) for problem in problems]
