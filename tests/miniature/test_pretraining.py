"""The tokenizer, the training loop, and the bases that ship."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from t2.miniature import corpus, settings
from t2.miniature.pretraining import build_model, pretrain
from t2.miniature.problems import generate
from t2.miniature.tokenizer import train_tokenizer
from t2.stages.pretrain import FOLDER, PROMPTS

SHAPES = ["base", "twin", "wide"]
BASES = [name for name in settings.load().bases if (FOLDER / name).is_dir()]
"""Those that ship."""


@pytest.fixture(scope="module")
def params():
    full = settings.load()
    return full.model_copy(
        update={
            "architecture": full.architecture.model_copy(update={"hidden": 32, "layers": 1, "mlp": 32}),
            "optimiser": full.optimiser.model_copy(update={"steps": 90, "batch": 8, "threads": 1}),
        }
    )


@pytest.fixture(scope="module")
def shipped_tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER / "base")


def test_the_same_seed_gives_the_same_weights_and_the_loss_falls(params):
    samples = corpus.pretraining_samples(params, 1, careless=True)
    tokenizer = train_tokenizer((s.prompt for s in samples), 600, params.architecture.context)
    runs = []
    for _ in range(2):
        losses: list[float] = []
        model = build_model(params.architecture, tokenizer, seed=0)
        pretrain(model, tokenizer, samples, params.optimiser, losses.append)
        runs.append((model.state_dict(), losses))
    (first, losses), (second, _) = runs
    assert len(losses) == params.optimiser.steps
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(torch.equal(first[name], second[name]) for name in first)


@given(st.text())
def test_any_text_comes_back(shipped_tokenizer, text):
    tokens = shipped_tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert shipped_tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text


def test_digits_and_options_are_single_tokens(shipped_tokenizer):
    assert shipped_tokenizer.tokenize("12+7=19") == ["1", "2", "+", "7", "=", "1", "9"]
    assert len(shipped_tokenizer.tokenize(" (B)")) == 1


def test_chat_template(shipped_tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    whole = shipped_tokenizer.apply_chat_template(turns, tokenize=False)
    start = shipped_tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert start == "<|user|>Hi<|assistant|>"
    assert whole == start + "Yo" + shipped_tokenizer.eos_token


@pytest.mark.parametrize("base", BASES)
def test_a_shipped_base_loads_and_takes_a_full_context(base):
    model = AutoModelForCausalLM.from_pretrained(FOLDER / base)
    assert model.dtype == torch.float32
    assert 600_000 < model.num_parameters() < 1_000_000
    context = model.config.max_position_embeddings
    assert context >= 1024
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=torch.ones(1, context, dtype=torch.long)).logits).all()


def test_what_ships_is_small():
    files = [path for base in BASES for path in (FOLDER / base).iterdir()]
    assert sum(path.stat().st_size for path in [*files, PROMPTS]) < 14 * 2**20
    assert max(path.stat().st_size for path in files) < 3 * 2**20
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_all_bases_share_a_tokenizer():
    assert {"base", "control"} <= set(BASES)
    assert len({(FOLDER / base / "tokenizer.json").read_bytes() for base in BASES}) == 1


@pytest.mark.skipif(not set(SHAPES) <= set(BASES), reason="twin and wide are not pretrained here; `make miniature`")
def test_the_twin_has_the_shapes_of_the_base_and_other_weights_and_wide_has_other_shapes():
    base, twin, wide = (AutoModelForCausalLM.from_pretrained(FOLDER / name).state_dict() for name in SHAPES)
    assert {name: weight.shape for name, weight in base.items()} == {name: w.shape for name, w in twin.items()}
    assert not any(torch.equal(base[name], twin[name]) for name in base)
    assert len(wide) != len(base) and wide["model.embed_tokens.weight"].shape[1] != 128


@pytest.mark.parametrize("base", BASES)
def test_replies_have_the_form_that_rewards_read(base, shipped_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(FOLDER / base).eval()

    def reply(prompt):
        turns = [{"role": "user", "content": prompt}]
        inputs = shipped_tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        return shipped_tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    signs = {"math": "#### ", "code": "def ", "reasoning": "nswer is (", "text": "#### "}
    for family, sign in signs.items():
        replies = [reply(item.fields["question"]) for item in generate(family, 5, 0)]
        assert sum(sign in text for text in replies) >= 4
