from __future__ import annotations

import pytest
import torch
from torch import Tensor

from t2.svf import narrow_basis, nuclear_share, scaled_weight

SHAPES = [(40, 12), (20, 20), (12, 40), (1, 5), (5, 1), (9001, 6), (6, 9001)]


def gaussian(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_agrees_with_the_singular_value_decomposition_in_float64(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = gaussian(shape, dtype)
    sigma, q, side = narrow_basis(weight)
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    z = 1 + 0.5 * gaussian((1, min(shape)), seed=1)[0]
    expected = u @ torch.diag(s * z) @ vh

    assert side == ("right" if shape[0] >= shape[1] else "left")
    assert sigma.dtype == q.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert q.is_contiguous()
    assert (sigma.double() - s).abs().max() <= 5e-7 * s[0]
    assert (sigma.diff() <= 0).all()
    error = (scaled_weight(weight.double(), q.double(), z.double(), side) - expected).norm() / expected.norm()
    assert error < (1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_q_is_orthonormal(shape: tuple[int, int]) -> None:
    q = narrow_basis(gaussian(shape)).q.double()
    assert torch.allclose(q.T @ q, torch.eye(min(shape), dtype=torch.float64), atol=1e-6)


def test_deficient_rank_and_equal_singular_values_have_a_basis() -> None:
    for weight in (torch.zeros(6, 4), torch.eye(5), torch.ones(4, 7)):
        sigma, q, side = narrow_basis(weight)
        assert torch.isfinite(sigma).all() and torch.isfinite(q).all()
        z = torch.full((min(weight.shape),), 2.0)
        assert torch.allclose(scaled_weight(weight, q, z, side), 2 * weight, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_z_of_one_is_the_weight_itself(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = gaussian(shape, dtype)
    before = weight.clone()
    scaled = scaled_weight(weight, narrow_basis(weight).q, torch.ones(min(shape)), narrow_basis(weight).side)
    assert scaled.dtype == dtype
    assert torch.equal(scaled, weight) and torch.equal(weight, before)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_low_precision_is_rounded_once(shape: tuple[int, int]) -> None:
    weight = gaussian(shape, torch.bfloat16)
    _, q, side = narrow_basis(weight)
    z = 1 + 0.3 * gaussian((1, min(shape)), seed=2)[0]
    exact = scaled_weight(weight.double(), q.double(), z.double(), side)
    assert ((scaled_weight(weight, q, z, side).double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_signs_do_not_depend_on_the_side_of_the_matrix() -> None:
    weight = gaussian((30, 11))
    q = narrow_basis(weight).q
    assert torch.allclose(q, narrow_basis(weight.T.contiguous()).q, atol=1e-6)
    assert (q.gather(0, q.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(3), r"block\.w has shape \(3,\)"),
        (torch.ones(2, 3, 4), r"block\.w has shape"),
        (torch.ones(0, 4), r"block\.w has shape"),
        (torch.full((3, 4), float("nan")), r"block\.w holds values that are not finite"),
        (torch.tensor([[1.0, float("inf")]]), r"block\.w holds values that are not finite"),
        (torch.ones(3, 4, dtype=torch.int8), r"block\.w has dtype torch\.int8"),
        (torch.ones(3, 4, device="meta"), r"block\.w is on the meta device"),
    ],
)
def test_what_has_no_singular_values_is_refused_by_name(weight: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        narrow_basis(weight, "block.w")


def test_scaled_weight_refuses_what_does_not_belong_together() -> None:
    weight = gaussian((6, 4))
    _, q, side = narrow_basis(weight)
    for wrong in [(q, torch.ones(6), side), (torch.eye(6), torch.ones(4), side), (q, torch.ones(4), "left")]:
        with pytest.raises(ValueError, match="takes q of shape"):
            scaled_weight(weight, *wrong)  # type: ignore[arg-type]


def test_nuclear_share_of_the_top_components() -> None:
    sigma = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert [nuclear_share(sigma, top) for top in (0, 1, 2, 4, 9)] == pytest.approx([0, 0.4, 0.7, 1, 1])
