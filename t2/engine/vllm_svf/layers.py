"""vLLM's linear layers with tables of z − 1, one row per adapter slot, applied along the narrow-side basis Q.

As in :mod:`t2.svf.functional`, token by token: a tall matrix has its input scaled, a wide one its output before the
bias; in 16 bits the change's share of the output meets W x in one sum. Tokens without an adapter take a row of zeros,
which changes no bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.lora.layers import BaseLayerWithLoRA, ColumnParallelLinearWithLoRA, RowParallelLinearWithLoRA
from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear

from t2.engine.vllm_svf.slots import BASIS_VARIABLE, CONFIG_KEY
from t2.svf import BasisCache, checkpoint_weights
from t2.svf.basis import is_narrow
from t2.svf.functional import add_product, add_scaled, change_along


class _Part(NamedTuple):
    """One of the checkpoint's matrices in a layer; ``q`` None: experts leave it alone."""

    name: str
    rows: slice
    tall: bool
    q: Tensor | None
    changes: Tensor

    def add(self, x: Tensor, slots: Tensor) -> Tensor:
        """Adds Q ((z − 1) ⊙ Qᵀx) to x (tokens, r), with the row of z − 1 in each token's slot."""
        return x if self.q is None else add_scaled(x, x, self.q, self.changes[slots])

    def share(self, x: Tensor, product: Tensor, weight: Tensor, slots: Tensor) -> Tensor:
        """The change's share (tokens, m) of the output, by itself, for the whole layer's W x and weight."""
        own = product[:, self.rows]
        if self.q is None:
            return torch.zeros_like(own)
        along = change_along(x if self.tall else own, self.q, self.changes[slots])
        return F.linear(along, weight[self.rows]) if self.tall else along


class _SvfLinear(BaseLayerWithLoRA):
    """What both kinds of layer share; ``forward`` is vLLM's."""

    kind: ClassVar[Any]
    base_layer: Any
    device: torch.device

    @classmethod
    def can_replace_layer(
        cls, source_layer: Any, lora_config: Any, packed_modules_list: list[str], model_config: Any = None
    ) -> bool:
        """Any layer of the kind, in an engine that was given a basis cache."""
        if _basis_folder() is None or not isinstance(source_layer, cls.kind):
            return False
        parent, _, own = source_layer.prefix.rpartition(".")
        # Nowhere else does vLLM tell a layer which of the checkpoint's modules it holds.
        source_layer.svf_names = [f"{parent}.{name}" for name in packed_modules_list or [own]]
        return True

    def create_lora_weights(self, max_loras: int, lora_config: Any, model_config: Any = None) -> None:
        """Reads the bases of the layer's matrices and makes their empty tables.

        Raises:
            NotImplementedError: The layer is spread over several devices.
            ValueError: The basis cache is damaged or belongs to other weights.
        """
        layer = self.base_layer
        if layer.tp_size > 1:
            raise NotImplementedError(
                f"experts per request need whole matrices, and {layer.prefix} is spread over {layer.tp_size} "
                "devices; run with tensor parallelism 1, or with experts folded"
            )
        dtype, weight = get_current_vllm_config().model_config.dtype, getattr(layer, "weight", None)
        plain = (
            isinstance(weight, Tensor)
            and weight.dtype == dtype
            and weight.shape[0] == sum(layer.output_partition_sizes)
        )
        if is_narrow(dtype) and not plain:
            raise NotImplementedError(
                f"{layer.prefix} computes in {dtype}, where a z near 1 would be rounded away, and its weight cannot be "
                "read to prevent that; run the engine in float32, or take transformers"
            )
        # vLLM casts what it loads to this type, and z − 1 keeps its digits whatever the base's type is.
        lora_config.lora_dtype = torch.float32
        config = get_current_vllm_config()
        self.cache, weights = _source(_basis_folder(), config.model_config.model, config.model_config.dtype)
        quantised = config.quant_config is not None
        self.parts: list[_Part] = []
        start, known = 0, set(self.cache)
        sizes = layer.output_sizes if len(layer.svf_names) > 1 else [layer.output_size]
        for name, size in zip(layer.svf_names, sizes, strict=True):
            q, tall, rank = None, False, 0
            if name in known:
                basis = self.cache.load(name, None if quantised else weights[name])
                q, tall, rank = basis.q.to(self.device), basis.side == "right", len(basis.sigma)
            changes = torch.zeros(max_loras + 1, rank, device=self.device)
            self.parts.append(_Part(name, slice(start, start + size), tall, q, changes))
            start += size
        # vLLM reads sizes off these for the zero adapters of its warm-up.
        self.n_slices = len(self.parts)
        self.lora_a_stacked = tuple(part.changes[None, None, :1] for part in self.parts)
        self.lora_b_stacked = tuple(torch.zeros(1, 1, 1, 1) for _ in self.parts)

    def set_mapping(self, punica_wrapper: Any) -> None:
        """Takes vLLM's map of tokens to slots, which all layers of a model share."""
        super().set_mapping(punica_wrapper)
        punica_wrapper._token_lora_indices.fill_(-1)  # uninitialised until the first request with an adapter
        self.wrapped = vars(punica_wrapper).setdefault("svf_modules", set())
        self.wrapped.update(part.name for part in self.parts)

    def reset_lora(self, index: int) -> None:
        """Makes a slot the base."""
        for part in self.parts:
            part.changes[index] = 0

    def set_lora(self, index: int, lora_a: Any, lora_b: Any) -> None:
        """Fills a slot from what :func:`t2.engine.vllm_svf.slots.write_slot` wrote.

        Raises:
            ValueError: It is a true LoRA, or for other matrices; or vLLM wrapped fewer layers than the basis
                cache has matrices.
        """
        if missing := sorted(set(self.cache) - self.wrapped):
            raise ValueError(
                f"vLLM gave no adapter slots to {len(missing)} matrices of {self.cache.folder} ({missing[:3]}): name "
                "their last parts in lora_target_modules, or build the basis cache without them"
            )
        self.reset_lora(index)
        changes, marks = (given if isinstance(given, list) else [given] for given in (lora_a, lora_b))
        for part, change, mark in zip(self.parts, changes, marks, strict=True):
            if change is None or not (change.any() or mark.any()):
                continue
            if not mark.isnan().all() or change.shape != part.changes[:1].shape or not change.isfinite().all():
                raise ValueError(
                    f"the adapter for {part.name} is no expert of this model: it is {tuple(change.shape)} where z − 1 "
                    f"is {tuple(part.changes[:1].shape)}, not finite, or a true LoRA; slots of this engine hold SVF "
                    "experts only"
                )
            part.changes[index] = change[0]

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's output for x (tokens, n), each token under the expert in its slot."""
        product = self.base_layer.quant_method.apply
        slots = self.punica_wrapper._token_lora_indices[: len(x)]
        # On a GPU the question would wait for the device.
        if x.device.type == "cpu" and bool((slots < 0).all()):
            return product(self.base_layer, x, bias)
        if is_narrow(x.dtype):
            return self._apply_narrow(x, bias, slots)
        inputs = [part.add(x, slots) if part.tall else x for part in self.parts]
        # One product for all the inputs that a fused layer has reads its weights once, whatever their format.
        distinct = {id(each): each for each in inputs}
        products = product(self.base_layer, torch.cat(list(distinct.values())), None).chunk(len(distinct))
        outputs = dict(zip(distinct, products, strict=True))
        plain = [outputs[id(each)][:, part.rows] for each, part in zip(inputs, self.parts, strict=True)]
        output = torch.cat(
            [each if part.tall else part.add(each, slots) for each, part in zip(plain, self.parts, strict=True)], 1
        )
        return output if bias is None else output + bias.to(output.dtype)

    def _apply_narrow(self, x: Tensor, bias: Tensor | None, slots: Tensor) -> Tensor:
        """What :meth:`apply` does in 16 bits."""
        weight, product = self.base_layer.weight, self.base_layer.quant_method.apply
        plain = product(self.base_layer, x, None)
        output = add_product(torch.cat([part.share(x, plain, weight, slots) for part in self.parts], 1), x, weight)
        base: Tensor = plain
        if bias is not None:
            output, base = output + bias.to(output.dtype), product(self.base_layer, x, bias)
        return torch.where((slots < 0)[:, None], base, output)


class SvfColumnLinear(_SvfLinear, ColumnParallelLinearWithLoRA):
    """Over query, key and value in one matrix, gate and up in one, and single matrices."""

    kind = ColumnParallelLinear


class SvfRowLinear(_SvfLinear, RowParallelLinearWithLoRA):
    """Over projections back to the hidden size."""

    kind = RowParallelLinear


def _basis_folder() -> str | None:
    """The basis cache of the engine that is being built; None: it runs no experts."""
    return get_current_vllm_config().additional_config.get(CONFIG_KEY, os.environ.get(BASIS_VARIABLE))


@lru_cache(maxsize=1)
def _source(basis: str, model: str, dtype: torch.dtype) -> tuple[BasisCache, Mapping[str, Tensor]]:
    """The basis cache, and the checkpoint's weights that it must have been made from."""
    cache = BasisCache.open(basis)
    return cache, checkpoint_weights(model, list(cache), dtype)
