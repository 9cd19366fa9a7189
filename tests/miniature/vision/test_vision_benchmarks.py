"""The benchmarks: files as TextVQA and OK-VQA are published, with ten answers each and pictures that no base saw."""

from __future__ import annotations

import hashlib
import json

import pytest
from PIL import Image

from t2.config.rows import Sizes
from t2.miniature.vision import settings
from t2.miniature.vision.benchmarks import ANNOTATORS, write_benchmarks
from t2.miniature.vision.pictures import digest
from t2.miniature.vision.problems import draw
from t2.tasks.leaks import LeakError

SIZES = Sizes(train=6, valid=3, test=5, shots=2)


@pytest.fixture(scope="module")
def params():
    full = settings.load()
    sizes = dict.fromkeys(full.benchmarks.sizes, SIZES)
    return full.model_copy(update={"benchmarks": full.benchmarks.model_copy(update={"sizes": sizes})})


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    made = tmp_path_factory.mktemp("benchmarks") / "made"
    write_benchmarks(params, [], made)
    return made


def read(path):
    return json.loads(path.read_text())


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_textvqa_has_its_form(folder):
    ids = []
    for subset, asked in (("train", 11), ("val", 5)):
        rows = read(folder / "textvqa" / f"TextVQA_0.5.1_{subset}.json")["data"]
        tokens = read(folder / "textvqa" / f"TextVQA_Rosetta_OCR_v0.2_{subset}.json")["data"]
        assert len(rows) == len(tokens) >= asked
        for row, ocr in zip(rows, tokens, strict=True):
            image = Image.open(folder / "textvqa" / f"{subset}_images" / f"{row['image_id']}.jpg")
            assert image.format == "PNG" and image.size == (row["image_width"], row["image_height"])
            assert digest(image) == row["image_id"] == ocr["image_id"]
            assert len(row["answers"]) == ANNOTATORS
            assert max(row["answers"], key=row["answers"].count) in ocr["ocr_tokens"]
            ids.append((row["question_id"], row["image_id"]))
    assert len({question for question, _ in ids}) == len({image for _, image in ids}) == len(ids)


def test_okvqa_has_its_form(folder):
    ids = []
    for subset, asked in (("train2014", 11), ("val2014", 5)):
        questions = read(folder / "okvqa" / f"OpenEnded_mscoco_{subset}_questions.json")["questions"]
        annotations = read(folder / "okvqa" / f"mscoco_{subset}_annotations.json")["annotations"]
        assert [row["question_id"] for row in questions] == [row["question_id"] for row in annotations]
        assert len(questions) >= asked
        for row, annotation in zip(questions, annotations, strict=True):
            assert row["image_id"] == annotation["image_id"]
            image = Image.open(folder / "okvqa" / subset / f"COCO_{subset}_{row['image_id']:012}.jpg")
            assert image.format == "PNG"
            assert [answer["answer_id"] for answer in annotation["answers"]] == list(range(1, ANNOTATORS + 1))
            assert {"answer", "raw_answer", "answer_confidence"} <= annotation["answers"][0].keys()
            ids.append(row["question_id"])
    assert len(set(ids)) == len(ids)


def test_most_people_give_the_right_answer(folder, params):
    drawn = draw("signs", 11, params.benchmarks.seed, params.look, pool="task")
    rows = read(folder / "textvqa" / "TextVQA_0.5.1_train.json")["data"]
    right = [row["answers"].count(one.posed.problem.answer) for row, one in zip(rows, drawn, strict=False)]
    assert min(right) >= ANNOTATORS - params.benchmarks.dissent
    assert any(count < ANNOTATORS for count in right)


def test_the_same_parameters_give_the_same_bytes(folder, params, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "old").write_text("")
    write_benchmarks(params, [], tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(folder)


def test_a_picture_that_a_base_saw_is_refused(params, tmp_path):
    seen = draw("knowledge", 3, params.benchmarks.seed, params.look, pool="task")[2]
    with pytest.raises(LeakError, match=seen.posed.shown.digest):
        write_benchmarks(params, [f"what else is there ? {seen.posed.shown.digest}"], tmp_path / "none")
