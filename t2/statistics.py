"""From item results to scores: scores with intervals, paired comparisons, confusions. No files, nothing is selected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import pandas as pd

OTHER = "other"
"""The suite of prompts that no expert serves: only dispatchers are measured there, and it is no part of the scores."""
NO_CATEGORY = "none"
"""Column of a confusion matrix for replies that name no category."""

BASE = "base"
"""The method of a base model as it is."""

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
        category: What a dispatcher called the prompt; None without a dispatcher, or where it named none.
        too_long: The prompt left no room for a reply in the model's context; scored as wrong.
        flexible: Whether the reply is right by the flexible reading, which looks for the answer elsewhere too where the
            reply is not of the form that was asked for.
        cut_off: The reply came to the limit of its length before its end.
    """

    id: str
    correct: bool
    category: str | None = None
    too_long: bool = False
    flexible: bool = False
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model on one task: a row of the scores, with the items it rests on.

    Attributes:
        base: Label of the base model.
        suite: The task's role: ``trained``, ``unseen``, ``other``.
        task: The task's name.
        family: The expert family that the task belongs to, the truth for dispatchers.
        method: ``base``, or the PEFT method of what answers, ``svf``.
        strategy: How that was chosen: the system's.
        variant: The system's, where others have its method and strategy.
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
READING_COLUMNS = [*_KEYS, "n", "strict", "flexible", "cut_off"]
COMPARISON_COLUMNS = [
    *("base", "suite", "task", "family", "left", "right", "n_items", "n_runs", "mean_left", "mean_right"),
    *("difference", "ci_low", "ci_high", "run_low", "run_high"),
]
CONFUSION_COLUMNS = ["base", "dispatcher", "suite", "task", "seed", "truth", "predicted", "count"]


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


def scores(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """One row per measurement, in their order; :data:`SCORE_COLUMNS`. The suite ``other`` has no scores.

    Raises:
        ValueError: A measurement stands twice.
    """
    rows = []
    for measurement in _distinct(measurements):
        if measurement.suite == OTHER:
            continue
        n, correct = len(measurement.items), sum(item.correct for item in measurement.items)
        key = [getattr(measurement, name) for name in _KEYS]
        rows.append([*key, n, correct, correct / max(n, 1), *wilson(correct, n)])
    return pd.DataFrame(rows, columns=SCORE_COLUMNS).astype({"seed": "Int64", "draw": "Int64"})


def readings(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """How replies are read, so that skill and form can be told apart; rows as in :func:`scores`.

    Returns:
        :data:`READING_COLUMNS`: shares of the items that are right by the strict reading, which is the score, and by
        the flexible one, and of replies that were cut off.

    Raises:
        ValueError: A measurement stands twice.
    """
    rows = []
    for m in _distinct(measurements):
        if m.suite == OTHER:
            continue
        n, key = len(m.items), [getattr(m, name) for name in _KEYS]
        counts = [sum(getattr(item, name) for item in m.items) for name in ("correct", "flexible", "cut_off")]
        rows.append([*key, n, *(count / max(n, 1) for count in counts)])
    return pd.DataFrame(rows, columns=READING_COLUMNS).astype({"seed": "Int64", "draw": "Int64"})


def compare(
    measurements: Iterable[Measurement],
    *,
    contrasts: Iterable[tuple[System, System]],
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Paired differences between systems on the same items; :data:`COMPARISON_COLUMNS`.

    Compared are, on each task, every system with the base model and the pairs that are asked for. The difference of
    an item is averaged over seeds or draws; the 95 % interval is a percentile bootstrap over items. ``run_low`` and
    ``run_high`` are the range over single runs, each against the right side's run of the same seed where there is
    one.

    Args:
        measurements: In the order of the rows.
        contrasts: Pairs of systems, left and right.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap; every comparison over n items uses the same resamples.

    Raises:
        ValueError: Two runs on a task do not have the same items.
    """
    groups: dict[tuple[str, str, str, str], dict[System, list[Measurement]]] = {}
    for m in _distinct(measurements):
        if m.suite != OTHER:
            groups.setdefault((m.base, m.suite, m.task, m.family), {}).setdefault(m.system, []).append(m)
    wanted = list(contrasts)
    rows = []
    for where, systems in groups.items():
        ids = sorted(item.id for item in next(iter(systems.values()))[0].items)
        results = {system: _results(runs, ids) for system, runs in systems.items()}
        with_base = [(left, right) for right in systems if right[0] == BASE for left in systems if left[0] != BASE]
        for left, right in [*with_base, *(pair for pair in wanted if set(pair) <= systems.keys())]:
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
        measurements: Those whose items were called something are counted; the true category of a measurement is its
            family. Seeds count each, also of a dispatcher that answers for all of them alike.
        categories: What a dispatcher may answer, ``other`` last; :data:`NO_CATEGORY` is added.
    """
    rows = []
    for m in measurements:
        if any(item.category is not None for item in m.items):
            counts = Counter(item.category or NO_CATEGORY for item in m.items)
            strange = sorted(counts.keys() - {*categories, NO_CATEGORY})
            if strange:
                raise ValueError(f"{m.name}: unknown categories {strange}; allowed: {list(categories)}")
            dispatcher = "/".join(filter(None, (m.strategy, m.variant)))
            key = [m.base, dispatcher, m.suite, m.task, m.seed, m.family]
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


# Parts


def _some(names: Sequence[str], most: int = 10) -> str:
    """The names, or the first of them and how many follow."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _distinct(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The measurements; one that stands twice is an error."""
    found = list(measurements)
    repeated = [name for name, count in Counter(m.name for m in found).items() if count > 1]
    if repeated:
        raise ValueError(f"measured twice: {_some(repeated)}; two systems need two variants")
    return found


def _short(system: System) -> System:
    """The base model is just that; every other system says how its expert was chosen."""
    return (BASE, "", "") if system[0] == BASE else system


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
