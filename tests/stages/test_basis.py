from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from t2 import config
from t2.stages.basis import adapted_weights, manifest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layers", ["all", "half", [3, 0]])
def test_only_what_gets_a_z_is_decomposed(layers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    base = config.load().bases["main"].model_copy(update={"layers": layers, "dtype": "bfloat16"})
    weights = adapted_weights(base, "cpu")
    kept = {"all": [0, 1, 2, 3], "half": [2, 3]}.get(str(layers), [0, 3])
    depth = json.loads(Path(base.path, "config.json").read_text())["num_hidden_layers"]
    assert {name.rsplit(".", 1)[-1] for name in weights} == set(base.adapt)
    assert {int(name.split(".")[2]) for name in weights} == {layer for layer in kept if layer < depth}
    assert len(weights) == len(base.adapt) * len([layer for layer in kept if layer < depth])
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_another_tokenizer_of_the_same_weights_is_another_base(tmp_path: Path) -> None:
    """What depends on a base depends on all its files, by the manifest beside the basis."""
    base = config.load(ROOT / "params.yaml").bases["main"]
    copy = base.model_copy(update={"path": str(shutil.copytree(ROOT / base.path, tmp_path / "base"))})
    before, tokenizer = manifest(copy), tmp_path / "base" / "tokenizer.json"
    assert manifest(copy) == before
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1])
    assert manifest(copy) != before
