from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from svf.models import TARGETS, make_model
from t2.svf import BasisCache, SvfConfig, build_cache, checkpoint_weights, model_weights, narrow_basis


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_holds_the_bases_of_a_model_and_reports_progress(model: LlamaForCausalLM, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    weights = model_weights(model, TARGETS)
    cache = build_cache(weights, tmp_path / "basis", progress=lambda *event: seen.append(event))

    assert seen == [(i, 21, name) for i, name in enumerate(weights, start=1)]
    opened = BasisCache.open(tmp_path / "basis")
    assert opened.fingerprint == cache.fingerprint and len(opened.fingerprint) == 64
    assert list(opened) == sorted(weights)
    for name, weight in weights.items():
        expected, loaded = narrow_basis(weight), opened.load(name, weight)
        assert torch.equal(loaded.q, expected.q) and torch.equal(loaded.sigma, expected.sigma)
        assert loaded.side == expected.side


def test_checkpoint_and_model_give_the_same_cache(model: LlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    build_cache(model_weights(model, TARGETS), tmp_path / "a")
    build_cache(checkpoint_weights(tmp_path / "base", TARGETS), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    half = checkpoint_weights(tmp_path / "base", r".*layers\.0\..*q_proj", torch.bfloat16)
    assert [(name, weight.dtype) for name, weight in half.items()] == [
        ("model.layers.0.self_attn.q_proj", torch.bfloat16)
    ]
    upper = checkpoint_weights(tmp_path / "base", ["q_proj", "up_proj"], layers=[1, 2])
    assert sorted(upper) == sorted(
        f"model.layers.{layer}.{name}" for layer in (1, 2) for name in ("self_attn.q_proj", "mlp.up_proj")
    )


def test_matrices_are_decomposed_on_the_device_that_is_named(model: LlamaForCausalLM, tmp_path: Path) -> None:
    weights = model_weights(model, TARGETS)
    build_cache(weights, tmp_path / "here")
    build_cache(weights, tmp_path / "named", device="cpu")
    assert contents(tmp_path / "here") == contents(tmp_path / "named")
    with pytest.raises(ValueError, match="is on the meta device"):  # the one other device of any machine
        build_cache(weights, tmp_path / "meta", device="meta")


def test_an_attached_model_reads_only_what_it_uses(model: LlamaForCausalLM, tmp_path: Path, tokens: Tensor) -> None:
    folder = tmp_path / "basis"
    build_cache(model_weights(model, TARGETS), folder)
    (folder / "model.layers.2.self_attn.q_proj.safetensors").unlink()
    config = SvfConfig(target_modules=TARGETS, layers_to_transform=[0, 1], init_std=0.1, basis=str(folder))
    computed = SvfConfig(target_modules=TARGETS, layers_to_transform=[0, 1], init_std=0.1)
    from_cache = get_peft_model(make_model(), config)(tokens).logits
    assert torch.equal(from_cache, get_peft_model(make_model(), computed)(tokens).logits)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "swapped"])
def test_a_damaged_cache_is_refused_by_name_and_repaired_by_its_build(
    model: LlamaForCausalLM, tmp_path: Path, damage: str
) -> None:
    weights = model_weights(model, TARGETS)
    build_cache(weights, tmp_path)
    before = contents(tmp_path)
    name = "model.layers.1.mlp.up_proj"
    shard = tmp_path / f"{name}.safetensors"
    data = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(data[:-7])
    elif damage == "flipped":
        data[-100] ^= 1
        shard.write_bytes(data)
    elif damage == "missing":
        shard.unlink()
    else:
        shutil.copy(tmp_path / "model.layers.0.mlp.up_proj.safetensors", shard)
    cache = BasisCache.open(tmp_path)
    cache.load("model.layers.0.mlp.up_proj")
    with pytest.raises(ValueError, match=rf"{tmp_path} is damaged: {name}.safetensors .* run its build again"):
        cache.load(name)
    build_cache(weights, tmp_path)
    assert contents(tmp_path) == before


def test_a_cache_of_other_weights_is_refused_by_name(model: LlamaForCausalLM, tmp_path: Path, tokens: Tensor) -> None:
    build_cache(model_weights(make_model(seed=1), TARGETS), tmp_path)
    peft_model = get_peft_model(model, SvfConfig(target_modules=TARGETS, init_std=0.1, basis=str(tmp_path)))
    with pytest.raises(ValueError, match=rf"{tmp_path} was made from other weights: model\.layers\.0"):
        peft_model(tokens)


def test_a_change_in_dtype_is_a_change_of_weights(tmp_path: Path) -> None:
    weight = torch.ones(3, 4)
    cache = build_cache({"w": weight}, tmp_path)
    with pytest.raises(ValueError, match="other weights"):
        cache.load("w", weight.bfloat16())


def test_a_missing_unfinished_or_unreadable_cache_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no basis cache in .*: build it"):
        BasisCache.open(tmp_path / "nowhere")
    cache = build_cache({"w": torch.ones(3, 4)}, tmp_path)
    with pytest.raises(ValueError, match="does not hold v"):
        cache.load("v")
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "complete": False}))
    with pytest.raises(ValueError, match=r"unfinished \(1 matrices are done\); run its build again"):
        BasisCache.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="damaged index"):
        BasisCache.open(tmp_path)


def test_a_weight_without_singular_values_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad holds values that are not finite"):
        build_cache({"good": torch.ones(2, 3), "bad": torch.full((2, 3), float("nan"))}, tmp_path)
    with pytest.raises(ValueError, match="no weights to decompose"):
        build_cache({}, tmp_path)


def build_in_a_child(folder: Path, die_at: int) -> int:
    """Builds a cache of five matrices in a forked process, which kills itself after ``die_at`` of them."""

    def progress(done: int, total: int, name: str) -> None:
        if done == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        generator = torch.Generator().manual_seed(0)
        build_cache({f"m{i}": torch.randn(9, 5 + i, generator=generator) for i in range(5)}, folder, progress)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_killed_build_continues_behind_the_last_matrix(tmp_path: Path) -> None:
    assert build_in_a_child(tmp_path / "killed", 3) == signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("m*")}
    assert sorted(path.stem for path in done) == ["m0", "m1", "m2"]
    with pytest.raises(ValueError, match="unfinished"):
        BasisCache.open(tmp_path / "killed")
    (tmp_path / "killed" / ".m3.safetensors.tmp").write_bytes(b"half a file")
    assert build_in_a_child(tmp_path / "killed", 99) == 0
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert build_in_a_child(tmp_path / "whole", 99) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_rebuild_keeps_what_is_whole_and_follows_changed_weights(tmp_path: Path) -> None:
    weights = {"a": torch.eye(4), "b": torch.ones(3, 5), "c": torch.eye(2)}
    build_cache(weights, tmp_path)
    stamp = os.stat(tmp_path / "a.safetensors").st_mtime_ns
    changed = {"a": torch.eye(4), "b": 2 * torch.ones(3, 5)}
    cache = build_cache(changed, tmp_path)
    assert os.stat(tmp_path / "a.safetensors").st_mtime_ns == stamp
    assert cache.load("b", changed["b"]).sigma[0] == pytest.approx(2 * 15**0.5)
    assert not (tmp_path / "c.safetensors").exists()
