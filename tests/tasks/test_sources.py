"""Rows of benchmark files become items; odd rows are named by file, line and field."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tasks.layouts import load

from t2 import config
from t2.sandbox import Sandbox
from t2.tasks import sources
from t2.tasks.grading import grade
from t2.tasks.item import read_items
from t2.tasks.sources import LAYOUTS, HubSplit, SourceError

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
ADAPTERS = {
    "instruction": "Please choose the correct answer to the question: Which of\n\nthese?\n\n"
    "Answer1: red: a colour Answer2: blue Answer3: no answer\n\nAnswer format: answer1/answer2/answer3",
    "input": "",
    "output": "the correct answer is answer3",
    "answer": "answer3",
}
MATH = {"problem": "What is half?", "level": "Level 3", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."}
MATH_500 = {**MATH, "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 3, "unique_id": "test/algebra/7.json"}
HUMANEVAL = {
    "task_id": "HumanEval/5",
    "prompt": "\nimport math\n\ndef up(x):\n    return x + 1\n\ndef twice(x):\n    '''Two steps.'''\n",
    "entry_point": "twice",
    "canonical_solution": "    return up(up(x))\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == up(2)\n",
}
HUMANEVAL_PLUS = {**HUMANEVAL, "contract": "", "base_input": [[1]], "plus_input": [[2], [0.5]], "atol": 0}
MBPP_PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function.\nassert first((1, 2), (3,)) == 1\n"""\n',
    "entry_point": "first",
    "canonical_solution": "\ndef first(a, b):\n    assert isinstance(b, tuple)\n    return [a[0]]\n",
    "base_input": [[[1, 2], [3]]],
    "plus_input": [[[5], []]],
    "atol": 1e-4,
    "contract": "",
    "assertion": "",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(config.load(Path(__file__).parents[2] / "params.yaml").sandbox) as opened:
        yield opened


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def packed(path: Path, *rows: object) -> Path:
    lines(path, *rows).write_bytes(gzip.compress(path.read_bytes()))
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
    assert (ai2.options, hf.options) == (("red", "blue"), ("red", "blue", "green"))
    assert (ai2.id, ai2.answer, hf.id, hf.answer) == ("Q_1", "B", "Q_2", "C")
    assert ai2.prompt.startswith("Which?\n(A) red\n(B) blue\n")
    assert grade("choice", [ai2, hf], [ai2.reply, hf.reply]) == [True, True]
    assert grade("choice", [ai2, hf], ["the answer is (A)"] * 2) == [False, False]


def test_arc_as_llm_adapters_words_it(tmp_path: Path) -> None:
    (tmp_path / "ARC-Easy").mkdir()
    (item,) = load("arc", array(tmp_path / "ARC-Easy" / "train.json", ADAPTERS))
    assert item.prompt.startswith("Which of\n\nthese?\n(A) red: a colour\n(B) blue\n(C) no answer\n")
    assert (item.id, item.answer) == ("arc-ARC-Easy-train-1", "C")
    assert grade("choice", [item], [item.reply]) == [True]


def test_math_as_rows_and_as_a_file_a_problem(tmp_path: Path) -> None:
    (row,) = load("math", lines(tmp_path / "train.jsonl", MATH))
    (known,) = load("math", lines(tmp_path / "test.jsonl", MATH_500))
    for n, subject in ((7, "algebra"), (12, "geometry")):
        (tmp_path / "test" / subject).mkdir(parents=True)
        array(tmp_path / "test" / subject / f"{n}.json").write_text(json.dumps(MATH, indent=4))
    first, second = load("math", tmp_path / "test")
    assert (row.id, known.id) == ("math-train-1", "math-test/algebra/7")
    assert (first.id, second.id) == ("math-test/algebra/7", "math-test/geometry/12")
    assert first == known
    assert row.answer == known.answer == r"\frac{1}{2}"
    limits = Sandbox(config.load(Path(__file__).parents[2] / "params.yaml").sandbox)
    assert grade("boxed", [row, known], [row.reply, r"\boxed{0.5}"], limits) == [True, True]


def test_humaneval_puts_the_beginning_into_the_prompt(tmp_path: Path, sandbox: Sandbox) -> None:
    (item,) = load("humaneval", packed(tmp_path / "h.jsonl.gz", HUMANEVAL))
    (plus,) = load("humaneval_plus", packed(tmp_path / "plus.jsonl.gz", HUMANEVAL_PLUS))
    assert item.id == plus.id == "humaneval-5" and item.prompt == plus.prompt
    assert item.prompt.startswith("Complete this Python function:\n```python\nimport math\n\ndef up(x):")
    right = [item.reply, "    return up(up(x))", "```python\ndef twice(x):\n    return x + 2\n```"]
    wrong = ["", "    return up(x)", "def twice(x):\n    return 3", "def twice(x):\n    return int(x) + 2"]
    for one, only_plus in ((item, True), (plus, False)):
        assert grade("code", [one] * 3, right, sandbox) == [True] * 3
        # The last two are right on the tests' one input.
        assert grade("code", [one] * 4, wrong, sandbox) == [False, False, only_plus, only_plus]


def test_mbpp_plus_is_divided_by_position_and_tested_on_restored_inputs(tmp_path: Path, sandbox: Sandbox) -> None:
    rows = [{**MBPP_PLUS, "task_id": f"Mbpp/{n}"} for n in (1001, 116, *range(1003, 1379))]
    path = packed(tmp_path / "plus.jsonl.gz", *rows)
    train, test = load("mbpp_plus", path, "train"), load("mbpp_plus", path, "test")
    assert [item.id for item in (train[0], train[-1], test[0], test[-1])] == [
        "mbpp-1001",
        "mbpp-1300",
        "mbpp-1301",
        "mbpp-1378",
    ]
    item = train[1]
    assert item.prompt == (
        "Write a function.\nIt has to pass this test:\nassert first((1, 2), (3,)) == 1\nReply with Python code only."
    )
    replies = [item.reply, "def first(a, b):\n    return [a[0] + 5e-5]", "def first(a, b):\n    return a"]
    assert grade("code", [item] * 3, replies, sandbox) == [True, True, False]


def test_a_task_without_further_inputs_has_an_empty_object(tmp_path: Path) -> None:
    (item,) = load("mbpp_plus", lines(tmp_path / "p.jsonl", {**MBPP_PLUS, "plus_input": {}}))
    assert item.answer != load("mbpp_plus", lines(tmp_path / "q.jsonl", MBPP_PLUS))[0].answer


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
        ("mbpp_plus", {**MBPP_PLUS, "task_id": "Mbpp/x"}, "task_id"),
        ("mbpp_plus", {**MBPP_PLUS, "prompt": "Write f."}, "prompt"),
        ("mbpp_plus", {**MBPP_PLUS, "atol": "0"}, "atol"),
        ("mbpp_plus", {**MBPP_PLUS, "plus_input": [1]}, "plus_input"),
        ("mbpp_plus", {**MBPP_PLUS, "task_id": "Mbpp/63"}, "plus_input"),
        ("mbpp_plus", {**MBPP_PLUS, "task_id": "Mbpp/722"}, "plus_input"),
        ("humaneval", {**HUMANEVAL, "task_id": 5}, "task_id"),
        ("humaneval_plus", HUMANEVAL, "base_input"),
        ("math", {**MATH, "solution": "It is half."}, "solution"),
        ("math", {**MATH_500, "answer": 3}, "answer"),
        ("arc", {**ADAPTERS, "instruction": "Which?"}, "instruction"),
        ("arc", {**ADAPTERS, "instruction": ADAPTERS["instruction"].replace("Answer2", "Option2")}, "instruction"),
        ("arc", {**ADAPTERS, "answer": "answer4"}, "answerKey"),
        ("arc", {**AI2, "answerKey": "B"}, "answerKey"),
        ("arc", {**AI2, "question": {"stem": "?"}}, "question.choices"),
        ("arc", {**AI2, "question": {"stem": "?", "choices": [{"text": "red"}]}}, "label"),
        ("arc", {**HF, "choices": {"text": list("abcdef"), "label": list("ABCDEF")}}, "choices"),
        ("arc", {**HF, "choices": {"text": ["a"], "label": ["A", "B"]}}, "choices"),
    ],
)
def test_an_odd_row_is_named(tmp_path: Path, layout: str, row: object, field: str) -> None:
    good = {
        "gsm8k": GSM8K,
        "math": MATH,
        "mbpp": MBPP,
        "mbpp_plus": MBPP_PLUS,
        "humaneval": {**HUMANEVAL, "task_id": "HumanEval/0"},
        "humaneval_plus": {**HUMANEVAL_PLUS, "task_id": "HumanEval/0"},
        "arc": AI2,
    }[layout]
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


DEEP = "[" * 100_000 + "]" * 100_000
ODD = {
    "deep": (DEEP, "nested too deeply"),
    "deep in a field": (f'{{"question": {DEEP}}}', "nested too deeply"),
    "half a pair": (r'{"question": "a \ud83d b", "answer": "#### 1"}', "half a surrogate pair, U\\+D83D"),
    "the other half": (r'{"question": "?", "answer": "\uDE00\n#### 1"}', "half a surrogate pair, U\\+DE00"),
    "in a name": (r'{"\udc00": 1}', "half a surrogate pair"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_json_is_refused_by_file_and_line(tmp_path: Path, name: str) -> None:
    line, reason = ODD[name]
    (tmp_path / "odd.jsonl").write_text(json.dumps(GSM8K) + "\n" + line + "\n")
    with pytest.raises(SourceError, match=rf"odd\.jsonl, line 2: not JSON \(.*{reason}"):
        load("gsm8k", tmp_path / "odd.jsonl")
    (tmp_path / "odd.json").write_text(f"[{line}]")
    with pytest.raises(SourceError, match=rf"odd\.json: not JSON \(.*{reason}"):
        load("gsm8k", tmp_path / "odd.json")
    (tmp_path / "items.jsonl").write_text('{"id": "1", "prompt": "?", "answer": "1"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"items\.jsonl, line 2: not an item \(.*{reason}"):
        read_items(tmp_path / "items.jsonl")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("text", [json.dumps(GSM8K), json.dumps([GSM8K])])
def test_a_byte_order_mark_is_read_over(tmp_path: Path, text: str, packed: bool) -> None:
    content = "\ufeff".encode() + text.encode()
    (tmp_path / "test.jsonl").write_bytes(gzip.compress(content) if packed else content)
    assert [item.answer for item in load("gsm8k", tmp_path / "test.jsonl")] == ["1200"]


def test_a_whole_surrogate_pair_is_a_character_and_items_may_have_a_mark(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(
        b'\xef\xbb\xbf{"id": "1", "prompt": "\\ud83d\\ude00 \\\\ud83d", "answer": "1"}\n'
    )
    (item,) = read_items(tmp_path / "items.jsonl")
    assert item.prompt == "\N{GRINNING FACE} \\ud83d"


def test_gsm8ks_small_and_long_numbers_are_graded_as_they_stand(tmp_path: Path) -> None:
    for number in ("0.0000001", "-123456789012345678901234567890", "1,000,000,000,000,000,000,000,000,000,000"):
        (item,) = load("gsm8k", lines(tmp_path / "test.jsonl", {"question": "?", "answer": f"#### {number}"}))
        assert grade("math", [item], [item.reply]) == [True]


def test_every_layout_has_a_version() -> None:
    assert set(sources.VERSIONS) == {*LAYOUTS, "miniature", "textvqa", "okvqa"}


HUB = HubSplit("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "train", "main")


def test_a_hub_data_set_without_the_library_or_the_network_says_what_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match=r"openai/gsm8k/main/train: .*pip install datasets.*`source\.train`"):
        load("gsm8k", HUB)


def test_a_hub_data_set_that_cannot_be_reached_says_what_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"openai/gsm8k/main/train at revision 740312a.*data/sources/README\.md"):
        load("gsm8k", HUB)


def test_rows_of_a_hub_data_set_are_read_like_those_of_a_file(tmp_path: Path) -> None:
    """The library reads a folder in a hub repository's form."""
    pytest.importorskip("datasets")
    lines(tmp_path / "test.jsonl", HF, {**HF, "id": "Q_3"})
    from_hub = load("arc", HubSplit(str(tmp_path), "main", "test"), "test")
    assert from_hub == load("arc", tmp_path / "test.jsonl")
    with pytest.raises(SourceError, match="row 1, field 'answer'"):
        load("gsm8k", HubSplit(str(tmp_path), "main", "test"))
    with pytest.raises(SourceError, match="not readable from the Hugging Face hub"):
        load("arc", HubSplit(str(tmp_path), "main", "train"))
