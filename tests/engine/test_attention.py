"""Models whose attention is more than a scaled dot product run as their authors wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    VaultGemmaConfig,
)

from t2.engine.attention import GROUPED_SDPA, grouped_sdpa, implementation
from t2.engine.hf import load_base

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.5,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "capped": (Gemma2Config, {"attn_logit_softcapping": 1.0}, "eager"),
    "uncapped": (Gemma2Config, {"attn_logit_softcapping": None}, GROUPED_SDPA),
    "another capped": (VaultGemmaConfig, {"attn_logit_softcapping": 1.0}, "eager"),
    "sinks": (GptOssConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}, None),
    "plain": (LlamaConfig, {}, GROUPED_SDPA),
}


def make(name: str, vocabulary: int) -> tuple[PreTrainedConfig, str | None]:
    kind, settings, expected = CONFIGS[name]
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return kind(**SIZES, **special, **settings, vocab_size=vocabulary), expected


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loaded_model_gives_the_logits_of_eager_attention(
    name: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config, expected = make(name, len(tiny_tokenizer))
    assert implementation(config) == expected
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model, _ = load_base(tmp_path, "float32")
    eager = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.arange(40).reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    with torch.no_grad():
        found, wanted = (one(ids, attention_mask=mask).logits[mask.bool()] for one in (model, eager))
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("asked", ["softcap", "s_aux"])
def test_what_it_does_not_compute_it_does_not_accept(asked: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    with pytest.raises(NotImplementedError, match=f"Linear asks for {asked}, .* attn_implementation='eager'"):
        grouped_sdpa(torch.nn.Linear(1, 1), q, k, v, None, **{asked: 1.0})


def test_a_layer_that_looks_both_ways_does_so() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    torch.testing.assert_close(grouped_sdpa(torch.nn.Linear(1, 1), q, k, v, None, is_causal=False)[0], whole)
    biased, _ = grouped_sdpa(
        torch.nn.Linear(1, 1), q, k, v, None, is_causal=False, position_bias=torch.zeros(1, 2, 5, 5)
    )
    torch.testing.assert_close(biased, whole)


def test_a_tokenizer_of_a_larger_model_is_refused(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    config, _ = make("plain", len(tiny_tokenizer) - 1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has \d+ tokens and its model an embedding for \d+: it is that of another"):
        load_base(tmp_path, "float32")
