"""What a finished run shows in the Prefect UI: score table, report with figures, α, links to MLflow."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from t2.stages import paths

REPORTS = Path("reports")
ADAPTATION = Path("data/adaptation")
MLFLOW_UI = "http://127.0.0.1:5000"
"""Where `make ui` shows the store."""

_PICTURE = re.compile(r"!\[([^\]]*)\]\(figures/([\w.-]+)\.svg\)")


def slug(name: str) -> str:
    """A name as an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def mlflow_run_address(store: str, experiment_id: str, run_id: str) -> str:
    """Where MLflow shows a run: on the server that keeps it, or by `make ui`."""
    base = store if store.startswith(("http://", "https://")) else MLFLOW_UI
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def show_results(ran: Sequence[str], store: str, experiment_id: str) -> None:
    """Publishes what the stages that ran have changed.

    Args:
        ran: Names of the stages that were executed.
        store: MLflow's address, for the links.
        experiment_id: MLflow's.
    """
    if {"benchmark", "report"} & set(ran):
        show_scores()
        show_report()
    if any(name.startswith("adapt@") for name in ran):
        show_alphas()
    if ran:
        show_mlflow_runs(ran, store, experiment_id)


def show_scores() -> None:
    """``reports/scores.csv``, a row a system and task: means over seeds and draws."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO((REPORTS / "scores.csv").read_text())):
        key = tuple(row[name] for name in ("base", "suite", "task", "method", "strategy", "variant"))
        groups.setdefault(key, []).append(row)
    table = [
        {
            **dict(zip(("base", "suite", "task", "method", "strategy", "variant"), key, strict=True)),
            "n": int(rows[0]["n"]),
            "runs": len(rows),
            "score %": round(100 * sum(float(row["score"]) for row in rows) / len(rows), 1),
        }
        for key, rows in groups.items()
    ]
    create_table_artifact(table, key="scores", description="Accuracy, mean over seeds or draws (reports/scores.csv).")


def show_report() -> None:
    """``reports/report.md`` with its figures inside."""

    def inside(found: re.Match[str]) -> str:
        data = (REPORTS / "figures" / f"{found[2]}.svg").read_bytes()
        return f"![{found[1]}](data:image/svg+xml;base64,{base64.b64encode(data).decode()})"

    text = _PICTURE.sub(inside, (REPORTS / "report.md").read_text())
    create_markdown_artifact(text, key="report", description="The report of the last run (reports/report.md).")


def show_alphas() -> None:
    """The mixing weights of every draw of every unseen task."""
    table = []
    for path in sorted(ADAPTATION.glob("*/draw-*/alpha.json")):
        found = json.loads(path.read_text())
        weights = {name: _mean(value) for name, value in found["alpha"].items()}
        table.append({"task": path.parts[-3], "draw": path.parts[-2], "shots right": found["accuracy"], **weights})
    create_table_artifact(table, key="alpha", description="Mixing weights α found by few-shot search.")


def show_mlflow_runs(ran: Sequence[str], store: str, experiment_id: str) -> None:
    """Links to the MLflow runs of the executed stages."""
    records = {name: paths.run(name) for name in ran}
    run_ids = {name: json.loads(path.read_text())["run_id"] for name, path in records.items() if path.is_file()}
    lines = [f"- [{name}]({mlflow_run_address(store, experiment_id, run_id)})" for name, run_id in run_ids.items()]
    create_markdown_artifact(
        "\n".join(lines),
        key="mlflow-runs",
        description="The MLflow runs of the executed stages; `make ui` serves them.",
    )


def _mean(value: float | list[float]) -> float:
    """A weight, or the mean of one a layer."""
    return round(sum(value) / len(value) if isinstance(value, list) else value, 4)
