"""Prompts within a real model's template; skipped where its folder, ``T2_BASE``, is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from t2 import profiles
from t2.engine import chat
from t2.tasks import choice
from t2.tasks.item import Problem
from t2.tasks.options import reordered

ROOT = Path(__file__).parents[2]
BASE = Path(os.environ.get("T2_BASE", ROOT.parent / "base-qwen"))

pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason=f"no real base model in {BASE}")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return chat.load_tokenizer(BASE)


def test_a_letter_is_the_token_that_the_model_would_write_behind_the_opening(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    texts = ("rock", "water", "wood")
    fields = {"question": "What do fish breathe in?", "options": choice.options(texts)}
    for name in ("arc_easy", "arc_challenge"):
        template = profiles.load("prompts-qwen").tasks[name].prompt
        item = Problem("p", fields, "B", options=texts).item(template)
        ids = chat.encode(tokenizer, [item.prompt])[0]
        assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nThe answer is (")
        found = chat.tokens_behind(tokenizer, item.prompt, list("ABC"))
        whole = tokenizer.encode("The answer is (B) water", add_special_tokens=False)
        assert found[1] == whole[-3]  # as the model reads its own whole reply
        moved = reordered(item, [1, 0, 2])
        assert moved.answer == "A" and chat.tokens_behind(tokenizer, moved.prompt, list("ABC")) == found


def test_a_program_begins_behind_the_opened_fence(tokenizer: PreTrainedTokenizerBase) -> None:
    fields = {"begun": "def f(x):\n    pass", "question": "Write f.", "tests": "assert f(1) == 2", "these": "this test"}
    for name in ("mbpp", "humaneval"):
        item = Problem("p", fields, "").item(profiles.load("prompts-qwen").tasks[name].prompt)
        text = tokenizer.decode(chat.encode(tokenizer, [item.prompt])[0])
        assert text.endswith("passes corresponding tests:\n```python\n")
        assert text.count("<|im_start|>") == 3
