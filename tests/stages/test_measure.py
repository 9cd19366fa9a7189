"""What the benchmark makes of stored results."""

import json
from pathlib import Path

import pytest
import torch

from t2 import config
from t2.stages import paths
from t2.stages.measure import _mixed
from t2.svf import Expert, mix, save_expert

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("per_layer", [False, True])
def test_stored_weights_reach_the_experts_whose_names_they_bear(tmp_path, monkeypatch, per_layer) -> None:
    params = config.load(ROOT / "params.yaml")
    assert list(params.trained) != sorted(params.trained)  # else the order could not go wrong
    monkeypatch.chdir(tmp_path)
    modules = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]
    experts = [{name: torch.rand(4) for name in modules} for _ in params.trained]
    for name, z in zip(params.trained, experts, strict=True):
        save_expert(Expert(z), paths.seed(paths.EXPERTS / name, 0))
    alpha = torch.tensor([[0.7, -0.2, 0.5], [0.1, 0.2, 0.7]] if per_layer else [0.7, -0.2, 0.5])
    by_name = dict(zip(params.trained, alpha.movedim(-1, 0).tolist(), strict=True))
    stored = json.loads(json.dumps({"alpha": by_name, "expert_seed": 0}, sort_keys=True))
    expected = mix(experts, alpha)
    for name, z in _mixed(params, stored).items():
        assert torch.equal(z, expected[name])
