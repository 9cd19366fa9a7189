"""Job classification: prompt and reply."""

from __future__ import annotations

import pytest

from t2.miniature.corpus import CLASSIFICATION
from t2.tasks.classification import category, classification_prompt, classification_reply

CATEGORIES = ["math", "code", "reasoning", "other"]


def test_the_prompt_holds_the_categories_and_the_inner_prompt():
    prompt = classification_prompt(CLASSIFICATION, "What is 2 + 2?", CATEGORIES)
    assert isinstance(prompt, str) and prompt.endswith("What is 2 + 2?")
    assert "math, code, reasoning, other" in prompt and "\\boxed{}" in prompt
    assert category(prompt, CATEGORIES) is None


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_written_reply_is_read_back(name):
    assert category(classification_reply(name), CATEGORIES) == name


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("It is \\boxed{ Math }.", "math"),
        ("\\boxed{\\text{code}}", "code"),
        ("not \\boxed{math} but \\boxed{reasoning}", "reasoning"),
        ("\\boxed{math.}", "math"),
        ("\\boxed{\\textbf{math}}", "math"),
        ("\\boxed{\\mathrm{math}}.", "math"),
        ("\\boxed{ \\mathbf{\\text{Code.}} }", "code"),
        ("\\boxed{\\text{code}.}", "code"),
        ("\\boxed{**reasoning**}", "reasoning"),
        ("$\\boxed{`other`}$", "other"),
        ('\\boxed{"math"}', "math"),
        ("\\boxed{math, code}", None),
        ("\\boxed{math or code}", None),
        ("\\boxed{.}", None),
        ("\\boxed{\\math}", None),
        ("math", None),
        ("\\boxed{maths}", None),
        ("\\boxed{}", None),
        ("", None),
    ],
)
def test_replies(reply, expected):
    assert category(reply, CATEGORIES) == expected
