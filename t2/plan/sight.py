"""What a model that sees makes of an image, counted on the meta device by its own code: no image is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from t2.config.rows import Base, SeeingBase
from t2.plan.shapes import PlanError, architecture
from t2.svf.pretrained import empty_model

KNOWN = ("llava", "llava_next")
"""The kinds of models whose images are counted here."""


class Look(NamedTuple):
    """What one image comes to.

    Attributes:
        tokens: That stand for it in a prompt.
        positions: That the tower has for it, over all its tiles.
        operations: Of tower and projector.
    """

    tokens: int
    positions: int
    operations: int


@dataclass(frozen=True)
class Sight:
    """A base model's eyes, and what the largest image comes to.

    Attributes:
        tower: Parameters of the vision tower.
        projector: Parameters between tower and language part.
        size: Height and width in pixels of an image than which none has more tokens.
        largest: What that comes to.
        looking: Bytes that looking at it needs for a moment.
        features: Bytes that stay of it.
        kept: Bytes of all features that stay, at most.
    """

    tower: int
    projector: int
    size: tuple[int, int]
    largest: Look
    looking: int
    features: int
    kept: int


def read_sight(base: Base) -> Sight | None:
    """Reads what a base model sees with; None: its row has no ``vision``.

    Raises:
        PlanError: The model's configuration cannot be found, it is one of text, or of a kind that is not known here.
    """
    if not isinstance(base, SeeingBase):
        return None
    model = empty_seeing(base)
    size = largest_image(model.config)
    largest = look(model, *size)
    tower = _count(model.get_encoder(modality="image"))
    language = _count(model.get_decoder(), model.get_output_embeddings())
    features = model.dtype.itemsize * largest.tokens * model.config.get_text_config().hidden_size
    return Sight(
        tower=tower,
        projector=_count(model) - tower - language,
        size=size,
        largest=largest,
        looking=model.dtype.itemsize * largest.positions * _width(model.config),
        features=features,
        kept=max(features, base.vision.features_mb * 2**20),
    )


def empty_seeing(base: Base) -> Any:
    """A base model that sees, on the meta device.

    Raises:
        PlanError: As :func:`read_sight`.
    """
    settings, source = architecture(base)
    if settings.model_type not in KNOWN:
        raise PlanError(
            f"{source} describes a {settings.model_type}, of which it is not known how many tokens an image takes, as "
            f"it is of {' and '.join(KNOWN)}; name such a model, or take `vision` out of the row of {base.path}"
        )
    return empty_model(settings, getattr(torch, base.dtype))


def look(model: Any, height: int, width: int) -> Look:
    """Lets a model look at an image of a size.

    Args:
        model: As of :func:`empty_seeing`.
        height: Of the image, in pixels.
        width: Of the image.

    Raises:
        ValueError: There is no such image.
    """
    if min(height, width) < 1:
        raise ValueError(f"an image is at least one pixel high and wide, got {height} × {width}")
    side, grids = model.config.vision_config.image_size, getattr(model.config, "image_grid_pinpoints", None)
    given: dict[str, Any] = {"pixel_values": torch.empty(1, 3, side, side, dtype=model.dtype, device="meta")}
    if grids is not None:
        # More tiles than any grid has: the model takes as many as it needs.
        most = 1 + max(high * wide for high, wide in grids) // side**2
        given["pixel_values"] = given["pixel_values"].expand(1, most, -1, -1, -1)
        given["image_sizes"] = torch.tensor([(height, width)])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        seen = model.get_image_features(**given, return_dict=True)
    return Look(len(seen.pooler_output[0]), seen.last_hidden_state.shape[:-1].numel(), counter.get_total_flops())


def largest_image(settings: Any) -> tuple[int, int]:
    """Height and width of an image than which none has more tokens.

    LLaVA-NeXT lays an image into one of several grids, leaves out what stays empty, and ends each row with one more
    token: the most has what fills the grid of the most patches and rows. LLaVA makes all images of one size.

    Args:
        settings: The model's configuration.
    """
    eye = settings.vision_config
    grids = getattr(settings, "image_grid_pinpoints", [(eye.image_size, eye.image_size)])
    height, width = max(grids, key=lambda size: size[0] * (size[1] + eye.patch_size))
    return height, width


def _width(settings: Any) -> int:
    """Numbers per position that looking has at once: all layers' states, and an MLP's or the projector's."""
    eye, hidden = settings.vision_config, settings.get_text_config().hidden_size
    states = (eye.num_hidden_layers + 1) * eye.hidden_size + 3 * eye.patch_size**2
    return int(states + max(3 * eye.intermediate_size + eye.hidden_size, 3 * hidden))


def _count(*modules: nn.Module) -> int:
    """Parameters of modules; those that they share count once."""
    return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())
