"""Stage ``benchmark``: every method on every task, on test items that no adaptation saw."""

from __future__ import annotations

import json

import pandas as pd

from t2.evaluation import compare, confusion, dispatch_accuracy, scores, write_csv, write_predictions
from t2.stages import paths
from t2.stages.measure import Measured, all_jobs
from t2.stages.progress import Progress
from t2.stages.stage import open_stage
from t2.stages.workers import run_jobs


def main() -> None:
    """Measures, keeps the predictions of every item, and writes scores, comparisons and confusions."""
    with open_stage("benchmark") as stage:
        params = stage.params
        jobs = all_jobs(params)
        progress = Progress("benchmark", len(jobs))
        results: dict[str, Measured] = run_jobs(
            jobs, at_once=params.execution.workers, on_report=lambda name, row: progress.advance(name)
        )
        for name, measured in results.items():
            write_predictions(paths.PREDICTIONS / f"{name.replace(' ', '_')}.jsonl", measured.measurements)
            stage.timings += measured.timings

        measurements = [m for measured in results.values() for m in measured.measurements]
        bases = [base.name for base in (params.base, params.control) if base is not None]
        tables = {
            "scores": scores(measurements, bases=bases, tasks=list(params.tasks)),
            "comparisons": compare(
                measurements,
                resamples=params.benchmark.bootstrap,
                seed=params.benchmark.seed,
                bases=bases,
                tasks=list(params.tasks),
            ),
            "confusions": confusion(measurements, params.categories),
        }
        for name, table in tables.items():
            write_csv(paths.REPORTS / f"{name}.csv", table)
            stage.run.log_table(table, name)
        summary = _means(tables["scores"], tables["confusions"])
        too_long = {m.task: sum(item.too_long for item in m.items) for m in measurements if m.base == params.base.name}
        metrics = {**summary, "too_long": too_long}
        (paths.REPORTS / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        stage.run.log_params({"benchmark": params.benchmark.model_dump()})
        dispatched = summary[params.base.name].get("dispatch", {})
        stage.run.log_metrics({f"dispatch_accuracy.{name}": value for name, value in dispatched.items()})
        for base in bases:
            # A run a system, with the same metric names, so that MLflow's Compare sets them side by side.
            for system in dict.fromkeys(name for task in params.tasks for name in summary[base][task]):
                scored = {task: summary[base][task].get(system) for task in params.tasks}
                run = stage.run.child(f"{base}/{system}", tags={"t2.base": base, "t2.system": system})
                run.log_params({"base": base, "system": system})
                run.log_metrics({f"test_score.{task}": score for task, score in scored.items()})


def _means(table: pd.DataFrame, confusions: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores over seeds and draws by base, task and system, and the dispatchers' accuracy."""
    keys = ["base", "task", "method", "strategy", "variant"]
    means: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.groupby(keys, sort=False)["score"].mean().reset_index().to_dict("records"):
        system = "-".join(filter(None, (row["method"], row["strategy"], row["variant"])))
        means.setdefault(row["base"], {}).setdefault(row["task"], {})[system] = round(row["score"], 6)
    for row in dispatch_accuracy(confusions).to_dict("records"):
        means[row["base"]].setdefault("dispatch", {})[row["dispatcher"]] = round(row["accuracy"], 6)
    return means


if __name__ == "__main__":
    main()
