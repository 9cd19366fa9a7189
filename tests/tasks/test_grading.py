"""Replies are graded by what they state; what cannot be read is wrong."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2 import config
from t2.sandbox import Program, Sandbox, Verdict
from t2.tasks import choice, code, math
from t2.tasks.grading import KINDS, grade, limits_of
from t2.tasks.item import Item

ROOT = Path(__file__).parents[2]


def item(answer: str) -> Item:
    return Item("x-1", "?", answer)


def right(kind: str, answer: str, reply: str) -> bool:
    return grade(kind, [item(answer)], [reply])[0]


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("72", "48+24=72\n#### 72"),
        ("72", "#### 72."),
        ("72", "#### 72.00"),
        ("72", "####72"),
        ("72", "So it is #### 72 \r\n"),
        ("1000", "#### 1,000"),
        ("1,000", "#### 1000"),
        ("1234567", "#### $1,234,567.00"),
        ("-3", "#### -3"),
        ("-3", "#### −3"),
        ("-3", "#### -$3"),
        ("0.5", "#### .5"),
        ("50", "#### 50%"),
        ("0", "#### -0"),
        ("7", "#### 6\nNo, wait.\n#### 7"),
        ("7", "#### Steps\n3+4=7\n#### 7\n#### Done"),
    ],
)
def test_the_number_on_the_last_answer_line_counts(answer: str, reply: str) -> None:
    assert right("math", answer, reply)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("72", "72"),
        ("72", "The answer is 72."),
        ("72", ""),
        ("72", "####"),
        ("72", "#### seventy-two"),
        ("72", "####\n72"),
        ("3", "#### -3"),
        ("-3", "#### 3"),
        ("1", "#### 1,000"),
        ("1000", "#### 1,00"),
        ("1000", "#### 1,0000"),
        ("10", "#### 10/2"),
        ("10", "#### 10 or 11"),
        ("6", "#### 6\n#### 7"),
        ("72", "### 72"),
        ("3", "#### ٣"),
    ],
)
def test_other_numbers_and_unreadable_ones_are_wrong(answer: str, reply: str) -> None:
    assert not right("math", answer, reply)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3))
def test_a_number_is_read_however_it_is_written(value: Decimal) -> None:
    for written in (
        f"{value:f}",
        f"{value:,f}",
        f"{value:,f}.",
        f"{value:f}%",
        f"{value:f}".replace("-", "−"),
    ):
        assert math.number(written) == value
    assert math.final_number(f"about {value + 1}\n#### {value:,f}") == value


@pytest.mark.parametrize("sign", ["", "-", "−"])
@pytest.mark.parametrize("digits", ["123456789012345678901234567890", "0.0000001", "0." + "0" * 40 + "12", "9" * 60])
def test_numbers_of_any_length_are_read_exactly(sign: str, digits: str) -> None:
    value = math.number(sign + digits)
    assert value is not None and f"{value:f}".lstrip("-") == digits
    assert right("math", f"{value:f}", f"#### {sign}{digits}")
    assert not right("math", f"{value:f}", f"#### {sign}{digits[:-1]}{(int(digits[-1]) + 1) % 10}")


def test_an_item_whose_own_answer_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="'many'"):
        right("math", "many", "#### 1")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("It is in the south, so the answer is (C).", "C"),
        ("The answer is (A). No: the answer is (B)", "B"),
        ("THE ANSWER IS (E)", "E"),
        ("(A) is tempting, but the answer is (D)", "D"),
        ("the answer is (A) or (B)", None),
        ("the answer is (A) and (B).", None),
        ("the answer is (A), (B)", None),
        ("the answer is (A), or (B)", None),
        ("the answer is (A) / (B)", None),
        ("the answer is (A) or B.", None),
        ("the answer is (A) or maybe (B)", None),
        ("the answer is (A), possibly also (B)", None),
        ("the answer is (A) or else option (B)", None),
        ("the answer is (A) and/or (B)", None),
        ("the answer is (A) (B)", None),
        ("the answer is (A); (B)", None),
        ("the answer is (A), not (B)", "A"),
        ("the answer is (A) because (B) is warm", "A"),
        ("the answer is (C). No: the answer is (A) or (B)", None),
        ("the answer is (A) or (B). So the answer is (B)", "B"),
        ("the answer is (A), a kind of rock", "A"),
        ("the answer is (A) or so I think", "A"),
        ("the answer is (A), but the answer is (B)", "B"),
        ("the answer is (F)", None),
        ("the answer is (b)", None),
        ("the answer is (AB)", None),
        ("the answer is B", None),
        ("B", None),
        ("(B)", None),
        ("", None),
    ],
)
def test_an_option_is_named_or_nothing_is(reply: str, letter: str | None) -> None:
    assert choice.named_letter(reply) == letter
    assert [right("choice", answer, reply) for answer in choice.LETTERS] == [
        answer == letter for answer in choice.LETTERS
    ]


def test_options_are_lettered_by_position() -> None:
    assert choice.options(["red", "blue"]) == "(A) red\n(B) blue"


def test_a_dispatch_names_the_items_category() -> None:
    assert right("dispatch", "math", r"It is \boxed{math}")
    assert not right("dispatch", "math", r"\boxed{code}")
    assert not right("dispatch", "other", "other")


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("def f(): ...", "def f(): ..."),
        ("Sure:\n```python\ndef f(): ...\n```\nDone.", "def f(): ...\n"),
        ("```\nx = 1\n```\nUse:\n```\nprint(x)\n```", "x = 1\n"),
        ("```py\nx = 1\nwhile", "x = 1\nwhile"),
        ('s = "```"', 's = "```"'),
    ],
)
def test_without_tests_the_program_is_the_first_fenced_block_or_the_whole_reply(reply: str, program: str) -> None:
    assert code.program(reply) == program


F = "def f(x):\n    return 2 * x\n"
DOUBLE = "```python\ndef double(x):\n    return 2 * x\n```\n"
DOUBLED = "```python\ndef f(x):\n    return double(x)\n```\n"
LAYOUTS = {
    "an example first": f"Like this:\n```python\nf(2)\n```\nSo:\n```python\n{F}```",
    "a session first": f"```python\n>>> f(2)\n4\n```\n```python\n{F}```",
    "a shell block first": f"```bash\npip install numpy\n```\n\n```python\n{F}```",
    "tests first": f"```python\nx = f(2)\nassert x == 4\n```\n```\n{F}```",
    "an output first": f"It gives\n```\n4\n```\nby\n```\n{F}```",
    "a helper apart": DOUBLE + DOUBLED,
    "a helper behind": DOUBLED + DOUBLE,
    "helpers of helpers": "```\nTWO = 2\n```\n" + DOUBLE.replace("2", "TWO") + DOUBLED,
    "imports apart": "```python\nimport operator\n```\n```python\ndef f(x):\n    return operator.mul(2, x)\n```",
    "an example behind": f"```python\n{F}```\n```python\nx = f()\nraise SystemExit(x)\n```",
    "another version behind": f"```python\n{F}```\nShorter, but slow:\n```python\nf = lambda x: x + x + undefined\n```",
    "text before the fence": f"Sure: ```python\n{F}```",
    "text before the closing fence": f"```python\n{F.rstrip()}```\nThat is it.",
    "an indented fence": "1. First:\n\n   ```python\n   def f(x):\n       return 2 * x\n   ```\n",
    "a fence in a list": "- ```python\n  def f(x):\n      return 2 * x\n  ```\n",
    "tildes": f"~~~python\n{F}~~~",
    "four ticks around three": f"````python\n{F}s = 'a\\n'\n# ```\n````",
    "a space before the language": f"``` python\n{F}```",
    "carriage returns": f"```python\n{F}```\n".replace("\n", "\r\n"),
    "a bare program with a fenced example": f"{F}\n```python\nf(2)()\n```",
    "a class and a function": f"```\nclass C:\n    pass\n```\n```\n{F}```",
    "fences in a string": F + 's = """\n```\nf(2)\n```\n"""\n',
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_does_not_decide_what_the_program_is(name: str, sandbox: Sandbox) -> None:
    item = Item("c-1", "?", "C() if 'C' in globals() else 0\nassert f(2) == 4\nassert f(0) == 0")
    assert grade("code", [item], [LAYOUTS[name]], sandbox) == [True]


@pytest.mark.parametrize(
    "sign", ["(", "[", "-", "not ", "lambda:", "x.", "{", "1+", "f'{", "`" * 3 + "\n", "`" * 3 + "x\n"]
)
def test_no_text_ends_the_grader(sign: str) -> None:
    block = f"```\n{sign * 50_000}\n```\n"
    assert code.program(block + f"```python\n{F}```", tests="f(1)")


BEGUN = 'from typing import List\n\ndef half(x):\n    return x / 2\n\ndef mean(xs: List[float]):\n    """The mean."""\n'
COMPLETE = Item(
    "h-1", f"Complete this:\n```python\n{BEGUN}```\nCode only.", "assert mean([1, 3]) == 2\nassert half(4) == 2"
)


@pytest.mark.parametrize(
    "reply",
    [
        "    return sum(xs) / len(xs)\n",
        "\n\n    total = sum(xs)\n    return total / len(xs)",
        "return sum(xs) / len(xs)",
        "total = 0\n    for x in xs:\n        total += x\n    return total / len(xs)",
        "total = 0\nfor x in xs:\n    total += x\nreturn total / len(xs)",
        "```python\n    return sum(xs) / len(xs)\n```",
        "Here:\n```python\ndef mean(xs: List[float]):\n    return 2 * half(sum(xs)) / len(xs)\n```\nDone.",
        "```\nfrom __future__ import annotations\nimport math\ndef mean(xs):\n    return math.fsum(xs) / len(xs)\n```",
        f"```python\n{BEGUN}    return sum(xs) / len(xs)\n```",
        "class Sum:\n    pass\n\ndef mean(xs):\n    return sum(xs) / len(xs)",
        "def add(ys):\n        return sum(ys)\n    return add(xs) / len(xs)",
        "mean = lambda xs: sum(xs) / len(xs)",
        "```bash\npip install x\n```\n```python\n    return sum(xs) / len(xs)\n```",
        "```python\nmean([1, 2])\n```\n```python\ndef mean(xs):\n    return sum(xs) / len(xs)\n```",
        "```python\ndef add(xs):\n    return sum(xs)\n```\n```python\ndef mean(xs):\n    return add(xs) / len(xs)\n```",
    ],
)
def test_a_prompts_beginning_is_continued_or_defined_anew(reply: str, sandbox: Sandbox) -> None:
    assert grade("code", [COMPLETE], [reply], sandbox) == [True]


@pytest.mark.parametrize(
    "reply", ["", "pass", "    pass", "return 3", "def other(xs):\n    return 2", "I cannot.", BEGUN]
)
def test_a_beginning_alone_is_not_right(reply: str, sandbox: Sandbox) -> None:
    assert grade("code", [COMPLETE], [reply], sandbox) == [False]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(config.load(ROOT / "params.yaml").sandbox) as opened:
        yield opened


def test_code_is_graded_by_running_it(sandbox: Sandbox) -> None:
    items = [Item("c-1", "?", "assert f(2) == 4\nassert f(0) == 0")] * 4
    replies = ["def f(x):\n    return x * 2", "def f(x):\n    return x ** 2 + x", "def f(x)", ""]
    assert grade("code", items, replies, sandbox) == [True, False, False, False]


class Counting(Sandbox):
    """A sandbox that remembers what it was asked to run."""

    def __init__(self, limits: config.rows.Sandbox) -> None:
        super().__init__(limits)
        self.asked: list[Program] = []

    def run(self, programs) -> list[Verdict]:
        self.asked += programs
        return super().run(programs)


def test_a_pair_of_program_and_tests_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    double, triple = "def f(x):\n    return x * 2", "def f(x):\n    return x * 3"
    items = [
        Item("a", "?", "assert f(1) == 2"),
        Item("b", "?", "assert f(1) == 3"),
        Item("c", "?", "assert f(1) == 2"),
    ]
    with Counting(config.load(ROOT / "params.yaml").sandbox) as counting:
        assert grade("code", items, [double] * 3, counting) == [True, False, True]
        assert len(counting.asked) == 2  # items a and c have the same tests
        assert grade("code", items, [double, triple, f"```\n{double}\n```"], counting) == [True, True, True]
        assert len(counting.asked) == 4  # new: triple with b's tests, and the fenced text with its newline
        monkeypatch.setattr(code, "_REMEMBERED", 1)
        assert grade("code", items, [double, triple, triple], counting) == [True, True, False]
    # The memory does not keep the sandbox.
    before = len(code._memory)
    del counting
    gc.collect()
    assert len(code._memory) < before


def test_what_cannot_be_graded_says_why() -> None:
    with pytest.raises(ValueError, match="pass the `sandbox`"):
        grade("code", [item("")], [""])
    with pytest.raises(ValueError, match="has a limit"):
        grade("boxed", [item("")], [""])
    with pytest.raises(ValueError, match="1 items and 2 replies"):
        grade("math", [item("1")], ["", ""])
    with pytest.raises(ValueError, match=f"{', '.join(KINDS)}; got 'poetry'"):
        grade("poetry", [item("1")], [""])


def test_a_limit_is_what_grades_hang_on_whose_kind_it_limits() -> None:
    """Else another limit of comparisons would have programs run again."""
    limits = config.load(ROOT / "params.yaml").sandbox
    longer = limits.model_copy(update={"symbolic_seconds": limits.symbolic_seconds + 1})
    other = limits.model_copy(update={"cpu_seconds": limits.cpu_seconds + 1})
    assert {kind for kind in KINDS if limits_of(kind, limits) != limits_of(kind, longer)} == {"boxed"}
    assert {kind for kind in KINDS if limits_of(kind, limits) != limits_of(kind, other)} == {"code"}


@pytest.mark.parametrize(
    ("reply", "last"),
    [
        ("It is 18.", "18"),
        ("That makes $1,200.50 in all", "$1,200.50"),
        ("from 10-3 we get x = -7", "-7"),
        ("10-3", "3"),
        ("9 apples and 0.5 of one, **12**", "12"),
        ("none at all", None),
    ],
)
def test_the_last_number_of_a_reply_is_found_wherever_it_stands(reply: str, last: str | None) -> None:
    assert math.last_number(reply) == last


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("(C) Tissues", "C"),
        ("B", "B"),
        ("B. Water, since C. is wrong", "B"),
        ("**D**: the Sun", "D"),
        ("A plant needs light: (C)", "C"),
        (r"\boxed{B}", "B"),
        ("Energy is all that counts", None),
    ],
)
def test_the_first_letter_that_stands_as_an_option_s_is_found(reply: str, letter: str | None) -> None:
    assert choice.first_letter(reply) == letter


def test_the_flexible_reading_goes_by_the_strict_one_where_there_is_one(sandbox: Sandbox) -> None:
    """Else a right reply of the wanted form could be wrong by it, and the difference would not be form alone."""
    assert grade("math", [item("3"), item("9")], ["#### 3\nwhich is under 9"] * 2, flexible=True) == [True, False]
    named = "(A) is tempting, but the answer is (B)"
    assert grade("choice", [item("B"), item("A")], [named] * 2, flexible=True) == [True, False]
    assert grade("choice", [item("A")], ["(A): the answer is (A) or (B)"], flexible=True) == [False]
    boxed_reply = [r"$\boxed{\frac12}$, about 1"]
    assert grade("boxed", [item("1")], boxed_reply, sandbox, flexible=True) == [False]
    assert grade("boxed", [item("7"), item("7")], ["So it is 7.", "7 of 9"], sandbox, flexible=True) == [True, False]
    assert grade("boxed", [item("7")], ["So it is 7."], sandbox) == [False]


def test_any_fence_is_enough_for_the_flexible_reading(sandbox: Sandbox) -> None:
    """The first block that defines what is wanted is the program; a later one corrects it."""
    wrong, right = "def f(x):\n    return x", "def f(x):\n    return x + 1"
    asked = item("assert f(1) == 2")
    reply = f"```python\n{wrong}\n```\nNo, rather\n```python\n{right}\n```"
    assert grade("code", [asked], [reply], sandbox) == [False]
    assert grade("code", [asked], [reply], sandbox, flexible=True) == [True]
    assert grade("code", [asked], [f"```\n{wrong}\n```"], sandbox, flexible=True) == [False]


def test_a_fence_of_the_prompt_without_a_function_is_no_beginning_of_the_program() -> None:
    """EvalPlus puts MBPP's text into one."""
    asked = '```\n"""\nWrite f.\nassert f("\\"") == 1\n"""\n```'
    assert code.program("```python\ndef f(x):\n    return 1\n```", asked) == "def f(x):\n    return 1\n"


@pytest.mark.parametrize("reply", ["    return x + 1", "return x + 1", "def f(x):\n    return x + 1"])
def test_a_fence_that_the_prompt_leaves_open_is_continued(reply: str, sandbox: Sandbox) -> None:
    asked = Item("x-1", '```python\ndef f(x):\n    """One more."""', "assert f(1) == 2")
    assert grade("code", [asked], [reply], sandbox) == [True]
    assert grade("code", [asked], ["pass"], sandbox) == [False]
