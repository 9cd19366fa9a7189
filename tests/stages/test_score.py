"""Scores stand in the order of the rows, under keys that come from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t2 import config
from t2.config.rows import Best
from t2.stages import cells, paths
from t2.stages.cells import Cell, Reply
from t2.stages.score import chosen, measurements, tabulate, too_long
from t2.statistics import Measurement, Prediction, readings

PARAMS = config.load(Path(__file__).parents[2] / "params.yaml")


def test_measurements_follow_the_order_of_bases_roles_tasks_systems_seeds_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells.write_replies("r", [Reply("a", "which", "x", 1, True, False, 9)])
    cells.write_values(cells.grades_file("g"), [True])
    cells.write_values(cells.flexible_file("g"), [True])
    wanted = [
        ("base", "math", None, None),
        ("svf", "math", 0, None),
        ("svf", "math", 1, None),
        ("base", "code", None, None),
        ("base", "math_hard", None, None),
        ("fewshot", "math_hard", 0, 1),
        ("fewshot", "math_hard", 1, 0),
        ("math-expert", "code_hard", 0, None),
        ("control", "math", None, None),
        ("control-svf", "math", 0, None),
    ]
    measured = [Cell(*key, replies=("r",), grades=("g",)) for key in wanted]
    found = measurements(PARAMS, measured[::-1])
    labels = {row.label: name for name, row in PARAMS.bases.items()}
    assert [(labels[m.base], m.task, m.system, m.seed, m.draw) for m in found] == [
        (PARAMS.systems[name].base, task, PARAMS.key_of(name), seed, draw) for name, task, seed, draw in wanted
    ]


def test_readings_stand_beside_each_other_with_the_share_of_replies_that_were_cut_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replies = [
        Reply("a", "which", "#### 1", 3, True, False, 9),
        Reply("b", "which", "1", 1, True, False, 9),
        Reply("c", "which", "1 and", 9, False, False, 9),
    ]
    cells.write_replies("r", [*replies, Reply("d", "which", "", 0, False, True, 9)])
    cells.write_values(cells.grades_file("g"), [True, False, False, False])
    cells.write_values(cells.flexible_file("g"), [True, True, False, False])
    (row,) = readings(measurements(PARAMS, [Cell("base", "math", replies=("r",), grades=("g",))])).to_dict("records")
    assert (row["n"], row["strict"], row["flexible"], row["cut_off"]) == (4, 0.25, 0.5, 0.25)


@pytest.mark.parametrize("by", ["test", "rest"])
def test_the_best_of_several_is_chosen_by_task_seed_and_draw(tmp_path: Path, monkeypatch, by: str) -> None:
    """What the test questions say differs in each from what the rest of the pool says; of equals the first is it."""
    monkeypatch.chdir(tmp_path)
    best = Best(label="b, oracle", base="main", strategy="best", systems=["fewshot", "random"], by=by, variant="")
    params = PARAMS.model_copy(update={"systems": {**PARAMS.systems, "best": best}})
    right = {
        ("fewshot", 0): 1,
        ("random", 0): 2,
        ("fewshot", 1): 1,
        ("random", 1): 1,
        ("fewshot", 2): 2,
        ("random", 2): 0,
    }
    rest = {
        ("fewshot", 0): 0.5,
        ("random", 0): 0.4,
        ("fewshot", 1): 0.3,
        ("random", 1): 0.6,
        ("fewshot", 2): 0.5,
        ("random", 2): 0.5,
    }
    found = []
    for (system, seed), count in right.items():
        key = f"{system}-{seed}"
        cells.write_replies(key, [Reply(id, "which", key, 1, True, False, 9) for id in "ab"])
        for file in (cells.grades_file, cells.flexible_file):
            cells.write_values(file(key), [count > 0, count > 1])
        search = params.systems[system].searches[0]
        file = paths.search(search, seed, 1) / "alpha.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"rest_score": rest[system, seed]}))
        found.append(Cell(system, "math_hard", seed, 1, replies=(key,), grades=(key,)))
    found.append(Cell("fewshot", "math_hard", 3, 1, replies=("fewshot-0",), grades=("fewshot-0",)))  # not of both
    scored = [m for m in measurements(params, found) if m.strategy == "best"]
    assert [(m.task, m.seed, m.draw, m.method) for m in scored] == [("math_hard", seed, 1, "svf") for seed in range(3)]
    expected = {"test": ["random-0", "fewshot-1", "fewshot-2"], "rest": ["fewshot-0", "random-1", "fewshot-2"]}[by]
    assert [cell.replies for cell in chosen(params, found)] == [(key,) for key in expected]
    assert [sum(item.correct for item in m.items) for m in scored] == [
        right[key[:-2], int(key[-1])] for key in expected
    ]


def test_a_systems_key_is_its_adapters_method_its_strategy_and_variant():
    keys = {name: PARAMS.key_of(name) for name in ("base", "lora", "classifier", "math-expert", "control-svf")}
    assert keys == {
        "base": ("base", "none", ""),
        "lora": ("lora", "own", "next_token"),
        "classifier": ("svf", "classifier", ""),
        "math-expert": ("svf", "adapter", "math"),
        "control-svf": ("svf", "own", ""),
    }


def test_prompts_that_are_too_long_count_once_however_many_bases_and_systems_there_are():
    items = (Prediction("a", False, too_long=True), Prediction("b", True))
    measured = [
        Measurement(base, "trained", "math", "math", method, strategy, items=items)
        for base in ("miniature", "control")
        for method, strategy in (("base", "none"), ("svf", "own"))
    ]
    assert too_long(PARAMS, measured) == {"math": 1}


def test_a_category_that_is_not_offered_counts_among_no_recalls():
    asked = [
        Measurement("miniature", suite, task, family, "svf", "prompt", items=(first, second))
        for suite, task, family, first, second in (
            ("trained", "math", "math", Prediction("a", True, "math"), Prediction("b", True, "math")),
            ("unseen", "seen", "vision", Prediction("c", True, "code"), Prediction("d", True, "math")),
        )
    ]
    tables = tabulate(PARAMS, asked)
    recalls = {row["category"]: row["value"] for row in tables["dispatch"].to_dict("records")}
    assert recalls == {"balanced": 1.0, "math": 1.0}
    assert tables["confusions"].query("truth == 'vision' and predicted == 'code'")["count"].tolist() == [1]
