"""Attaches the adapter that a recipe asks for to a base model, with initial values drawn from its seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from t2.config.rows import Recipe
from t2.seeds import derive
from t2.svf import SvfConfig, layer_indices
from t2.svf.language import language_part, outside_language
from t2.svf.targets import check_targets


def build_adapter(
    model: PreTrainedModel,
    recipe: Recipe,
    *,
    seed: int,
    task: str,
    basis: Path | None = None,
    revision: str | None = None,
) -> PeftModel:
    """Attaches a trainable adapter of any PEFT method; of a model that also sees, to its language part alone.

    Args:
        model: The base model; its targeted layers are wrapped in place.
        recipe: Its PEFT configuration, and the layers that it adapts.
        seed: Initial values are drawn from it; global generators stay as they are.
        task: What it will be trained for; goes into an SVF adapter's provenance.
        basis: The base model's basis cache, for SVF; None: bases are computed now.
        revision: The commit of a base model from the Hugging Face hub; without it, who loads the adapter later
            would get the newest.

    Raises:
        ValueError: A layer index is not the model's, a targeted name is that of none of its modules, the basis
            cache does not fit the model, or a part of it that sees would be trained.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "adapter"))
        config: Any = peft_config(recipe, model.config.get_text_config().num_hidden_layers)
        part = language_part(model)
        if part is not None and hasattr(config, "exclude_modules"):
            config.exclude_modules = outside_language(model, config.exclude_modules)
        if isinstance(config, SvfConfig):
            config.init_seed = derive(seed, "svf")
            config.basis = None if basis is None else str(basis)
            config.task, config.seed = task, seed
            config.resumable = False  # checkpoints of the training hold its parameters
        check_targets(model, config)
        adapted = get_peft_model(model, config, revision=revision)
    if part is not None:
        _check_frozen(adapted, part)
    attached: Any = adapted.peft_config["default"]
    # PEFT keeps the names in a set, whose order differs from one process to the next, also in saved files.
    if not isinstance(attached.target_modules, str):
        attached.target_modules = sorted(attached.target_modules)
    return adapted


def _check_frozen(adapted: PeftModel, part: str) -> None:
    """Whether all that is trained lies in the language part: what is seen of an image is computed once."""
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad and f".{part}." not in name]
    if trained:
        raise ValueError(
            f"{trained[0]} would be trained ({len(trained)} such), outside of {part}; what sees stays as it is: name "
            "modules of the language model only, and none in modules_to_save"
        )


def peft_config(recipe: Recipe, depth: int) -> PeftConfig:
    """The PEFT configuration of a recipe, for a model of ``depth`` decoder layers.

    Raises:
        ValueError: A layer index is not the model's.
    """
    settings = {key: value for key, value in recipe.peft.items() if key != "peft_type"}
    layers = layer_indices(recipe.layers, depth)
    if layers is not None:
        settings["layers_to_transform"] = layers
    made: PeftConfig = PEFT_TYPE_TO_CONFIG_MAPPING[recipe.peft["peft_type"]](task_type="CAUSAL_LM", **settings)
    return made
