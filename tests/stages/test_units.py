"""Units of invalidation: which edit makes which stages due, and what a further row measures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_pipeline import copy_project, run, surroundings

SLOW = pytest.mark.slow
pytestmark = pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not on the PATH; run `make test`")

TRAINED = {"train@svf-reasoning", "train@classifier", "train@lora-reasoning"}
Edit = Callable[[Path], object]


def appended(name: str, text: str = "\n# A comment.\n") -> Edit:
    """An edit of a file: something at its end."""
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


def changed(change: Callable[[dict[str, Any]], object]) -> Edit:
    """An edit of the parameters."""

    def edit(folder: Path) -> None:
        params = yaml.safe_load((folder / "params.yaml").read_text())
        change(params)
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    return edit


def a_further_unseen_task(params: dict[str, Any]) -> None:
    params["tasks"]["math_hard"] = {
        **params["tasks"]["reasoning_hard"],
        "source": {"layout": "miniature", "family": "math_hard"},
        "family": "math",
        "reward": {**params["tasks"]["reasoning_hard"]["reward"], "kind": "math"},
    }


def a_further_adapter(params: dict[str, Any]) -> None:
    params["recipes"]["thin"] = json.loads(json.dumps(params["recipes"]["lora_next_token"]))
    params["recipes"]["thin"]["peft"]["r"] = 1
    params["adapters"]["thin-reasoning"] = {"base": "main", "recipe": "thin", "task": "reasoning"}


EDITS: dict[str, tuple[Edit, set[str]]] = {
    "a comment in configuration code": (appended("t2/config/checks.py"), set()),
    "a new key in configuration code": (appended("t2/config/rows.py", "\nFURTHER = 1\n"), set()),
    "a base's label": (
        changed(lambda params: params["bases"]["main"].update(label="mini")),
        {"measure", "publish", "report", "score", "split"},
    ),
    "statistics": (appended("t2/statistics.py"), {"score"}),
    "drawing": (appended("t2/report/figures.py"), {"report"}),
    "export": (appended("t2/exchange/export.py"), set()),
    "import": (appended("t2/exchange/reference.py"), set()),
    "the command line": (appended("t2/cli/ask.py"), set()),
    "the search's code": (appended("t2/adaptation/cem.py"), {"search@reasoning_hard"}),
    "a strategy": (appended("t2/adaptation/strategies.py"), {"measure", "publish"}),
    "a grader": (
        appended("t2/tasks/choice.py"),
        {"measure", "search@reasoning_hard", "split", *TRAINED},
    ),
    "the splits' code": (appended("t2/tasks/splits.py"), {"split"}),
    "where seeds come from": (appended("t2/seeds.py"), {"search@reasoning_hard", *TRAINED}),
    "a learning rate": (
        changed(lambda params: params["recipes"]["lora_next_token"]["train"].update(lr=1e-3)),
        {"train@lora-reasoning", "report", "score"},
    ),
    "a budget": (
        changed(lambda params: params["budgets"]["cem"].update(generations=3)),
        {"measure", "report", "search@reasoning_hard"},
    ),
    "a task's longest reply": (
        changed(lambda params: params["tasks"]["reasoning_hard"]["reward"].update(max_new_tokens=16)),
        {"measure", "publish", "report", "score", "search@reasoning_hard", "split"},
    ),
    "a member that is removed": (
        changed(lambda params: params["sets"]["published"]["members"].remove("classifier")),
        {"measure", "publish", "report", "score", "set@published"},
    ),
    "a further unseen task": (changed(a_further_unseen_task), {"measure", "publish", "report", "score", "split"}),
    "a further adapter outside of a set": (
        changed(a_further_adapter),
        {"measure", "report", "score", "train@thin-reasoning"},
    ),
    "where the work runs": (changed(lambda params: params["execution"].update(workers=1)), set()),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("project"))
    run(folder, "dvc", "repro", "-q")
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "own", symlinks=True))


def due(folder: Path) -> set[str]:
    """The stages that DVC calls changed."""
    return set(json.loads(run(folder, "dvc", "status", "--json").stdout))


@SLOW
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_due_what_it_can_change(own: Path, name: str) -> None:
    edit, expected = EDITS[name]
    edit(own)
    found = due(own)
    print(f"{name}: {', '.join(sorted(found)) or 'none'}")
    assert found == expected


def cells(folder: Path) -> dict[str, int]:
    """When each file of the measurement was made, in nanoseconds."""
    predictions = folder / "data" / "predictions"
    return {
        path.relative_to(predictions).as_posix(): path.stat().st_mtime_ns
        # What is written just now has another name until it is whole, and is gone then.
        for path in predictions.rglob("*")
        if path.is_file() and path.name != "cells.json" and path.suffix != ".tmp"
    }


@SLOW
def test_a_further_system_measures_its_own_cells_only(own: Path) -> None:
    before = cells(own)
    row = {"base": "main", "strategy": "adapter", "adapter": "classifier", "tasks": ["reasoning_hard"]}
    row |= {"label": "Classifier", "variant": "classifier"}
    changed(lambda params: params["systems"].update(single=row))(own)
    run(own, "dvc", "repro", "-q")
    after = cells(own)
    assert {name: after[name] for name in before} == before
    assert sorted(name.split("/")[0] for name in after.keys() - before.keys()) == ["flexible", "grades", "replies"]


@SLOW
def test_a_changed_grader_grades_again_and_generates_nothing(own: Path) -> None:
    before = cells(own)
    appended("t2/tasks/choice.py")(own)
    run(own, "dvc", "repro", "-q", "-s", "measure")
    after = cells(own)
    graded = ("grades/", "flexible/")
    kept = {name for name in before if not name.startswith(graded)}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert not {name for name in after if name.startswith(graded)} & before.keys()


@SLOW
def test_what_is_no_longer_named_is_dropped(own: Path) -> None:
    before = cells(own)
    changed(lambda params: params["systems"].pop("uniform"))(own)
    changed(lambda params: params["score"].update(contrasts=[]))(own)
    run(own, "dvc", "repro", "-q")
    assert cells(own).keys() <= before.keys()
    assert "uniform" not in (own / "reports" / "scores.csv").read_text()


@SLOW
def test_a_killed_measurement_keeps_its_finished_cells(own: Path) -> None:
    expected = {path: path.read_bytes() for path in (own / "data" / "predictions").rglob("*") if path.is_file()}
    shutil.rmtree(own / "data" / "predictions")
    command = [sys.executable, "-m", "dvc", "repro", "-q", "-s", "-f", "measure"]
    process = subprocess.Popen(command, cwd=own, env=surroundings(own), stderr=subprocess.DEVNULL)
    while len(cells(own)) < 3:
        assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()
    kept = cells(own)
    run(own, "dvc", "repro", "-q", "-s", "-f", "measure")
    after = cells(own)
    assert kept and {name: after[name] for name in kept} == kept
    found = {path: path.read_bytes() for path in (own / "data" / "predictions").rglob("*") if path.is_file()}
    assert found == expected
