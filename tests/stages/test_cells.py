"""What was measured lies on disk as it was, whole, under its key, and holds no item that adaptation saw."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from t2 import config
from t2.sandbox import Sandbox
from t2.stages import cells, members, paths
from t2.stages.cells import Cell, Reply
from t2.stages.measure import Plan, Worker, _runs, refuse_seen
from t2.tasks.item import Item

PARAMS = config.load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reply(id: str, text: str, too_long: bool = False) -> Reply:
    return Reply(id, "which", text, tokens=4, finished=True, too_long=too_long, prompt_tokens=9)


def test_replies_survive_the_disk_with_equal_bytes():
    replies = [reply("a", "été\n\u2028\x85"), reply("b", "", too_long=True)]
    cells.write_replies("one", replies)
    assert cells.read_replies("one") == replies
    cells.write_replies("two", cells.read_replies("one"))
    assert cells.replies_file("one").read_bytes() == cells.replies_file("two").read_bytes()


@pytest.mark.parametrize("line", ['{"id": "a"}', '{"id": ', "[1]"])
def test_a_line_that_is_no_reply_is_named(line):
    cells.write_replies("one", [reply("a", "x")])
    with open(cells.replies_file("one"), "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"one\.jsonl, line 2: no reply .*delete the file"):
        cells.read_replies("one")


def test_the_index_gives_back_the_cells_and_drops_files_that_none_names():
    measured = [
        Cell("base", "math", replies=("r",), grades=("g",)),
        Cell("prompt", "math", seed=1, replies=("r", "s"), grades=("g", "h"), rows=(0, 1, 0), categories="c"),
        Cell("prompt", "other", seed=1, categories="d"),
        Cell("fewshot", "math", seed=0, draw=2, replies=("s",), grades=("h",)),
    ]
    named = [cells.replies_file(key) for key in "rs"] + [
        file(key) for key in "gh" for file in (cells.grades_file, cells.flexible_file)
    ]
    named += [cells.categories_file(key) for key in "cd"]
    left = [cells.replies_file("old"), cells.categories_file("r"), cells.grades_file("r").with_name(".g.json.tmp")]
    for path in (*named, *left):
        cells.write_values(path, [])
    cells.write_index(measured)
    assert cells.read_index() == measured
    assert {path for path in paths.predictions().rglob("*") if path.is_file()} == {*named, cells.index_file()}


def test_seconds_lie_under_what_was_called_and_said_whoever_said_it():
    cell = Cell("prompt", "math", seed=0, replies=("r", "s"), grades=("g", "h"), categories="c")
    file = cells.timings_file(cell)
    assert file.parent == paths.timings()
    assert file == cells.timings_file(Cell("renamed", "math", replies=("r", "s"), categories="c"))
    assert file != cells.timings_file(Cell("prompt", "math", replies=("r", "t"), categories="c"))
    assert file != cells.timings_file(Cell("prompt", "math", replies=("r", "s"), categories="d"))


def test_an_item_that_a_search_saw_is_refused_by_name():
    items = [SimpleNamespace(id=f"math-{i}") for i in range(3)]
    with pytest.raises(ValueError, match=r"1 test item.*search light: math-1;"):
        refuse_seen(items, ["math-1", "math-9"], "light")
    refuse_seen(items, ["math-9"], "light")


def test_a_prompt_that_was_too_long_is_wrong_whatever_the_reply_says():
    items = [Item(f"q-{i}", "Which?", "A") for i in range(3)]
    replies = [
        reply("q-0", "the answer is (A)"),
        reply("q-1", "the answer is (A)", too_long=True),
        reply("q-2", "the answer is (B)"),
    ]
    cells.write_replies("r", replies)
    each = Plan("base", "reasoning", None, None, False, inputs={}, graders={})
    grades = Worker(PARAMS)._grades(each, "r", items, sandbox=None)
    assert cells.read_values(cells.grades_file(grades)) == [True, False, False]
    assert cells.read_values(cells.flexible_file(grades)) == [True, False, False]


def test_replies_of_another_form_are_right_by_the_flexible_reading_only():
    items = [Item(f"q-{i}", "Which?", "A") for i in range(4)]
    texts = ["(A) Tissues", "A", "the answer is (B), not (A)", "(A) Tissues"]
    cells.write_replies("r", [reply(f"q-{i}", text, too_long=i == 3) for i, text in enumerate(texts)])
    each = Plan("base", "reasoning", None, None, False, inputs={}, graders={})
    grades = Worker(PARAMS)._grades(each, "r", items, sandbox=None)
    assert cells.read_values(cells.grades_file(grades)) == [False] * 4
    assert cells.read_values(cells.flexible_file(grades)) == [True, True, False, False]


def test_grades_of_programs_name_the_walls_and_are_the_same_behind_all():
    items = [Item("q", "Write f.", "assert f(1) == 2")]
    cells.write_replies("r", [reply("q", "def f(x): return x + 1")])
    each = Plan("base", "code", None, None, False, inputs={}, graders={})
    with Sandbox(PARAMS.sandbox) as sandbox:
        grades = Worker(PARAMS)._grades(each, "r", items, sandbox)
        assert cells.read_values(cells.isolation_file(grades)) == sandbox.isolation
    assert cells.read_values(cells.grades_file(grades)) == [True]
    other = Plan("base", "reasoning", None, None, False, inputs={}, graders={})
    assert not cells.isolation_file(Worker(PARAMS)._grades(other, "r", items, sandbox=None)).exists()


@pytest.mark.parametrize("system", ["prompt", "classifier"])
def test_dispatchers_count_alike_on_prompts_that_no_expert_serves(system):
    """Else a confusion would weigh them by the number of seeds here, and once there."""
    for name in PARAMS.sets["svf"].members:
        members.write(name, PARAMS, {0: 0.5, 1: 0.5})
    row = PARAMS.systems[system]
    assert _runs(PARAMS, row, "other") == _runs(PARAMS, row, "math") == [(0, None), (1, None)]
