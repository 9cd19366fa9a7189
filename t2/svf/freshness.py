"""Whether a tensor still holds the values that something was built from.

PyTorch counts the writes to a tensor, but not those through ``.data``, by fused optimisers or by whoever shares its
memory (``vector_to_parameters``). So values are compared: all of a short vector, sums over the bits of a matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

MANY_TOKENS = 512
"""From so many tokens on, reading a weight once more costs next to nothing beside multiplying them by it."""

_SIDE = 16
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
        self._version = _version(weight)
        rows, columns = weight.shape
        self._part = self._weight[:: -(-rows // _SIDE), :: -(-columns // _SIDE)]  # a view, which shows later values
        self._sample = self._part.clone()

    def is_of(self, weight: Tensor, *, thoroughly: bool) -> bool:
        """Whether a matrix holds the values that were traced.

        Args:
            weight: The matrix, or the parameter that has taken its place.
            thoroughly: Read all of it. Otherwise a write that is not counted and spares 16 × 16 samples goes
                unnoticed; on accelerators any that is not counted, since comparing there means waiting.
        """
        seen = self._weight
        if seen.data_ptr() == weight.data_ptr() and seen.shape == weight.shape and seen.dtype == weight.dtype:
            counted = self._version != _version(weight)
            if not counted and not thoroughly:
                return not seen.is_cpu or torch.equal(self._part, self._sample)
        same = seen.dtype == weight.dtype and self._sums.is_of(_sums(weight))
        if same:
            self._see(weight)
        return same


def _sums(weight: Tensor) -> Tensor:
    """The sums over the bits of each row, which wrap around: a change of one number always shows."""
    bits = weight.detach().contiguous().view(_INTEGERS[weight.element_size()])
    return bits.sum(1, dtype=bits.dtype)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
