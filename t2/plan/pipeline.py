"""What each stage of the pipeline needs of memory, under given parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from t2.config.rows import Base, Params, Task
from t2.plan import memory
from t2.plan.shapes import Attached, Shapes, read_adapter, read_shapes

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
        adapters: What each recipe that is trained on it puts there, by the recipe's row.
    """

    base: Base
    shapes: Shapes
    adapters: Mapping[str, Attached]


def read_models(params: Params) -> dict[str, Model]:
    """All base models, by their rows.

    Raises:
        PlanError: A model's configuration cannot be found.
        ValueError: A row names a layer or a module that its model does not have.
    """
    models = {}
    for name, base in params.bases.items():
        shapes = read_shapes(base)
        trained = dict.fromkeys(row.recipe for row in params.adapters.values() if row.base == name)
        adapters = {recipe: read_adapter(base, params.recipes[recipe], shapes) for recipe in trained}
        models[name] = Model(base, shapes, adapters)
    return models


def plan_stages(params: Params, models: Mapping[str, Model]) -> list[Stage]:
    """All stages that run a model, in the order of the pipeline.

    Args:
        params: The parameters.
        models: Of every base.
    """
    tasks, workers = params.tasks, params.execution.workers
    stages = [Stage(f"basis@{n}", {"working": memory.decomposing(m.shapes)}, 1) for n, m in models.items()]
    for name, row in params.adapters.items():
        adapter = models[row.base].adapters[row.recipe]
        needed = _training(params, adapter, _longest(tasks[row.task]))
        stages.append(Stage(f"train@{name}", needed, min(workers, len(adapter.recipe.seeds))))
    for name, search in params.searches.items():
        needed = _answering(params, models[search.base].shapes, params.search.batch, _longest(tasks[search.task]))
        draws = params.budgets[search.budget].draws * len(params.seeds_of(search.set))
        stages.append(Stage(f"search@{name}", needed, min(workers, draws)))
    for name, found in params.temperatures.items():
        longest = max(_longest(tasks[task]) for task in found.tasks)
        needed = _answering(params, models[found.base].shapes, params.search.batch, longest)
        stages.append(Stage(f"temperature@{name}", needed, min(workers, len(params.seeds_of(found.set)))))
    measured = [task for task in tasks.values() if task.role != "dispatch"]
    longest = max(map(_longest, measured))
    all_bases = [
        _answering(params, models[base].shapes, params.measure.batch, longest, folds=True)
        for base in {system.base for system in params.systems.values()}
    ]
    needed = max(all_bases, key=lambda parts: sum(parts.values()))
    return [*stages, Stage("measure", needed, min(workers, len(measured)))]


def _longest(task: Task) -> int:
    """Tokens of a task's longest reply; where nobody answers, one."""
    return task.reward.max_new_tokens if task.reward else 1


def _training(params: Params, adapter: Attached, longest: int) -> dict[str, float]:
    """Bytes of a process that trains, by what takes them."""
    shapes, training, first = adapter.shapes, params.training, adapter.first
    if adapter.recipe.train.objective == "expected_reward":  # nothing is sampled: an option's letter is the reply
        longest = 1
    kept = memory.kept_by_layers(shapes, first)
    kept += memory.kept_by_svf(shapes) if adapter.is_svf else memory.kept_by_lora(adapter)
    recomputed = 0.0
    if training.gradient_checkpointing:
        kept, recomputed = memory.kept_inputs(shapes, first), kept / (shapes.layers - first)
    samples: float = training.micro_batch
    if training.micro_tokens is not None:  # filled to the last token
        samples = min(samples, max(1.0, training.micro_tokens / (params.plan.prompt_tokens + longest)))
    gradient = memory.learning(
        shapes,
        kept,
        samples=samples,
        prompt=params.plan.prompt_tokens,
        reply=longest,
        divergence=adapter.recipe.train.kl > 0,
        recomputed=recomputed,
        chunk=training.logit_chunk,
    )
    parts = _answering(params, shapes, training.generation_batch, longest, folds=adapter.is_svf)
    working = max(gradient, parts["working"]) + OPTIMISER * adapter.parameters
    return {**parts, "basis": parts["basis"] if adapter.is_svf else 0.0, "working": working}


def _answering(params: Params, shapes: Shapes, batch: int, longest: int, *, folds: bool = False) -> dict[str, float]:
    """Bytes of a process that answers, by what takes them."""
    answering = memory.answering(shapes, batch, params.plan.prompt_tokens, longest)
    return {
        "weights": shapes.weight_bytes,
        "basis": memory.basis_of_adapted(shapes),
        "W'": memory.folded(shapes) if folds else 0.0,
        "working": max(answering, memory.folding(shapes) if folds else 0.0),
    }
