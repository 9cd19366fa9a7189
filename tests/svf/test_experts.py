from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2.svf import (
    BasisCache,
    Expert,
    base_expert,
    build_cache,
    compare,
    load_expert,
    save_expert,
    stack,
    statistics,
)
from t2.svf.identity import Matrix, Origin

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


def damaged(expert: Expert, folder: Path, name: str, value: float) -> Path:
    """An adapter folder with one number of z overwritten, as no writer of ours would."""
    save_expert(expert, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"checksum": None}))
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"base_model.model.{name}.svf_z"][2] = value
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_wherever_they_come_from(value: float, tmp_path: Path) -> None:
    expert = Expert(experts(1)[0])
    message = rf"the z of {NAMES[1]} holds 1 numbers that are not finite, of 6"
    with pytest.raises(ValueError, match=rf"{tmp_path}/e: {message}"):
        load_expert(damaged(expert, tmp_path / "e", NAMES[1], value))
    with pytest.raises(ValueError, match=message):
        Expert({**expert.z, NAMES[1]: torch.tensor([1, 1, value, 1, 1, 1])})


@pytest.mark.parametrize("damage", ["cut", "flipped", "swapped", "pointer", "empty", "config", "no object"])
def test_a_damaged_adapter_is_refused_by_the_name_of_its_file(damage: str, tmp_path: Path) -> None:
    first, second = (Expert(z, {"task": "math"}) for z in experts(2))
    for expert, folder in ((first, tmp_path / "a"), (second, tmp_path / "b")):
        save_expert(expert, folder)
    file = tmp_path / "a" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[-3] ^= 1
        file.write_bytes(data)
    elif damage == "swapped":
        file.write_bytes((tmp_path / "b" / file.name).read_bytes())
    elif damage == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file = tmp_path / "a" / "adapter_config.json"
        file.write_text('{"peft_type": "SVF",' if damage == "config" else "[1]")
    said = {
        "cut": "is no whole safetensors file",
        "empty": "is no whole safetensors file",
        "flipped": "is damaged, or not the one",
        "swapped": "is damaged, or not the one",
        "pointer": "is a Git LFS pointer, not the file itself; `git lfs pull`",
        "config": "is no whole JSON file",
        "no object": "holds a JSON list; expected an object",
    }
    with pytest.raises(ValueError, match=rf"{file} {said[damage]}"):
        load_expert(tmp_path / "a")


def test_only_z_is_read_of_an_adapter_that_holds_base_matrices_too(tmp_path: Path) -> None:
    expert = Expert(experts(1)[0])
    save_expert(expert, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    base = {"base_model.model.model.embed_tokens.weight": torch.ones(9, 6)}
    save_file(load_file(file) | base, file, metadata={"format": "pt"})
    assert list(load_expert(tmp_path).z) == NAMES
    save_file(base, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{file} holds no z"):
        load_expert(tmp_path)


def weights(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(6, 8, generator=generator).to(dtype) for name in NAMES}


def matrices(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Matrix]:
    return {name: Matrix.of(weight, name) for name, weight in weights(dtype, seed).items()}


def test_an_expert_runs_on_its_own_base_and_with_a_note_in_another_dtype(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expert = Expert(experts(1)[0], {"task": "math", **Origin.of(matrices()).noted()})
    save_expert(expert, tmp_path)
    assert load_expert(tmp_path, matrices()).provenance == expert.provenance
    assert not caplog.messages
    load_expert(tmp_path, matrices(torch.bfloat16))
    (note,) = caplog.messages
    assert note.startswith("the expert of math was made for the weights of the base model in float32; here")
    assert "bfloat16" in note
    with pytest.raises(
        ValueError, match=rf"{tmp_path}: .* other base weights .*\(bfloat16, .*\(float32, not quantised"
    ):
        load_expert(tmp_path, matrices(torch.bfloat16, seed=1))


def test_an_expert_of_other_weights_is_refused_by_what_differs(tmp_path: Path) -> None:
    save_expert(Expert(experts(1)[0], Origin.of(matrices()).noted()), tmp_path)
    with pytest.raises(ValueError, match=f"scales {NAMES[2]}, which the base model does not hold"):
        load_expert(tmp_path, {name: matrix for name, matrix in matrices().items() if name != NAMES[2]})
    narrow = {name: Matrix.of(torch.ones(4, 4), name) for name in NAMES}
    with pytest.raises(ValueError, match=rf"{NAMES[0]} of the base model takes a z of 4 numbers, that of .* \(6,\)"):
        load_expert(tmp_path, narrow)


def test_a_basis_cache_says_what_an_expert_must_be_made_for(tmp_path: Path) -> None:
    cache = build_cache(weights(), tmp_path)
    assert cache.matrices == BasisCache.open(tmp_path).matrices == matrices()
    index = json.loads((tmp_path / "index.json").read_text())
    for entry in index["matrices"].values():
        del entry["rounded"], entry["dtype"]  # as older caches are
    (tmp_path / "index.json").write_text(json.dumps(index))
    older = Origin.of(BasisCache.open(tmp_path).matrices)
    assert older.basis_fingerprint == cache.fingerprint and older.rounded_fingerprint is None
    assert build_cache(weights(), tmp_path).matrices == matrices()
