"""Stage ``report``: tables and figures from score files, and what only it may know: run ids and seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from t2.evaluation import read_csv, write_csv

from t2.config.rows import Params
from t2.report.page import ReportInputs, write_report
from t2.stages import paths
from t2.stages.stage import open_stage


def main() -> None:
    """Writes ``reports/``."""
    with open_stage("report") as stage:
        params = stage.params
        records = [json.loads(path.read_text()) for path in sorted(paths.RUNS.glob("*.json"))]
        runs = pd.DataFrame(
            [{"stage": r["stage"], "run_id": r["run_id"], "seconds": r["seconds"]["stage"]} for r in records]
        )
        timings = pd.DataFrame([row for record in records for row in record["timings"]])
        write_csv(paths.REPORTS / "runs.csv", runs)
        write_csv(paths.REPORTS / "timings.csv", timings)
        scores = read_csv(paths.REPORTS / "scores.csv")
        inputs = ReportInputs(
            base=params.base.name,
            scores=scores,
            comparisons=read_csv(paths.REPORTS / "comparisons.csv"),
            timings=timings,
            histories=_histories(params),
            confusions=read_csv(paths.REPORTS / "confusions.csv"),
            alphas=_alphas(params),
            runs=runs,
            notes=[*notes(params), too_long(params, json.loads((paths.REPORTS / "metrics.json").read_text()))],
        )
        write_report(inputs, paths.REPORTS)
        # A clean clone holds reports/ in git; this copy, which it does not hold, makes DVC run the stage there.
        paths.REPORT.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.REPORTS / "report.html", paths.REPORT)
        stage.run.log_table(scores, "scores")
        stage.run.log_files([paths.REPORTS / "report.html", paths.REPORTS / "report.md"])


def notes(params: Params) -> list[str]:
    """What a reader must know about a local base model before the figures: its README's paragraphs."""
    card = Path(params.base.path).parent / "README.md"
    return card.read_text(encoding="utf-8").strip().split("\n\n") if card.is_file() else []


def too_long(params: Params, metrics: dict[str, Any]) -> str:
    """How many test prompts of each task left no room for a reply in the base model's context."""
    counts: dict[str, int] = metrics["too_long"]
    found = [f"{count} of {params.tasks[task].sizes.test} on {task}" for task, count in counts.items() if count]
    if not found:
        return "No test prompt was too long for the context of the base model."
    return f"Test prompts too long for the context of the base model, scored as wrong: {', '.join(found)}."


def _histories(params: Params) -> pd.DataFrame:
    """The learning curves of every adapter."""
    folders = {
        **{(params.base, task, "svf", ""): paths.EXPERTS / task for task in params.trained},
        **{
            (params.base, task, recipe.method, variant.removeprefix(f"{recipe.method}_")): paths.BASELINES
            / variant
            / task
            for variant, recipe in params.baselines.items()
            for task in params.trained
        },
    }
    frames = []
    for (base, task, method, variant), folder in folders.items():
        for seed in params.training.seeds:
            history = read_csv(paths.seed(folder, seed) / "history.csv")
            frames.append(history.assign(base=base.name, task=task, method=method, variant=variant, seed=seed))
    return pd.concat(frames, ignore_index=True)


def _alphas(params: Params) -> pd.DataFrame:
    """The α of every draw; weights of several layers as their mean."""
    rows = []
    for task in params.unseen:
        for draw in range(params.adaptation.draws):
            found = json.loads((paths.draw(task, draw) / "alpha.json").read_text())["alpha"]
            for expert, value in found.items():
                mean = sum(value) / len(value) if isinstance(value, list) else value
                rows.append([params.base.name, task, draw, expert, mean])
    return pd.DataFrame(rows, columns=["base", "task", "draw", "expert", "alpha"])


if __name__ == "__main__":
    main()
