"""The expert or the mix that a user names, loaded, with the base model that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2 import config
from t2.adaptation.system import read_mixture
from t2.cli import library
from t2.engine.device import find_device
from t2.files import read_json
from t2.svf import BasisCache, Expert, Mixture, load_expert
from t2.svf.base_checkpoint import BaseCheckpoint, checkpoint_folder
from t2.svf.quantised import Quantisation


@dataclass(frozen=True)
class Base:
    """What a user says of the base model; None: as the expert and the project say.

    Attributes:
        model: Folder or Hugging Face id.
        revision: Of a Hugging Face id.
        basis: A basis cache.
        dtype: What it runs in.
        quantisation: Of its weights.
    """

    model: str | None = None
    revision: str | None = None
    basis: str | None = None
    dtype: str | None = None
    quantisation: Quantisation | None = None

    def checkpoint(self) -> BaseCheckpoint:
        """Its files, fetched where they are not here.

        Raises:
            ValueError: No model is named.
            FileNotFoundError: It is neither a folder nor a Hugging Face id.
        """
        if self.model is None:
            raise ValueError("the expert does not say what base model it was made for; name it with --base")
        dtype = self.dtype or _project_dtype(self.model)
        return BaseCheckpoint(
            checkpoint_folder(self.model, self.revision),
            None if dtype is None else getattr(torch, dtype),
            BasisCache.open(self.basis) if self.basis is not None and Path(self.basis).is_dir() else None,
            find_device("auto"),
            self.quantisation,
        )


@dataclass(frozen=True)
class Selection:
    """An expert to be exported.

    Attributes:
        expert: One that was trained, or a mix.
        base: The files of its base model.
        about: What it was made of, as plain values.
    """

    expert: Expert
    base: BaseCheckpoint
    about: dict[str, Any]


def select(terms: Sequence[str], search: str, given: Base) -> Selection:
    """The expert, or the mix, that a user names.

    Args:
        terms: An expert's name, or the parts of a mix; see :func:`t2.cli.library.weights`.
        search: Without terms: the search whose mix is meant.
        given: What the user says of the base model.

    Raises:
        ValueError: There is no such expert or mix, or its parts were made for different base weights.
    """
    if search:
        return _found(search, given)
    named = library.weights(terms)
    if isinstance(named, dict):
        return _mix(Mixture(named), {name: library.find(name) for name in named if name != library.BASE}, given)
    entry = library.find(named)
    expert = load_expert(entry.folder)
    base = _base_of(expert, given)
    made = Expert(expert.z, expert.provenance | _said(base))
    return Selection(made, base.checkpoint(), _said(base) | {"experts": {entry.name: str(entry.folder)}})


def _mix(mixture: Mixture, entries: Mapping[str, library.Entry], given: Base) -> Selection:
    """A mixture of experts, by the names of its members in the order of the sum."""
    if not entries:
        raise ValueError("the mix names the base alone, which needs no export; name an expert")
    if len({entry.folder for entry in entries.values()}) < len(entries):
        raise ValueError(f"two names of the mix mean one expert: {', '.join(entries)}; write each expert once")
    experts = {name: load_expert(entry.folder) for name, entry in entries.items()}
    first = next(iter(experts.values()))
    for name, expert in experts.items():
        if expert.provenance.get("basis_fingerprint") != first.provenance.get("basis_fingerprint"):
            raise ValueError(f"{name} and {next(iter(experts))} were made for different base weights; mix such of one")
    base = _base_of(first, given)
    checkpoint = base.checkpoint()
    sigma = None
    if mixture.needs_sigma:
        sigma = {name: checkpoint.basis_of(name, checkpoint.weights[name]).sigma.cpu() for name in first.z}
    z = {name: expert.z for name, expert in experts.items()}
    mixture = mixture.effective(z, sigma)
    provenance = {key: value for key, value in first.provenance.items() if key not in ("task", "seed")}
    about = _said(base) | {
        "experts": {entry.name: str(entry.folder) for entry in entries.values()},
        "mixture": str(mixture),
        "form": mixture.form,
        "renormalise": mixture.renormalise,
    }
    return Selection(Expert(mixture.z(z), provenance | _said(base)), checkpoint, about)


def _found(search: str, given: Base) -> Selection:
    """The mix that a search found, over the experts that it was found for."""
    path = library.search_result(config.load(), search)
    mixture, seed = read_mixture(path), read_json(path)["seed"]
    members = config.load().sets[config.load().searches[search].set].members
    return _mix(mixture, {name: library.find(f"{name}/seed-{seed}") for name in members}, given)


def _base_of(expert: Expert, given: Base) -> Base:
    """The base model that the user names, else the one that the expert was made for."""
    own, named = expert.provenance, given.model is not None
    return Base(
        given.model if named else own.get("base_model_name_or_path"),
        given.revision if named else own.get("revision"),
        given.basis or own.get("basis"),
        given.dtype,
        own.get("quantisation"),
    )


def _said(base: Base) -> dict[str, Any]:
    """The base model as provenance has it."""
    return {"base_model_name_or_path": base.model, "revision": base.revision}


def _project_dtype(model: str) -> str | None:
    """What the project runs a model in, where it is one of its bases."""
    if not Path("params.yaml").exists():
        return None
    return next((base.dtype for base in config.load().bases.values() if base.path == model), None)
