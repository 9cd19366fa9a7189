"""A training small enough for tests, on the tiny model of the shared fixtures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from t2.config.rows import Recipe, Reward, Train, Training
from t2.engine.hf import HfEngine, load_base
from t2.tasks.choice import options
from t2.tasks.item import Item
from t2.tasks.prompt import Message
from t2.training.adapters import build_adapter
from t2.training.loop import train

PEFT: dict[str, dict[str, Any]] = {
    "svf": {
        "peft_type": "SVF",
        "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"],
        "parametrisation": "direct",
        "init_mean": 1.0,
        "init_std": 0.0,
        "max_mult": 2.0,
        "renormalise": False,
    },
    "lora": {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"],
    },
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
}


def items(count: int, start: int = 0) -> list[Item]:
    return [
        Item(f"t-{n}", f"Tom has {n} apples. How many?", str(n), reply=f"Tom {n} #### {n}")
        for n in range(start, start + count)
    ]


def choices(count: int) -> list[Item]:
    """Between four numbers, behind an opening that ends where a letter's token begins."""
    found = []
    for n in range(count):
        texts = tuple(str(n + more) for more in (7, 0, 3, 5))
        asked = f"Tom has {n} apples. How many?\n{options(texts)}"
        prompt = (Message("user", asked), Message("assistant", "the answer is ("))
        found.append(Item(f"c-{n}", prompt, "B", options=texts))
    return found


def grade(_: Sequence[Item], replies: Sequence[str]) -> list[bool]:
    """A tiny model can learn this: begin with an even byte."""
    return [bool(reply) and ord(reply[0]) % 2 == 0 for reply in replies]


def recipe(**changes: Any) -> Train:
    values = {"objective": "reinforce", "steps": 6, "batch": 8, "samples": 1, "lr": 0.05, "clip": 1.0, "kl": 0.1}
    return Train(**{**values, **changes})


def reward(**changes: Any) -> Reward:
    return Reward(**{"kind": "math", "right": 1.0, "wrong": -1.0, "stop": [], "max_new_tokens": 4, **changes})


def training(**changes: Any) -> Training:
    values = {
        "generation_batch": 16,
        "micro_batch": 4,
        "micro_tokens": None,
        "gradient_checkpointing": False,
        "logit_chunk": None,
        "weight_decay": 0.0,
        "warmup_steps": 1,
        "temperature": 1.0,
        "baseline": "none",
        "normalise_rewards": False,
        "kl_direction": "policy_base",
        "kl_every": None,
        "valid_every": 2,
        "patience": None,
        "checkpoint_every": 1,
        "threads": 1,
    }
    return Training(**{**values, **changes})


def adapted(model: PreTrainedModel, method: str = "svf", seed: int = 0, layers: Any = "all", **changes: Any) -> Any:
    """The model with an adapter; ``changes`` are to its PEFT configuration."""
    wanted = Recipe(peft=PEFT[method] | changes, layers=layers, train=recipe(), seeds=[seed])
    return build_adapter(model, wanted, seed=seed, task="tom")


def no_dropout(method: str) -> dict[str, float]:
    """What takes the randomness out of a method's training."""
    return {"lora_dropout": 0.0} if method == "lora" else {}


def moved(model: Any) -> Any:
    """Away from the start, where the divergence and half of LoRA's gradient are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def run(base: Path, scratch: Path, out: Path, recipe: Train, training: Training, method: str = "svf") -> None:
    """One whole training in a process of its own; its end is the file ``out``."""
    torch.set_num_threads(1)
    model, tokenizer = load_base(base, "float32")
    model = adapted(model, method)
    train(
        model,
        HfEngine(model, tokenizer, batch_size=16),
        recipe,
        training,
        train_items=items(20),
        valid_items=items(10, start=50),
        grade=grade,
        reward=reward(),
        seed=3,
        scratch=scratch,
        fingerprint="inputs",
    )
    save_file(trainable(model), out)
