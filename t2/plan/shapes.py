"""A base model's shapes, read from its configuration on the meta device: no weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from t2 import config
from t2.svf import model_weights
from t2.svf.pretrained import empty_model, load_config
from t2.svf.quantised import stored_bytes
from t2.training.adapters import build_adapter

ARCHITECTURES = Path(__file__).parents[2] / "profiles" / "architectures"


class PlanError(ValueError):
    """A plan cannot be made: the model's configuration or the GPU is not known."""


class Matrix(NamedTuple):
    """The weight (rows, columns) of a linear layer, by module name."""

    name: str
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.rows * self.columns

    @property
    def rank(self) -> int:
        """The smaller of the two: its singular values, and the width of its basis."""
        return min(self.rows, self.columns)

    @property
    def layer(self) -> int:
        """The index of the decoder layer that it is in."""
        return next(int(part) for part in self.name.split(".") if part.isdigit())


@dataclass(frozen=True)
class Shapes:
    """What of a base model decides about memory and time.

    Attributes:
        source: Where the architecture was read.
        parameters: Of the base model; tied ones count once.
        width: Bytes of a number in the model's dtype.
        quantisation: Of the weights of the linear layers but the output layer; None: they are in the dtype.
        layers: Decoder layers.
        hidden: Width of the residual stream.
        intermediate: Width of the MLP.
        queries: Heads times head width.
        keys: Key-value heads times head width.
        vocabulary: Rows of the output layer.
        linears: All linear layers but the output layer.
        adapted: Those with a z vector, which the stage ``basis`` decomposes.
        lora_targets: Those with a LoRA.
        svf: Trainable parameters of an SVF expert.
        lora: Trainable parameters of a LoRA.
    """

    source: str
    parameters: int
    width: int
    quantisation: str | None
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    linears: tuple[Matrix, ...]
    adapted: tuple[Matrix, ...]
    lora_targets: tuple[Matrix, ...]
    svf: int
    lora: int

    @property
    def linear_bytes(self) -> float:
        """Of the weights of all linear layers but the output layer."""
        if self.quantisation is None:
            return self.width * sum(m.size for m in self.linears)
        return sum(stored_bytes(m.rows, m.columns, self.quantisation) for m in self.linears)

    @property
    def weight_bytes(self) -> float:
        """Of the base model."""
        return self.linear_bytes + self.width * (self.parameters - sum(m.size for m in self.linears))

    @property
    def cache_bytes(self) -> int:
        """Q and σ of the basis cache, float32."""
        return basis_bytes(self.adapted)

    @property
    def svd_numbers(self) -> int:
        """What U, σ and V of the adapted matrices would be."""
        return sum((m.rows + m.columns + 1) * m.rank for m in self.adapted)

    @property
    def first_adapted(self) -> int:
        """The lowest adapted layer: gradients go no deeper."""
        return min(matrix.layer for matrix in self.adapted)


def basis_bytes(matrices: Iterable[Matrix]) -> int:
    """Q (r, r) and σ (r,) of each matrix, float32."""
    return sum(4 * (m.rank**2 + m.rank) for m in matrices)


def read_shapes(params: config.Params, base: config.Base) -> Shapes:
    """Reads a base model's shapes under the parameters' choice of modules and layers.

    Raises:
        PlanError: The model's configuration cannot be found.
        ValueError: ``svf.layers`` names a layer that the model does not have.
    """
    settings, source = architecture(base)
    text: Any = settings.get_text_config()
    model = empty_model(settings, getattr(torch, base.dtype))
    output: Any = model.get_output_embeddings()
    linears = [
        Matrix(name, *module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output
    ]
    lora_targets = model_weights(model, params.lora.target_modules)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    attach = partial(build_adapter, svf=params.svf, lora=params.lora, seed=0, task="plan")
    svf: Any = attach(model, "svf")
    lora: Any = attach(empty_model(settings, getattr(torch, base.dtype)), "lora")
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shapes(
        source=source,
        parameters=parameters,
        width=getattr(torch, base.dtype).itemsize,
        quantisation=base.quantisation,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        queries=text.num_attention_heads * head,
        keys=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head,
        vocabulary=text.vocab_size,
        linears=tuple(linears),
        adapted=tuple(Matrix(name, layer.out_features, layer.in_features) for name, layer in svf.svf_layers().items()),
        lora_targets=_matrices(lora_targets),
        svf=svf.get_nb_trainable_parameters()[0],
        lora=lora.get_nb_trainable_parameters()[0],
    )


def architecture(base: config.Base) -> tuple[Any, str]:
    """A model's configuration, and where it was read: its folder, ``profiles/architectures``, or the hub."""
    if Path(base.path).is_dir():
        return load_config(base.path), f"{base.path}/config.json"
    shipped = ARCHITECTURES / f"{base.path.replace('/', '--')}.json"
    if shipped.is_file():
        fields = json.loads(shipped.read_text())
        return AutoConfig.for_model(**fields), f"profiles/architectures/{shipped.name}"
    try:
        return load_config(base.path, base.revision), f"the hub, {base.path}@{base.revision}"
    except (OSError, ValueError) as error:
        raise PlanError(
            f"the configuration of {base.path} is not here: name a local folder, copy the model's config.json to "
            f"profiles/architectures/{shipped.name}, or ask the hub with HF_HUB_OFFLINE=0 ({error})"
        ) from error


def _matrices(weights: dict[str, Tensor]) -> tuple[Matrix, ...]:
    return tuple(Matrix(name, *weight.shape) for name, weight in weights.items())
