"""Which base weights an expert was made for: what tells a matrix from others, and the one comparison of both sides."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes, as a file holds them."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data.cast("B")


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256, in hex, of tensors with their names, dtypes and shapes; their order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def weight_hash(weight: Tensor, name: str) -> str:
    """The SHA-256, in hex, of a weight's name, dtype, shape and bytes."""
    return checksum({name: weight})


class Matrix(NamedTuple):
    """What tells a base weight from others.

    Attributes:
        rank: r = min(m, n), the length of its z.
        exact: Its :func:`weight_hash`.
        rounded: That of its values in bfloat16, in which weights of several dtypes may agree; None: not known.
        dtype: Such as ``"float32"``; None: not known.
    """

    rank: int
    exact: str
    rounded: str | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, weight: Tensor, name: str) -> Matrix:
        """That of a weight (m, n)."""
        exact = weight_hash(weight, name)
        rounded = exact if weight.dtype == torch.bfloat16 else weight_hash(weight.bfloat16(), name)
        return cls(min(weight.shape), exact, rounded, str(weight.dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Origin:
    """The base weights that an expert scales, as its provenance and configuration hold them.

    Attributes:
        basis_fingerprint: One hash over the matrices' :attr:`Matrix.exact`.
        rounded_fingerprint: One over their :attr:`Matrix.rounded`.
        basis_dtype: Theirs.
        quantisation: Of these weights; None: not quantised.
    """

    basis_fingerprint: str
    rounded_fingerprint: str | None
    basis_dtype: str | None
    quantisation: str | None = None

    @classmethod
    def of(cls, matrices: Mapping[str, Matrix], quantisation: str | None = None) -> Origin:
        """That of an expert of these matrices, by module name."""
        rounded = {name: matrix.rounded for name, matrix in matrices.items() if matrix.rounded is not None}
        dtypes = {matrix.dtype for matrix in matrices.values()}
        return cls(
            fingerprint({name: matrix.exact for name, matrix in matrices.items()}),
            fingerprint(rounded) if len(rounded) == len(matrices) else None,
            dtypes.pop() if len(dtypes) == 1 else None,
            quantisation,
        )

    def noted(self) -> dict[str, str]:
        """What of it is known, as provenance holds it."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def check(self, made_for: Mapping[str, Any], what: str, where: str) -> None:
        """Whether an expert was made for these weights, or for such that they are in another dtype: then with a note.

        Args:
            made_for: The expert's provenance.
            what: The expert, for messages.
            where: These weights, for messages.

        Raises:
            ValueError: It was made for others; names both sides' dtypes.
        """
        wanted = made_for.get("basis_fingerprint")
        quantisation = made_for.get("quantisation")
        if wanted is None or (wanted == self.basis_fingerprint and quantisation == self.quantisation):
            return
        dtype, rounded = made_for.get("basis_dtype"), made_for.get("rounded_fingerprint")
        if rounded is not None and rounded == self.rounded_fingerprint and quantisation == self.quantisation is None:
            _log.warning("%s was made for the weights of %s in %s; here they are in %s", what, where, dtype, self._form)
            return
        raise ValueError(
            f"{what} was made for other base weights than those of {where} ({self._form}): for those of "
            f"{made_for.get('base_model_name_or_path')} ({dtype or 'a dtype that it does not note'}, "
            f"{quantisation or 'not quantised'}). Its fingerprint is {wanted}, theirs is {self.basis_fingerprint}; "
            "load it on its own base in its own dtype, or clear its configuration's basis_fingerprint"
        )

    @property
    def _form(self) -> str:
        return f"{self.basis_dtype or 'several dtypes'}, {self.quantisation or 'not quantised'}"


def fingerprint(hashes: Mapping[str, str]) -> str:
    """One hash over the hashes of several weights by name; their order does not matter."""
    return hashlib.sha256("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()
