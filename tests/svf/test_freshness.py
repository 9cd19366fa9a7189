"""No output comes from numbers that are there no more, whoever wrote the new ones, and however."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import LlamaForCausalLM

from svf.models import TARGETS, make_model
from t2.svf import SvfConfig, build_cache, model_weights, stack
from t2.svf.freshness import MANY_TOKENS, Trace

Randomise = Callable[..., None]
Write = Callable[[nn.Parameter, Tensor], None]


def replace_data(parameter: nn.Parameter, values: Tensor) -> None:
    parameter.data = values.clone()


def copy_data(parameter: nn.Parameter, values: Tensor) -> None:
    parameter.data.copy_(values)


def copy_counted(parameter: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def from_vector(parameter: nn.Parameter, values: Tensor) -> None:
    vector_to_parameters(values.reshape(-1).clone(), [parameter])


def through_shared_memory(parameter: nn.Parameter, values: Tensor) -> None:
    vector = parameters_to_vector([parameter]).detach().clone()
    vector_to_parameters(vector, [parameter])
    vector.copy_(values.reshape(-1))


def through_numpy(parameter: nn.Parameter, values: Tensor) -> None:
    parameter.detach().numpy()[:] = values.numpy()


WRITES = [replace_data, copy_data, copy_counted, from_vector, through_shared_memory, through_numpy]


@pytest.fixture(params=["direct", "sigmoid", "renormalised"])
def config(request: pytest.FixtureRequest) -> SvfConfig:
    form = "direct" if request.param == "direct" else "sigmoid"
    renormalise = request.param == "renormalised"
    return SvfConfig(target_modules=list(TARGETS), parametrisation=form, renormalise=renormalise, init_std=0.1)


@pytest.fixture
def adapted(config: SvfConfig, randomise: Randomise) -> PeftModel:
    model = get_peft_model(make_model(), config).eval()
    randomise(model, std=0.1)
    return model


def factored(model: PeftModel, tokens: Tensor) -> Tensor:
    """What a model answers that keeps no weight."""
    model.set_folding(False)
    logits: Tensor = model(tokens).logits
    model.set_folding(True)
    return logits


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_every_write_to_a_parameter_reaches_the_output(write: Write, adapted: PeftModel, tokens: Tensor) -> None:
    with torch.no_grad():
        before = adapted(tokens).logits
        for layer in adapted.svf_layers().values():
            parameter = layer.svf_z["default"]
            write(parameter, parameter.detach() * torch.linspace(0.5, 1.4, layer.rank))
        after = adapted(tokens).logits
        assert not close(after, before)
        assert close(after, factored(adapted, tokens))


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_every_write_to_the_base_weights_gives_the_model_of_the_new_ones(
    write: Write,
    config: SvfConfig,
    tokens: Tensor,
    randomise: Randomise,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    model, other = get_peft_model(make_model(seed=0), config).eval(), get_peft_model(make_model(seed=1), config).eval()
    for peft_model in (model, other):
        randomise(peft_model, std=0.1)
    with torch.no_grad():
        model(tokens)
        sources = other.svf_layers()
        for name, layer in model.svf_layers().items():
            write(layer.base_layer.weight, sources[name].base_layer.weight.detach())
            layer.base_layer.bias.copy_(sources[name].base_layer.bias)
        for name, layer in model.svf_layers().items():
            x = torch.ones(1, 2, layer.in_features)
            assert torch.equal(layer(x), sources[name](x))
    assert len(caplog.messages) == 21 and all("has changed" in message for message in caplog.messages)
    assert all(torch.equal(z, other.z()[name]) for name, z in model.z().items())
    model.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).basis_fingerprint == other.peft_config["default"].basis_fingerprint


def test_a_mixed_batch_follows_the_base_weights_too(config: SvfConfig, tokens: Tensor, randomise: Randomise) -> None:
    model, other = get_peft_model(make_model(), config).eval(), make_model()
    randomise(model, std=0.1)
    tables = stack([model.z()])
    with torch.no_grad(), model.per_sample(tables, [0] * len(tokens)):
        model(tokens)
        for base in (model.base_model.model, other):
            for name, parameter in base.named_parameters():
                if "proj" in name and name.endswith("weight") and "svf" not in name:
                    parameter.data.mul_(1.25)
        after = model(tokens).logits
    fresh = get_peft_model(other, SvfConfig(target_modules=list(TARGETS))).eval()
    with torch.no_grad(), fresh.per_sample(tables, [0] * len(tokens)):
        assert torch.equal(after, fresh(tokens).logits)


def test_other_base_weights_under_a_basis_cache_are_refused(
    model: LlamaForCausalLM, tokens: Tensor, tmp_path: Path
) -> None:
    build_cache(model_weights(model, TARGETS), tmp_path)
    adapted = get_peft_model(model, SvfConfig(target_modules=list(TARGETS), init_std=0.1, basis=str(tmp_path)))
    adapted(tokens)
    with torch.no_grad():
        adapted.svf_layers()["model.layers.1.mlp.up_proj"].base_layer.weight[3, 4] += 1
    for _ in range(2):
        with pytest.raises(ValueError, match=r"made from other weights: model\.layers\.1\.mlp\.up_proj differs"):
            adapted(tokens)


def test_equal_values_are_no_change(adapted: PeftModel, tokens: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    expected = adapted(tokens).logits
    built = [layer._folded for layer in adapted.svf_layers().values()]
    adapted.load_state_dict({name: value.clone() for name, value in adapted.state_dict().items()})
    for layer in adapted.svf_layers().values():
        layer.base_layer.weight.data = layer.base_layer.weight.data.clone()
    assert torch.equal(adapted(tokens).logits, expected)
    assert all(layer._folded is fold for layer, fold in zip(adapted.svf_layers().values(), built, strict=True))
    adapted.bfloat16()
    adapted(tokens)
    assert not caplog.messages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("columns", [1, 300, 301])
def test_the_last_bit_of_one_number_shows_when_all_of_the_weight_is_read(dtype: torch.dtype, columns: int) -> None:
    weight = torch.randn(301, columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    trace = Trace(weight)
    assert trace.seems_of(weight) and trace.is_of(weight) and trace.is_of(weight.clone())
    bits = weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])
    bits.data[-1, -1] ^= 1
    assert not trace.is_of(weight)


def test_a_single_number_written_behind_the_counter_shows_in_a_pass_of_many_tokens(
    adapted: PeftModel, caplog: pytest.LogCaptureFixture
) -> None:
    layer = adapted.svf_layers()["model.layers.0.mlp.up_proj"]
    x = torch.ones(1, MANY_TOKENS, layer.in_features)
    layer(x)
    layer.base_layer.weight.data[5, 7] += 1e-3
    layer(x)
    assert caplog.messages == ["the base weight of model.layers.0.mlp.up_proj has changed, and its basis with it"]


def test_importing_the_method_hooks_into_no_optimiser_and_no_module() -> None:
    program = """
import torch.optim.optimizer as optimizer, torch.nn.modules.module as module
def hooks():
    return [len(value) for owner in (optimizer, module) for name, value in sorted(vars(owner).items())
            if name.startswith("_global") and hasattr(value, "__len__")]
import peft, transformers
before = hooks()
import t2.svf, t2.exchange.export, t2.training.adapters
assert before and hooks() == before, (before, hooks())
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
