"""The model: a CLIP vision tower and a projector before a Llama, as a LLaVA with its processor.

LLaVA: arXiv 2304.08485.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from t2.miniature.vision.pictures import IMAGE, PLACES
from t2.miniature.vision.settings import VisionParams
from t2.svf.pretrained import load_model, load_tokenizer

CHAT_TEMPLATE = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ said(message['content']) }}</s>{% endgeneration %}"
    "{% else %}<|user|>{{ said(message['content']) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""That of the text bases, for contents with pictures in them too; text alone is encoded as they encode it."""


def load_language(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A text base with its tokenizer, both with one more token: :data:`IMAGE`."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    language = cast(LlamaForCausalLM, load_model(folder, dtype=torch.float32))
    embeddings = language.resize_token_embeddings(len(tokenizer), mean_resizing=False).weight
    with torch.no_grad():
        embeddings[-1] = embeddings[:-1].mean(0)  # not at random: nothing has been seeded yet
    return language, tokenizer


def build_model(
    language: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, params: VisionParams
) -> LlavaForConditionalGeneration:
    """A LLaVA with the language model's weights, and random ones before it."""
    tower = params.tower
    vision = CLIPVisionConfig(
        hidden_size=tower.hidden,
        intermediate_size=tower.mlp,
        num_hidden_layers=tower.layers,
        num_attention_heads=tower.heads,
        image_size=params.look.size,
        patch_size=tower.patch,
        projection_dim=tower.hidden,
    )
    special: Any = {
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=language.config,
        image_seq_length=PLACES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **special,
    )
    torch.manual_seed(tower.optimiser.seed)
    model = LlavaForConditionalGeneration(config)
    set_language(model, language)
    return model


def set_language(model: LlavaForConditionalGeneration, language: LlamaForCausalLM) -> None:
    """Copies a language model's weights into the LLaVA."""
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()


def build_processor(tokenizer: PreTrainedTokenizerBase, params: VisionParams) -> LlavaProcessor:
    """Pictures of any size become those that the tower takes; pictures of that size stay as they are."""
    size = {"height": params.look.size, "width": params.look.size}
    images = CLIPImageProcessorPil(
        do_center_crop=False, size=size, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=params.tower.patch,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def image_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What the language model sees of pictures: of pixels (B, 3, size, size), (B, PLACES, hidden)."""
    return torch.stack(list(model.model.get_image_features(pixel_values=pixels).pooler_output))


def features_of(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    images: Sequence[Image.Image | None],
    batch: int,
) -> list[Tensor | None]:
    """What the language model sees of each picture, (PLACES, hidden); None where there is none."""
    features: list[Tensor | None] = [None] * len(images)
    seen = [(index, image) for index, image in enumerate(images) if image is not None]
    with torch.no_grad():
        for start in range(0, len(seen), batch):
            indices, some = zip(*seen[start : start + batch], strict=True)
            for index, found in zip(indices, image_features(model, pixels_of(processor, some)), strict=True):
                features[index] = found
    return features


def pixels_of(processor: LlavaProcessor, images: Sequence[Image.Image]) -> Tensor:
    """Pixels as the tower takes them, (B, 3, size, size) float32."""
    return torch.as_tensor(processor.image_processor(list(images), return_tensors="pt")["pixel_values"])


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Writes model and processor: weights in two bytes, by which those of :func:`round_weights` lose nothing."""
    state = {name: weight.half() for name, weight in model.state_dict().items()}
    del state["lm_head.weight"]  # the embeddings, by another name
    model.save_pretrained(folder, state_dict=state)  # the configuration names the type of the model in memory
    processor.save_pretrained(folder)


def round_weights(model: LlavaForConditionalGeneration) -> None:
    """Rounds the weights in place to what float16 can hold; they stay float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def load_language_part(folder: str | Path) -> LlamaForCausalLM:
    """The language model of a LLaVA in a folder, as a text model of its own: float32, in evaluation mode."""
    model = load_model(folder, dtype=torch.float32)
    language = LlamaForCausalLM(model.config.text_config)
    language.model = model.model.language_model
    language.tie_weights()
    return language.eval()
