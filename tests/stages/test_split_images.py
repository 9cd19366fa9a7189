"""Splits that show images: copied beside the items, listed with their digests, in one split each."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from visual import LIMITS, picture, task, write_okvqa, write_textvqa

from t2 import config
from t2.config.rows import Params
from t2.stages.split import make_splits
from t2.tasks import vqa
from t2.tasks.images import ImageError
from t2.tasks.item import read_items
from t2.tasks.prompt import asked, shown
from t2.tasks.splits import NAMES, SplitError

ROOT = Path(__file__).parents[2]
NONE = {"train": 0, "valid": 0, "test": 1, "shots": 0}


def parameters(tmp_path: Path, **tasks: Any) -> Params:
    """The shipped sections with a base that sees, one expert of text and these tasks."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    text = {name: {**raw["tasks"][name], "sizes": {**NONE, "train": 1, "valid": 1}} for name in ("math", "other")}
    system = {"base": "main", "variant": "", "tasks": ["math"]}
    return config.parse(
        {
            **raw,
            "bases": {"main": {**raw["bases"]["main"], "path": str(tmp_path / "seeing"), "vision": LIMITS}},
            "tasks": {**text, **tasks},
            "recipes": {"svf": raw["recipes"]["svf"]},
            "adapters": {"svf-math": raw["adapters"]["svf-math"]},
            "sets": {"svf": {"members": ["svf-math"]}},
            "searches": {},
            "temperatures": {},
            "systems": {
                "base": {**system, "label": "base", "strategy": "none"},
                "svf": {**system, "label": "svf", "strategy": "own", "set": "svf"},
            },
            "score": {"contrasts": []},
            "publish": {"systems": ["svf"], "set": "svf", "model": "m"},
        }
    )


@pytest.fixture
def textvqa(tmp_path: Path) -> dict[str, Any]:
    source = tmp_path / "textvqa"
    return {
        "layout": "textvqa",
        "train": write_textvqa(source, "train", 12),
        "test": write_textvqa(source, "val", 8, first=50),
    }


@pytest.fixture
def okvqa(tmp_path: Path) -> dict[str, Any]:
    source = tmp_path / "okvqa"
    return {
        "layout": "okvqa",
        "train": write_okvqa(source, "train2014", 6),
        "test": write_okvqa(source, "val2014", 6, first=50),
    }


def seeing(textvqa: dict[str, Any], okvqa: dict[str, Any]) -> dict[str, Any]:
    ask = {"system": None, "user": "{categories}\n{question}", "examples": [], "prefix": None}
    dispatch = {"role": "dispatch", "family": "other", "prompt": ask, "sizes": {**NONE, "train": 1, "valid": 1}}
    reward = {"kind": "dispatch", "right": 1.0, "wrong": -1.0, "stop": [], "max_new_tokens": 4}
    return {
        "signs": task(textvqa, (5, 3, 6, 2)),
        "facts": task(okvqa, (0, 0, 5, 4), role="unseen"),
        "ask": {**dispatch, "source": {"layout": "dispatch", "tasks": ["math", "signs"]}, "reward": reward},
    }


def test_images_lie_beside_the_items_that_show_them(
    textvqa: dict[str, Any], okvqa: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "splits"
    manifest = make_splits(parameters(tmp_path, **seeing(textvqa, okvqa)), folder)
    shutil.rmtree(tmp_path / "textvqa")
    shutil.rmtree(tmp_path / "okvqa")
    assert set(manifest["images"]) == {"signs", "facts", "ask"}
    for name in manifest["images"]:
        listed = (folder / name / "images.json").read_bytes()
        assert manifest["images"][name] == sha256(listed).hexdigest()
        there = {path.relative_to(folder / name).as_posix() for path in (folder / name / "images").iterdir()}
        assert there == set(json.loads(listed))
    for name in ("signs", "facts"):
        items = [item for split in NAMES for item in read_items(folder / name / f"{split}.jsonl")]
        assert len(items) == (16 if name == "signs" else 9)
        for item in items:
            (image,) = asked(item.prompt).images
            assert sha256(image.path.read_bytes()).hexdigest() == image.sha256 and image.item == item.id
            assert len(vqa.references(item.answer)) == 10
    sources = manifest["sources"]["signs"]
    assert set(sources["train"]) == {"questions", "ocr"} and sources["version"] == 1
    # Who tells tasks apart sees what is asked about.
    counts = [len(shown(item.prompt)) for item in read_items(folder / "ask" / "test.jsonl")]
    assert sorted(counts) == [0, 1]


def test_text_alone_leaves_no_trace_of_images(tmp_path: Path) -> None:
    manifest = make_splits(parameters(tmp_path), tmp_path / "splits")
    assert "images" not in manifest
    assert not list((tmp_path / "splits").rglob("images*"))
    assert "images" not in (tmp_path / "splits" / "math" / "test.jsonl").read_text()


def test_two_runs_write_the_same_bytes(textvqa: dict[str, Any], okvqa: dict[str, Any], tmp_path: Path) -> None:
    params = parameters(tmp_path, **seeing(textvqa, okvqa))
    written = []
    for name in ("one", "two"):
        make_splits(params, tmp_path / name)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        written.append({path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in files})
    assert written[0] == written[1]


def test_no_image_is_in_two_splits(textvqa: dict[str, Any], tmp_path: Path) -> None:
    path = Path(textvqa["train"]["questions"])
    content = json.loads(path.read_text())
    for row in content["data"]:  # two questions about each of six images
        number = row["question_id"]
        row |= {"image_id": f"img{number // 2:03}", "question": f"What is word {number}?"}
    path.write_text(json.dumps(content))
    make_splits(parameters(tmp_path, signs=task(textvqa, (2, 2, 2, 1))), tmp_path / "splits")
    items = {split: read_items(tmp_path / "splits" / "signs" / f"{split}.jsonl") for split in NAMES}
    digests = [{image.sha256 for item in of for image in shown(item.prompt)} for of in items.values()]
    assert sum(map(len, digests)) == len(set().union(*digests))
    with pytest.raises(SplitError, match=r"signs: train asks for 12 items"):
        make_splits(parameters(tmp_path, signs=task(textvqa, (12, 2, 2, 1))), tmp_path / "splits")


def test_the_same_image_under_another_name_is_refused(textvqa: dict[str, Any], tmp_path: Path) -> None:
    for path in Path(textvqa["test"]["images"]).iterdir():
        picture(3).save(path, format="PNG")
    with pytest.raises(SplitError, match=r"signs/train.jsonl textvqa-3 shows the image of signs/test.jsonl textvqa-5"):
        make_splits(parameters(tmp_path, signs=task(textvqa, (12, 0, 2, 0))), tmp_path / "splits")


def test_bad_images_are_all_named_and_splits_that_are_there_stay(textvqa: dict[str, Any], tmp_path: Path) -> None:
    params = parameters(tmp_path, signs=task(textvqa, (5, 3, 8, 2)))
    make_splits(params, tmp_path / "splits")
    before = (tmp_path / "splits" / "manifest.json").read_bytes()
    folder = Path(textvqa["test"]["images"])
    (folder / "img050.jpg").write_text("no image")
    (folder / "img051.jpg").unlink()
    picture(4, (2000, 2000)).save(folder / "img052.jpg", format="PNG")
    with pytest.raises(ImageError) as caught:
        make_splits(params, tmp_path / "splits")
    said = str(caught.value)
    assert all(f"item textvqa-{n}, image {folder / f'img{n:03}.jpg'}: " in said for n in (50, 51, 52))
    assert said.startswith("3 image(s)")
    assert (tmp_path / "splits" / "manifest.json").read_bytes() == before
    assert len(read_items(tmp_path / "splits" / "signs" / "test.jsonl")) == 8


@pytest.mark.parametrize("name", ["../valid.jsonl", "/etc/passwd", "images/../../x.png", "images/unknown.png"])
def test_an_item_shows_nothing_but_what_its_folder_lists(name: str, textvqa: dict[str, Any], tmp_path: Path) -> None:
    make_splits(parameters(tmp_path, signs=task(textvqa, (5, 3, 6, 2))), tmp_path / "splits")
    path = tmp_path / "splits" / "signs" / "test.jsonl"
    first, *rest = path.read_text().splitlines()
    row = json.loads(first)
    row["prompt"][0]["images"] = [name]
    path.write_text("\n".join([*rest, json.dumps(row)]))
    with pytest.raises(ValueError, match=rf"test.jsonl, line 6: not an item \(item {row['id']} shows '{name}', which"):
        read_items(path)


CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"source": {"train": {"ocr": None}}, "prompt": {"user": "{question} {ocr}"}},
        {},
        r"signs\.source\.train\.ocr: null",
    ),
    ({"reward": {"kind": "choice"}}, {}, r"signs\.reward\.pass_mark: unknown key"),
    ({"reward": {"pass_mark": 0.0}}, {}, r"signs\.reward\.pass_mark: .*greater than 0"),
    ({}, {"vision": None}, r"bases: none has `vision`, and signs show images"),
    ({}, {"quantisation": "int8"}, r"bases\.main\.quantisation: int8, which no base with `vision` has yet"),
    ({}, {"prompting": "completion"}, r"bases\.main\.prompting: 'completion', and images stand within a chat"),
    ({}, {"vision": {**LIMITS, "max_pixels": 0}}, r"bases\.main\.vision\.max_pixels"),
    ({}, {"vision": {**LIMITS, "colour": 1}}, r"bases\.main\.vision\.colour: unknown key"),
]


def merged(row: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A row with changes at any depth."""
    for key, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(row.get(key), dict)
        row = {**row, key: merged(row[key], value) if deeper else value}
    return row


@pytest.mark.parametrize(("of_task", "of_base", "message"), CHANGES)
def test_rows_that_contradict_each_other_are_named(
    of_task: dict[str, Any], of_base: dict[str, Any], message: str, textvqa: dict[str, Any], tmp_path: Path
) -> None:
    raw = config.dump(parameters(tmp_path, signs=task(textvqa, (5, 3, 6, 2))))
    raw["tasks"]["signs"] = merged(raw["tasks"]["signs"], of_task)
    raw["bases"]["main"] = merged(raw["bases"]["main"], of_base)
    if raw["bases"]["main"]["vision"] is None:
        del raw["bases"]["main"]["vision"]
    with pytest.raises(config.ConfigError, match=message):
        config.parse(raw)


def test_a_base_that_sees_nothing_is_not_measured_on_images(textvqa: dict[str, Any], tmp_path: Path) -> None:
    raw = config.dump(parameters(tmp_path, signs=task(textvqa, (5, 3, 6, 2))))
    raw["bases"]["blind"] = {**raw["bases"]["main"], "label": "blind"}
    del raw["bases"]["blind"]["vision"]
    raw["systems"]["blind"] = {**raw["systems"]["base"], "base": "blind", "label": "blind", "tasks": "all"}
    raw["adapters"]["svf-signs"] = {"base": "blind", "recipe": "svf", "task": "signs"}
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["adapters.svf-signs", "systems.blind"]
    assert "signs show images, and bases.blind has no `vision`" in str(caught.value)
