"""Stage ``measure``: every system on every task that it names, on test items that no adaptation saw.

A finished cell stays for as long as its key holds, over kills and over runs: see :mod:`t2.stages.cells`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from t2.adaptation.first_pass import Ask, dispatch, likeliest, loglikelihoods
from t2.adaptation.in_context import with_shots
from t2.adaptation.strategies import STRATEGIES, Choice, Setting, by_belief, by_category, equal_parts
from t2.adaptation.two_pass import answer, generate
from t2.adaptation.weighted import WeightedAdapters, coordinates
from t2.config.rows import (
    OTHER,
    SVF,
    Classified,
    Dispatched,
    Found,
    InContext,
    Oracle,
    Params,
    Reward,
    Single,
    Soft,
    System,
    Uniform,
    VqaReward,
)
from t2.engine.base import Engine, Generation, Sampling
from t2.engine.hf import HfEngine
from t2.engine.select import load, svf_engine, vision
from t2.sandbox import Sandbox
from t2.stages import cells, members, paths
from t2.stages.cells import Cell, Place, Reply
from t2.stages.fingerprint import declared, digest
from t2.stages.members import Member
from t2.stages.progress import Progress
from t2.stages.stage import open_stage
from t2.stages.workers import Report, run_jobs
from t2.svf import BasisCache
from t2.svf.experts import Z
from t2.svf.language import load_onto
from t2.svf.mixture import Mixture
from t2.svf.pretrained import load_adapter
from t2.tasks.classification import categories_of
from t2.tasks.grading import GRADERS, credit, limits_of
from t2.tasks.item import Item, read_items


def main() -> None:
    """Measures what is not there yet, and writes the index of all cells."""
    with open_stage("measure") as stage:
        params = stage.params
        plans = plan(params, declared(stage.address))
        of_main = [each.place for each in plans if f"systems.{each.system}" in params.taken]
        found = {cell.place: cell for cell in cells.take(of_main)}
        own = [each for each in plans if each.place not in found]
        tasks = list(dict.fromkeys(each.task for each in own))
        # One process loads a base once for all tasks; several share the tasks.
        jobs = {task: [task] for task in tasks} if params.execution.workers > 1 else {"all": tasks}
        progress = Progress("measure", len(own))
        worker = Worker(params)
        results: dict[str, list[Cell]] = run_jobs(
            {job: partial(make_cells, worker, [each for each in own if each.task in of]) for job, of in jobs.items()},
            at_once=params.execution.workers,
            on_report=lambda job, row: progress.advance(job, made=row["made"]),
        )
        found |= {cell.place: cell for of_job in results.values() for cell in of_job}
        ordered = [found[each.place] for each in plans]
        cells.write_index(ordered)
        for path in filter(Path.exists, {cells.isolation_file(key) for cell in ordered for key in cell.grades}):
            stage.note_isolation(cells.read_values(path))
        stage.run.log_params({"measure": params.measure.model_dump(), "cells": len(ordered)})


@dataclass(frozen=True)
class Plan:
    """A cell to be measured.

    Attributes:
        system: Its row's name.
        task: The row of the task.
        seed: Of the adapters.
        draw: Of the shots.
        timed: Whether both passes are timed: once per system and task.
        inputs: What every key of it holds: code, base, engine, items.
        graders: The code that grades hang on besides.
    """

    system: str
    task: str
    seed: int | None
    draw: int | None
    timed: bool
    inputs: Mapping[str, Any]
    graders: Mapping[str, Any]

    @property
    def place(self) -> Place:
        """Where its cell stands in the index."""
        return self.system, self.task, self.seed, self.draw


def plan(params: Params, inputs: Mapping[str, Any]) -> list[Plan]:
    """Every cell of the present parameters, in the order of systems, tasks, seeds and draws.

    Args:
        params: The parameters.
        inputs: The stage's declared inputs, as :func:`t2.stages.fingerprint.declared` gives them.

    Raises:
        ValueError: A test item was seen by a search.
    """
    code = {name: value for name, value in inputs.items() if name.startswith("t2/")}
    graders = {name: value for name, value in code.items() if _is_grader(name)}
    shared = {
        "code": {name: value for name, value in code.items() if name not in graders},
        "engine": params.engine.model_dump(),
        "batch": params.measure.batch,
        "threads": params.training.threads,
    }
    plans = []
    for name, system in params.systems.items():
        base = params.bases[system.base].model_dump(exclude={"label", "files"})
        for task in tasks_of(params, system):
            prompts = {"base": base, "basis": _folder_digest(paths.basis(system.base)), "items": _items_digest(task)}
            for place, (seed, draw) in enumerate(_runs(params, system, task)):
                timed = isinstance(system, Dispatched) and place == 0 and params.tasks[task].role != OTHER
                plans.append(Plan(name, task, seed, draw, timed, {**shared, **prompts}, graders))
    return plans


def tasks_of(params: Params, system: System) -> list[str]:
    """Where a system is measured; dispatchers also on prompts that no expert serves."""
    if system.tasks != "all":
        return list(system.tasks)
    roles = {"trained", "unseen"} | ({OTHER} if isinstance(system, Dispatched) else set())
    families = {member.family for member in members_of(params, system)}
    own = system.strategy == "own"
    return [
        name for name, task in params.tasks.items() if task.role in roles and not (own and task.family not in families)
    ]


def members_of(params: Params, system: System) -> list[Member]:
    """The adapters that a system chooses from."""
    if isinstance(system, Single):
        return [members.read(system.adapter)]
    names = params.sets[system.set].members if hasattr(system, "set") else []
    return [members.read(name) for name in names]


def refuse_seen(items: Sequence[Item], seen: Sequence[str], search: str) -> None:
    """Refuses items that a search saw, before anything is generated for them.

    Raises:
        ValueError: Names the items.
    """
    leaked = sorted({item.id for item in items} & set(seen))
    if leaked:
        raise ValueError(
            f"{len(leaked)} test item(s) were seen by search {search}: {', '.join(leaked[:10])}; make the splits "
            "again, shots are never reported on"
        )


def _runs(params: Params, system: System, task: str) -> list[tuple[int | None, int | None]]:
    """Seeds and draws of a system on a task."""
    if system.strategy == "none":
        return [(None, None)]
    if isinstance(system, Found | InContext):
        search = params.searches[_search_of(params, system, task)]
        draws, seeds = params.budgets[search.budget].draws, params.seeds_of(search.set)
        return [(seed, draw) for draw in range(draws) for seed in seeds]
    return [(seed, None) for seed in members_of(params, system)[0].valid_scores]


def _search_of(params: Params, system: Found | InContext, task: str) -> str:
    found = [name for name in system.searches if params.searches[name].task == task]
    if not found:
        raise ValueError(f"{system.label}: no search of {', '.join(system.searches)} is for {task}; correct `tasks`")
    return found[0]


# In a worker


def make_cells(worker: Worker, plans: Sequence[Plan], report: Report) -> list[Cell]:
    """Makes what is missing of some cells; a stage does so in processes of their own.

    Returns:
        The cells, in the order in which they were made.
    """
    torch.set_num_threads(worker.params.training.threads)
    with Sandbox(worker.params.sandbox) as sandbox:
        done = []
        for each in sorted(plans, key=partial(_turn, worker.params)):
            before = worker.made
            done.append(worker.cell(each, sandbox))
            report({"made": worker.made - before})
    return done


def _turn(params: Params, each: Plan) -> tuple[int, bool]:
    """Base after base; on each, systems with a first pass last, since they take what others have replied."""
    system = params.systems[each.system]
    return list(params.bases).index(system.base), isinstance(system, Dispatched)


class Worker:
    """Models and adapters of one process, each loaded once, and what it makes with them."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.made = 0
        self.experts = cache(self._experts)
        self.basis = cache(lambda base: BasisCache.open(paths.basis(base)))
        self._loaded: tuple[str, Engine] | None = None

    def keep(self, path: Path, make: Callable[[], None]) -> None:
        """Makes a file that is not there yet. Of a cell, each is asked for once: first pass, replies, grades."""
        if not path.exists():
            make()
            self.made += 1

    def cell(self, each: Plan, sandbox: Sandbox) -> Cell:
        """Makes what is missing of a cell."""
        system = self.params.systems[each.system]
        items = read_items(paths.split(each.task, "test"))
        categories = self._categories(each, system, items)
        cell = Cell(each.system, each.task, each.seed, each.draw, categories=categories)
        if self.params.tasks[each.task].role == OTHER:
            return cell
        found = members_of(self.params, system)
        rows = None
        if isinstance(system, InContext):
            made = [self._shown(each, system, items)]
        elif isinstance(system, Oracle):
            made = [self._alone(each, system, member, items) for member in found]
        elif found and found[0].method != SVF and not isinstance(system, Uniform | Found):
            adapter = next(member for member in found if member.family == self.params.tasks[each.task].family)
            made = [self._alone(each, system, adapter, items)]
        else:
            choice = self._choice(each, system, items, categories)
            parts = _parts(choice)
            made = [self._mixed(each, system, choice, part, items) for part in parts]
            part_of = {mixture: place for place, part in enumerate(parts) for mixture in part}
            rows = tuple(part_of[row] for row in choice.rows) if len(parts) > 1 else None
            if each.timed:
                self._time(each, system, items, replace(cell, replies=tuple(made)))
        grades = tuple(self._grades(each, key, items, sandbox) for key in made)
        if isinstance(system, Oracle):
            right = [sum(cells.read_values(cells.grades_file(key))) for key in grades]
            rows = (right.index(max(right)),) * len(items)
        return replace(cell, replies=tuple(made), grades=grades, rows=rows)

    # Which mixtures

    def _choice(self, each: Plan, system: System, items: Sequence[Item], categories: str | None) -> Choice:
        setting = self._setting(each, system)
        if categories is not None:
            if isinstance(system, Soft):
                found, ask = cells.read_values(cells.logliks_file(categories)), _ask(self.params, system)
                logliks = [found[item.id] for item in items]
                return by_belief(setting.families, ask.categories, logliks, self._temperature(each, system))
            called = cells.read_values(cells.categories_file(categories))
            return by_category(setting.families, [called[item.id] for item in items])
        return STRATEGIES[system.strategy](setting, [item.prompt for item in items])

    def _setting(self, each: Plan, system: System, engine: Engine | None = None) -> Setting:
        params = self.params
        mixture = None
        if isinstance(system, Uniform):
            budget = params.budgets[system.budget] if system.budget else None
            mixture = self._effective(each, equal_parts(params.sets[system.set].members, budget))
        if isinstance(system, Found):
            outcome = self._outcome(each, system)
            mixture = self._effective(each, Mixture(outcome["alpha"], outcome["form"], outcome["renormalise"]))
        return Setting(
            families={member.name: member.family for member in members_of(params, system)},
            family=params.tasks[each.task].family,
            mixture=mixture,
            ask=_ask(params, system) if isinstance(system, Dispatched) else None,
            engine=engine,
            classifier=self._z(system.adapter, system.base, each.seed) if isinstance(system, Classified) else None,
            temperature=self._temperature(each, system) if isinstance(system, Soft) else None,
        )

    def _outcome(self, each: Plan, system: Found | InContext) -> dict[str, Any]:
        """What a search found on shots that are not reported on."""
        search = _search_of(self.params, system, each.task)
        file = paths.search(search, each.seed or 0, each.draw or 0) / "alpha.json"
        outcome: dict[str, Any] = json.loads(file.read_text())
        refuse_seen(read_items(paths.split(each.task, "test")), outcome["shots"], search)
        return outcome

    def _effective(self, each: Plan, mixture: Mixture) -> Mixture:
        if not mixture.needs_sigma:
            return mixture
        experts = self.experts(each.system, each.seed)
        return mixture.effective(experts, self._sigma(self.params.systems[each.system].base, experts))

    def _temperature(self, each: Plan, system: Soft) -> float:
        """What was found on items that are not reported on."""
        outcome = json.loads(paths.temperature(system.temperature, each.seed or 0).read_text())
        refuse_seen(read_items(paths.split(each.task, "test")), outcome["items"], system.temperature)
        return float(outcome["temperature"])

    def _z(self, name: str, base: str, seed: int | None) -> Z:
        """Z of an adapter; one that was made for other weights than the base's is refused."""
        return load_onto(paths.adapter(name, seed or 0), self.basis(base)).z

    def _experts(self, system: str, seed: int | None) -> dict[str, Z]:
        """Z of a system's members, by name; of LoRA adapters, axes."""
        row = self.params.systems[system]
        found = members_of(self.params, row)
        if found and found[0].method != SVF:
            return coordinates([member.name for member in found])
        return {member.name: self._z(member.name, row.base, seed) for member in found}

    # What is made

    def _categories(self, each: Plan, system: System, items: Sequence[Item]) -> str | None:
        """What the first pass calls a task's prompts; the base model is asked once for all seeds."""
        if not isinstance(system, Dispatched):
            return None
        ask = _ask(self.params, system)
        under = self._source(system.adapter, each.seed) if isinstance(system, Classified) else None
        key = _key(each.inputs, ask=repr(ask), under=under)

        def make() -> None:
            classifier = self._z(system.adapter, system.base, each.seed) if isinstance(system, Classified) else None
            engine, prompts, ids = self._svf(system.base), [item.prompt for item in items], [item.id for item in items]
            if ask.reading == "likelihood":
                logliks = loglikelihoods(engine, prompts, ask, classifier=classifier)
                cells.write_values(cells.logliks_file(key), dict(zip(ids, logliks, strict=True)))
                named = likeliest(logliks, ask.categories)
            else:
                named = dispatch(engine, prompts, ask, classifier=classifier)
            cells.write_values(cells.categories_file(key), dict(zip(ids, named, strict=True)))

        self.keep(cells.categories_file(key), make)
        return key

    def _mixed(self, each: Plan, system: System, choice: Choice, part: Sequence[int], items: Sequence[Item]) -> str:
        """Replies under some of a choice's mixtures: of all items, or where others have others, of these."""
        sampling = self._sampling(each)
        mixtures = [choice.mixtures[place] for place in part]
        terms = [(self._weights(mixture, each.seed), [mixture.form, mixture.renormalise]) for mixture in mixtures]
        rows = tuple(part.index(row) for row in choice.rows if row in part)
        keyed: dict[str, Any] = {"mixture": terms[0][0], "form": terms[0][1], "sampling": repr(sampling)}
        if len(part) > 1:
            keyed = {"mixtures": terms, "rows": rows, "sampling": repr(sampling)}
        # What another system has for all items serves here too.
        key = _key(each.inputs, **keyed)
        if len(part) < len(choice.mixtures) and not cells.replies_file(key).exists():
            items = [item for item, row in zip(items, choice.rows, strict=True) if row in part]
            key = _key(each.inputs, **keyed, ids=[item.id for item in items])

        def make() -> None:
            experts = self.experts(each.system, each.seed)
            own = Choice(tuple(mixtures), rows, (None,) * len(rows))
            prompts = [item.prompt for item in items]
            _write(key, items, generate(self._mixing(each, system), prompts, sampling, own, experts))

        self.keep(cells.replies_file(key), make)
        return key

    def _weights(self, mixture: Mixture, seed: int | None) -> dict[str, Any]:
        """What each member weighs, and the bytes that it is."""
        return {
            name: (list(row) if isinstance(row, Sequence) else row, self._source(name, seed))
            for name, row in mixture.alpha.items()
        }

    def _alone(self, each: Plan, system: System, adapter: Member, items: Sequence[Item]) -> str:
        """Replies of one adapter, of any method."""
        if adapter.method == SVF:
            choice = Choice.same(Mixture({adapter.name: 1.0}), len(items))
            return self._mixed(each, system, choice, (0,), items)
        folder = paths.adapter(adapter.name, each.seed or 0)
        sampling = self._sampling(each)
        key = _key(each.inputs, adapter=_folder_digest(folder), sampling=repr(sampling))

        def make() -> None:
            base, batch = self.params.bases[system.base], self.params.measure.batch
            model, tokenizer = load(base, self.params.execution.device)
            adapted = load_adapter(model, folder)
            engine = HfEngine(adapted, tokenizer, batch_size=batch, vision=vision(base, adapted))
            _write(key, items, engine.generate([item.prompt for item in items], sampling))

        self.keep(cells.replies_file(key), make)
        return key

    def _shown(self, each: Plan, system: InContext, items: Sequence[Item]) -> str:
        """Replies of the base model to prompts that open with a search's shots."""
        budget = self.params.budgets[self.params.searches[_search_of(self.params, system, each.task)].budget]
        pool = {item.id: item for item in read_items(paths.split(each.task, budget.split))}
        shots = [pool[name] for name in self._outcome(each, system)["shots"]]
        sampling = self._sampling(each)
        key = _key(each.inputs, shots=repr(shots), sampling=repr(sampling))

        def make() -> None:
            prompts = [with_shots(item.prompt, shots) for item in items]
            bare = [-1] * len(items)
            _write(key, items, self._svf(system.base).generate(prompts, sampling, experts={}, rows=bare))

        self.keep(cells.replies_file(key), make)
        return key

    def _grades(self, each: Plan, key: str, items: Sequence[Item], sandbox: Sandbox) -> str:
        reward = self.params.tasks[each.task].reward
        kind = reward.kind if reward else ""
        limits = limits_of(kind, self.params.sandbox)
        own = {name: value for name, value in each.graders.items() if _is_grader(name, kind)}
        rules = {"statement": reward.statement} if isinstance(reward, VqaReward) else {}
        grades = digest({"replies": key, "code": own, "kind": kind, "sandbox": limits, **rules})[:32]

        def make() -> None:
            asked, replies = {item.id: item for item in items}, cells.read_replies(key)
            right = self._right(reward, replies, asked, sandbox)
            rest = [reply for reply in replies if right[reply.id] < 1]
            flexibly = right | self._right(reward, rest, asked, sandbox, flexible=True)
            # Grades last, or a kill in between would leave them without the others.
            if kind == "code":
                cells.write_values(cells.isolation_file(grades), sandbox.isolation)
            cells.write_values(cells.flexible_file(grades), [flexibly[reply.id] for reply in replies])
            cells.write_values(cells.grades_file(grades), [right[reply.id] for reply in replies])

        self.keep(cells.grades_file(grades), make)
        return grades

    def _right(
        self, reward: Reward | None, replies: Sequence[Reply], asked: Mapping[str, Item], sandbox: Sandbox, **how: bool
    ) -> dict[str, bool | float]:
        """How right replies are, by the item's id."""
        items, texts = [asked[reply.id] for reply in replies], [reply.text for reply in replies]
        right = credit(reward.kind if reward else "", items, texts, sandbox, reward=reward, **how)
        return {reply.id: False if reply.too_long else good for good, reply in zip(right, replies, strict=True)}

    def _time(self, each: Plan, system: System, items: Sequence[Item], cell: Cell) -> None:
        """Both passes as a user would run them: replies under different experts share their batches."""
        path = cells.timings_file(cell)
        if path.exists():
            return
        engine = self._svf(system.base)
        outcome = answer(
            engine,
            [item.prompt for item in items],
            self._sampling(each),
            STRATEGIES[system.strategy],
            self._setting(each, system, engine),
            self.experts(each.system, each.seed),
        )
        seconds = {"first_seconds": outcome.first_seconds, "second_seconds": outcome.second_seconds}
        cells.write_values(path, {"n": len(items), **seconds})

    # What it is made with

    def _sampling(self, each: Plan) -> Sampling:
        reward = self.params.tasks[each.task].reward
        if reward is None:
            raise ValueError(f"tasks.{each.task}.reward is null; systems are measured by a reward")
        return Sampling.of(reward)

    def _svf(self, base: str) -> Engine:
        if self._loaded is None or self._loaded[0] != base:
            engine = svf_engine(
                self.params.bases[base],
                self.params.engine,
                basis=paths.basis(base),
                device=self.params.execution.device,
                batch=self.params.measure.batch,
            )
            self._loaded = (base, engine)
        return self._loaded[1]

    def _mixing(self, each: Plan, system: System) -> Engine:
        """What answers under a mixture of a system's members."""
        found = members_of(self.params, system)
        if not found or found[0].method == SVF:
            return self._svf(system.base)
        folders = [paths.adapter(member.name, each.seed or 0) for member in found]
        execution, batch = self.params.execution, self.params.measure.batch
        return WeightedAdapters(self.params.bases[system.base], folders, device=execution.device, batch=batch)

    def _sigma(self, base: str, experts: Mapping[str, Z]) -> Z:
        return {module: self.basis(base).load(module).sigma for module in next(iter(experts.values()))}

    def _source(self, name: str, seed: int | None) -> str | None:
        """The digest of a mixture's member; None for the base model."""
        return _folder_digest(paths.adapter(name, seed or 0)) if name in self.params.adapters else None


def _write(key: str, items: Sequence[Item], generations: Sequence[Generation]) -> None:
    replies = (
        Reply(
            item.id,
            item.question,
            reply.text,
            len(reply.tokens),
            reply.finished,
            reply.too_long,
            reply.prompt_tokens,
        )
        for item, reply in zip(items, generations, strict=True)
    )
    cells.write_replies(key, replies)


# Keys


def _key(inputs: Mapping[str, Any], **terms: Any) -> str:
    return digest({**inputs, **terms})[:32]


def _parts(choice: Choice) -> list[tuple[int, ...]]:
    """Which mixtures share a file of replies: one expert's, or the base's, stands alone, for others to reuse."""
    alone = [(place,) for place, mixture in enumerate(choice.mixtures) if len(mixture.alpha) == 1]
    mixed = tuple(place for place, mixture in enumerate(choice.mixtures) if len(mixture.alpha) > 1)
    return [*alone, mixed] if mixed else list(alone)


def _ask(params: Params, system: Dispatched) -> Ask:
    task = params.tasks[system.dispatch]
    tokens = task.reward.max_new_tokens if task.reward else 1
    return Ask(task.prompt, tuple(categories_of(task, params.tasks)), tokens, system.reading)


def _is_grader(path: str, kind: str | None = None) -> bool:
    """Whether a dependency is the code of a grader, of any kind or of one."""
    modules = GRADERS.values() if kind is None else [GRADERS.get(kind, ())]
    return path == "t2/tasks/grading.py" or any(path in of_kind for of_kind in modules)


@cache
def _folder_digest(folder: Path) -> str:
    """Of what decides about results in an adapter's folder, or a basis cache's."""
    digests = {
        path.name: sha256(path.read_bytes()).hexdigest()
        for name in ("adapter_model.safetensors", "adapter_config.json", "index.json", "base.json")
        if (path := folder / name).is_file()
    }
    return digest(digests)


@cache
def _items_digest(task: str) -> str:
    return sha256(paths.split(task, "test").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
