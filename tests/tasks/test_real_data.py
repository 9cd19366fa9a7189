"""Every row of the real benchmark files; skipped where their folder, ``T2_DATA``, is absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2 import config, profiles
from t2.tasks import choice, grade
from t2.tasks.item import Item, read_items
from t2.tasks.sandbox import Sandbox
from t2.tasks.sources import load

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("T2_DATA", ROOT.parent / "shared" / "data"))
ARC = {
    "ARC-Easy-Dev.jsonl": 570,
    "ARC-Easy-Test.jsonl": 2376,
    "ARC-Challenge-Dev.jsonl": 299,
    "ARC-Challenge-Test.jsonl": 300,
    "hf_layout/arc_easy/train.json": 2251,
    "hf_layout/arc_easy/validation.json": 570,
}
SLOW_REFERENCE = "mbpp-123"
"""Takes about 3.5 s."""

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark files in {DATA}")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    limits = config.load(ROOT / "params.yaml").sandbox
    patient = limits.model_copy(update={"cpu_seconds": 8.0, "wall_seconds": 30.0})
    with Sandbox(patient, workers=2) as opened:
        yield opened


@pytest.mark.parametrize(("file", "rows"), [("train", 7473), ("test", 300)])
def test_gsm8k_references_are_right_and_their_neighbours_wrong(file: str, rows: int) -> None:
    items = load("gsm8k", DATA / "gsm8k" / f"{file}.jsonl")
    assert len(items) == rows
    assert all(grade("math", items, [item.reply for item in items]))
    assert not any(grade("math", items, [f"{item.reply}\n#### {int(item.answer) + 1:,}" for item in items]))
    assert not any(grade("math", items, [item.reply.rpartition("####")[0] for item in items]))
    assert not any("<<" in item.reply for item in items)
    if file == "train":
        assert sum(item.answer.startswith("-") for item in items) == 3


@pytest.mark.parametrize(("file", "rows"), ARC.items())
def test_arc_references_are_right_and_the_other_options_wrong(file: str, rows: int) -> None:
    items = load("arc", DATA / "arc" / file)
    assert len(items) == rows
    assert all(grade("choice", items, [item.reply for item in items]))
    for letter in choice.LETTERS:
        named = grade("choice", items, [choice.statement(letter)] * rows)
        assert named == [item.answer == letter for item in items]
    assert all(f"({item.answer}) " in item.prompt for item in items)


def test_both_layouts_of_arc_give_the_same_items() -> None:
    assert load("arc", DATA / "arc/ARC-Easy-Dev.jsonl") == load("arc", DATA / "arc/hf_layout/arc_easy/validation.json")


def mbpp(file: str) -> list[Item]:
    return load("mbpp", DATA / "mbpp" / file)


def failing(items: list[Item], sandbox: Sandbox) -> set[str]:
    """The items whose references fail."""
    right = grade("code", items, [item.reply for item in items], sandbox)
    return {item.id for item, passed in zip(items, right, strict=True) if not passed}


@pytest.mark.parametrize(("file", "rows", "test_rows"), [("mbpp.jsonl", 974, 500), ("sanitized-mbpp.json", 427, 257)])
def test_a_sample_of_mbpp_references_passes_and_empty_programs_fail(
    file: str, rows: int, test_rows: int, sandbox: Sandbox
) -> None:
    items = mbpp(file)
    assert len(items) == rows
    assert len(load("mbpp", DATA / "mbpp" / file, "test")) == test_rows
    # The odd ones: code before set-up, imports of the tests, an assert around the call.
    odd = [item for item in items if item.id in {"mbpp-367", "mbpp-927", "mbpp-912"} or "import math" in item.answer]
    sample = [*odd, *items[::10]]
    assert failing(sample, sandbox) <= {SLOW_REFERENCE}
    assert not any(grade("code", sample, [""] * len(sample), sandbox))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["mbpp.jsonl", "sanitized-mbpp.json"])
def test_every_mbpp_reference_passes(file: str, sandbox: Sandbox) -> None:
    assert failing(mbpp(file), sandbox) == set()


def test_the_shipped_real_profile_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2.stages.split import make_splits

    text = profiles.compose("real").replace("data/sources", str(DATA))
    (tmp_path / "params.yaml").write_text(text)
    params = config.load(tmp_path / "params.yaml")
    monkeypatch.chdir(ROOT)
    make_splits(params, tmp_path / "splits")
    ids = [
        item.id for task in params.tasks for path in (tmp_path / "splits" / task).iterdir() for item in read_items(path)
    ]
    assert len(ids) == len(set(ids)) == 3 * 60 + 2 * 32
