"""What the stages that train adapters share: one job an adapter and seed, side by side, logged and resumable."""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from t2 import svf
from t2.config import Base, Kind, Params, Recipe
from t2.engine.base import Sampling
from t2.evaluation import write_csv
from t2.stages import paths
from t2.stages.models import trainable_engine
from t2.stages.progress import Progress
from t2.stages.stage import Stage
from t2.stages.workers import Report, run_jobs
from t2.tasks import grade
from t2.tasks.item import read_items
from t2.tasks.sandbox import Sandbox
from t2.training.loop import Result, train

CURVE = ["step", "reward", "correct", "loss", "kl", "tokens", "too_long", "grad_norm", "lr", "valid_score"]
"""Columns of a learning curve; a resumed training returns its rows' entries in another order."""


@dataclass(frozen=True)
class Job:
    """One adapter to be trained with one seed.

    Attributes:
        out: Folder of the finished adapter.
        base: What it adapts.
        task: The task whose splits it is trained and chosen on.
        kind: How replies are graded; ``dispatch`` for the classifier.
        recipe: How it is trained.
        seed: Of its training.
        greedy: How replies are taken on validation items.
    """

    out: Path
    base: Base
    task: str
    kind: Kind | str
    recipe: Recipe
    seed: int
    greedy: Sampling

    @property
    def name(self) -> str:
        """Its folder below ``data``."""
        return self.out.relative_to("data").as_posix()


def seeds(params: Params, folder: Path, base: Base, task: str, recipe: Recipe) -> list[Job]:
    """The jobs of one recipe on one trained task, a job a seed."""
    declared = params.trained[task]
    return [
        Job(paths.seed(folder, seed), base, task, declared.kind, recipe, seed, Sampling.greedy(declared))
        for seed in params.training.seeds
    ]


def train_all(stage: Stage, jobs: Sequence[Job], report: Path) -> None:
    """Trains every adapter and writes it, with its learning curve ``history.csv``, to the job's folder.

    Jobs that had finished before the stage was killed are read from their checkpoints; the others go on from
    theirs.

    Args:
        stage: The executing stage.
        jobs: What to train.
        report: Two files beside each other, means over seeds for DVC to show: ``<report>.json``, where the
            validation score started and how it ended, and ``<report>.csv``, the curves between.
    """
    progress = Progress(stage.name, sum(job.recipe.steps + 1 for job in jobs))
    runs = {
        job.name: stage.run.child(
            job.name,
            seed=job.seed,
            tags={"task": job.task, "t2.base_model": job.base.path, "method": job.recipe.method},
        )
        for job in jobs
    }
    for job in jobs:
        # With the task and the seed as parameters MLflow's Compare has axes that tell the runs apart.
        runs[job.name].log_params({"task": job.task, "seed": job.seed, "recipe": job.recipe.model_dump()})

    def on_report(name: str, row: dict[str, Any]) -> None:
        runs[name].log_history([row])
        progress.advance(name, step=row["step"], reward=row["reward"], valid=row["valid_score"])

    results: dict[str, Result] = run_jobs(
        {job.name: partial(_train, job, stage.params, stage.scratch, stage.fingerprint) for job in jobs},
        at_once=stage.params.execution.workers,
        on_report=on_report,
    )
    for job in jobs:
        shutil.copytree(stage.scratch / job.name / "adapter", job.out)
        history = pd.DataFrame(results[job.name].history, columns=CURVE)
        history["chosen"] = history["step"] == results[job.name].best_step
        write_csv(job.out / "history.csv", history)
        runs[job.name].log_history(results[job.name].history)
        runs[job.name].log_metrics({"best_valid_score": results[job.name].best_score})
        if job.recipe.method == "svf":
            z = svf.load_expert(job.out).z
            runs[job.name].log_expert(z, svf.statistics(z))
            runs[job.name].register_expert(
                job.out.parent.relative_to("data").as_posix().replace("/", "-"),
                job.out,
                results[job.name].best_score,
                f"Seed {job.seed}, trained on `{job.task}` from `{job.base.path}`.",
            )
    _write_means(jobs, results, report)


def _train(job: Job, params: Params, scratch: Path, fingerprint: str, report: Report) -> Result:
    """Trains one adapter into ``scratch/<job>/adapter``; runs in a process of its own."""
    torch.set_num_threads(params.training.threads)
    folder = scratch / job.name
    model, engine = trainable_engine(params, job.base, job.recipe.method, seed=job.seed, task=job.task)
    with Sandbox(params.sandbox) as sandbox:
        result = train(
            model,
            engine,
            job.recipe,
            params.training,
            train_items=read_items(paths.split(job.task, "train")),
            valid_items=read_items(paths.split(job.task, "valid")),
            grade=lambda items, replies: grade(job.kind, items, replies, sandbox),
            greedy=job.greedy,
            seed=job.seed,
            scratch=folder / "checkpoint",
            fingerprint=fingerprint,
            on_step=report,
        )
    model.save_pretrained(str(folder / "adapter"))
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    return result


def _write_means(jobs: Sequence[Job], results: Mapping[str, Result], report: Path) -> None:
    """Writes what all seeds of an adapter have in common, by the adapter's folder."""
    scores: dict[str, dict[str, float]] = {}
    curves = []
    for adapter, of_seeds in itertools.groupby(jobs, key=lambda job: job.out.parent):
        found = [results[job.name] for job in of_seeds]
        name = adapter.relative_to("data").as_posix()
        scores[name] = {
            "start_valid_score": _mean(float(result.history[0]["valid_score"] or 0) for result in found),
            "best_valid_score": _mean(result.best_score for result in found),
            "best_step": _mean(result.best_step for result in found),
        }
        rows = pd.concat([pd.DataFrame(result.history) for result in found])
        means = rows.astype(float).groupby("step", as_index=False)[["valid_score", "reward", "kl"]].mean()
        curves.append(means.dropna(subset="valid_score").assign(name=name))
    report.parent.mkdir(parents=True, exist_ok=True)
    report.with_suffix(".json").write_text(json.dumps(scores, indent=1) + "\n")
    columns = ["name", "step", "valid_score", "reward", "kl"]
    write_csv(report.with_suffix(".csv"), pd.concat(curves)[columns] if curves else pd.DataFrame(columns=columns))


def _mean(values: Iterable[float]) -> float:
    return round(statistics.fmean(values), 6)
