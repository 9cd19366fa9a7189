"""Where vLLM is not installed."""

from __future__ import annotations

import importlib.util

import pytest

from t2.engine.vllm.engine import VllmEngine
from tests.engine.vllm_setting import MINIATURE, vllm_settings


def test_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'vllm"):
        VllmEngine(MINIATURE, vllm_settings(), basis=tmp_path)
