"""The basis cache: the narrow-side bases of a model's weights on disk.

A folder with one safetensors file per matrix and an ``index.json`` that says what is there: for each matrix
the hash of the weight it was made from and the checksum of its basis. Every file is written under a temporary
name, synced and renamed: a killed build leaves whole files only, and the next one continues behind them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import save
from torch import Tensor, nn

from t2.files import replace_file
from t2.svf.basis import Basis, narrow_basis, narrow_side
from t2.svf.config import SvfConfig
from t2.svf.identity import Matrix, fingerprint, tensor_bytes, weight_hash
from t2.svf.quantised import Quantisation, rounded
from t2.svf.tensor_files import open_tensors, read_tensors

Progress = Callable[[int, int, str], None]

_INDEX = "index.json"
_FORMAT = 1


def build_cache(
    weights: Mapping[str, Tensor],
    folder: str | Path,
    progress: Progress | None = None,
    device: torch.device | str | None = None,
    alone: Mapping[str, str] | None = None,
) -> BasisCache:
    """Decomposes every weight into a cache folder; matrices that are already there, whole, are kept.

    One process at a time may build into a folder.

    Args:
        weights: (m, n) matrices by module name ("model.layers.0.mlp.up_proj"); :func:`model_weights` and
            :func:`checkpoint_weights` make such mappings. A lazy mapping is read one matrix at a time.
        folder: Where the cache goes; made if absent.
        progress: Called as ``progress(done, total, name)`` after each matrix.
        device: Where matrices are decomposed, one at a time; None: where each weight lies.
        alone: What a base's language model alone calls a weight, where the base also sees; see
            :mod:`t2.svf.language`.

    Returns:
        The finished cache.

    Raises:
        ValueError: A weight is no matrix or not finite, or there is none.
    """
    if not weights:
        raise ValueError(f"no weights to decompose into {folder}; check target_modules against the model")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = _read_index(folder).get("matrices", {})
    matrices: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(weights, start=1):
        weight = weights[name]
        source = Matrix.of(weight, name)
        entry = known.get(name, {})
        if entry.get("weight") != source.exact or not _is_whole(folder, entry):
            entry = {"shape": list(weight.shape), **_write_basis(folder, name, weight.to(device))}
        matrices[name] = entry | {"weight": source.exact, "rounded": source.rounded, "dtype": source.dtype}
        if alone:
            named = Matrix.of(weight, alone[name])
            matrices[name]["alone"] = {"name": alone[name], "weight": named.exact, "rounded": named.rounded}
        _write_index(folder, {**known, **matrices}, complete=False)
        if progress is not None:
            progress(done, len(weights), name)
    _write_index(folder, matrices, complete=True)
    wanted = {entry["file"] for entry in matrices.values()}
    for shard in folder.glob("*.safetensors"):
        if shard.name not in wanted:
            shard.unlink()
    return BasisCache(folder, matrices)


class BasisCache:
    """A finished cache folder; bases are read when asked for.

    Attributes:
        folder: Where it lies.
    """

    def __init__(self, folder: Path, matrices: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder = folder.absolute()  # bases are read later, perhaps from another working directory
        self._matrices = matrices

    @classmethod
    def open(cls, folder: str | Path) -> BasisCache:
        """Opens a cache folder.

        Raises:
            ValueError: There is no cache there, its index is damaged, or its build has not finished.
        """
        folder = Path(folder)
        if not (folder / _INDEX).is_file():
            raise ValueError(
                f"there is no basis cache in {folder}: build it there with t2.svf.build_cache, or set "
                "SvfConfig.basis to None to have the bases computed"
            )
        index = _read_index(folder)
        if not isinstance(index.get("matrices"), dict) or index.get("format") != _FORMAT:
            raise ValueError(f"the basis cache {folder} has a damaged {_INDEX}; delete the folder and build it again")
        if not index.get("complete"):
            raise ValueError(
                f"the basis cache {folder} is unfinished ({len(index['matrices'])} matrices are done); run "
                "its build again, it continues where it stopped"
            )
        return cls(folder, index["matrices"])

    @property
    def fingerprint(self) -> str:
        """The hash over all weights that the cache was made from."""
        return fingerprint({name: entry["weight"] for name, entry in self._matrices.items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def rank(self, name: str) -> int:
        """The rank r = min(m, n) of a matrix, which is the width of its z."""
        return min(self._entry(name)["shape"])

    @property
    def matrices(self) -> dict[str, Matrix]:
        """The weights that the cache was made from, by module name."""
        return {name: self.matrix(name) for name in self._matrices}

    def matrix(self, name: str) -> Matrix:
        """The weight that a basis was made from."""
        entry = self._entry(name)
        return Matrix(self.rank(name), entry["weight"], entry.get("rounded"), entry.get("dtype"))

    @property
    def alone(self) -> dict[str, tuple[str, Matrix]]:
        """What the base's language model alone calls each matrix, and what tells it from others there; else nothing."""
        found = {name: entry["alone"] for name, entry in self._matrices.items() if "alone" in entry}
        return {
            name: (alone["name"], self.matrix(name)._replace(exact=alone["weight"], rounded=alone["rounded"]))
            for name, alone in found.items()
        }

    def load(self, name: str, weight: Tensor | None = None) -> Basis:
        """Reads the basis of one matrix.

        Args:
            name: The module's name.
            weight: The weight in use, to be compared with the one that the basis was made from; None where
                it is not available as such (a layer that another library has quantised).

        Returns:
            The basis, on the CPU.

        Raises:
            ValueError: The matrix is not in the cache, its file is damaged, or it belongs to other weights.
        """
        entry = self._entry(name)
        if weight is not None and weight_hash(weight, name) != entry["weight"]:
            raise ValueError(
                f"the basis cache {self.folder} was made from other weights: {name} differs (in value, shape "
                "or dtype); build a cache of this base model, or load the model that the cache was made from"
            )
        tensors = _read_basis(self.folder, entry)
        if tensors is None:
            raise ValueError(
                f"the basis cache {self.folder} is damaged: {entry['file']} is missing or does not match its "
                "checksum; run its build again, it replaces what is damaged"
            )
        return Basis(tensors["sigma"], tensors["q"], narrow_side(entry["shape"]))

    def _entry(self, name: str) -> Mapping[str, Any]:
        if name not in self._matrices:
            raise ValueError(
                f"the basis cache {self.folder} does not hold {name} (only {len(self._matrices)} others); "
                "build it again with target_modules that cover it"
            )
        return self._matrices[name]


def model_weights(model: nn.Module, target_modules: Iterable[str] | str) -> dict[str, Tensor]:
    """The weights of a model's targeted modules, by module name.

    Args:
        model: A base model without adapters.
        target_modules: Names that module names equal or end in, or a regular expression that they match.
    """
    config = _targets(target_modules)
    return {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and check_target_module_exists(config, name)
    }


def checkpoint_weights(
    folder: str | Path,
    target_modules: Iterable[str] | str,
    dtype: torch.dtype | None = None,
    layers: Sequence[int] | None = None,
    quantisation: Quantisation | None = None,
    device: str = "cpu",
    exclude: str | None = None,
    renamed: Callable[[str], str] | None = None,
) -> Mapping[str, Tensor]:
    """The weights of targeted modules in a model folder's safetensors files; each is read when asked for.

    Args:
        folder: Holds ``model.safetensors``, or its shards.
        target_modules: Names that module names equal or end in, or a regular expression that they match.
        dtype: What the model will be loaded in; None: as stored. A basis belongs to weights of one dtype.
        layers: Indices of the layers that are wanted, with names in ``target_modules``; None: all.
        quantisation: The weights that a model multiplies by which is loaded so, see :func:`t2.svf.quantised.rounded`.
        device: Where they are quantised.
        exclude: A regular expression of the module names that are left out.
        renamed: What the model calls a tensor of its files; None: the same. Names are the model's.

    Raises:
        ValueError: The folder holds no safetensors file.
    """
    config = _targets(target_modules)
    config.exclude_modules = exclude
    config.layers_to_transform = None if layers is None else list(layers)
    files: dict[str, tuple[Path, str]] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open_tensors(path) as shard:
            keys = [key for key in shard.keys() if key.endswith(".weight")]  # noqa: SIM118
        names = keys if renamed is None else [renamed(key) for key in keys]
        files |= {name.removesuffix(".weight"): (path, key) for name, key in zip(names, keys, strict=True)}
    if not files:
        raise ValueError(f"{folder} holds no weights in *.safetensors files; name the folder of a model")
    chosen = {name: place for name, place in files.items() if check_target_module_exists(config, name)}
    return _CheckpointWeights(chosen, dtype, quantisation, device)


class _CheckpointWeights(Mapping[str, Tensor]):
    def __init__(
        self,
        files: Mapping[str, tuple[Path, str]],
        dtype: torch.dtype | None,
        quantisation: Quantisation | None,
        device: str,
    ) -> None:
        self._files = files
        self._dtype = dtype
        self._quantisation = quantisation
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        path, key = self._files[name]
        with open_tensors(path) as shard:
            weight: Tensor = shard.get_tensor(key)
        weight = weight if self._dtype is None else weight.to(self._dtype)
        return weight if self._quantisation is None else rounded(weight, self._quantisation, self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _targets(target_modules: Iterable[str] | str) -> SvfConfig:
    if isinstance(target_modules, str):
        return SvfConfig(target_modules=target_modules)
    return SvfConfig(target_modules=list(target_modules))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def _write_basis(folder: Path, name: str, weight: Tensor) -> dict[str, str]:
    basis = narrow_basis(weight, name)
    tensors = {"q": basis.q.cpu(), "sigma": basis.sigma.cpu()}
    file = f"{name}.safetensors"
    replace_file(folder / file, save(tensors))
    return {"file": file, "checksum": _checksum(tensors)}


def _read_basis(folder: Path, entry: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """A matrix's tensors, or None if the file is missing or damaged."""
    try:
        tensors = read_tensors(folder / entry["file"])
    except (OSError, ValueError):
        return None
    return tensors if _checksum(tensors) == entry["checksum"] else None


def _is_whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    return {"file", "checksum"} <= entry.keys() and _read_basis(folder, entry) is not None


def _read_index(folder: Path) -> dict[str, Any]:
    """The index, or an empty one where it is missing or no JSON object."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _write_index(folder: Path, matrices: Mapping[str, Mapping[str, Any]], *, complete: bool) -> None:
    hashes = {name: entry["weight"] for name, entry in matrices.items()}
    index = {
        "format": _FORMAT,
        "complete": complete,
        "fingerprint": fingerprint(hashes) if complete else None,
        "matrices": matrices,
    }
    replace_file(folder / _INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")
