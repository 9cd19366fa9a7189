"""Scores stand in the order of the rows, under keys that come from them."""

from __future__ import annotations

from pathlib import Path

from t2 import config
from t2.stages import cells
from t2.stages.cells import Cell, Reply
from t2.stages.score import measurements, tabulate, too_long
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
