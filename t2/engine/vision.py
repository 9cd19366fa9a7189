"""What a model that sees is given of images: placeholders among a prompt's tokens, and features in their place.

What sees is frozen, so that an image is looked at once, not once a step or a candidate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from t2.config.rows import Vision as Limits
from t2.engine import chat
from t2.tasks import images
from t2.tasks.prompt import Image, Message, Prompt, question, shown

_CLOSE = 1e-2
"""How far logits may lie apart, as a share of the largest, that are the same but for rounding in any dtype."""

_PROBE = (Message("user", "What is this?", (Image(Path("probe")),)),)


class Sight(NamedTuple):
    """An image as a model meets it.

    Attributes:
        tokens: What stands for it in a prompt, placeholders among them.
        features: In the place of the N placeholders: (N, hidden).
    """

    tokens: tuple[int, ...]
    features: Tensor


class Vision:
    """The eyes of an image-text-to-text model.

    Features do not depend on what shares a batch: images are looked at one by one.

    Args:
        model: Bare or inside a ``PeftModel``; what is not its language part must stay as it is.
        processor: The model's.
        limits: What it is shown, and how much memory features may take.

    Raises:
        ValueError: The model does not read images as features in the place of placeholders, and nothing more.
    """

    def __init__(self, model: Any, processor: Any, limits: Limits) -> None:
        self._model, self._processor, self._limits = model, processor, limits
        self._placeholder = int(processor.image_token_id)
        self._seen: OrderedDict[str, Sight] = OrderedDict()
        self._check()

    def expand(self, ids: Sequence[int], prompt: Prompt) -> list[int]:
        """The token ids of a prompt with all that stands for its images.

        Args:
            ids: Within the chat template, with a placeholder for each image.
            prompt: The prompt.

        Raises:
            ValueError: There are more placeholders than images, or fewer.
            ImageError: An image cannot be shown.
        """
        given = shown(prompt)
        if (found := list(ids).count(self._placeholder)) != len(given):
            who = str(given[0]) if given else f"a prompt that shows nothing ({question(prompt)!r:.60})"
            raise ValueError(
                f"{who}: {found} placeholders ({self._processor.image_token}) for {len(given)} image(s); take the "
                "word out of the question, or give the base a chat template that writes one for each part of type image"
            )
        sights = iter([self._sight(image) for image in given])
        return [token for one in ids for token in (next(sights).tokens if one == self._placeholder else (one,))]

    def inputs(self, ids: Tensor, images_of: Sequence[Sequence[Image]]) -> dict[str, Tensor]:
        """What the model is given in the place of token ids.

        Args:
            ids: (B, T), of prompts that were expanded and what follows them.
            images_of: What each shows.

        Returns:
            Embeddings (B, T, hidden) as ``inputs_embeds``; ``input_ids`` where nothing is shown.
        """
        if not any(images_of):
            return {"input_ids": ids}
        with torch.no_grad():
            embeddings = self._model.get_input_embeddings()(ids)
            for row, own in enumerate(images_of):
                if own:
                    self._place(embeddings[row], ids[row], torch.cat([self._sight(image).features for image in own]))
        return {"inputs_embeds": embeddings}

    def alike(self, encoded: Sequence[Sequence[int]]) -> int:
        """How many tokens prompts can share: behind the first placeholder, equal tokens stand for different images."""
        return min(list(ids).index(self._placeholder) if self._placeholder in ids else len(ids) for ids in encoded)

    def _place(self, embeddings: Tensor, ids: Tensor, features: Tensor) -> None:
        """Puts features (N, hidden) in the place of the first N placeholders: a reply may hold one as any token."""
        places = (ids == self._placeholder).nonzero()[: len(features), 0]
        embeddings[places] = features.to(embeddings)

    def _sight(self, image: Image) -> Sight:
        key = image.sha256 or images.digest(image, self._limits)
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        self._seen[key] = found = self._look(images.load(image, self._limits))
        kept = sum(sight.features.nbytes for sight in self._seen.values())
        while kept > self._limits.features_mb * 2**20 and len(self._seen) > 1:
            _, dropped = self._seen.popitem(last=False)
            kept -= dropped.features.nbytes
        return found

    def _look(self, pixels: Any) -> Sight:
        """Tokens and features of an image (H, W, 3)."""
        made = self._processor(
            text=self._processor.image_token, images=[pixels], return_tensors="pt", add_special_tokens=False
        )
        tokens = tuple(made.pop("input_ids")[0].tolist())
        made.pop("attention_mask", None)
        training = self._model.training
        self._model.eval()
        try:
            # Not inference mode, which a caller may be in: a gradient passes through what is kept.
            with torch.inference_mode(False), torch.no_grad():
                given = made.to(self._model.device, self._model.dtype)
                features = torch.cat(list(self._model.get_image_features(**given, return_dict=True).pooler_output))
        finally:
            self._model.train(training)
        if tokens.count(self._placeholder) != len(features):
            raise ValueError(
                f"the processor writes {tokens.count(self._placeholder)} placeholders for an image of which the model "
                f"has {len(features)} features; correct the processor's patch_size, num_additional_image_tokens and "
                "vision_feature_select_strategy, or its image sizes"
            )
        return Sight(tokens, features)

    @torch.no_grad()
    def _check(self) -> None:
        """Whether the model gives the same to what it is given here as to what its own processor makes."""
        kind, size = type(self._model).__name__, self._model.config.vision_config.image_size
        pixels = np.arange(size * size * 3, dtype=np.uint32).reshape(size, size, 3).astype(np.uint8)
        tokenizer = self._processor.tokenizer
        text = chat.written(tokenizer, _PROBE)
        own = self._processor(text=text, images=[pixels], return_tensors="pt", add_special_tokens=False)
        sight = self._look(pixels)
        ids = [
            token
            for one in chat.encode(tokenizer, [_PROBE], sees=True)[0]
            for token in (sight.tokens if one == self._placeholder else (one,))
        ]
        if own["input_ids"].tolist() != [ids]:
            raise ValueError(
                f"the processor of this {kind} makes other tokens of a prompt than its chat template and tokenizer do; "
                "it cannot be a base with `vision` here"
            )
        device = self._model.device
        batch = torch.tensor([ids], device=device)
        embeddings = self._model.get_input_embeddings()(batch)
        self._place(embeddings[0], batch[0], sight.features)
        positions = torch.arange(len(ids), device=device)[None]
        training = self._model.training
        self._model.eval()
        found = self._model(
            inputs_embeds=embeddings, attention_mask=torch.ones_like(batch), position_ids=positions, use_cache=False
        ).logits.float()
        expected = self._model(**own.to(device, self._model.dtype), use_cache=False).logits.float()
        self._model.train(training)
        if not torch.allclose(found, expected, rtol=0, atol=_CLOSE * float(expected.abs().max())):
            raise ValueError(
                f"a {kind} makes more of an image than features in the place of its placeholders (positions in two "
                "dimensions, another mask, features in deeper layers), which is not built here; use one that works as "
                "LlavaForConditionalGeneration does"
            )
