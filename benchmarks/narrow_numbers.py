"""Ways to apply z to a linear layer in 16 bits: what of |z − 1| = 1e-3 arrives, seconds, memory.

Run ``python benchmarks/narrow_numbers.py [--shapes 4864x896 896x4864 896x896] [--tokens 1024]``. A z whose changes
point one way, and one whose signs vary. *Arrives*: the part of the exact change of the output that is in the output's,
1 for all. *Error*: the rest, over the exact change; rounding the output itself makes most of it, and no way can have
less. Time is processor time against the bare layer in the same dtype, memory what is kept beside W against W.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from harness import mean_seconds, options
from torch import Tensor, nn

from t2.svf import SvfConfig, narrow_basis
from t2.svf.basis import weight_change
from t2.svf.layer import SvfLinear

CHANGE = 1e-3
Way = Callable[[Tensor], Tensor]


def stochastically(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded up or down with the chances that keep the mean."""
    near = weight.to(dtype)
    away = weight.abs() > near.double().abs()
    # The neighbours of a number of 16 bits are those of its bits, as torch.nextafter has them in 32 bits only.
    other = (near.view(torch.int16) + torch.where(away, 1, -1).to(torch.int16)).view(dtype)
    chance = (weight - near.double()) / (other.double() - near.double())
    return torch.where(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < chance, other, near)


def layer_of(weight: Tensor, z: Tensor, folding: bool) -> SvfLinear:
    """This project's layer."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype).requires_grad_(False)
    linear.weight.copy_(weight)
    layer = SvfLinear(linear, "w", lambda: narrow_basis(weight))
    layer.update_layer("z", SvfConfig(target_modules=["w"]))
    layer.set_adapter("z")
    layer.svf_z["z"].data.copy_(z)
    layer.set_folding(folding)
    return layer


def ways(weight: Tensor, z: Tensor) -> dict[str, tuple[Way, float]]:
    """Each way, and the bytes that it keeps beside the weight, of those of the weight."""
    _, q, side = narrow_basis(weight)
    exact = weight.double() + weight_change(weight.double(), q.double(), z.double(), side)
    once, random, wide = exact.to(weight.dtype), stochastically(exact, weight.dtype), exact.float()
    kept = 4 * q.numel() / (weight.element_size() * weight.numel())
    return {
        "W' rounded once": (lambda x: F.linear(x, once), 1),
        "W' rounded at random": (lambda x: F.linear(x, random), 1),
        "W' in float32": (lambda x: F.linear(x.float(), wide).to(x.dtype), 2),
        "the change apart, folded": (layer_of(weight, z, folding=True), 1),
        "the change apart, factored": (layer_of(weight, z, folding=False), kept),
    }


class Measured(NamedTuple):
    """What :func:`measure` finds of a way: of the change of the output, and against the bare layer."""

    arrives: float
    error: float
    time: float
    memory: float


@torch.no_grad()
def measure(weight: Tensor, x: Tensor, z: Tensor, repeats: int) -> dict[str, Measured]:
    """All ways, by name."""
    _, q, side = narrow_basis(weight)
    change = x.double() @ weight_change(weight.double(), q.double(), z.double(), side).T
    base, bare = F.linear(x, weight).double(), mean_seconds(lambda: F.linear(x, weight), repeats)
    found = {}
    for name, (way, memory) in ways(weight, z).items():
        made = way(x).double() - base
        arrives = float((made * change).sum() / change.square().sum())
        error = float((made - arrives * change).norm() / change.norm())
        found[name] = Measured(arrives, error, mean_seconds(partial(way, x), repeats) / bare, memory)
    return found


def main() -> None:
    """Prints a table."""
    chosen = options(
        __doc__, shapes=["4864x896", "896x4864", "896x896"], tokens=1024, dtype="bfloat16", repeats=20, threads=1
    )
    dtype = getattr(torch, chosen.dtype)
    print(f"{chosen.dtype}, {chosen.tokens} tokens, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print("| shape | way | arrives, one way | error | arrives, both ways | error | time | memory |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for shape in chosen.shapes:
        rows, columns = map(int, shape.split("x"))
        generator = torch.Generator().manual_seed(0)
        weight = (torch.randn(rows, columns, generator=generator) / columns**0.5).to(dtype)
        x = torch.randn(chosen.tokens, columns, generator=generator).to(dtype)
        signs = torch.randint(2, (min(rows, columns),), generator=generator) * 2.0 - 1
        one, both = (
            measure(weight, x, 1 + CHANGE * signs, chosen.repeats) for signs in (torch.ones_like(signs), signs)
        )
        for name in one:
            parts = " | ".join(f"{found[name].arrives:.2f} | {found[name].error:.2f}" for found in (one, both))
            print(f"| {shape} | {name} | {parts} | {both[name].time:.2f} | {both[name].memory:.2f} |")


if __name__ == "__main__":
    main()
