"""Which modules of a model a PEFT configuration means: every name that it lists, or none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from t2.svf.experts import layers


def check_targets(model: nn.Module, config: PeftConfig) -> None:
    """Whether each name that a configuration of any method lists is that of a module, in the layers that it lists.

    PEFT adapts what matches and says nothing of the rest. An expression that matches nothing it refuses itself.

    Args:
        model: A base model, with or without adapters.
        config: Names in ``target_modules``, and what narrows them.

    Raises:
        ValueError: A name matches no module, or is that of weights which the model fuses into one tensor.
    """
    targets: Any = getattr(config, "target_modules", None)
    if targets is None or isinstance(targets, str):
        return
    names = [name for name, _ in _modules(model)]
    fused = {name: tuple(value.shape) for name, value in model.named_parameters() if value.ndim > 2}
    alone: Any = copy.copy(config)
    unmatched = []
    for target in sorted(targets):
        alone.target_modules = {target}
        matched = any(check_target_module_exists(alone, name) for name in names)
        parts = [name for name in fused if _is_part(target.rpartition(".")[2], name.rpartition(".")[2])]
        if parts and not (matched and "." in target):
            raise ValueError(
                f"target_modules names {target!r}, and this model fuses such weights of its experts into one tensor, "
                f"which adapters of linear layers do not reach: {parts[0]} {fused[parts[0]]}, {len(parts)} of them. "
                "Leave the name out, or write more of the name of what is not fused (shared_expert.down_proj)"
            )
        if not matched:
            unmatched.append(target)
    if unmatched:
        known = sorted({name.rpartition(".")[2] for name, module in _modules(model) if isinstance(module, nn.Linear)})
        chosen = getattr(config, "layers_to_transform", None)
        where = "" if chosen is None else f" in the layers {chosen}"
        raise ValueError(
            f"target_modules names {unmatched}, which match no module of this model{where}; its linear layers are "
            f"{', '.join(known)}"
        )


def targeted_modules(model: nn.Module, config: PeftConfig) -> list[str]:
    """The names of the linear layers that SVF adapts under a configuration, in the model's order.

    Raises:
        ValueError: See :func:`check_targets`; or a layer has no index, as experts are mixed by, or shares its weight.
    """
    check_targets(model, config)
    modules = dict(_modules(model))
    holders: dict[int, list[str]] = {}
    for name, module in modules.items():
        holders.setdefault(id(getattr(module, "weight", None)), []).append(name)
    found = [
        name
        for name, module in modules.items()
        if hasattr(module, "in_features") and check_target_module_exists(config, name)
    ]
    for name in found:
        try:
            layers([name])
        except ValueError as error:
            raise ValueError(
                f"{error}; SVF adapts weights of numbered layers: leave it out of target_modules"
            ) from None
        tied = [other for other in holders[id(modules[name].weight)] if other != name]
        if tied:
            raise ValueError(
                f"{name} shares its weight with {tied[0]}, which would not be scaled; leave it out of target_modules"
            )
    return found


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules but those that an adapter wraps, whose names the wrappers have."""
    return ((name, module) for name, module in model.named_modules() if ".base_layer" not in f".{name}")


def _is_part(target: str, fused: str) -> bool:
    """Whether a fused tensor is called as a target, or holds it: gate_up_proj holds gate_proj."""
    parts = fused.removesuffix("_proj").split("_")
    return target == fused or (target.endswith("_proj") and target.removesuffix("_proj") in parts)
