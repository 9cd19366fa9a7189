"""The two ways to apply W' = U diag(σ z) Vᵀ to tokens: through a folded weight, or factored along Q."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from t2.svf.basis import Side


class FoldedLinear(torch.autograd.Function):
    """y = W'x + b with the gradient of z, for a W' that was built outside the graph.

    No gradient of the size of W and no step that made W' is kept. With dx, dy the gradients at the layer's
    input and output, the sums over tokens and y₀ = W'x:

    * tall, W' = W Q diag(z) Qᵀ:  dz = diag(Qᵀ (Σ dx xᵀ) Q) / z
    * wide, W' = Q diag(z) Qᵀ W:  dz = diag(Qᵀ (Σ dy y₀ᵀ) Q) / z
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, side: Side) -> Tensor:
        """Applies W' (m, n) to x (..., n)."""
        y = F.linear(x, weight, bias)
        ctx.save_for_backward(x if side == "right" else y, z, weight, bias, q)
        ctx.side = side
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and z, from that of y."""
        kept, z, weight, bias, q = ctx.saved_tensors
        if ctx.side == "right":
            dx = dy @ weight.to(dy.dtype)
            dz = _products(dx, kept, q) / z
        else:
            dx = dy @ weight.to(dy.dtype) if ctx.needs_input_grad[0] else None
            dz = _products(dy, kept if bias is None else kept - bias, q) / z
        return dx, dz, None, None, None, None


def _products(left: Tensor, right: Tensor, q: Tensor) -> Tensor:
    """Σ over tokens of (Qᵀ left) ⊙ (Qᵀ right), for two (..., r) tensors, in the dtype of q."""
    left, right = left.flatten(0, -2).to(q.dtype), right.flatten(0, -2).to(q.dtype)
    if len(left) < len(q):
        return ((left @ q) * (right @ q)).sum(0)
    # With many tokens their outer products are summed first: r² operations per token instead of 2 r².
    return ((left.T @ right @ q) * q).sum(0)


def add_scaled(to: Tensor, along: Tensor, q: Tensor, change: Tensor) -> Tensor:
    """``to`` + Q (change ⊙ Qᵀ along), computed in float32 at least and rounded once.

    With change = z − 1 this is the factored path: of the input before a tall W, ``to`` = ``along`` = x; of the
    output after a wide one, ``to`` = y and ``along`` = y without its bias. Zero changes give ``to`` bit for bit.

    Args:
        to: (..., r), any floating dtype.
        along: (..., r).
        q: (r, r), orthogonal.
        change: Broadcast against (..., r).

    Returns:
        (..., r) in the dtype of ``to``.
    """
    dtype = torch.promote_types(to.dtype, q.dtype)
    q = q.to(dtype)
    inner = (along.to(dtype) @ q) * change
    return (to.to(dtype) + inner @ q.T).to(to.dtype)
