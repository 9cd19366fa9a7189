"""Base weights in 8 or 4 bits by bitsandbytes: how a model is loaded so, and the weight that its layers stand for.

A quantised layer runs factored, see :class:`t2.svf.SvfLinear`. Its basis is that of the weight W_q which the layer
multiplies by, not of the checkpoint's W: the factored form gives W_q Q diag(z) Qᵀ for any orthogonal Q, but z scales
singular values only where W_q Q = U Σ. Of the miniature's singular vectors, a quarter stay where they were in nf4
(cosine above 0.9), 99 % in int8. So a quantised base has a basis and a fingerprint of its own, and an expert of it
fits no other base.

* ``int8``: LLM.int8() (arXiv 2208.07339), a scale per row. It rounds the activations too, those above 6 apart, which it
  looks for over the whole batch: a reply may differ with its neighbours. On CPUs bitsandbytes rounds activations in
  evaluation mode only.
* ``nf4``: QLoRA's format (arXiv 2305.14314), blocks of 64 with scales that are quantised themselves; computed in the
  model's dtype.
"""

from __future__ import annotations

import copy
import logging
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

Quantisation = Literal["int8", "nf4"]

BLOCK = 64
"""Weights that share a scale in nf4."""

_PARAMETERS = {"Int8Params": "int8", "Params4bit": "nf4"}
"""bitsandbytes' classes, by name: where it is not installed there is nothing to compare types with."""


def loading_options(kind: Quantisation, dtype: str | torch.dtype, device: str) -> dict[str, Any]:
    """What ``from_pretrained`` takes to quantise all linear layers but the output layer, right on their device.

    Raises:
        ValueError: bitsandbytes is not installed, or cannot run ``kind`` on the device.
    """
    _check_device(kind, device)
    if kind == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": settings, "device_map": {"": device}}


def stored_bytes(rows: int, columns: int, kind: str) -> float:
    """Of a weight (rows, columns) with its scales, tables of a kilobyte per layer apart."""
    size = rows * columns
    if kind == "int8":
        return size + 4 * rows
    return size / 2 + size / BLOCK + 4 * size / (256 * BLOCK)  # scales in 8 bits, those of 256 blocks in float32


def prepare_quantised_layers(model: nn.Module) -> None:
    """Checks the layers of a model that was just loaded, and has bitsandbytes leave 4-bit ones unpacked.

    On CPUs with bfloat16 instructions, bitsandbytes repacks a layer in place at its first evaluation: it computes in
    bfloat16 from then on, unlike in training, and its weight cannot be read back.

    Raises:
        ValueError: A layer's shape is one that the device computes wrongly.
    """
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, layer in layers.items():
        if quantisation_of(layer) == "nf4":
            _check_rows(name, layer.in_features, "nf4", layer.weight.device)
            layer.support_avx512bf16_for_cpu = False


def quantisation_of(layer: nn.Module) -> str | None:
    """How a linear layer's weight is quantised; None: not, or by another library."""
    return _PARAMETERS.get(type(layer.weight).__name__)


def layer_weight(layer: Any) -> Tensor | None:
    """The weight (m, n) that a quantised layer multiplies by, on its device.

    Returns:
        float32 for int8, the dtype that was quantised for nf4; None for a layer that :func:`quantisation_of` does not
        know, or that holds no values yet.

    Raises:
        ValueError: The layer was repacked, see :func:`prepare_quantised_layers`.
    """
    kind, weight = quantisation_of(layer), layer.weight
    if kind is None or weight.is_meta:
        return None
    with torch.no_grad():
        if kind == "int8":
            # The first forward pass moves the scales from the parameter to the layer's state.
            scales = weight.SCB if weight.SCB is not None else layer.state.SCB
            return _from_int8(weight.data, scales)
        state = weight.quant_state
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                "bitsandbytes has repacked a 4-bit layer, whose weight cannot be read any more: load the model with "
                "t2.engine.hf.load_base, which keeps it from that"
            )
        return _from_nf4(weight.data, state)


def rounded(weight: Tensor, kind: Quantisation, device: torch.device | str = "cpu") -> Tensor:
    """The weight that a layer multiplies by once ``weight`` is quantised, as :func:`layer_weight` gives it.

    Args:
        weight: (m, n), in the dtype that the model is loaded in.
        kind: How it is quantised.
        device: Where: CPUs and GPUs may round differently, so that it must be the model's.

    Raises:
        ValueError: bitsandbytes is not installed, or cannot run ``kind`` or such a shape on the device.
    """
    _check_device(kind, str(device))
    _check_rows("a weight", weight.shape[1], kind, torch.device(device))
    with torch.no_grad():
        return _rounded(weight, kind, device)


def _rounded(weight: Tensor, kind: str, device: torch.device | str) -> Tensor:
    bnb = _library()
    # Parameters quantise themselves when they are moved off the CPU's plain form, as in from_pretrained.
    if kind == "int8":
        int8 = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False).to(device)
        return _from_int8(int8.data, int8.SCB)
    nf4 = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True).to(device)
    return _from_nf4(nf4.data, nf4.quant_state)


def _from_int8(codes: Tensor, scales: Tensor) -> Tensor:
    weight: Tensor = _library().functional.int8_vectorwise_dequant(codes, scales.to(codes.device))
    return weight


def _from_nf4(codes: Tensor, state: Any) -> Tensor:
    # A copy: dequantising must leave the layer's own state alone.
    weight: Tensor = _library().functional.dequantize_4bit(codes, copy.deepcopy(state))
    return weight


@cache
def _library() -> ModuleType:
    # It warns at import of a kernel that is not used here, and at every int8 product that is not in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"a quantised base needs bitsandbytes, which cannot be imported ({error}); install it with "
            "`pip install -e '.[quantised]'`, or set base.quantisation to null"
        ) from error
    return bitsandbytes


@cache
def _check_device(kind: str, device: str) -> None:
    """Tries the smallest layer: what a device lacks shows nowhere else before the model is loaded."""
    if kind not in get_args(Quantisation):
        raise ValueError(f"quantisation is {kind!r}; it must be one of {', '.join(get_args(Quantisation))}")
    bnb = _library()
    try:
        layer = bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False) if kind == "int8" else bnb.nn.LinearNF4(64, 64)
        layer = layer.to(device)
        prepare_quantised_layers(layer)
        if not layer(torch.ones(2, 64, device=device)).isfinite().all():
            raise RuntimeError("its results are not finite")
    except Exception as error:
        raise ValueError(
            f"bitsandbytes {bnb.__version__} cannot run {kind} on {device} ({type(error).__name__}: {error}); set "
            "base.quantisation to null, or execution.device to another one"
        ) from error


def _check_rows(name: str, columns: int, kind: str, device: torch.device) -> None:
    # bitsandbytes 0.50 reads the scales of other blocks there, without a word.
    if kind == "nf4" and device.type == "cpu" and columns % BLOCK:
        raise ValueError(
            f"{name} has {columns} columns, and bitsandbytes computes nf4 wrongly on CPUs unless they are a multiple "
            f"of {BLOCK}; set base.quantisation to int8 or null"
        )
