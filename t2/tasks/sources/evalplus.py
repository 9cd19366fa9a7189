"""What EvalPlus' releases leave to the reader: types that JSON has not, and tasks with a comparison of their own.

The facts are those of EvalPlus 0.3.1 (arXiv 2305.01210, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from t2.sandbox import differential

Restore = Callable[[Any], Any]


def unit_tests(
    entry_point: str, reference: str, inputs: Iterable[Sequence[Sequence[Any]]], tolerance: float, oracle: str
) -> str:
    """The unit-test program of an item: every input, and the reference that says what is right.

    Args:
        entry_point: The function's name, in the program and in the reference.
        reference: A correct program.
        inputs: Series of argument lists.
        tolerance: The absolute tolerance for floats.
        oracle: A key of :data:`t2.sandbox.differential.ORACLES`.
    """
    series = [differential.series(arguments) for arguments in inputs]
    return (
        "from sandbox.differential import agree\n"
        f"agree({entry_point}, {entry_point!r}, {reference!r}, {series!r}, {tolerance!r}, {oracle!r})\n"
    )


MBPP_ORACLES = {
    **dict.fromkeys((2, 7, 111, 140, 232, 249, 579, 769), "same set"),
    **dict.fromkeys((737, 787, 794), "same presence"),
    164: "anything",
    295: "equal or zero",
    558: "digits",
    581: "pyramid",
}
"""MBPP+ tasks whose outputs are not compared by ``==``."""

HUMANEVAL_ORACLES = {32: "root"}
"""HumanEval+ tasks whose outputs are not compared by ``==``."""


MBPP_OVERSIZE = {255: {85, 86, 90, 96, 100}}
"""Further inputs that are left out, by task and position: their outputs have 6 to 128 million entries.

As messages of the sandbox, these have 60 MB to 1 GB; what a program may say at once is 16 MB.
"""


def restored(number: int, inputs: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The inputs of an MBPP+ task with the types that the task is about.

    Args:
        number: The task's.
        inputs: Argument lists as JSON has them, tuples and sets as lists, complex numbers as text.
    """
    restore = _RESTORE.get(number)
    return [list(restore(arguments)) if restore else list(arguments) for arguments in inputs]


def _each(restore: Restore) -> Restore:
    return lambda values: [restore(value) for value in values]


def _tuple_of(restore: Restore) -> Restore:
    return lambda values: tuple(restore(value) for value in values)


def _arguments(*restores: Restore) -> Restore:
    """One restoration an argument; the arguments beyond are plain."""
    return lambda values: [*(f(value) for f, value in zip(restores, values, strict=False)), *values[len(restores) :]]


def _plain(value: Any) -> Any:
    return value


def _set_or_dict(value: Any) -> Any:
    """An empty list stands for ``{}``, which is a dictionary."""
    return set(value) if isinstance(value, list) and value else {}


def _tuple_or_plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(entry) for entry in value) if isinstance(value, list) else value


def _tuples_by_key(value: Any) -> Any:
    return {key: tuple(entries) for key, entries in value.items()}


_RESTORE: dict[int, Restore] = {
    **dict.fromkeys((2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424), _each(tuple)),
    **dict.fromkeys((429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809), _each(tuple)),
    **dict.fromkeys((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780), _each(_each(tuple))),
    **dict.fromkeys((259, 401, 445), _each(_tuple_of(tuple))),
    **dict.fromkeys((580, 615, 791), _deep_tuple),
    **dict.fromkeys((75, 413, 444, 753), _arguments(_each(tuple))),
    **dict.fromkeys((250, 307, 405, 446, 617, 720, 763, 808), _arguments(tuple)),
    **dict.fromkeys((106, 750), _arguments(_plain, tuple)),
    115: _arguments(_each(_set_or_dict)),
    124: _arguments(float, complex),
    252: _arguments(complex),
    278: _arguments(_tuple_of(_tuple_or_plain)),
    722: _arguments(_tuples_by_key),
}
"""How a task's argument list is restored; tasks not named here need nothing."""
