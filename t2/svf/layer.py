"""A linear layer whose singular values are scaled by z, one z vector per adapter."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2.svf.basis import Basis, Side, is_narrow, narrow_side, scaled_weight, weight_change
from t2.svf.config import SvfConfig
from t2.svf.freshness import MANY_TOKENS, Copy, Trace
from t2.svf.functional import Fold, FoldedLinear, Replaced, add_change, add_scaled
from t2.svf.quantised import layer_weight, quantisation_of

_log = logging.getLogger(__name__)

SMALLEST_FOLDED = 1e-3
"""The gradient of a folded weight divides by z; a layer with a smaller |z_i| runs factored."""


class _Folded(NamedTuple):
    """W' (None: the layer must run factored), and what it was built from and for."""

    parameter: Copy
    apart: bool
    fold: Fold | None

    def is_of(self, parameter: Tensor, apart: bool) -> bool:
        """Whether it serves these values of the parameter, and this way to keep the change."""
        return self.apart == apart and self.parameter.is_of(parameter)


class Batch:
    """What a model with a z for each sample was given: its layers may see tokens without their samples.

    Attributes:
        shape: (B, T), samples and tokens of each; None: not known.
    """

    shape: tuple[int, int] | None = None


class SvfLinear(nn.Module, BaseTunerLayer):
    """A linear layer with one z vector per adapter.

    *Folded*, one z for all samples: W' is built once for each value of z, beside W; in 16 bits W' − W, since W' would
    be W again once rounded. *Factored*, samples of
    different z, a |z_i| below :data:`SMALLEST_FOLDED`, or a base layer that is no plain ``nn.Linear`` (a quantised
    one): the base layer runs as it is, and its input (tall) or output (wide) is scaled along Q. W is never
    written to, and z = 1 gives the base layer's output bit for bit.

    W' is built anew whenever the parameter holds other numbers, whoever wrote them. Where the base weight does, its
    basis is computed anew, with a warning, or refused if it comes from a cache; see :meth:`refresh`.

    Attributes:
        key: The module's name in the base model.
        rank: r = min(m, n).
        side: Which singular vectors Q holds, see :class:`t2.svf.basis.Basis`.
        svf_z: The learned numbers (r,) by adapter: z, or what a sigmoid is taken of.
        rebased: Whether the base weight has changed since the layer was made.
    """

    adapter_layer_names = ("svf_z",)

    base_layer: nn.Linear
    svf_z: nn.ParameterDict

    def __init__(self, base_layer: nn.Linear, key: str, load_basis: Callable[[], Basis]) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        self.key = key
        self.in_features = base_layer.in_features
        self.out_features = base_layer.out_features
        self.rank = min(self.in_features, self.out_features)
        self.side: Side = narrow_side((self.out_features, self.in_features))
        self.svf_z = nn.ParameterDict()
        self._folds = True
        self._configs: dict[str, SvfConfig] = {}
        self._active: str | None = None
        self._folded: _Folded | None = None
        self._by_row = False
        self._table: Tensor | None = None
        self._row_changes: Tensor | None = None
        self._shared_row: int | None = None
        self._shared_fold: tuple[int, Fold | None] | None = None
        self._batch: Batch = Batch()
        self._multiplies: bool | None = None
        # Q is neither parameter nor buffer: it is in no state dict, and model.half() must not round it.
        self._load_basis = load_basis
        self._basis: Basis | None = None
        self._trace: Trace | None = None
        self.rebased = False

    # Adapters

    def update_layer(self, adapter_name: str, config: SvfConfig) -> None:
        """Adds an adapter with its initial parameter."""
        weight = self.base_layer.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        initial = torch.full((self.rank,), float(config.init_mean or 0.0), dtype=dtype)
        if config.init_std > 0:
            seed = hashlib.sha256(f"svf init {config.init_seed} {self.key}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
            initial += config.init_std * torch.randn(self.rank, dtype=dtype, generator=generator)
        self._configs[adapter_name] = config
        self.svf_z[adapter_name] = nn.Parameter(initial.to(weight.device))

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter active; PEFT calls this.

        Raises:
            ValueError: Several adapters are to be active at once.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        here = [name for name in names if name in self.svf_z]
        if len(here) > 1:
            raise ValueError(
                f"adapters {here} cannot be active together: activate one, mix them with t2.svf.mix, or give "
                "samples different ones with per_sample"
            )
        super().set_adapter(names, inference_mode=inference_mode)
        active = here[0] if here else None
        if active != self._active:
            # Not always: PEFT comes here too when an adapter that was disabled for a pass is enabled again.
            self._active, self._folded = active, None

    def delete_adapter(self, adapter_name: str) -> None:
        """Removes an adapter; PEFT calls this."""
        super().delete_adapter(adapter_name)
        self._configs.pop(adapter_name, None)
        self._active = None if self._active == adapter_name else self._active
        self._folded = None

    def basis(self) -> Basis:
        """σ (r,), Q (r, r) and the side, on the base layer's device; read or computed on first use."""
        self.refresh()
        return self._loaded()

    def refresh(self, tokens: int | None = None) -> None:
        """Notices that the base weight holds other values than those that its basis and W' were made from.

        Quantised and offloaded weights are not looked at.

        Args:
            tokens: How many a pass has. With few, or on an accelerator, reading all of the weight would be felt: see
                :meth:`t2.svf.freshness.Trace.seems_of` for what goes unnoticed then. None: read all of it.
        """
        if self._trace is None:
            return
        weight = self.base_layer.weight
        if tokens is not None and (tokens < MANY_TOKENS or not weight.is_cpu) and self._trace.seems_of(weight):
            return
        if self._is_plain() and not self._trace.is_of(weight):
            _log.warning("the base weight of %s has changed, and its basis with it", self.key)
            self._basis = self._folded = self._shared_fold = self._trace = None
            self.rebased = True

    def _loaded(self) -> Basis:
        """The basis, for a pass that has called :meth:`refresh`."""
        device = self.base_layer.weight.device
        if self._basis is None or self._basis.q.device != device:
            # Made inside torch.inference_mode, Q could not take part in training afterwards.
            with torch.inference_mode(False), torch.no_grad():
                sigma, q, side = self._basis or self._load_basis()
                self._basis = Basis(sigma.to(device), q.to(device), side)
                self._trace = Trace(self.base_layer.weight) if self._is_plain() else None
        return self._basis

    def z(self, adapter_name: str, parameter: Tensor | None = None) -> Tensor:
        """The effective scale (r,) of an adapter, differentiable; 1 for an adapter that is not in this layer.

        Args:
            adapter_name: Whose scale.
            parameter: Computes it from these numbers (r,) instead of the adapter's own.
        """
        if adapter_name not in self.svf_z:
            return torch.ones_like(self._loaded().sigma)
        config = self._configs[adapter_name]
        z = self.svf_z[adapter_name] if parameter is None else parameter
        if config.parametrisation == "sigmoid":
            z = torch.sigmoid(z) * config.max_mult
        if config.renormalise:
            sigma = self._loaded().sigma
            z = z * (sigma.sum() / (sigma * z).sum())
        return z

    def set_folding(self, enabled: bool) -> None:
        """Whether a scaled copy W' of the weight is kept, or the layer runs factored always."""
        self._folds = enabled
        self._folded = None

    # Per-sample z

    @property
    def has_table(self) -> bool:
        """Whether each sample runs under its own z."""
        return self._by_row

    def set_table(self, table: Tensor | None, batch: Batch | None = None) -> None:
        """From now on each sample has its own row of ``table`` (E, r); None: every sample is the base.

        Args:
            table: z of E experts.
            batch: What the whole model is given, kept up to date, where this layer is part of one.
        """
        self.clear_table()
        self._by_row = True
        self._batch = batch or Batch()
        if table is not None:
            q = self.basis().q
            # A last row of z − 1 = 0 is the base, where row index −1 points to.
            table = F.pad(table.to(q.device, q.dtype) - 1, (0, 0, 0, 1))
        self._table = table

    def set_rows(self, rows: Tensor | None, shared: int | None = None) -> None:
        """Chooses the table's row for each sample of the batch.

        Args:
            rows: (B,); None: all are the base.
            shared: The row, where it is the same for all samples.
        """
        if rows is None or self._table is None:
            self._row_changes = self._shared_row = None
        else:
            self._row_changes = self._table[rows.to(self._table.device)]
            self._shared_row = shared

    def clear_table(self) -> None:
        """Back to one z for all samples."""
        self._by_row = False
        self._table = self._row_changes = None
        self._shared_row = self._shared_fold = None

    # Forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The scaled layer's output (..., m) for x (..., n).

        Per-sample z needs x of shape (B, ..., n), or (B · T, n) where the model was given B samples of T tokens.
        """
        if self._disable_adapters:
            return self.base_layer(x, *args, **kwargs)
        active = self._active
        if self._row_changes is None if self._by_row else active is None:
            return self.base_layer(x, *args, **kwargs)
        self.refresh(x.numel() // self.in_features)
        if self._by_row or active is None:
            changes = self._rows_like(x)
            fold = self._fold_of_all(x)
            if fold is None:
                return self._factored(x, changes, *args, **kwargs)
            return fold(x, self.base_layer.bias)
        parameter = self.svf_z[active]
        folded, apart = self._folded, is_narrow(_computed_in(x))
        if folded is None or not folded.is_of(parameter, apart):
            folded = self._folded = self._build(active, parameter, apart)
        trains = parameter.requires_grad and torch.is_grad_enabled()
        # Models with linear layers of their own, as Falcon, write into their outputs, which a folded one keeps.
        fold = folded.fold
        if fold is None or (trains and not _is_stock(self.base_layer)):
            return self._factored(x, self.z(active) - 1, *args, **kwargs)
        if trains:
            _, q, side = self._loaded()
            return FoldedLinear.apply(x, self.z(active), fold.weight, fold.change, self.base_layer.bias, q, side)
        return fold(x, self.base_layer.bias)

    def _build(self, adapter_name: str, parameter: Tensor, apart: bool) -> _Folded:
        """The adapter's fold at the present value of its parameter."""
        self.refresh()
        with torch.inference_mode(False), torch.no_grad():
            return _Folded(Copy(parameter), apart, self._fold(self.z(adapter_name), apart))

    def _fold(self, z: Tensor, apart: bool) -> Fold | None:
        """W' for z (r,), its change apart for 16 bits; None for a layer that must run factored."""
        if not self._folds or not self._is_plain():
            return None
        with torch.inference_mode(False), torch.no_grad():
            _, q, side = self._loaded()
            smallest, change = torch.stack([z.abs().min(), (z - 1).abs().max()]).tolist()
            if change == 0:
                # The base weight itself: an equal copy, aligned otherwise, may give other last bits. So may another
                # way to multiply by it: a layer of its own kind runs factored, which is its own way.
                return Fold(self.base_layer.weight) if _is_stock(self.base_layer) else None
            if smallest < SMALLEST_FOLDED:
                return None
            weight = self.base_layer.weight
            if apart:
                return Fold(weight, weight_change(weight, q, z, side).to(weight.dtype))
            return Fold(scaled_weight(weight, q, z, side))

    def _fold_of_all(self, x: Tensor) -> Fold | None:
        """W' where all samples share a row of the table and are enough tokens to pay for building it."""
        row, fold = self._shared_row, self._shared_fold
        if row is None or self._table is None or torch.is_grad_enabled():
            return None
        if fold is None or fold[0] != row:
            # Factored costs 2 r² per token on top of the base layer, building W' about 2 r³ once.
            if x.numel() // self.in_features < self.rank:
                return None
            fold = self._shared_fold = (row, self._fold(self._table[row] + 1, is_narrow(_computed_in(x))))
        return fold[1]

    def _is_plain(self) -> bool:
        base = self.base_layer
        return (
            isinstance(base, nn.Linear)
            and "forward" not in vars(base)  # accelerate's hooks replace it on the instance
            and plain_weight(base) is not None
            and (_is_stock(base) or self._only_multiplies())
        )

    def _only_multiplies(self) -> bool:
        """Whether a subclass of ``nn.Linear`` computes W x + b in words of its own, as Falcon's does; tried once."""
        if self._multiplies is None:
            base = self.base_layer
            with torch.no_grad():
                x = torch.linspace(-1, 1, 2 * self.in_features).view(2, -1).to(base.weight)
                own, plain = type(base).forward(base, x), F.linear(x, base.weight, base.bias)
                close = own.shape == plain.shape and torch.allclose(
                    own, plain, rtol=0, atol=1e-2 * float(plain.abs().max())
                )
            names = {name for name, _ in [*base.named_parameters(), *base.named_buffers()]}
            self._multiplies = close and names <= {"weight", "bias"} and not list(base.children())
        return self._multiplies

    def _factored(self, x: Tensor, change: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Scales along Q, see :mod:`t2.svf.functional`; ``change`` is z − 1, broadcast against x."""
        q, tall = self._loaded().q, self.side == "right"
        bias = getattr(self.base_layer, "bias", None)
        dtype = _computed_in(x)
        if not is_narrow(dtype):
            if tall:
                return self.base_layer(add_scaled(x, x, q, change), *args, **kwargs)
            y = self.base_layer(x, *args, **kwargs)
            return add_scaled(y, y if bias is None else y - bias, q, change)
        unchanged = (change == 0).all(-1, keepdim=True)
        # Without one, a tall matrix needs no base output. On a GPU the question would wait for the device.
        asked = not tall or not change.is_cpu or bool(unchanged.any())
        y = self.base_layer(x, *args, **kwargs) if asked else None
        product = None if tall or y is None else y if bias is None else y - bias.to(dtype)
        scaled = add_change(x.to(dtype), product, q, change, self._weight_of(dtype))
        scaled = scaled if bias is None else scaled + bias.to(dtype)
        # Summed in another order, an unchanged product may have other last bits than the base layer's.
        return scaled if y is None else cast(Tensor, Replaced.apply(scaled, y, unchanged))

    def _weight_of(self, dtype: torch.dtype) -> Callable[[], Tensor]:
        """Makes the weight (m, n) that the base layer multiplies by.

        Raises:
            TypeError: It cannot be read.
        """
        base = self.base_layer
        weight = plain_weight(base)
        if weight is not None:
            return lambda: weight.to(dtype)
        if quantisation_of(base) is None:
            raise TypeError(
                f"{self.key} is a {type(base).__name__} that computes in {dtype}, where a z near 1 would be rounded "
                "away, and whose weight cannot be read to prevent that; load the model in float32"
            )
        return lambda: cast(Tensor, layer_weight(base)).to(dtype)

    def _rows_like(self, x: Tensor) -> Tensor:
        changes = self._row_changes
        rows = 0 if changes is None else len(changes)
        if changes is not None and x.ndim == 2 and self._batch.shape == (rows, len(x) // rows):
            changes = changes.repeat_interleave(len(x) // rows, dim=0)  # OPT has flattened its tokens
        if changes is None or len(changes) != len(x):
            raise ValueError(
                f"{self.key} got a batch of {len(x)} samples while {rows} rows are set; call set_rows "
                "with one row per sample when the batch changes"
            )
        return changes.reshape(len(x), *[1] * (x.ndim - 2), self.rank)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SvfLinear:
        # Moving or casting replaces values and keeps what they mean: the basis stays that of the weight before.
        self.refresh()
        self._folded = None
        super()._apply(fn, recurse)
        self._trace = Trace(self.base_layer.weight) if self._trace is not None and self._is_plain() else None
        return self

    # PEFT's conversion to LoRA

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether W' − W can be told; PEFT asks."""
        return self._is_plain()

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """W' − W (m, n) in float32 at least, which LoRA approximates; PEFT decomposes it."""
        with torch.no_grad():
            _, q, side = self.basis()
            return weight_change(self.base_layer.weight, q, self.z(adapter_name), side)

    def merged_copy(self, adapter_name: str) -> nn.Module:
        """A plain copy of the base layer that holds the adapter's W', or W where the adapter is not.

        Raises:
            TypeError: The base layer has no plain floating weight to scale.
        """
        layer = copy.deepcopy(self.base_layer)
        if adapter_name in self.svf_z:
            if not self._is_plain():
                raise TypeError(
                    f"{self.key} is a {type(self.base_layer).__name__} without plain floating weights and "
                    "cannot be merged: run it as it is, or export the expert as a LoRA for the quantised base "
                    "(`t2 expert export --format lora`)"
                )
            with torch.no_grad():
                _, q, side = self.basis()
                weight = scaled_weight(self.base_layer.weight, q, self.z(adapter_name), side)
            layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer


def _computed_in(x: Tensor) -> torch.dtype:
    """What a product with x is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _is_stock(layer: nn.Module) -> bool:
    return type(layer).forward is nn.Linear.forward


def plain_weight(layer: nn.Linear) -> Tensor | None:
    """A layer's weight if it is a floating tensor with values; None if quantised or on the meta device."""
    weight = layer.weight
    if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point() or weight.is_meta:
        return None
    return weight
