"""Rows of benchmark files become items; odd rows are named by file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import get_args

import pytest

from t2 import config
from t2.tasks import grade, sources
from t2.tasks.sources import LAYOUTS, SourceError, load

GSM8K = {"question": "How many?", "answer": "She has 3*400 = <<3*400=1200>>1200\u2028of them.\n#### 1,200"}
MBPP = {
    "text": "Write f.",
    "code": "class N:\r\n  x = 1\r\ndef f(n):\r\n  return n.x",
    "task_id": 601,
    "test_setup_code": "n = N()",
    "test_list": ["assert f(n) == 1"],
    "challenge_test_list": [],
}
SANITIZED = {
    "prompt": "Write g.",
    "code": "def g(): ...",
    "task_id": 11,
    "test_imports": ["import math"],
    "test_list": ["assert g() is None"],
}
AI2 = {
    "id": "Q_1",
    "question": {
        "stem": "Which?",
        "choices": [{"text": "red", "label": "1"}, {"text": "blue", "label": "2"}],
    },
    "answerKey": "2",
}
HF = {
    "id": "Q_2",
    "question": "Which?",
    "choices": {"text": ["red", "blue", "green"], "label": ["A", "B", "C"]},
    "answerKey": "C",
}


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def array(path: Path, *rows: object) -> Path:
    path.write_text(json.dumps(rows, indent=4), encoding="utf-8")
    return path


def test_gsm8k(tmp_path: Path) -> None:
    first, second = load("gsm8k", lines(tmp_path / "test.jsonl", GSM8K, GSM8K))
    assert (first.id, second.id) == ("gsm8k-test-1", "gsm8k-test-2")
    assert first.answer == "1200"
    assert "<<" not in first.reply and "3*400 = 1200" in first.reply
    assert first.prompt.startswith("How many?\n") and "#### n" in first.prompt


def test_mbpp_runs_set_up_after_the_program_and_before_the_tests(tmp_path: Path) -> None:
    (item,) = load("mbpp", lines(tmp_path / "mbpp.jsonl", MBPP))
    assert item.id == "mbpp-601"
    assert item.answer == "n = N()\nassert f(n) == 1"
    assert "\r" not in item.reply
    assert "Write f." in item.prompt and "assert f(n) == 1" in item.prompt and "N()" not in item.prompt


def test_mbpp_sanitized_has_other_fields_and_the_same_ids(tmp_path: Path) -> None:
    (item,) = load("mbpp", array(tmp_path / "sanitized.json", SANITIZED))
    assert (item.id, item.answer) == ("mbpp-11", "import math\nassert g() is None")


def test_mbpp_is_divided_by_task_id(tmp_path: Path) -> None:
    path = lines(tmp_path / "mbpp.jsonl", *({**MBPP, "task_id": n} for n in (10, 11, 510, 511)))
    assert [item.id for item in load("mbpp", path, "test")] == ["mbpp-11", "mbpp-510"]
    assert [item.id for item in load("mbpp", path, "train")] == ["mbpp-10", "mbpp-511"]


def test_arc_in_both_layouts_maps_keys_to_letters_by_position(tmp_path: Path) -> None:
    (ai2,) = load("arc", lines(tmp_path / "a.jsonl", AI2))
    (hf,) = load("arc", array(tmp_path / "b.json", HF))
    assert (ai2.id, ai2.answer, hf.id, hf.answer) == ("Q_1", "B", "Q_2", "C")
    assert ai2.prompt.startswith("Which?\n(A) red\n(B) blue\n")
    assert grade("choice", [ai2, hf], [ai2.reply, hf.reply]) == [True, True]
    assert grade("choice", [ai2, hf], ["the answer is (A)"] * 2) == [False, False]


@pytest.mark.parametrize(
    ("layout", "row", "field"),
    [
        ("gsm8k", {"question": "?"}, "answer"),
        ("gsm8k", {"question": "?", "answer": "It is 3."}, "answer"),
        ("gsm8k", {"question": 3, "answer": "#### 3"}, "question"),
        ("gsm8k", ["?"], "row"),
        ("mbpp", {**MBPP, "task_id": "601"}, "task_id"),
        ("mbpp", {**MBPP, "task_id": True}, "task_id"),
        ("mbpp", {**MBPP, "test_list": []}, "test_list"),
        ("mbpp", {**MBPP, "test_list": [1]}, "test_list"),
        ("mbpp", GSM8K, "prompt"),
        ("arc", {**AI2, "answerKey": "B"}, "answerKey"),
        ("arc", {**AI2, "question": {"stem": "?"}}, "question.choices"),
        ("arc", {**AI2, "question": {"stem": "?", "choices": [{"text": "red"}]}}, "label"),
        ("arc", {**HF, "choices": {"text": list("abcdef"), "label": list("ABCDEF")}}, "choices"),
        ("arc", {**HF, "choices": {"text": ["a"], "label": ["A", "B"]}}, "choices"),
    ],
)
def test_an_odd_row_is_named(tmp_path: Path, layout: str, row: object, field: str) -> None:
    good = {"gsm8k": GSM8K, "mbpp": MBPP, "arc": AI2}[layout]
    path = lines(tmp_path / "rows.jsonl", good, row)
    with pytest.raises(SourceError) as caught:
        load(layout, path)
    assert f"{path}, line 2, field {field!r}" in str(caught.value)
    with pytest.raises(SourceError, match="row 2, field"):
        load(layout, array(tmp_path / "rows.json", good, row))


def test_files_that_cannot_be_read_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file; correct the task"):
        load("gsm8k", tmp_path / "absent.jsonl")
    (tmp_path / "packed").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(SourceError, match="packed: damaged gzip file"):
        load("gsm8k", tmp_path / "packed")
    (tmp_path / "packed").write_bytes(gzip.compress(json.dumps(GSM8K).encode())[:-9] + b"\x07" * 9)
    with pytest.raises(SourceError, match="packed: damaged gzip file"):
        load("gsm8k", tmp_path / "packed")
    (tmp_path / "latin").write_bytes('{"question": "é"}'.encode("latin-1"))
    with pytest.raises(SourceError, match="latin: not UTF-8 text"):
        load("gsm8k", tmp_path / "latin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no \.json file in this folder"):
        load("math", tmp_path / "empty")
    (tmp_path / "cut.jsonl").write_text('{"question": "?", "answer": "#### 1"}\n{"quest')
    with pytest.raises(SourceError, match=r"cut\.jsonl, line 2: not JSON"):
        load("gsm8k", tmp_path / "cut.jsonl")
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(SourceError, match="not JSON"):
        load("arc", tmp_path / "cut.json")
    with pytest.raises(SourceError, match="'Q_1' occurs twice"):
        load("arc", lines(tmp_path / "twice.jsonl", AI2, AI2))
    with pytest.raises(ValueError, match=f"one of {', '.join(LAYOUTS)}; got 'csv'"):
        load("csv", tmp_path / "absent.jsonl")


def test_every_layout_has_a_version() -> None:
    assert set(sources.VERSIONS) == set(get_args(config.Layout))
