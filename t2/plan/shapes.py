"""A base model's shapes, read from its configuration on the meta device: no weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoConfig

from t2.config.rows import Base, Recipe
from t2.svf import SvfConfig, attach, layer_indices
from t2.svf.language import language_part, outside_language
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
        linears: All linear layers but the output layer; of a model that sees, those of its language part.
        adapted: Those that the stage ``basis`` decomposes; z can be put on them.
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
        """The lowest adapted layer."""
        return min(matrix.layer for matrix in self.adapted)


@dataclass(frozen=True)
class Attached:
    """What a recipe puts on a base model.

    Attributes:
        recipe: The recipe.
        shapes: Of the base; adapted are, for SVF, the recipe's own matrices.
        targets: The matrices that get an adapter.
        parameters: Trainable ones.
    """

    recipe: Recipe
    shapes: Shapes
    targets: tuple[Matrix, ...]
    parameters: int

    @property
    def first(self) -> int:
        """The lowest layer that has an adapter: gradients go no deeper."""
        return min(matrix.layer for matrix in self.targets)

    @property
    def is_svf(self) -> bool:
        """Whether z is what is learned."""
        return self.recipe.method == "svf"

    @property
    def rank(self) -> int:
        """Of a LoRA or what resembles one; 0 for methods without a rank, which work on vectors."""
        return int(self.recipe.peft.get("r", 0))


def basis_bytes(matrices: Iterable[Matrix]) -> int:
    """Q (r, r) and σ (r,) of each matrix, float32."""
    return sum(4 * (m.rank**2 + m.rank) for m in matrices)


def read_shapes(base: Base) -> Shapes:
    """Reads a base model's shapes.

    Raises:
        PlanError: The model's configuration cannot be found.
        ValueError: ``layers`` names a layer that the model does not have.
    """
    settings, source = architecture(base)
    text: Any = settings.get_text_config()
    model = empty_model(settings, getattr(torch, base.dtype))
    output, part = model.get_output_embeddings(), language_part(model) or ""
    linears = [
        Matrix(name, *module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not output and name.startswith(part)
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    layers = layer_indices(base.layers, text.num_hidden_layers)
    elsewhere = outside_language(model)
    svf: Any = attach(
        model, SvfConfig(target_modules=base.adapt, layers_to_transform=layers, exclude_modules=elsewhere)
    )
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
        adapted=_adapted(svf),
    )


def read_adapter(base: Base, recipe: Recipe, shapes: Shapes) -> Attached:
    """Attaches a recipe's adapter to a base model without weights.

    Raises:
        PlanError: The model's configuration cannot be found.
        ValueError: The recipe names a layer or a module that the model does not have.
    """
    settings, _ = architecture(base)
    model: Any = build_adapter(empty_model(settings, getattr(torch, base.dtype)), recipe, seed=0, task="plan")
    targets = _adapted(model)
    own = replace(shapes, adapted=targets) if recipe.method == "svf" else shapes
    return Attached(recipe, own, targets, model.get_nb_trainable_parameters()[0])


def architecture(base: Base) -> tuple[Any, str]:
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


def _adapted(model: nn.Module) -> tuple[Matrix, ...]:
    """The matrices under an adapter of any method, by their names in the base model."""
    layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    return tuple(
        Matrix(name.removeprefix("base_model.model."), *layer.get_base_layer().weight.shape)
        for name, layer in layers.items()
    )
