"""Base models as the parameters describe them, on the device that they name, ready to answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import PeftModel
from transformers.utils.logging import disable_progress_bar

from t2.config import Base, Params
from t2.engine.base import Engine
from t2.engine.hf import HfEngine, load_base
from t2.engine.vllm.engine import VllmEngine
from t2.stages import paths
from t2.svf import BasisCache, SvfConfig, attach, base_expert, layer_indices, load_expert
from t2.svf.experts import Z
from t2.svf.pretrained import load_adapter
from t2.training.adapters import build_adapter


class Ingredients(NamedTuple):
    """What an α mixes.

    Attributes:
        experts: By name; the order is that of the numbers in α.
        sigma: Singular values (r,) by module name, for the free form; else None.
    """

    experts: dict[str, Z]
    sigma: dict[str, torch.Tensor] | None


def _load(params: Params, base: Base) -> tuple[Any, Any]:
    """Model and tokenizer, on the device that ``execution.device`` names."""
    disable_progress_bar()  # of weights that load in milliseconds
    device = params.execution.device
    return load_base(base.path, base.dtype, base.revision, quantisation=base.quantisation, device=device)


def _vllm(params: Params, base: Base, policy: Callable[[], Z] | None = None) -> VllmEngine:
    return VllmEngine(
        base.path,
        params.engine.vllm,
        basis=paths.basis(base),
        dtype=base.dtype,
        revision=base.revision,
        policy=policy,
    )


def svf_engine(params: Params, base: Base) -> Engine:
    """An engine that runs each sample under an expert of its own."""
    if params.engine.name == "vllm":
        return _vllm(params, base)
    model, tokenizer = _load(params, base)
    config = SvfConfig(
        target_modules=params.svf.target_modules,
        layers_to_transform=layer_indices(params.svf.layers, model.config.num_hidden_layers),
        basis=str(paths.basis(base)),
    )
    return HfEngine(attach(model, config), tokenizer, batch_size=params.benchmark.batch)


def trained_experts(params: Params, seed: int) -> dict[str, Z]:
    """The SVF experts of a seed by task, as the expert stages trained them."""
    return {name: trained_expert(params.base, paths.seed(paths.EXPERTS / name, seed)) for name in params.trained}


def trained_expert(base: Base, folder: Path) -> Z:
    """An SVF expert that a stage trained on a base; one of other weights is refused."""
    return load_expert(folder, BasisCache.open(paths.basis(base)).matrices).z


def ingredients(params: Params, seed: int) -> Ingredients:
    """What few-shot search mixes under the present settings: a seed's experts, and the base where it takes part."""
    experts = trained_experts(params, seed)
    modules = next(iter(experts.values()))
    if params.adaptation.cem.include_base:
        experts["base"] = base_expert(modules)
    if params.adaptation.cem.form != "free":
        return Ingredients(experts, None)
    basis = BasisCache.open(paths.basis(params.base))
    return Ingredients(experts, {name: basis.load(name).sigma for name in modules})


def trainable_engine(
    params: Params, base: Base, method: Literal["svf", "lora"], *, seed: int, task: str
) -> tuple[PeftModel, Engine]:
    """A fresh adapter of ``method`` on its base, and an engine that runs it as it is at each call.

    vLLM runs SVF only, beside the model that learns; other methods generate with that model itself.
    """
    model, tokenizer = _load(params, base)
    adapted = build_adapter(
        model,
        method,
        svf=params.svf,
        lora=params.lora,
        seed=seed,
        task=task,
        basis=paths.basis(base),
        revision=base.revision,
    )
    if method == "svf" and params.engine.name == "vllm":
        return adapted, _vllm(params, base, policy=adapted.z)
    return adapted, HfEngine(adapted, tokenizer, batch_size=params.benchmark.batch)


def trained_engine(params: Params, base: Base, adapter: Path) -> HfEngine:
    """An engine around an adapter of any method that a stage trained, with transformers."""
    model, tokenizer = _load(params, base)
    return HfEngine(load_adapter(model, adapter), tokenizer, batch_size=params.benchmark.batch)
