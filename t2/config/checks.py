"""Relations between rows: references, repetitions, and rows that contradict each other."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from t2.config.folder import ROWS
from t2.config.peft_keys import GIVEN, config_keys
from t2.config.rows import (
    OTHER,
    SVF,
    Adapter,
    Asking,
    Bare,
    Base,
    Best,
    Classified,
    Derived,
    DerivedAdapter,
    Dispatched,
    Dispatching,
    Found,
    InContext,
    Oracle,
    Recipe,
    SeeingBase,
    Soft,
    System,
    Task,
    TextVqa,
    Training,
    VqaReward,
)

FIELDS = {
    "miniature": {"question"},
    "gsm8k": {"question"},
    "math": {"question"},
    "humaneval": {"begun"},
    "humaneval_plus": {"begun"},
    "mbpp": {"question", "tests", "these"},
    "mbpp_base": {"question", "tests", "these"},
    "mbpp_plus": {"question", "tests", "these"},
    "arc": {"question", "options"},
    "textvqa": {"question", "ocr"},
    "okvqa": {"question"},
    "dispatch": {"question", "categories"},
    "rotated": {"question", "options"},
    "redrawn": {"question", "options"},
}
"""What a prompt's template may name, by layout."""

OPTIONS = [layout for layout, fields in FIELDS.items() if "options" in fields]
"""The layouts whose items have options to choose from."""

REFERENCES = {
    "adapters": {"base": "bases", "recipe": "recipes", "task": "tasks", "of": "adapters"},
    "searches": {"base": "bases", "set": "sets", "task": "tasks", "budget": "budgets"},
    "temperatures": {"base": "bases", "set": "sets", "dispatch": "tasks"},
    "systems": {
        "base": "bases",
        "set": "sets",
        "adapter": "adapters",
        "budget": "budgets",
        "dispatch": "tasks",
        "temperature": "temperatures",
    },
}
"""Which fields of a section's rows name a row of another section."""

REFERENCE_LISTS = {
    "sets": {"members": "adapters"},
    "temperatures": {"tasks": "tasks"},
    "systems": {"searches": "searches", "systems": "systems", "tasks": "tasks"},
}
"""Fields that hold several such names."""


SAME = ("base", "set", "dispatch")
"""What a soft system and the search for its temperature have in common."""

LORA = "lora"
"""The one other method whose adapters can be mixed."""


def relations(valid: Mapping[str, Any], taken: frozenset[str] | None = None) -> Iterator[str]:
    """Checks across sections, over those sections that are valid by themselves.

    Args:
        valid: Typed sections by name.
        taken: What an experiment folder takes from the main run; None: this is the main run.

    Yields:
        A sentence per problem: where it is, what is wrong, what to do.
    """
    if taken is not None:
        yield from _folder(valid, taken)
        # What is published is the main run's, whose systems need not be here.
        valid = {name: section for name, section in valid.items() if (name, name in taken) != ("publish", True)}
    yield from _references(valid)
    yield from _bases(valid.get("bases", {}))
    yield from _tasks(valid.get("tasks", {}))
    yield from _recipes(valid)
    yield from _adapters(valid)
    yield from _derived_adapters(valid, taken)
    yield from _sets(valid)
    yield from _searches(valid)
    yield from _temperatures(valid)
    yield from _systems(valid)
    yield from _unseen_images(valid)
    yield from _published(valid)
    yield from _engines(valid)


def _folder(valid: Mapping[str, Any], taken: frozenset[str]) -> Iterator[str]:
    """Rows of an experiment folder and rows that it takes from the main run, whose outcome is there already."""
    own = [f"{section}.{name}" for section in ROWS for name in valid.get(section, {})]
    if taken.issuperset(own):
        yield "systems: every row is taken from the main run; a folder has a row of its own, else it has nothing to run"
    for section, fields in [*REFERENCES.items(), *REFERENCE_LISTS.items()]:
        for name, row in valid.get(section, {}).items():
            for field, target in fields.items() if f"{section}.{name}" in taken else ():
                named = getattr(row, field, None)
                for other in named if isinstance(named, list) else [named]:
                    if other in valid.get(target, {}) and f"{target}.{other}" not in taken:
                        yield (
                            f"{target}.{other}: the folder's own, while {section}.{name} is the main run's, which was "
                            "made with the one there; rename it, or take that one, {from: main}"
                        )
    own = [name for name in valid.get("tasks", {}) if f"tasks.{name}" not in taken]
    if len(own) < len(valid.get("tasks", {})):
        for name in own:
            yield (
                f"tasks.{name}: the folder's own, while others are the main run's; splits are disjoint where they are "
                "drawn together, so add the row to the main run's tasks, and take it, {from: main}"
            )


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


def _bases(bases: Mapping[str, Base]) -> Iterator[str]:
    labels: dict[str, str] = {}
    for name, base in bases.items():
        first = labels.setdefault(base.label, name)
        if first != name:
            yield f"bases.{name}.label: {base.label!r} is also that of {first}; scores are told apart by it"
        if isinstance(base, SeeingBase) and base.prompting != "chat":
            yield f"bases.{name}.prompting: {base.prompting!r}, and images stand within a chat template; set it to chat"
        if isinstance(base, SeeingBase) and base.quantisation is not None:
            yield f"bases.{name}.quantisation: {base.quantisation}, which no base with `vision` has yet; set it to null"


def _tasks(tasks: Mapping[str, Task]) -> Iterator[str]:
    trained = [task.family for task in tasks.values() if task.role == "trained"]
    if len(set(trained)) < len(trained):
        yield f"tasks: each task of role 'trained' needs a family of its own, got {', '.join(trained)}"
    for name, task in tasks.items():
        where = f"tasks.{name}"
        yield from _template(where, task)
        if (task.role == OTHER) != (task.family == OTHER) and task.role != "dispatch":
            yield f"{where}.family: {task.family!r} with role {task.role!r}; family and role {OTHER!r} go together"
        elif task.role == "unseen" and trained and task.family not in trained:
            yield f"{where}.family: {task.family!r} is no trained task's; they have {', '.join(trained)}"
        if (task.reward is None) != (task.role == OTHER):
            yield f"{where}.reward: tasks of every role but {OTHER!r} have one, and those have null"
        if (task.role == "dispatch") != isinstance(task.source, Dispatching):
            yield f"{where}.source.layout: 'dispatch' and the role 'dispatch' go together"
        if task.reward is not None and (task.reward.kind == "dispatch") != (task.role == "dispatch"):
            yield f"{where}.reward.kind: {task.reward.kind!r} with role {task.role!r}; 'dispatch' goes with 'dispatch'"
        if task.reward is not None and task.reward.right <= task.reward.wrong:
            yield f"{where}.reward: right = {task.reward.right} must be more than wrong = {task.reward.wrong}"
        yield from _asking_about_images(where, task)
        if isinstance(task.source, Dispatching):
            yield from _dispatching(where, task.source, tasks)
        if isinstance(task.source, Derived):
            yield from _derived(where, task, task.source, tasks)


def _asking_about_images(where: str, task: Task) -> Iterator[str]:
    asking = isinstance(task.source, Asking)
    if task.reward is not None and isinstance(task.reward, VqaReward) != asking:
        yield f"{where}.reward.kind: {task.reward.kind!r}; 'vqa' and the layouts textvqa and okvqa go together"
    for name in ("train", "test") if asking else ():
        part: Any = getattr(task.source, name)
        if isinstance(task.source, TextVqa) and part.ocr is None and "{ocr}" in task.prompt.user:
            yield f"{where}.source.{name}.ocr: null, and prompt.user names {{ocr}}; name the file, or take it out there"
        if not isinstance(task.source, TextVqa) and part.annotations is None and task.role != OTHER:
            yield f"{where}.source.{name}.annotations: null with role {task.role!r}; only {OTHER!r} needs no answers"


def _derived(where: str, task: Task, source: Derived, tasks: Mapping[str, Task]) -> Iterator[str]:
    name = source.task
    yield from _missing({"tasks": tasks}, f"{where}.source.task", [name], "tasks")
    if (of := tasks.get(name)) is None:
        return
    if of.reward is None or of.reward.kind != "choice" or isinstance(of.source, Derived):
        yield f"{where}.source.task: {name} has no options of its own; name a task of kind 'choice' with a source"
    if task.prompt != of.prompt:
        yield f"{where}.prompt: differs from that of {name}, whose items these are; make them equal"
    for split, size in task.sizes.model_dump().items():
        if size > (most := getattr(of.sizes, split)):
            yield f"{where}.sizes.{split}: {size}, and {name} has {most}; ask for at most that"


def _dispatching(where: str, source: Dispatching, tasks: Mapping[str, Task]) -> Iterator[str]:
    yield from _missing({"tasks": tasks}, f"{where}.source.tasks", source.tasks, "tasks")
    yield from _repeated(f"{where}.source.tasks", source.tasks)
    for name in source.tasks:
        # So no two of them can name each other.
        if name in tasks and tasks[name].role not in ("trained", OTHER):
            yield f"{where}.source.tasks: {name} has the role {tasks[name].role!r}; name tasks of role trained or other"
        if name in tasks and isinstance(tasks[name].source, Derived):
            yield f"{where}.source.tasks: the questions of {name} are another task's; name that one"


def _template(where: str, task: Task) -> Iterator[str]:
    known = FIELDS[task.source.layout]
    allowed = f"layout {task.source.layout!r} has {', '.join(sorted(known))}"
    try:
        named = {field for _, field, _, _ in string.Formatter().parse(task.prompt.user) if field is not None}
    except ValueError as error:
        yield f"{where}.prompt.user: {error}; double a brace that is no field"
        return
    if strange := sorted(named - known):
        yield f"{where}.prompt.user: no field {', '.join(strange)}; {allowed}"
    elif not named:
        yield f"{where}.prompt.user: names no field; {allowed}"


def _training(name: str, recipe: Recipe, training: Training) -> Iterator[str]:
    where, train = f"recipes.{name}.train", recipe.train
    if training.warmup_steps >= train.steps:
        yield f"training.warmup_steps: {training.warmup_steps} leaves none of the {train.steps} steps of recipes.{name}"
    if train.batch % train.samples:
        yield f"{where}.samples: {train.samples} does not divide {where}.batch = {train.batch}; correct one"
    if train.objective != "reinforce":
        return
    if train.samples > 1 and training.temperature == 0:
        yield f"{where}.samples: {train.samples} that are all alike, since training.temperature is 0; raise that"
    if training.baseline == "group" and train.samples == 1:
        yield f"{where}.samples: 1, but training.baseline is 'group', which compares the samples of a prompt; raise it"


def _recipes(valid: Mapping[str, Any]) -> Iterator[str]:
    for name, recipe in valid.get("recipes", {}).items():
        where, method = f"recipes.{name}", str(recipe.peft.get("peft_type"))
        yield from _peft(where, method, recipe)
        yield from _repeated(f"{where}.seeds", map(str, recipe.seeds))
        if recipe.train.objective == "next_token" and recipe.train.kl > 0:
            yield f"{where}.train.kl: {recipe.train.kl}; objective 'next_token' has no such penalty: set it to 0"
        for key, value in recipe.peft.items():
            if key.endswith("dropout") and value and recipe.train.objective != "next_token":
                yield (
                    f"{where}.peft.{key}: {value}; replies are sampled without dropout, and the gradient would be that "
                    f"of another policy: with objective {recipe.train.objective!r} set it to 0"
                )
        if "training" in valid:
            yield from _training(name, recipe, valid["training"])


def _peft(where: str, method: str, recipe: Recipe) -> Iterator[str]:
    known = config_keys(method)
    if known is None:
        yield f"{where}.peft.peft_type: PEFT has no method {method!r}; name one of its, in capitals: SVF, LORA, IA3, …"
        return
    for key in sorted(recipe.peft):
        if key in GIVEN:
            yield f"{where}.peft.{key}: follows from the recipe's layers and seeds, and from its base; remove it"
        elif key not in known:
            yield f"{where}.peft.{key}: {method} has no such key; remove it or correct its spelling"
    if recipe.layers != "all" and "layers_to_transform" not in known:
        yield f"{where}.layers: {method} adapts all layers; set it to all"
    elif recipe.layers != "all" and isinstance(recipe.peft.get("target_modules"), str):
        yield f"{where}.layers: some layers, while target_modules is a pattern; list the modules' names, or say all"


def _adapters(valid: Mapping[str, Any]) -> Iterator[str]:
    rows: dict[tuple[str, str, str], str] = {}
    for name, row in valid.get("adapters", {}).items():
        if isinstance(row, DerivedAdapter):
            continue
        where = f"adapters.{name}"
        first = rows.setdefault((row.base, row.recipe, row.task), name)
        if first != name:
            yield f"{where}: the same base, recipe and task as {first}; remove one of them"
        task = valid.get("tasks", {}).get(row.task)
        if task is not None and task.role not in ("trained", "dispatch"):
            yield f"{where}.task: {row.task} has the role {task.role!r}; adapters learn from roles trained and dispatch"
        elif task is not None and not (task.sizes.train and task.sizes.valid):
            yield f"{where}.task: {row.task} has no items to learn from and choose on; raise its sizes train and valid"
        base, recipe = valid.get("bases", {}).get(row.base), valid.get("recipes", {}).get(row.recipe)
        if task is not None and recipe is not None and recipe.train.objective == "expected_reward":
            yield from _no_single_token(where, row, task)
        if base is not None and recipe is not None and recipe.method == SVF:
            yield from _outside(where, row, base, recipe)


def _derived_adapters(valid: Mapping[str, Any], taken: frozenset[str] | None) -> Iterator[str]:
    """Adapters that are made of others: whether these are there, and what becomes of them."""
    adapters = valid.get("adapters", {})
    for name, row in adapters.items():
        if not isinstance(row, DerivedAdapter):
            continue
        where, of, recipe = f"adapters.{name}", adapters.get(row.of), _recipe(valid, name)
        if taken is None:
            yield f"{where}: made of {row.of}, while the main run trains every row; move it to an experiment folder"
        yield from _missing(valid, f"{where}.change.others", row.others, "adapters")
        yield from _repeated(f"{where}.change.others", [row.of, *row.others])
        if of is not None and row.task != of.task:
            yield f"{where}.task: {row.task}, and {row.of} learned {of.task}; make them equal"
        if recipe is not None and row.change.kind == "resampled" and recipe.layers != "all":
            yield f"{where}.recipe: {row.recipe} adapts some layers, resampling is over all; take one of all"
        for field, original in [("of", row.of), *(("change.others", other) for other in row.others)]:
            if original in adapters:
                yield from _original(valid, where, row, field, original)
            if of is not None and original in adapters and adapters[original].base != of.base:
                yield f"{where}.{field}: {original} was trained on {adapters[original].base}, {row.of} on {of.base}"


def _original(valid: Mapping[str, Any], where: str, row: DerivedAdapter, field: str, name: str) -> Iterator[str]:
    """Whether an adapter can be made of another as its recipe says."""
    original, recipe, learned = valid["adapters"][name], _recipe(valid, name), valid.get("recipes", {}).get(row.recipe)
    if isinstance(original, DerivedAdapter):
        yield f"{where}.{field}: {name} is made of another itself; name a trained one"
    yield from _not_svf(valid, f"{where}.{field}", [name], "can be made into others")
    if recipe is None or learned is None:
        return
    if (learned.peft, learned.layers) != (recipe.peft, recipe.layers):
        yield f"{where}.recipe: {row.recipe} adapts otherwise than {original.recipe}, by which {name} learned"
    if unknown := sorted(set(learned.seeds) - set(recipe.seeds)):
        yield f"{where}.recipe: {row.recipe} has seeds {unknown}, and {name} only {recipe.seeds}"


def _no_single_token(where: str, row: Adapter, task: Task) -> Iterator[str]:
    """What keeps an answer from being one token behind the prompt's prefix."""
    wanting = [] if task.source.layout in OPTIONS else [f"a layout with options ({', '.join(OPTIONS)})"]
    if task.reward is None or task.reward.kind != "choice":
        wanting.append("a reward of kind choice")
    if task.prompt.user.count("{options}") != 1:
        wanting.append("{options} in prompt.user, once")
    if not task.prompt.prefix:
        wanting.append("a prompt.prefix up to the letter, such as 'The answer is ('")
    if wanting:
        yield (
            f"{where}.recipe: {row.recipe} has the objective 'expected_reward', for which tasks.{row.task} lacks "
            f"{', '.join(wanting)}; add that, or train by 'reinforce'"
        )


def _outside(where: str, row: Adapter, base: Base, recipe: Recipe) -> Iterator[str]:
    """What a recipe adapts though its base decomposes it not; what only the model can tell is left to the stage."""
    targets = recipe.peft.get("target_modules")
    if modules := sorted(set(targets) - set(base.adapt)) if isinstance(targets, list) else []:
        yield (
            f"{where}.recipe: {row.recipe} adapts {', '.join(modules)}, which bases.{row.base}.adapt does not name; "
            "add them there"
        )
    if isinstance(base.layers, list) and isinstance(recipe.layers, list):
        beyond = not set(recipe.layers) <= set(base.layers)
    else:
        beyond = recipe.layers == "all" and base.layers != "all"
    if beyond:
        yield (
            f"{where}.recipe: {row.recipe} adapts layers {recipe.layers}, of which bases.{row.base}.layers has only "
            f"{base.layers}; make them fit"
        )


def _sets(valid: Mapping[str, Any]) -> Iterator[str]:
    for name, row in valid.get("sets", {}).items():
        yield from _seeds(valid, f"sets.{name}", row.members)


def _seeds(valid: Mapping[str, Any], where: str, adapters: Iterable[str]) -> Iterator[str]:
    seeds = {name: recipe.seeds for name in adapters if (recipe := _recipe(valid, name)) is not None}
    if len({tuple(found) for found in seeds.values()}) > 1:
        listed = "; ".join(f"{name}: {found}" for name, found in seeds.items())
        yield f"{where}: adapters are taken seed by seed, and have different seeds ({listed}); make them equal"


def _searches(valid: Mapping[str, Any]) -> Iterator[str]:
    tasks, budgets = valid.get("tasks", {}), valid.get("budgets", {})
    for name, row in valid.get("searches", {}).items():
        task, budget = tasks.get(row.task), budgets.get(row.budget)
        if task is not None and budget is not None and (there := getattr(task.sizes, budget.split)) < budget.shots:
            yield (
                f"searches.{name}: budget {row.budget} draws {budget.shots} shots, but {row.task} has {there}; raise "
                f"its sizes.{budget.split}"
            )
        if task is not None and task.reward is None:
            yield f"searches.{name}.task: {row.task} has no reward to search by"
        yield from _unmixed(valid, f"searches.{name}", _members(valid, row), row.budget)


def _unmixed(valid: Mapping[str, Any], where: str, adapters: Iterable[str], budget: str | None) -> Iterator[str]:
    """What cannot be mixed as a budget says: SVF in every way, LoRA as sums of what it adds to the weights."""
    methods = {name: recipe for name in adapters if (recipe := _recipe(valid, name)) is not None}
    for name, recipe in methods.items():
        if recipe.method not in (SVF, LORA):
            yield f"{where}.set: {name} is trained by {recipe.method}; only SVF and LoRA adapters are mixed"
        elif recipe.peft.get("use_dora"):
            yield f"{where}.set: {name} is trained with use_dora, whose directions do not add up; name another set"
    if len({recipe.method for recipe in methods.values()}) > 1:
        yield f"{where}.set: adapters of one method are mixed; divide it"
    row = valid.get("budgets", {}).get(budget)
    if row is not None and any(recipe.method != SVF for recipe in methods.values()):
        if row.granularity != "one":
            yield f"{where}.budget: {budget} has weights by {row.granularity}, LoRA adapters one each; set it to one"
        if row.form == "free" and row.renormalise:
            yield f"{where}.budget: {budget} rescales by singular values, LoRA has none; set renormalise to false"
        if getattr(row.objective, "temperature", 0.0) > 0:
            yield f"{where}.budget: {budget} samples replies, LoRA is searched without; set temperature to 0"
        if row.include_base:
            yield f"{where}.budget: {budget} has the base model take part, which is no LoRA adapter; set it to false"


def _temperatures(valid: Mapping[str, Any]) -> Iterator[str]:
    tasks = valid.get("tasks", {})
    for name, row in valid.get("temperatures", {}).items():
        where = f"temperatures.{name}"
        if name in valid.get("searches", {}):
            yield f"{where}: a row of searches bears this name too, and their results lie in one folder; rename one"
        for named in row.tasks:
            if named in tasks and tasks[named].role != "trained":
                yield f"{where}.tasks: {named} has the role {tasks[named].role!r}; only role 'trained' may be chosen on"
            elif named in tasks and not tasks[named].sizes.valid:
                yield f"{where}.tasks: {named} has no validation items; raise its sizes.valid"
        yield from _asking(valid, where, row.dispatch)
        yield from _not_svf(valid, f"{where}.set", _members(valid, row), "are mixed")
        yield from _families(valid, where, row.set, _members(valid, row))


def _systems(valid: Mapping[str, Any]) -> Iterator[str]:
    labels: dict[Any, str] = {}
    keys: dict[Any, str] = {}
    for name, row in valid.get("systems", {}).items():
        where = f"systems.{name}"
        first = labels.setdefault((row.base, row.label), name)
        if first != name:
            yield f"{where}.label: {row.label!r} is also that of {first}; two rows of a table need two labels"
        methods = {recipe.method for adapter in _answering(valid, row) if (recipe := _recipe(valid, adapter))}
        first = keys.setdefault((row.base, frozenset(methods), row.strategy, row.variant), name)
        if first != name:
            yield f"{where}.variant: {row.variant!r}, and base, method and strategy are those of {first}; name another"
        chosen_by_test = isinstance(row, Oracle) or (isinstance(row, Best) and row.by == "test")
        if chosen_by_test and "oracle" not in row.label.lower():
            yield f"{where}.label: {row.label!r} is chosen by the test questions; say so, with the word oracle"
        if isinstance(row, Best):
            yield from _best(valid, where, row)
            continue
        yield from _answers(valid, where, row)
        yield from _places(valid, where, row)
        if isinstance(row, Dispatched):
            yield from _first_pass(valid, where, row)
        if isinstance(row, Found | InContext):
            yield from _found(valid, where, row)


def _answers(valid: Mapping[str, Any], where: str, row: System) -> Iterator[str]:
    """Whether a system's adapters can do what its strategy asks of them."""
    adapters = _answering(valid, row)
    for name in adapters:
        recipe = _recipe(valid, name)
        if recipe is not None and valid["adapters"][name].base != row.base and recipe.method != SVF:
            yield (
                f"{where}.base: {name} was trained on {valid['adapters'][name].base}, not on {row.base}; of all "
                "methods only SVF moves to another base"
            )
    if row.strategy in ("uniform", "fewshot"):
        yield from _unmixed(valid, where, adapters, getattr(row, "budget", None))
    elif row.strategy not in ("none", "adapter", "own", "oracle"):
        yield from _not_svf(valid, f"{where}.set", adapters, "are chosen prompt by prompt")
    elif len({recipe.method == SVF for name in adapters if (recipe := _recipe(valid, name))}) > 1:
        yield f"{where}.set: {row.set} has SVF and other adapters, which cannot run together; divide it"  # type: ignore
    if row.strategy in ("own", "prompt", "classifier", "soft"):
        yield from _families(valid, where, row.set, adapters)


def _families(valid: Mapping[str, Any], where: str, name: str, adapters: Iterable[str]) -> Iterator[str]:
    """Whether a category names one member of a set."""
    families = {name: family for name in adapters if (family := _family(valid, name)) is not None}
    listed = ", ".join(f"{name}: {family}" for name, family in families.items())
    if len(set(families.values())) < len(families) or OTHER in families.values():
        yield (
            f"{where}.set: a task's family decides who answers, so that members need one each, and not {OTHER!r} "
            f"({listed}); name another set than {name}"
        )


def _not_svf(valid: Mapping[str, Any], where: str, adapters: Iterable[str], use: str) -> Iterator[str]:
    for name in adapters:
        recipe = _recipe(valid, name)
        if recipe is not None and recipe.method != SVF:
            yield f"{where}: {name} is trained by {recipe.method}; only SVF adapters {use}"


def _places(valid: Mapping[str, Any], where: str, row: System) -> Iterator[str]:
    """The tasks that a system names: whether it can be measured there."""
    roles = ("trained", "unseen", OTHER) if isinstance(row, Dispatched) else ("trained", "unseen")
    families = {_family(valid, name) for name in _answering(valid, row)}
    for name in row.tasks if isinstance(row.tasks, list) else []:
        task = valid.get("tasks", {}).get(name)
        if task is not None and task.role not in roles:
            yield f"{where}.tasks: {name} has the role {task.role!r}; {row.strategy} takes {', '.join(roles)}"
        elif task is not None and row.strategy == "own" and None not in families and task.family not in families:
            yield f"{where}.tasks: {name} is of the family {task.family!r}, of which {row.set} has no member; remove it"


def _asking(valid: Mapping[str, Any], where: str, dispatch: str) -> Iterator[str]:
    """Whether a task asks for categories."""
    task = valid.get("tasks", {}).get(dispatch)
    if task is not None and task.role != "dispatch":
        yield f"{where}.dispatch: {dispatch} has the role {task.role!r}; name a task of role 'dispatch'"


def _first_pass(valid: Mapping[str, Any], where: str, row: Dispatched) -> Iterator[str]:
    yield from _asking(valid, where, row.dispatch)
    if isinstance(row, Soft) and (search := valid.get("temperatures", {}).get(row.temperature)) is not None:
        differing = [key for key in SAME if getattr(search, key) != getattr(row, key)]
        if differing:
            yield (
                f"{where}.temperature: {row.temperature} is searched under another {', '.join(differing)} than the "
                "system's; make them equal"
            )
    if row.reading == "choice" and "engine" in valid and valid["engine"].name != "vllm":
        yield (
            f"{where}.reading: 'choice' needs structured output, which engine.name {valid['engine'].name!r} does not "
            "offer; set 'generation' or 'likelihood', or engine.name to 'vllm'"
        )
    if isinstance(row, Classified) and row.adapter in valid.get("adapters", {}):
        learned = valid["adapters"][row.adapter].task
        if valid.get("tasks", {}).get(learned) is not None and valid["tasks"][learned].role != "dispatch":
            yield f"{where}.adapter: {row.adapter} learned {learned}, not to name categories; name one that did"
        yield from _not_svf(valid, f"{where}.adapter", [row.adapter], "can run the first pass")
        yield from _seeds(valid, where, [row.adapter, *_answering(valid, row)])


def _found(valid: Mapping[str, Any], where: str, row: Found | InContext) -> Iterator[str]:
    searches = {name: valid["searches"][name] for name in row.searches if name in valid.get("searches", {})}
    for name, search in searches.items():
        if isinstance(row, InContext):
            if search.base != row.base:
                yield f"{where}.searches: {name} is on {search.base}, the system on {row.base}; make them equal"
        elif (search.base, search.set) != (row.base, row.set):
            yield (
                f"{where}.searches: {name} is over set {search.set} on {search.base}, the system over {row.set} on "
                f"{row.base}; make them equal"
            )
    searched = [search.task for search in searches.values()]
    yield from _repeated(f"{where}.searches: tasks", searched)
    tasks = valid.get("tasks", {})
    places = [name for name in tasks if tasks[name].role in ("trained", "unseen")] if row.tasks == "all" else row.tasks
    unsearched = [name for name in places if name not in searched]
    if unsearched and len(searches) == len(row.searches):
        yield f"{where}.tasks: no search of {', '.join(row.searches)} is for {', '.join(unsearched)}; correct `tasks`"


def _best(valid: Mapping[str, Any], where: str, row: Best) -> Iterator[str]:
    """Whether one of several systems can be chosen: they are measured alike, and what decides is there."""
    systems = {name: valid["systems"][name] for name in row.systems if name in valid["systems"]}
    lead = next(iter(systems), "")
    shots = ("draws",) if row.by == "test" else ("draws", "seed", "shots", "split")
    for name, other in systems.items():
        if isinstance(other, Bare | InContext | Best):
            yield f"{where}.systems: {name} has the strategy {other.strategy!r}; name systems with adapters"
            continue
        if other.base != row.base:
            yield f"{where}.systems: {name} is on {other.base}, not on {row.base}; make them equal"
        if set(other.tasks) != set(systems[lead].tasks):
            yield f"{where}.systems: {name} is measured on other tasks than {lead}; make them equal"
        elif _shots(valid, other, shots) != _shots(valid, systems[lead], shots):
            yield f"{where}.systems: the budgets of {name} and {lead} differ in {' or '.join(shots)}; make them equal"
        if row.by == "rest":
            yield from _rest(valid, where, name, other)
    yield from _seeds(valid, where, chain.from_iterable(_answering(valid, other) for other in systems.values()))


def _rest(valid: Mapping[str, Any], where: str, name: str, row: System) -> Iterator[str]:
    """Whether a system's searches leave some of the pool of shots to choose by."""
    if not isinstance(row, Found):
        yield f"{where}.by: 'rest' is what searches leave of the pool of shots, and {name} has none; set it to test"
        return
    for search in row.searches:
        found = valid.get("searches", {}).get(search)
        task = valid.get("tasks", {}).get(getattr(found, "task", None))
        budget = valid.get("budgets", {}).get(getattr(found, "budget", None))
        if task is not None and budget is not None and getattr(task.sizes, budget.split) <= budget.shots:
            yield (
                f"{where}.by: search {search} takes all the shots that {found.task} has, {budget.shots}, and leaves no "
                f"rest; raise its sizes.{budget.split}"
            )


def _shots(valid: Mapping[str, Any], row: System, fields: Iterable[str]) -> dict[str, list[Any]]:
    """What the shots of a system's searches are drawn by, as far as it is asked for, by task."""
    searches = [valid.get("searches", {}).get(name) for name in getattr(row, "searches", [])]
    found = {search.task: valid.get("budgets", {}).get(search.budget) for search in searches if search is not None}
    return {task: [getattr(budget, field) for field in fields] for task, budget in found.items() if budget is not None}


def _unseen_images(valid: Mapping[str, Any]) -> Iterator[str]:
    """Tasks that show images, on bases that see none."""
    bases, tasks = valid.get("bases", {}), valid.get("tasks", {})
    showing = {name for name in tasks if shows(tasks, name)}
    if bases and showing and not any(isinstance(base, SeeingBase) for base in bases.values()):
        yield f"bases: none has `vision`, and {', '.join(sorted(showing))} show images; add it to a base that sees"
        return
    roles = ("trained", "unseen")
    for section in ("adapters", "searches", "temperatures", "systems"):
        for name, row in valid.get(section, {}).items():
            named = getattr(row, "tasks", None) or [getattr(row, "task", None)]
            if named == "all":
                named = [task for task in tasks if tasks[task].role in roles]
            blind = [task for task in [*named, getattr(row, "dispatch", None)] if task in showing]
            base = bases.get(row.base)
            if blind and base is not None and not isinstance(base, SeeingBase) and not isinstance(row, DerivedAdapter):
                yield (
                    f"{section}.{name}: {', '.join(blind)} show images, and bases.{row.base} has no `vision`; name a "
                    "base that sees, or other tasks"
                )


def shows(tasks: Mapping[str, Task], name: str) -> bool:
    """Whether a task's prompts show images; one that tells tasks apart shows theirs."""
    source = tasks[name].source
    sources = [tasks[of].source for of in source.tasks if of in tasks] if isinstance(source, Dispatching) else [source]
    parts: list[Any] = [part for of in sources if isinstance(of, Asking) for part in (of.train, of.test)]
    return any(part.images is not None for part in parts)


def _published(valid: Mapping[str, Any]) -> Iterator[str]:
    if "publish" not in valid:
        return
    publish = valid["publish"]
    systems = {name: row for name in publish.systems if (row := valid.get("systems", {}).get(name)) is not None}
    if len(bases := dict.fromkeys(row.base for row in systems.values())) > 1:
        yield f"publish.systems: they are on {', '.join(bases)}; a model that answers has one base"
    used = [name for row in systems.values() for name in _answering(valid, row)]
    yield from _not_svf(valid, "publish.systems", used, "answer users")
    used += [row.adapter for row in systems.values() if isinstance(row, Classified)]
    listed = valid["sets"][publish.set].members if publish.set in valid.get("sets", {}) else None
    if listed is not None and len(systems) == len(publish.systems) and set(listed) != set(used):
        yield f"publish.set: {publish.set} has {', '.join(listed)}; the systems need {', '.join(dict.fromkeys(used))}"


# What rows name, as far as it is there


def _members(valid: Mapping[str, Any], row: Any) -> list[str]:
    found = valid.get("sets", {}).get(getattr(row, "set", None))
    return [] if found is None else list(found.members)


def _answering(valid: Mapping[str, Any], row: System) -> list[str]:
    """The adapters that a system's answers come from."""
    return [row.adapter] if row.strategy == "adapter" else _members(valid, row)


def _recipe(valid: Mapping[str, Any], adapter: str) -> Recipe | None:
    row = valid.get("adapters", {}).get(adapter)
    found: Recipe | None = None if row is None else valid.get("recipes", {}).get(row.recipe)
    return found


def _family(valid: Mapping[str, Any], adapter: str) -> str | None:
    row = valid.get("adapters", {}).get(adapter)
    task = None if row is None else valid.get("tasks", {}).get(row.task)
    return None if task is None else str(task.family)


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
        if isinstance(base, SeeingBase):
            yield f"bases.{name}.vision: vLLM shows no images here; set engine.name to 'hf', which does"
        if base.quantisation is not None:
            yield (
                f"bases.{name}.quantisation: {base.quantisation} runs with transformers only, since vLLM quantises "
                "in a way that experts are not made for; set engine.name to hf, or this to null"
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
