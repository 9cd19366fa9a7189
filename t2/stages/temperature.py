"""Stage ``temperature@<temperature>``: how far soft dispatch trusts the first pass, chosen on validation splits."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import pandas as pd
import torch

from t2.adaptation.first_pass import Ask, loglikelihoods
from t2.adaptation.strategies import by_belief
from t2.adaptation.two_pass import generate
from t2.engine.base import Sampling
from t2.engine.select import svf_engine
from t2.files import replace_file, write_csv
from t2.sandbox import Sandbox
from t2.stages import members, paths
from t2.stages.progress import Progress
from t2.stages.stage import Stage, open_stage
from t2.stages.workers import Report, run_jobs
from t2.svf import BasisCache
from t2.svf.language import load_onto
from t2.tasks.classification import categories_of
from t2.tasks.grading import grade
from t2.tasks.item import read_items


def main(name: str) -> None:
    """Tries every value for each seed of the adapters and writes ``data/searches/<name>/seed-<n>``."""
    with open_stage(f"temperature@{name}") as stage:
        row = stage.params.temperatures[name]
        seeds = list(members.read_set(row.set)[0].valid_scores)
        progress = Progress(stage.name, len(seeds) * len(row.tasks) * len(row.values))
        results = run_jobs(
            {f"seed-{seed}": partial(_search, stage, name, seed) for seed in seeds},
            at_once=stage.params.execution.workers,
            on_report=lambda job, step: progress.advance(job, **step),
        )
        for seed, (outcome, history) in zip(seeds, results.values(), strict=True):
            path = paths.temperature(name, seed)
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(outcome, indent=1, sort_keys=True) + "\n")
            write_csv(path.with_name("history.csv"), history)
            run = stage.run.child(f"{name}/seed-{seed}", seed=seed)
            run.log_params({"temperatures": row.model_dump()})
            run.log_table(history, "history")
            run.log_metrics({"temperature": outcome["temperature"], "valid_score": outcome["accuracy"]})


def _search(stage: Stage, name: str, seed: int, report: Report) -> tuple[dict[str, Any], pd.DataFrame]:
    """One seed, continued from scratch where a killed one stood; runs in a process of its own."""
    params, row = stage.params, stage.params.temperatures[name]
    torch.set_num_threads(params.training.threads)
    saved = stage.scratch / f"seed-{seed}.json"
    found: dict[str, dict[str, float]] = json.loads(saved.read_text()) if saved.exists() else {}
    adapters, basis = members.read_set(row.set), BasisCache.open(paths.basis(row.base))
    experts = {m.name: load_onto(paths.member(row.set, m.name, seed), basis).z for m in adapters}
    families = {member.name: member.family for member in adapters}
    engine = svf_engine(
        params.bases[row.base],
        params.engine,
        basis=paths.basis(row.base),
        device=params.execution.device,
        batch=params.search.batch,
    )
    dispatch, seen = params.tasks[row.dispatch], []
    ask = Ask(dispatch.prompt, tuple(categories_of(dispatch, params.tasks)), 1, "likelihood")
    with Sandbox(params.sandbox) as sandbox:
        for task in row.tasks:
            reward, items = params.tasks[task].reward, read_items(paths.split(task, "valid"))
            if reward is None:
                raise ValueError(f"tasks.{task}.reward is null; a search goes by a reward")
            if reward.kind == "code":
                stage.note_isolation(sandbox.isolation)
            prompts, own = [item.prompt for item in items], found.setdefault(task, {})
            seen += [item.id for item in items]
            logliks = loglikelihoods(engine, prompts, ask)
            for value in row.values:
                if str(value) not in own:
                    choice = by_belief(families, ask.categories, logliks, value)
                    replies = generate(engine, prompts, Sampling.of(reward), choice, experts)
                    texts = [reply.text for reply in replies]
                    right = grade(reward.kind, items, texts, sandbox, reward=reward)
                    own[str(value)] = sum(right) / len(items)
                    replace_file(saved, json.dumps(found))
                report({"temperature": value, "accuracy": own[str(value)]})
    history = pd.DataFrame(
        [{"temperature": value, **{task: found[task][str(value)] for task in row.tasks}} for value in row.values]
    )
    history["mean"] = history[row.tasks].mean(axis=1)
    best = int(history["mean"].to_numpy().argmax())
    outcome = {
        "temperature": row.values[best],
        "accuracy": float(history["mean"].iloc[best]),
        "set": row.set,
        "seed": seed,
        "items": seen,
    }
    return outcome, history


if __name__ == "__main__":
    main(*sys.argv[1:])
