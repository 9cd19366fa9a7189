"""The results that ship: audited, and their intervals found again on another route. Skipped where no run is here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from t2 import config
from t2.audit import audit
from t2.miniature import word_problems
from t2.miniature.corpus import read_prompts
from t2.miniature.words import NAMES, THINGS
from t2.stages import cells, paths
from t2.stages.report import report_inputs
from t2.stages.score import measurements
from t2.statistics import BASE, Measurement
from t2.svf import load_expert
from t2.tasks.grading import grade
from t2.tasks.item import read_items
from t2.tasks.prompt import question

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "data" / "predictions" / "cells.json").exists(),
    reason="no finished run is here; `make repro` makes one",
)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_nothing_that_is_shown_is_wrong() -> None:
    assert [finding for finding in audit(config.load()) if finding.wrong] == []


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "reports").glob("*/params.yaml")))
def test_nothing_that_a_folder_shows_is_wrong(folder: Path) -> None:
    if not (folder / "data" / "predictions" / "cells.json").exists():
        pytest.skip(f"{folder.name} has not run here; `make table NAME={folder.name}` runs it")
    params = config.load(folder / "params.yaml", main="params.yaml")
    with paths.within(folder.relative_to(ROOT), params.taken):
        assert [finding for finding in audit(params) if finding.wrong] == []


def test_the_card_says_how_many_test_questions_are_old_but_for_their_names() -> None:
    """Without the names of people, things, shapes, unknowns and functions, a question may stand in what was read."""
    nouns = {noun for some in word_problems._NOUNS.values() for noun in some}
    letters = {letter for pair in word_problems._UNKNOWNS for letter in pair}
    longest = sorted({*NAMES, *THINGS, *nouns, *letters}, key=len, reverse=True)
    named = re.compile(rf"(?<![a-z])({'|'.join(longest)})(?![a-z])".lower())

    def nameless(question: str) -> str:
        seen: dict[str, str] = {}
        without = re.sub(r"\bdef [a-z]+", "def f", question.lower())
        return named.sub(lambda found: seen.setdefault(found[0], f"#{len(seen)}"), without)

    folder = Path("data/miniature")
    read = {nameless(question) for question in read_prompts(folder / "pretraining_prompts.txt.xz")}
    card = (folder / "README.md").read_text(encoding="utf-8")
    said = {task: int(share) for share, task in re.findall(r"(\d+) % of `(\w+)`", card)}
    found = {}
    for task in said:
        items = read_items(paths.split(task, "test"))
        found[task] = round(100 * sum(nameless(item.question) in read for item in items) / len(items))
    assert len(said) == 7 and said == found


def test_intervals_are_those_of_an_analysis_of_variance() -> None:
    """Sums of squares of the long table of all replies, as a textbook has them."""
    params = config.load()
    rows = [
        (m.base, m.task, _name(m), m.seed, m.draw, item.id, float(item.correct))
        for m in measurements(params, cells.read_index())
        if m.suite != "other"
        for item in m.items
    ]
    replies = pd.DataFrame(rows, columns=["base", "task", "system", "seed", "draw", "item", "right"])
    keys = ["base", "task", "system", "seed", "item"]
    of_seeds = replies.groupby(keys, dropna=False)["right"].mean().reset_index()
    compared = pd.read_csv("reports/comparisons.csv")
    checked = 0
    for row in compared.to_dict("records"):
        here = of_seeds[(of_seeds["base"] == row["base"]) & (of_seeds["task"] == row["task"])]
        left = here[here["system"] == row["left"]].pivot(index="seed", columns="item", values="right")
        right = here[here["system"] == row["right"]].pivot(index="seed", columns="item", values="right")
        if len(left) < 2 or not (len(right) == 1 or left.index.equals(right.index)):
            continue
        table = left.to_numpy() - right[left.columns].to_numpy()
        value, low, high = _interval(table)
        assert (row["difference"], row["ci_low"], row["ci_high"]) == pytest.approx((value, low, high), abs=2e-6)
        checked += 1
    assert checked > 50


def _name(m: Measurement) -> str:
    return BASE if m.method == BASE else "/".join(filter(None, m.system))


def _interval(table: np.ndarray) -> tuple[float, float, float]:
    runs, questions = table.shape
    long = pd.DataFrame(table).stack().rename_axis(["run", "question"]).rename("value").reset_index()
    grand = long["value"].mean()
    of_run, of_question = (long.groupby(name)["value"].transform("mean") for name in ("run", "question"))
    ss_runs, ss_questions = ((of - grand).pow(2).sum() for of in (of_run, of_question))
    ss_errors = (long["value"] - of_run - of_question + grand).pow(2).sum()
    ms_runs, ms_questions = ss_runs / (runs - 1), ss_questions / (questions - 1)
    ms_errors = ss_errors / ((runs - 1) * (questions - 1))
    variance = (ms_questions + max(ms_runs - ms_errors, 0.0)) / (runs * questions)
    cautious = ms_questions + max(2 * ms_runs - ms_errors, 0.0)
    terms = (2 * ms_runs) ** 2 / (runs - 1) + ms_questions**2 / (questions - 1)
    terms += ms_errors**2 / ((runs - 1) * (questions - 1))
    if variance == 0:
        return grand, grand, grand
    half = stats.t.ppf(0.975, cautious**2 / terms) * np.sqrt(variance)
    return grand, grand - half, grand + half


def test_no_setting_of_the_search_is_told_apart_from_the_default() -> None:
    """As docs/tuning.md says: paired by task and seed, on items that no search has seen."""
    found = pd.read_csv("reports/search_settings/searches.csv")
    found["setting"] = found["search"].str.rsplit("-", n=1).str[0]
    scores = found.pivot_table(index="seed", columns="setting", values="rest_score")
    assert scores.shape == (5, 7)
    for setting in scores.columns.drop("default"):
        gains = scores[setting] - scores["default"]
        reach = stats.t.ppf(0.975, len(gains) - 1) * gains.std() / len(gains) ** 0.5
        assert abs(gains.mean()) < reach, setting


def test_replies_and_changes_that_are_shown_are_those_of_cells_and_experts() -> None:
    params = config.load()
    shown = report_inputs(params)
    asked = {question(item.prompt): item for item in read_items(paths.split("math", "test"))}
    math = shown.replies[shown.replies["task"] == "math"]
    right = [grade("math", [asked[row.question]] * 2, [row.before, row.after]) for row in math.itertuples()]
    assert right == [[not gained, gained] for gained in math["gained"]]
    assert math["gained"].tolist() == [True] * 3 + [False] * 3
    experts = [load_expert(paths.adapter("svf-math", seed)).z for seed in params.recipes["svf"].seeds]
    name = next(name for name in experts[0] if name.endswith("layers.3.mlp.down_proj"))
    mean = float(sum((z[name].double() - 1).abs().mean() for z in experts) / len(experts))
    assert shown.changes.set_index(["adapter", "layer", "module"])["change"]["svf-math", 3, "down_proj"] == (
        pytest.approx(mean)
    )
