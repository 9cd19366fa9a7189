"""Questions about images in the files in which TextVQA and OK-VQA are published, read from local folders.

TextVQA 0.5.1 (arXiv 1904.08920): https://textvqa.org/dataset. OK-VQA 1.1 (arXiv 1906.00067), about images of COCO 2014:
https://okvqa.allenai.org/download.html. A question names its image; whether that is there is seen when splits are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from t2.config.rows import OkVqaPart, TextVqaPart
from t2.tasks import vqa
from t2.tasks.item import Problem
from t2.tasks.sources.rows import Row, SourceError, read_within

_COCO_SUBSET = re.compile(r"(train|val|test)\d{4}")


def asked(part: TextVqaPart | OkVqaPart) -> list[Problem]:
    """The problems of a part of either, see :func:`textvqa` and :func:`okvqa`."""
    return textvqa(part) if isinstance(part, TextVqaPart) else okvqa(part)


def textvqa(part: TextVqaPart) -> list[Problem]:
    """Problems of kind ``vqa``, of the fields ``question`` and, where OCR tokens are read, ``ocr``.

    Raises:
        SourceError: A file cannot be read, has an odd row, or an id twice.
    """
    tokens = None if part.ocr is None else _ocr(Path(part.ocr))
    return _once(_textvqa(row, part, tokens) for row in read_within(Path(part.questions), "data"))


def okvqa(part: OkVqaPart) -> list[Problem]:
    """Problems of kind ``vqa``, of the field ``question``; without annotations, questions that nobody answers.

    Raises:
        SourceError: A file cannot be read, has an odd row, an id twice, or lacks a question's answers.
    """
    path = Path(part.questions)
    subset = None if part.images is None else _subset(path)
    answers = None if part.annotations is None else _annotations(Path(part.annotations))
    return _once(_okvqa(row, part, subset, answers) for row in read_within(path, "questions"))


def _textvqa(row: Row, part: TextVqaPart, tokens: dict[str, list[str]] | None) -> Problem:
    image, question = _file_name(row, "image_id", row.get("image_id", str)), row.get("question", str)
    fields = {"question": question}
    if tokens is not None:
        fields["ocr"] = ", ".join(tokens.get(image, []))
    return _problem(
        f"textvqa-{row.get('question_id', int)}",
        fields,
        _people(row, "answers", row.strings("answers")),
        Path(part.images) / f"{image}.jpg",
    )


def _okvqa(row: Row, part: OkVqaPart, subset: str | None, answers: dict[int, list[str]] | None) -> Problem:
    number, image = row.get("question_id", int), row.get("image_id", int)
    if answers is not None and number not in answers:
        raise row.error("question_id", f"{number} has no answers in {part.annotations}")
    shown = None if part.images is None else Path(part.images) / f"COCO_{subset}_{image:012}.jpg"
    people = [] if answers is None else answers[number]
    return _problem(f"okvqa-{number}", {"question": row.get("question", str)}, people, shown)


def _problem(name: str, fields: dict[str, str], people: list[str], image: Path | None) -> Problem:
    # The same words about another image ask something else.
    about = fields["question"] if image is None else f"{fields['question']}\n{image.stem}"
    return Problem(
        id=name,
        fields=fields,
        answer=vqa.written(people) if people else "",
        reply=vqa.usual(people) if people else "",
        question=about,
        images=() if image is None else (image,),
    )


def _annotations(path: Path) -> dict[int, list[str]]:
    """What people answered, by question id."""
    found = {}
    for row in read_within(path, "annotations"):
        given = [answer.get("answer", str) for answer in row.objects("answers")]
        found[row.get("question_id", int)] = _people(row, "answers", given)
    return found


def _ocr(path: Path) -> dict[str, list[str]]:
    """The tokens that were read in each image, by its id."""
    return {row.get("image_id", str): row.strings("ocr_tokens") for row in read_within(path, "data")}


def _people(row: Row, field: str, answers: list[str]) -> list[str]:
    if len(answers) < 2:
        raise row.error(field, f"expected what several people answered, got {answers}")
    return answers


def _subset(path: Path) -> str:
    """Which of COCO's sets the images of a file of questions are from, ``train2014``, by the file's name."""
    if (found := _COCO_SUBSET.search(path.name)) is None:
        raise SourceError(
            f"{path}: its name holds no train2014 or val2014, by which its images' files are called; name it as it is "
            "published"
        )
    return found[0]


def _file_name(row: Row, field: str, name: str) -> str:
    if Path(name).name != name:
        raise row.error(field, f"{name!r} climbs out of the folder of images")
    return name


def _once(problems: Iterator[Problem]) -> list[Problem]:
    found: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in found:
            raise SourceError(f"the question {problem.id} occurs twice; take one of them out")
        found[problem.id] = problem
    return list(found.values())
