"""Fixtures of this room: the model of ``models.py``, a configuration for it, and a way to move z."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlamaForCausalLM

from svf.models import TARGETS, make_model
from t2.svf import SvfConfig


@pytest.fixture
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def config() -> SvfConfig:
    return SvfConfig(target_modules=list(TARGETS))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(1, 61, (4, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def randomise() -> Callable[..., None]:
    """Moves an adapter's parameters away from their start, reproducibly."""

    def apply(model: PeftModel, seed: int = 0, adapter: str = "default", std: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in model.svf_layers().values():
                parameter = layer.svf_z[adapter]
                parameter += std * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)

    return apply
