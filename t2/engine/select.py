"""The engine that runs a base model, as its row and the parameters say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from t2.config.rows import Base, SeeingBase
from t2.config.rows import Engine as Settings
from t2.engine.base import Engine
from t2.engine.hf import HfEngine, load_base
from t2.engine.vision import Vision
from t2.engine.vllm.engine import VllmEngine
from t2.svf import SvfConfig, attach, layer_indices
from t2.svf.experts import Z
from t2.svf.language import outside_language
from t2.svf.pretrained import load_processor, sees


def load(base: Base, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a base; ``device`` as ``execution.device`` has it."""
    disable_progress_bar()  # of weights that load in milliseconds
    return load_base(
        base.path,
        base.dtype,
        base.revision,
        quantisation=base.quantisation,
        device=device,
        prompting=base.prompting,
    )


def vision(base: Base, model: Any) -> Vision | None:
    """What a base's model, bare or with adapters, sees with; None: its row has no `vision`.

    Raises:
        ValueError: The model sees nothing, or in another way than is built here.
    """
    if not isinstance(base, SeeingBase):
        return None
    if not sees(model.config):
        raise ValueError(f"{base.path} is a model of text; take `vision` out of its row, or name one that sees")
    return Vision(model, load_processor(base.path, base.revision), base.vision)


def svf_engine(base: Base, settings: Settings, *, basis: Path | None, device: str, batch: int) -> Engine:
    """An engine that runs each sample under an expert of its own.

    Args:
        base: The base model.
        settings: Which engine, and how it runs.
        basis: The base's basis cache; None: bases are computed, which vLLM does not.
        device: As ``execution.device``.
        batch: Prompts side by side; vLLM has its own number.
    """
    if settings.name == "vllm":
        return vllm_engine(base, settings, basis)
    model, tokenizer = load(base, device)
    config = SvfConfig(
        target_modules=base.adapt,
        layers_to_transform=layer_indices(base.layers, model.config.get_text_config().num_hidden_layers),
        exclude_modules=outside_language(model),
        basis=None if basis is None else str(basis),
    )
    attached = attach(model, config)
    return HfEngine(attached, tokenizer, batch_size=batch, vision=vision(base, attached))


def vllm_engine(
    base: Base, settings: Settings, basis: Path | None, policy: Callable[[], Z] | None = None
) -> VllmEngine:
    """VLLM on a base; with ``policy``, which gives z as it is at each call, beside a model that learns.

    Raises:
        ValueError: There is no basis cache.
    """
    if basis is None:
        raise ValueError(f"vLLM runs experts of {base.path} with a basis cache only; make one with `dvc repro`")
    return VllmEngine(
        base.path,
        settings.vllm,
        basis=basis,
        dtype=base.dtype,
        revision=base.revision,
        prompting=base.prompting,
        policy=policy,
    )
