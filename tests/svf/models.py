"""A tiny Llama whose linear layers are tall, square and wide and have biases."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(seed: int = 0, dtype: torch.dtype = torch.float32, **settings: object) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            **{
                "vocab_size": 61,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "attention_bias": True,
                "mlp_bias": True,
                "initializer_range": 0.3,
                "pad_token_id": 0,
                **settings,
            }
        )
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()
