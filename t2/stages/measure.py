"""What the benchmark measures, a job a method and task; each runs in a process of its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch

from t2.adaptation.dispatch import dispatch
from t2.adaptation.two_pass import generate_two_pass
from t2.config import OTHER, Base, Params
from t2.engine.base import Sampling
from t2.evaluation import Measurement, Prediction, evaluate_items, refuse_seen
from t2.stages import paths
from t2.stages.models import ingredients, svf_engine, trained_engine, trained_expert, trained_experts
from t2.stages.workers import Report
from t2.svf import mix, stack
from t2.svf.experts import Z
from t2.tasks import grade
from t2.tasks.item import read_items
from t2.tasks.sandbox import Sandbox


@dataclass
class Measured:
    """What a job brings back: measurements, and rows of the table of two-pass times."""

    measurements: list[Measurement] = field(default_factory=list)
    timings: list[dict[str, object]] = field(default_factory=list)


class _System(NamedTuple):
    """An expert, and what the scores call the way it was chosen; None is the base model."""

    strategy: str
    z: Z | None = None
    variant: str = ""
    seed: int | None = None
    draw: int | None = None


def all_jobs(params: Params) -> dict[str, Callable[[Report], Measured]]:
    """Every measurement of the benchmark, by a name that says what it is."""
    jobs: dict[str, Callable[[Report], Measured]] = {}
    for task in params.tasks:
        jobs[f"experts on {task}"] = partial(_experts, params, task)
        jobs[f"two passes on {task}"] = partial(_two_passes, params, task)
        for variant in params.baselines:
            jobs[f"{variant} on {task}"] = partial(_baseline, params, variant, task)
        if params.control is not None:
            jobs[f"control on {task}"] = partial(_control, params, params.control, task)
    if params.other is not None:
        jobs["dispatchers on other"] = partial(_dispatchers, params)
    return jobs


def _experts(params: Params, task: str, report: Report) -> Measured:
    """The base model, every expert, the uniform mix and every few-shot α."""
    systems = [_System("none")]
    for seed in params.training.seeds:
        experts = trained_experts(params, seed)
        for name, z in experts.items():
            own = params.trained[name].family == params.tasks[task].family
            systems.append(_System("own" if own else "none", z, "" if own else name, seed))
        weights = torch.full((len(experts),), 1 / len(experts))
        systems.append(_System("uniform", mix(list(experts.values()), weights), seed=seed))
    seen: set[str] = set()
    for draw in range(params.adaptation.draws) if task in params.unseen else ():
        found = json.loads((paths.draw(task, draw) / "alpha.json").read_text())
        seen |= set(found["shots"])
        systems.append(_System("fewshot", _mixed(params, found), seed=found["expert_seed"], draw=draw))
    return _measure(params, params.base, task, systems, report, seen)


def _control(params: Params, control: Base, task: str, report: Report) -> Measured:
    """The control base, and what SVF gains on it."""
    systems = [_System("none")]
    for name, trained in params.trained.items():
        if trained.family == params.tasks[task].family:
            for seed in params.training.seeds:
                z = trained_expert(control, paths.seed(paths.CONTROL / name, seed))
                systems.append(_System("own", z, seed=seed))
    return _measure(params, control, task, systems, report)


def _measure(
    params: Params, base: Base, task: str, systems: Sequence[_System], report: Report, seen: set[str] | None = None
) -> Measured:
    """Runs every system on every test item of a task."""
    torch.set_num_threads(params.training.threads)
    declared, items = params.tasks[task], read_items(paths.split(task, "test"))
    refuse_seen((item.id for item in items), seen or ())
    engine = svf_engine(params, base)
    prompts, measured = [item.prompt for item in items], Measured()
    with Sandbox(params.sandbox) as sandbox:
        # One after the other: a batch of one expert runs folded, which is faster than a mixed one.
        for system in systems:
            replies = engine.generate(
                prompts,
                Sampling.greedy(declared),
                experts={} if system.z is None else stack([system.z]),
                rows=[-1 if system.z is None else 0] * len(items),
            )
            right = grade(declared.kind, items, [reply.text for reply in replies], sandbox)
            measured.measurements.append(
                Measurement(
                    **_where(params, base, task),
                    method="base" if system.z is None else "svf",
                    strategy=system.strategy,
                    variant=system.variant,
                    seed=system.seed,
                    draw=system.draw,
                    items=evaluate_items(items, replies, right, seen=seen or ()),
                )
            )
    report({})
    return measured


def _mixed(params: Params, found: Mapping[str, Any]) -> Z:
    """The expert of a few-shot search, from the weights that :mod:`t2.stages.adapt` stored."""
    settings = params.adaptation.cem
    experts, sigma = ingredients(params, found["expert_seed"])
    # By name: the file's order is the alphabet's, not that of the experts.
    alpha = torch.tensor([found["alpha"][name] for name in experts]).movedim(0, -1)
    return mix(list(experts.values()), alpha, settings.form, sigma, settings.renormalise)


def _two_passes(params: Params, task: str, report: Report) -> Measured:
    """Both dispatchers, each followed by the second pass under the experts that it chose."""
    torch.set_num_threads(params.training.threads)
    declared, items = params.tasks[task], read_items(paths.split(task, "test"))
    engine, measured = svf_engine(params, params.base), Measured()
    with Sandbox(params.sandbox) as sandbox:
        for strategy, seed, classifier in _dispatching(params):
            outcome = generate_two_pass(
                engine,
                [item.prompt for item in items],
                Sampling.greedy(declared),
                {params.trained[name].family: z for name, z in trained_experts(params, seed).items()},
                dispatch_tokens=params.classifier.max_new_tokens,
                classifier=classifier,
                reading=params.benchmark.dispatch,
            )
            right = grade(declared.kind, items, [reply.text for reply in outcome.generations], sandbox)
            predictions = evaluate_items(items, outcome.generations, right, categories=outcome.categories)
            measured.measurements.append(
                Measurement(
                    **_where(params, params.base, task), method="svf", strategy=strategy, seed=seed, items=predictions
                )
            )
            measured.timings.append(
                {
                    "strategy": strategy,
                    "task": task,
                    "seed": seed,
                    "n": len(items),
                    "first_seconds": outcome.first_seconds,
                    "second_seconds": outcome.second_seconds,
                }
            )
    report({})
    return measured


def _dispatchers(params: Params, report: Report) -> Measured:
    """What both dispatchers make of prompts that belong to no expert."""
    torch.set_num_threads(params.training.threads)
    items, engine, measured = read_items(paths.split(OTHER, "test")), svf_engine(params, params.base), Measured()
    where: dict[str, Any] = {"base": params.base.name, "suite": "other", "task": OTHER, "family": OTHER}
    for strategy, seed, classifier in _dispatching(params):
        named = dispatch(
            engine,
            [item.prompt for item in items],
            params.categories,
            max_new_tokens=params.classifier.max_new_tokens,
            classifier=classifier,
            reading=params.benchmark.dispatch,
        )
        predictions = tuple(
            Prediction(item.id, called == OTHER, category=called) for item, called in zip(items, named, strict=True)
        )
        measured.measurements.append(
            Measurement(**where, method="svf", strategy=strategy, seed=seed, items=predictions)
        )
    report({})
    return measured


def _dispatching(params: Params) -> list[tuple[str, int, Z | None]]:
    """Strategy, seed and classifier expert of every dispatcher."""
    seeds = params.training.seeds
    classifiers = [(seed, trained_expert(params.base, paths.seed(paths.CLASSIFIER, seed))) for seed in seeds]
    return [("prompt", seed, None) for seed in seeds] + [("classifier", seed, z) for seed, z in classifiers]


def _baseline(params: Params, variant: str, task: str, report: Report) -> Measured:
    """A baseline's adapters of a task's family on that task."""
    torch.set_num_threads(params.training.threads)
    declared, items = params.tasks[task], read_items(paths.split(task, "test"))
    method = params.baselines[variant].method
    measured = Measured()
    own = [name for name, trained in params.trained.items() if trained.family == declared.family]
    with Sandbox(params.sandbox) as sandbox:
        for name, seed in itertools.product(own, params.training.seeds):
            engine = trained_engine(params, params.base, paths.seed(paths.BASELINES / variant / name, seed))
            replies = engine.generate([item.prompt for item in items], Sampling.greedy(declared))
            right = grade(declared.kind, items, [reply.text for reply in replies], sandbox)
            measured.measurements.append(
                Measurement(
                    **_where(params, params.base, task),
                    method=method,
                    strategy="own",
                    variant=variant.removeprefix(f"{method}_"),
                    seed=seed,
                    items=evaluate_items(items, replies, right),
                )
            )
    report({})
    return measured


def _where(params: Params, base: Base, task: str) -> dict[str, Any]:
    """The columns of the score table that say where a system was measured."""
    suite = "trained" if task in params.trained else "unseen"
    return {"base": base.name, "suite": suite, "task": task, "family": params.tasks[task].family}
