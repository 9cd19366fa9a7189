"""What each stage of the pipeline needs, under given parameters: memory, operations, hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from t2.config.rows import OTHER, Base, Classified, Dispatched, Found, Params, Reward, Single, System, Task
from t2.plan import cost
from t2.plan.cost import Cost, Experts, Speed
from t2.plan.gpus import Gpu
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


@dataclass(frozen=True)
class Model:
    """A base model and what is trained on it.

    Attributes:
        base: Its row.
        shapes: Of the model.
        adapters: What each recipe that is trained on it puts there, by the recipe's row.
        speed: What the GPU reaches in its dtype.
    """

    base: Base
    shapes: Shapes
    adapters: Mapping[str, Attached]
    speed: Speed


def read_models(params: Params, gpu: Gpu) -> dict[str, Model]:
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
        models[name] = Model(base, shapes, adapters, Speed.of(gpu, shapes.width, params.plan))
    return models


def plan_stages(params: Params, models: Mapping[str, Model]) -> list[Stage]:
    """All stages that run a model, in the order of the pipeline.

    Args:
        params: The parameters.
        models: Of every base.
    """
    planners = {name: _Planner(params, model) for name, model in models.items()}
    stages = [planner.basis(name) for name, planner in planners.items()]
    stages += [planners[row.base].train(name) for name, row in params.adapters.items()]
    stages += [planners[row.base].search(name) for name, row in params.searches.items()]
    stages += [planners[row.base].temperature(name) for name, row in params.temperatures.items()]
    return [*stages, _measure(params, planners)]


def _measure(params: Params, planners: Mapping[str, _Planner]) -> Stage:
    """Every system on every task; a process holds one base at a time."""
    places = {name: _tasks_of(params, system) for name, system in params.systems.items()}
    total, memory = Cost(), dict[str, float]()
    for name, system in params.systems.items():
        planner = planners[system.base]
        total = sum((planner.measure(system, task) for task in places[name]), total)
        longest = max((_reward(params.tasks[task]).max_new_tokens for task in places[name]), default=1)
        needed = planner.answering_memory(params.measure.batch, longest, folds=True)
        memory = max(memory, needed, key=lambda parts: sum(parts.values()))
    jobs = len({task for tasks in places.values() for task in tasks})
    return Stage("measure", memory, min(params.execution.workers, jobs), total)


def _tasks_of(params: Params, system: System) -> list[str]:
    """Where a system is measured; what no expert serves only asks for categories."""
    if system.tasks != "all":
        return list(system.tasks)
    families = {params.tasks[params.adapters[name].task].family for name in _adapters_of(params, system)}
    own = system.strategy == "own"
    return [
        name
        for name, task in params.tasks.items()
        if task.role in ("trained", "unseen") and not (own and task.family not in families)
    ] + [name for name, task in params.tasks.items() if task.role == OTHER and isinstance(system, Dispatched)]


def _adapters_of(params: Params, system: System) -> list[str]:
    if isinstance(system, Single):
        return [system.adapter]
    return list(params.sets[system.set].members) if hasattr(system, "set") else []


def _reward(task: Task) -> Reward:
    """A task's reward; where nobody answers, as if with a reply of one token."""
    return task.reward or Reward(kind="dispatch", right=1.0, wrong=0.0, stop=[], max_new_tokens=1)


@dataclass(frozen=True)
class _Planner:
    """Stages on one base."""

    params: Params
    model: Model

    @property
    def shapes(self) -> Shapes:
        return self.model.shapes

    def basis(self, name: str) -> Stage:
        """One matrix after the other."""
        working = float(cost.decomposing(self.shapes))
        return Stage(f"basis@{name}", {"working": working}, 1, cost.basis(self.shapes, self.model.speed))

    def train(self, name: str) -> Stage:
        """An adapter, once per seed."""
        row = self.params.adapters[name]
        adapter, longest = self.model.adapters[row.recipe], _reward(self.params.tasks[row.task]).max_new_tokens
        seeds = len(adapter.recipe.seeds)
        memory = self._training_memory(adapter, longest)
        spent = self._training_cost(adapter, self._valid_items(row.task), longest)
        return Stage(f"train@{name}", memory, self._side_by_side(seeds), seeds * spent)

    def search(self, name: str) -> Stage:
        """A search per seed and draw; a generation is one mixed batch of the population on the shots."""
        row, batch = self.params.searches[name], self.params.search.batch
        budget, longest = self.params.budgets[row.budget], _reward(self.params.tasks[row.task]).max_new_tokens
        draws = budget.draws * self._seeds(self.params.sets[row.set].members)
        generation = self._answers(budget.population * budget.shots, longest, "many", batch)
        memory = self.answering_memory(batch, longest, folds=False)
        return Stage(f"search@{name}", memory, self._side_by_side(draws), draws * budget.generations * generation)

    def temperature(self, name: str) -> Stage:
        """A first pass and an answer a value, on every validation item, per seed."""
        row, batch = self.params.temperatures[name], self.params.search.batch
        seeds = self._seeds(self.params.sets[row.set].members)
        spent, longest = Cost(), 1
        for task in row.tasks:
            count, reply = self.params.tasks[task].sizes.valid, _reward(self.params.tasks[task]).max_new_tokens
            longest = max(longest, reply)
            spent += self._answers(count, 1, "none", batch)
            spent += len(row.values) * self._answers(count, reply, "many", batch)
        memory = self.answering_memory(batch, longest, folds=False)
        return Stage(f"temperature@{name}", memory, self._side_by_side(seeds), seeds * spent)

    def measure(self, system: System, task: str) -> Cost:
        """A system on a task, with all seeds and draws."""
        row, batch = self.params.tasks[task], self.params.measure.batch
        count, longest = row.sizes.test, _reward(row).max_new_tokens
        adapters = _adapters_of(self.params, system)
        runs, experts = self._seeds(adapters), self._experts(adapters)
        if isinstance(system, Found):
            budgets = [s.budget for name in system.searches if (s := self.params.searches[name]).task == task]
            runs *= max((self.params.budgets[budget].draws for budget in budgets), default=1)
        if not isinstance(system, Dispatched):
            return runs * self._answers(count, longest, experts, batch)
        reply = _reward(self.params.tasks[system.dispatch]).max_new_tokens
        # The base model is asked once for all seeds, the classifier with each of its own.
        if isinstance(system, Classified):
            asked = runs * self._answers(count, reply, "one", batch)
        else:
            asked = self._answers(count, reply, "none", batch)
        if row.role == OTHER:
            return asked
        # Once more in mixed batches, to time both passes.
        return asked + runs * self._answers(count, longest, "one", batch) + self._answers(count, longest, "many", batch)

    def answering_memory(self, batch: int, longest: int, *, folds: bool) -> dict[str, float]:
        """Bytes of a process that answers, by what takes them."""
        return self._answering_memory(self.shapes, batch, longest, folds=folds)

    # Parts

    def _side_by_side(self, jobs: int) -> int:
        return min(self.params.execution.workers, jobs)

    def _seeds(self, adapters: list[str]) -> int:
        """Of adapters, which are taken seed by seed; 1 where nothing was trained."""
        rows = [self.params.recipes[self.params.adapters[name].recipe] for name in adapters]
        return len(rows[0].seeds) if rows else 1

    def _experts(self, adapters: list[str]) -> Experts:
        """What runs beside the base: a LoRA's operations are few."""
        methods = {self.params.recipes[self.params.adapters[name].recipe].method for name in adapters}
        return "one" if methods == {"svf"} else "none"

    def _valid_items(self, task: str) -> int:
        """Items of a validation split; that of a dispatching task is made of several."""
        row = self.params.tasks[task]
        return row.sizes.valid * len(getattr(row.source, "tasks", [task]))

    def _answers(self, count: float, longest: int, experts: Experts, batch: int, *, builds_fold: bool = True) -> Cost:
        return cost.generate(
            self.shapes,
            self.model.speed,
            count,
            prompt=self.params.plan.prompt_tokens,
            reply=self._reply(longest),
            longest=longest,
            batch=batch,
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

    def _training_cost(self, adapter: Attached, valid: int, longest: int) -> Cost:
        training, train = self.params.training, adapter.recipe.train
        experts: Experts = "one" if adapter.is_svf else "none"
        batch = training.generation_batch
        reply = 1 if train.objective == "expected_reward" else self._reply(longest)
        step = cost.step(
            adapter,
            self.model.speed,
            batch=training.batch,
            micro_batch=int(self._samples_at_once(reply)),
            prompt=self.params.plan.prompt_tokens,
            reply=reply,
            divergence=train.kl > 0,
            recompute=training.gradient_checkpointing,
        )
        if train.objective == "reinforce":
            step += self._answers(training.batch, longest, experts, batch)
        elif adapter.is_svf:
            step += self.model.speed.cost(single=cost.fold(adapter.shapes))
        # The rollouts of the next step run in the same W'.
        validation = self._answers(valid, longest, experts, batch, builds_fold=False)
        return train.steps * step + (1 + train.steps // training.valid_every) * validation

    def _training_memory(self, adapter: Attached, longest: int) -> dict[str, float]:
        shapes, training, first = adapter.shapes, self.params.training, adapter.first
        kept = cost.kept_by_layers(shapes, first)
        kept += cost.kept_by_svf(shapes) if adapter.is_svf else cost.kept_by_lora(adapter)
        recomputed = 0.0
        if training.gradient_checkpointing:
            kept, recomputed = cost.kept_inputs(shapes, first), kept / (shapes.layers - first)
        gradient = cost.learning(
            shapes,
            kept,
            samples=self._samples_at_once(longest),
            prompt=self.params.plan.prompt_tokens,
            reply=longest,
            divergence=adapter.recipe.train.kl > 0,
            recomputed=recomputed,
            chunk=training.logit_chunk,
        )
        memory = self._answering_memory(shapes, training.generation_batch, longest, folds=adapter.is_svf)
        if not adapter.is_svf:
            memory["basis"] = 0.0
        working = max(gradient, memory["working"])
        return {**memory, "working": working + OPTIMISER * adapter.parameters}

    def _answering_memory(self, shapes: Shapes, batch: int, longest: int, *, folds: bool) -> dict[str, float]:
        answering = cost.answering(shapes, batch, self.params.plan.prompt_tokens, longest)
        return {
            "weights": shapes.weight_bytes,
            "basis": cost.basis_of_adapted(shapes),
            "W'": cost.folded(shapes) if folds else 0.0,
            "working": max(answering, cost.folding(shapes) if folds else 0.0),
        }
