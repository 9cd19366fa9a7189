"""An expert as files that need no SVF: a merged checkpoint, or a LoRA that PEFT and vLLM serve.

Both are made from the base model's checkpoint files, one matrix after another: no model is loaded, and the base's
files are only read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from t2.files import read_json, temporary_name
from t2.svf.base_checkpoint import BESIDE_WEIGHTS, BaseCheckpoint
from t2.svf.basis import Basis, scaled_weight
from t2.svf.experts import Expert, layers
from t2.svf.tensor_files import open_tensors

_INDEX = "model.safetensors.index.json"


# A merged checkpoint


def export_merged(expert: Expert, base: BaseCheckpoint, out: str | Path) -> None:
    """Writes the base model with W' in place of W, as a Hugging Face folder with configuration and tokenizer.

    Shards are those of the base, so that memory holds one of them at a time. W' is computed in float32 and rounded
    once.

    Args:
        expert: What to merge; a mix is an expert with the mixed z.
        base: The checkpoint that it was made for.
        out: The folder to make.

    Raises:
        FileExistsError: ``out`` exists and is no empty folder.
        ValueError: The expert was not made for this base, see :meth:`BaseCheckpoint.check`; or the base is quantised:
            its W' has no form in which its other layers could stay as they are; or rounding W' would swallow z, see
            :func:`t2.svf.scaled_weight`.
    """
    if base.quantisation is not None:
        raise ValueError(
            f"the expert was made for {base.folder} in {base.quantisation}, which has no merged checkpoint; export it "
            "with --format lora, and run that on the base in the same quantisation"
        )
    with _new_folder(Path(out)) as folder:
        base.check(expert)
        files = _weight_files(base.folder)
        for path in _beside_weights(base.folder):
            shutil.copy(path, folder / path.name)
        total = 0
        weight_map: dict[str, str] = {}
        for file in files:
            tensors = {key: _merged(key, tensor, expert, base) for key, tensor in _tensors(base.folder / file)}
            # transformers refuses files whose metadata do not name a framework.
            save_file(tensors, folder / file, metadata={"format": "pt"})
            total += sum(tensor.nbytes for tensor in tensors.values())
            weight_map |= dict.fromkeys(tensors, file)
        if (folder / _INDEX).exists():
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            _write_json(folder / _INDEX, index)
        if base.dtype is not None:
            config = json.loads((folder / "config.json").read_text())
            config.pop("torch_dtype", None)
            _write_json(folder / "config.json", config | {"dtype": str(base.dtype).removeprefix("torch.")})


def _merged(key: str, tensor: Tensor, expert: Expert, base: BaseCheckpoint) -> Tensor:
    """A tensor of the base as the merged checkpoint holds it."""
    if base.dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(base.dtype)
    name = key.removesuffix(".weight")
    if name not in expert.z or name == key:
        return tensor
    _, q, side = base.basis_of(name, tensor)
    return scaled_weight(tensor.to(base.device), q, expert.z[name].to(base.device), side).cpu()


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with open_tensors(path) as shard:
        for key in shard.keys():  # noqa: SIM118
            yield key, shard.get_tensor(key)


def _weight_files(folder: Path) -> list[str]:
    """The checkpoint's files, by its index where it has one: others may lie beside them in another layout."""
    if (folder / _INDEX).exists():
        return sorted(set(read_json(folder / _INDEX)["weight_map"].values()))
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"]
    raise ValueError(f"{folder} holds neither model.safetensors nor {_INDEX}; name the folder of a model")


def _beside_weights(folder: Path) -> list[Path]:
    return sorted({path for pattern in BESIDE_WEIGHTS for path in folder.glob(pattern) if path.is_file()})


# A LoRA


class LowRank(NamedTuple):
    """ΔW = W' − W as a product of two thin matrices.

    Attributes:
        a: (k, n).
        b: (m, k); ΔW ≈ b a.
        change: ‖ΔW‖ in the Frobenius norm.
        discarded: ‖ΔW − b a‖; 0 at full rank.
    """

    a: Tensor
    b: Tensor
    change: float
    discarded: float


def low_rank_change(weight: Tensor, basis: Basis, z: Tensor, rank: int) -> LowRank:
    """The best approximation of ΔW = W' − W by a matrix of rank k, in every unitarily invariant norm.

    ΔW = Σ_i σ_i (z_i − 1) u_i v_iᵀ *is* a singular value decomposition, up to order and signs: its best
    approximation keeps the k largest |σ_i (z_i − 1)| (Eckart and Young), and nothing has to be decomposed again.
    Kept: ``a`` holds v_iᵀ and ``b`` W v_i (z_i − 1) of a tall W; u_iᵀ W and u_i (z_i − 1) of a wide one.

    Args:
        weight: (m, n), any floating dtype.
        basis: Its narrow-side basis, r = min(m, n).
        z: (r,).
        rank: k, at least 1; beyond r the rest is zeros.

    Returns:
        The factors in float32 at least, and what they leave out.
    """
    sigma, q, side = basis
    weight, change = weight.to(q.dtype), z.to(q) - 1
    sizes = (sigma * change).abs()
    order = sizes.argsort(descending=True, stable=True)
    kept = order[:rank]
    vectors, change = q[:, kept], change[kept]
    if side == "right":
        a, b = vectors.T, weight @ (vectors * change)
    else:
        a, b = vectors.T @ weight, vectors * change
    missing = rank - len(kept)
    a = torch.nn.functional.pad(a, (0, 0, 0, missing)).contiguous()
    b = torch.nn.functional.pad(b, (0, missing)).contiguous()
    return LowRank(a, b, float(sizes.norm()), float(sizes[order[rank:]].norm()))


class Discarded(NamedTuple):
    """What a LoRA leaves out of a layer, or of the whole expert.

    Attributes:
        layer: Its index; None: all layers.
        change: ‖ΔW‖ over the layer's matrices together, in the Frobenius norm.
        share: ‖ΔW − BA‖ / ‖ΔW‖ over them; 0 where nothing is left out.
    """

    layer: int | None
    change: float
    share: float


def export_lora(expert: Expert, base: BaseCheckpoint, out: str | Path, rank: int | None = None) -> list[Discarded]:
    """Writes an expert as a PEFT LoRA of one rank, the best approximation of each W' − W.

    ``lora_alpha`` equals the rank, which makes LoRA's scale 1. Factors are float32. Matrices whose smaller side is
    below the rank are filled up with zeros: vLLM sizes its slots by one rank, and takes 512 at most.

    Args:
        expert: What to approximate; a mix is an expert with the mixed z.
        base: The checkpoint that it was made for.
        out: The folder to make.
        rank: k; None: the smallest that is exact, min(m, n) of the largest matrix.

    Returns:
        What is left out, a row per layer and a last one of them all.

    Raises:
        FileExistsError: ``out`` exists and is no empty folder.
        ValueError: The rank is out of range, or the expert was not made for this base.
    """
    full = max(len(z) for z in expert.z.values())
    rank = full if rank is None else rank
    if not 1 <= rank <= full:
        raise ValueError(f"rank is {rank}; it must be from 1 to {full}, where the LoRA is exact")
    with _new_folder(Path(out)) as folder:
        base.check(expert)
        tensors: dict[str, Tensor] = {}
        squares: dict[int, list[tuple[float, float]]] = {}
        for name, z in expert.z.items():
            weight = base.weights[name]
            basis = base.basis_of(name, weight)
            parts = low_rank_change(weight.to(base.device), basis, z, rank)
            tensors[f"base_model.model.{name}.lora_A.weight"] = parts.a.cpu()
            tensors[f"base_model.model.{name}.lora_B.weight"] = parts.b.cpu()
            squares.setdefault(layers([name])[0], []).append((parts.change**2, parts.discarded**2))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=expert.provenance.get("base_model_name_or_path", str(base.folder)),
            revision=expert.provenance.get("revision"),
            r=rank,
            lora_alpha=rank,
            target_modules=list(expert.z),
            inference_mode=True,
        )
        # PEFT keeps the names in a set, whose order differs from one process to the next.
        config.target_modules = sorted(expert.z)
        config.save_pretrained(str(folder))
    rows = [_discarded(layer, squares[layer]) for layer in sorted(squares)]
    return [*rows, _discarded(None, [pair for pairs in squares.values() for pair in pairs])]


def _discarded(layer: int | None, squares: list[tuple[float, float]]) -> Discarded:
    change, lost = (math.sqrt(sum(column)) for column in zip(*squares, strict=True))
    return Discarded(layer, change, lost / change if change else 0.0)


# Folders


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder beside ``out`` that takes its place when the block is through, and is removed if it raises."""
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; name a folder that does not, or delete it")
    temporary = temporary_name(out)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
