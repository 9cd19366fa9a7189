"""Stage ``adapt@<task>``: few-shot CEM over mixing weights for one unseen task, once for each draw of the shots."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import pandas as pd
import torch

from t2.adaptation import cem
from t2.adaptation.few_shot import shot_evaluator
from t2.adaptation.search_state import load_state, save_state
from t2.engine.base import Sampling
from t2.evaluation import write_csv
from t2.stages import paths
from t2.stages.models import ingredients, svf_engine
from t2.stages.progress import Progress
from t2.stages.stage import Stage, open_stage
from t2.stages.workers import Report, run_jobs
from t2.tasks.item import Item, read_items
from t2.tasks.sandbox import Sandbox
from t2.training.state import derive


def main(task: str) -> None:
    """Searches α for every draw and writes ``data/adaptation/<task>/draw-<n>``."""
    with open_stage(f"adapt@{task}") as stage:
        draws = range(stage.params.adaptation.draws)
        progress = Progress(stage.name, len(draws) * stage.params.adaptation.cem.generations)
        results = run_jobs(
            {f"draw-{draw}": partial(_search, stage, task, draw) for draw in draws},
            at_once=stage.params.execution.workers,
            on_report=lambda name, row: progress.advance(name, **row),
        )
        for draw, (alpha, history) in enumerate(results.values()):
            folder = paths.draw(task, draw)
            folder.mkdir(parents=True)
            (folder / "alpha.json").write_text(json.dumps(alpha, indent=1, sort_keys=True) + "\n")
            write_csv(folder / "history.csv", history)
            name = folder.relative_to("data").as_posix()
            run = stage.run.child(name, seed=alpha["expert_seed"], tags={"task": task, "draw": draw})
            run.log_params({"task": task, "draw": draw, "adaptation": stage.params.adaptation.model_dump()})
            run.log_alpha(alpha["alpha"], history)
            run.log_metrics({"shots_score": alpha["accuracy"]})


def draw_shots(pool: list[Item], shots: int, seed: int, task: str, draw: int) -> list[Item]:
    """The shots of one draw; draws are independent of each other and may overlap."""
    generator = torch.Generator().manual_seed(derive(seed, f"shots {task} {draw}"))
    return [pool[index] for index in torch.randperm(len(pool), generator=generator)[:shots].tolist()]


def _search(stage: Stage, task: str, draw: int, report: Report) -> tuple[dict[str, Any], pd.DataFrame]:
    """One search, continued from scratch where a killed one stood; runs in a process of its own."""
    params = stage.params
    torch.set_num_threads(params.training.threads)
    settings, declared = params.adaptation.cem, params.unseen[task]
    # Draws take the experts' seeds in turn, so that their spread holds both.
    expert_seed = params.training.seeds[draw % len(params.training.seeds)]
    experts, sigma = ingredients(params, expert_seed)
    shots = draw_shots(
        read_items(paths.split(task, "shots")), params.adaptation.shots, params.adaptation.seed, task, draw
    )
    saved = stage.scratch / f"draw-{draw}" / "search.safetensors"
    if saved.exists():
        state = load_state(saved)
    else:
        layers = len({name.split(".")[2] for name in next(iter(experts.values()))})
        shape = (layers, len(experts)) if settings.per_layer else (len(experts),)
        state = cem.start(shape, settings, derive(params.adaptation.seed, f"cem {task} {draw}"))

    def on_generation(state: cem.State) -> None:
        save_state(state, saved)
        report({"best": state.accuracy, "mean": state.history[-1].mean_accuracy})

    with Sandbox(params.sandbox) as sandbox:
        evaluate = shot_evaluator(
            svf_engine(params, params.base),
            declared.kind,
            shots,
            list(experts.values()),
            settings,
            sampling=Sampling.greedy(declared),
            sigma=sigma,
            sandbox=sandbox,
        )
        state = cem.search(state, settings, evaluate, on_generation)
    alpha = {
        "alpha": dict(zip(experts, state.best.movedim(-1, 0).tolist(), strict=True)),
        "mean": dict(zip(experts, state.mean.movedim(-1, 0).tolist(), strict=True)),
        "accuracy": state.accuracy,
        "expert_seed": expert_seed,
        "generations_without_answer": state.without_answer,
        "shots": [item.id for item in shots],
    }
    return alpha, _history(list(experts), state)


def _history(experts: list[str], state: cem.State) -> pd.DataFrame:
    """A row a generation; weights of several layers appear as their mean over layers."""
    rows = []
    for generation, step in enumerate(state.history, start=1):
        row: dict[str, Any] = {
            "generation": generation,
            "best_accuracy": step.accuracy,
            "best_loglik": step.loglik if step.accuracy > 0 else None,
            "mean_accuracy": step.mean_accuracy,
            "any_right": int(step.any_right),
            "elites": len(step.elites),
        }
        for kind, values in (("alpha", step.mean), ("std", step.std), ("best", step.best)):
            means = values.reshape(-1, len(experts)).mean(0).tolist()
            row |= {f"{kind}.{name}": value for name, value in zip(experts, means, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
