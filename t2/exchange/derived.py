"""Experts made of experts: on another base (paper, section 4.3, cross-model transfer), and what of z carries a gain.

The paper carries z over between models of the same shapes. That z of other shapes can be resampled is this project's
addition: a component's place among its matrix' singular values, and a layer's depth, are taken as shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2.config.rows import Change, Largest, Negated, Resampled, Shuffled, Summed
from t2.seeds import derive as seed_of
from t2.svf.experts import Z, layer_of, natural

_LAYER = re.compile(r"\.\d+\.")


def derived(
    z: Mapping[str, Tensor],
    change: Change,
    base: Mapping[str, Tensor],
    seed: int,
    others: Sequence[Mapping[str, Tensor]] = (),
) -> Z:
    """Another expert, made of one, or of several.

    Args:
        z: Of the expert, (r,) by module name.
        change: What becomes of it.
        base: The singular values (r,) of the base that it is to run on, by module name.
        seed: The expert's, from which with the change's own a permutation is drawn.
        others: z of those that are added to it, of the same modules.

    Returns:
        z (r,) for that base.

    Raises:
        ValueError: The expert's matrices are not the base's; only resampling carries it over then.
    """
    if isinstance(change, Resampled):
        return {name: _resampled(z, name, sigma, base) for name, sigma in base.items()}
    for name, values in z.items():
        if name not in base or base[name].shape != values.shape:
            there = tuple(base[name].shape) if name in base else "no such matrix"
            raise ValueError(f"{name}: z has {len(values)} numbers, the base {there}; carry it over by `resampled`")
    if isinstance(change, Shuffled):
        generator = torch.Generator().manual_seed(seed_of(seed, f"shuffled {change.seed}"))
        return {name: z[name][torch.randperm(len(z[name]), generator=generator)] for name in sorted(z, key=natural)}
    if isinstance(change, Negated):
        return {name: 2 - values for name, values in z.items()}
    if isinstance(change, Summed):
        return {name: values + sum(other[name] - 1 for other in others) for name, values in z.items()}
    if isinstance(change, Largest):
        return _largest(z, base, change.share)
    return dict(z)


def _largest(z: Mapping[str, Tensor], base: Mapping[str, Tensor], share: float) -> Z:
    """The components that change W most, by |σ(z − 1)| over all matrices; the others are the base's."""
    moved = {name: (base[name] * (values - 1)).abs() for name, values in z.items()}
    whole = torch.cat(list(moved.values()))
    kept = max(1, round(share * len(whole)))
    least = whole.sort(descending=True).values[kept - 1]
    return {name: torch.where(moved[name] >= least, values, 1.0) for name, values in z.items()}


def _resampled(z: Mapping[str, Tensor], name: str, sigma: Tensor, base: Mapping[str, Tensor]) -> Tensor:
    """The z of one matrix, between those of its module in the two layers of nearest relative depth."""
    depth, own = _depths(base, name), _depths(z, name)
    if not own:
        raise ValueError(f"{name}: the expert scales no such module in any layer; nothing is there to resample")
    place = _relative(sorted(depth).index(layer_of(name)), len(depth)) * (len(own) - 1)
    below, above = (z[own[sorted(own)[edge]]] for edge in (int(place), min(int(place) + 1, len(own) - 1)))
    share = place - int(place)
    return (1 - share) * _stretched(below, len(sigma)) + share * _stretched(above, len(sigma))


def _depths(names: Mapping[str, Tensor], like: str) -> dict[int, str]:
    """The matrices of a module, by layer."""
    module = _LAYER.sub(".*.", like)
    return {layer_of(name): name for name in names if _LAYER.sub(".*.", name) == module}


def _relative(index: int, count: int) -> float:
    return index / (count - 1) if count > 1 else 0.0


def _stretched(values: Tensor, length: int) -> Tensor:
    """A vector over as many places, linearly between its own, ends on ends."""
    return torch.nn.functional.interpolate(values[None, None], length, mode="linear", align_corners=True)[0, 0]
