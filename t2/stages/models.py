"""Base models as rows describe them, on the device that the parameters name, ready to answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers.utils.logging import disable_progress_bar

from t2.config.rows import Base, Params, Recipe
from t2.engine.base import Engine
from t2.engine.hf import HfEngine, load_base
from t2.engine.vllm.engine import VllmEngine
from t2.stages import paths
from t2.svf import SvfConfig, attach, layer_indices
from t2.svf.experts import Z
from t2.training.adapters import build_adapter


def load(params: Params, name: str) -> tuple[Any, Any]:
    """Model and tokenizer of a base, on the device that ``execution.device`` names."""
    disable_progress_bar()  # of weights that load in milliseconds
    base = params.bases[name]
    device = params.execution.device
    return load_base(base.path, base.dtype, base.revision, quantisation=base.quantisation, device=device)


def svf_engine(params: Params, name: str, batch: int) -> Engine:
    """An engine that runs each sample under an expert of its own.

    Args:
        params: The parameters.
        name: The base.
        batch: Prompts side by side.
    """
    base = params.bases[name]
    if params.engine.name == "vllm":
        return _vllm(params, name)
    model, tokenizer = load(params, name)
    return HfEngine(attach(model, svf_config(base, model, paths.basis(name))), tokenizer, batch_size=batch)


def svf_config(base: Base, model: Any, basis: Path | None) -> SvfConfig:
    """Where z can be put on a base: on all the matrices that are decomposed."""
    return SvfConfig(
        target_modules=base.adapt,
        layers_to_transform=layer_indices(base.layers, model.config.get_text_config().num_hidden_layers),
        basis=None if basis is None else str(basis),
    )


def trainable_engine(
    params: Params, name: str, recipe: Recipe, *, seed: int, task: str
) -> tuple[PeftModel, Engine]:
    """A fresh adapter on its base, and an engine that runs it as it is at each call.

    vLLM runs SVF only, beside the model that learns; other methods generate with that model itself.
    """
    model, tokenizer = load(params, name)
    revision = params.bases[name].revision
    adapted = build_adapter(model, recipe, seed=seed, task=task, basis=paths.basis(name), revision=revision)
    if recipe.method == "svf" and params.engine.name == "vllm":
        return adapted, _vllm(params, name, policy=adapted.z)
    return adapted, HfEngine(adapted, tokenizer, batch_size=params.training.generation_batch)


def _vllm(params: Params, name: str, policy: Callable[[], Z] | None = None) -> VllmEngine:
    base = params.bases[name]
    return VllmEngine(
        base.path,
        params.engine.vllm,
        basis=paths.basis(name),
        dtype=base.dtype,
        revision=base.revision,
        policy=policy,
    )
