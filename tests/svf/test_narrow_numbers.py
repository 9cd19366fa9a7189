"""A z near 1 in numbers of 16 bits, whose digits do not hold 1.001."""

import pytest
import torch
from torch import Tensor, nn

from t2.svf.basis import narrow_basis, scaled_weight
from t2.svf.config import SvfConfig
from t2.svf.layer import SvfLinear

SHAPES = {"tall": (96, 64), "square": (64, 64), "wide": (64, 96)}
NARROW = [torch.bfloat16, torch.float16]


def make_layer(shape: tuple[int, int], dtype: torch.dtype, bias: bool = True) -> SvfLinear:
    """A layer whose bias is as large as its output, and z as every test sets it."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], bias=bias).requires_grad_(False)
    linear.weight.copy_(torch.randn(shape, generator=generator) / shape[1] ** 0.5)
    if bias:
        linear.bias.copy_(torch.randn(shape[0], generator=generator))
    linear.to(dtype)
    layer = SvfLinear(linear, "w", lambda: narrow_basis(linear.weight))
    layer.update_layer("default", SvfConfig(task_type="CAUSAL_LM", target_modules=["w"]))
    layer.set_adapter("default")
    return layer


def changes(kind: str, rank: int) -> Tensor:
    signs = torch.randint(2, (rank,), generator=torch.Generator().manual_seed(2)) * 2.0 - 1
    return 1e-3 * (torch.ones(rank) if kind == "one way" else signs)


def inputs(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.randn(8192, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)


def gain(layer: SvfLinear, x: Tensor, y: Tensor, y0: Tensor, change: Tensor) -> float:
    """How much of the exact change of the output is in it, 1 for all."""
    _, q, side = layer.basis()
    q, weight, x = q.double(), layer.base_layer.weight.double(), x.double()
    step = (q * change.double()) @ q.T
    exact = x @ (weight @ step if side == "right" else step @ weight).T
    return float(((y.double() - y0.double()) * exact).sum() / exact.square().sum())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("kind", ["one way", "both ways"])
@pytest.mark.parametrize("path", ["folded", "trained", "factored", "per sample"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_change_of_a_thousandth_is_applied_whole(
    shape: tuple[int, int], dtype: torch.dtype, kind: str, path: str, bias: bool
) -> None:
    layer, x = make_layer(shape, dtype, bias), inputs(shape, dtype)
    change = changes(kind, layer.rank)
    with torch.no_grad():
        layer.svf_z["default"].copy_(1 + change)
    layer.set_folding(path != "factored")
    if path == "per sample":
        layer.set_table(torch.stack([1 + change, torch.ones(layer.rank)]))
        layer.set_rows(torch.arange(len(x)) % 3 - 1)
    with torch.set_grad_enabled(path == "trained"):
        y, y0 = layer(x).detach(), layer.base_layer(x)
    if path == "per sample":
        base = torch.arange(len(x)) % 3 != 1
        assert torch.equal(y[base], y0[base])
        x, y, y0 = x[~base], y[~base], y0[~base]
    assert y.dtype == dtype
    assert gain(layer, x, y, y0, change) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("folding", [True, False])
def test_a_change_of_a_thousandth_is_applied_whole_under_autocast(shape: tuple[int, int], folding: bool) -> None:
    layer, x = make_layer(shape, torch.float32), inputs(shape, torch.bfloat16).float()
    with torch.no_grad():
        layer.base_layer.weight.copy_(layer.base_layer.weight.bfloat16())
    layer, change = make_layer_of(layer.base_layer), changes("one way", layer.rank)
    with torch.no_grad():
        layer.svf_z["default"].copy_(1 + change)
    layer.set_folding(folding)
    assert gain(layer, x, layer(x).detach(), layer.base_layer(x), change) == pytest.approx(1, abs=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, y0 = layer(x).detach(), layer.base_layer(x)
    assert y.dtype == torch.bfloat16
    assert gain(layer, x, y, y0, change) == pytest.approx(1, abs=0.05)
    assert gain(layer, x, layer(x).detach(), layer.base_layer(x), change) == pytest.approx(1, abs=0.01)


def make_layer_of(linear: nn.Linear) -> SvfLinear:
    layer = SvfLinear(linear, "w", lambda: narrow_basis(linear.weight))
    layer.update_layer("default", SvfConfig(task_type="CAUSAL_LM", target_modules=["w"]))
    layer.set_adapter("default")
    return layer


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("folding", [True, False])
def test_training_starts_at_the_base_with_a_gradient(shape: tuple[int, int], folding: bool) -> None:
    x = inputs(shape, torch.bfloat16)
    gradients = []
    for dtype in (torch.bfloat16, torch.float32):
        layer = make_layer(shape, dtype)
        with torch.no_grad():
            layer.svf_z["default"].fill_(1)
        layer.set_folding(folding)
        values = x.to(dtype, copy=True).requires_grad_()
        y = layer(values)
        assert dtype == torch.float32 or torch.equal(y, layer.base_layer(values))
        (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        gradients.append((layer.svf_z["default"].grad, values.grad.float()))
    for low, exact in zip(*gradients, strict=True):
        assert (low - exact).norm() < 0.03 * exact.norm()


def test_a_weight_that_would_lose_the_change_in_rounding_is_refused() -> None:
    for dtype, step, share in ((torch.bfloat16, 1e-3, "0.00"), (torch.bfloat16, 2.5e-3, "0.[0-9]{2}")):
        layer = make_layer((96, 64), dtype)
        _, q, side = layer.basis()
        with pytest.raises(ValueError, match=f"hold {share} of the change .* export the expert as a LoRA"):
            scaled_weight(layer.base_layer.weight, q, torch.full((64,), 1 + step), side)
    for dtype, step in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2), (torch.bfloat16, 0.0)):
        layer = make_layer((96, 64), dtype)
        _, q, side = layer.basis()
        scaled = scaled_weight(layer.base_layer.weight, q, torch.full((64,), 1 + step), side)
        base = layer.base_layer.weight.double()
        assert float((scaled.double() * base).sum() / base.square().sum()) == pytest.approx(1 + step, abs=0.05 * step)


class Packed(nn.Module):
    """A layer whose weight nobody can read."""

    bias = None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter(linear.weight.view(torch.int16), requires_grad=False)
        self._packed = linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._packed(x)
        return y


def test_a_layer_whose_weight_cannot_be_read_is_refused_in_16_bits() -> None:
    plain = make_layer((96, 64), torch.bfloat16).base_layer
    layer = SvfLinear(Packed(plain), "w", lambda: narrow_basis(plain.weight))  # type: ignore[arg-type]
    layer.update_layer("default", SvfConfig(task_type="CAUSAL_LM", target_modules=["w"]))
    layer.set_adapter("default")
    with pytest.raises(TypeError, match=r"w is a Packed that computes in torch.bfloat16.*load the model in float32"):
        layer(inputs((96, 64), torch.bfloat16))
