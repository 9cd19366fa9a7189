"""What the vLLM tests share: models with a transformers engine each, and vLLM engines beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from t2.config.rows import Vllm
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights

MISSING = "vLLM is not installed; `make test-vllm` runs these tests in an environment of their own"
MINIATURE = Path(__file__).parents[2] / "data/miniature/base"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WAYS = ("folded", "per_request")

PROMPTS = [f"{'Tom has many apples. ' * (n % 5)}Tom has {n} apples and buys {3 * n} more. How many?" for n in range(12)]
LONG = ["".join(f"Tom has {n * m} apples. " for n in range(60)) for m in (1, 7)]


@dataclass(frozen=True)
class Setting:
    """A base model on disk, its basis, and what the transformers engine makes of it."""

    folder: Path
    basis: Path
    hf: HfEngine

    def experts(self, count: int, seed: int = 5) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        sigmas = self.hf.model.sigmas().items()
        return {name: 1 + 0.3 * torch.randn(count, len(sigma), generator=generator) for name, sigma in sigmas}

    def vllm(self, experts: str, **settings: Any) -> Any:
        from t2.engine.vllm.engine import VllmEngine

        return VllmEngine(self.folder, vllm_settings(experts=experts, **settings), basis=self.basis)


def vllm_settings(**changed: Any) -> Vllm:
    usual = {
        "experts": "per_request",
        "slots": 4,
        "max_num_seqs": 64,
        "max_num_batched_tokens": None,
        "max_model_len": None,
        "gpu_memory_utilisation": 0.5,
        "kv_cache_gb": 0.1,
        "tensor_parallel": 1,
        "own_process": False,
        "sleep": False,
        "eager": True,
    }
    return Vllm(**{**usual, **changed})


def make_setting(folder: Path, basis: Path, targets: tuple[str, ...] = TARGETS) -> Setting:
    build_cache(checkpoint_weights(folder, targets, torch.float32), basis)
    model, tokenizer = load_base(folder, "float32")
    svf = attach(model, SvfConfig(target_modules=list(targets), basis=str(basis)))
    return Setting(folder, basis, HfEngine(svf, tokenizer, batch_size=16))


def write_biased_llama(folder: Path, tokenizer: PreTrainedTokenizerFast, key_value_heads: int = 2) -> Path:
    """A random Llama with grouped queries, tied embeddings and biases everywhere that Llama knows them."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=1024,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        initializer_range=0.15,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def damaged(basis: Path) -> Iterator[None]:
    """The basis of a matrix in the middle of a fused one, whose layer is half loaded when it is read."""
    (path,) = basis.glob("*layers.1.self_attn.k_proj*.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(8))
    yield
    path.write_bytes(content)


def tokens(generations: Any) -> list[tuple[int, ...]]:
    return [generation.tokens for generation in generations]
