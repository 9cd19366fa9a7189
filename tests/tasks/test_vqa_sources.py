"""TextVQA and OK-VQA from hand-made files in their published form, and OK-VQA's real questions where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from visual import answers, write_okvqa, write_textvqa

from t2.config.rows import OkVqaPart, Prompt, TextVqaPart
from t2.tasks import sources, vqa
from t2.tasks.prompt import Image, asked, question
from t2.tasks.sources import SourceError

REAL = Path(os.environ.get("T2_DATA", Path(__file__).parents[3] / "shared" / "data")) / "okvqa"
PLAIN = Prompt(system=None, user="{question}", examples=[], prefix=None)


def test_textvqa_asks_about_its_image(tmp_path: Path) -> None:
    part = TextVqaPart(**write_textvqa(tmp_path, "train", 3))
    first, *_, last = sources.asked(part)
    assert first.id == "textvqa-0" and first.fields == {"question": "what does the sign say?", "ocr": "0, EXIT"}
    assert vqa.references(last.answer) == answers("2", "number 2") and last.reply == "2"
    item = last.item(PLAIN)
    assert question(item.prompt) == "what does the sign say?"
    assert asked(item.prompt).images == (Image(tmp_path / "train_images" / "img002.jpg", item="textvqa-2"),)
    assert item.question != first.item(PLAIN).question  # the same words about another image


def test_ocr_tokens_are_read_where_they_are_named(tmp_path: Path) -> None:
    part = write_textvqa(tmp_path, "train", 2)
    assert sources.asked(TextVqaPart(**{**part, "ocr": None}))[0].fields == {"question": "what does the sign say?"}
    template = Prompt(system=None, user="{question}\nOCR: {ocr}", examples=[], prefix=None)
    item = sources.asked(TextVqaPart(**part))[1].item(template)
    assert question(item.prompt) == "what does the sign say?\nOCR: 1, EXIT"


def test_okvqa_finds_answers_and_cocos_images_by_number(tmp_path: Path) -> None:
    part = OkVqaPart(**write_okvqa(tmp_path, "val2014", 3, first=40))
    found = sources.asked(part)[2]
    assert found.id == "okvqa-425" and found.images == (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg",)
    assert vqa.references(found.answer) == answers("sport 42", "play") and found.reply == "sport 42"


def test_questions_alone_are_text(tmp_path: Path) -> None:
    part = OkVqaPart(**{**write_okvqa(tmp_path, "val2014", 2), "annotations": None, "images": None})
    item = sources.asked(part)[0].item(PLAIN)
    assert item.prompt == "What is this used for?" and item.answer == item.reply == ""


def change(path: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))


ODD: list[tuple[str, str, Callable[[dict[str, Any]], Any], str]] = [
    ("textvqa", "questions", lambda all: all["data"][1].pop("answers"), r"row 2, field 'answers': missing"),
    ("textvqa", "questions", lambda all: all["data"][0].update(image_id="../secret"), "climbs out of the folder"),
    ("textvqa", "questions", lambda all: all["data"][0].update(image_id="/etc/secret"), "climbs out of the folder"),
    ("textvqa", "questions", lambda all: all["data"][0].update(question_id=1), "textvqa-1 occurs twice"),
    ("textvqa", "questions", lambda all: all.pop("data"), "object 1, field 'data': missing"),
    ("textvqa", "ocr", lambda all: all["data"][0].update(ocr_tokens=[1]), "field 'ocr_tokens': expected strings"),
    ("okvqa", "questions", lambda all: all["questions"][0].update(image_id="7"), "field 'image_id': expected int"),
    ("okvqa", "annotations", lambda all: all["annotations"].pop(), "question_id.*15 has no answers in .*annotations"),
    ("okvqa", "annotations", lambda all: all["annotations"][0].update(answers=[]), "expected what several people"),
]


@pytest.mark.parametrize(("layout", "file", "edit", "message"), ODD)
def test_odd_files_are_named_with_the_place(
    layout: str, file: str, edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    part = write_textvqa(tmp_path, "train", 2) if layout == "textvqa" else write_okvqa(tmp_path, "train2014", 2)
    change(part[file], edit)
    with pytest.raises(SourceError, match=message):
        sources.asked(TextVqaPart(**part) if layout == "textvqa" else OkVqaPart(**part))


def test_cocos_set_is_in_the_name_of_the_file(tmp_path: Path) -> None:
    part = write_okvqa(tmp_path, "train2014", 2)
    renamed = Path(part["questions"]).rename(tmp_path / "questions.json")
    with pytest.raises(SourceError, match=r"questions\.json: its name holds no train2014 or val2014"):
        sources.asked(OkVqaPart(**{**part, "questions": str(renamed)}))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no questions of OK-VQA in {REAL}")
@pytest.mark.parametrize(("subset", "count"), [("train2014", 9009), ("val2014", 5046)])
def test_the_real_questions_of_okvqa(subset: str, count: int, tmp_path: Path) -> None:
    questions = str(REAL / f"OpenEnded_mscoco_{subset}_questions.json")
    alone = sources.asked(OkVqaPart(questions=questions, annotations=None, images=None))
    shown = sources.asked(OkVqaPart(questions=questions, annotations=None, images="coco"))
    assert len(alone) == len(shown) == count
    assert all(problem.fields["question"] and not problem.images for problem in alone)
    assert all(problem.images[0].match(f"coco/COCO_{subset}_{'[0-9]' * 12}.jpg") for problem in shown)
    assert len({problem.item(PLAIN).question for problem in shown}) > 0.99 * count
