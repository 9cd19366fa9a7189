"""SVF as a PEFT tuner: ``get_peft_model(model, SvfConfig(...))``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from t2.svf.basis import Basis, check_matrix, narrow_basis
from t2.svf.cache import BasisCache
from t2.svf.config import SvfConfig
from t2.svf.experts import PARAMETER, check_finite, scaled_module, trained_module
from t2.svf.identity import Matrix, Origin, checksum
from t2.svf.layer import Batch, SvfLinear, plain_weight
from t2.svf.mixture import Form, mix
from t2.svf.quantised import layer_weight, quantisation_of
from t2.svf.targets import targeted_modules

_log = logging.getLogger(__name__)

BASE = "__base__"
"""The adapter name that means the base model in a batch of mixed adapters, as in PEFT's LoRA."""


class SvfModel(BaseTuner):
    """A model whose targeted linear layers are :class:`SvfLinear`; PEFT makes it.

    Its methods are reached through the ``PeftModel`` around it.
    """

    prefix = "svf_"
    tuner_layer_cls = SvfLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    # Injection

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adds an adapter; PEFT calls this.

        Raises:
            ValueError: A name in ``target_modules`` matches no layer, or one that cannot be adapted; the adapter was
                made for other base weights, its basis cache is missing, damaged or of other weights; or a targeted
                weight is no finite matrix.
            TypeError: A targeted module is no linear layer.
        """
        # A copy: the fingerprint filled in below must not follow the caller's object to another model.
        config: Any = copy.copy(self.peft_config[adapter_name])
        self.peft_config[adapter_name] = config
        self._matrices: dict[str, Matrix] = getattr(self, "_matrices", {})
        self._caches: dict[str, BasisCache] = {}
        if config.basis is not None and config.basis_fingerprint is not None and not Path(config.basis).is_dir():
            # A saved adapter's cache, which may be a path of the folder where it was trained.
            _log.warning("there is no basis cache %s, which %r names; bases are computed", config.basis, adapter_name)
            config.basis = None
        if config.target_modules != INCLUDE_LINEAR_LAYERS_SHORTHAND:  # which PEFT resolves
            targeted_modules(model, config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._settle_fingerprint(adapter_name, config)

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: SvfConfig,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, SvfLinear):
            target.update_layer(adapter_name, peft_config)
            target.svf_z[adapter_name].requires_grad_(adapter_name in self.active_adapters)
            return
        if isinstance(target, Conv1D):
            raise TypeError(
                f"{current_key} is a Conv1D, which holds its weight transposed; SVF adapts torch.nn.Linear: put one "
                "with Conv1D's weight.T and bias in its place before (the model computes the same), or leave it out of "
                "target_modules"
            )
        if not _is_linear(target):
            raise TypeError(
                f"{current_key} is a {type(target).__name__}; SVF adapts linear layers with in_features and "
                "out_features (torch.nn.Linear and quantised forms of it): leave it out of target_modules"
            )
        layer = SvfLinear(target, current_key, self._basis_source(peft_config.basis, target, current_key))
        layer.update_layer(adapter_name, peft_config)
        layer.svf_z[adapter_name].requires_grad_(adapter_name in self.active_adapters)
        self._replace_module(parent, target_name, layer, target)
        if peft_config.basis is None and not target.weight.is_meta:
            layer.basis()

    def _basis_source(self, folder: str | None, target: nn.Linear, name: str) -> Callable[[], Basis]:
        """Notes which weight a module has; returns what reads or computes its basis when needed."""
        # Partials of plain functions: a model with adapters can be pickled, as torch.save does.
        if folder is None:
            weight = _weight(target)
            if weight is not None:
                self._matrices[name] = Matrix.of(weight, name)
            return partial(_computed_basis, target, name)
        if folder not in self._caches:
            self._caches[folder] = BasisCache.open(folder)
        cache = self._caches[folder]
        self._matrices[name] = cache.matrix(name)
        return partial(_cached_basis, cache, target, name)

    def _settle_fingerprint(self, adapter_name: str, config: SvfConfig) -> None:
        """Fills in the hash over the adapted base weights, or compares it with the one that is given."""
        layers = {name: layer for name, layer in self.svf_layers().items() if adapter_name in layer.svf_z}
        matrices = self.matrices()
        if not matrices.keys() >= layers.keys():
            return
        found = _origin(layers, matrices)
        found.check(vars(config), f"adapter {adapter_name!r}", "this model")
        _note(found, config)

    # What is attached

    def svf_layers(self) -> dict[str, SvfLinear]:
        """The adapted layers by module name, in the model's order."""
        return {layer.key: layer for layer in self.model.modules() if isinstance(layer, SvfLinear)}

    def z(self, adapter_name: str | None = None) -> dict[str, Tensor]:
        """An adapter's effective scales, float32 (r,) on the CPU, by module name; None: of the active one."""
        adapter = self.active_adapters[0] if adapter_name is None else adapter_name
        layers = self.svf_layers()
        for layer in layers.values():
            layer.refresh()
        with torch.no_grad():
            return {
                name: layer.z(adapter).to("cpu", torch.float32, copy=True)
                for name, layer in layers.items()
                if adapter in layer.svf_z
            }

    def matrices(self) -> dict[str, Matrix]:
        """What is known of the adapted base weights, by module name."""
        layers = self.svf_layers().items()
        rebased = {name: Matrix.of(layer.base_layer.weight, name) for name, layer in layers if layer.rebased}
        return {name: self._matrices[name] for name, _ in layers if name in self._matrices} | rebased

    def sigmas(self) -> dict[str, Tensor]:
        """The base weights' singular values, float32 (r,) on the CPU, by module name."""
        layers = self.svf_layers().items()
        return {name: layer.basis().sigma.to("cpu", torch.float32) for name, layer in layers}

    def set_folding(self, enabled: bool) -> None:
        """Whether layers keep a scaled copy W' of their weight (fast, the default) or run factored always."""
        for layer in self.svf_layers().values():
            layer.set_folding(enabled)

    # Mixed batches

    @contextmanager
    def per_sample(self, tables: Mapping[str, Tensor], rows: Tensor | Sequence[int]) -> Iterator[SvfModel]:
        """Within it, each sample of a batch runs under its own expert, whatever adapter is active.

        A batch of many tokens whose samples all name one expert runs under a weight built for it, unless
        gradients are recorded. A decode loop whose batch shrinks calls :meth:`set_rows` inside. With gradients,
        keep it open until ``backward`` if layers are recomputed (gradient checkpointing).

        Args:
            tables: z of E experts, (E, r), by module name; a module that is left out stays the base.
            rows: The expert of each sample, (B,) integers in [0, E); −1 is the base.

        Raises:
            ValueError: An unknown module, a table of another width or number of rows, or a row outside of it.
            RuntimeError: Another ``per_sample`` is open.
        """
        layers = self.svf_layers()
        if any(layer.has_table for layer in layers.values()):
            raise RuntimeError("per_sample is open already; close it, or change the rows with set_rows")
        if saved := [name for name, module in self.model.named_modules() if isinstance(module, ModulesToSaveWrapper)]:
            raise ValueError(
                f"{saved[0]} is trained whole by an adapter's modules_to_save and is one for all samples, which z is "
                "not; run one adapter at a time with set_adapter"
            )
        self._experts = _check_tables(tables, layers)
        batch = Batch()
        watch = self.model.register_forward_pre_hook(partial(_note_shape, batch), with_kwargs=True)
        try:
            for name, layer in layers.items():
                layer.set_table(tables.get(name), batch)
            self.set_rows(rows)
            yield self
        finally:
            watch.remove()
            for layer in layers.values():
                layer.clear_table()

    def set_rows(self, rows: Tensor | Sequence[int]) -> None:
        """Chooses the expert of each sample anew, inside :meth:`per_sample`."""
        layers = self.svf_layers().values()
        if not all(layer.has_table for layer in layers):
            raise RuntimeError("set_rows needs an open per_sample")
        chosen = torch.as_tensor(rows, dtype=torch.long)
        if chosen.ndim != 1 or bool(((chosen < -1) | (chosen >= self._experts)).any()):
            raise ValueError(
                f"rows must be (B,) integers from -1 (the base) to {self._experts - 1}, got {chosen.tolist()}"
            )
        only_base = bool((chosen < 0).all())
        shared = int(chosen[0]) if len(chosen) and bool((chosen == chosen[0]).all()) else None
        for layer in layers:
            layer.set_rows(None if only_base else chosen, shared)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Serves PEFT's ``adapter_names=[...]``: the name of an adapter, or :data:`BASE`, for each sample."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names cannot be passed in training mode; call eval() first")
        adapters = sorted(set(names) - {BASE})
        unknown = [name for name in adapters if name not in self.peft_config]
        if unknown:
            raise ValueError(f"unknown adapters {unknown}; this model has {sorted(self.peft_config)} and {BASE!r}")
        layers = self.svf_layers().items() if adapters else ()
        tables = {name: torch.stack([layer.z(a) for a in adapters]) for name, layer in layers}
        repeat = _copies(kwargs)
        rows = [adapters.index(name) if name != BASE else -1 for name in names for _ in range(repeat)]
        with self.per_sample(tables, rows):
            yield

    # Mixing

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float] | Tensor,
        adapter_name: str,
        combination_type: Form = "normalised",
        renormalise: bool = True,
    ) -> None:
        """Adds the mixture of some adapters as one more, frozen and not active.

        Args:
            adapters: The names of K of this model's adapters.
            weights: α, (K,) or (G, K) with a row per layer or matrix.
            adapter_name: What the mixture is called.
            combination_type: The form of the mixture, see :func:`t2.svf.mix`; ``"normalised"`` or ``"free"``.
            renormalise: Whether the free form is rescaled.

        Raises:
            ValueError: An adapter is unknown, the new name is taken, they do not adapt the same matrices or train
                whole modules, or the weights do not fit.
        """
        unknown = [name for name in adapters if name not in self.peft_config]
        if unknown or not adapters or adapter_name in self.peft_config:
            raise ValueError(
                f"add_weighted_adapter takes names of {sorted(self.peft_config)} and a new one for the mixture; got "
                f"{list(adapters)} and {adapter_name!r}"
            )
        if whole := [name for name in adapters if getattr(self.peft_config[name], "modules_to_save", None)]:
            raise ValueError(f"{whole} train modules whole (modules_to_save), which cannot be mixed; mix others")
        experts = [self.z(name) for name in adapters]
        alpha = torch.as_tensor(weights, dtype=torch.float32)
        mixed = mix(
            experts, alpha, combination_type, self.sigmas() if combination_type == "free" else None, renormalise
        )
        first: Any = self.peft_config[adapters[0]]
        config = first.effective()
        config.target_modules, config.exclude_modules, config.layers_to_transform = sorted(mixed), None, None
        config.task = config.seed = config.checksum = None
        config.inference_mode = True
        self.peft_config[adapter_name] = config
        self.inject_adapter(self.model, adapter_name)
        layers = self.svf_layers()
        with torch.no_grad():
            for name, z in mixed.items():
                layers[name].svf_z[adapter_name].copy_(z)
        self.set_requires_grad(adapter_name, requires_grad=False)

    # Merging

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: base weights are never written to.

        Raises:
            NotImplementedError: Always; names the alternative.
        """
        raise NotImplementedError(
            "merge_adapter would write into the base weights; merge_and_unload() returns a plain merged copy "
            "of the model and leaves this one as it is"
        )

    def unmerge_adapter(self) -> None:
        """Refused: nothing is ever merged.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("nothing is merged: base weights are never written to; see merge_and_unload()")

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """A plain copy of the model with one adapter's W' as its weights; this model stays as it is.

        Args:
            progressbar: Unused; part of PEFT's signature.
            safe_merge: Check that the merged weights are finite.
            adapter_names: The one adapter to merge; None: the active one.

        Raises:
            ValueError: Several adapters are named, one is unknown, or merged weights are not finite.
            TypeError: An adapted layer has no plain floating weights.
        """
        names = self.active_adapters if adapter_names is None else adapter_names
        if len(names) != 1 or names[0] not in self.peft_config:
            raise ValueError(f"merging takes one adapter of {sorted(self.peft_config)}, got {names}")
        self._check_merge_allowed()
        layers = self.svf_layers().values()
        merged: dict[int, Any] = {id(layer): layer.merged_copy(names[0]) for layer in layers}
        if safe_merge:
            for layer in merged.values():
                check_matrix(layer.weight, "a merged weight")
        # deepcopy takes what its memo holds instead of copying, which puts the merged layers in place.
        model: nn.Module = copy.deepcopy(self.model, merged)
        for name, module in list(model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                trained = dict(module.modules_to_save.items())
                model.set_submodule(name, trained.get(names[0], module.original_module))
        if hasattr(model, "peft_config"):
            del model.peft_config
        return model

    # Files

    @classmethod
    def _get_adapter_state_dict(  # type: ignore[override]
        cls,
        model: nn.Module,
        config: SvfConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        selected = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        keeps_parameters = not config.is_direct and config.resumable
        z: dict[str, Tensor] = {}
        layers: dict[str, SvfLinear] = {}
        for name, layer in model.named_modules():
            key = f"{name}.svf_z.{adapter_name}"
            if isinstance(layer, SvfLinear) and key in selected:
                layer.refresh()
                layers[layer.key] = layer
                if keeps_parameters and layer.svf_z[adapter_name].requires_grad:
                    selected[PARAMETER + key] = selected[key]
                with torch.no_grad():
                    z[layer.key] = selected[key] = layer.z(adapter_name, selected[key])
        # PEFT writes the configuration after the tensors.
        config.checksum = checksum(z)
        if any(layer.rebased for layer in layers.values()):
            weights = {name: _weight(layer.base_layer) for name, layer in layers.items()}
            _note(_origin(layers, {name: Matrix.of(w, name) for name, w in weights.items() if w is not None}), config)
        return selected

    @classmethod
    def _remap_adapter_state_dict_for_load(  # type: ignore[override]
        cls, model: nn.Module, config: SvfConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        scaled = {name: key for key in state_dict if (name := scaled_module(key)) is not None}
        trained = {name: key for key in state_dict if (name := trained_module(key)) is not None}
        layers = {
            layer.key: layer
            for layer in model.modules()
            if isinstance(layer, SvfLinear) and adapter_name in layer.svf_z
        }
        if scaled.keys() != layers.keys():
            differing = sorted(scaled.keys() ^ layers.keys())
            raise ValueError(
                f"the adapter's file and its configuration do not adapt the same modules of this model: "
                f"{differing[:3]} differ, of {len(differing)}; use the base model that it was made for"
            )
        check_finite({name: state_dict[key] for name, key in scaled.items()})
        chosen = {key: value for key, value in state_dict.items() if key not in trained.values()}
        if not config.is_direct:
            if trained.keys() != scaled.keys():
                raise ValueError(
                    "the adapter's file holds the effective z alone, and loads as parametrisation 'direct' and no "
                    f"renormalise, not as {config.parametrisation!r} with renormalise={config.renormalise}; to go on "
                    "training in that form, load what was saved of an adapter in training with SvfConfig.resumable"
                )
            for name, key in scaled.items():
                chosen[key] = state_dict[trained[name]]
                _check_parameter(layers[name], adapter_name, chosen[key], state_dict[key])
        state_dict = chosen
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def attach(model: nn.Module, config: SvfConfig) -> PeftModel:
    """Attaches SVF at z = 1, frozen, for running experts by :meth:`SvfModel.per_sample`.

    Args:
        model: The base model; its targeted layers are wrapped in place.
        config: Where to put z; what it says about initial values and parametrisation is not used.
    """
    config = config.effective()
    config.inference_mode = True
    return get_peft_model(model, config).eval()


def _note_shape(batch: Batch, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Notes samples and tokens of what a model is given: ids (B, T), or embeddings (B, T, n)."""
    given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    first = next((value for value in given if isinstance(value, Tensor)), None)
    batch.shape = None if first is None or first.ndim < 2 else (first.shape[0], first.shape[1])


def _copies(arguments: Mapping[str, Any]) -> int:
    """How many rows a generation makes of each prompt."""
    settings = arguments.get("generation_config")
    names = ("num_beams", "num_return_sequences")
    return max(arguments.get(name) or getattr(settings, name, None) or 1 for name in names)


def _origin(layers: Mapping[str, SvfLinear], matrices: Mapping[str, Matrix]) -> Origin:
    """The base weights that an adapter of these layers scales."""
    quantised = next(filter(None, (quantisation_of(layer.base_layer) for layer in layers.values())), None)
    return Origin.of({name: matrices[name] for name in layers}, quantised)


def _note(origin: Origin, config: SvfConfig) -> None:
    for key, value in asdict(origin).items():
        setattr(config, key, value)


def _check_parameter(layer: SvfLinear, adapter_name: str, parameter: Tensor, z: Tensor) -> None:
    """Whether a parameter means the z that it was saved with, in the adapter's form."""
    layer.refresh()
    with torch.no_grad():
        # Not to the bit: they may have been saved on another device.
        found = layer.z(adapter_name, parameter.to(layer.svf_z[adapter_name])).cpu()
        if not torch.allclose(found.double(), z.cpu().double(), rtol=1e-4, atol=1e-5):
            raise ValueError(
                f"the adapter's file holds a z of {layer.key} that its parameters do not give here: it was saved with "
                "another parametrisation, max_mult or renormalise; configure the adapter as it was"
            )


def _computed_basis(target: nn.Linear, name: str) -> Basis:
    weight = _weight(target)
    return narrow_basis(target.weight if weight is None else weight, f"{name}.weight")


def _cached_basis(cache: BasisCache, target: nn.Linear, name: str) -> Basis:
    return cache.load(name, _weight(target))


def _weight(layer: nn.Linear) -> Tensor | None:
    """The weight that a layer multiplies by, which takes memory if it is quantised; None where it cannot be told."""
    plain = plain_weight(layer)
    return layer_weight(layer) if plain is None else plain


def _is_linear(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), int) for name in ("in_features", "out_features")) and (
        getattr(module, "weight", None) is not None
    )


def _check_tables(tables: Mapping[str, Tensor], layers: Mapping[str, SvfLinear]) -> int:
    """The number of experts E that all tables share."""
    unknown = sorted(tables.keys() - layers.keys())
    if unknown:
        raise ValueError(f"no adapted module is called {unknown[:3]}; the model has {list(layers)[:3]}, …")
    for name, table in tables.items():
        if table.ndim != 2 or table.shape[1] != layers[name].rank:
            shape = tuple(table.shape)
            raise ValueError(f"the table of {name} must be (E, {layers[name].rank}), got {shape}")
    sizes = {len(table) for table in tables.values()}
    if len(sizes) > 1:
        raise ValueError(f"all tables must hold the same number of experts, got {sorted(sizes)}")
    return sizes.pop() if sizes else 0
