"""Experts of the paper's public code (github.com/SakanaAI/self-adaptive-llms) as ordinary SVF experts.

It saves what a sigmoid is taken of, in bfloat16, an entry per singular value in descending order of σ:

* ``learnable_params.pt``: a dict of vectors by parameter name ("model.layers.0.mlp.up_proj.weight");
* ``policy_params.pt``: the state dict of its policy, ``learnable_params_module_list.<i>``: the same vectors without
  names, in the order in which the model lists its "mlp" parameters.

Its W' = U diag(σ · mask) Vᵀ · Σσ / Σ(σ · mask) with mask = sigmoid(p) · max_mult, so z = mask · Σσ / Σ(σ · mask):
``max_mult`` cancels. z_i goes with the i-th singular value here as there. The signs of singular vectors, in which two
decompositions differ, cancel in W'; within equal singular values the vectors are not determined, and neither is which
of their z belongs to which.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from t2.svf.base_checkpoint import BaseCheckpoint
from t2.svf.experts import Expert, Z
from t2.svf.identity import Matrix, Origin
from t2.svf.pretrained import empty_model, load_config

_NUMBERED = re.compile(r"learnable_params_module_list\.(\d+)")


def import_reference(file: str | Path, base: BaseCheckpoint, provenance: Mapping[str, object] | None = None) -> Expert:
    """Reads ``learnable_params.pt`` or ``policy_params.pt`` as an expert with the effective z.

    The mask is taken in the dtype of the file, as there: around the start of training a step of bfloat16 is 0.7 % of
    the mask, as large as what training changes. All else is computed in float64.

    Args:
        file: Read without running code that it may hold.
        base: The model that it was trained on.
        provenance: ``base_model_name_or_path``, ``revision``, ``basis``, ``task`` and ``seed``, as far as known.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds objects that only code could rebuild, no vectors, such of another model, or numbers that
            are not finite.
    """
    vectors = _named(_read(Path(file)), base, Path(file))
    z: Z = {}
    matrices: dict[str, Matrix] = {}
    for name, parameter in vectors.items():
        weight = base.weights[name]
        if parameter.shape != (min(weight.shape),):
            raise ValueError(
                f"{file} holds {tuple(parameter.shape)} for {name}, whose weight in {base.folder} is "
                f"{tuple(weight.shape)}; name the base model that it was trained on"
            )
        sigma = base.basis_of(name, weight).sigma.cpu().double()
        mask = torch.sigmoid(parameter).double()
        z[name] = (mask * (sigma.sum() / (sigma * mask).sum())).float()
        matrices[name] = base.matrix(name, weight)
    try:
        return Expert(z, {**(provenance or {}), **Origin.of(matrices).noted()})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _read(file: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} is refused: it is damaged, or holds objects that only running its code could rebuild "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Where it was made, save plain "
            "tensors: torch.save({name: p.detach().cpu() for name, p in params.items()}, file)"
        ) from None
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"{file} holds a {type(loaded).__name__}; expected a dict of vectors by parameter name")
    wrong = [
        key
        for key, value in loaded.items()
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point())
    ]
    if wrong:
        raise ValueError(
            f"{file} holds something else than floating vectors by name under {wrong[:3]}; expected the reference "
            "code's learnable_params.pt or policy_params.pt of one expert, not of a mix"
        )
    return {key: value.detach() for key, value in loaded.items()}


def _named(vectors: Mapping[str, Tensor], base: BaseCheckpoint, file: Path) -> dict[str, Tensor]:
    """The vectors by module name, in the model's order."""
    numbers = [_NUMBERED.fullmatch(key) for key in vectors]
    if all(numbers):
        names = [name for name in _module_order(base) if "mlp" in name]
        if len(names) != len(vectors):
            raise ValueError(
                f"{file} holds {len(vectors)} vectors without names, and {base.folder} has {len(names)} mlp matrices; "
                "name the base model that it was trained on, or import learnable_params.pt, which holds names"
            )
        ordered = sorted(vectors, key=lambda key: int(key.rpartition(".")[2]))
        return {name: vectors[key] for name, key in zip(names, ordered, strict=True)}
    # A ParameterDict takes no dots in its keys, so some forks write underscores.
    known = {spelt: name for name in base.weights for spelt in (f"{name}.weight", f"{name}.weight".replace(".", "_"))}
    unknown = [key for key in vectors if key.removeprefix("learnable_params.") not in known]
    if unknown:
        raise ValueError(
            f"{file} names {', '.join(unknown[:3])}, which {base.folder} does not hold; name the base model that it "
            "was trained on"
        )
    return {known[key.removeprefix("learnable_params.")]: vector for key, vector in vectors.items()}


def _module_order(base: BaseCheckpoint) -> list[str]:
    """Names of the checkpoint's matrices as its model registers them, which its files do not tell."""
    model = empty_model(load_config(base.folder))
    names = (key.removesuffix(".weight") for key in model.state_dict())
    return [name for name in names if name in base.weights]
