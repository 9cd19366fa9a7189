"""Attaches the adapter that a recipe asks for to a base model, with initial values drawn from its seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from t2 import config
from t2.svf import SvfConfig, layer_indices
from t2.svf.targets import check_targets
from t2.training.state import derive


def build_adapter(
    model: PreTrainedModel,
    method: Literal["svf", "lora"],
    *,
    svf: config.Svf,
    lora: config.Lora,
    seed: int,
    task: str,
    basis: Path | None = None,
    revision: str | None = None,
) -> PeftModel:
    """Attaches a trainable adapter.

    Args:
        model: The base model; its targeted layers are wrapped in place.
        method: Which adapter.
        svf: Settings of an SVF adapter.
        lora: Settings of a LoRA adapter.
        seed: Initial values are drawn from it; global generators stay as they are.
        task: What it will be trained for; goes into an SVF adapter's provenance.
        basis: The base model's basis cache, for SVF; None: bases are computed now.
        revision: The commit of a base model from the Hugging Face hub; without it, who loads the adapter later
            would get the newest.

    Raises:
        ValueError: A layer index is not the model's, a targeted name is that of none of its modules, or the basis
            cache does not fit the model.
    """
    peft_config: PeftConfig
    if method == "svf":
        peft_config = SvfConfig(
            task_type="CAUSAL_LM",
            target_modules=svf.target_modules,
            layers_to_transform=layer_indices(svf.layers, model.config.num_hidden_layers),
            parametrisation=svf.parametrisation,
            init_mean=svf.init_mean,
            init_std=svf.init_std,
            init_seed=derive(seed, "svf"),
            max_mult=svf.max_mult,
            renormalise=svf.renormalise,
            basis=None if basis is None else str(basis),
            task=task,
            seed=seed,
        )
    else:
        peft_config = LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
        )
    check_targets(model, peft_config)
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "adapter"))
        adapted = get_peft_model(model, peft_config, revision=revision)
    attached: Any = adapted.peft_config["default"]
    # PEFT keeps the names in a set, whose order differs from one process to the next, also in saved files.
    attached.target_modules = sorted(attached.target_modules)
    return adapted
