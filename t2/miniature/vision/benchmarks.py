"""The two families as benchmarks: files in the forms in which TextVQA and OK-VQA are published.

TextVQA 0.5.1 (arXiv 1904.08920) and OK-VQA 1.1 (arXiv 1906.00067), the latter about images of COCO 2014. Images have
the published names, which end in ``.jpg``; what is in the files is PNG, which keeps every pixel.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from t2.config.rows import Sizes
from t2.files import replace_file
from t2.miniature.vision.pictures import Picture
from t2.miniature.vision.problems import Drawn, draw
from t2.miniature.vision.settings import VisionParams
from t2.tasks.leaks import Leak, LeakError

ANNOTATORS = 10

_SPARE = 20
"""Questions beyond what the splits ask for, in place of those that another task has drawn as well."""

_COCO_DIGITS = 12


def write_benchmarks(params: VisionParams, read: Iterable[str], folder: Path) -> None:
    """Writes ``<folder>/textvqa`` and ``<folder>/okvqa``, made anew.

    Args:
        params: Sizes, seed and look.
        read: The questions that the bases read, as :func:`t2.miniature.vision.corpus.questions` gives them.
        folder: Where to write.

    Raises:
        LeakError: A base saw the picture of a question.
    """
    writers: dict[str, Callable[[Path, Sequence[Drawn], Sequence[Drawn], Random, int], None]] = {
        "signs": _write_textvqa,
        "knowledge": _write_okvqa,
    }
    shutil.rmtree(folder, ignore_errors=True)
    drawn = {family: _draw(params, family, sizes) for family, sizes in params.benchmarks.sizes.items()}
    refuse_seen([one for parts in drawn.values() for part in parts for one in part], read)
    for family, (train, test) in drawn.items():
        rng = Random(f"annotators/{family}/{params.benchmarks.seed}")
        writers[family](folder, train, test, rng, params.benchmarks.dissent)


def refuse_seen(drawn: Sequence[Drawn], read: Iterable[str]) -> None:
    """Checks that no base saw the picture of a question, whatever was asked about it.

    Raises:
        LeakError: Names all questions with such a picture.
    """
    seen = {question.rpartition(" ")[2]: question for question in read}
    leaks = [Leak(one.question, seen[digest]) for one in drawn if (digest := one.posed.shown.digest) in seen]
    if leaks:
        raise LeakError(leaks)


def _draw(params: VisionParams, family: str, sizes: Sizes) -> tuple[list[Drawn], list[Drawn]]:
    """What the train, valid and shots splits are drawn from, and what the test split is; no picture is twice there."""
    train, test = sizes.train + sizes.valid + sizes.shots + _SPARE, sizes.test + _SPARE
    drawn = draw(family, train + test, params.benchmarks.seed, params.look, pool="task")
    return drawn[:train], drawn[train:]


def _write_textvqa(folder: Path, train: Sequence[Drawn], test: Sequence[Drawn], rng: Random, dissent: int) -> None:
    first = 0
    for subset, drawn in (("train", train), ("val", test)):
        rows, tokens = [], []
        for number, one in enumerate(drawn, start=first):
            picture = one.posed.shown
            _write_image(folder / "textvqa" / f"{subset}_images" / f"{picture.digest}.jpg", picture)
            rows.append(
                {
                    "question_id": number,
                    "question": one.prompt,
                    "image_id": picture.digest,
                    "image_width": picture.image.width,
                    "image_height": picture.image.height,
                    "set_name": subset,
                    "answers": _answers(one, rng, dissent),
                }
            )
            tokens.append({"image_id": picture.digest, "ocr_tokens": picture.seen()})
        first += len(drawn)
        head = {"dataset_type": subset, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
        _write_json(folder / "textvqa" / f"TextVQA_0.5.1_{subset}.json", {**head, "data": rows})
        _write_json(folder / "textvqa" / f"TextVQA_Rosetta_OCR_v0.2_{subset}.json", {**head, "data": tokens})


def _write_okvqa(folder: Path, train: Sequence[Drawn], test: Sequence[Drawn], rng: Random, dissent: int) -> None:
    for subset, drawn in (("train2014", train), ("val2014", test)):
        questions, annotations = [], []
        for one in drawn:
            picture = one.posed.shown
            image = int(picture.digest, 16) % 10**_COCO_DIGITS
            _write_image(folder / "okvqa" / subset / f"COCO_{subset}_{image:0{_COCO_DIGITS}}.jpg", picture)
            ids = {"image_id": image, "question_id": image * 10}
            questions.append({**ids, "question": one.prompt})
            answers = [
                {"answer_id": number, "raw_answer": said, "answer_confidence": "yes", "answer": said}
                for number, said in enumerate(_answers(one, rng, dissent), start=1)
            ]
            annotations.append({**ids, "question_type": one.posed.category, "answer_type": "other", "answers": answers})
        head = {"data_type": "mscoco", "data_subtype": subset}
        _write_json(
            folder / "okvqa" / f"OpenEnded_mscoco_{subset}_questions.json",
            {**head, "task_type": "Open-Ended", "questions": questions},
        )
        _write_json(folder / "okvqa" / f"mscoco_{subset}_annotations.json", {**head, "annotations": annotations})


def _answers(one: Drawn, rng: Random, dissent: int) -> list[str]:
    """What ten people said: the right answer, but for a few of them, who looked as little as a careless reply does."""
    problem = one.posed.problem
    hasty = problem.careless.removeprefix("The answer is ").removesuffix(".")
    said = [problem.answer] * ANNOTATORS
    for place in rng.sample(range(ANNOTATORS), rng.randint(0, dissent)):
        said[place] = hasty
    return said


def _write_image(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.image.save(path, format="PNG")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=1) + "\n")
