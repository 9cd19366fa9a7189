from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from t2 import profiles
from t2.plan.shapes import read_shapes
from t2.stages.basis import adapted_weights

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layers", ["all", "half", [3, 0]])
def test_only_what_gets_a_z_is_decomposed(layers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = profiles.load("miniature")
    params = params.model_copy(update={"svf": params.svf.model_copy(update={"layers": layers})})
    base = params.base.model_copy(update={"dtype": "bfloat16"})
    weights = adapted_weights(params.svf, base, "cpu")
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        matrix.name: (matrix.rows, matrix.columns) for matrix in read_shapes(params, base).adapted
    }
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
