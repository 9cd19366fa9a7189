"""What a quantised base says where its library is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from t2.engine.hf import load_base
from t2.svf import checkpoint_weights, quantised


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what import sees where it is not installed
    caches = (quantised._library, quantised._check_device)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.usefixtures("without_library")
def test_model_and_basis_name_what_to_install(kind: Any, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install -e '\.\[quantised\]'"):
        load_base(tiny_folder, "float32", quantisation=kind)
    weights = checkpoint_weights(tiny_folder, ["q_proj"], torch.float32, quantisation=kind)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[quantised\]'"):
        next(iter(weights.values()))
