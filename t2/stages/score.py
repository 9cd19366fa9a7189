"""Stage ``score``: scores with intervals, paired comparisons and confusions, from the measured cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import pandas as pd

from t2.config.rows import OTHER, Best, Classified, Dispatching, Found, Params
from t2.files import read_json, write_csv
from t2.stages import cells, paths
from t2.stages.cells import Answered, Cell
from t2.stages.stage import open_stage
from t2.statistics import (
    BALANCED,
    BASE,
    NO_CATEGORY,
    Measurement,
    Prediction,
    compare,
    confusion,
    readings,
    recalls,
    scores,
)

ROLES = ("trained", "unseen", OTHER)
"""Tables in this order."""


def main() -> None:
    """Writes the tables as CSV files, and their means for DVC and MLflow."""
    with open_stage("score") as stage:
        params = stage.params
        measured = measurements(params, cells.read_index())
        tables = tabulate(params, measured)
        paths.scores().mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            # A clean clone holds reports/ in git; the copies make DVC run the stage there.
            write_csv(paths.reports() / f"{name}.csv", table)
            write_csv(paths.scores() / f"{name}.csv", table)
            stage.run.log_table(table, name)
        summary = _means(tables["scores"], tables["dispatch"])
        metrics = {**summary, "too_long": too_long(params, measured)}
        (paths.reports() / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        stage.run.log_params({"score": params.score.model_dump()})
        for base, of_base in summary.items():
            dispatched = of_base.get("dispatch", {})
            stage.run.log_metrics({f"dispatch_{BALANCED}.{base}.{name}": value for name, value in dispatched.items()})
            # A run per system, with the same metric names, so that MLflow's Compare sets them side by side.
            tasks = [task for task in of_base if task != "dispatch"]
            for system in dict.fromkeys(name for task in tasks for name in of_base[task]):
                run = stage.run.child(f"{base}/{system}", tags={"t2.base": base, "t2.system": system})
                run.log_params({"base": base, "system": system})
                run.log_metrics({f"test_score.{task}": of_base[task].get(system) for task in tasks})


def tabulate(params: Params, measured: Sequence[Measurement]) -> dict[str, pd.DataFrame]:
    """The tables by the names of their files."""
    pairs = [(params.key_of(left), params.key_of(right)) for left, right in params.score.contrasts]
    categories = _categories(params)
    return {
        "scores": scores(measured),
        "readings": readings(measured),
        "comparisons": compare(measured, contrasts=pairs),
        "confusions": confusion(measured, categories),
        # Nobody calls a prompt by a category that is not offered.
        "dispatch": recalls([m for m in measured if m.family in categories], contrasts=pairs),
    }


def measurements(params: Params, found: list[Cell]) -> list[Measurement]:
    """The cells with their items, and those that are chosen among them, by base, role, task and system in row order."""
    bases, tasks, systems = list(params.bases), list(params.tasks), list(params.systems)

    def place(cell: Cell) -> tuple[int, ...]:
        base = bases.index(params.systems[cell.system].base)
        runs = (-1 if n is None else n for n in (cell.seed, cell.draw))
        role = ROLES.index(params.tasks[cell.task].role)
        return (base, role, tasks.index(cell.task), systems.index(cell.system), *runs)

    return [_measurement(params, cell) for cell in sorted([*found, *chosen(params, found)], key=place)]


def chosen(params: Params, found: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of systems that choose among others: for each task, seed and draw that all of these have, the best."""
    by_place = {cell.place: cell for cell in found}
    worth: dict[str, Callable[[Cell], float]] = {"test": _right, "rest": lambda cell: _on_rest(params, cell)}
    for name, system in params.systems.items():
        if not isinstance(system, Best):
            continue
        lead, *others = system.systems
        for cell in [cell for cell in found if cell.system == lead]:
            rivals = [cell, *(by_place.get((other, *cell.place[1:])) for other in others)]
            if all(rivals):
                yield replace(max(filter(None, rivals), key=worth[system.by]), system=name)


def _right(cell: Cell) -> float:
    """What a cell has right of the test questions."""
    return sum(answer.right or 0 for answer in cells.answers(cell))


def _on_rest(params: Params, cell: Cell) -> float:
    """What the mix that answers a cell has right of what its search left of the pool of shots."""
    system = params.systems[cell.system]
    names = system.searches if isinstance(system, Found) else []
    search = next(name for name in names if params.searches[name].task == cell.task)
    return float(read_json(paths.search(search, cell.seed or 0, cell.draw or 0) / "alpha.json")["rest_score"])


def too_long(params: Params, measured: Iterable[Measurement]) -> dict[str, int]:
    """How many prompts of each task left no room for a reply in the context of the main base, the first of the rows."""
    main, counts = next(iter(params.bases.values())).label, Counter[str]()
    for m in measured:
        counts[m.task] += sum(item.too_long for item in m.items) if (m.base, m.method) == (main, BASE) else 0
    return dict(counts)


def _measurement(params: Params, cell: Cell) -> Measurement:
    system, task = params.systems[cell.system], params.tasks[cell.task]
    method, strategy, variant = params.key_of(cell.system)
    return Measurement(
        base=params.bases[system.base].label,
        suite=task.role,
        task=cell.task,
        family=task.family,
        method=method,
        strategy=strategy,
        variant=variant,
        seed=cell.seed,
        draw=cell.draw,
        dispatcher_seed=cell.seed if isinstance(system, Classified) else None,
        items=tuple(_prediction(item, dispatched=cell.categories is not None) for item in cells.answers(cell)),
    )


def _prediction(item: Answered, dispatched: bool) -> Prediction:
    category = (item.category or NO_CATEGORY) if dispatched else None
    if item.reply is None:
        # Only asked for a category: who says `other` to what nobody serves is right.
        return Prediction(item.id, category == OTHER, category)
    cut_off = not (item.reply.finished or item.reply.too_long)
    return Prediction(item.id, item.right or False, category, item.reply.too_long, item.flexible or False, cut_off)


def _categories(params: Params) -> list[str]:
    """What a dispatcher may answer, ``other`` last."""
    asking = [task.source.tasks for task in params.tasks.values() if isinstance(task.source, Dispatching)]
    families = dict.fromkeys(params.tasks[name].family for name in chain.from_iterable(asking))
    return [*(family for family in families if family != OTHER), OTHER]


def _means(table: pd.DataFrame, dispatch: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Mean scores by base, task and system, over draws and then seeds, and the dispatchers' balanced accuracy."""
    keys = ["base", "task", "method", "strategy", "variant"]
    means: dict[str, dict[str, dict[str, float]]] = {}
    of_seeds = table.groupby([*keys, "seed"], sort=False, dropna=False)["score"].mean().reset_index()
    for row in of_seeds.groupby(keys, sort=False)["score"].mean().reset_index().to_dict("records"):
        system = "-".join(filter(None, (row["method"], row["strategy"], row["variant"])))
        means.setdefault(row["base"], {}).setdefault(row["task"], {})[system] = round(row["score"], 6)
    balanced = dispatch[(dispatch["against"] == "") & (dispatch["category"] == BALANCED)]
    for row in balanced.to_dict("records"):
        means[row["base"]].setdefault("dispatch", {})[row["dispatcher"]] = round(row["value"], 6)
    return means


if __name__ == "__main__":
    main()
