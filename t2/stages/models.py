"""Base models as the parameters describe them, on the device that they name, ready to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import PeftModel
from transformers.utils.logging import disable_progress_bar

from t2.config import Base, Params
from t2.engine.hf import HfEngine, load_base
from t2.stages import paths
from t2.svf import SvfConfig, attach
from t2.training.adapters import build_adapter, layer_indices


def _load(params: Params, base: Base) -> tuple[Any, Any]:
    """Model and tokenizer, on the device that ``execution.device`` names, or the GPU if there is one."""
    device = params.execution.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    disable_progress_bar()  # of weights that load in milliseconds
    model, tokenizer = load_base(base.path, base.dtype, base.revision)
    return cast(Any, model).to(device), tokenizer


def svf_engine(params: Params, base: Base) -> HfEngine:
    """An engine that runs each sample under an expert of its own."""
    model, tokenizer = _load(params, base)
    config = SvfConfig(
        target_modules=params.svf.target_modules,
        layers_to_transform=layer_indices(params.svf.layers, model.config.num_hidden_layers),
        basis=str(paths.basis(base)),
    )
    return HfEngine(attach(model, config), tokenizer, batch_size=params.benchmark.batch)


def trainable_engine(params: Params, base: Base, method: Literal["svf", "lora"], *, seed: int, task: str) -> HfEngine:
    """An engine around a fresh adapter of ``method``."""
    model, tokenizer = _load(params, base)
    adapted = build_adapter(
        model,
        method,
        svf=params.svf,
        lora=params.lora,
        seed=seed,
        task=task,
        basis=paths.basis(base),
    )
    return HfEngine(adapted, tokenizer, batch_size=params.benchmark.batch)


def trained_engine(params: Params, base: Base, adapter: Path) -> HfEngine:
    """An engine around an adapter that a stage trained."""
    model, tokenizer = _load(params, base)
    adapted = PeftModel.from_pretrained(model, str(adapter)).eval()
    return HfEngine(adapted, tokenizer, batch_size=params.benchmark.batch)
