"""The narrow-side basis of a weight matrix, on which singular value fine-tuning acts.

With W = U diag(σ) Vᵀ, SVF replaces W by W' = U diag(σ z) Vᵀ (paper, section 3.2). As W V = U diag(σ), only
the orthogonal factor of the narrow side is needed:

* tall or square: W' = W V diag(z) Vᵀ, ``side`` is ``"right"`` and Q = V;
* wide: W' = U diag(z) Uᵀ W, ``side`` is ``"left"`` and Q = U.

Written with (z − 1) in place of z, z = 1 gives back W bit for bit.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Side = Literal["left", "right"]

LARGEST_LOSS = 0.05
"""The share of W' − W that rounding W' to the weight's dtype may take from it, or add to it."""

_ROWS_AT_ONCE = 4096


class Basis(NamedTuple):
    """Singular values and the singular vectors of the narrow side of an (m, n) matrix, r = min(m, n).

    Attributes:
        sigma: Singular values, (r,), descending.
        q: Orthogonal, (r, r); column i belongs to ``sigma[i]``.
        side: ``"right"`` for m >= n (q holds right singular vectors), ``"left"`` for m < n.
    """

    sigma: Tensor
    q: Tensor
    side: Side


def narrow_side(shape: tuple[int, ...] | torch.Size) -> Side:
    """The side of an (m, n) matrix whose singular vectors form its basis; squares count as tall."""
    return "right" if shape[0] >= shape[1] else "left"


def narrow_basis(weight: Tensor, name: str = "weight") -> Basis:
    """Decomposes a matrix on its narrow side, by the eigenvectors of its narrow Gram matrix in float64.

    The sign of each vector is fixed (its entry of largest magnitude is positive), so that equal weights give
    equal bytes.

    Args:
        weight: (m, n), any floating dtype.
        name: The parameter's name, for error messages.

    Returns:
        ``(sigma, q, side)`` on the weight's device, in float32 (in float64 for a float64 weight).

    Raises:
        ValueError: ``weight`` is no matrix, is empty, is not floating or holds a value that is not finite.
    """
    check_matrix(weight, name)
    side = narrow_side(weight.shape)
    # The Gram matrix is summed over slices of the long side: a float64 copy of the whole weight may not fit.
    narrow = min(weight.shape)
    gram = torch.zeros(narrow, narrow, dtype=torch.float64, device=weight.device)
    for rows in (weight.detach() if side == "right" else weight.detach().T).split(_ROWS_AT_ONCE):
        rows = rows.to(torch.float64)
        gram.addmm_(rows.T, rows)
    eigenvalues, q = torch.linalg.eigh(gram)
    sigma, q = eigenvalues.flip(0).clamp_min(0).sqrt(), q.flip(1)
    largest = q.gather(0, q.abs().argmax(dim=0, keepdim=True))
    q = torch.where(largest < 0, -q, q)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return Basis(sigma.to(dtype), q.to(dtype).contiguous(), side)


def scaled_weight(weight: Tensor, q: Tensor, z: Tensor, side: Side) -> Tensor:
    """W' = U diag(σ z) Vᵀ, computed from W and its narrow-side basis.

    Args:
        weight: (m, n), any floating dtype; not written to.
        q: (r, r), as :func:`narrow_basis` returns it.
        z: (r,), the scale of each singular value.
        side: ``"right"`` or ``"left"``, as :func:`narrow_basis` returns it.

    Returns:
        (m, n) in the dtype of ``weight``; computed in float32 at least and rounded once. Equal to ``weight``
        for z = 1.

    Raises:
        ValueError: The shapes do not belong together. Or W' rounded holds too little, or too much, of W' − W, see
            :data:`LARGEST_LOSS`.
    """
    rank = min(weight.shape)
    if q.shape != (rank, rank) or z.shape != (rank,) or side != narrow_side(weight.shape):
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} takes q of shape {(rank, rank)}, z of shape {(rank,)} "
            f"and side {narrow_side(weight.shape)!r}; got {tuple(q.shape)}, {tuple(z.shape)} and {side!r}"
        )
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    z = z.to(wide.dtype)
    change = (q * (z - 1)) @ q.T
    scaled = torch.addmm(wide, wide, change) if side == "right" else torch.addmm(wide, change, wide)
    rounded = scaled.to(weight.dtype)
    if is_narrow(weight.dtype):
        _check_rounding(rounded.to(wide.dtype) - wide, scaled - wide, weight.dtype)
    return rounded


def _check_rounding(held: Tensor, change: Tensor, dtype: torch.dtype) -> None:
    """Raises ValueError unless the change of a weight that is held is the one that was meant."""
    norm = change.square().sum()
    share = float((held * change).sum() / norm) if norm > 0 else 1.0
    if abs(share - 1) > LARGEST_LOSS:
        raise ValueError(
            f"z is so near 1 that a weight of {dtype}, rounded, would hold {share:.2f} of the change that it makes, "
            f"and more than {LARGEST_LOSS:.0%} may not be lost: take the base in float32, export the expert as a "
            "LoRA, or run it by transformers as it is, which keeps the change apart"
        )


def weight_change(weight: Tensor, q: Tensor, z: Tensor, side: Side) -> Tensor:
    """W' − W (m, n), in float32 at least; arguments as for :func:`scaled_weight`."""
    weight = weight.to(q.dtype)
    change = (q * (z.to(q.dtype) - 1)) @ q.T
    return weight @ change if side == "right" else change @ weight


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether numbers have too few digits to hold 1 + 1e-3, of which z is made."""
    return torch.finfo(dtype).eps > 1e-4


def check_matrix(weight: Tensor, name: str) -> None:
    """Raises ValueError, naming the parameter, unless ``weight`` is a finite, non-empty, floating matrix."""
    if weight.ndim != 2 or weight.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}; only non-empty matrices have singular values: leave it "
            "out of target_modules"
        )
    if not weight.is_floating_point():
        raise ValueError(
            f"{name} has dtype {weight.dtype}; a basis needs plain floating weights: build a basis cache "
            "from the unquantised checkpoint and name it in SvfConfig.basis"
        )
    if weight.is_meta:
        raise ValueError(f"{name} is on the meta device and has no values; load the weights first")
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name} holds values that are not finite; check the checkpoint it was loaded from")


def nuclear_share(sigma: Tensor, top: int) -> float:
    """The share of Σσ that lies in the ``top`` largest singular values (paper, appendix C).

    Args:
        sigma: (r,) singular values, in any order.
        top: How many of them; at least 0.

    Returns:
        A fraction in [0, 1]; 1 for ``top`` >= r.
    """
    ordered = sigma.to(torch.float64).sort(descending=True).values
    return float(ordered[:top].sum() / ordered.sum())
