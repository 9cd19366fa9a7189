"""Experts: sets of z vectors, on disk and side by side.

An expert is one z (r,) for each adapted weight matrix; :mod:`t2.svf.mixture` combines them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from t2.files import read_json, replace_file
from t2.svf.config import SvfConfig
from t2.svf.identity import Matrix, Origin, checksum
from t2.svf.tensor_files import read_tensors

Z = dict[str, Tensor]

PARAMETER = "parameter."
"""What a key begins with that holds the learned number behind a z, beside the key of that z."""

_PREFIX = "base_model.model."
_SUFFIX = ".svf_z"
_PROVENANCE = (
    "base_model_name_or_path",
    "revision",
    "basis",
    "basis_fingerprint",
    "rounded_fingerprint",
    "basis_dtype",
    "quantisation",
    "task",
    "seed",
)


@dataclass(frozen=True)
class Expert:
    """One set of z vectors and where it comes from.

    Attributes:
        z: The effective scales, float32 (r,), by module name ("model.layers.0.mlp.up_proj").
        provenance: ``base_model_name_or_path``, ``revision``, ``basis``, ``basis_fingerprint``,
            ``rounded_fingerprint``, ``basis_dtype``, ``quantisation``, ``task`` and ``seed``, as far as they are
            known.

    Raises:
        ValueError: A z is no vector of finite numbers.
    """

    z: Z
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks z, wherever it comes from."""
        check_finite(self.z)

    def check(self, base: Mapping[str, Matrix], where: str, *, quantisation: str | None = None) -> None:
        """Whether it was made for a base's weights; a note is logged where only their dtype is another.

        Args:
            base: The base's matrices, by module name.
            where: What the base is called in messages.
            quantisation: Of the base.

        Raises:
            ValueError: The base lacks a matrix, a z has another length, or the weights are other ones.
        """
        what = f"the expert of {self.provenance.get('task') or 'an unnamed task'}"
        for name, z in self.z.items():
            if name not in base:
                raise ValueError(
                    f"{what} scales {name}, which {where} does not hold or adapt; use the base model that it was made "
                    f"for, {self.provenance.get('base_model_name_or_path')}, with target_modules that cover it"
                )
            if z.shape != (base[name].rank,):
                raise ValueError(
                    f"{name} of {where} takes a z of {base[name].rank} numbers, that of {what} has {tuple(z.shape)}: "
                    "use the base model that it was made for"
                )
        Origin.of({name: base[name] for name in self.z}, quantisation).check(self.provenance, what, where)


def scaled_module(key: str) -> str | None:
    """The module whose z a key of an adapter's file holds; None: it holds something else."""
    name = key.removeprefix(_PREFIX)
    return None if name.startswith(PARAMETER) or not name.endswith(_SUFFIX) else name.removesuffix(_SUFFIX)


def trained_module(key: str) -> str | None:
    """The module whose learned numbers a key holds beside its z; None: it holds something else."""
    name = key.removeprefix(_PREFIX)  # transformers puts it before whatever it saves
    return scaled_module(name.removeprefix(PARAMETER)) if name.startswith(PARAMETER) else None


def check_finite(z: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the matrix, unless each z is a vector of finite numbers."""
    for name, values in z.items():
        if values.ndim != 1 or not values.is_floating_point():
            raise ValueError(f"the z of {name} is {tuple(values.shape)} of {values.dtype}; expected a floating vector")
        wrong = int((~values.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"the z of {name} holds {wrong} numbers that are not finite, of {len(values)}; train or copy the "
                "expert again"
            )


def load_expert(folder: str | Path, base: Mapping[str, Matrix] | None = None) -> Expert:
    """Reads an expert from a PEFT adapter folder, without a model: its z, whatever the files hold besides.

    Args:
        folder: The adapter folder.
        base: The matrices of the base that it is to run on, by module name, of a basis cache or an adapted model;
            None: whoever gives it a base checks it.

    Raises:
        ValueError: The folder holds no adapter, one of another method, a damaged one, z that are not finite or
            belong to no layer, or an expert of other base weights.
    """
    folder = Path(folder)
    config_file, tensor_file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config_file, tensor_file):
        if not file.is_file():
            raise ValueError(f"{folder} is no adapter folder: {file.name} is missing; train or copy one")
    config = read_json(config_file)
    if config.get("peft_type") != "SVF":
        raise ValueError(f"{folder} holds a {config.get('peft_type')} adapter, not an SVF expert")
    if config.get("modules_to_save"):
        raise ValueError(
            f"{folder} holds modules beside its z ({', '.join(config['modules_to_save'])}), without which z is not "
            "what was trained; run it with PeftModel.from_pretrained, which loads both"
        )
    # PEFT adds base matrices where embeddings were resized or the output layer is a target.
    z = {name: tensor for key, tensor in read_tensors(tensor_file).items() if (name := scaled_module(key)) is not None}
    if not z:
        raise ValueError(f"{tensor_file} holds no z; train or copy the expert again")
    if config.get("checksum") not in (None, checksum(z)):
        raise ValueError(
            f"{tensor_file} is damaged, or not the one that {config_file.name} was saved with: its checksum differs; "
            "copy both again"
        )
    provenance = {key: config[key] for key in _PROVENANCE if config.get(key) is not None}
    try:
        expert = Expert({name: z[name].float() for name in sorted(z, key=natural)}, provenance)
        layers(expert.z)
        if base is not None:
            expert.check(base, "the base model", quantisation=provenance.get("quantisation"))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return expert


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
    config = SvfConfig(
        target_modules=list(expert.z), inference_mode=True, checksum=checksum(expert.z), **expert.provenance
    )
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
    """Statistics of an expert, one row per matrix.

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
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    if found is None:
        raise ValueError(f"module name {name!r} holds no layer index such as 'layers.0.'")
    return int(found[1])


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts module names by the numbers in them."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]
