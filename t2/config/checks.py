"""Relations between rows: references, repetitions, and rows that contradict each other."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from t2.config.peft_keys import allowed_keys
from t2.config.rows import OTHER, Dispatching, Task

FIELDS = {
    "miniature": {"question"},
    "gsm8k": {"question"},
    "math": {"question"},
    "humaneval": {"begun"},
    "humaneval_plus": {"begun"},
    "mbpp": {"question", "tests", "these"},
    "mbpp_plus": {"question", "tests", "these"},
    "arc": {"question", "options"},
    "dispatch": {"question", "categories"},
}
"""What a prompt's template may name, by layout."""

REFERENCES = {
    "adapters": {"base": "bases", "recipe": "recipes", "task": "tasks"},
    "searches": {"base": "bases", "set": "sets", "task": "tasks", "budget": "budgets"},
    "systems": {"base": "bases", "set": "sets", "adapter": "adapters", "dispatch": "tasks"},
}
"""Which fields of a section's rows name a row of another section."""

REFERENCE_LISTS = {
    "sets": {"members": "adapters"},
    "systems": {"searches": "searches", "tasks": "tasks"},
}
"""Fields that hold several such names."""


def relations(valid: Mapping[str, Any]) -> Iterator[str]:
    """Checks across sections, over those sections that are valid by themselves.

    Args:
        valid: Typed sections by name.

    Yields:
        A sentence per problem: where it is, what is wrong, what to do.
    """
    yield from _references(valid)
    yield from _tasks(valid.get("tasks", {}))
    yield from _recipes(valid)
    yield from _adapters(valid)
    yield from _sets(valid)
    yield from _searches(valid)
    yield from _systems(valid)
    yield from _engines(valid)
    if "training" in valid and valid["training"].micro_batch > valid["training"].batch:
        training = valid["training"]
        yield f"training.micro_batch: {training.micro_batch} is more than training.batch = {training.batch}"


def _references(valid: Mapping[str, Any]) -> Iterator[str]:
    for section, fields in REFERENCES.items():
        for name, row in valid.get(section, {}).items():
            for field, target in fields.items():
                yield from _missing(valid, f"{section}.{name}.{field}", [getattr(row, field, None)], target)
    for section, fields in REFERENCE_LISTS.items():
        for name, row in valid.get(section, {}).items():
            for field, target in fields.items():
                named = getattr(row, field, None)
                if isinstance(named, list):
                    where = f"{section}.{name}.{field}"
                    yield from _missing(valid, where, named, target)
                    yield from _repeated(where, named)
    if "publish" in valid:
        yield from _missing(valid, "publish.systems", valid["publish"].systems, "systems")
        yield from _missing(valid, "publish.set", [valid["publish"].set], "sets")
    if "score" in valid:
        for pair in valid["score"].contrasts:
            yield from _missing(valid, "score.contrasts", pair, "systems")


def _missing(valid: Mapping[str, Any], where: str, named: Iterable[str | None], target: str) -> Iterator[str]:
    for name in named:
        if name is not None and target in valid and name not in valid[target]:
            there = ", ".join(valid[target]) or "none"
            yield f"{where}: there is no row {name!r} in {target}, which has {there}; correct the name, or add the row"


def _repeated(where: str, names: Iterable[str]) -> Iterator[str]:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        yield f"{where}: {', '.join(repeated)} stands there more than once; name each row once"


def _tasks(tasks: Mapping[str, Task]) -> Iterator[str]:
    for name, task in tasks.items():
        where = f"tasks.{name}"
        yield from _template(where, task)
        if (task.role == OTHER) != (task.family == OTHER) and task.role != "dispatch":
            yield f"{where}.family: {task.family!r} with role {task.role!r}; the family {OTHER!r} is that of role {OTHER!r}"
        if (task.reward is None) != (task.role == OTHER):
            yield f"{where}.reward: tasks of every role but {OTHER!r} have one, and those have null"
        if (task.role == "dispatch") != isinstance(task.source, Dispatching):
            yield f"{where}.source.layout: 'dispatch' and the role 'dispatch' go together"
        if task.reward is not None and (task.reward.kind == "dispatch") != (task.role == "dispatch"):
            yield f"{where}.reward.kind: {task.reward.kind!r} with role {task.role!r}; 'dispatch' goes with 'dispatch'"
        if task.reward is not None and task.reward.right <= task.reward.wrong:
            yield f"{where}.reward: right = {task.reward.right} must be more than wrong = {task.reward.wrong}"
        if isinstance(task.source, Dispatching):
            yield from _dispatching(where, task.source, tasks)
    trained = [task.family for task in tasks.values() if task.role == "trained"]
    if len(set(trained)) < len(trained):
        yield f"tasks: each task of role 'trained' needs a family of its own, got {', '.join(trained)}"


def _dispatching(where: str, source: Dispatching, tasks: Mapping[str, Task]) -> Iterator[str]:
    yield from _missing({"tasks": tasks}, f"{where}.source.tasks", source.tasks, "tasks")
    yield from _repeated(f"{where}.source.tasks", source.tasks)
    for name in source.tasks:
        if name in tasks and tasks[name].role not in ("trained", OTHER):
            yield f"{where}.source.tasks: {name} has the role {tasks[name].role!r}; name tasks that are trained, or other"


def _template(where: str, task: Task) -> Iterator[str]:
    known = FIELDS[task.source.layout]
    try:
        named = {field for _, field, _, _ in string.Formatter().parse(task.prompt.user) if field is not None}
    except ValueError as error:
        yield f"{where}.prompt.user: {error}; double a brace that is no field"
        return
    if strange := sorted(named - known):
        yield f"{where}.prompt.user: no field {', '.join(strange)}; layout {task.source.layout!r} has {', '.join(sorted(known))}"
    elif not named:
        yield f"{where}.prompt.user: names no field; layout {task.source.layout!r} has {', '.join(sorted(known))}"


def _recipes(valid: Mapping[str, Any]) -> Iterator[str]:
    for name, recipe in valid.get("recipes", {}).items():
        where = f"recipes.{name}"
        known = allowed_keys(str(recipe.peft.get("peft_type")))
        if known is None:
            yield f"{where}.peft.peft_type: PEFT has no method {recipe.peft.get('peft_type')!r}; SVF, LORA, IA3, …"
        else:
            for key in sorted(recipe.peft.keys() - known):
                yield f"{where}.peft.{key}: {recipe.peft['peft_type']} has no such key; remove it or correct its spelling"
        yield from _repeated(f"{where}.seeds", map(str, recipe.seeds))
        if recipe.train.objective == "next_token" and recipe.train.kl > 0:
            yield f"{where}.train.kl: {recipe.train.kl}; the penalty belongs to objective 'reinforce': set it to 0"
        if "training" in valid and valid["training"].warmup_steps >= recipe.train.steps:
            yield (
                f"training.warmup_steps: {valid['training'].warmup_steps} leaves none of the {recipe.train.steps} "
                f"steps of {where}"
            )


def _adapters(valid: Mapping[str, Any]) -> Iterator[str]:
    rows: dict[tuple[str, str, str], str] = {}
    for name, row in valid.get("adapters", {}).items():
        first = rows.setdefault((row.base, row.recipe, row.task), name)
        if first != name:
            yield f"adapters.{name}: the same base, recipe and task as {first}; remove one of them"
        task = valid.get("tasks", {}).get(row.task)
        if task is None:
            continue
        if task.role not in ("trained", "dispatch"):
            yield f"adapters.{name}.task: {row.task} has the role {task.role!r}; adapters learn from trained or dispatch tasks"
        elif not (task.sizes.train and task.sizes.valid):
            yield f"adapters.{name}.task: {row.task} has no items to learn from and choose on; raise its sizes train and valid"
        base, recipe = valid.get("bases", {}).get(row.base), valid.get("recipes", {}).get(row.recipe)
        if base is not None and recipe is not None and recipe.method == "svf":
            targets = recipe.peft.get("target_modules")
            outside = sorted(set(targets) - set(base.adapt)) if isinstance(targets, list) else []
            if outside:
                yield (
                    f"adapters.{name}.recipe: {row.recipe} adapts {', '.join(outside)}, of which bases.{row.base}.adapt has "
                    "no singular vectors; add them there"
                )


def _sets(valid: Mapping[str, Any]) -> Iterator[str]:
    adapters, recipes = valid.get("adapters", {}), valid.get("recipes", {})
    for name, row in valid.get("sets", {}).items():
        seeds = {
            member: recipes[adapters[member].recipe].seeds
            for member in row.members
            if member in adapters and adapters[member].recipe in recipes
        }
        if len({tuple(found) for found in seeds.values()}) > 1:
            listed = "; ".join(f"{member}: {found}" for member, found in seeds.items())
            yield f"sets.{name}: members are taken seed by seed, and have different seeds ({listed}); make them equal"


def _searches(valid: Mapping[str, Any]) -> Iterator[str]:
    tasks, budgets = valid.get("tasks", {}), valid.get("budgets", {})
    for name, row in valid.get("searches", {}).items():
        task, budget = tasks.get(row.task), budgets.get(row.budget)
        if task is None or budget is None:
            continue
        if task.sizes.shots < budget.shots:
            yield (
                f"searches.{name}: budget {row.budget} draws {budget.shots} shots, but {row.task} has {task.sizes.shots}; "
                "raise its sizes.shots"
            )
        if task.reward is None:
            yield f"searches.{name}.task: {row.task} has no reward to search by"


def _systems(valid: Mapping[str, Any]) -> Iterator[str]:
    labels: dict[tuple[str, str], str] = {}
    for name, row in valid.get("systems", {}).items():
        first = labels.setdefault((row.base, row.label), name)
        if first != name:
            yield f"systems.{name}.label: {row.label!r} is also that of {first}; two rows of a table need two labels"
        dispatch = valid.get("tasks", {}).get(getattr(row, "dispatch", None))
        if dispatch is not None and dispatch.role != "dispatch":
            yield f"systems.{name}.dispatch: {row.dispatch} has the role {dispatch.role!r}; name a task of role 'dispatch'"
        if getattr(row, "reading", None) == "choice" and "engine" in valid and valid["engine"].name != "vllm":
            yield (
                f"systems.{name}.reading: 'choice' needs structured output, which engine.name {valid['engine'].name!r} does "
                "not offer; set 'generation' or 'likelihood', or engine.name to 'vllm'"
            )
        searched = [
            (search, valid["searches"][search])
            for search in getattr(row, "searches", [])
            if search in valid.get("searches", {})
        ]
        for search, found in searched:
            if (found.base, found.set) != (row.base, row.set):
                yield f"systems.{name}.searches: {search} is over set {found.set} on {found.base}, the system over {row.set} on {row.base}"
        yield from _repeated(f"systems.{name}.searches: tasks", (found.task for _, found in searched))


def _engines(valid: Mapping[str, Any]) -> Iterator[str]:
    if "engine" not in valid or valid["engine"].name != "vllm":
        return
    vllm = valid["engine"].vllm
    if vllm.tensor_parallel > 1 and vllm.experts == "per_request":
        yield (
            f"engine.vllm.tensor_parallel: {vllm.tensor_parallel} devices, while experts per request need whole "
            "matrices; set it to 1, or engine.vllm.experts to 'folded'"
        )
    for name, base in valid.get("bases", {}).items():
        if base.quantisation is not None:
            yield (
                f"bases.{name}.quantisation: {base.quantisation} runs with transformers only; vLLM would quantise in its "
                "own way, which experts are not made for; set engine.name to hf, or this to null"
            )
    if "execution" in valid:
        workers, device = valid["execution"].workers, valid["execution"].device
        if vllm.kv_cache_gb is None and workers * vllm.gpu_memory_utilisation > 1:
            yield (
                f"engine.vllm.gpu_memory_utilisation: {workers} engines side by side (execution.workers) would take "
                f"{workers} times {vllm.gpu_memory_utilisation} of the memory; lower one of them, or set kv_cache_gb"
            )
        if vllm.sleep and device == "cpu":
            yield (
                "engine.vllm.sleep: true, while execution.device is 'cpu', whose memory vLLM cannot give back; set it "
                "to false"
            )


