"""Experts as merged checkpoints and as LoRAs answer as the SVF model does."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from svf.models import TARGETS, make_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from t2.exchange.export import export_lora, export_merged, low_rank_change
from t2.svf import BasisCache, Expert, SvfConfig, build_cache, checkpoint_weights, mix, narrow_basis, scaled_weight
from t2.svf.base_checkpoint import BaseCheckpoint
from t2.svf.experts import save_expert

SHAPES = {"tall": (12, 7), "square": (8, 8), "wide": (5, 9)}


def save_base(folder: Path, tokenizer: PreTrainedTokenizerFast, **settings: object) -> Path:
    make_model(**settings).save_pretrained(folder, max_shard_size="40KB")  # type: ignore[arg-type]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """In shards, with tied embeddings, biases, and tall, square and wide matrices."""
    return save_base(tmp_path / "base", tiny_tokenizer, tie_word_embeddings=True)


def random_expert(base: Path, seed: int = 0, dtype: torch.dtype | None = None, half: bool = False) -> Expert:
    """An expert as training saves it: its fingerprint is that of the base in ``dtype``."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype or torch.float32)
    layers = [1, 2] if half else None
    config = SvfConfig(target_modules=TARGETS, layers_to_transform=layers, init_std=0.3, init_seed=seed)
    adapted = get_peft_model(model, config)
    return Expert(
        adapted.z(),
        {
            "base_model_name_or_path": str(base),
            "basis_fingerprint": adapted.peft_config["default"].basis_fingerprint,
            "task": "math",
        },
    )


def svf_logits(base: Path, expert: Expert, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    folder = base.parent / "as-svf"
    save_expert(expert, folder)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, folder).eval()(tokens).logits


def close(first: Tensor, second: Tensor) -> bool:
    """Float32 logits that differ by no more than 1e-4 of the largest."""
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Merged checkpoints


@pytest.mark.parametrize("half", [False, True])
def test_a_merged_checkpoint_answers_as_the_expert_does(base: Path, tokens: Tensor, tmp_path: Path, half: bool) -> None:
    assert len(list(base.glob("*.safetensors"))) > 2
    before, expert = contents(base), random_expert(base, half=half)
    export_merged(expert, BaseCheckpoint(base), tmp_path / "merged")
    assert contents(base) == before

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert type(model) is LlamaForCausalLM and model.lm_head.weight is model.model.embed_tokens.weight
    expected = svf_logits(base, expert, tokens)
    with torch.no_grad():
        assert close(model(tokens).logits, expected)
    assert not close(make_model(tie_word_embeddings=True)(tokens).logits, expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_only_adapted_matrices_change_in_the_shards_of_the_base(base: Path, tmp_path: Path) -> None:
    expert = random_expert(base, half=True)
    export_merged(expert, BaseCheckpoint(base), tmp_path / "merged")
    names = {path.name for path in base.glob("*.safetensors")}
    assert names == {path.name for path in (tmp_path / "merged").glob("*.safetensors")}
    index, expected = (
        json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (tmp_path / "merged", base)
    )
    assert index["weight_map"] == expected["weight_map"]
    assert index["metadata"]["total_size"] == expected["metadata"]["total_size"]
    for name in names:
        old, new = load_file(base / name), load_file(tmp_path / "merged" / name)
        assert old.keys() == new.keys()
        for key, weight in old.items():
            assert torch.equal(new[key], weight) == (key.removesuffix(".weight") not in expert.z)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_bfloat16_weights_are_rounded_once(
    stored: torch.dtype, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, tokens: Tensor
) -> None:
    """A base that is stored in bfloat16, and one that only runs in it."""
    base = save_base(tmp_path / "base", tiny_tokenizer, dtype=stored)
    expert = random_expert(base, dtype=torch.bfloat16)
    dtype = None if stored == torch.bfloat16 else torch.bfloat16
    export_merged(expert, BaseCheckpoint(base, dtype), tmp_path / "merged")
    merged = checkpoint_weights(tmp_path / "merged", TARGETS)
    for name, weight in checkpoint_weights(base, TARGETS, torch.bfloat16).items():
        _, q, side = narrow_basis(weight)
        exact = scaled_weight(weight.double(), q.double(), expert.z[name].double(), side)
        assert merged[name].dtype == torch.bfloat16
        ulp = torch.finfo(torch.bfloat16).eps * exact.abs()
        assert ((merged[name].double() - exact).abs() <= 0.5 * ulp + 1e-5 * exact.abs().max()).all()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert model.dtype == torch.bfloat16
    # Where the expert runs as it is, not even that rounding happens.
    with torch.no_grad():
        merged_logits, own = model(tokens).logits.float(), svf_logits(base, expert, tokens, torch.bfloat16).float()
    assert 0 < (merged_logits - own).norm() < 0.05 * own.norm()


def test_a_basis_cache_and_a_computed_basis_give_the_same_files(base: Path, tmp_path: Path) -> None:
    expert = random_expert(base)
    build_cache(checkpoint_weights(base, TARGETS), tmp_path / "basis")
    cached = BaseCheckpoint(base, basis=BasisCache.open(tmp_path / "basis"))
    for export in (export_merged, export_lora):
        export(expert, BaseCheckpoint(base), tmp_path / f"{export.__name__}-computed")
        export(expert, cached, tmp_path / f"{export.__name__}-cached")
        computed, from_cache = (contents(tmp_path / f"{export.__name__}-{way}") for way in ("computed", "cached"))
        assert computed == from_cache


def test_weights_in_other_layouts_stay_behind(base: Path, tmp_path: Path) -> None:
    """Mistral's folders hold a second copy of the weights under other names."""
    shutil.copy(next(base.glob("model-00001*")), base / "consolidated.safetensors")
    (base / "modeling_other.py").write_text("raise RuntimeError\n")
    (base / "LICENSE").write_text("Apache-2.0\n")
    expert = random_expert(base)
    export_merged(expert, BaseCheckpoint(base), tmp_path / "merged")
    names = contents(tmp_path / "merged").keys()
    assert {"LICENSE", "config.json", "tokenizer.json", "generation_config.json"} <= names
    assert not {"consolidated.safetensors", "modeling_other.py"} & names


# LoRA


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_no_matrix_of_the_rank_is_nearer(shape: tuple[int, int], rank: int) -> None:
    """Eckart and Young: against the singular values of the dense difference."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    basis = narrow_basis(weight)
    z = 1 + 0.5 * torch.randn(min(shape), generator=generator, dtype=torch.float64)
    difference = scaled_weight(weight, basis.q, z, basis.side) - weight
    a, b, change, discarded = low_rank_change(weight, basis, z, rank)
    assert (a.shape, b.shape) == ((rank, shape[1]), (shape[0], rank))

    u, sigma, v = torch.linalg.svd(difference, full_matrices=False)
    best = (u[:, :rank] * sigma[:rank]) @ v[:rank]
    assert torch.allclose(b @ a, best, atol=1e-10)
    assert change == pytest.approx(difference.norm().item())
    assert discarded == pytest.approx(sigma[rank:].norm().item(), abs=1e-12)
    assert discarded == pytest.approx((difference - b @ a).norm().item(), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_full_rank_is_exact_and_more_is_zeros(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    basis, full = narrow_basis(weight), min(shape)
    z = torch.linspace(-0.5, 2, full)
    a, b, _, discarded = low_rank_change(weight, basis, z, full + 2)
    assert discarded == 0 and not a[full:].any() and not b[:, full:].any()
    assert torch.allclose(weight + b @ a, scaled_weight(weight, basis.q, z, basis.side), atol=1e-5)
    nothing = low_rank_change(weight, basis, torch.ones(full), 2)
    assert (nothing.change, nothing.discarded) == (0, 0) and not (nothing.b @ nothing.a).any()


@pytest.mark.parametrize("half", [False, True])
def test_peft_serves_a_lora_of_full_rank_as_the_expert(base: Path, tokens: Tensor, tmp_path: Path, half: bool) -> None:
    expert = random_expert(base, half=half)
    rows = export_lora(expert, BaseCheckpoint(base), tmp_path / "lora")
    assert [row.layer for row in rows] == ([1, 2, None] if half else [0, 1, 2, None])
    assert all(row.share == 0 and row.change > 0 for row in rows)
    served = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora").eval()
    assert served.peft_config["default"].peft_type == "LORA"
    with torch.no_grad():
        assert close(served(tokens).logits, svf_logits(base, expert, tokens))
        assert close(served.merge_and_unload()(tokens).logits, svf_logits(base, expert, tokens))


def test_the_share_that_a_lora_discards_is_reported_by_layer(base: Path, tmp_path: Path) -> None:
    expert = random_expert(base)
    shares = []
    for rank in (1, 8, 31, 32):
        rows = export_lora(expert, BaseCheckpoint(base), tmp_path / f"lora-{rank}", rank)
        factors = load_file(tmp_path / f"lora-{rank}" / "adapter_model.safetensors")
        config = json.loads((tmp_path / f"lora-{rank}" / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["bias"]) == (rank, rank, "none")
        assert config["target_modules"] == sorted(expert.z) and config["base_model_name_or_path"] == str(base)
        left, whole = dict.fromkeys(range(3), 0.0), dict.fromkeys(range(3), 0.0)
        for name, weight in checkpoint_weights(base, TARGETS).items():
            _, q, side = narrow_basis(weight)
            difference = scaled_weight(weight, q, expert.z[name], side) - weight
            a, b = (factors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
            assert len(a) == b.shape[1] == rank
            left[int(name.split(".")[2])] += float((difference - b @ a).square().sum())
            whole[int(name.split(".")[2])] += float(difference.square().sum())
        for layer, row in enumerate(rows[:-1]):
            assert row.layer == layer and row.change == pytest.approx(math.sqrt(whole[layer]), rel=1e-4)
            assert row.share == pytest.approx(math.sqrt(left[layer] / whole[layer]), rel=1e-3, abs=1e-5)
        shares.append(rows[-1].share)
    assert 1 > shares[0] > shares[1] > shares[2] > shares[3] == 0


# Both


def test_a_mix_is_exported_as_any_expert(base: Path, tokens: Tensor, tmp_path: Path) -> None:
    first, second = random_expert(base, 0), random_expert(base, 1)
    mixed = Expert(mix([first.z, second.z], torch.tensor([0.3, 0.7])), first.provenance)
    export_merged(mixed, BaseCheckpoint(base), tmp_path / "merged")
    export_lora(mixed, BaseCheckpoint(base), tmp_path / "lora")
    expected = svf_logits(base, mixed, tokens)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    served = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora").eval()
    with torch.no_grad():
        assert close(merged(tokens).logits, expected) and close(served(tokens).logits, expected)


@pytest.mark.parametrize("export", [export_merged, export_lora])
def test_what_does_not_belong_together_is_refused_and_leaves_nothing(export, base: Path, tmp_path: Path) -> None:
    expert, out = random_expert(base), tmp_path / "out"
    name = next(iter(expert.z))
    with pytest.raises(ValueError, match=r"holds no model\.layers\.9\.up\.weight \(1 of the expert's 1 matrices"):
        export(Expert({"model.layers.9.up": torch.ones(4)}), BaseCheckpoint(base), out)
    with pytest.raises(ValueError, match=rf"{name} of {base} takes a z of 32 numbers, that of .* \(5,\)"):
        export(Expert({name: torch.ones(5)}), BaseCheckpoint(base), out)
    with pytest.raises(ValueError, match="made for other base weights"):
        export(expert, BaseCheckpoint(base, torch.bfloat16), out)
    build_cache(checkpoint_weights(base, TARGETS, torch.bfloat16), tmp_path / "basis")
    stale = BaseCheckpoint(base, basis=BasisCache.open(tmp_path / "basis"))
    with pytest.raises(ValueError, match="made from other weights"):
        export(Expert(expert.z), stale, out)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(ValueError, match="holds quantised weights"):
        export(expert, BaseCheckpoint(base), out)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "basis"}
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="exists already"):
        export(expert, BaseCheckpoint(base), out)
    assert contents(out) == {"mine.txt": b"kept"}


@pytest.mark.parametrize("rank", [0, 33])
def test_a_rank_out_of_range_is_refused(rank: int, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"rank is {rank}; it must be from 1 to 32"):
        export_lora(random_expert(base), BaseCheckpoint(base), tmp_path / "lora", rank)
