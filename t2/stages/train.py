"""Stage ``train@<adapter>``: one adapter per seed, side by side, logged and resumable (paper, section 3.2)."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel

from t2.config.rows import Params
from t2.engine.base import Engine
from t2.engine.hf import HfEngine
from t2.engine.select import load, vision, vllm_engine
from t2.files import replace_file, write_csv
from t2.sandbox import Sandbox
from t2.stages import members, paths
from t2.stages.progress import Progress
from t2.stages.stage import Stage, open_stage
from t2.stages.workers import Report, run_jobs
from t2.tasks.grading import grade
from t2.tasks.item import read_items
from t2.training.adapters import build_adapter
from t2.training.loop import Result, train
from t2.training.objectives import Rollout

CURVE = ["step", "reward", "correct", "loss", "kl", "tokens", "too_long", "agreed", "grad_norm", "lr", "valid_score"]
"""Columns of a learning curve; a resumed training returns its rows' entries in another order."""


def main(name: str) -> None:
    """Trains the seeds of ``adapters.<name>`` into ``data/adapters/<name>/seed-<n>``.

    Beside each adapter lies its learning curve, ``history.csv``. Seeds that had finished before the stage was killed
    are read from their checkpoints; the others go on from theirs.
    """
    with open_stage(f"train@{name}") as stage:
        row, params = stage.params.adapters[name], stage.params
        recipe = params.recipes[row.recipe]
        progress = Progress(stage.name, len(recipe.seeds) * (recipe.train.steps + 1))
        jobs = {f"{name}/seed-{seed}": seed for seed in recipe.seeds}
        tags = {"task": row.task, "t2.base_model": params.bases[row.base].path, "method": recipe.method}
        runs = {job: stage.run.child(job, seed=seed, tags=tags) for job, seed in jobs.items()}
        for job, seed in jobs.items():
            # With the task and the seed as parameters MLflow's Compare has axes that tell the runs apart.
            runs[job].log_params({"task": row.task, "seed": seed, "recipe": recipe.model_dump()})

        def on_report(job: str, step: dict[str, Any]) -> None:
            runs[job].log_history([step])
            rollouts = _rollouts(stage, job, step["step"])
            if rollouts.exists():
                runs[job].log_page(json.loads(rollouts.read_text()), f"rollouts/{rollouts.stem}")
            progress.advance(job, step=step["step"], reward=step["reward"], valid=step["valid_score"])

        results: dict[str, Result] = run_jobs(
            {job: partial(_train, stage, name, seed) for job, seed in jobs.items()},
            at_once=params.execution.workers,
            on_report=on_report,
        )
        for job, seed in jobs.items():
            out, result = paths.adapter(name, seed), results[job]
            shutil.copytree(stage.scratch / job / "adapter", out)
            history = pd.DataFrame(result.history, columns=CURVE)
            history["chosen"] = history["step"] == result.best_step
            write_csv(out / "history.csv", history)
            runs[job].log_history(result.history)
            runs[job].log_metrics({"best_valid_score": result.best_score})
            if recipe.method == "svf":
                runs[job].log_expert(out)
                about = f"Seed {seed}, trained on `{row.task}` from `{params.bases[row.base].path}`."
                runs[job].register_expert(name, out, result.best_score, about)
        members.write(name, params, {seed: results[job].best_score for job, seed in jobs.items()})
        _write_means(name, results)


def _rollouts(stage: Stage, job: str, step: int) -> Path:
    """What was sampled at a step, where its rollouts were kept."""
    return stage.scratch / job / "rollouts" / f"step-{step:05}.json"


def _train(stage: Stage, name: str, seed: int, report: Report) -> Result:
    """Trains one adapter into ``scratch/<name>/seed-<n>/adapter``; runs in a process of its own."""
    params = stage.params
    row = params.adapters[name]
    recipe, task = params.recipes[row.recipe], params.tasks[row.task]
    reward = task.reward
    if reward is None:
        raise ValueError(f"tasks.{row.task}.reward is null; an adapter learns from a reward")
    torch.set_num_threads(params.training.threads)
    folder = stage.scratch / name / f"seed-{seed}"
    model, engine = _attached(params, name, seed)
    with Sandbox(params.sandbox) as sandbox:
        if reward.kind == "code":
            stage.note_isolation(sandbox.isolation)
        result = train(
            model,
            engine,
            recipe.train,
            params.training,
            reward=reward,
            train_items=read_items(paths.split(row.task, "train")),
            valid_items=read_items(paths.split(row.task, "valid")),
            grade=lambda items, replies: grade(reward.kind, items, replies, sandbox, reward=reward),
            seed=seed,
            scratch=folder / "checkpoint",
            fingerprint=stage.fingerprint,
            on_step=report,
            on_rollouts=partial(_note_rollouts, stage, f"{name}/seed-{seed}"),
        )
    model.save_pretrained(str(folder / "adapter"))
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    return result


def _note_rollouts(stage: Stage, job: str, step: int, rollouts: list[Rollout]) -> None:
    path = _rollouts(stage, job, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps([asdict(rollout) for rollout in rollouts]))


def _attached(params: Params, name: str, seed: int) -> tuple[PeftModel, Engine]:
    """A fresh adapter on its base, and an engine that runs it as it is at each call.

    vLLM runs SVF only, beside the model that learns; other methods generate with that model itself.
    """
    row = params.adapters[name]
    base, recipe, basis = params.bases[row.base], params.recipes[row.recipe], paths.basis(row.base)
    model, tokenizer = load(base, params.execution.device)
    adapted = build_adapter(model, recipe, seed=seed, task=row.task, basis=basis, revision=base.revision)
    if recipe.method == "svf" and params.engine.name == "vllm":
        return adapted, vllm_engine(base, params.engine, basis, policy=adapted.z)
    batch = params.training.generation_batch
    return adapted, HfEngine(adapted, tokenizer, batch_size=batch, vision=vision(base, adapted))


def _write_means(name: str, results: Mapping[str, Result]) -> None:
    """Writes what all seeds have in common, for DVC to show: where the validation score started and how it ended."""
    found = results.values()
    scores = {
        "start_valid_score": _mean(float(result.history[0]["valid_score"] or 0) for result in found),
        "best_valid_score": _mean(result.best_score for result in found),
        "best_step": _mean(result.best_step for result in found),
    }
    rows = pd.concat([pd.DataFrame(result.history) for result in found])
    means = rows.astype(float).groupby("step", as_index=False)[["valid_score", "reward", "kl"]].mean()
    folder = paths.reports() / "training"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(scores, indent=1) + "\n")
    write_csv(folder / f"{name}.csv", means.dropna(subset="valid_score"))


def _mean(values: Iterable[float]) -> float:
    return round(statistics.fmean(values), 6)


if __name__ == "__main__":
    main(*sys.argv[1:])
