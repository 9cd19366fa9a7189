"""Tests a program against a reference on many inputs, with the comparisons that EvalPlus makes.

EvalPlus: arXiv 2305.01210, version 0.3.1. The referee has this module at hand: a test program imports
:func:`agree` and hands it data only. The reference runs beside the tests, out of the program's reach.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from . import wire

_RELATIVE = 1e-7
_FLOAT_TOLERANCE = 1e-6


def agree(
    program: Callable[..., Any], entry_point: str, reference: str, inputs: Sequence[str], tolerance: float, oracle: str
) -> None:
    """Calls program and reference on every input and compares what they return.

    Args:
        program: The program's function.
        entry_point: The reference's function.
        reference: The source text of a correct program.
        inputs: Series of argument lists, as :func:`series` writes them.
        tolerance: The absolute tolerance; 0 means 1e-6 from the first input on where the reference
            returns floats, to the end of the series.
        oracle: How outputs are compared: a key of :data:`ORACLES`.

    Raises:
        AssertionError: The outputs differ; names the input by number.
        Exception: Whatever program or reference raise.
    """
    scope: dict[str, Any] = {"__name__": "reference"}
    exec(compile(reference, "<reference>", "exec", dont_inherit=True), scope)
    same = ORACLES[oracle]
    for number, text in enumerate(inputs):
        allowed = tolerance
        for index, tree in enumerate(json.loads(text)):
            # Fresh arguments each time: either side may change its own.
            expected = scope[entry_point](*wire.unpack(tree, _refuse))
            returned = program(*wire.unpack(tree, _refuse))
            if not allowed and _are_floats(expected):
                allowed = _FLOAT_TOLERANCE
            if not same(returned, expected, wire.unpack(tree, _refuse), allowed):
                raise AssertionError(f"series {number}, input {index}")


def series(inputs: Sequence[Sequence[Any]]) -> str:
    """Argument lists as the text that :func:`agree` reads: plain data, exact in its types."""
    return json.dumps([wire.pack(list(arguments), _refuse) for arguments in inputs])


def _equal(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    return bool(returned == expected) or (allowed > 0 and _close(returned, expected, allowed))


def _same_set(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    return set(returned) == set(expected)


def _same_presence(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    """For references that return a match object or None; a program may as well return a truth value."""
    found = expected is not None
    return returned == found if isinstance(returned, bool) else (returned is not None) == found


def _anything(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    """For an ambiguous task. EvalPlus accepts None as well, which makes an empty function right."""
    return returned is not None


def _equal_or_zero(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    return _equal(returned, expected, arguments, allowed) or bool(returned == 0)


def _pyramid(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    """The surface of a square pyramid, given its slant height as in the reference, or its height."""
    edge, height = arguments
    surface = round(edge**2 + 2 * edge * math.hypot(edge / 2, height))
    return _equal(returned, expected, arguments, allowed) or abs(returned - surface) <= allowed


def _digits(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    """The distance of two numbers' digits from the left as in the reference, or from the right."""
    if _equal(returned, expected, arguments, allowed):
        return True
    width = max(len(str(argument)) for argument in arguments)
    first, second = (str(argument).zfill(width) for argument in arguments)
    return bool(returned == sum(abs(int(a) - int(b)) for a, b in zip(first, second, strict=True)))


def _root(returned: Any, expected: Any, arguments: Sequence[Any], allowed: float) -> bool:
    """Any zero of the polynomial; a plain number, or it could differ from one use to the next."""
    if not isinstance(returned, int | float):
        return False
    (coefficients,) = arguments
    return abs(sum(factor * math.pow(returned, power) for power, factor in enumerate(coefficients))) <= allowed


ORACLES: dict[str, Callable[[Any, Any, Sequence[Any], float], bool]] = {
    "equal": _equal,
    "same set": _same_set,
    "same presence": _same_presence,
    "anything": _anything,
    "equal or zero": _equal_or_zero,
    "pyramid": _pyramid,
    "digits": _digits,
    "root": _root,
}
"""Whether a program's output is right, given the reference's, the arguments, and the absolute tolerance."""


def _are_floats(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return len(values) > 0 and all(isinstance(entry, float) for entry in values)


def _close(returned: Any, expected: Any, allowed: float) -> bool:
    """As ``numpy.allclose`` has it: numbers, or sequences of them, of one type and length."""
    if type(returned) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        pairs = zip(returned, expected, strict=False)
        return len(returned) == len(expected) and all(_close_entries(a, b, allowed) for a, b in pairs)
    return _close_entries(returned, expected, allowed)


def _close_entries(returned: Any, expected: Any, allowed: float) -> bool:
    numbers = (int, float, complex)
    if not (isinstance(returned, numbers) and isinstance(expected, numbers)):
        return isinstance(expected, list | tuple) and _close(returned, expected, allowed)
    # An infinite output has to be met exactly; any difference to it would be within the relative tolerance.
    return returned == expected or abs(returned - expected) <= allowed + _RELATIVE * abs(expected) < math.inf


def _refuse(value: Any) -> Any:
    raise TypeError(f"an input is plain data, got {value!r:.80}")
