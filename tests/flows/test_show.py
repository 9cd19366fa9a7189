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
    ("name", "key"), [("expert@math", "expert-math"), ("adapt@code_hard", "adapt-code-hard"), ("  A__b ", "a-b")]
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
    shutil.copytree(ROOT / "reports", project.folder / "reports")
    for draw, alpha in (("draw-0", {"math": 0.25, "code": 0.75}), ("draw-1", {"math": [0.5, 1.0], "code": [0.0, 0.5]})):
        folder = project.folder / "data" / "adaptation" / "math_hard" / draw
        folder.mkdir(parents=True)
        (folder / "alpha.json").write_text(json.dumps({"alpha": alpha, "accuracy": 0.5}))
    runs = project.folder / "data" / "runs"
    runs.mkdir()
    (runs / "adapt-math_hard.json").write_text(json.dumps({"run_id": "abc"}))
    code = "from flows.show import show_results; show_results(['report', 'adapt@math_hard'], 'http://head', '7')"
    project.python(code)
    found = {artifact["key"]: artifact for artifact in project.call("/artifacts/latest/filter", {})}
    with open(ROOT / "reports" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    table = json.loads(found["scores"]["data"])
    assert sum(row["runs"] for row in table) == len(rows)
    base = next(row for row in rows if row["method"] == "base" and row["strategy"] == "none")
    (shown,) = [row for row in table if all(row[name] == base[name] for name in ("base", "task", "method", "strategy"))]
    assert shown["score %"] == pytest.approx(100 * float(base["score"]), abs=0.05)
    assert json.loads(found["alpha"]["data"]) == [
        {"task": "math_hard", "draw": "draw-0", "shots right": 0.5, "math": 0.25, "code": 0.75},
        {"task": "math_hard", "draw": "draw-1", "shots right": 0.5, "math": 0.75, "code": 0.25},
    ]
    assert "data:image/svg+xml;base64," in found["report"]["data"] and "figures/" not in found["report"]["data"]
    assert found["mlflow-runs"]["data"] == "- [adapt@math_hard](http://head/#/experiments/7/runs/abc)"
