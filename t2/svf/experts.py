"""Experts: sets of z vectors, on disk and side by side.

An expert is one z (r,) for each adapted weight matrix; :mod:`t2.svf.mixture` combines them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from t2.files import replace_file
from t2.svf.config import SvfConfig

Z = dict[str, Tensor]

_PREFIX = "base_model.model."
_SUFFIX = ".svf_z"
_PROVENANCE = ("base_model_name_or_path", "revision", "basis", "basis_fingerprint", "quantisation", "task", "seed")


@dataclass(frozen=True)
class Expert:
    """One set of z vectors and where it comes from.

    Attributes:
        z: The effective scales, float32 (r,), by module name ("model.layers.0.mlp.up_proj").
        provenance: ``base_model_name_or_path``, ``revision``, ``basis``, ``basis_fingerprint``, ``quantisation``,
            ``task`` and ``seed``, as far as they are known.
    """

    z: Z
    provenance: dict[str, Any] = field(default_factory=dict)


def load_expert(folder: str | Path) -> Expert:
    """Reads an expert from a PEFT adapter folder, without a model.

    Raises:
        ValueError: The folder holds no adapter, or one of another method.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError as error:
        missing = Path(error.filename or "adapter_model.safetensors").name
        raise ValueError(f"{folder} is no adapter folder: {missing} is missing; train or copy one") from None
    if config.get("peft_type") != "SVF":
        raise ValueError(f"{folder} holds a {config.get('peft_type')} adapter, not an SVF expert")
    z = {key.removeprefix(_PREFIX).removesuffix(_SUFFIX): tensor.float() for key, tensor in tensors.items()}
    provenance = {key: config[key] for key in _PROVENANCE if config.get(key) is not None}
    return Expert({name: z[name] for name in sorted(z, key=natural)}, provenance)


def save_expert(expert: Expert, folder: str | Path) -> None:
    """Writes an expert as a PEFT adapter folder, without a model; equal experts give equal bytes.

    Raises:
        ValueError: The provenance has an unknown entry.
    """
    unknown = sorted(expert.provenance.keys() - set(_PROVENANCE))
    if unknown:
        raise ValueError(f"unknown provenance {unknown}; it may hold {', '.join(_PROVENANCE)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_PREFIX}{name}{_SUFFIX}": z.detach().cpu().contiguous() for name, z in expert.z.items()}
    replace_file(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    config = SvfConfig(target_modules=list(expert.z), inference_mode=True, **expert.provenance)
    config.save_pretrained(str(folder))


def base_expert(like: Mapping[str, Tensor]) -> Z:
    """The base model as an expert: z = 1 for the modules of ``like``."""
    return {name: torch.ones_like(z) for name, z in like.items()}


def stack(experts: Sequence[Mapping[str, Tensor]]) -> Z:
    """Experts as tables (E, r) by module name, as ``SvfModel.per_sample`` takes them.

    Raises:
        ValueError: There are none, or they do not adapt the same matrices.
    """
    if not experts:
        raise ValueError("no experts to stack; pass one at least")
    first = experts[0]
    for k, expert in enumerate(experts):
        wrong = sorted(
            name
            for name in first.keys() | expert.keys()
            if name not in first or name not in expert or first[name].shape != expert[name].shape
        )
        if wrong:
            raise ValueError(
                f"experts 0 and {k} do not adapt the same matrices ({', '.join(wrong[:3])} differ in "
                "presence or size); combine experts of one base model and one choice of target_modules"
            )
    return {name: torch.stack([expert[name].float() for expert in experts]) for name in first}


def layers(names: Sequence[str] | Mapping[str, Any]) -> list[int]:
    """The layer indices that occur in module names, ascending; row l of a per-layer α is the l-th of them.

    Raises:
        ValueError: A name holds no layer index.
    """
    return sorted({layer_of(name) for name in names})


def statistics(z: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Statistics of an expert, one row a matrix.

    Returns:
        Rows with ``name``, ``layer``, ``module`` (the last part of the name), ``mean``, ``std``, ``min``,
        ``max`` and ``change`` (the mean of |z − 1|), in natural order.
    """
    return [
        {
            "name": name,
            "layer": layer_of(name),
            "module": name.rsplit(".", 1)[-1],
            "mean": float(values.mean()),
            "std": float(values.std(correction=0)),
            "min": float(values.min()),
            "max": float(values.max()),
            "change": float((values - 1).abs().mean()),
        }
        for name in sorted(z, key=natural)
        for values in [z[name].double()]
    ]


def compare(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """The cosine between two experts' changes z − 1 over all matrices; 0 where one of them changes nothing.

    Raises:
        ValueError: They do not adapt the same matrices.
    """
    tables = stack([first, second])
    a, b = torch.cat([table.double() - 1 for table in tables.values()], dim=1)
    norms = a.norm() * b.norm()
    return float(a @ b / norms) if norms > 0 else 0.0


def layer_of(name: str) -> int:
    """The layer index in a module's name.

    Raises:
        ValueError: It holds none.
    """
    found = re.search(r"\.(\d+)\.", name)
    if found is None:
        raise ValueError(f"module name {name!r} holds no layer index such as 'layers.0.'")
    return int(found[1])


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts module names by the numbers in them."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
