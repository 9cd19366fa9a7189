"""What each stage of the pipeline needs, under given parameters: memory, operations, hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from t2.config.rows import Params, Recipe
from t2.plan import cost
from t2.plan.cost import Cost, Experts, Speed
from t2.plan.shapes import Shapes

OPTIMISER = 16
"""Bytes a trainable parameter: itself, its gradient and AdamW's two moments, in float32."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: As DVC calls it.
        memory: Bytes of one process at its peak, by what takes them.
        processes: How many run side by side.
        cost: Of all of them together, as if one GPU did everything in turn.
    """

    name: str
    memory: Mapping[str, float]
    processes: int
    cost: Cost

    @property
    def total(self) -> float:
        """Bytes of all processes."""
        return self.processes * sum(self.memory.values())


def plan_stages(params: Params, shapes: Shapes, control: Shapes | None, speed: Speed) -> list[Stage]:
    """All stages that run a model, in the order of the pipeline.

    Args:
        params: The parameters.
        shapes: Of the base model.
        control: Of the control base, where there is one.
        speed: What the GPU reaches.
    """
    base = _Model(params, shapes, speed)
    other = None if control is None else _Model(params, control, speed)
    stages = [base.basis(other)]
    stages += [
        base.training(f"expert@{name}", [(recipe, *_learned(params, name))]) for name, recipe in params.experts.items()
    ]
    sizes, families = params.classifier.per_family, len(params.trained)
    dispatched = (families * sizes.valid, params.classifier.max_new_tokens)
    stages.append(base.training("classifier", [(params.classifier.recipe, *dispatched)]))
    tasks = [_learned(params, name) for name in params.trained]
    stages.append(base.training("baselines", [(r, *task) for r in params.baselines.values() for task in tasks]))
    if other is not None:
        stages.append(other.training("control", [(r, *_learned(params, name)) for name, r in params.experts.items()]))
    stages += [base.adaptation(name) for name in params.unseen]
    stages.append(base.benchmark(other))
    return [stage for stage in stages if stage.processes]


def _learned(params: Params, task: str) -> tuple[int, int]:
    """Validation items and longest reply of a trained task."""
    return params.trained[task].sizes.valid, params.trained[task].max_new_tokens


@dataclass(frozen=True)
class _Model:
    params: Params
    shapes: Shapes
    speed: Speed

    def basis(self, control: _Model | None) -> Stage:
        """One matrix after the other, of both bases."""
        models = [self, control] if control is not None else [self]
        working = max(cost.decomposing(model.shapes) for model in models)
        total = sum((cost.basis(model.shapes, model.speed) for model in models), Cost())
        return Stage("basis", {"working": float(working)}, 1, total)

    def training(self, name: str, adapters: list[tuple[Recipe, int, int]]) -> Stage:
        """Adapters of (recipe, validation items, longest reply), each once a seed."""
        seeds = len(self.params.training.seeds)
        parts = [self._training_memory(recipe, longest) for recipe, _, longest in adapters]
        total = sum((self._training_cost(*adapter) for adapter in adapters), Cost())
        largest = max(parts, key=lambda part: sum(part.values()), default={})
        return Stage(name, largest, self._side_by_side(seeds * len(adapters)), seeds * total)

    def adaptation(self, task: str) -> Stage:
        """A search a draw; a generation is one mixed batch of the population on the shots."""
        settings = self.params.adaptation
        declared = self.params.unseen[task]
        generation = self._answers(settings.cem.population * settings.shots, declared.max_new_tokens, "many")
        memory = self._answering_memory(declared.max_new_tokens, folds=False)
        searches = settings.draws * settings.cem.generations * generation
        return Stage(f"adapt@{task}", memory, self._side_by_side(settings.draws), searches)

    def benchmark(self, control: _Model | None) -> Stage:
        """Every system on every task, and the dispatchers."""
        params, total, jobs = self.params, Cost(), 0
        seeds, experts = len(params.training.seeds), len(params.trained)
        dispatch = params.classifier.max_new_tokens
        for name, task in params.tasks.items():
            count, longest = task.sizes.test, task.max_new_tokens
            own = sum(trained.family == task.family for trained in params.trained.values())
            draws = params.adaptation.draws if name in params.unseen else 0
            total += self._answers(count, longest, "none")
            total += (seeds * (experts + 1) + draws) * self._answers(count, longest, "one")
            # First passes: by the base model and by the classifier expert; second passes in mixed batches.
            total += seeds * (self._answers(count, dispatch, "none") + self._answers(count, dispatch, "one"))
            total += 2 * seeds * self._answers(count, longest, "many")
            total += len(params.baselines) * own * seeds * self._answers(count, longest, "none")
            if control is not None:
                total += control._answers(count, longest, "none")
                total += own * seeds * control._answers(count, longest, "one")
            jobs += 2 + len(params.baselines) + (control is not None)
        if params.other is not None:
            count, jobs = params.other.sizes.test, jobs + 1
            total += seeds * (self._answers(count, dispatch, "none") + self._answers(count, dispatch, "one"))
        memory = self._answering_memory(max(task.max_new_tokens for task in params.tasks.values()), folds=True)
        return Stage("benchmark", memory, self._side_by_side(jobs), total)

    # Parts

    def _side_by_side(self, jobs: int) -> int:
        return min(self.params.execution.workers, jobs)

    def _answers(self, count: float, longest: int, experts: Experts, *, builds_fold: bool = True) -> Cost:
        return cost.generate(
            self.shapes,
            self.speed,
            count,
            prompt=self.params.plan.prompt_tokens,
            reply=self._reply(longest),
            longest=longest,
            batch=self.params.benchmark.batch,
            experts=experts,
            builds_fold=builds_fold,
        )

    def _reply(self, longest: int) -> float:
        return max(1.0, self.params.plan.reply_share * longest)

    def _samples_at_once(self, reply: float) -> float:
        """Of a micro-batch, filled to the last token."""
        training = self.params.training
        if training.micro_tokens is None:
            return training.micro_batch
        return min(training.micro_batch, max(1.0, training.micro_tokens / (self.params.plan.prompt_tokens + reply)))

    def _training_cost(self, recipe: Recipe, valid: int, longest: int) -> Cost:
        training, svf = self.params.training, recipe.method == "svf"
        experts: Experts = "one" if svf else "none"
        step = cost.step(
            self.shapes,
            self.speed,
            batch=training.batch,
            micro_batch=int(self._samples_at_once(self._reply(longest))),
            prompt=self.params.plan.prompt_tokens,
            reply=self._reply(longest),
            divergence=recipe.kl > 0,
            lora_rank=None if svf else self.params.lora.rank,
            recompute=training.gradient_checkpointing,
        )
        if recipe.objective == "reinforce":
            step += self._answers(training.batch, longest, experts)
        elif svf:
            step += self.speed.cost(single=cost.fold(self.shapes))
        # The rollouts of the next step run in the same W'.
        validation = self._answers(valid, longest, experts, builds_fold=False)
        return recipe.steps * step + (1 + recipe.steps // training.valid_every) * validation

    def _training_memory(self, recipe: Recipe, longest: int) -> dict[str, float]:
        shapes, training, svf = self.shapes, self.params.training, recipe.method == "svf"
        first = shapes.first_adapted if svf else 0
        kept = cost.kept_by_layers(shapes, first)
        kept += cost.kept_by_svf(shapes) if svf else cost.kept_by_lora(shapes, self.params.lora.rank)
        recomputed = 0.0
        if training.gradient_checkpointing:
            kept, recomputed = cost.kept_inputs(shapes, first), kept / (shapes.layers - first)
        gradient = cost.learning(
            shapes,
            kept,
            samples=self._samples_at_once(longest),
            prompt=self.params.plan.prompt_tokens,
            reply=longest,
            divergence=recipe.kl > 0,
            recomputed=recomputed,
            chunk=training.logit_chunk,
        )
        memory = self._answering_memory(longest, folds=svf)
        if not svf:
            memory["basis"] = 0.0
        working = max(gradient, memory["working"])
        return {**memory, "working": working + OPTIMISER * (shapes.svf if svf else shapes.lora)}

    def _answering_memory(self, longest: int, *, folds: bool) -> dict[str, float]:
        shapes = self.shapes
        answering = cost.answering(shapes, self.params.benchmark.batch, self.params.plan.prompt_tokens, longest)
        return {
            "weights": shapes.weight_bytes,
            "basis": cost.basis_of_adapted(shapes),
            "W'": cost.folded(shapes) if folds else 0.0,
            "working": max(answering, cost.folding(shapes) if folds else 0.0),
        }
