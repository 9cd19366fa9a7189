"""What each stage of the pipeline needs of memory, under given parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from t2.config.checks import shows
from t2.config.rows import Base, Params
from t2.plan import memory
from t2.plan.shapes import Attached, Shapes, read_adapter, read_shapes
from t2.plan.sight import Sight, read_sight

OPTIMISER = 16
"""Bytes per trainable parameter: itself, its gradient and AdamW's two moments, in float32."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: As DVC calls it.
        memory: Bytes of one process at its peak, by what takes them.
        processes: How many run side by side.
    """

    name: str
    memory: Mapping[str, float]
    processes: int

    @property
    def total(self) -> float:
        """Bytes of all processes."""
        return self.processes * sum(self.memory.values())


@dataclass(frozen=True)
class Model:
    """A base model and what is trained on it.

    Attributes:
        base: Its row.
        shapes: Of the model.
        sight: What it sees with; None: it is shown text alone.
        adapters: What each recipe that is trained on it puts there, by the recipe's row.
    """

    base: Base
    shapes: Shapes
    sight: Sight | None
    adapters: Mapping[str, Attached]


class Asked(NamedTuple):
    """What a task asks of a model.

    Attributes:
        prompt: Tokens, those of the largest image among them where it shows one.
        reply: Tokens of the longest; where nobody answers, one.
        sight: What images are looked at with; None: none is shown.
    """

    prompt: int
    reply: int
    sight: Sight | None


def read_models(params: Params) -> dict[str, Model]:
    """All base models, by their rows.

    Raises:
        PlanError: A model's configuration cannot be found, or it is not known what it makes of images.
        ValueError: A row names a layer or a module that its model does not have.
    """
    models = {}
    for name, base in params.bases.items():
        shapes = read_shapes(base)
        trained = dict.fromkeys(row.recipe for row in params.adapters.values() if row.base == name)
        adapters = {recipe: read_adapter(base, params.recipes[recipe], shapes) for recipe in trained}
        models[name] = Model(base, shapes, read_sight(base), adapters)
    return models


def asked_by(params: Params, model: Model, name: str) -> Asked:
    """What a task asks of a model.

    Args:
        params: The parameters.
        model: A base model.
        name: The task.
    """
    reward = params.tasks[name].reward
    sight = model.sight if shows(params.tasks, name) else None
    shown = sight.largest.tokens if sight else 0
    return Asked(params.plan.prompt_tokens + shown, reward.max_new_tokens if reward else 1, sight)


def plan_stages(params: Params, models: Mapping[str, Model]) -> list[Stage]:
    """All stages that run a model, in the order of the pipeline.

    Args:
        params: The parameters.
        models: Of every base.
    """
    workers = params.execution.workers
    stages = [Stage(f"basis@{n}", {"working": memory.decomposing(m.shapes)}, 1) for n, m in models.items()]
    for name, row in params.adapters.items():
        model = models[row.base]
        adapter = model.adapters[row.recipe]
        needed = _training(params, adapter, asked_by(params, model, row.task))
        stages.append(Stage(f"train@{name}", needed, min(workers, len(adapter.recipe.seeds))))
    for name, search in params.searches.items():
        needed = _answering_all(params, models[search.base], params.search.batch, [search.task])
        draws = params.budgets[search.budget].draws * len(params.seeds_of(search.set))
        stages.append(Stage(f"search@{name}", needed, min(workers, draws)))
    for name, found in params.temperatures.items():
        needed = _answering_all(params, models[found.base], params.search.batch, found.tasks)
        stages.append(Stage(f"temperature@{name}", needed, min(workers, len(params.seeds_of(found.set)))))
    measured = [name for name, task in params.tasks.items() if task.role != "dispatch"]
    all_bases = [
        _answering_all(params, models[base], params.measure.batch, measured, folds=True)
        for base in {system.base for system in params.systems.values()}
    ]
    return [*stages, Stage("measure", max(all_bases, key=_total), min(workers, len(measured)))]


def _training(params: Params, adapter: Attached, asked: Asked) -> dict[str, float]:
    """Bytes of a process that trains, by what takes them."""
    shapes, training, first = adapter.shapes, params.training, adapter.first
    if adapter.recipe.train.objective == "expected_reward":  # nothing is sampled: an option's letter is the reply
        asked = asked._replace(reply=1)
    kept = memory.kept_by_layers(shapes, first)
    kept += memory.kept_by_svf(shapes) if adapter.is_svf else memory.kept_by_lora(adapter)
    recomputed = 0.0
    if training.gradient_checkpointing:
        kept, recomputed = memory.kept_inputs(shapes, first), kept / (shapes.layers - first)
    samples: float = training.micro_batch
    if training.micro_tokens is not None:  # filled to the last token
        samples = min(samples, max(1.0, training.micro_tokens / (asked.prompt + asked.reply)))
    gradient = memory.learning(
        shapes,
        kept,
        samples=samples,
        prompt=asked.prompt,
        reply=asked.reply,
        divergence=adapter.recipe.train.kl > 0,
        recomputed=recomputed,
        chunk=training.logit_chunk,
    )
    parts = _answering(shapes, training.generation_batch, asked, folds=adapter.is_svf)
    working = max(gradient, parts["working"]) + OPTIMISER * adapter.parameters
    return {**parts, "basis": parts["basis"] if adapter.is_svf else 0.0, "working": working}


def _answering_all(
    params: Params, model: Model, batch: int, tasks: Iterable[str], *, folds: bool = False
) -> dict[str, float]:
    """Bytes of a process that answers tasks one after the other, as it has them at its largest."""
    each = [_answering(model.shapes, batch, asked_by(params, model, name), folds=folds) for name in tasks]
    return max(each, key=_total)


def _answering(shapes: Shapes, batch: int, asked: Asked, *, folds: bool) -> dict[str, float]:
    """Bytes of a process that answers, by what takes them."""
    answering = memory.answering(shapes, batch, asked.prompt, asked.reply)
    looking = asked.sight.looking if asked.sight else 0.0
    return {
        "weights": shapes.weight_bytes,
        "basis": memory.basis_of_adapted(shapes),
        "W'": memory.folded(shapes) if folds else 0.0,
        "images": asked.sight.kept if asked.sight else 0.0,
        "working": max(answering, looking, memory.folding(shapes) if folds else 0.0),
    }


def _total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())
