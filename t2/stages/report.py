"""Stage ``report``: tables and figures from score files, and what only it may know: run ids and seconds."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from t2.config.rows import Params
from t2.files import read_csv, write_csv
from t2.report.page import ReportInputs, write_report
from t2.report.systems import label_of, systems_of
from t2.stages import cells, paths
from t2.stages.stage import open_stage

CARD = Path("data/miniature/README.md")
"""What a reader must know about the embedded base models before the figures."""


def main() -> None:
    """Writes ``reports/``."""
    with open_stage("report") as stage:
        params = stage.params
        scores, readings, comparisons, confusions = (
            read_csv(paths.scores() / f"{name}.csv") for name in ("scores", "readings", "comparisons", "confusions")
        )
        metrics = json.loads((paths.reports() / "metrics.json").read_text())
        records = [json.loads(path.read_text()) for path in sorted(paths.runs().glob("*.json"))]
        runs, timings = _runs(records), _timings(params)
        write_csv(paths.reports() / "runs.csv", runs)
        write_csv(paths.reports() / "timings.csv", timings)
        inputs = ReportInputs(
            base=next(iter(params.bases.values())).label,
            systems=systems_of(params),
            scores=scores,
            readings=readings,
            comparisons=comparisons,
            timings=timings,
            histories=_histories(params),
            confusions=confusions,
            alphas=_alphas(params),
            runs=runs,
            notes=[*notes(params), too_long(params, metrics), *isolation(records)],
        )
        write_report(inputs, paths.reports())
        # A clean clone holds reports/ in git; this copy, which it does not hold, makes DVC run the stage there.
        paths.report().mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.reports() / "report.html", paths.report())
        stage.run.log_table(scores, "scores")
        stage.run.log_files([paths.reports() / "report.html", paths.reports() / "report.md"])


def notes(params: Params) -> list[str]:
    """The paragraphs of :data:`CARD`, where the main base model is one of those that it is about."""
    main = next(iter(params.bases.values()))
    return CARD.read_text(encoding="utf-8").strip().split("\n\n") if CARD.parent in Path(main.path).parents else []


def too_long(params: Params, metrics: dict[str, Any]) -> str:
    """How many test prompts of each task left no room for a reply in the base model's context."""
    counts: dict[str, int] = metrics["too_long"]
    found = [f"{count} of {params.tasks[task].sizes.test} on {task}" for task, count in counts.items() if count]
    if not found:
        return "No test prompt was too long for the context of the base model."
    return f"Test prompts too long for the context of the base model, scored as wrong: {', '.join(found)}."


def isolation(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Behind which walls each stage's programs were graded, in a paragraph; none where no program was.

    Args:
        records: The stages' run files.
    """
    stages: dict[str, list[str]] = {}
    for record in records:
        for walls in record.get("isolation", []):  # stages that are not due keep run files of earlier versions
            stages.setdefault(walls, []).append(record["stage"])
    told = "; ".join(f"`{walls}` in {', '.join(names)}" for walls, names in sorted(stages.items()))
    return [f"Generated programs were graded behind these walls of the sandbox: {told}."] if told else []


def _runs(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Run ids and seconds of all stages but this."""
    rows = [[record["stage"], record["run_id"], record["seconds"]["stage"]] for record in records]
    return pd.DataFrame(rows, columns=["stage", "run_id", "seconds"])


def _timings(params: Params) -> pd.DataFrame:
    """Seconds of both passes, by system and task in the order of the cells."""
    columns = ["n", "first_seconds", "second_seconds"]
    rows = []
    for cell in cells.read_index():
        if (path := cells.timings_file(cell)).exists():
            system, seconds = params.systems[cell.system], cells.read_values(path)
            base = params.bases[system.base].label
            rows.append([base, system.label, cell.task, *(seconds[name] for name in columns)])
    return pd.DataFrame(rows, columns=["base", "system", "task", *columns])


def _histories(params: Params) -> pd.DataFrame:
    """The learning curves of every adapter."""
    frames = []
    for name, row in params.adapters.items():
        base, label = params.bases[row.base].label, label_of(params, name)
        for seed in params.recipes[row.recipe].seeds:
            history = read_csv(paths.adapter(name, seed) / "history.csv")
            frames.append(history.assign(base=base, label=label, adapter=name, task=row.task, seed=seed))
    return pd.concat(frames, ignore_index=True)


def _alphas(params: Params) -> pd.DataFrame:
    """The α of every search, seed and draw; weights of several layers as their mean."""
    rows = []
    for name, search in params.searches.items():
        members = {member: params.adapters[member] for member in params.sets[search.set].members}
        repeated = Counter(row.task for row in members.values())
        # A task is shorter than its adapter's name, where it tells members apart.
        labels = {member: row.task if repeated[row.task] == 1 else member for member, row in members.items()}
        base, seeds = params.bases[search.base].label, params.recipes[next(iter(members.values())).recipe].seeds
        for seed in seeds:
            for draw in range(params.budgets[search.budget].draws):
                alpha = json.loads((paths.search(name, seed, draw) / "alpha.json").read_text())["alpha"]
                for member in [*members, *(other for other in alpha if other not in members)]:
                    value = alpha[member]
                    mean = fmean(value) if isinstance(value, list) else value
                    rows.append([base, name, search.task, seed, draw, labels.get(member, member), mean])
    return pd.DataFrame(rows, columns=["base", "search", "task", "seed", "draw", "expert", "alpha"])


if __name__ == "__main__":
    main()
