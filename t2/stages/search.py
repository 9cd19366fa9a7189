"""Stage ``search@<search>``: few-shot search for mixing weights, per seed of the adapters and draw of the shots."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import torch

from t2.adaptation import cem
from t2.adaptation.few_shot import shot_evaluator
from t2.adaptation.search_state import load_state, save_state
from t2.adaptation.weighted import WeightedAdapters, coordinates
from t2.config.rows import SVF, Accuracy, Params
from t2.engine.base import Engine, Sampling
from t2.engine.select import svf_engine
from t2.files import write_csv
from t2.sandbox import Sandbox
from t2.seeds import derive
from t2.stages import members, paths
from t2.stages.members import Member
from t2.stages.progress import Progress
from t2.stages.stage import Stage, open_stage
from t2.stages.workers import Report, run_jobs
from t2.svf import BasisCache, base_expert
from t2.svf.experts import Z, layers
from t2.svf.language import load_onto
from t2.svf.mixture import BASE, Mixture
from t2.tasks.item import Item, read_items

GREEDY = Accuracy(kind="accuracy", temperature=0.0, samples=1)
"""What systems are measured by, whatever a search goes by."""


def main(name: str) -> None:
    """Searches α for every seed and draw and writes ``data/searches/<name>/seed-<n>/draw-<n>``."""
    with open_stage(f"search@{name}") as stage:
        params = stage.params
        row = params.searches[name]
        budget = params.budgets[row.budget]
        seeds = list(members.read_set(row.set)[0].valid_scores)
        jobs = {f"seed-{seed}/draw-{draw}": (seed, draw) for draw in range(budget.draws) for seed in seeds}
        progress = Progress(stage.name, len(jobs) * budget.generations)
        results = run_jobs(
            {job: partial(_search, stage, name, *which) for job, which in jobs.items()},
            at_once=params.execution.workers,
            on_report=lambda job, step: progress.advance(job, **step),
        )
        for job, (seed, draw) in jobs.items():
            alpha, history = results[job]
            folder = paths.search(name, seed, draw)
            folder.mkdir(parents=True)
            (folder / "alpha.json").write_text(json.dumps(alpha, indent=1, sort_keys=True) + "\n")
            write_csv(folder / "history.csv", history)
            run = stage.run.child(f"{name}/{job}", seed=seed, tags={"task": row.task, "draw": draw})
            run.log_params({"task": row.task, "draw": draw, "budget": budget.model_dump()})
            run.log_alpha(alpha["alpha"], history)
            run.log_metrics(
                {
                    "shots_score": alpha["score"],
                    "best_generation": alpha["best_generation"],
                    "gain_over_first_generation": alpha["score"] - alpha["first_score"],
                    "rest_score": alpha["rest_score"],
                }
            )


def draw_shots(pool: list[Item], shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The shots of one draw, and what the pool holds besides; draws are independent of each other and may overlap."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    return [pool[index] for index in order[:shots]], [pool[index] for index in order[shots:]]


def load_members(params: Params, name: str, seed: int) -> tuple[dict[str, Z], dict[str, torch.Tensor] | None]:
    """What a search mixes: z by member, the base where it takes part, and the singular values for the free form.

    Of LoRA adapters, whose sums are their weights' business, the members are axes.
    """
    row = params.searches[name]
    budget = params.budgets[row.budget]
    found = members.read_set(row.set)
    if found[0].method != SVF:
        return coordinates([member.name for member in found]), None
    basis = BasisCache.open(paths.basis(row.base))
    experts = {member.name: load_onto(paths.member(row.set, member.name, seed), basis).z for member in found}
    modules = next(iter(experts.values()))
    if budget.include_base:
        experts[BASE] = base_expert(modules)
    if budget.form != "free":
        return experts, None
    return experts, {module: basis.load(module).sigma for module in modules}


def _search(stage: Stage, name: str, seed: int, draw: int, report: Report) -> tuple[dict[str, Any], pd.DataFrame]:
    """One search, continued from scratch where a killed one stood; runs in a process of its own."""
    params = stage.params
    row = params.searches[name]
    budget, reward = params.budgets[row.budget], params.tasks[row.task].reward
    if reward is None:
        raise ValueError(f"tasks.{row.task}.reward is null; a search goes by a reward")
    torch.set_num_threads(params.training.threads)
    experts, sigma = load_members(params, name, seed)
    which = f"{row.task} seed {seed} draw {draw}"
    pool = read_items(paths.split(row.task, budget.split))
    shots, rest = draw_shots(pool, budget.shots, derive(budget.seed, f"shots {which}"))
    saved = stage.scratch / f"seed-{seed}" / f"draw-{draw}" / "search.safetensors"
    if saved.exists():
        state = load_state(saved)
    else:
        state = cem.start(_shape(experts, budget.granularity), budget, derive(budget.seed, f"cem {which}"))

    def on_generation(state: cem.State) -> None:
        save_state(state, saved)
        report({"best": state.score, "mean": state.history[-1].mean_score})

    temperature = budget.objective.temperature if isinstance(budget.objective, Accuracy) else 0.0
    with Sandbox(params.sandbox) as sandbox:
        if reward.kind == "code":
            stage.note_isolation(sandbox.isolation)
        engine = _engine(params, name, members.read_set(row.set), seed)
        evaluator = partial(
            shot_evaluator,
            engine,
            reward.kind,
            experts=list(experts.values()),
            sigma=sigma,
            sandbox=sandbox,
            reward=reward,
        )
        sampling = Sampling.of(reward, temperature=temperature, seed=derive(budget.seed, f"replies {which}"))
        state = cem.search(state, budget, evaluator(shots=shots, settings=budget, sampling=sampling), on_generation)
        on_rest: list[float | None] = [None, None]
        if rest:
            measured = budget.model_copy(update={"objective": GREEDY})
            evaluate = evaluator(shots=rest, settings=measured, sampling=Sampling.of(reward))
            uniform = torch.full_like(state.best, 1 / len(experts))
            on_rest = evaluate(torch.stack([state.best, uniform])).score.tolist()

    def effective(alpha: torch.Tensor) -> Mixture:
        """What the members weigh in the end; the search's own α is one of many that come to the same."""
        named = dict(zip(experts, alpha.movedim(-1, 0).tolist(), strict=True))
        return Mixture(named, budget.form, budget.renormalise).effective(experts, sigma)

    found = effective(state.best)
    alpha = {
        "alpha": _plain(found),
        "form": found.form,
        "renormalise": found.renormalise,
        "score": state.score,
        "first_score": state.first_score,
        "best_generation": state.best_generation,
        "score_generation": state.score_generation,
        "rest_score": on_rest[0],
        "rest_uniform": on_rest[1],
        "evaluations": budget.generations * budget.population,
        "set": row.set,
        "task": row.task,
        "seed": seed,
        "generations_without_answer": state.without_answer,
        "shots": [item.id for item in shots],
    }
    return alpha, _history(list(experts), state)


def _engine(params: Params, name: str, found: list[Member], seed: int) -> Engine:
    row, device, batch = params.searches[name], params.execution.device, params.search.batch
    base = params.bases[row.base]
    if found[0].method != SVF:
        folders = [paths.member(row.set, member.name, seed) for member in found]
        return WeightedAdapters(base, folders, device=device, batch=batch)
    return svf_engine(base, params.engine, basis=paths.basis(row.base), device=device, batch=batch)


def _shape(experts: Mapping[str, Z], granularity: str) -> tuple[int, ...]:
    """That of the weights which are searched: a row for every layer or matrix, or none."""
    if granularity == "one":
        return (len(experts),)
    modules = next(iter(experts.values()))
    return (len(layers(modules)) if granularity == "layer" else len(modules), len(experts))


def _plain(mixture: Mixture) -> dict[str, float | list[float]]:
    """Each member's weight, or its weights by layer or matrix."""
    return {name: row[0] if len(row) == 1 else list(row) for name, row in mixture.rows.items()}


def _history(experts: list[str], state: cem.State) -> pd.DataFrame:
    """A row per generation; the search's own variable, ``raw``, before it becomes weights; of layers, their mean."""
    rows = []
    for generation, step in enumerate(state.history, start=1):
        row: dict[str, Any] = {
            "generation": generation,
            "best_score": step.score,
            "best_loglik": step.loglik if step.score > 0 else None,
            "mean_score": step.mean_score,
            "any_right": int(step.any_right),
            "elites": len(step.elites),
        }
        for kind, values in (("raw", step.mean), ("raw_std", step.std), ("raw_best", step.best)):
            means = values.reshape(-1, len(experts)).mean(0).tolist()
            row |= {f"{kind}.{name}": value for name, value in zip(experts, means, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
