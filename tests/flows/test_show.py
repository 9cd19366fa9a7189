"""What a run shows in the Prefect UI, made from the committed reports; the server's own copy is read back."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import Project

from flows import show

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "key"),
    [("train@svf-math", "train-svf-math"), ("search@code_hard", "search-code-hard"), ("  A__b ", "a-b")],
)
def test_keys_hold_what_prefect_allows(name: str, key: str) -> None:
    assert show.slug(name) == key


@pytest.mark.parametrize(
    ("store", "address"),
    [
        ("sqlite:////x/mlflow.db", "http://127.0.0.1:5000/#/experiments/3/runs/ab"),
        ("http://head:5001/", "http://head:5001/#/experiments/3/runs/ab"),
    ],
)
def test_runs_are_linked_where_they_are_shown(store: str, address: str) -> None:
    assert show.mlflow_run_address(store, "3", "ab") == address


def test_the_results_of_a_run_become_artifacts(project: Project) -> None:
    shutil.copytree(ROOT / "reports", project.folder / "reports", dirs_exist_ok=True)
    alphas = {
        "first": {0: {"math": 0.25, "code": 0.75}, 1: {"math": [0.5, 1.0], "code": [0.0, 0.5]}},
        "gone": {0: {"math": 1.0}},  # on disk, but no stage any more
        "second": {0: {"math": 0.5, "base": 0.5}},
    }
    data = project.folder / "data"
    for search, draws in alphas.items():
        for draw, alpha in draws.items():
            folder = data / "searches" / search / "seed-2" / f"draw-{draw}"
            folder.mkdir(parents=True)
            (folder / "alpha.json").write_text(json.dumps({"alpha": alpha, "accuracy": 0.5}))
    for path, run_id in ((data / "runs" / "search-first.json", "abc"), (data / "report" / "run.json", "def")):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"run_id": run_id}))
    code = """
from flows.dag import Stage
from flows.show import show_results
made = {
    "search@first": ["data/searches/first", "data/runs/search-first.json"],
    "search@second": ["data/searches/second", "data/runs/search-second.json"],
    "score": ["reports/scores.csv"],
    "report": ["data/report", "reports/report.md"],
}
stages = {name: Stage(name, "dvc.yaml", frozenset(), False, tuple(outs), (), ()) for name, outs in made.items()}
show_results(stages, ["search@first", "score", "report"], "http://head", "7")
"""
    project.python(code)
    found = {artifact["key"]: artifact for artifact in project.call("/artifacts/latest/filter", {})}
    with open(ROOT / "reports" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    table = json.loads(found["scores"]["data"])
    assert sum(row["runs"] for row in table) == len(rows)
    base = next(row for row in rows if row["method"] == "base" and row["strategy"] == "none")
    (shown,) = [row for row in table if all(row[name] == base[name] for name in ("base", "task", "method", "strategy"))]
    assert shown["score %"] == pytest.approx(100 * float(base["score"]), abs=0.05)
    first = {"search": "first", "seed": 2, "shots right": 0.5, "base": None}
    assert json.loads(found["alpha"]["data"]) == [
        {**first, "draw": 0, "math": 0.25, "code": 0.75},
        {**first, "draw": 1, "math": 0.75, "code": 0.25},
        {"search": "second", "seed": 2, "draw": 0, "shots right": 0.5, "math": 0.5, "code": None, "base": 0.5},
    ]
    assert "data:image/svg+xml;base64," in found["report"]["data"] and "figures/" not in found["report"]["data"]
    assert found["mlflow-runs"]["data"].splitlines() == [
        "- [search@first](http://head/#/experiments/7/runs/abc)",
        "- [report](http://head/#/experiments/7/runs/def)",
    ]


def test_the_artifacts_of_an_experiment_folder_have_keys_of_their_own(project: Project) -> None:
    shutil.copytree(ROOT / "reports", project.folder / "reports" / "x", dirs_exist_ok=True)
    code = """
from flows.dag import Stage
from flows.show import show_results
name = "reports/x/dvc.yaml:score"
stage = Stage(name, "reports/x/dvc.yaml", frozenset(), False, ("reports/x/scores.csv",), (), ())
show_results({name: stage}, [name], "http://head", "7")
"""
    project.python(code)
    assert "x-scores" in {artifact["key"] for artifact in project.call("/artifacts/latest/filter", {})}
