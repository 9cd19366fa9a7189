"""A model whose layers accelerate has divided runs as a whole one does: here with its hooks, on one device."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from peft import get_peft_model

from t2.engine.base import Sampling
from t2.engine.device import SPREAD, find_device, free_linears
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig
from t2.training.logits import accumulate_gradient
from t2.training.sequences import Pair, pad
from tests.training.setting import moved

PROMPTS = [f"Tom has {n} apples and buys {3 * n} more. How many?" for n in range(12)]


@pytest.fixture
def divided(tiny_model):
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    parts += [f"model.layers.{n}" for n in range(tiny_model.config.num_hidden_layers)]
    model, devices = copy.deepcopy(tiny_model), dict.fromkeys(["", *parts], "cpu")
    attach_align_device_hook_on_blocks(
        model, devices, offload=dict.fromkeys(devices, False), skip_keys=model._skip_keys_device_placement
    )
    assert "forward" in vars(model.model.layers[0].mlp.up_proj)
    free_linears(model)
    return model


def adapted(model):
    return moved(get_peft_model(model, SvfConfig(target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])).eval())


def test_a_divided_model_answers_scores_and_learns_as_a_whole_one(tiny_model, divided, tiny_tokenizer):
    whole, parts = adapted(tiny_model), adapted(divided)
    engines = [HfEngine(model, tiny_tokenizer, batch_size=8) for model in (whole, parts)]
    tables = {name: torch.stack([1 + 0.1 * n * (z - 1) for n in range(3)]) for name, z in whole.z().items()}
    rows = [n % 4 - 1 for n in range(len(PROMPTS))]
    for how in ({}, {"experts": tables, "rows": rows}):
        replies, others = (engine.generate(PROMPTS, Sampling(30), **how) for engine in engines)
        # An equal weight at another address may give other last bits.
        assert [one.tokens for one in replies] == [one.tokens for one in others]
        assert len({one.tokens for one in replies}) > 6
        scores, theirs = (engine.score(PROMPTS, ["a long way", "a long walk", "away"], **how) for engine in engines)
        torch.testing.assert_close(torch.tensor(scores), torch.tensor(theirs), rtol=1e-5, atol=0.0)
    assert any("forward" in vars(module) for module in parts.modules()), "accelerate's hooks are gone"
    assert all(layer._folded.fold is not None for layer in parts.svf_layers().values())
    batch = pad([Pair(ids, (5, 6, 7)) for ids in engines[0].encode(PROMPTS)])
    for chunk in (None, 4):
        for model in (whole, parts):
            model.zero_grad()
            accumulate_gradient(model, batch, lambda logits, _: logits.logsumexp(1).sum(), chunk)
        gradients = [
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None} for model in (whole, parts)
        ]
        assert gradients[0].keys() == gradients[1].keys() and gradients[0]
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-4)


def test_spread_loads_where_there_is_no_gpu(tiny_folder):
    whole, _ = load_base(tiny_folder, "float32")
    model, tokenizer = load_base(tiny_folder, "float32", device=SPREAD)
    assert model.device.type == find_device(SPREAD) == find_device("auto")
    engines = [HfEngine(one.to("cpu"), tokenizer, batch_size=8) for one in (whole, model)]
    assert engines[0].generate(PROMPTS, Sampling(10)) == engines[1].generate(PROMPTS, Sampling(10))
