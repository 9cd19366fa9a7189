"""What a finished run shows in the Prefect UI: score table, report with figures, α, links to MLflow."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.dag import Stage
from t2.stages import paths

MLFLOW_UI = "http://127.0.0.1:5000"
"""Where `make ui` shows the store."""

_SYSTEM = ("base", "suite", "task", "method", "strategy", "variant")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(figures/([\w.-]+)\.svg\)")


def slug(name: str) -> str:
    """A name as an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def mlflow_run_address(store: str, experiment_id: str, run_id: str) -> str:
    """Where MLflow shows a run: on the server that keeps it, or by `make ui`."""
    base = store if store.startswith(("http://", "https://")) else MLFLOW_UI
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def show_results(stages: Mapping[str, Stage], ran: Collection[str], store: str, experiment_id: str) -> None:
    """Publishes what the stages that ran have made.

    Args:
        stages: The stages of the flow, by name.
        ran: Names of those that were executed.
        store: MLflow's address, for the links.
        experiment_id: MLflow's.
    """
    for name in ran:
        for out in map(Path, stages[name].outs):
            if out.name == "scores.csv":
                show_scores(out, _prefix(stages[name]))
            elif out.name == "report.md":
                show_report(out, _prefix(stages[name]))
    searches = [stage for stage in stages.values() if _kind(stage) == "search"]
    if {stage.name for stage in searches} & set(ran):
        show_alphas(searches, _prefix(searches[0]))
    if ran:
        show_mlflow_runs([stages[name] for name in ran], store, experiment_id)


def show_scores(path: Path, prefix: str = "") -> None:
    """A row per system and task of a table of scores: means over seeds and draws."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(path.read_text())):
        groups.setdefault(tuple(row[name] for name in _SYSTEM), []).append(row)
    table = [
        {
            **dict(zip(_SYSTEM, key, strict=True)),
            "n": int(rows[0]["n"]),
            "runs": len(rows),
            "score %": round(100 * sum(float(row["score"]) for row in rows) / len(rows), 1),
        }
        for key, rows in groups.items()
    ]
    create_table_artifact(table, key=f"{prefix}scores", description=f"Accuracy, mean over seeds or draws ({path}).")


def show_report(path: Path, prefix: str = "") -> None:
    """A report with its figures inside."""

    def inside(found: re.Match[str]) -> str:
        data = (path.parent / "figures" / f"{found[2]}.svg").read_bytes()
        return f"![{found[1]}](data:image/svg+xml;base64,{base64.b64encode(data).decode()})"

    text = _PICTURE.sub(inside, path.read_text())
    create_markdown_artifact(text, key=f"{prefix}report", description=f"The report of the last run ({path}).")


def show_alphas(searches: Sequence[Stage], prefix: str = "") -> None:
    """The mixing weights that each search found, per seed of the adapters and draw of the shots."""
    table: list[dict[str, Any]] = []
    for stage in searches:
        for path in sorted(found for out in stage.outs for found in Path(out).glob("seed-*/draw-*/alpha.json")):
            found = json.loads(path.read_text())
            seed, draw = (int(part.partition("-")[2]) for part in path.parts[-3:-1])
            weights = {name: _mean(value) for name, value in found["alpha"].items()}
            table.append(
                {"search": _row(stage), "seed": seed, "draw": draw, "shots right": found["accuracy"], **weights}
            )
    # Sets of different members: every row has every column.
    columns = dict.fromkeys(name for row in table for name in row)
    table = [{name: row.get(name) for name in columns} for row in table]
    create_table_artifact(table, key=f"{prefix}alpha", description="Mixing weights α found by the searches.")


def show_mlflow_runs(ran: Sequence[Stage], store: str, experiment_id: str) -> None:
    """Links to the MLflow runs of the executed stages."""
    run_ids = {stage.name: run_id for stage in ran if (run_id := _run_id(stage))}
    lines = [f"- [{name}]({mlflow_run_address(store, experiment_id, run_id)})" for name, run_id in run_ids.items()]
    create_markdown_artifact(
        "\n".join(lines),
        key="mlflow-runs",
        description="The MLflow runs of the executed stages; `make ui` serves them.",
    )


def _run_id(stage: Stage) -> str | None:
    """The id that a stage wrote into its run file, which is one of its outs or lies in one."""
    name = paths.run(stage.key).name
    for out in map(Path, stage.outs):
        path = out if out.name == name else out / name
        if path.is_file():
            return str(json.loads(path.read_text())["run_id"])
    return None


def _kind(stage: Stage) -> str:
    return stage.key.partition("@")[0]


def _row(stage: Stage) -> str:
    return stage.key.partition("@")[2]


def _prefix(stage: Stage) -> str:
    """What the keys of an experiment folder's artifacts begin with; nothing for those of the main run."""
    folder = slug(Path(stage.file).parent.name)
    return f"{folder}-" if folder else ""


def _mean(value: float | list[float]) -> float:
    """A weight, or the mean of one per layer."""
    return round(sum(value) / len(value) if isinstance(value, list) else value, 4)
