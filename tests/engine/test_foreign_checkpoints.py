"""Real tokenizers, trained weights and a sliding window, through the loading code and the engine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from t2.engine import chat
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights
from tests.engine.vllm_setting import MISSING as NO_VLLM
from tests.engine.vllm_setting import TARGETS, WAYS, make_setting, tokens
from tests.foreign_checkpoints import DATA, MISSING, STORY, write_mistral, write_stories

QUESTIONS = [f"{'Tom has many apples. ' * (n % 3)}Tom has {n} apples and buys {3 * n} more." for n in range(9)]

real = pytest.mark.skipif(not DATA.is_dir(), reason=MISSING)


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("stories"))


@pytest.fixture(scope="module")
def windowed(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Mistral that looks 8 tokens back, as that of version 0.1 looks 4096 back."""
    config = MistralConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=8,
        initializer_range=0.3,
        eos_token_id=tiny_tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(config)
    folder = tmp_path_factory.mktemp("windowed")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@real
def test_mistrals_reference_chat_has_its_98_token_ids(mistral: Path) -> None:
    samples = DATA / "tokenizers" / "mistral_v3" / "samples" / "no_tools"
    messages = json.loads((samples / "sample.json").read_text())["messages"]
    tokenizer = chat.load_tokenizer(mistral)
    found = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert found == json.loads((samples / "tokens_v3.json").read_text())["tokens"]
    # A prompt and the reply to it, as engines and training encode them, are the start of that chat.
    question, answer = (message["content"] for message in messages[:2])
    together = [*chat.encode(tokenizer, [question])[0], *chat.encode_reply(tokenizer, answer)]
    assert together == found[: len(together)]
    assert chat.decode(tokenizer, [chat.encode_reply(tokenizer, answer)]) == [answer]


@real
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_of_all_shards_are_those_of_the_loaded_model(mistral: Path, dtype: torch.dtype) -> None:
    model, tokenizer = load_base(mistral, dtype)
    assert tokenizer.pad_token is None
    weights = checkpoint_weights(mistral, TARGETS, dtype)
    assert len(weights) == 4 * len(TARGETS)
    assert all(torch.equal(weight, model.get_submodule(name).weight) for name, weight in weights.items())


@real
@pytest.mark.parametrize("adapted", [False, True])
def test_stories260k_tells_its_documented_story(stories: Path, adapted: bool, tmp_path: Path) -> None:
    model, tokenizer = load_base(stories, "float32")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if adapted:
        build_cache(checkpoint_weights(stories, TARGETS, torch.float32), tmp_path)
        model = attach(model, SvfConfig(target_modules=list(TARGETS), basis=str(tmp_path)))
    engine = HfEngine(model, tokenizer, batch_size=2)
    told, continued = engine.generate(["", "Once upon a time"], Sampling(120))
    assert told.tokens[: len(STORY.tokens)] == STORY.tokens
    assert told.text.startswith(STORY.text)
    assert f"Once upon a time{continued.text}".startswith(STORY.text)


@real
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=NO_VLLM)
@pytest.mark.parametrize("way", WAYS)
def test_vllm_reads_the_same_files_as_transformers(way: str, mistral: Path, tmp_path: Path) -> None:
    # Not stories260K: its heads of 8 numbers are too small for the CPU build's attention.
    setting = make_setting(mistral, tmp_path / "basis")
    engine, experts = setting.vllm(way), setting.experts(1)
    assert engine.context == setting.hf.context
    for rows in ([-1] * len(QUESTIONS), [0] * len(QUESTIONS), [-1] * len(QUESTIONS)):
        found, wanted = (
            one.generate(QUESTIONS, Sampling(12), experts=experts, rows=rows) for one in (engine, setting.hf)
        )
        assert tokens(found) == tokens(wanted)


def test_a_sliding_window_reaches_as_far_in_a_batch_as_alone(windowed: Path) -> None:
    model, tokenizer = load_base(windowed, "float32")
    # Many end tokens, so that samples leave the batch, and its cache, one by one.
    model.generation_config.eos_token_id = list(range(2, 320, 12))
    engine = HfEngine(model, tokenizer, batch_size=9)
    encoded = engine.encode(QUESTIONS)
    assert min(map(len, encoded)) > 8
    plain = AutoModelForCausalLM.from_pretrained(windowed, dtype=torch.float32, attn_implementation="eager").eval()
    plain.generation_config.eos_token_id = model.generation_config.eos_token_id
    lengths = set()
    for ids, reply in zip(encoded, engine.generate(QUESTIONS, Sampling(24)), strict=True):
        inputs = torch.tensor([ids])
        expected = plain.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        assert list(reply.tokens) == expected[0, len(ids) :].tolist()
        lengths.add(len(reply.tokens))
    assert len(lengths) > 3


def test_choices_behind_a_sliding_window_are_scored_as_one_pass_scores_them(windowed: Path) -> None:
    model, tokenizer = load_base(windowed, "float32")
    engine = HfEngine(model, tokenizer, batch_size=4)
    choices = ["Tom has 12 apples. #### 12", "Tom has 7"]
    opening, ends = chat.parted(tokenizer, choices)
    plain = AutoModelForCausalLM.from_pretrained(windowed, dtype=torch.float32, attn_implementation="eager").eval()
    for ids, found in zip(engine.encode(QUESTIONS), engine.score(QUESTIONS, choices), strict=True):
        for end, score in zip(ends, found, strict=True):
            with torch.inference_mode():
                logprobs = plain(torch.tensor([[*ids, *opening, *end]])).logits[0, -len(end) - 1 : -1].log_softmax(1)
            assert score == pytest.approx(logprobs[range(len(end)), end].sum().item(), abs=1e-4)
