"""SVF over a base in 8 or 4 bits, against the weights that its layers stand for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from svf.models import TARGETS, make_model
from t2.engine.hf import load_base
from t2.exchange.export import export_lora, export_merged
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights, load_expert, save_expert, stack
from t2.svf.base_checkpoint import BaseCheckpoint
from t2.svf.quantised import layer_weight, quantisation_of, rounded

KINDS = ["int8", "nf4"]
if importlib.util.find_spec("bitsandbytes") is None:
    pytest.skip(
        "bitsandbytes is not installed; `pip install -e '.[quantised]'`, then `pytest tests/svf/test_quantised.py`",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """Tall, square and wide matrices with biases, large enough for several blocks of 64."""
    folder = tmp_path_factory.mktemp("base")
    return save_base(folder, tiny_tokenizer, initializer_range=0.1, hidden_size=64, intermediate_size=128)


def save_base(folder: Path, tokenizer: PreTrainedTokenizerFast, **settings: object) -> Path:
    """A model folder whose model has an embedding for each of its tokenizer's tokens."""
    make_model(vocab_size=len(tokenizer), **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def load(folder: Path, kind: Any = None, dtype: str = "float32") -> Any:
    return load_base(folder, dtype, quantisation=kind)[0]


def adapt(model: Any, std: float = 0.3, **settings: Any) -> Any:
    return get_peft_model(model, SvfConfig(target_modules=TARGETS, init_std=std, **settings)).eval()


def quantised_layers(model: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and quantisation_of(module) is not None
    }


def dequantised(folder: Path, kind: Any) -> Any:
    """The base model with plain weights that equal those which the quantised one multiplies by."""
    model, source = load(folder), load(folder, kind)
    with torch.no_grad():
        for name, layer in quantised_layers(source).items():
            model.get_submodule(name).weight.copy_(layer_weight(layer))
    return model


def far(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


# Weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_s_weight_is_that_of_its_checkpoint_rounded(folder: Path, kind: Any, dtype: str) -> None:
    model = load(folder, kind, dtype)
    layers = quantised_layers(model)
    assert len(layers) == 3 * 7
    plain = checkpoint_weights(folder, TARGETS, getattr(torch, dtype))
    lazily = checkpoint_weights(folder, TARGETS, getattr(torch, dtype), quantisation=kind)
    for run in (False, True):  # a first pass must not change what is read
        if run:
            with torch.no_grad():
                model(torch.ones(1, 3, dtype=torch.long))
        for name, layer in layers.items():
            assert torch.equal(layer_weight(layer), rounded(plain[name], kind))
            assert torch.equal(layer_weight(layer), lazily[name])
            assert 0 < far(layer_weight(layer).float(), plain[name].float()) < {"int8": 0.01, "nf4": 0.12}[kind]


def test_4_bit_layers_compute_alike_in_training_and_evaluation(folder: Path, tokens: Tensor) -> None:
    model, plain = load(folder, "nf4"), dequantised(folder, "nf4")
    with torch.no_grad():
        evaluated = model(tokens).logits
        assert torch.equal(evaluated, model.train()(tokens).logits)
        assert far(evaluated, plain(tokens).logits) < 1e-6


# The adapted model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradients", [True, False])
def test_z_of_one_is_the_quantised_base_bit_for_bit(
    folder: Path, kind: Any, dtype: str, gradients: bool, tokens: Tensor
) -> None:
    expected = load(folder, kind, dtype)(tokens).logits
    model = adapt(load(folder, kind, dtype), std=0.0)
    with torch.set_grad_enabled(gradients):
        assert torch.equal(model(tokens).logits, expected)
    ones = {name: z[None] for name, z in model.z().items()}
    with torch.no_grad(), model.per_sample(ones, [0] * len(tokens)):
        assert torch.equal(model(tokens).logits, expected)


def test_a_scaled_layer_is_the_quantised_weight_with_scaled_singular_values(folder: Path, kind: Any) -> None:
    model = adapt(load(folder, kind)).train()  # int8 rounds activations in evaluation
    for layer in model.svf_layers().values():
        weight, z = layer_weight(layer.base_layer).double(), layer.z("default").double()
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        assert torch.allclose(layer.basis().sigma.double(), s, rtol=1e-5, atol=1e-6)
        x = torch.randn(2, 5, layer.in_features)
        expected = nn.functional.linear(x.double(), u @ torch.diag(s * z) @ vh, layer.base_layer.bias.double())
        assert far(layer(x).double(), expected) < 1e-5, layer.key


def test_gradients_of_z_are_those_of_the_dequantised_model(folder: Path, kind: Any, tokens: Tensor) -> None:
    gradients = []
    for model in (adapt(load(folder, kind)), adapt(dequantised(folder, kind))):
        model.train()
        model(tokens, labels=tokens).loss.backward()
        gradients.append({name: layer.svf_z["default"].grad for name, layer in model.svf_layers().items()})
    for name, gradient in gradients[0].items():
        assert far(gradient, gradients[1][name]) < 1e-4, name


def test_gradients_of_z_equal_finite_differences(folder: Path, kind: Any, tokens: Tensor) -> None:
    model = adapt(load(folder, kind)).train()
    model(tokens, labels=tokens).loss.backward()
    step = 1e-2
    for layer in list(model.svf_layers().values())[:7]:  # the lowest: the gradient has come through all others
        z = layer.svf_z["default"]
        direction = z.grad / z.grad.norm()
        sides = []
        with torch.no_grad():
            for sign in (1, -1):
                z += sign * step * direction
                sides.append(model(tokens, labels=tokens).loss.double())
                z -= sign * step * direction
        assert float((sides[0] - sides[1]) / (2 * step)) == pytest.approx(float(z.grad.norm()), rel=0.01), layer.key


def test_samples_of_a_mixed_batch_answer_as_alone(folder: Path, tokens: Tensor) -> None:
    experts = [adapt(load(folder), init_seed=seed).z() for seed in (0, 1)]
    model = attach(load(folder, "nf4"), SvfConfig(target_modules=TARGETS))
    rows = [1, -1, 0, 1]
    with torch.no_grad():
        with model.per_sample(stack(experts), rows):
            together = model(tokens).logits
        for i, row in enumerate(rows):
            with model.per_sample(stack(experts), [row]):
                alone = model(tokens[i : i + 1]).logits[0]
            assert far(together[i], alone) < 1e-5


# Files


def test_a_cache_of_the_quantised_base_serves_it_and_no_other(
    folder: Path, kind: Any, tokens: Tensor, tmp_path: Path
) -> None:
    build_cache(checkpoint_weights(folder, TARGETS, torch.float32, quantisation=kind), tmp_path / "basis")
    cached, computed = (adapt(load(folder, kind), basis=basis) for basis in (str(tmp_path / "basis"), None))
    configs = [model.peft_config["default"] for model in (cached, computed)]
    assert configs[0].basis_fingerprint == configs[1].basis_fingerprint
    assert [config.quantisation for config in configs] == [kind, kind]
    with torch.no_grad():
        assert torch.equal(cached(tokens).logits, computed(tokens).logits)
    for wrong in {None, *KINDS} - {kind}:
        model = adapt(load(folder, wrong), basis=str(tmp_path / "basis"))
        with pytest.raises(ValueError, match="made from other weights"):
            model(tokens)


def test_an_expert_comes_back_and_fits_no_other_base(folder: Path, kind: Any, tokens: Tensor, tmp_path: Path) -> None:
    model = adapt(load(folder, kind))
    with torch.no_grad():
        expected = model(tokens).logits
    model.save_pretrained(tmp_path / "peft")
    expert = load_expert(tmp_path / "peft")
    assert expert.provenance["quantisation"] == kind
    save_expert(expert, tmp_path / "ours")
    for saved in ("peft", "ours"):
        with torch.no_grad():
            again = PeftModel.from_pretrained(load(folder, kind), tmp_path / saved).eval()
            assert torch.equal(again(tokens).logits, expected)
    theirs, own = r"\(float32, not quantised\)", rf"\(float32, {kind}\)"
    with pytest.raises(ValueError, match=f"other base weights.*this model {theirs}.* {own}"):
        PeftModel.from_pretrained(load(folder), tmp_path / "peft")


def test_merging_is_refused_and_a_lora_for_the_quantised_base_is_exact(
    folder: Path, kind: Any, tokens: Tensor, tmp_path: Path
) -> None:
    model = adapt(load(folder, kind)).train()
    with pytest.raises(TypeError, match="export the expert as a LoRA"):
        model.merge_and_unload()
    model.save_pretrained(tmp_path / "expert")
    expert, base = load_expert(tmp_path / "expert"), BaseCheckpoint(folder, torch.float32, quantisation=kind)
    with pytest.raises(ValueError, match="--format lora"):
        export_merged(expert, base, tmp_path / "merged")
    with pytest.raises(ValueError, match="not quantised"):
        export_lora(expert, BaseCheckpoint(folder, torch.float32), tmp_path / "lora")
    assert export_lora(expert, base, tmp_path / "lora")[-1].share == 0
    lora = PeftModel.from_pretrained(load(folder, kind), tmp_path / "lora").train()
    with torch.no_grad():
        assert far(lora(tokens).logits, model(tokens).logits) < 1e-4


def test_a_lora_baseline_trains_on_a_quantised_base(folder: Path, kind: Any, tokens: Tensor) -> None:
    model = get_peft_model(load(folder, kind), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = model(tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}


# Refusals


def test_a_device_that_cannot_run_it_is_named(folder: Path, kind: Any) -> None:
    with pytest.raises(ValueError, match=f"cannot run {kind} on xpu"):
        load_base(folder, "float32", quantisation=kind, device="xpu")


def test_a_shape_that_cpus_compute_wrongly_is_refused(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_base(tmp_path, tiny_tokenizer, hidden_size=64, intermediate_size=96)
    with pytest.raises(ValueError, match=r"down_proj has 96 columns"):
        load(tmp_path, "nf4")
    with pytest.raises(ValueError, match="96 columns"):
        rounded(torch.ones(64, 96), "nf4")
    assert len(quantised_layers(load(tmp_path, "int8"))) == 3 * 7


def test_a_repacked_layer_is_refused(folder: Path) -> None:
    model = load(folder, "nf4")
    layer = model.model.layers[0].mlp.up_proj
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="repacked"):
        adapt(model)


def test_a_change_of_a_thousandth_is_applied_whole_by_4_bit_layers_in_16_bits(folder: Path) -> None:
    model = adapt(load(folder, "nf4", "bfloat16"), std=0.0)
    for layer in model.svf_layers().values():
        with torch.no_grad():
            layer.svf_z["default"].fill_(1.001)
            x = torch.randn(2048, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
            product = x.double() @ layer_weight(layer.base_layer).double().T
            change = layer(x).double() - layer.base_layer(x).double()
        assert float((change * product).sum() / product.square().sum()) == pytest.approx(1e-3, rel=0.05)
