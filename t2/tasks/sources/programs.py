"""MBPP and HumanEval, and EvalPlus' versions of them with many more inputs.

MBPP (arXiv 2108.07732), full and sanitized: https://github.com/google-research/google-research/tree/master/mbpp.
HumanEval (arXiv 2107.03374): https://github.com/openai/human-eval. MBPP+ v0.2.0 and HumanEval+ (arXiv
2305.01210): https://github.com/evalplus/mbppplus_release and humanevalplus_release. A problem has the same id
in every file that holds it.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from t2.tasks.item import Problem
from t2.tasks.sources import evalplus
from t2.tasks.sources.rows import Row

_INSTRUCTION = re.compile(r'"""\n(?P<text>.*)\n(?P<test>assert .*)\n"""\n', re.DOTALL)
_MBPP_TEST = range(11, 511)
_MBPP_PLUS_TRAIN = range(1, 301)


def mbpp(row: Row) -> Problem:
    """A problem of kind ``code``. Set-up code uses what the program defines, so it runs with the tests."""
    text = row.get("text" if "text" in row.fields else "prompt", str)
    asserts = row.strings("test_list")
    if not asserts:
        raise row.error("test_list", "no tests")
    sanitized = "test_imports" in row.fields
    before = row.strings("test_imports") if sanitized else [row.get("test_setup_code", str)]
    tests = "\n".join(line for line in [*before, *asserts] if line)
    return Problem(
        id=f"mbpp-{row.get('task_id', int)}",
        fields=_mbpp_fields(text, asserts),
        answer=_unix(tests),
        reply=_unix(row.get("code", str)),
    )


def mbpp_part(row: Row) -> Literal["train", "test"]:
    """The authors' split: test is 11 to 510; train takes the others."""
    return "test" if row.get("task_id", int) in _MBPP_TEST else "train"


def mbpp_base(row: Row) -> Problem:
    """A problem of MBPP+, tested against its canonical solution on MBPP's own inputs only."""
    return mbpp_plus(row, further=False)


def mbpp_plus(row: Row, *, further: bool = True) -> Problem:
    """A problem of kind ``code``, tested against the canonical solution on all of EvalPlus' inputs.

    Args:
        row: Of MBPP+.
        further: Whether the inputs that EvalPlus added count.
    """
    match = _INSTRUCTION.fullmatch(row.get("prompt", str))
    if match is None:
        raise row.error("prompt", 'expected """, an instruction, one assert and """, on lines of their own')
    number, solution = _number(row, "Mbpp/"), row.get("canonical_solution", str)
    base, plus = _inputs(row)
    oversize = evalplus.MBPP_OVERSIZE.get(number, set())
    plus = [arguments for position, arguments in enumerate(plus) if further and position not in oversize]
    try:
        inputs = [evalplus.restored(number, series) for series in (base, plus)]
    except (AttributeError, TypeError, ValueError) as error:
        raise row.error("plus_input", f"not of the types that task {number} has ({error})") from None
    return Problem(
        id=f"mbpp-{number}",
        fields=_mbpp_fields(match["text"], [match["test"]]),
        answer=evalplus.unit_tests(
            row.get("entry_point", str),
            solution,
            inputs,
            _tolerance(row),
            evalplus.MBPP_ORACLES.get(number, "equal"),
        ),
        reply=solution,
    )


def mbpp_plus_part(row: Row) -> Literal["train", "test"]:
    """The split of the paper's public code: rows 0 to 299 and 300 to 377."""
    return "train" if row.number in _MBPP_PLUS_TRAIN else "test"


def humaneval(row: Row) -> Problem:
    """A problem of kind ``code``: the tests define ``check``, which has to be called."""
    return _humaneval(row, f"{row.get('test', str)}\ncheck({row.get('entry_point', str)})\n")


def humaneval_plus(row: Row) -> Problem:
    """A problem of kind ``code``, tested against the canonical solution on all of EvalPlus' inputs."""
    tests = evalplus.unit_tests(
        row.get("entry_point", str),
        row.get("prompt", str) + row.get("canonical_solution", str),
        _inputs(row),
        _tolerance(row),
        evalplus.HUMANEVAL_ORACLES.get(_number(row, "HumanEval/"), "equal"),
    )
    return _humaneval(row, tests)


def _humaneval(row: Row, tests: str) -> Problem:
    begun = row.get("prompt", str).strip("\n")
    return Problem(
        id=f"humaneval-{_number(row, 'HumanEval/')}",
        # Grading puts what a prompt's fence holds before the reply: helpers and imports stand in it.
        fields={"begun": begun},
        answer=tests,
        reply=f"```python\n{begun}\n{row.get('canonical_solution', str)}```\n",
    )


def _mbpp_fields(text: str, asserts: list[str]) -> dict[str, str]:
    these = "these tests" if len(asserts) > 1 else "this test"
    return {"question": text, "these": these, "tests": "\n".join(asserts)}


def _number(row: Row, prefix: str) -> int:
    name = row.get("task_id", str)
    if not re.fullmatch(re.escape(prefix) + "[0-9]+", name):
        raise row.error("task_id", f"expected {prefix}<number>, got {name!r}")
    return int(name.removeprefix(prefix))


def _inputs(row: Row) -> tuple[list[Any], list[Any]]:
    """The two series of argument lists. Without further inputs, the release has ``{}`` for the second."""
    base = row.get("base_input", list)
    plus = [] if row.fields.get("plus_input") == {} else row.get("plus_input", list)
    if not all(isinstance(arguments, list) for arguments in (*base, *plus)):
        raise row.error("plus_input", "expected lists of arguments, here and in `base_input`")
    return base, plus


def _tolerance(row: Row) -> float:
    value = row.get("atol", object)
    if not isinstance(value, int | float):
        raise row.error("atol", f"expected a number, got {value!r}")
    return float(value)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")
