r"""Answers in ``\boxed{}``: what the last box holds, and which answers mean the same."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox.sandboxes import LIMITS

from t2.sandbox import Sandbox
from t2.tasks import boxed, equivalence, symbolic
from t2.tasks.grading import grade
from t2.tasks.item import Item


def equivalent(answer: str, written: str, seconds: int = LIMITS.symbolic_seconds) -> bool:
    return equivalence.equivalent(answer, written, seconds)


@pytest.mark.parametrize(
    ("reply", "content"),
    [
        (r"so $\boxed{5}$.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{ \frac{a_{1}}{b^{2}} \right\}} and more {}", r"\left\{ \frac{a_{1}}{b^{2}} \right\}"),
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{1} or \fbox{2}", "2"),
        (r"$\boxed 5$", "5"),
        (r"\boxed 5 is it.", "5"),
        (r"It is \boxed 12.", "12"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"{\boxed 5}", "5"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed{1\}", None),  # an escaped brace closes nothing
        (r"\boxed{5", None),
        (r"\boxed{1} then \boxed{2", None),
        (r"\boxed{}", ""),
        (r"\boxedanswer{5}", None),
        ("boxed{5}", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_box_counts_with_its_braces_matched(reply: str, content: str | None) -> None:
    assert boxed.last_box(reply) == content


@given(
    st.recursive(st.text("ab1^+ ", min_size=1), lambda inner: st.builds("{{{}}}{}".format, inner, inner), max_leaves=8)
)
def test_whatever_is_balanced_comes_back(content: str) -> None:
    assert boxed.last_box(f"\\boxed{{1}} so \\boxed{{{content}}} }}") == content.strip()


SAME = [
    # answer, reply, where from or why
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", "MATH-500 precalculus/807"),
    (r"10,\!080", "10080", "MATH-500: thousands as LaTeX"),
    (r"11,\! 111,\! 111,\! 100", "11,111,111,100", "MATH-500: the same with spaces"),
    (r"\$32,\!348", r"\$32{,}348", "MATH-500: thousands and currency"),
    (r"58,500", "58500", "MATH-500: thousands with bare commas"),
    (r"\$18.90", "18.9", "MATH-500: currency and a last zero"),
    ("5", r"\$5.00", "the same from the reply's side"),
    ("-5", "−5", "the Unicode minus"),
    (r"90^\circ", "90", "MATH-500: degrees"),
    ("90", r"90^{\circ}", "degrees in the reply only"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}", "MATH-500: an unbraced fraction and a unit"),
    (r"5.4 \text{ cents}", "5.4", "MATH-500: a unit"),
    (r"15\mbox{ cm}^2", "15", "MATH-500: a unit with a power"),
    (r"864 \mbox{ inches}^2", r"864\text{ inches}^2", "MATH-500: another macro for text"),
    ("36", r"36\text{ square units}", "a unit in the reply only"),
    (r"\text{(C)}", "C", "MATH-500: an option, bare"),
    (r"\text{(C)}", "(C)", "MATH-500: an option, without macro"),
    (r"C", r"\textbf{(C)}", "an option, bold"),
    (r"\text{Evelyn}", "Evelyn", "MATH-500: a name"),
    (r"\text{even}", r"\text{Even}", "MATH-500: a word's case"),
    ("east", r"\text{east}", "a word without macro in the answer"),
    (r"\frac 59", r"\dfrac{5}{9}", "MATH-500: unbraced digits"),
    (r"\frac43", "4/3", "MATH-500: unbraced digits, a slash"),
    (r"\dfrac{33}{100}", "0.33", "MATH-500: an exact decimal"),
    (".35625", "0.35625", "MATH-500: no leading zero"),
    (r"1\frac{4}{5}", r"\frac{9}{5}", "MATH-500: a mixed number"),
    (r"137 \frac{1}{2}", "137.5", "MATH-500: a mixed number, a decimal"),
    (r"50\%", "50", "percent sign, as in kind math: the number before the sign"),
    ("x=5", "5", "MATH-500: the value of an assignment"),
    ("5", "x = 5", "the same from the reply's side"),
    ("y = 2x + 3", "y=3+2x", "MATH-500: an equation"),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0", "MATH-500: a plane's equation times -1"),
    (r"x \in [-2,7]", "[-2,7]", "MATH-500: an interval with its variable"),
    ("1,-2", "-2, 1", "MATH-500: solutions in another order"),
    ("3, 5, 7", r"\{7,5,3\}", "MATH-500: solutions as a set"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5", "MATH-500: both signs"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}", "MATH-500: both signs"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", "MATH-500: a union in another order"),
    (r"\left(\frac{3}{5},\frac{8}{3}\right]", r"(0.6, \tfrac83]", "MATH-500: a half-open interval"),
    (
        r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}",
        r"\begin{bmatrix}-\frac13\\ \frac23\\ \frac53\end{bmatrix}",
        "MATH-500: a vector in other brackets",
    ),
    ("2516_8", "2516_{8}", "MATH-500: a base, braced"),
    ("4210_{5}", "4210", "MATH-500: the question says the base"),
    ("42", "2A_{16}", "a number in a base that the answer does not ask for"),
    ("6 - 5i", "-5i+6", "MATH-500: a complex number"),
    ("(a+5)(b+2)", "ab+2a+5b+10", "MATH-500: a product written out"),
    (r"\cot x", r"\frac{\cos x}{\sin x}", "MATH-500: a trigonometric identity"),
    (r"70 \sqrt{2}", r"70\cdot\sqrt2", "MATH-500: a product sign"),
    (r"\frac{20000}{\pi}", r"20000\pi^{-1}", "MATH-500: a negative power"),
    (r"\frac{1}{3}", "0.333333", "a decimal to six places"),
    ("p - q", "-q + p", "MATH-500: order of terms"),
    ("12", "12.", "a final period inside the box"),
    (r"\sqrt{51}", r"\sqrt{51}\,", "a thin space"),
    ("1+2i", r"1+2\mathrm{i}", "an upright i is no unit"),
    (r"12\,\mathrm{cm}", "12", "an upright unit"),
]

DIFFERENT = [
    ("5", "-5", "sign"),
    ("1000", "1,00", "no thousands comma"),
    ("10080", "10, 80", "a list is not a number"),
    ("5.4", "54", "decimal point"),
    (r"\frac{1}{3}", "0.333", "a rounded value"),
    (r"2\pi", "6.28", "a rounded value"),
    (r"\text{(C)}", "B", "another option"),
    (r"\text{(C)}", "(B)", "another option in parentheses"),
    (r"\text{even}", "odd", "another word"),
    (r"\text{even}", "neve", "computer algebra takes words for products of letters"),
    (r"\text{ten}", "10", "a word is not read as a number"),
    ("(3,4]", "[3,4]", "a closed end"),
    ("(2,4)", "[2,4]", "closed ends"),
    (r"(3,\frac{\pi}{2})", r"[3,\pi/2]", "a point is not an interval"),
    ("(-2,1)", "(1,-2)", "a point's coordinates in another order"),
    ("(1,2,3)", "(3,2,1)", "the same with three"),
    ("1,2", "(2,1)", "a point is not a list of solutions"),
    ("3, 5, 7", "3, 5", "a solution is missing"),
    ("3, 5", "3, 5, 7", "a solution too many"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}", "one of two signs"),
    ("4210_5", "4210_6", "another base"),
    ("52_8", "42", "the same number in base ten, where base eight is asked for"),
    ("4210_5", "4211", "other digits, no base"),
    ("12", "12_{99}", "no such base"),
    ("12", "12x", "a variable too many"),
    (r"\mathbf{i} + 2 \mathbf{j}", r"\mathbf{i} + 2 \mathbf{k}", "bold vectors are no units"),
    ("x=5", "y=5", "another variable"),
    ("y = 2x + 3", "y = 2x + 4", "another constant"),
    (
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix}2\\1\end{pmatrix}",
        "a vector in another order",
    ),
    (r"120^\circ", r"\frac{2\pi}{3}", "the answer is asked for in degrees"),
    ("5", r"5 \text{ or } 6", "two answers"),
    ("5", r"\frac{1}{0}", "no value"),
    ("5", r"\frac{", "no LaTeX"),
    ("5", "?", "no expression"),
    (r"(3, \frac{\pi}{2})", r"(4, \frac{\pi}{2})", "a falling pair is a point"),
    ("3", "__import__('os').abort()", "text is read as LaTeX only, never evaluated"),
    ("5", "5" + " + 0" * 1000, "longer than any answer"),
]

# Units, multipliers, names, equations, exact values and brackets, with other members of each kind.
ALSO_SAME = [
    ("48", r"4\text{ dozen}"),
    ("5000000", r"5\text{ million}"),
    (r"5\text{ million}", r"5{,}000{,}000\text{ dollars}"),
    (r"5\text{ million dollars}", r"\$5{,}000{,}000"),
    ("5", "5=5"),
    ("5", "2+3=5"),
    ("10", "10 edges"),
    ("4", "b=4"),
    ("5", "x=2+3=5"),
    (r"5\text{ cm}^2", r"5\text{ square centimeters}"),
    (r"5\text{ cm}^2", "5"),
    (r"15\mbox{ cm}^2", r"15\,\mathrm{cm}^{2}"),
    (r"5\text{ cm}^3", r"5\ \mathrm{cm}^3"),
    (r"\frac{2\pi}{3}", r"2/3\pi"),
    (r"\frac{2}{3}\pi", r"2/3 \pi"),
    (r"\frac12x+2", "1/2 x + 2"),
    (r"\frac{1}{2}(x+1)", "1/2(x+1)"),
    (r"\frac{\sqrt3}{2}", r"1/2\sqrt{3}"),
    (r"\frac{2}{3\pi}", r"2/(3\pi)"),
    ("6", "12/2"),
    (r"6:00\text{ AM}", r"6:00\text{ a.m.}"),
    (r"6:00\text{ AM}", r"6\text{ AM}"),
    (r"\frac{1}{2^{60}}", "2^{-60}"),
    (r"\frac{1}{30000000}", "0.0000000333333"),
    ("5", r"5\text{ m}"),
    (r"\$5", r"5\text{ dollars}"),
    (r"60\text{ mph}", r"60\text{ miles per hour}"),
    (r"20^\circ\text{C}", "20"),
    (r"\text{5 cm}", "5"),
    ("$5$", "5"),
    (r"30^\circ", r"30\text{ degrees}"),
    (r"\frac12", r"\sin 30^\circ"),
    ("1,2", r"1\text{ and }2"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("(1,2)", "(x,y)=(1,2)"),
    ("x>3", r"(3,\infty)"),
    (r"(3,\infty)", "x>3"),
    ("x>3", "3<x"),
    ("2x>6", "x>3"),
    ("-x>-3", "x<3"),
    ("1<x<2", "(1,2)"),
    (r"1\le x\le 2", "[1,2]"),
    ("1<x<2", "2>x>1"),
    (r"1\le x<2", "[1,2)"),
    ("x^2=4", "x^2-4=0"),
    ("y=2x+3", "2y=4x+6"),
    ("6=5", "6=5"),
    ("x=5", "5=x"),
    ("f(x)=x^2", "x^2"),
    (r"1+\sqrt2", r"\sqrt{3+2\sqrt2}"),
    ("(1+i)^2", "2i"),
    (r"\ln 8", r"3\ln 2"),
    ("x(x+1)", "x^2+x"),
    (r"\sqrt{x^2}", "|x|"),
    ("0.5x", r"\frac{x}{2}"),
    ("0.333333x", r"\frac{x}{3}"),
    (r"\pi", "3.141593"),
    (r"[-2,1)\cup(1,5)", r"(1,5)\cup[-2,1)"),
    (r"x \in (-\infty,2)\cup(3,\infty)", r"(-\infty,2)\cup(3,\infty)"),
    ("(0,3)", r"(0,2)\cup(1,3)"),
    (r"-2\frac12", "-2.5"),
    (r"\frac{3}{4}", "3:4"),
    (r"\text{Yes}", r"\text{YES}"),
    (r"12\text{ foobars}", r"12 \text{foobars}"),
    ("12 units^2", r"12\text{ square units}"),
    (r"5\text{ ft}/\text{s}", r"5\text{ feet per second}"),
    ("6", "3!"),
]
ALSO_DIFFERENT = [
    ("5", r"5\text{ million}"),
    ("4", r"4\text{ dozen}"),
    (r"5\text{ million}", "5"),
    ("x", "X"),
    ("X", "x"),
    ("x^2", "X^2"),
    ("AB", "ab"),
    (r"\text{(C)}", "c"),
    ("5", "6=5"),
    ("5", "2+4=5"),
    ("5", "2x=5"),
    ("5", "6=x=5"),
    ("5", "x=6=5"),
    (r"5\text{ cm}^2", r"5\text{ cm}^3"),
    (r"5\text{ cm}^2", r"5\text{ cm}"),
    (r"5\text{ cm}", r"5\text{ in}"),
    ("5 cm^2", "5 cm^3"),
    ("1,2,3", "1,2,3t"),
    ("(1,2,3)", "(1,2,3t)"),
    ("(1,2,3)", "(1,2,4)"),
    ("(1,2)", r"(1,2)\text{ wrong}"),
    ("1,2,3", r"1,2,3\text{ or }4"),
    ("(1,2,3,4)", "(1,2,3)"),
    (r"\frac{2}{3\pi}", r"2/3\pi"),
    (r"6:00\text{ AM}", r"6:00\text{ PM}"),
    (r"6:30\text{ AM}", r"2:10\text{ AM}"),
    (r"6:00\text{ AM}", "6:00"),
    ("2^{-60}", "-2^{-60}"),
    (r"\frac{2^{100}+1}{3\cdot 2^{101}}", r"\frac{1}{3\cdot 2^{101}}"),
    ("0", "2^{-60}"),
    (r"\sqrt2", r"\sqrt{2}+10^{-20}"),
    (r"\sqrt2", r"\sqrt{2+10^{-20}}"),
    ("x", "x+2^{-60}"),
    ("10^{-9}", r"2\cdot10^{-9}"),
    ("0.0000001", "0.0000002"),
    (r"\frac{1}{10000000}", "0.0000002"),
    ("10^{20}", "10^{20}+1"),
    (r"\begin{pmatrix}2^{-60}\\1\end{pmatrix}", r"\begin{pmatrix}-2^{-60}\\1\end{pmatrix}"),
    ("(2^{-60},1)", "(-2^{-60},1)"),
    ("[2^{-60},1]", "[-2^{-60},1]"),
    ("2^{-60},1", "-2^{-60},1"),
    ("x=2^{-60}", "x=-2^{-60}"),
    ("x>2^{-60}", "x>-2^{-60}"),
    ("e^{-50}", "-e^{-50}"),
    (r"\sin(10^{-20})", "0"),
    ("2^{-60}i", "-2^{-60}i"),
    ("5", "5m"),
    (r"\text{increase}", r"\text{decrease}"),
    (r"5\text{ apples}", r"5\text{ oranges}"),
    (r"10\text{ increase}", r"10\text{ decrease}"),
    (r"\$5", r"5\text{ cents}"),
    (r"50\%", r"50^\circ"),
    (r"60\text{ mph}", r"60\text{ km/h}"),
    (r"20^\circ\text{C}", r"20^\circ\text{F}"),
    (r"30^\circ", r"30\text{ radians}"),
    (r"30^\circ\text{ N}", r"30^\circ\text{ S}"),
    ("1,2", r"1 \text{ or } 3"),
    ("I", "i"),
    ("E", "e"),
    ("(x,y)=(1,2)", "(x,y)=(1,3)"),
    ("x=1,y=2", "x=1,y=3"),
    ("x>3", "x<3"),
    ("-x>-3", "x>3"),
    ("x=5", "6=5"),
    ("0.333x", r"\frac{x}{3}"),
    (r"\frac{22}{7}", r"\pi"),
    ("3.14", r"\pi"),
    (r"\infty", r"-\infty"),
    ("12", r"12\text{ foobars}"),
    (r"12\text{ foobars}", r"12\text{ bazzes}"),
    (r"5\text{ ft/s}^2", r"5\text{ ft/s}"),
    ("3", "3!"),
    ("2^{1000}", "2^{1000}+1"),
    ("x^{2023}", "x^{2024}"),
]


@pytest.mark.parametrize(("answer", "written"), ALSO_SAME)
def test_what_means_the_same_is_right(answer: str, written: str) -> None:
    assert equivalent(answer, written)


@pytest.mark.parametrize(("answer", "written"), ALSO_DIFFERENT)
def test_what_means_something_else_is_wrong(answer: str, written: str) -> None:
    assert not equivalent(answer, written)


@pytest.mark.parametrize(("answer", "written", "why"), SAME)
def test_other_forms_of_the_same_answer_are_right(answer: str, written: str, why: str) -> None:
    assert grade("boxed", [Item("m", "?", answer)], [f"So $\\boxed{{{written}}}$."], Sandbox(LIMITS)) == [True], why


@pytest.mark.parametrize(("answer", "written", "why"), DIFFERENT)
def test_other_answers_are_wrong(answer: str, written: str, why: str) -> None:
    assert not equivalent(answer, written), why


@pytest.mark.parametrize("reply", ["", "5", "The answer is 5", r"\boxed{", r"\boxed{}", r"\boxed{\text{}}", "#### 5"])
def test_a_reply_without_an_answer_in_a_box_is_wrong(reply: str) -> None:
    assert grade("boxed", [Item("m", "?", "5")], [reply], Sandbox(LIMITS)) == [False]


@given(st.fractions(max_denominator=50, min_value=-1000, max_value=1000))
def test_a_fraction_equals_itself_however_it_is_written(value) -> None:
    sign, n, d = "-" if value < 0 else "", abs(value.numerator), value.denominator
    forms = [f"{sign}\\frac{{{n}}}{{{d}}}", f"{sign}\\dfrac{{{2 * n}}}{{{2 * d}}}", f"{value.numerator}/{d}"]
    assert all(equivalent(a, b) for a in forms for b in forms)
    assert not equivalent(forms[0], f"{sign}\\frac{{{n + 1}}}{{{d}}}")


@pytest.fixture
def fresh_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the test's own, with one second for a comparison unless asked for more."""
    monkeypatch.setattr(f"{__name__}.equivalent", partial(equivalence.equivalent, seconds=1))
    monkeypatch.setattr(symbolic, "_worker", None)
    symbolic.equal.cache_clear()


@pytest.mark.usefixtures("fresh_worker")
def test_an_endless_expression_is_different_and_the_next_one_is_compared() -> None:
    assert not equivalent("5", r"\int_0^1 e^{x^x^x} dx")
    assert symbolic._worker is None  # the kernel ended it
    assert equivalent("x+1", "1+x")
    symbolic._worker.close()


@pytest.mark.usefixtures("fresh_worker")
def test_the_limit_is_the_callers() -> None:
    spent = []
    for seconds in (1, 3):
        before = os.times()
        assert not equivalence.equivalent("5", r"\int_0^1 e^{x^x^x} dx", seconds)
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 1 <= spent[0] < spent[1] and spent[1] >= 3  # beside what starting a worker takes
    assert equivalence.equivalent("x+1", "1+x", 1)
    assert symbolic._worker.seconds == 1
    assert equivalence.equivalent("x+2", "2+x", 2)
    assert symbolic._worker.seconds == 2
    symbolic._worker.close()


@pytest.mark.usefixtures("fresh_worker")
def test_complaints_of_the_parser_do_not_fill_a_pipe() -> None:
    assert not any(equivalent("x", f"\\{n * 'a'}{{@#{'&' * 500}") for n in range(1, 200))
    assert equivalent("x+1", "1+x")
    symbolic._worker.close()


@pytest.mark.usefixtures("fresh_worker")
def test_an_interrupt_does_not_leave_an_answer_for_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not equivalent("x", "y")

    def interrupted(_: symbolic._Worker) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(symbolic._Worker, "_read", interrupted)
        equivalent("x+1", "1+x")
    assert not equivalent("x", "z") and equivalent("x+1", "1+x")
    symbolic._worker.close()


BOMBS = [
    "(((x+1)^{100}+1)^{100}+1)^{100}",
    "(0,10^{10^{10}})",
    "(10^9)!",
    "(2^{65536})^{65536}",
    r"(\frac{1}{3})^{10^{9}}",
    "(x+1)^{1000000}",
    "0.1^{-999999999}",
    "100000000!",
    "1000000^{1000000}",
    "10^{-999999999}",
    "10^{10^{10}}",
    "10^{10^{10}}-10^{10^{10}}+5",
    "1E999999999",
    "1e1000000000",
    "2^{2^{2^{2^{2^{2}}}}}",
    "3^{0.1^{-99999}}",
    "5!!!!!!",
    r"7^{7^{7}} \bmod 10",
    "99999999999!",
    "9^{9^{9^{9}}}",
    r"\Gamma(10^9)",
    r"\begin{pmatrix}1 & 1 \\ 1 & 1\end{pmatrix}^{10^{9}}",
    r"\binom{10^{10}}{10^9}",
    r"\det\begin{pmatrix}10^{10^{10}}&1\\1&1\end{pmatrix}",
    r"\frac{1}{10^{10^9}}",
    r"\gcd(10^{10^{10}},6)",
    r"\lfloor 10^{10^{10}}/3\rfloor",
    r"\log(10^{10^{10}})",
    r"\max(10^{10^{10}},1)",
    r"\prod_{k=1}^{10^{9}} k",
    r"\sin(10^{100000})",
    r"\sqrt[10^{10^{10}}]{2}",
    r"\sum_{k=1}^{10^{12}} k^{k}",
    r"\{10^{10^{10}},1\}",
    "e^{10^{10^{10}}}",
    "x=10^{10^{10}}",
    "|10^{10^{10}}|",
    "(" * 480 + "1" + ")" * 480,
    "{" * 400 + "1" + "}" * 400,
]


@pytest.mark.usefixtures("fresh_worker")
def test_bombs_are_seen_before_they_go_off() -> None:
    assert equivalent("x+1", "1+x")
    worker = symbolic._worker
    for written in BOMBS:
        assert not equivalent("5x", written)
        assert symbolic._worker is worker, f"the limit ended the worker over {written}"
    worker.close()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_worker")
@pytest.mark.parametrize(
    "written",
    [
        r"\sum_{k=1}^{10^{3}} k^{k}",
        r"\int_0^1 e^{x^x^x} dx",
        r"\begin{pmatrix}1 & 1 \\ 1 & 1\end{pmatrix}^{10^{9}}",
        "(((x+y+z)^{30}+x)^{30}+y)^{30}",
    ],
)
def test_hostile_expressions_end(written: str) -> None:
    assert not equivalent("5x", written)
    assert equivalent("x+1", "1+x")
    symbolic._worker.close()


@pytest.mark.usefixtures("fresh_worker")
def test_threads_and_forked_processes_compare_too() -> None:
    verdicts: list[bool] = []
    thread = threading.Thread(target=lambda: verdicts.append(equivalent("a+b", "b+a")))
    thread.start()
    thread.join()
    mine = symbolic._worker
    with multiprocessing.get_context("fork").Pool(2) as pool:
        verdicts += pool.starmap(equivalent, [("a-b", "b-a"), ("a-b", "-b+a")])
    assert verdicts == [True, False, True]
    assert symbolic._worker is mine and equivalent("ab", "ba")
    mine.close()


@pytest.mark.usefixtures("fresh_worker")
def test_without_the_grammar_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"  # without site-packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(symbolic.sys, "executable", str(bare))
    with pytest.raises(RuntimeError, match=r"No module named 'sympy'\); pip install"):
        equivalent("x+1", "1+x")
