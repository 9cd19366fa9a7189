"""``t2 ask --image``: what a prompt shows is seen in both passes, or refused before anything is loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from finished_project import MEMBERS, TEMPERATURE
from seeing_project import FOLDER, finish_seeing_project
from visual import picture

from t2.adaptation.first_pass import Ask, dispatch, loglikelihoods
from t2.cli import main
from t2.config import Params, load
from t2.engine.base import Engine, Sampling
from t2.engine.select import svf_engine
from t2.svf import BasisCache, mix, stack
from t2.svf.experts import Z
from t2.svf.language import load_onto
from t2.tasks.prompt import Image, Message, Prompt

QUESTION = "How many apples are on it?"
BASIS = FOLDER / "data" / "basis" / "seeing"


@pytest.fixture(scope="session")
def finished_seeing_project(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tests share it: commands write nothing into it."""
    folder = finish_seeing_project(tmp_path_factory.mktemp("seeing-project"), llava_folder)
    for number in range(3):
        picture(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def seeing(finished_seeing_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It, as the working directory."""
    monkeypatch.chdir(finished_seeing_project)
    return finished_seeing_project


@pytest.fixture
def copied(seeing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change."""
    shutil.copytree(seeing, copy := tmp_path / "project", symlinks=True)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2.adaptation.system.TwoPassSystem.__init__", lambda *_: pytest.fail("loaded"))


@pytest.fixture
def params(seeing: Path) -> Params:
    return load(FOLDER / "params.yaml", main="params.yaml")


@pytest.fixture
def engine(params: Params) -> Engine:
    return svf_engine(params.bases["seeing"], params.engine, basis=BASIS, device="cpu", batch=4)


def expert(name: str) -> Z:
    return load_onto(f"data/adapters/{name}/seed-1", BasisCache.open(BASIS)).z


def asks(*numbers: int) -> Prompt:
    return (Message("user", QUESTION, tuple(Image(Path(f"{number}.png")) for number in numbers)),)


def reply(engine: Engine, prompt: Prompt, z: Z) -> str:
    return engine.generate([prompt], Sampling(8), experts=stack([z]), rows=[0])[0].text


def answer(t2: Callable[..., Any], *numbers: int, **options: object) -> dict[str, Any]:
    shown = [word for number in numbers for word in ("--image", f"{number}.png")]
    named = [word for name, value in options.items() for word in (f"--{name}", value)]
    given = t2("ask", "--folder", FOLDER, *shown, *named, "--max-new-tokens", 8, "--json", QUESTION)
    found: dict[str, Any] = json.loads(given.stdout)
    return found


@pytest.mark.parametrize(
    ("options", "alpha"),
    [
        ({"system": "uniform"}, [1 / 3] * 3),
        ({"system": "fewshot", "task": "math_hard"}, [0.9, -0.2, 0.4]),
    ],
    ids=["uniform", "fewshot"],
)
def test_a_mix_of_experts_of_text_answers_about_the_image(
    options: dict[str, str], alpha: list[float], engine: Engine, t2: Callable[..., Any]
) -> None:
    mixed = mix([expert(name) for name in MEMBERS], torch.tensor(alpha))
    texts = [answer(t2, number, **options)["text"] for number in range(3)]
    assert texts == [reply(engine, asks(number), mixed) for number in range(3)]
    assert len({*texts, answer(t2, **options)["text"]}) == 4, "every image, and none, has a reply of its own"


def test_several_images_stand_in_the_order_in_which_they_are_given(engine: Engine, t2: Callable[..., Any]) -> None:
    mixed = mix([expert(name) for name in MEMBERS], torch.full((3,), 1 / 3))
    texts = {order: answer(t2, *order, system="uniform")["text"] for order in ((0, 1), (1, 0))}
    assert texts == {order: reply(engine, asks(*order), mixed) for order in texts}
    assert texts[0, 1] != texts[1, 0]


@pytest.mark.parametrize("system", ["classifier", "prompt"])
def test_the_first_pass_sees_the_image(system: str, params: Params, engine: Engine, t2: Callable[..., Any]) -> None:
    ask = Ask(params.tasks["dispatch"].prompt, ["math", "code", "reasoning", "other"], 4, "likelihood")
    classifier = expert("classifier") if system == "classifier" else None
    called = dispatch(engine, [asks(number) for number in range(3)], ask, classifier=classifier)
    answers = [answer(t2, number, system=system) for number in range(3)]
    assert [found["mixture"] for found in answers] == ["base" if name == "other" else f"svf-{name}" for name in called]
    tables = stack([expert(name) for name in MEMBERS])
    for number, found in enumerate(answers):
        row = MEMBERS.index(found["mixture"]) if found["mixture"] in MEMBERS else -1
        (alone,) = engine.generate([asks(number)], Sampling(8), experts=tables, rows=[row])
        assert found["text"] == alone.text


def test_soft_dispatch_believes_what_it_sees(params: Params, engine: Engine, t2: Callable[..., Any]) -> None:
    ask = Ask(params.tasks["dispatch"].prompt, ["math", "code", "reasoning", "other"], 4, "likelihood")
    logliks = torch.tensor(loglikelihoods(engine, [asks(0), asks(1)], ask), dtype=torch.float64)
    beliefs = (logliks / TEMPERATURE).softmax(1)
    assert (beliefs[0] - beliefs[1]).abs().max() > 1e-2
    for number, belief in enumerate(beliefs.tolist()):
        mixture = answer(t2, number, system="soft")["mixture"]
        weights = {name: float(weight) for name, weight in (part.split("=") for part in mixture.split(","))}
        assert weights == pytest.approx(dict(zip([*MEMBERS, "base"], belief, strict=True)), abs=1e-3)


def test_the_first_system_that_sees_answers_where_none_is_named(copied: Path, t2: Callable[..., Any]) -> None:
    rows = yaml.safe_load((FOLDER / "params.yaml").read_text())
    rows["systems"]["classifier"]["base"] = "main"
    (FOLDER / "params.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    assert (answer(t2)["system"], answer(t2, 0)["system"]) == ("classifier", "prompt")


# What is refused, before anything is loaded


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: object, question: str = QUESTION) -> str:
    monkeypatch.setattr("sys.argv", ["t2", "ask", question, *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = str(caught.value.code)
    assert said.startswith("t2: ")
    return said.removeprefix("t2: ")


def spoilt(path: Path) -> None:
    picture(1, (99, 99)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "no such file; bring it"),
    "a folder": (lambda path: path.mkdir(), "no such file; bring it"),
    "text": (lambda path: path.write_text("a sign"), "no image of an allowed format; .* PNG, JPEG: convert it"),
    "a GIF": (lambda path: picture(1).save(path, "GIF"), "no image of an allowed format"),
    "cut": (spoilt, "cut or damaged"),
    "heavy": (lambda path: path.write_bytes(b"\0" * 100_001), "100001 bytes; .* max_bytes 100000: shrink it"),
    "large": (lambda path: picture(1, (1001, 1000)).save(path, "PNG"), "1001 × 1000 pixels; .* max_pixels 1000000"),
    "one bit": (lambda path: picture(1).convert("1").save(path, "PNG"), "mode '1'"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("seeing", "nothing_is_loaded")
def test_a_bad_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, message = BAD[name]
    spoil(path := tmp_path / "sign.png")
    said = refusal(monkeypatch, "--folder", FOLDER, "--image", "0.png", "--image", path)
    assert re.match(f"image {path}: .*{message}", said) and "\n" not in said


@pytest.mark.usefixtures("seeing", "nothing_is_loaded")
def test_a_base_of_text_is_refused_with_what_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, "--image", "0.png")
    assert said.startswith("image 0.png: system 'classifier' answers with the base 'main', which reads text alone")
    assert said.endswith("name one that sees: --folder reports/vision; see docs/vision.md")
    said = refusal(monkeypatch, "--folder", FOLDER, "--system", "text", "--image", "0.png")
    assert said.startswith("image 0.png: system 'text' answers with the base 'main', which reads text alone")
    assert said.endswith("--system classifier or prompt or soft or uniform or fewshot")


@pytest.mark.usefixtures("copied", "nothing_is_loaded")
def test_vllm_is_refused_for_a_base_that_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = yaml.safe_load((FOLDER / "params.yaml").read_text())
    rows["engine"] = {**yaml.safe_load(Path("params.yaml").read_text())["engine"], "name": "vllm"}
    (FOLDER / "params.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    said = refusal(monkeypatch, "--folder", FOLDER, "--image", "0.png")
    assert "bases.seeing.vision: vLLM shows no images here; set engine.name to 'hf', which does" in said


@pytest.mark.usefixtures("copied", "nothing_is_loaded")
def test_experts_of_text_need_the_basis_cache_of_the_base_that_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(BASIS)
    said = refusal(monkeypatch, "--folder", FOLDER, "--image", "0.png")
    assert said.startswith(f"there is no basis cache {BASIS}, by which svf-math, an expert of the base 'main', runs")
    assert said.endswith("`dvc repro basis@seeing` makes it")


@pytest.mark.usefixtures("seeing")
def test_a_placeholder_in_the_question_is_named_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--folder", FOLDER, "--system", "uniform", "--image", "0.png")
    said = refusal(monkeypatch, *arguments, question="What is <image>?")
    assert said.startswith("image 0.png: 2 placeholders (<image>) for 1 image(s); take the word out of the question")
