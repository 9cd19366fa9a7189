"""A base model's files, as experts from elsewhere meet them: is it theirs, and what are its matrices?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from t2.files import read_json
from t2.svf.basis import Basis, narrow_basis
from t2.svf.cache import BasisCache, checkpoint_weights
from t2.svf.experts import Expert
from t2.svf.identity import Matrix
from t2.svf.quantised import Quantisation

BESIDE_WEIGHTS = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""What a model folder holds besides weights: configuration, tokenizer, licence. No code and no other weights."""

_SECOND_COPIES = ("consolidated*", "original/*")
"""The same weights in the form of their maker's own code, as Mistral AI and Meta publish them as well."""


def checkpoint_folder(model: str, revision: str | None = None) -> Path:
    """The folder of a base model; a Hugging Face id is fetched if the cache lacks it.

    Args:
        model: A local folder, or a Hugging Face id ("owner/name").
        revision: The commit of a Hugging Face id.

    Raises:
        FileNotFoundError: ``model`` is neither.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.count("/") != 1:
        raise FileNotFoundError(f"there is no model folder {model}; give a folder, or a Hugging Face id as owner/name")
    wanted = ["*.safetensors", *BESIDE_WEIGHTS]
    return Path(snapshot_download(model, revision=revision, allow_patterns=wanted, ignore_patterns=[*_SECOND_COPIES]))


@dataclass(frozen=True)
class BaseCheckpoint:
    """The base model on disk, as an expert meets it.

    Attributes:
        folder: With ``config.json``, tokenizer and safetensors files, in shards or one.
        dtype: What the model runs in; None: as stored.
        basis: The base's basis cache; None: each basis is computed when its turn comes.
        device: Where matrices are multiplied.
        quantisation: How the model runs its weights; None: in ``dtype``.
    """

    folder: Path
    dtype: torch.dtype | None = None
    basis: BasisCache | None = None
    device: str = "cpu"
    quantisation: Quantisation | None = None

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Its weights by module name, as the model multiplies by them; each is read when asked for."""
        return checkpoint_weights(self.folder, r".*", self.dtype, None, self.quantisation, self.device)

    def basis_of(self, name: str, weight: Tensor) -> Basis:
        """The basis of a matrix, on :attr:`device`.

        Raises:
            ValueError: The cache was made from other weights, or the weight has no basis.
        """
        if self.basis is None:
            return narrow_basis(weight.to(self.device), name)
        sigma, q, side = self.basis.load(name, weight)
        return Basis(sigma.to(self.device), q.to(self.device), side)

    def matrix(self, name: str, weight: Tensor) -> Matrix:
        """What an expert of it was made for; with a cache, the weight that it was made from."""
        return Matrix.of(weight, name) if self.basis is None else self.basis.matrix(name)

    def check(self, expert: Expert) -> None:
        """Whether an expert was made for this checkpoint.

        Raises:
            ValueError: The checkpoint is quantised or lacks a matrix, a z has another length, or the weights are
                other ones.
        """
        if "quantization_config" in read_json(self.folder / "config.json"):
            raise ValueError(f"{self.folder} holds quantised weights; name the checkpoint that they were made from")
        missing = [name for name in expert.z if name not in self.weights]
        if missing:
            raise ValueError(
                f"{self.folder} holds no {missing[0]}.weight ({len(missing)} of the expert's {len(expert.z)} matrices "
                "are missing): name the base model that the expert was made for, or, where the checkpoint calls its "
                "weights differently from the model or ties them, save the model's merge_and_unload() instead"
            )
        matrices = {name: self.matrix(name, self.weights[name]) for name in expert.z}
        expert.check(matrices, str(self.folder), quantisation=self.quantisation)
