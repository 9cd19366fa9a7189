"""Whether a tensor still holds the values that something was built from.

PyTorch counts the writes to a tensor, but not those through ``.data``, by fused optimisers or by whoever shares its
memory (``vector_to_parameters``). So values are compared: all of a short vector, sums over the bits of a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

MANY_TOKENS = 512
"""From so many tokens on, reading a weight once more costs next to nothing beside multiplying them by it."""

_SIDE = 8
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Copy:
    """The values of a short tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._values = tensor.detach().clone()

    def is_of(self, tensor: Tensor) -> bool:
        """Whether the tensor holds these values; NaN never does."""
        kept = self._values
        return tensor.dtype == kept.dtype and tensor.device == kept.device and torch.equal(tensor, kept)


class Trace:
    """What tells a matrix from its later values, without a copy of it."""

    def __init__(self, weight: Tensor) -> None:
        self._sums = Copy(_sums(weight))
        self._see(weight)

    def _see(self, weight: Tensor) -> None:
        # It keeps the memory, so that the address cannot become another tensor's.
        self._weight = weight.detach()
        self._counted = _counted(weight)
        rows, columns = weight.shape
        self._part = self._weight[:: -(-rows // _SIDE), :: -(-columns // _SIDE)]  # a view, which shows later values
        self._sample = self._part.clone()

    def seems_of(self, weight: Tensor) -> bool:
        """What :meth:`is_of` says, as far as it can be told in no time.

        A write that PyTorch does not count and that spares 8 × 8 samples goes unnoticed; on accelerators any that it
        does not count, since comparing there means waiting.
        """
        return _counted(weight) == self._counted and (not weight.is_cpu or torch.equal(self._part, self._sample))

    def is_of(self, weight: Tensor) -> bool:
        """Whether a matrix, or one that has taken its place, holds the values that were traced; reads all of it."""
        same = weight.dtype == self._weight.dtype and self._sums.is_of(_sums(weight))
        if same:
            self._see(weight)
        return same


def _sums(weight: Tensor) -> Tensor:
    """The sums over the bits of each row, which wrap around: a change of one number always shows."""
    bits = weight.detach().contiguous().view(_INTEGERS[weight.element_size()])
    return bits.sum(1, dtype=bits.dtype)


def _counted(weight: Tensor) -> tuple[object, ...]:
    """Where a tensor lies, and how often PyTorch has seen it written to."""
    version = -1 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.stride(), weight.dtype
