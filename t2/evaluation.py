"""From item results to scores: predictions on disk, scores with intervals, paired comparisons, confusions.

Nothing is selected here, and nothing that adaptation saw is scored: :func:`evaluate_items` refuses it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from t2.files import replace_file, replacing

if TYPE_CHECKING:
    from t2.engine.base import Generation
    from t2.tasks.item import Item

SUITES = ("trained", "unseen", "other")
"""Kinds of tasks; only dispatchers are measured on ``other``, and it is no part of the scores."""
METHODS = ("base", "lora", "svf")
STRATEGIES = ("none", "own", "prompt", "classifier", "fewshot", "uniform")
"""How the expert was chosen: not at all (``variant`` then names an expert), the one of the task's own
family, by a dispatcher, by few-shot search, or the uniform mix."""
NO_CATEGORY = "none"
"""Column of a confusion matrix for replies that name no category."""

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

System = tuple[str, str, str]
"""What is compared on a task: method, strategy, variant."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of one item.

    Attributes:
        id: The item's id, unique within its task.
        correct: Whether the reply was graded as right.
        text: The reply.
        category: What a dispatcher called the prompt; None without a dispatcher, or where it named none.
        too_long: The prompt left no room for a reply in the model's context; scored as wrong.
        tokens: Generated tokens.
    """

    id: str
    correct: bool
    text: str = ""
    category: str | None = None
    too_long: bool = False
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model on one task: a row of the scores, with the items it rests on.

    Attributes:
        base: Name of the base model.
        suite: One of :data:`SUITES`.
        task: The task's name.
        family: The expert family that the task belongs to, the truth for dispatchers.
        method: One of :data:`METHODS`.
        strategy: One of :data:`STRATEGIES`.
        variant: A baseline's recipe, or the expert's task where a foreign expert answers; else empty.
        seed: Training seed; None where nothing was trained.
        draw: Draw of the shots; None without few-shot search.
        items: One prediction an item.
    """

    base: str
    suite: str
    task: str
    family: str
    method: str
    strategy: str
    variant: str = ""
    seed: int | None = None
    draw: int | None = None
    items: tuple[Prediction, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("suite", SUITES), ("method", METHODS), ("strategy", STRATEGIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        repeated = [id for id, count in Counter(item.id for item in self.items).items() if count > 1]
        if repeated:
            raise ValueError(f"{self.name}: item ids repeat, an item counts once: {_some(repeated)}")

    @property
    def system(self) -> System:
        """Method, strategy and variant: what seeds and draws are averaged over."""
        return self.method, self.strategy, self.variant

    @property
    def name(self) -> str:
        """A file name of its own for every measurement, without ending."""
        parts = [self.base, self.task, self.method, self.strategy, self.variant]
        parts += [f"{kind}-{n}" for kind, n in (("seed", self.seed), ("draw", self.draw)) if n is not None]
        return ".".join(part for part in parts if part)


_KEYS = [field.name for field in fields(Measurement) if field.name != "items"]
SCORE_COLUMNS = [*_KEYS, "n", "correct", "score", "ci_low", "ci_high"]
COMPARISON_COLUMNS = [
    *("base", "suite", "task", "family", "left", "right", "n_items", "n_runs", "mean_left", "mean_right"),
    *("difference", "ci_low", "ci_high", "run_low", "run_high"),
]
CONFUSION_COLUMNS = ["base", "dispatcher", "suite", "task", "seed", "truth", "predicted", "count"]


# Items


def refuse_seen(ids: Iterable[str], seen: Collection[str]) -> None:
    """Refuses items that adaptation saw; call it before anything is generated for them.

    Raises:
        ValueError: Names the items.
    """
    leaked = sorted(set(ids) & set(seen))
    if leaked:
        raise ValueError(
            f"{len(leaked)} item(s) to be evaluated were seen by adaptation: {_some(leaked)}; "
            "draw the splits again, shots are never reported on"
        )


def evaluate_items(
    items: Sequence[Item],
    generations: Sequence[Generation],
    correct: Sequence[bool],
    *,
    seen: Collection[str] = (),
    categories: Sequence[str | None] | None = None,
) -> tuple[Prediction, ...]:
    """Joins items, replies and grades.

    Args:
        items: What was asked.
        generations: The reply to each item.
        correct: The grade of each reply; a prompt that was too long counts as wrong whatever it says.
        seen: Ids, within this task, of items that adaptation used.
        categories: What a dispatcher called each prompt.

    Raises:
        ValueError: An item was seen by adaptation, or the sequences differ in length.
    """
    refuse_seen((item.id for item in items), seen)
    named = [None] * len(items) if categories is None else categories
    if not len(items) == len(generations) == len(correct) == len(named):
        raise ValueError(
            f"{len(items)} items need one generation, grade and category each, got "
            f"{len(generations)}, {len(correct)} and {len(named)}"
        )
    return tuple(
        Prediction(item.id, bool(right) and not reply.too_long, reply.text, called, reply.too_long, len(reply.tokens))
        for item, reply, right, called in zip(items, generations, correct, named, strict=True)
    )


def write_predictions(path: str | Path, measurements: Iterable[Measurement]) -> None:
    """Writes measurements as JSON lines, one flat row an item, atomically and always with the same bytes."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for measurement in measurements:
            key = {name: getattr(measurement, name) for name in _KEYS}
            for item in measurement.items:
                file.write(json.dumps(key | asdict(item), sort_keys=True, ensure_ascii=False) + "\n")


def read_predictions(path: str | Path) -> list[Measurement]:
    """Reads what :func:`write_predictions` wrote, in its order.

    Raises:
        ValueError: A line is no prediction; the message holds its number.
    """
    found: dict[Any, list[Prediction]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                key = tuple(row.pop(name) for name in _KEYS)
                found.setdefault(key, []).append(Prediction(**row))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: no prediction ({error!r})") from None
    return [Measurement(**dict(zip(_KEYS, key, strict=True)), items=tuple(items)) for key, items in found.items()]


# Scores


def wilson(correct: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927, https://doi.org/10.2307/2276774).

    Args:
        correct: Successes, 0 to ``n``.
        n: Trials, at least 1.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is no share; a score needs at least one item")
    share, square = correct / n, Z95**2 / n
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def scores(
    measurements: Iterable[Measurement], *, bases: Sequence[str] = (), tasks: Sequence[str] = ()
) -> pd.DataFrame:
    """One row a measurement, sorted; :data:`SCORE_COLUMNS`. The suite ``other`` has no scores.

    Args:
        measurements: In any order.
        bases: Base models in the order of the rows; others follow by name.
        tasks: Tasks in the order of the rows; others follow by name.

    Raises:
        ValueError: A measurement stands twice.
    """
    rows = []
    for measurement in _sorted(measurements, bases, tasks):
        if measurement.suite == "other":
            continue
        n, correct = len(measurement.items), sum(item.correct for item in measurement.items)
        key = [getattr(measurement, name) for name in _KEYS]
        rows.append([*key, n, correct, correct / max(n, 1), *wilson(correct, n)])
    return pd.DataFrame(rows, columns=SCORE_COLUMNS).astype({"seed": "Int64", "draw": "Int64"})


def compare(
    measurements: Iterable[Measurement],
    *,
    resamples: int,
    seed: int,
    bases: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> pd.DataFrame:
    """Paired differences between systems on the same items; :data:`COMPARISON_COLUMNS`.

    Compared are, on each task: every system with the base model, few-shot with the uniform mix, the
    classifier with the prompt, and the own SVF expert with each LoRA. The difference of an item is averaged
    over seeds or draws; the 95 % interval is a percentile bootstrap over items. ``run_low`` and ``run_high``
    are the range over single runs, each against the right side's run of the same seed where there is one.

    Args:
        measurements: In any order.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap; every comparison over n items uses the same resamples.
        bases: Base models in the order of the rows.
        tasks: Tasks in the order of the rows.

    Raises:
        ValueError: Two runs on a task do not have the same items.
    """
    groups: dict[tuple[str, str, str, str], dict[System, list[Measurement]]] = {}
    for m in _sorted(measurements, bases, tasks):
        if m.suite != "other":
            groups.setdefault((m.base, m.suite, m.task, m.family), {}).setdefault(m.system, []).append(m)
    rows = []
    for where, systems in groups.items():
        ids = sorted(item.id for item in next(iter(systems.values()))[0].items)
        results = {system: _results(runs, ids) for system, runs in systems.items()}
        for left, right in _contrasts(list(systems)):
            items_left, items_right = results[left].mean(0), results[right].mean(0)
            difference = items_left - items_right
            low, high = np.quantile(_resamples(len(ids), resamples, seed) @ difference, [0.025, 0.975])
            single = [
                float(mine.mean() - results[right][_partners(run, systems[right])].mean())
                for run, mine in zip(systems[left], results[left], strict=True)
            ]
            rows.append(
                [
                    *(*where, "/".join(filter(None, _short(left))), "/".join(filter(None, _short(right)))),
                    *(len(ids), len(single), items_left.mean(), items_right.mean(), difference.mean()),
                    *(low, high, min(single), max(single)),
                ]
            )
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


# Dispatch


def confusion(measurements: Iterable[Measurement], categories: Sequence[str]) -> pd.DataFrame:
    """Counts what each dispatcher called the prompts of each task; :data:`CONFUSION_COLUMNS`.

    Args:
        measurements: Those with strategy ``prompt`` or ``classifier`` are counted; the true category of a
            measurement is its family.
        categories: What a dispatcher may answer, ``other`` last; :data:`NO_CATEGORY` is added.
    """
    rows = []
    for m in _sorted(measurements, (), ()):
        if m.strategy in ("prompt", "classifier"):
            counts = Counter(item.category or NO_CATEGORY for item in m.items)
            strange = sorted(counts.keys() - {*categories, NO_CATEGORY})
            if strange:
                raise ValueError(f"{m.name}: unknown categories {strange}; allowed: {list(categories)}")
            key = [m.base, m.strategy, m.suite, m.task, m.seed, m.family]
            rows += [[*key, called, counts[called]] for called in (*categories, NO_CATEGORY)]
    return pd.DataFrame(rows, columns=CONFUSION_COLUMNS).astype({"seed": "Int64"})


def dispatch_accuracy(confusions: pd.DataFrame) -> pd.DataFrame:
    """Share of prompts whose category was named, over all tasks and seeds of a base model's dispatcher.

    Returns:
        Columns base, dispatcher, n, correct, accuracy.
    """
    right = confusions["count"].where(confusions["truth"] == confusions["predicted"], 0)
    table = (
        confusions.assign(n=confusions["count"], correct=right)
        .groupby(["base", "dispatcher"], as_index=False, sort=False)[["n", "correct"]]
        .sum()
    )
    return table.assign(accuracy=table["correct"] / table["n"])


# Tables on disk


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Writes a table atomically and always with the same bytes: six decimals, empty where nothing applies."""
    replace_file(path, frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


def read_csv(path: str | Path) -> pd.DataFrame:
    """Reads a table of :func:`write_csv`: seeds and draws are nullable integers, no text is a gap."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    for name in frame.columns.intersection(["seed", "draw"]):
        frame[name] = frame[name].astype("Int64")
    if "variant" in frame:
        frame["variant"] = frame["variant"].fillna("").astype(str)
    return frame


# Parts


def _some(names: Sequence[str], most: int = 10) -> str:
    """The names, or the first of them and how many follow."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sorted(measurements: Iterable[Measurement], bases: Sequence[str], tasks: Sequence[str]) -> list[Measurement]:
    """Measurements in the order of all tables; a measurement that stands twice is an error."""

    def place(name: str, order: Sequence[str]) -> tuple[int, str]:
        return (list(order).index(name) if name in order else len(order), name)

    def rank(m: Measurement) -> tuple[Any, ...]:
        runs = tuple(-1 if n is None else n for n in (m.seed, m.draw))
        system = (METHODS.index(m.method), STRATEGIES.index(m.strategy), m.variant)
        return (place(m.base, bases), SUITES.index(m.suite), place(m.task, tasks), m.family, *system, *runs)

    ordered = sorted(measurements, key=rank)
    for one, other in pairwise(ordered):
        if rank(one) == rank(other):
            raise ValueError(f"{one.name} was measured twice; remove one of the prediction files")
    return ordered


def _short(system: System) -> System:
    """The base model is just that; every other system says how its expert was chosen."""
    return ("base", "", "") if system[0] == "base" else system


def _results(runs: Sequence[Measurement], ids: Sequence[str]) -> np.ndarray:
    """Right (1) or wrong (0), shape (runs, items)."""
    table = np.empty((len(runs), len(ids)))
    for row, run in zip(table, runs, strict=True):
        right = {item.id: item.correct for item in run.items}
        if right.keys() != set(ids):
            odd = sorted(right.keys() ^ set(ids))
            raise ValueError(f"{run.name}: other items than the other runs on {run.task}: {_some(odd)}")
        row[:] = [right[id] for id in ids]
    return table


def _contrasts(systems: Sequence[System]) -> Iterator[tuple[System, System]]:
    """Which system is compared with which."""
    base = [system for system in systems if system[0] == "base"]
    yield from ((left, right) for right in base for left in systems if left not in base)
    for left in systems:
        for right in systems:
            ways = (left[1], right[1])
            if left[0] == right[0] and ways in (("fewshot", "uniform"), ("classifier", "prompt")):
                yield left, right
            if (left[0], right[0], *ways) == ("svf", "lora", "own", "own"):
                yield left, right


def _partners(run: Measurement, others: Sequence[Measurement]) -> list[int]:
    """Places of the runs that share seed and draw with ``run``, else its seed, else all."""
    both = [i for i, o in enumerate(others) if (o.seed, o.draw) == (run.seed, run.draw)]
    seed = [i for i, o in enumerate(others) if o.seed == run.seed]
    return both or seed or list(range(len(others)))


@lru_cache(maxsize=8)
def _resamples(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each item is drawn in each bootstrap resample, as a share, shape (resamples, n)."""
    generator = np.random.default_rng([seed, n])
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples) / n
