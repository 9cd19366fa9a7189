"""A program against a reference on many inputs, judged in the sandbox as EvalPlus judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from t2 import config
from t2.sandbox import Program, Sandbox, Verdict
from t2.tasks.sources.evalplus import restored, unit_tests

ROOT = Path(__file__).parents[2]
INFINITE = "float('inf')"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(config.load(ROOT / "params.yaml").sandbox) as opened:
        yield opened


def judge(
    sandbox: Sandbox,
    program: str,
    reference: str,
    *series: Sequence[Sequence[Any]],
    tolerance: float = 0.0,
    oracle: str = "equal",
) -> Verdict:
    """Both programs are bodies of ``f(*a)``."""
    code, correct = (f"def f(*a):\n    {body}\n" for body in (program, reference))
    return sandbox.run([Program(code, unit_tests("f", correct, series, tolerance, oracle))])[0]


@pytest.mark.parametrize(
    ("program", "reference", "tolerance", "passes"),
    [
        ("return 3", "return 3", 0, True),
        ("return 3", "return 4", 0, False),
        ("return 3.0", "return 3", 0, True),  # == decides first
        ("return True", "return 1", 0, True),
        ("return (1, 2)", "return [1, 2]", 0, False),
        ("return 1.0000005", "return 1.0", 0, True),  # floats have a tolerance of 1e-6 unasked
        ("return 1.000002", "return 1.0", 0, False),
        ("return 1.00005", "return 1.0", 1e-4, True),
        ("return 1.0002", "return 1.0", 1e-4, False),
        ("return 1e9 + 50", "return 1e9", 0, True),  # and a relative one of 1e-7
        ("return 1e9 + 200", "return 1e9", 0, False),
        ("return 10**9 + 1", "return 10**9", 0, False),  # which integers have not
        ("return 1", "return 1.0000001", 0, False),  # nor outputs of another type
        ("return [1.0, 2.0000001]", "return [1.0, 2.0]", 0, True),
        ("return (1.0, 2.0000001)", "return (1.0, 2.0)", 0, True),
        ("return (1.0, 2.0000001)", "return [1.0, 2.0]", 0, False),
        ("return [1.0, 2.0]", "return [1.0, 2.0, 3.0]", 0, False),
        ("return [[1.0000001]]", "return [[1.0]]", 0, False),  # nested floats are no floats to EvalPlus
        ("return [[1.0000001]]", "return [[1.0]]", 1e-4, True),
        ("return ['a', 1.0000001]", "return ['a', 1.0]", 1e-4, False),
        ("return 1.00001j", "return 1j", 1e-4, True),
        (f"return {INFINITE}", f"return {INFINITE}", 0, True),
        ("return 5.0", f"return {INFINITE}", 0, False),
        (f"return {INFINITE}", "return 5.0", 0, False),
        ("return float('nan')", "return float('nan')", 0, False),
        ("return None", "return None", 0, True),
        ("raise ValueError", "return 3", 0, False),
        ("return 3", "raise ValueError", 0, False),
        ("return map(str, a)", "return []", 0, False),
    ],
)
def test_outputs_are_compared_as_evalplus_does(
    sandbox: Sandbox, program: str, reference: str, tolerance: float, passes: bool
) -> None:
    assert judge(sandbox, program, reference, [[1]], tolerance=tolerance).passed == passes


def test_the_tolerance_for_floats_stays_to_the_end_of_its_series(sandbox: Sandbox) -> None:
    mixed, near = "return [1.0] if a[0] else [1.0, 2]", "return [1.0] if a[0] else [1.0000001, 2]"
    assert not judge(sandbox, near, mixed, [[0], [1]]).passed
    assert judge(sandbox, near, mixed, [[1], [0]]).passed
    assert not judge(sandbox, near, mixed, [[1]], [[0]]).passed  # the next series begins anew


def test_every_input_of_every_series_counts(sandbox: Sandbox) -> None:
    good = [[n] for n in range(50)]
    assert judge(sandbox, "return a[0]", "return a[0]", good, []).passed
    for series in ([good, [[99]]], [[[99], *good], good]):
        verdict = judge(sandbox, "return a[0] % 99", "return a[0]", *series)
        assert not verdict.passed and verdict.reason.startswith("AssertionError in the tests")


def test_neither_side_changes_the_others_arguments(sandbox: Sandbox) -> None:
    clears = "n = len(a[0]); a[0].clear(); return n"
    assert judge(sandbox, clears, clears, [[[1, 2]], [[]]]).passed
    # A root of the polynomial without coefficients would be any number.
    assert not judge(sandbox, "a[0].clear(); return 5.0", "return -0.5", [[[1, 2]]], oracle="root").passed


def test_inputs_keep_their_types(sandbox: Sandbox) -> None:
    kinds = "return [type(x).__name__ for x in a]"
    arguments = [(1,), {1}, {}, {"a": (2,)}, 1j, 1.0, 1, True, None, "s", [(1,)], float("inf"), 10**30]
    names = [type(value).__name__ for value in arguments]
    assert judge(sandbox, kinds, f"return {names}", [arguments]).passed
    assert judge(sandbox, "return a[3]['a'][0] + a[12]", f"return {10**30 + 2}", [arguments]).passed


@pytest.mark.parametrize(
    ("oracle", "program", "reference", "arguments", "passes"),
    [
        ("same set", "return [2, 1, 2]", "return (1, 2)", [0], True),
        ("same set", "return [1]", "return (1, 2)", [0], False),
        ("same set", "return None", "return (1, 2)", [0], False),
        (
            "same presence",
            "import re; return re.search('a', a[0])",
            "import re; return re.search('a', a[0])",
            ["a"],
            True,
        ),
        ("same presence", "return True", "import re; return re.search('a', a[0])", ["a"], True),
        ("same presence", "return False", "import re; return re.search('a', a[0])", ["b"], True),
        ("same presence", "return True", "import re; return re.search('a', a[0])", ["b"], False),
        ("same presence", "return None", "import re; return re.search('a', a[0])", ["a"], False),
        ("anything", "return 7", "return True", [1, 2], True),
        ("anything", "pass", "return True", [1, 2], False),
        ("equal or zero", "return 0", "return 6", [8], True),
        ("equal or zero", "return 6", "return 6", [8], True),
        ("equal or zero", "return 5", "return 6", [8], False),
        ("pyramid", "return 24", "return 2 * a[0] * a[1] + a[0] ** 2", [3, 2], True),  # edge 3, height 2: slant 2.5
        ("pyramid", "return 21", "return 2 * a[0] * a[1] + a[0] ** 2", [3, 2], True),
        ("pyramid", "return 22", "return 2 * a[0] * a[1] + a[0] ** 2", [3, 2], False),
        ("digits", "return 3", "return 2", [12345, 9], False),
        ("digits", "return 1 + 2 + 3 + 4 + 4", "return 8", [12345, 9], True),
        ("digits", "return 8", "return 8", [-1, 7], True),  # the sign is no digit, but the reference agrees
        ("root", "return -0.5", "return 7.0", [[1, 2]], True),
        ("root", "return 0.5", "return 0.5", [[1, 2]], False),
        ("root", "return '-0.5'", "return -0.5", [[1, 2]], False),
    ],
)
def test_tasks_with_a_comparison_of_their_own(
    sandbox: Sandbox, oracle: str, program: str, reference: str, arguments: list[Any], passes: bool
) -> None:
    assert judge(sandbox, program, reference, [arguments], tolerance=1e-4, oracle=oracle).passed == passes


@pytest.mark.parametrize("oracle", ["equal", "equal or zero", "pyramid", "digits", "root"])
@pytest.mark.parametrize(("base", "value"), [("object", ""), ("float", "7.5"), ("str", "'s'"), ("list", "[7]")])
def test_an_object_that_agrees_with_everything_is_wrong(sandbox: Sandbox, oracle: str, base: str, value: str) -> None:
    forger = (
        f"class Yes({base}):\n"
        "    __eq__ = __le__ = __lt__ = __ge__ = __gt__ = lambda *_: True\n"
        "    __ne__ = lambda *_: False\n"
        "    __abs__ = __sub__ = __rsub__ = __float__ = lambda *_: 0.0\n"
        f"def f(*a):\n    return Yes({value})\n"
    )
    arguments = [[[1, 2]]] if oracle == "root" else [[3, 9]]
    tests = unit_tests("f", "def f(*a):\n    return 3.0\n", [arguments], 1e-4, oracle)
    assert not sandbox.run([Program(forger, tests)])[0].passed


def test_a_builtins_name_can_be_the_entry_point(sandbox: Sandbox) -> None:
    code = "def sum(a, b):\n    return a * b\n"
    assert sandbox.run([Program(code, unit_tests("sum", code, [[[3, 4]]], 0.0, "equal"))])[0].passed
    assert not sandbox.run([Program("def other(): pass\n", unit_tests("sum", code, [[[3, 4]]], 0.0, "equal"))])[
        0
    ].passed


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (3, [[1], 2], [[1], 2]),
        (2, [[1, 2], [3]], [(1, 2), (3,)]),
        (63, [[[1, 2], [3]]], [[(1, 2), (3,)]]),
        (75, [[[1, 2]], 3], [[(1, 2)], 3]),
        (106, [[1], [2]], [[1], (2,)]),
        (115, [[[1], [], {}]], [[{1}, {}, {}]]),
        (124, ["-3", "4j"], [-3.0, 4j]),
        (250, [[1], [2]], [(1,), [2]]),
        (252, ["(1-1j)"], [1 - 1j]),
        (252, [4], [4 + 0j]),
        (259, [[[1], [2]], [[3]]], [((1,), (2,)), ((3,),)]),
        (278, [[1, [2, 3]]], [(1, (2, 3))]),
        (307, [[1, [2]], 0, 50], [(1, [2]), 0, 50]),
        (580, [[1, [2, [3]]]], [(1, (2, (3,)))]),
        (722, [{"a": [1, 2]}, 3, 4], [{"a": (1, 2)}, 3, 4]),
    ],
)
def test_types_that_json_has_not_are_restored(number: int, arguments: list[Any], expected: list[Any]) -> None:
    (found,) = restored(number, [arguments])
    assert repr(found) == repr(expected)
