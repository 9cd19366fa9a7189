"""Questions about small images, in the files in which TextVQA and OK-VQA are published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""As the tiny model's, of text or of parts."""

LIMITS = {
    "formats": ["PNG", "JPEG"],
    "modes": ["L", "P", "RGB"],
    "max_bytes": 100_000,
    "max_pixels": 1_000_000,
    "features_mb": 8,
}
"""A base's ``vision``."""


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Coloured stripes, of another kind for each seed."""
    width, height = size
    across, down = (seed + 1) * 7, (seed + 3) * 5
    pixels = [(x * across % 256, y * down % 256, seed * 37 % 256) for y in range(height) for x in range(width)]
    return Image.frombytes("RGB", size, bytes(value for pixel in pixels for value in pixel))


def answers(*said: str) -> list[str]:
    """Ten: what is said, then the first of it again."""
    return [*said, *[said[0]] * (10 - len(said))]


def write_textvqa(folder: Path, name: str, count: int, first: int = 0) -> dict[str, Any]:
    """Questions with their images and OCR tokens; returns a part of a source."""
    images = folder / f"{name}_images"
    images.mkdir(parents=True)
    rows, read = [], []
    for n in range(first, first + count):
        picture(n).save(images / f"img{n:03}.jpg", format="PNG")
        question = {"question": "what does the sign say?", "question_id": n, "image_id": f"img{n:03}", "set_name": name}
        rows.append({**question, "answers": answers(str(n), f"number {n}"), "image_classes": ["Sign"]})
        read.append({"image_id": f"img{n:03}", "ocr_tokens": [str(n), "EXIT"], "ocr_info": []})
    head = {"dataset_name": "textvqa", "dataset_version": "0.5.1", "dataset_type": name}
    questions, ocr = folder / f"TextVQA_0.5.1_{name}.json", folder / f"TextVQA_Rosetta_OCR_v0.2_{name}.json"
    questions.write_text(json.dumps({**head, "data": rows}))
    ocr.write_text(json.dumps({**head, "data": read}))
    return {"questions": str(questions), "images": str(images), "ocr": str(ocr)}


def write_okvqa(folder: Path, subset: str, count: int, first: int = 0) -> dict[str, Any]:
    """Questions with their annotations and COCO's images; returns a part of a source."""
    images = folder / subset
    images.mkdir(parents=True)
    asked, annotated = [], []
    for n in range(first, first + count):
        picture(100 + n).save(images / f"COCO_{subset}_{n:012}.jpg", quality=95)
        asked.append({"image_id": n, "question": "What is this used for?", "question_id": n * 10 + 5})
        given = [
            {"answer_id": k, "raw_answer": f"to {said}", "answer_confidence": "yes", "answer": said}
            for k, said in enumerate(answers(f"sport {n}", "play"), start=1)
        ]
        annotated.append({"image_id": n, "question_id": n * 10 + 5, "answers": given, "question_type": "one"})
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": subset}
    questions, annotations = (
        folder / f"OpenEnded_mscoco_{subset}_questions.json",
        folder / f"mscoco_{subset}_annotations.json",
    )
    questions.write_text(json.dumps({**head, "task_type": "Open-Ended", "questions": asked}))
    annotations.write_text(json.dumps({**head, "annotations": annotated}))
    return {"questions": str(questions), "annotations": str(annotations), "images": str(images)}


def reward(**changes: Any) -> dict[str, Any]:
    """As the paper has it: −0.1 for what is wrong."""
    values = {"kind": "vqa", "right": 1.0, "wrong": -0.1, "stop": [], "max_new_tokens": 4}
    return {**values, "pass_mark": 0.6, "statement": False, **changes}


def task(source: dict[str, Any], sizes: Sequence[int], **changes: Any) -> dict[str, Any]:
    """A row of ``tasks``; sizes of train, valid, test, shots."""
    prompt = {"system": None, "user": "{question}", "examples": [], "prefix": None}
    named = dict(zip(("train", "valid", "test", "shots"), sizes, strict=True))
    row = {"role": "trained", "family": "vision", "prompt": prompt, "source": source, "sizes": named}
    return {**row, "reward": reward(), **changes}


def seeing_tokenizer(tiny: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with ``<image>`` as one more special token."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(tiny.backend_tokenizer).from_str(tiny.backend_tokenizer.to_str()),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def language(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Four layers, so that half of them are two."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "initializer_factor": 8.0,
}


def save_llava(folder: Path, tiny: PreTrainedTokenizerFast) -> None:
    """A random LLaVA with its processor: an image of 32 × 32 is four tokens."""
    tokenizer = seeing_tokenizer(tiny)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **TOWER),
        text_config=language(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(do_resize=False, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    _save(folder, LlavaForConditionalGeneration, config, processor)


def save_llava_next(folder: Path, tiny: PreTrainedTokenizerFast) -> None:
    """A random LLaVA-NeXT with its processor: an image is as many tokens as its size and shape ask for."""
    tokenizer = seeing_tokenizer(tiny)
    grid = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **TOWER),
        text_config=language(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        tie_word_embeddings=True,
    )
    images = LlavaNextImageProcessorPil(
        image_grid_pinpoints=grid,
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
    )
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    _save(folder, LlavaNextForConditionalGeneration, config, processor)


def _save(folder: Path, kind: Any, config: Any, processor: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    # As the embeddings are; a random projector gives next to nothing.
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_language_model(seeing: Path, folder: Path) -> None:
    """The language model of a base that sees, as a base of text alone."""
    model: Any = LlavaForConditionalGeneration.from_pretrained(seeing)
    alone = LlamaForCausalLM(model.config.text_config)
    weights = {f"model.{name}": value for name, value in model.model.language_model.state_dict().items()}
    alone.load_state_dict({**weights, "lm_head.weight": model.lm_head.weight})
    alone.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(seeing).save_pretrained(folder)
