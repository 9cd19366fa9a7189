"""What a chat template decides: where a reply ends, and what a prompt is made of."""

from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from t2.engine import chat
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine
from t2.tasks.prompt import Message

TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NEXT = "{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '' }}{{ m['content'] }}{% endfor %} then <user>"
NO_REPLIES = "{% if messages[1:] %}{{ raise_exception('one prompt only') }}{% endif %}{{ messages[0]['content'] }}"
DATED = "{{ strftime_now('%d %B %Y') }} {{ messages[0]['content'] }}"


@pytest.fixture
def tokenizer(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy that may be changed, with the turns of ChatML beside its own EOS."""
    own = copy.deepcopy(tiny_tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return own


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (None, "<eos>"),
        (TURNS, "<|im_end|>"),
        (TURNS.replace("|im_end|>\n", "|im_end|>"), "<|im_end|>"),
        (NEXT, "<eos>"),
        (NO_REPLIES, "<eos>"),
    ],
    ids=["own", "chatml", "no line ends", "next turn", "no replies"],
)
def test_a_reply_ends_as_the_template_ends_it(
    template: str | None, end: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    expected = tokenizer.convert_tokens_to_ids(end)
    assert chat.end_of_turn(tokenizer) == expected
    assert chat.encode_reply(tokenizer, "Tom has 3") == [*tokenizer.encode("Tom has 3"), expected]
    assert chat.end_tokens(tokenizer, None) == {expected, tokenizer.eos_token_id}


def test_the_engine_scores_and_stops_with_the_templates_end(tiny_model, tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_model.resize_token_embeddings(len(tokenizer))
    tokenizer.chat_template = TURNS
    engine = HfEngine(tiny_model, tokenizer, batch_size=2)
    replies = engine.generate(["Tom"] * 40, Sampling(60, temperature=2.0))
    ended = {reply.tokens[-1] for reply in replies if reply.finished}
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ended


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = DATED
    (ids,) = chat.encode(tokenizer, ["Tom"])
    assert tokenizer.decode(ids) == "26 July 2024 Tom"
    assert datetime.now().year > 2024


def test_the_encoding_of_a_probe_follows_tokenizer_and_template(tokenizer: PreTrainedTokenizerFast) -> None:
    before = chat.encoding(tokenizer)
    assert chat.encoding(copy.deepcopy(tokenizer)) == before
    tokenizer.chat_template = TURNS
    assert chat.encoding(tokenizer) != before


def test_the_tokens_behind_an_opening_are_those_that_the_model_would_write(tokenizer: PreTrainedTokenizerFast) -> None:
    opened = (Message("user", "How many?"), Message("assistant", "the answer is ("))
    found = chat.tokens_behind(tokenizer, opened, ["A", "B"])
    assert found == tokenizer.convert_tokens_to_ids(["A", "B"])
    with pytest.raises(ValueError, match=r"behind the opening 'the answer is \(', 'AB' is not one token"):
        chat.tokens_behind(tokenizer, opened, ["A", "AB"])
    # "Tom" is one token of this tokenizer, so that what begins within it is none.
    with pytest.raises(ValueError, match="'m' is not one token"):
        chat.tokens_behind(tokenizer, (Message("user", "Who?"), Message("assistant", "To")), ["m"])
    with pytest.raises(ValueError, match="does not open the reply"):
        chat.tokens_behind(tokenizer, "How many?", ["A"])


@pytest.fixture(params=[True, False], ids=["begins texts", "begins none"])
def plain(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A tokenizer without a chat template, with or without a token that begins all its texts."""
    tokenizer.chat_template = None
    if request.param:
        begin = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)])
        tokenizer.backend_tokenizer.post_processor = begin
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_completion_is_plain_text_behind_one_token_that_begins_it(plain: Path) -> None:
    with pytest.raises(ValueError, match=r"no chat template.*set its row's `prompting` to completion"):
        chat.load_tokenizer(plain)
    tokenizer = chat.load_tokenizer(plain, prompting="completion")
    shots = (
        Message("system", "Sums."),
        Message("user", "Question: 1 + 1?\nAnswer:"),
        Message("assistant", "#### 2"),
        Message("user", "Question: 2 + 2?\nAnswer:"),
    )
    begun = "<bos>" if tokenizer("")["input_ids"] else ""
    text = f"{begun}Sums.\n\nQuestion: 1 + 1?\nAnswer:\n#### 2\n\nQuestion: 2 + 2?\nAnswer:\n"
    alone, many, opened = chat.encode(tokenizer, ["Tom", shots, (*shots, Message("assistant", "It is\n"))])
    assert tokenizer.decode(alone) == f"{begun}Tom\n"
    assert tokenizer.decode(many) == text
    assert tokenizer.decode(opened) == text + "It is\n"
    assert [ids.count(tokenizer.bos_token_id) for ids in (alone, many, opened)] == [len(begun) > 0] * 3
    assert chat.end_of_turn(tokenizer) == tokenizer.eos_token_id
    assert chat.encode_reply(tokenizer, "#### 4")[-1] == tokenizer.eos_token_id


def test_a_template_and_a_tokenizer_that_both_write_the_first_token_write_it_once(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    begin = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = begin
    assert tokenizer("Tom")["input_ids"].count(tokenizer.bos_token_id) == 1
    prompts = ["Tom", (Message("user", "Tom"), Message("assistant", "It is"))]
    assert [ids.count(tokenizer.bos_token_id) for ids in chat.encode(tokenizer, prompts)] == [1, 1]
    assert tokenizer.bos_token_id not in chat.encode_reply(tokenizer, "It is")
