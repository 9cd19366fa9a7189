"""Files of the paper's public code become experts that do what they did there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from svf.models import make_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from t2.exchange.reference import import_reference
from t2.svf import BasisCache, build_cache, checkpoint_weights, load_expert, save_expert
from t2.svf.base_checkpoint import BaseCheckpoint


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_model(mlp_bias=False).save_pretrained(tmp_path / "base", max_shard_size="40KB")
    return tmp_path / "base"


def parameters(model: LlamaForCausalLM, dtype: torch.dtype = torch.bfloat16, std: float = 0.5) -> dict[str, Tensor]:
    """What the reference code learns, in its order: a vector per tensor with "mlp" in its name."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(min(weight.shape), generator=generator) * std + 0.1).to(dtype)
        for name, weight in model.state_dict().items()
        if "mlp" in name
    }


def reference_model(learned: dict[str, Tensor], max_mult: float) -> LlamaForCausalLM:
    """The base with W' as the formula of the reference code has it, in float64."""
    model = make_model(mlp_bias=False)
    for name, p in learned.items():
        weight = model.get_parameter(name)
        u, sigma, v = torch.svd(weight.detach().double())
        mask = (torch.sigmoid(p) * max_mult).double()
        scaled = u @ torch.diag(sigma * mask) @ v.T * (sigma.sum() / (sigma * mask).sum())
        weight.data.copy_(scaled)
    return model


def saved(learned: dict[str, Tensor], form: str, folder: Path) -> Path:
    """The ways in which such files are written."""
    as_parameters = {name: nn.Parameter(p) for name, p in learned.items()}
    underscored = nn.ParameterDict({name.replace(".", "_"): p for name, p in as_parameters.items()})
    policy = nn.Module()
    policy.learnable_params_module_list = nn.ParameterList(as_parameters.values())
    whole = nn.Module()
    whole.learnable_params = underscored
    contents = {
        "learnable": as_parameters,
        "policy": policy.state_dict(),
        "underscored": underscored.state_dict(),
        "policy of names": whole.state_dict(),
    }
    torch.save(contents[form], folder / f"{form}.pt")
    return folder / f"{form}.pt"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", ["learnable", "policy", "underscored", "policy of names"])
def test_an_imported_expert_answers_as_the_reference_model(
    form: str, dtype: torch.dtype, base: Path, tokens: Tensor, tmp_path: Path
) -> None:
    learned = parameters(make_model(mlp_bias=False), dtype)
    expert = import_reference(saved(learned, form, tmp_path), BaseCheckpoint(base), {"task": "math", "seed": 42})
    save_expert(expert, tmp_path / "expert")
    loaded = load_expert(tmp_path / "expert")
    assert {f"{name}.weight" for name in loaded.z} == learned.keys()
    assert (loaded.provenance["task"], loaded.provenance["seed"]) == ("math", 42)

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "expert").eval()
    assert model.peft_config["default"].parametrisation == "direct"  # type: ignore[attr-defined]
    with torch.no_grad():
        found, expected = model(tokens).logits, reference_model(learned, max_mult=2.0)(tokens).logits
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
        plain = make_model(mlp_bias=False)(tokens).logits
        assert (plain - expected).abs().max() > 0.01 * expected.abs().max()


def test_the_mask_has_the_steps_of_the_file_and_a_constant_one_is_the_base(base: Path, tmp_path: Path) -> None:
    """Around p = 0.1 a step of bfloat16 is as large as what training changes, so z is what was really applied."""
    learned = parameters(make_model(mlp_bias=False), std=0.01)
    z = import_reference(saved(learned, "policy", tmp_path), BaseCheckpoint(base)).z
    for name, p in learned.items():
        ratios = z[name.removesuffix(".weight")] / z[name.removesuffix(".weight")].max()
        mask = torch.sigmoid(p).float()
        assert torch.allclose(ratios, mask / mask.max(), rtol=1e-6)
        assert len(mask.unique()) < 8 < len(torch.sigmoid(p.float()).unique())
    constant = {name: torch.full_like(p, 0.7) for name, p in learned.items()}
    z = import_reference(saved(constant, "policy", tmp_path), BaseCheckpoint(base)).z
    assert all(torch.allclose(values, torch.ones_like(values), atol=1e-6) for values in z.values())


def test_a_basis_cache_serves_and_the_expert_belongs_to_its_base(base: Path, tmp_path: Path) -> None:
    file = saved(parameters(make_model(mlp_bias=False)), "policy", tmp_path)
    weights = checkpoint_weights(base, ["gate_proj", "up_proj", "down_proj"])
    build_cache(weights, tmp_path / "basis")
    computed = import_reference(file, BaseCheckpoint(base))
    cached = import_reference(file, BaseCheckpoint(base, basis=BasisCache.open(tmp_path / "basis")))
    assert all(torch.equal(computed.z[name], cached.z[name]) for name in weights)
    assert computed.provenance == cached.provenance
    save_expert(computed, tmp_path / "expert")
    with pytest.raises(ValueError, match="made for other base weights"):
        PeftModel.from_pretrained(make_model(seed=1, mlp_bias=False), tmp_path / "expert")


class Planted:
    """What an unpickler would run."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.witness),)


def test_no_code_in_a_file_runs(base: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3), "b": Planted(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt is refused.*save plain tensors"):
        import_reference(tmp_path / "bad.pt", BaseCheckpoint(base))
    assert not (tmp_path / "ran").exists()
    torch.save(nn.ParameterDict({"a": torch.ones(3)}), tmp_path / "object.pt")
    with pytest.raises(ValueError, match=r"object\.pt is refused"):
        import_reference(tmp_path / "object.pt", BaseCheckpoint(base))


def test_what_is_no_expert_of_this_base_is_refused(base: Path, tmp_path: Path) -> None:
    learned = parameters(make_model(mlp_bias=False))

    def refused(contents: object, match: str) -> None:
        torch.save(contents, tmp_path / "file.pt")
        with pytest.raises(ValueError, match=match):
            import_reference(tmp_path / "file.pt", BaseCheckpoint(base))

    refused([torch.ones(3)], "holds a list; expected a dict of vectors")
    refused({}, "expected a dict of vectors")
    refused(learned | {"weights": torch.ones(2, 3)}, r"under \['weights'\]; expected")
    refused(learned | {"model.layers.7.mlp.up_proj.weight": torch.ones(3)}, r"names model\.layers\.7.* does not hold")
    refused(dict.fromkeys(learned, torch.ones(5)), r"holds \(5,\) for model\.layers\.0\.mlp\.gate_proj")
    refused(
        {f"learnable_params_module_list.{i}": torch.ones(32) for i in range(8)},
        "holds 8 vectors without names, and .* has 9 mlp matrices",
    )
    first = next(iter(learned))
    broken = learned | {first: torch.full_like(learned[first], float("nan"))}
    refused(broken, r"file\.pt: the z of .* numbers that are not finite")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"torn\.pt is refused: it is damaged"):
        import_reference(tmp_path / "torn.pt", BaseCheckpoint(base))
    with pytest.raises(FileNotFoundError):
        import_reference(tmp_path / "absent.pt", BaseCheckpoint(base))
