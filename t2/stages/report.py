"""Stage ``report``: tables and figures from score files, and what only it may know: run ids and seconds."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from t2.config.rows import SVF, Accuracy, Adapter, Bare, Budget, DerivedAdapter, InContext, Own, Params
from t2.files import read_csv, read_json, write_csv
from t2.report.page import ReportInputs, write_report
from t2.report.systems import label_of, systems_of
from t2.report.tables import WHOLE, Image
from t2.stages import cells, paths
from t2.stages.stage import open_stage
from t2.tasks.item import IMAGES, read_items
from t2.tasks.prompt import question, shown
from t2.tasks.vqa import references, usual

MINIATURES = Path("data/miniature")
"""Where the embedded base models lie; a page beside each says what a reader must know about it before the figures."""

EACH_WAY = 3
"""Replies of each task that are shown: of those that an expert has got right, and of those that it has lost."""
ASKED = 4
"""Questions about images of each task that are shown with what every system answers."""
_MATRIX = re.compile(r"\.(?P<layer>\d+)\.(?:[^.]+\.)*(?P<module>[^.]+)\.svf_z$")

SEARCH_COLUMNS = [
    *("base", "search", "task", "algorithm", "objective", "seed", "draw", "shots", "evaluations", "generations"),
    *("score", "best_generation", "score_generation", "gain_over_first", "gain_over_random"),
    *("rest_score", "rest_uniform"),
]


def main() -> None:
    """Writes ``reports/``."""
    with open_stage("report") as stage:
        inputs = report_inputs(stage.params)
        for name in ("runs", "timings", "searches"):
            write_csv(paths.reports() / f"{name}.csv", getattr(inputs, name))
        write_report(inputs, paths.reports())
        # A clean clone holds reports/ in git; this copy, which it does not hold, makes DVC run the stage there.
        paths.report().mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.reports() / "report.html", paths.report())
        stage.run.log_table(inputs.scores, "scores")
        stage.run.log_files([paths.reports() / "report.html", paths.reports() / "report.md"])


def report_inputs(params: Params) -> ReportInputs:
    """What the report shows, from the files of all stages before it."""
    names = ("scores", "readings", "comparisons", "confusions", "dispatch")
    scored = {name: read_csv(paths.scores() / f"{name}.csv") for name in names}
    metrics = read_json(paths.reports() / "metrics.json")
    records = [read_json(path) for path in sorted(paths.runs().glob("*.json"))]
    return ReportInputs(
        base=next(iter(params.bases.values())).label,
        systems=systems_of(params),
        scores=scored["scores"],
        readings=scored["readings"],
        comparisons=scored["comparisons"],
        confusions=scored["confusions"],
        dispatch=scored["dispatch"],
        timings=_timings(params),
        histories=_histories(params),
        alphas=_alphas(params),
        searches=searches(params),
        changes=_changes(params),
        similarities=_similarities(params),
        replies=_replies(params),
        images=_images(params),
        trained=_trained(params, records),
        shown=_shown(params),
        runs=_runs(records),
        notes=[
            *notes(params),
            too_long(params, metrics),
            *processors(records),
            *isolation(records),
            *adopted(records),
        ],
    )


def notes(params: Params) -> list[str]:
    """The paragraphs of the page on the main base model, where that is one of :data:`MINIATURES`."""
    path = Path(next(iter(params.bases.values())).path)
    if MINIATURES not in path.parents:
        return []
    return path.with_name("README.md").read_text(encoding="utf-8").strip().split("\n\n")


def too_long(params: Params, metrics: dict[str, Any]) -> str:
    """How many test prompts of each task left no room for a reply in the base model's context."""
    counts: dict[str, int] = metrics["too_long"]
    found = [f"{count} of {params.tasks[task].sizes.test} on {task}" for task, count in counts.items() if count]
    if not found:
        return "No test prompt was too long for the context of the base model."
    return f"Test prompts too long for the context of the base model, scored as wrong: {', '.join(found)}."


def isolation(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Behind which walls each stage's programs were graded, in a paragraph; none where no program was.

    Args:
        records: The stages' run files.
    """
    # Stages that are not due keep run files of earlier versions, without it.
    told = _told({record["stage"]: record.get("isolation", []) for record in records})
    return [f"Generated programs were graded behind these walls of the sandbox: {told}."] if told else []


def adopted(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which stages, and which cells, were made by earlier code, in a paragraph; none where all ran with the present.

    Args:
        records: The stages' run files. That of ``measure`` tells nothing: cells outlive its runs.
    """
    notes = [
        (record["adopted"], f"`{record['stage']}`")
        for record in records
        if record["stage"] != "measure" and "adopted" in record
    ]
    found = cells.read_index()
    of_cells = Counter(path.read_text() for cell in found if (path := cells.adopted_file(cell)).exists())
    notes += [(json.loads(text), f"{count} of {len(found)} measured cells") for text, count in of_cells.items()]
    by_commits: dict[tuple[str, str], list[str]] = {}
    for note, what in notes:
        by_commits.setdefault((note["made"][:10], note["at"][:10]), []).append(what)
    told = "; ".join(
        f"{', '.join(what)}, made by the code of {made} and adopted at {at}" for (made, at), what in by_commits.items()
    )
    text = "Not run again after a change of code that leaves results as they are"
    return [f"{text}: {told}."] if told else []


def processors(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """On what processor the stages computed that run a model, in a paragraph; none where it is not known.

    Args:
        records: The stages' run files.
    """
    known = {record["stage"]: [name] for record in records if (name := record.get("processor"))}
    kinds = {name for names in known.values() for name in names}
    if not kinds:
        return []
    where = f"on `{kinds.pop()}`" if len(kinds) == 1 else f"on several processors: {_told(known)}"
    return [
        f"Models ran {where}. Another kind of processor rounds differently, which sends training another way: it gives "
        "another run, not the same numbers."
    ]


def _told(of_stages: Mapping[str, Sequence[str]]) -> str:
    """What each of several things holds for, in words."""
    stages: dict[str, list[str]] = {}
    for stage, things in of_stages.items():
        for thing in things:
            stages.setdefault(thing, []).append(stage)
    return "; ".join(f"`{thing}` in {', '.join(names)}" for thing, names in sorted(stages.items()))


def _runs(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Run ids and seconds of all stages but this."""
    rows = [[record["stage"], record["run_id"], record["seconds"]["stage"]] for record in records]
    return pd.DataFrame(rows, columns=["stage", "run_id", "seconds"])


def _timings(params: Params) -> pd.DataFrame:
    """Seconds of both passes, by system and task in the order of the cells."""
    columns = ["n", "first_seconds", "second_seconds"]
    rows = []
    for cell in cells.read_index():
        if (path := cells.timings_file(cell)).exists():
            system, seconds = params.systems[cell.system], cells.read_values(path)
            base = params.bases[system.base].label
            rows.append([base, system.label, cell.task, *(seconds[name] for name in columns)])
    return pd.DataFrame(rows, columns=["base", "system", "task", *columns])


def _histories(params: Params) -> pd.DataFrame:
    """The learning curves of every adapter."""
    frames = []
    for name, row in _taught(params).items():
        base, label = params.bases[row.base].label, label_of(params, name)
        for seed in params.recipes[row.recipe].seeds:
            history = read_csv(paths.adapter(name, seed) / "history.csv")
            frames.append(history.assign(base=base, label=label, adapter=name, task=row.task, seed=seed))
    return pd.concat(frames, ignore_index=True)


def _taught(params: Params) -> dict[str, Adapter]:
    """The adapters that were trained, and not made of others."""
    return {name: row for name, row in params.adapters.items() if not isinstance(row, DerivedAdapter)}


def _trained(params: Params, records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What each adapter is and what it took; seconds where this run trained it."""
    seconds = {record["stage"]: record["seconds"]["stage"] for record in records}
    rows = []
    for name, adapter in _taught(params).items():
        recipe = params.recipes[adapter.recipe]
        tensors = load_file(paths.adapter(name, recipe.seeds[0]) / "adapter_model.safetensors")
        targets = recipe.peft.get("target_modules", "")
        rows.append(
            {
                "base": params.bases[adapter.base].label,
                "adapter": name,
                "label": label_of(params, name),
                "objective": recipe.train.objective,
                "lr": recipe.train.lr,
                "modules": ", ".join(targets).replace("_proj", "") if isinstance(targets, list) else targets,
                "layers": recipe.layers if isinstance(recipe.layers, str) else ", ".join(map(str, recipe.layers)),
                "parameters": sum(tensor.size for tensor in tensors.values()),
                "seeds": len(recipe.seeds),
                "seconds": seconds.get(f"train@{name}"),
            }
        )
    return pd.DataFrame(rows)


def _shown(params: Params) -> pd.DataFrame:
    """What shots in the prompt cost, by system and task, beside the base model without them."""
    columns = ["base", "label", "task", "n", "prompt_tokens", "reply_tokens", "too_long", "base_tokens", "searched"]
    rows: list[list[Any]] = []
    bare = {row.base: name for name, row in params.systems.items() if isinstance(row, Bare)}
    found = cells.read_index()
    for name, system in params.systems.items():
        if not isinstance(system, InContext):
            continue
        for search in system.searches:
            task, budget = params.searches[search].task, params.budgets[params.searches[search].budget]
            with_shots = _lengths([cell for cell in found if (cell.system, cell.task) == (name, task)])
            without = _lengths([cell for cell in found if (cell.system, cell.task) == (bare.get(system.base), task)])
            if with_shots.empty or without.empty:
                continue
            mean, base = with_shots.mean(), without.mean()
            lengths = [mean["prompt"], mean["reply"], with_shots["too_long"].sum(), base["prompt"] + base["reply"]]
            objective = budget.objective
            samples = objective.samples if isinstance(objective, Accuracy) else None
            searched = samples and samples * budget.population * budget.generations * budget.shots
            named = [params.bases[system.base].label, system.label, task]
            rows.append([*named, len(with_shots), *lengths, searched])
    return pd.DataFrame(rows, columns=columns)


def _lengths(of: Sequence[cells.Cell]) -> pd.DataFrame:
    """Tokens of prompts and replies of some cells."""
    replies = [reply for cell in of for key in cell.replies for reply in cells.read_replies(key)]
    rows = [[reply.prompt_tokens, reply.tokens, reply.too_long] for reply in replies]
    return pd.DataFrame(rows, columns=["prompt", "reply", "too_long"])


def _learned(params: Params) -> Iterator[tuple[str, int, dict[tuple[int, str], np.ndarray[Any, Any]]]]:
    """What the SVF adapters have learned that systems of the main base model use: z − 1 by layer and module."""
    main, taught = next(iter(params.bases)), _taught(params)
    used = [params.adapters_of(name) for name, system in params.systems.items() if system.base == main]
    for name in dict.fromkeys(adapter for adapter in chain.from_iterable(used) if adapter in taught):
        recipe = params.recipes[params.adapters[name].recipe]
        for seed in recipe.seeds if recipe.method == SVF else []:
            tensors = load_file(paths.adapter(name, seed) / "adapter_model.safetensors").items()
            found = {(int(at["layer"]), at["module"]): z for key, z in tensors if (at := _MATRIX.search(key))}
            yield name, seed, {place: z.astype(np.float64) - 1 for place, z in found.items()}


def _similarities(params: Params) -> pd.DataFrame:
    """The cosine of z − 1 between any two SVF adapters and seeds, by module, where both adapt the same matrices."""
    label, learned = next(iter(params.bases.values())).label, list(_learned(params))
    rows = []
    for (left, left_seed, one), (right, right_seed, other) in product(learned, repeat=2):
        if one.keys() != other.keys():
            continue
        for module in [WHOLE, *dict.fromkeys(module for _, module in one)]:
            picked = [place for place in one if module in (WHOLE, place[1])]
            a, b = (np.concatenate([each[place] for place in picked]) for each in (one, other))
            norms = float(np.linalg.norm(a) * np.linalg.norm(b))
            cosine = float(a @ b) / norms if norms else None  # where nothing was learned
            rows.append([label, left, left_seed, right, right_seed, module, cosine])
    return pd.DataFrame(rows, columns=["base", "left", "left_seed", "right", "right_seed", "module", "cosine"])


def _changes(params: Params) -> pd.DataFrame:
    """How far each SVF adapter that systems of the main base model use is from z = 1; a mean over seeds."""
    label, rows = next(iter(params.bases.values())).label, []
    for name, _, learned in _learned(params):
        rows += [[label, name, *place, float(np.abs(change).mean())] for place, change in learned.items()]
    keys = ["base", "adapter", "layer", "module"]
    return pd.DataFrame(rows, columns=[*keys, "change"]).groupby(keys, sort=False)["change"].mean().reset_index()


def _replies(params: Params) -> pd.DataFrame:
    """The first replies on each trained task that the first seed of an own expert turned right, and wrong."""
    columns = ["task", "label", "question", "before", "after", "gained"]
    main = next(iter(params.bases))
    of_main = {name: row for name, row in params.systems.items() if row.base == main}
    bare = next((name for name, row in of_main.items() if isinstance(row, Bare)), None)
    owners = ((name, row) for name, row in of_main.items() if isinstance(row, Own) and params.key_of(name)[0] == "svf")
    own, system = next(owners, (None, None))
    rows: list[list[Any]] = []
    if bare is None or own is None or system is None:
        return pd.DataFrame(rows, columns=columns)
    measured = {cell.place: cell for cell in cells.read_index()}
    for task, declared in params.tasks.items():
        places = (bare, task, None, None), (own, task, params.seeds_of(system.set)[0], None)
        if declared.role != "trained" or any(place not in measured for place in places):
            continue
        before, after = ({answer.id: answer for answer in cells.answers(measured[place])} for place in places)
        asked = {item.id: question(item.prompt) for item in read_items(paths.split(task, "test"))}
        for gained in (True, False):
            turned = [id for id in before if (before[id].right, after[id].right) == (not gained, gained)]
            for id in turned[:EACH_WAY]:
                replies = (answer.reply.text if answer.reply else "" for answer in (before[id], after[id]))
                rows.append([task, system.label, asked[id], *replies, gained])
    return pd.DataFrame(rows, columns=columns)


def _images(params: Params) -> pd.DataFrame:
    """The first test questions of each task that show an image, with what every system of the main base answers."""
    rows = []
    main = next(iter(params.bases))
    # Cells stand in the order of seeds and draws: of each system and task the first.
    first = {(cell.task, cell.system): cell for cell in reversed(cells.read_index()) if cell.replies}
    for task in params.tasks:
        if not paths.split(task, "test").with_name(IMAGES).exists():
            continue
        items = [item for item in read_items(paths.split(task, "test")) if shown(item.prompt)][:ASKED]
        for name, system in params.systems.items():
            if system.base != main or (task, name) not in first:
                continue
            said = {answer.id: answer for answer in cells.answers(first[task, name])}
            for item in items:
                image = shown(item.prompt)[0].path
                rows.append(
                    {
                        "task": task,
                        "id": item.id,
                        "question": question(item.prompt),
                        "image": Image(image.name, image.read_bytes()),
                        "expected": usual(references(item.answer)),
                        "label": params.bases[main].label if isinstance(system, Bare) else system.label,
                        "reply": reply.text if (reply := said[item.id].reply) else "",
                        "right": said[item.id].right,
                    }
                )
    return pd.DataFrame(rows, columns=["task", "id", "question", "image", "expected", "label", "reply", "right"])


def _alphas(params: Params) -> pd.DataFrame:
    """What members weigh in the mix of every search, seed and draw; of several layers or matrices, mean and range."""
    rows = []
    for name, search in params.searches.items():
        members = {member: params.adapters[member] for member in params.sets[search.set].members}
        repeated = Counter(row.task for row in members.values())
        # A task is shorter than its adapter's name, where it tells members apart.
        labels = {member: row.task if repeated[row.task] == 1 else member for member, row in members.items()}
        base = params.bases[search.base].label
        for seed in params.seeds_of(search.set):
            for draw in range(params.budgets[search.budget].draws):
                alpha = read_json(paths.search(name, seed, draw) / "alpha.json")["alpha"]
                for member in [*members, *(other for other in alpha if other not in members)]:
                    values = alpha[member] if isinstance(alpha[member], list) else [alpha[member]]
                    spread = [fmean(values), min(values), max(values)]
                    rows.append([base, name, search.task, seed, draw, labels.get(member, member), *spread])
    columns = ["base", "search", "task", "seed", "draw", "expert", "alpha", "lowest", "highest"]
    return pd.DataFrame(rows, columns=columns)


def searches(params: Params) -> pd.DataFrame:
    """What each search found on its shots, and when; a row for each seed and draw.

    ``gain_over_first`` is over the first generation, ``gain_over_random`` over random search on the same shots with as
    many evaluations, where there is a row of it. ``rest_score`` and ``rest_uniform`` are accuracies of the mix that was
    found, and of the uniform one, on what the pool of shots holds besides.
    """
    rows: list[dict[str, Any]] = []
    of_random: dict[tuple[Any, ...], float] = {}
    for name, search in params.searches.items():
        budget = params.budgets[search.budget]
        for seed in params.seeds_of(search.set):
            for draw in range(budget.draws):
                found = read_json(paths.search(name, seed, draw) / "alpha.json")
                # What draws are made of: whoever has the same here has the same shots.
                key = (
                    search.base,
                    search.set,
                    search.task,
                    budget.split,
                    budget.shots,
                    budget.seed,
                    budget.objective,
                    found["evaluations"],
                    seed,
                    draw,
                )
                if budget.algorithm == "random":
                    of_random[key] = found["score"]
                rows.append(
                    {
                        "base": params.bases[search.base].label,
                        "search": name,
                        "task": search.task,
                        "algorithm": budget.algorithm,
                        "objective": _objective(budget),
                        "seed": seed,
                        "draw": draw,
                        "shots": budget.shots,
                        "evaluations": found["evaluations"],
                        "generations": budget.generations,
                        "score": found["score"],
                        "best_generation": found["best_generation"],
                        "score_generation": found["score_generation"],
                        "gain_over_first": found["score"] - found["first_score"],
                        "rest_score": found["rest_score"],
                        "rest_uniform": found["rest_uniform"],
                        "key": key,
                    }
                )
    for row in rows:
        key, own = row.pop("key"), row["algorithm"] == "random"
        row["gain_over_random"] = None if own or key not in of_random else row["score"] - of_random[key]
    numbers = dict.fromkeys(("gain_over_random", "rest_score", "rest_uniform"), float)
    return pd.DataFrame(rows, columns=SEARCH_COLUMNS).astype(numbers)


def _objective(budget: Budget) -> str:
    """What a budget's searches go by, as tables write it."""
    objective = budget.objective
    if isinstance(objective, Accuracy) and objective.temperature > 0:
        return f"accuracy of {objective.samples} sampled"
    return objective.kind


if __name__ == "__main__":
    main()
