from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import LlamaForCausalLM

from t2.config.rows import Recipe
from t2.svf import layer_indices
from t2.training.adapters import build_adapter

from .setting import PEFT, adapted, recipe, trainable


def test_every_method_starts_at_the_base(tiny_folder: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    base = LlamaForCausalLM.from_pretrained(tiny_folder).eval()(ids).logits
    for method in PEFT:
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder), method).eval()
        assert model(input_ids=ids).logits.equal(base)
        assert sum(value.numel() for value in trainable(model).values()) > 0


def test_initial_values_follow_from_the_seed_alone(tiny_folder: Path) -> None:
    def initial(method: str, seed: int, **changes: Any) -> torch.Tensor:
        torch.rand(1)
        before = torch.get_rng_state()
        model = adapted(LlamaForCausalLM.from_pretrained(tiny_folder), method, seed, **changes)
        assert torch.get_rng_state().equal(before)
        return torch.cat([value.flatten() for value in trainable(model).values()])

    for method, changes in (("lora", {}), ("svf", {"init_std": 0.1})):
        first, again, other = (initial(method, seed, **changes) for seed in (0, 0, 1))
        assert first.equal(again)
        assert not first.equal(other)


def test_half_of_the_layers(tiny_model: LlamaForCausalLM) -> None:
    for method in ("svf", "lora"):
        names = trainable(adapted(copy.deepcopy(tiny_model), method, layers="half"))
        assert names and all(".layers.1." in name for name in names)
    assert layer_indices("half", 5) == [2, 3, 4]
    assert layer_indices([3, 1], 5) == [1, 3]
    assert layer_indices("all", 5) is None
    with pytest.raises(ValueError, match="layers 0 to 4"):
        layer_indices([1, 5], 5)


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_provenance_is_in_the_saved_configuration(
    method: Literal["svf", "lora"], tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    wanted = Recipe(peft=PEFT[method], layers="all", train=recipe(), seeds=[4])
    build_adapter(tiny_model, wanted, seed=4, task="math", revision=commit).save_pretrained(str(tmp_path))
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["revision"] == commit
    assert method == "lora" or (saved["task"], saved["seed"]) == ("math", 4)


@pytest.mark.slow
def test_saved_bytes_do_not_depend_on_the_hash_seed(tiny_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from transformers import LlamaForCausalLM; from training.setting import adapted\n"
        "for method in ('svf', 'lora'):\n"
        "    model = adapted(LlamaForCausalLM.from_pretrained(sys.argv[1]), method)\n"
        "    model.save_pretrained(f'{sys.argv[2]}/{method}')"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        arguments = [sys.executable, "-c", script, str(tiny_folder), str(tmp_path / seed)]
        subprocess.run(arguments, check=True, env=environment)
    for method in ("svf", "lora"):
        first, second = (
            {path.name: path.read_bytes() for path in (tmp_path / seed / method).iterdir()} for seed in ("1", "2")
        )
        assert first == second
        assert {"adapter_config.json", "adapter_model.safetensors"} <= first.keys()
