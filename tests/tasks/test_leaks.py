"""No test prompt stands inside text that is learned from, and looking for one is quick."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.tasks.leaks import LeakError, Passage, refuse_leaks
from t2.tasks.prompt import tokens

PROMPT = "Tom has 3 apples and buys 14 more. How many does he have now?"


def leaks(tests: list[str], texts: list[str]) -> list[tuple[str, str]]:
    named = [Passage(f"test {n}", text) for n, text in enumerate(tests)]
    try:
        refuse_leaks(named, (Passage(f"text {n}", text) for n, text in enumerate(texts)))
    except LeakError as error:
        assert all(leak.test in str(error) and leak.text in str(error) for leak in error.leaks)
        return [(leak.test, leak.text) for leak in error.leaks]
    return []


@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        f"Classify the question: {PROMPT}",
        f'Question: "{PROMPT}" Answer in a box.',
        PROMPT.upper(),
        PROMPT.replace(" ", "\n "),
        f"{PROMPT} {PROMPT}",
    ],
)
def test_a_prompt_inside_a_text_is_found_whatever_is_around_it(text: str) -> None:
    assert leaks([PROMPT], ["something else", text]) == [("test 0", "text 1")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        PROMPT[:-1],
        PROMPT.removeprefix("Tom "),
        PROMPT.replace("14", "141"),
        PROMPT.replace("14", "1 4"),
        f"x{PROMPT}",
    ],
)
def test_a_text_that_differs_is_none(text: str) -> None:
    assert leaks([PROMPT], [text]) == []


def test_all_leaks_are_named_at_once() -> None:
    other = "Say hello to Ann."
    assert set(leaks([PROMPT, other, "Hi"], [f"{other} {PROMPT}", "nothing", other, "Hi there, you"])) == {
        ("test 0", "text 0"),
        ("test 1", "text 0"),
        ("test 1", "text 2"),
        ("test 2", "text 3"),
    }


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=14)


@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_it_finds_what_a_plain_search_finds(tests: list[list[str]], texts: list[list[str]]) -> None:
    expected = {
        (f"test {n}", f"text {m}")
        for n, test in enumerate(tests)
        for m, text in enumerate(texts)
        if test and f" {' '.join(test)} " in f" {' '.join(text)} "
    }
    assert set(leaks([" ".join(test) for test in tests], [" ".join(text) for text in texts])) == expected


def test_tokens_ignore_case_and_spacing_only() -> None:
    assert tokens("What is 3+4?") == tokens("what  IS 3 + 4 ?")
    assert tokens("What is 3+4?") != tokens("What is 34?")


def test_looking_up_thousands_of_prompts_in_tens_of_thousands_of_texts_is_quick() -> None:
    rng = Random("problems that open and close alike")

    def problem() -> str:
        numbers = " ".join(f"then {rng.choice(('adds', 'loses'))} {rng.randint(1, 999)}" for _ in range(6))
        return f"Please think with care, my friend: Tom has {rng.randint(1, 999)} apples, {numbers}. How many?"

    tests, texts = [problem() for _ in range(4_000)], [problem() for _ in range(60_000)]
    start = time.process_time()
    assert leaks(tests, texts) == []
    assert time.process_time() - start < 15  # about 3 s; a search prompt by prompt takes minutes
    assert leaks(tests, [*texts[:100], f"Look: {tests[77]}"]) == [("test 77", "text 100")]
