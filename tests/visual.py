"""Questions about small images, in the files in which TextVQA and OK-VQA are published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

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
