"""How the vision tower learns: each image token comes to stand where the language model has the word for what it shows.

The language model then learns to listen, with the tower as it is: trained together, a model of this size forgets what
it saw. Besides its word, an image token says which of a picture's tokens it is, by a direction of its own: without, the
language model takes long to learn to read them one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from t2.miniature.pretraining import muon_and_adamw
from t2.miniature.vision.model import image_features, pixels_of
from t2.miniature.vision.pictures import PLACES, Picture
from t2.miniature.vision.settings import Tower

_NOTHING = "."
"""The word for nothing: one that the language model has read often."""


def train_tower(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    pictures: Sequence[Picture],
    tower: Tower,
    report: Callable[[float], None] = lambda loss: None,
) -> None:
    """Trains vision tower and projector in place, towards the embeddings of the language model, which stay.

    With f the image token at place p, less the direction of that place, and w the embeddings of all that is to be seen
    anywhere, times ``tower.loudness``: the loss is the cross-entropy of a softmax over −‖f − w‖² / 2 at
    ``tower.temperature``, plus ``tower.exactness`` × ‖f − w‖² for the right w. Distances are measured by the spread
    of w.

    Args:
        model: The model.
        processor: Its processor.
        pictures: What it learns from; each names what its image tokens show, a token each.
        tower: Temperature, optimiser and the like.
        report: Called with the loss after each step.
    """
    shown, targets = _tokens(processor, pictures).unique(return_inverse=True)
    words, places = directions(model, shown, tower)
    pixels = pixels_of(processor, [picture.image for picture in pictures])
    eyes = nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector])
    matrices = [parameter for parameter in eyes.parameters() if parameter.ndim == 2]
    optimiser = tower.optimiser
    optimisers, schedules = muon_and_adamw(eyes, matrices, optimiser)
    order = _order(len(pictures), optimiser.steps * optimiser.batch, optimiser.seed)
    spread = words.var(0).sum()
    eyes.train()
    for batch in order.split(optimiser.batch):
        pointed = (image_features(model, pixels[batch]) - places).flatten(0, 1)
        right = targets[batch].flatten()
        nearness = (pointed @ words.T - words.square().sum(1) / 2) / spread
        off = (pointed - words[right]).square().sum(1).mean() / spread
        loss = F.cross_entropy(nearness / tower.temperature, right) + tower.exactness * off
        loss.backward()
        nn.utils.clip_grad_norm_(eyes.parameters(), optimiser.clip)
        for rule, schedule in zip(optimisers, schedules, strict=True):
            rule.step()
            schedule.step()
        eyes.zero_grad(set_to_none=True)
        report(loss.item())
    eyes.eval()


def read_pictures(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, pictures: Sequence[Picture], tower: Tower
) -> Tensor:
    """Whether each image token is nearest to the word for what it shows: (pictures, PLACES) bool.

    Args:
        model: After :func:`train_tower`; its embeddings must be those that it learned towards.
        processor: Its processor.
        pictures: Enough of them that all there is to be seen is to be seen in one of them.
        tower: As in training.
    """
    shown, targets = _tokens(processor, pictures).unique(return_inverse=True)
    words, places = directions(model, shown, tower)
    with torch.no_grad():
        pointed = image_features(model, pixels_of(processor, [picture.image for picture in pictures])) - places
    return torch.cdist(pointed, words[None]).argmin(2) == targets


def directions(model: Any, shown: Tensor, tower: Tower) -> tuple[Tensor, Tensor]:
    """What image tokens point at: the words (W, hidden) for tokens (W,), and what is added at each place."""
    words = tower.loudness * model.get_input_embeddings().weight.detach()[shown]
    generator = torch.Generator().manual_seed(tower.optimiser.seed)
    places = torch.randn(PLACES, words.shape[1], generator=generator) * words.std()
    return words, places


def _tokens(processor: LlavaProcessor, pictures: Sequence[Picture]) -> Tensor:
    """What each image token shows, (pictures, PLACES)."""
    ids = {}
    for read in sorted({read for picture in pictures for read in picture.reads}):
        (ids[read],) = processor.tokenizer.encode(read or _NOTHING, add_special_tokens=False)
    return torch.tensor([[ids[read] for read in picture.reads] for picture in pictures])


def _order(n: int, total: int, seed: int) -> Tensor:
    """Indices of all samples: as many passes in new order as it takes."""
    generator = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(n, generator=generator) for _ in range(-(-total // n))]
    return torch.cat(passes)[:total]
