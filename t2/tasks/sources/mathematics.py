r"""GSM8K and MATH.

GSM8K (arXiv 2110.14168): https://github.com/openai/grade-school-math. MATH (arXiv 2103.03874), as Hendrycks
publishes it, one file per problem, and as rows with the same fields; MATH-500, of
https://github.com/openai/prm800k, with ``answer`` and ``unique_id`` besides.
"""

from __future__ import annotations

import re

from t2.tasks import boxed, math
from t2.tasks.item import Problem
from t2.tasks.sources.rows import Row

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def gsm8k(row: Row) -> Problem:
    """A problem of kind ``math``: the answer is the number on the last line ``#### n``."""
    worked = _CALCULATOR.sub("", row.get("answer", str))
    value = math.final_number(worked)
    if value is None:
        raise row.error("answer", "no last line `#### n`")
    return Problem(
        id=f"gsm8k-{row.path.stem}-{row.number}",
        fields={"question": row.get("question", str)},
        answer=f"{value:f}",  # without an exponent, which grading does not read
        reply=worked,
    )


def competition(row: Row) -> Problem:
    r"""A problem of kind ``boxed``: the answer is what the solution's last ``\boxed`` holds."""
    solution = row.get("solution", str)
    answer = row.get("answer", str) if "answer" in row.fields else boxed.last_box(solution)
    if not answer:
        raise row.error("solution", r"no \boxed answer")
    return Problem(
        id=f"math-{_name(row)}",
        fields={"question": row.get("problem", str)},
        answer=answer,
        reply=solution,
    )


def _name(row: Row) -> str:
    """The problem's place in Hendrycks' folders, such as test/algebra/1001, the same in MATH-500."""
    if "unique_id" in row.fields:
        return row.get("unique_id", str).removesuffix(".json")
    if row.unit == "file":  # …/test/algebra/1001.json
        return "/".join(row.path.with_suffix("").parts[-3:])
    return f"{row.path.stem}-{row.number}"
