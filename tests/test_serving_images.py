"""The served model sees what a request shows; what cannot be shown is refused, and nothing else is lost."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from finished_project import ALPHA
from scoring import Post, refusal, register, serve, texts, tracking_as_before
from seeing_project import FOLDER, finish_seeing_project
from visual import picture

from t2 import config, request
from t2.adaptation.spec import Settings
from t2.adaptation.system import TwoPassSystem
from t2.tasks.prompt import Image, Message, Prompt

QUESTION = "How many apples are on it?"
SYSTEMS = ["classifier", "prompt", "fewshot"]
WAYS: list[dict[str, str]] = [{}, {"system": "prompt"}, {"system": "fewshot", "task": "math_hard"}]


@pytest.fixture(scope="module", autouse=True)
def tracking_of_its_own() -> Iterator[None]:
    with tracking_as_before():
        yield


@pytest.fixture(scope="module")
def project(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish_seeing_project(tmp_path_factory.mktemp("seeing-published"), llava_folder)


@pytest.fixture(scope="module")
def parts(project: Path) -> tuple[Settings, dict[str, Path], dict[str, Path]]:
    """Settings, adapters and outcomes of the systems that see."""
    params = config.load(project / FOLDER / "params.yaml", main=project / "params.yaml")
    made = project / FOLDER / "data"
    adapters = {name: project / "data" / "adapters" / name / "seed-1" for name in (*ALPHA, "classifier")}
    found = made / "searches" / "found" / "seed-1" / "draw-0" / "alpha.json"
    return Settings.of(params, SYSTEMS, made / "basis" / "seeing"), adapters, {"found": found}


@pytest.fixture(scope="module")
def post(project: Path, parts: Any) -> Post:
    register(project, *parts)
    return serve(project)


@pytest.fixture(scope="module")
def system(parts: Any) -> TwoPassSystem:
    return TwoPassSystem(*parts)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where images of requests lie meanwhile; nothing stays behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder := tmp_path / "scratch"))
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def png(number: int) -> bytes:
    file = BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def encoded(number: int) -> str:
    return b64encode(png(number)).decode()


def rows(*shown: object, question: str = QUESTION) -> list[dict[str, object]]:
    """A prompt for each; None shows nothing."""
    return [{"prompt": question} if image is None else {"prompt": question, "image": image} for image in shown]


def records(*given: dict[str, object], **params: object) -> dict[str, Any]:
    return {"dataframe_records": list(given), "params": {"max_new_tokens": 8, **params}}


def refused(post: Post, *given: dict[str, object]) -> str:
    """What is said to a request, behind MLflow's own words."""
    return refusal(post(records(*given))).partition("Error: ")[2]


@pytest.mark.parametrize("way", WAYS, ids=["classifier", "prompt", "fewshot"])
def test_images_and_text_in_one_request_are_answered_as_the_system_does(
    way: dict[str, str], post: Post, system: TwoPassSystem, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))

    def asks(*numbers: int) -> Prompt:
        return (Message("user", QUESTION, tuple(Image(tmp_path / f"{number}.png") for number in numbers)),)

    prompts: list[Prompt] = [asks(0), QUESTION, asks(1), asks(2), asks(0, 1), asks(1, 0)]
    uri = f"data:image/png;base64,{encoded(2)}"
    shown = [encoded(0), None, [encoded(1)], uri, [encoded(0), encoded(1)], [encoded(1), encoded(0)]]
    outcome = system.answer(prompts, **way, max_new_tokens=8)
    mixtures = [str(outcome.choice.mixtures[row]) for row in outcome.choice.rows]
    expected = list(zip([reply.text for reply in outcome.generations], mixtures, strict=True))
    assert texts(post(records(*rows(*shown), **way))) == expected
    assert len(set(expected)) == len(expected), "every image has a reply of its own"


@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "inputs", "instances"])
def test_every_form_of_request_shows_images(form: str, post: Post) -> None:
    given = rows(encoded(0), encoded(1))
    split = {"columns": ["image", "prompt"], "data": [[row["image"], row["prompt"]] for row in given]}
    asked = {form: split if form == "dataframe_split" else given, "params": {"max_new_tokens": 8}}
    assert texts(post(asked)) == texts(post(records(*given)))


def test_text_and_null_show_nothing(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "TemporaryDirectory", lambda **_: pytest.fail("a folder for no image"))
    alone = texts(post(records(*rows(None))))
    assert texts(post(records({"prompt": QUESTION, "image": None}))) == alone
    assert texts(post(records({"prompt": QUESTION, "image": []}))) == alone


def cut() -> str:
    file = BytesIO()
    picture(1, (99, 99)).save(file, "JPEG")
    return b64encode(file.getvalue()[:-200]).decode()


def gif() -> str:
    file = BytesIO()
    picture(1).save(file, "GIF")
    return b64encode(file.getvalue()).decode()


def large() -> str:
    file = BytesIO()
    picture(1, (1001, 1000)).save(file, "PNG")
    return b64encode(file.getvalue()).decode()


BAD: dict[str, tuple[object, str]] = {
    "a path": ("sign.png", "is no base64 ("),
    "characters between": (encoded(1)[:40] + "\n" + encoded(1)[40:], "is no base64 ("),
    "a part": (encoded(1)[:-3], "is no base64 ("),
    "letters of the URL alphabet": (b64encode(b"\xfb\xff\xfe", b"-_").decode(), "is no base64 ("),
    "no ASCII": ("Bild größer", "is no base64 ("),
    "a URI of text": (f"data:text/plain;base64,{encoded(1)}", "is no base64 ("),
    "a URI without base64": (f"data:image/png,{encoded(1)}", "is no base64 ("),
    "a number": (3, "is 3, which is no text"),
    "a list in a list": ([[encoded(1)]], "is ['iVBOR"),
    "null in a list": ([None], "is null, which is no text"),
    "an object": ({"url": "sign.png"}, "is {'url': 'sign.png'}, which is no text"),
    "empty": ("", "no image of an allowed format"),
    "text": (b64encode(b"What does the sign say?").decode(), "no image of an allowed format"),
    "a GIF": (gif(), "no image of an allowed format; bases.*.vision allows formats PNG, JPEG"),
    "cut": (cut(), "cut or damaged"),
    "large": (large(), "1001 × 1000 pixels; bases.*.vision allows max_pixels 1000000"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_by_its_place(name: str, post: Post, scratch: Path) -> None:
    image, words = BAD[name]
    said = refused(post, *rows(encoded(0), image))
    assert said.startswith("image 0 of prompt 1") and words in said and len(said) < 400
    assert str(scratch) not in said, "where it lies is nothing that a client knows"
    if not isinstance(image, list):
        assert refused(post, *rows([encoded(0), image])).startswith("image 1 of prompt 0")


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_what_is_too_large_is_refused_before_it_is_decoded(
    head: str, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy = [head + b64encode(bytes(100_000 + more)).decode() for more in range(4)]
    assert "no image of an allowed format" in refused(post, *rows(heavy[0]))
    monkeypatch.setattr(request, "b64decode", lambda *_, **__: pytest.fail("decoded"))
    for more in (1, 2, 3):
        said = refused(post, *rows(heavy[more]))
        assert said == (
            f"image 0 of prompt 0 has {100_000 + more} bytes; this model is shown files of 100000 at most: shrink it"
        )


def test_a_placeholder_beside_an_image_is_refused(post: Post) -> None:
    said = refused(post, *rows(encoded(0), question="What is <image>?"))
    assert said.startswith("image 0 of prompt 0: 2 placeholders (<image>) for 1 image(s)")


def test_bad_images_of_one_client_are_nothing_to_others(post: Post) -> None:
    good, bad = records(*rows(encoded(0), None, encoded(1))), records(*rows(encoded(0), cut()))
    alone = texts(post(good))
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(post, [good, bad] * 4))
    assert all(texts(answer) == alone for answer in answers[::2])
    assert all("cut or damaged" in refusal(answer) for answer in answers[1::2])
