"""The two paths of a layer: the same function, the same gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from t2.svf import SvfConfig, SvfLinear, narrow_basis
from t2.svf.layer import SMALLEST_FOLDED

SHAPES = {"tall": (11, 6), "square": (7, 7), "wide": (6, 11)}  # (m, n)


def make_layer(
    shape: tuple[int, int],
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **config: object,
) -> SvfLinear:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(shape[1], shape[0], bias=bias, dtype=torch.float64).requires_grad_(False)
    for parameter in linear.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    linear.to(dtype)
    layer = SvfLinear(linear, "layer.0", lambda: narrow_basis(linear.weight))
    layer.update_layer("default", SvfConfig(target_modules=["layer"], init_std=0.3, init_seed=seed, **config))
    layer.set_adapter("default")
    return layer


def run(layer: SvfLinear, x: Tensor, folding: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Output and the gradients at input and parameter, for a loss that weights outputs unequally."""
    layer.set_folding(folding)
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    (y.square() * torch.linspace(0.1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y.detach(), x.grad, layer.svf_z["default"].grad


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(1, 9),
    n=st.integers(1, 9),
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    bias=st.booleans(),
    sigmoid=st.booleans(),
    renormalise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_folded_and_factored_agree_forward_and_backward(
    m: int, n: int, batch: int, length: int, bias: bool, sigmoid: bool, renormalise: bool, seed: int
) -> None:
    form = "sigmoid" if sigmoid else "direct"
    layer = make_layer((m, n), bias, seed=seed, parametrisation=form, renormalise=renormalise)
    x = torch.randn(batch, length, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assume(layer.z("default").abs().min() > 0.02)  # the quotient by z loses digits
    for folded, factored in zip(run(layer, x, True), run(layer, x, False), strict=True):
        scale = factored.abs().max().clamp_min(1)
        assert (folded - factored).abs().max() <= 1e-8 * scale


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize("tokens", [2, 40])
def test_gradients_equal_finite_differences(shape: tuple[int, int], bias: bool, folding: bool, tokens: int) -> None:
    layer = make_layer(shape, bias)
    layer.set_folding(folding)
    x = torch.randn(1, tokens, shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    z = layer.svf_z["default"]

    def loss(x: Tensor) -> Tensor:
        return layer(x).tanh().sum()

    inputs = x.clone().requires_grad_()
    loss(inputs).backward()
    step = 1e-6
    with torch.no_grad():
        for parameter, gradient in ((z, z.grad), (x, inputs.grad)):
            for index in itertools.islice(range(parameter.numel()), 12):
                value = parameter.view(-1)[index].clone()
                sides = []
                for sign in (1, -1):
                    parameter.view(-1)[index] = value + sign * step
                    sides.append(loss(x))
                parameter.view(-1)[index] = value
                estimate = (sides[0] - sides[1]) / (2 * step)
                assert estimate == pytest.approx(gradient.view(-1)[index].item(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_both_paths_are_the_rebuilt_weight_of_the_paper(shape: tuple[int, int]) -> None:
    layer = make_layer(shape)
    u, s, vh = torch.linalg.svd(layer.base_layer.weight, full_matrices=False)
    z = layer.svf_z["default"].detach().clone().requires_grad_()
    x = torch.randn(2, 5, shape[1], dtype=torch.float64)
    y = nn.functional.linear(x, u @ torch.diag(s * z) @ vh, layer.base_layer.bias)
    (y.square() * torch.linspace(0.1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    for folding in (True, False):
        out, _, gradient = run(layer, x, folding)
        assert torch.allclose(out, y.detach(), rtol=1e-9, atol=1e-9)
        assert torch.allclose(gradient, z.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_z_of_one_is_the_base_layer_bit_for_bit(
    dtype: torch.dtype, shape: tuple[int, int], folding: bool, gradients: bool
) -> None:
    layer = make_layer(shape, dtype=dtype)
    layer.set_folding(folding)
    x = torch.randn(3, 5, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.set_grad_enabled(gradients):
        assert not torch.equal(layer(x), layer.base_layer(x))
        with torch.no_grad():
            layer.svf_z["default"].fill_(1)
        y = layer(x)
    assert y.requires_grad == gradients and y.dtype == dtype
    assert torch.equal(y, layer.base_layer(x))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_tiny_z_runs_factored_and_has_a_gradient(shape: tuple[int, int]) -> None:
    layer = make_layer(shape)
    for value in (0.0, -0.9 * SMALLEST_FOLDED):
        with torch.no_grad():
            layer.svf_z["default"][1] = value
        x = torch.randn(2, 20, shape[1], dtype=torch.float64)
        for ours, factored in zip(run(layer, x, True), run(layer, x, False), strict=True):
            assert torch.equal(ours, factored)
        assert layer.svf_z["default"].grad[1] != 0


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_low_precision_gradients_are_close(shape: tuple[int, int]) -> None:
    x = torch.randn(4, 16, shape[1], generator=torch.Generator().manual_seed(1))
    exact = run(make_layer(shape), x.double(), True)[2]
    for folding in (True, False):
        low = run(make_layer(shape, dtype=torch.bfloat16), x.bfloat16(), folding)[2]
        assert low.dtype == torch.float32
        assert (low - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("shape", [(96, 64), (64, 96)], ids=["tall", "wide"])
@pytest.mark.parametrize("folding", [True, False])
def test_a_z_that_bfloat16_would_round_to_1_scales_a_bfloat16_layer(shape: tuple[int, int], folding: bool) -> None:
    layer = make_layer(shape, dtype=torch.bfloat16, bias=False)
    layer.set_folding(folding)
    x = torch.randn(64, shape[1], generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.no_grad():
        layer.svf_z["default"].fill_(1.003)
        assert (layer.svf_z["default"].bfloat16() == 1).all()
        scaled, base = layer(x).double(), layer.base_layer(x).double()
    assert (scaled * base).sum() / base.square().sum() == pytest.approx(1.003, abs=3e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_every_optimiser_step_reaches_the_folded_weight(fused: bool) -> None:
    layer = make_layer((6, 9), dtype=torch.float32)
    optimiser = torch.optim.AdamW(layer.svf_z.parameters(), lr=0.1, fused=fused)
    x = torch.randn(2, 3, 9)
    for _ in range(3):
        optimiser.zero_grad()
        layer(x).square().sum().backward()
        optimiser.step()
        folded = layer(x)
        layer.set_folding(False)
        assert torch.allclose(layer(x), folded, atol=1e-4)
        layer.set_folding(True)
        layer(x)  # cached again, for the next step to make stale


def test_the_folded_weight_is_built_once_a_value() -> None:
    layer = make_layer((6, 9))
    layer(torch.ones(1, 9, dtype=torch.float64))
    first = layer._folded
    with torch.no_grad():
        layer(torch.zeros(2, 9, dtype=torch.float64))
    assert layer._folded is first
    assert first.fold is not None and first.fold.weight is not layer.base_layer.weight


def test_a_weight_folded_under_inference_mode_serves_training() -> None:
    layer = make_layer((6, 9))
    x = torch.ones(1, 9, dtype=torch.float64)
    with torch.inference_mode():
        expected = layer(x).clone()
    out = layer(x)
    out.sum().backward()
    assert torch.equal(out, expected) and layer.svf_z["default"].grad is not None


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_autocast_trains(shape: tuple[int, int]) -> None:
    layer = make_layer(shape, dtype=torch.float32)
    x = torch.randn(2, 9, shape[1])
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            layer(x).square().mean().backward()
        gradients.append(layer.svf_z["default"].grad.clone())
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[0].norm()


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    layer = make_layer((9, 6))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    gradients = []
    for reentrant in (None, False, True):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        y = layer(inputs) if reentrant is None else checkpoint(layer, inputs, use_reentrant=reentrant)
        y.square().sum().backward()
        gradients.append(layer.svf_z["default"].grad.clone())
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


class QuantisedLinear(nn.Module):
    """A linear layer that keeps int8 weights, as quantised layers do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.abs().max() / 127
        self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_quantised_layer_runs_factored(shape: tuple[int, int]) -> None:
    plain = make_layer(shape, dtype=torch.float32)
    quantised = QuantisedLinear(plain.base_layer)
    layer = SvfLinear(quantised, "layer.0", lambda: narrow_basis(plain.base_layer.weight))  # type: ignore[arg-type]
    layer.update_layer("default", SvfConfig(target_modules=["layer"], init_std=0.3))
    layer.set_adapter("default")
    x = torch.randn(2, 5, shape[1])
    assert (layer(x) - plain(x)).norm() < 0.05 * plain(x).norm()
    layer(x).sum().backward()
    assert layer.svf_z["default"].grad.norm() > 0
    with pytest.raises(TypeError, match="cannot be merged"):
        layer.merged_copy("default")
    with torch.no_grad():
        layer.svf_z["default"].fill_(1)
    assert torch.equal(layer(x), quantised(x))


def test_initial_noise_comes_from_the_named_generator_alone() -> None:
    first, again, other = (make_layer((5, 4), seed=seed).svf_z["default"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    layer = SvfLinear(nn.Linear(4, 5), "layer.1", lambda: narrow_basis(torch.ones(5, 4)))
    before = torch.get_rng_state()
    layer.update_layer("default", SvfConfig(target_modules=["layer"], init_std=0.3, init_seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(layer.svf_z["default"].double(), first)


def test_a_constant_sigmoid_is_the_identity_when_renormalised() -> None:
    for mean in (-2.0, 0.1, 3.0):
        layer = make_layer((6, 9))
        layer.update_layer(
            "p",
            SvfConfig(target_modules=["layer"], parametrisation="sigmoid", init_mean=mean, renormalise=True),
        )
        assert torch.allclose(layer.z("p"), torch.ones(6, dtype=torch.float64), atol=1e-12)
    plain = SvfConfig(target_modules=["layer"], parametrisation="sigmoid", max_mult=1.5)
    layer.update_layer("plain", plain)
    assert torch.allclose(layer.z("plain"), torch.tensor(1.5).double() * torch.sigmoid(torch.tensor(0.1)))


def test_renormalising_keeps_the_sum_of_singular_values() -> None:
    layer = make_layer((9, 6), parametrisation="sigmoid", renormalise=True)
    sigma = layer.basis().sigma
    assert (sigma * layer.z("default")).sum().item() == pytest.approx(sigma.sum().item())
