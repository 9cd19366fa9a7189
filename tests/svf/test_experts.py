from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t2.svf import (
    Expert,
    base_expert,
    compare,
    load_expert,
    save_expert,
    stack,
    statistics,
)

NAMES = ["model.layers.0.mlp.up_proj", "model.layers.2.mlp.up_proj", "model.layers.10.mlp.up_proj"]


def experts(k: int = 3, std: float = 0.3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{name: 1 + std * torch.randn(6, generator=generator) for name in NAMES} for _ in range(k)]


def test_what_does_not_fit_is_refused() -> None:
    k = experts()
    with pytest.raises(ValueError, match="no experts"):
        stack([])
    other = {**k[0], NAMES[1]: torch.ones(4)}
    with pytest.raises(ValueError, match=rf"experts 0 and 1 do not adapt .*{NAMES[1]}"):
        stack([k[0], other])
    with pytest.raises(ValueError, match="experts 0 and 1"):
        compare(k[0], {NAMES[0]: torch.ones(6)})


def test_statistics_by_layer_and_module() -> None:
    z = {NAMES[2]: torch.tensor([0.5, 1.0, 2.0, 1.0]), NAMES[0]: torch.ones(3)}
    assert statistics(z) == [
        {
            "name": NAMES[0],
            "layer": 0,
            "module": "up_proj",
            "mean": 1,
            "std": 0,
            "min": 1,
            "max": 1,
            "change": 0,
        },
        {
            "name": NAMES[2],
            "layer": 10,
            "module": "up_proj",
            "mean": 1.125,
            "std": pytest.approx(0.5449, abs=1e-4),
            "min": 0.5,
            "max": 2,
            "change": 0.375,
        },
    ]


def test_compare_is_the_cosine_of_the_changes() -> None:
    a, b = experts(2)
    opposite = {name: 2 - z for name, z in a.items()}
    assert compare(a, a) == pytest.approx(1)
    assert compare(a, opposite) == pytest.approx(-1)
    assert compare(a, b) == pytest.approx(compare(b, a)) and abs(compare(a, b)) < 0.9
    assert compare(a, base_expert(a)) == 0


def test_experts_on_disk(tmp_path: Path) -> None:
    provenance = {
        "base_model_name_or_path": "base",
        "revision": "r1",
        "basis_fingerprint": "ab",
        "task": "math",
        "seed": 2,
    }
    expert = Expert(experts(1)[0], provenance)
    save_expert(expert, tmp_path / "e")
    loaded = load_expert(tmp_path / "e")
    assert loaded.provenance == provenance
    assert list(loaded.z) == NAMES
    assert all(torch.equal(loaded.z[name], expert.z[name]) for name in NAMES)
    assert not list((tmp_path / "e").glob(".*"))
    with pytest.raises(ValueError, match=r"unknown provenance \['author'\]"):
        save_expert(Expert(expert.z, {"author": "me"}), tmp_path / "f")


def test_what_is_no_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no adapter folder: adapter_config\.json is missing"):
        load_expert(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"x": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="holds a LORA adapter"):
        load_expert(tmp_path)
