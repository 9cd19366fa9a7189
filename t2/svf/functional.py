"""The two ways to apply W' = U diag(σ z) Vᵀ to tokens: through a folded weight, or factored along Q.

In 16 bits neither may round W' or what it is made of: 8 digits of bfloat16 swallow a change of |z − 1| = 1e-3 whole
where it points one way, and half of it where its signs vary. There the change's share of the output, computed by
itself, meets W x in the sums of :func:`add_product`, which are float32 and are rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from t2.svf.basis import Side


class Fold(NamedTuple):
    """W' as it is kept.

    Attributes:
        weight: W' (m, n); or W, where the change is kept beside it.
        change: W' − W (m, n), where products are in 16 bits; None: the weight holds it.
    """

    weight: Tensor
    change: Tensor | None = None

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """W'x + b (..., m) for x (..., n)."""
        if self.change is None:
            return F.linear(x, self.weight, bias)
        y = add_product(F.linear(x, self.change), x, self.weight)
        # Not in that sum: rounded together with it, the change would drown where the bias is large.
        return y if bias is None else y + bias.to(y.dtype)


class FoldedLinear(torch.autograd.Function):
    """y = W'x + b with the gradient of z, for a W' that was built outside the graph.

    No gradient of the size of W and no step that made W' is kept. With dx, dy the gradients at the layer's
    input and output, the sums over tokens and y₀ = W'x:

    * tall, W' = W Q diag(z) Qᵀ:  dz = diag(Qᵀ (Σ dx xᵀ) Q) / z
    * wide, W' = Q diag(z) Qᵀ W:  dz = diag(Qᵀ (Σ dy y₀ᵀ) Q) / z
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        weight: Tensor,
        change: Tensor | None,
        bias: Tensor | None,
        q: Tensor,
        side: Side,
    ) -> Tensor:
        """Applies the :class:`Fold` of ``weight`` and ``change`` to x (..., n)."""
        y = Fold(weight, change)(x, bias)
        ctx.save_for_backward(x if side == "right" else y, z, weight, change, bias, q)
        ctx.side = side
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and z, from that of y."""
        kept, z, weight, change, bias, q = ctx.saved_tensors
        dx = None
        if ctx.side == "right" or ctx.needs_input_grad[0]:
            weight = weight.to(dy.dtype)
            dx = dy @ weight if change is None else add_product(dy @ change.to(dy.dtype), dy, weight.T)
        if ctx.side == "right":
            dz = _products(cast(Tensor, dx), kept.to(dy.dtype), q) / z
        else:
            dz = _products(dy, kept if bias is None else kept - bias, q) / z
        return dx, dz, None, None, None, None, None


class _Product(torch.autograd.Function):
    """W x, added to a part and rounded once, where W is made anew for each pass: the graph keeps no copy of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Tensor | None, weight: Callable[[], Tensor]) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight()) if part is None else add_product(part, x, weight())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx = dy @ ctx.weight() if ctx.needs_input_grad[0] else None
        return dx, dy if ctx.needs_input_grad[1] else None, None


class Replaced(torch.autograd.Function):
    """Values of another tensor where a mask says so; the gradient is that of the first."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """Takes ``others`` where ``mask`` is true."""
        return torch.where(mask, others, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """To the first tensor alone."""
        return gradient, None, None


def _products(left: Tensor, right: Tensor, q: Tensor) -> Tensor:
    """Σ over tokens of (Qᵀ left) ⊙ (Qᵀ right), for two (..., r) tensors, in the dtype of q."""
    left, right = left.flatten(0, -2), right.flatten(0, -2)
    if len(left) < len(q):
        return ((left.to(q.dtype) @ q) * (right.to(q.dtype) @ q)).sum(0)
    # With many tokens their outer products are summed first: r² operations per token instead of 2 r². In 16 bits
    # by matrix units, which sum in float32.
    return (((left.T @ right).to(q.dtype) @ q) * q).sum(0)


def add_product(part: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``part`` + W x (..., m), rounded once: a part below the last digit of W x is not lost.

    Args:
        part: (..., m).
        x: (..., n).
        weight: W (m, n).
    """
    return torch.addmm(part.flatten(0, -2), x.flatten(0, -2), weight.T).view(part.shape)


def add_change(x: Tensor, y: Tensor | None, q: Tensor, change: Tensor, weight: Callable[[], Tensor]) -> Tensor:
    """W'x in 16 bits, factored.

    Args:
        x: (..., n).
        y: W x (..., m) for a wide matrix; None: it is a tall one.
        q: (r, r), orthogonal.
        change: z − 1, broadcast against (..., r).
        weight: Makes W (m, n) in the dtype of x.

    Returns:
        (..., m) in the dtype of x.
    """
    part = change_along(x if y is None else y, q, change)
    product: Tensor = _Product.apply(x, _Product.apply(part, None, weight) if y is None else part, weight)
    return product


def change_along(x: Tensor, q: Tensor, change: Tensor) -> Tensor:
    """Q (change ⊙ Qᵀx), (..., r) in the dtype of x: rounded by itself, it keeps its digits in 16 bits too."""
    q = q.to(x.dtype)
    return ((x @ q) * change).to(x.dtype) @ q.T


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
