"""Numbers that are known beforehand: trainable parameters for Llama-3-8B (paper, table 5)."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from t2.svf import SvfConfig

MLP = ["gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "v_proj"]


def lora(targets: list[str]) -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules=targets)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (SvfConfig(target_modules=MLP), 393_216),
        (SvfConfig(target_modules=ATTENTION), 163_840),
        (SvfConfig(target_modules=ATTENTION + MLP), 557_056),
        (lora(ATTENTION), 6_815_744),
        (lora(ATTENTION + MLP), 35_127_296),
    ],
    ids=["svf-mlp", "svf-attention", "svf-both", "lora-attention", "lora-both"],
)
def test_trainable_parameters_of_llama_3_8b(config: PeftConfig, count: int) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=4096,
                intermediate_size=14336,
                num_hidden_layers=32,
                num_attention_heads=32,
                num_key_value_heads=8,
                vocab_size=128256,
            )
        )
    assert get_peft_model(model, config).get_nb_trainable_parameters()[0] == count
