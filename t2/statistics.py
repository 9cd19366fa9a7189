"""From item results to scores: scores with intervals, paired comparisons, confusions. No files, nothing is selected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from t2.intervals import Results, estimate, share_interval, wilson

OTHER = "other"
"""The suite of prompts that no expert serves: only dispatchers are measured there, and it is no part of the scores."""
NO_CATEGORY = "none"
"""Column of a confusion matrix for replies that name no category."""

BASE = "base"
"""The method of a base model as it is."""

BALANCED = "balanced"
"""In the place of a category: the mean of all categories' recalls."""

System = tuple[str, str, str]
"""What is compared on a task: method, strategy, variant."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of one item.

    Attributes:
        id: The item's id, unique within its task.
        correct: Whether the reply was graded as right; of questions about images the official accuracy, a share.
        category: What a dispatcher called the prompt, :data:`NO_CATEGORY` where it named none; None without one.
        too_long: The prompt left no room for a reply in the model's context; scored as wrong.
        flexible: The same by the flexible reading, which looks for the answer elsewhere too where the reply is not of
            the form that was asked for.
        cut_off: The reply came to the limit of its length before its end.
    """

    id: str
    correct: float
    category: str | None = None
    too_long: bool = False
    flexible: float = False
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
        dispatcher_seed: Training seed of what named the categories; None: the base model, which has none.
        items: One prediction per item.
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
    dispatcher_seed: int | None = None
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
    def dispatcher(self) -> str:
        """What named the categories, as tables of dispatching write it."""
        return dispatcher_of(self.system)

    @property
    def name(self) -> str:
        """A file name of its own for every measurement, without ending."""
        parts = [self.base, self.task, self.method, self.strategy, self.variant]
        parts += [f"{kind}-{n}" for kind, n in (("seed", self.seed), ("draw", self.draw)) if n is not None]
        return ".".join(part for part in parts if part)


_KEYS = [field.name for field in fields(Measurement) if field.name not in ("dispatcher_seed", "items")]
SCORE_COLUMNS = [*_KEYS, "n", "correct", "score", "ci_low", "ci_high"]
READING_COLUMNS = [*_KEYS, "n", "strict", "flexible", "cut_off"]
COMPARISON_COLUMNS = [
    *("base", "suite", "task", "family", "left", "right", "n_items", "n_runs", "n_seeds", "mean_left", "mean_right"),
    *("left_low", "left_high", "ratio", "ratio_low", "ratio_high", "difference", "ci_low", "ci_high"),
    *("run_low", "run_high", "se", "df", "p", "sd_runs", "sd_draws", "sd_questions"),
]
CONFUSION_COLUMNS = ["base", "dispatcher", "suite", "task", "seed", "truth", "predicted", "count"]
DISPATCH_COLUMNS = [
    *("base", "dispatcher", "against", "category", "n_items", "n_seeds", "value", "ci_low", "ci_high", "p"),
]


# Scores


def scores(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """One row per measurement, in their order; :data:`SCORE_COLUMNS`. The suite ``other`` has no scores.

    Raises:
        ValueError: A measurement stands twice.
    """
    rows = []
    for measurement in _scored(measurements):
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
    for m in _scored(measurements):
        n, key = len(m.items), [getattr(m, name) for name in _KEYS]
        counts = [sum(getattr(item, name) for item in m.items) for name in ("correct", "flexible", "cut_off")]
        rows.append([*key, n, *(count / max(n, 1) for count in counts)])
    return pd.DataFrame(rows, columns=READING_COLUMNS).astype({"seed": "Int64", "draw": "Int64"})


def compare(measurements: Iterable[Measurement], *, contrasts: Iterable[tuple[System, System]]) -> pd.DataFrame:
    """Paired differences between systems on the same items; :data:`COMPARISON_COLUMNS`.

    Compared are, on each task, every system with the base model and the pairs that are asked for. A mean is over items
    and seeds, and over a seed's draws before. Intervals, standard error, degrees of freedom, p and the deviations are
    :func:`t2.intervals.estimate`'s: they cover other questions and other runs. Where both sides have the same seeds,
    runs are paired by seed, else they are independent. ``ratio`` is that of the means, its interval by the delta
    method; empty where the right mean is 0. ``run_low`` and ``run_high`` are the range over single runs, each against
    the right side's run of the same seed where there is one.

    Args:
        measurements: In the order of the rows.
        contrasts: Pairs of systems, left and right.

    Raises:
        ValueError: Two runs on a task do not have the same items.
    """
    groups: dict[tuple[str, str, str, str], dict[System, list[Measurement]]] = {}
    for m in _scored(measurements):
        groups.setdefault((m.base, m.suite, m.task, m.family), {}).setdefault(m.system, []).append(m)
    wanted = list(contrasts)
    rows = []
    for where, systems in groups.items():
        ids = sorted(item.id for item in next(iter(systems.values()))[0].items)
        results = {system: _results(runs, ids) for system, runs in systems.items()}
        by_seed = {system: _by_seed(runs, results[system]) for system, runs in systems.items()}
        with_base = [(left, right) for right in systems if right[0] == BASE for left in systems if left[0] != BASE]
        for left, right in [*with_base, *(pair for pair in wanted if set(pair) <= systems.keys())]:
            mine, other = by_seed[left], by_seed[right]
            found, alone = estimate(_groups(mine, other)), estimate([list(mine.values())])
            mean_right = estimate([list(other.values())]).value
            single = [
                float(of_run.mean() - results[right][_partners(run, systems[right])].mean())
                for run, of_run in zip(systems[left], results[left], strict=True)
            ]
            rows.append(
                [
                    *(*where, "/".join(filter(None, _short(left))), "/".join(filter(None, _short(right)))),
                    *(len(ids), len(single), len(mine), alone.value, mean_right),
                    *(*share_interval(alone, len(ids)), *_ratio(mine, other, alone.value, mean_right)),
                    *(found.value, *found.interval, min(single), max(single)),
                    *(found.se, found.df, found.p, found.sd_runs, found.sd_draws, found.sd_questions),
                ]
            )
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


# Dispatch


def dispatcher_of(system: System) -> str:
    """A system in the tables of dispatching: how it chooses, and its variant."""
    _, strategy, variant = system
    return "/".join(filter(None, (strategy, variant)))


def confusion(measurements: Iterable[Measurement], categories: Sequence[str]) -> pd.DataFrame:
    """Counts what each dispatcher called the prompts of each task; :data:`CONFUSION_COLUMNS`.

    ``seed`` is the dispatcher's: what has none is counted once, however many seeds the experts have that answer.

    Args:
        measurements: Those whose items were called something are counted; the true category of a measurement is its
            family.
        categories: What a dispatcher may answer, ``other`` last; :data:`NO_CATEGORY` is added.
    """
    rows = []
    for m in _dispatched(measurements):
        counts = Counter(item.category for item in m.items)
        strange = sorted(str(name) for name in counts.keys() - {*categories, NO_CATEGORY})
        if strange:
            raise ValueError(f"{m.name}: unknown categories {strange}; allowed: {list(categories)}")
        key = [m.base, m.dispatcher, m.suite, m.task, m.dispatcher_seed, m.family]
        rows += [[*key, called, counts[called]] for called in (*categories, NO_CATEGORY)]
    return pd.DataFrame(rows, columns=CONFUSION_COLUMNS).astype({"seed": "Int64"})


def recalls(measurements: Iterable[Measurement], *, contrasts: Iterable[tuple[System, System]]) -> pd.DataFrame:
    """How many of each category's prompts a dispatcher calls by it; :data:`DISPATCH_COLUMNS`.

    :data:`BALANCED`, the headline, is the mean over categories, which does not hang on how many prompts each has. A
    prompt that was called nothing is nobody's right answer. Intervals cover prompts and the dispatcher's seeds, see
    :func:`t2.intervals.estimate`.

    Args:
        measurements: Those whose items were called something.
        contrasts: Pairs of systems; where both dispatch, ``against`` is the right one, and ``value`` the difference.
    """
    named: dict[str, dict[str, dict[int | None, list[Measurement]]]] = {}
    for m in _dispatched(measurements):
        named.setdefault(m.base, {}).setdefault(m.dispatcher, {}).setdefault(m.dispatcher_seed, []).append(m)
    pairs = [(dispatcher_of(left), dispatcher_of(right)) for left, right in contrasts]
    rows = []
    for base, dispatchers in named.items():
        right = {name: _named_rightly(name, seeds) for name, seeds in dispatchers.items()}
        for left, against in [*((name, "") for name in right), *(pair for pair in pairs if set(pair) <= right.keys())]:
            truths, mine = right[left]
            other: dict[int | None, Results] = {}
            if against:
                truths_of_other, other = right[against]
                if truths_of_other != truths:
                    raise ValueError(f"{left} and {against} were not asked about the same prompts of {base}")
            categories = list(dict.fromkeys(truths))
            labels = np.array([categories.index(truth) for truth in truths])
            parts: list[tuple[str, np.ndarray]] = [(BALANCED, np.arange(len(labels)))]
            parts += [(category, np.flatnonzero(labels == place)) for place, category in enumerate(categories)]
            for category, part in parts:
                # Within a category, all are of one stratum.
                strata = np.unique(labels[part], return_inverse=True)[1]
                taken, others = ({seed: table[:, part] for seed, table in of.items()} for of in (mine, other))
                found = estimate(_groups(taken, others), strata)
                interval = found.interval if against else share_interval(found, len(part))
                p = found.p if against else np.nan
                rows.append([base, left, against, category, len(part), len(mine), found.value, *interval, p])
    return pd.DataFrame(rows, columns=DISPATCH_COLUMNS)


# Parts


def _some(names: Sequence[str], most: int = 10) -> str:
    """The names, or the first of them and how many follow."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _scored(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The measurements that have scores; one that stands twice is an error."""
    found = list(measurements)
    repeated = [name for name, count in Counter(m.name for m in found).items() if count > 1]
    if repeated:
        raise ValueError(f"measured twice: {_some(repeated)}; two systems need two variants")
    return [m for m in found if m.suite != OTHER]


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


def _by_seed(runs: Sequence[Measurement], results: np.ndarray) -> dict[int | None, Results]:
    """Each seed's results, a row for each of its draws."""
    places: dict[int | None, list[int]] = {}
    for place, run in sorted(enumerate(runs), key=lambda at: -1 if at[1].draw is None else at[1].draw):
        places.setdefault(run.seed, []).append(place)
    return {seed: results[rows] for seed, rows in places.items()}


def _groups(
    left: Mapping[int | None, Results], right: Mapping[int | None, Results], scale: float = 1.0
) -> list[list[Results]]:
    """Left minus ``scale`` times right: by seed where both have the same seeds, else as independent runs."""
    if left.keys() != right.keys():
        groups = [list(left.values()), [-scale * table for table in right.values()]]
        return [group for group in groups if group]
    # The shots of a draw are the same for all who have draws.
    paired = all(len(left[seed]) == len(right[seed]) for seed in left)
    return [[left[seed] - scale * (right[seed] if paired else right[seed].mean(0)) for seed in left]]


def _ratio(
    left: Mapping[int | None, Results], right: Mapping[int | None, Results], mean_left: float, mean_right: float
) -> tuple[float, float, float]:
    """The ratio of both means and its interval: by the delta method, that of (left − ratio · right) / mean of right."""
    if mean_right == 0:
        return np.nan, np.nan, np.nan
    ratio = mean_left / mean_right
    low, high = estimate(_groups(left, right, ratio)).interval
    return ratio, max(0.0, ratio + low / mean_right), ratio + high / mean_right


def _dispatched(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Those whose items were called something, one for each seed of a dispatcher."""
    found: dict[tuple[str, str, str, int | None], Measurement] = {}
    for m in measurements:
        if any(item.category is not None for item in m.items):
            found.setdefault((m.base, m.dispatcher, m.task, m.dispatcher_seed), m)
    return list(found.values())


def _named_rightly(
    name: str, seeds: Mapping[int | None, Sequence[Measurement]]
) -> tuple[list[str], dict[int | None, Results]]:
    """The true category of each prompt; by seed whether (1) or not (0) a dispatcher named it, shape (1, prompts)."""
    tables = {}
    truths: dict[tuple[str, str], str] | None = None
    for seed, runs in seeds.items():
        called = {(run.task, item.id): (run.family, item.category) for run in runs for item in run.items}
        truths = truths or {key: truth for key, (truth, _) in called.items()}
        if called.keys() != truths.keys():
            raise ValueError(f"{name}, seed {seed}: other prompts than with the other seeds; measure all seeds anew")
        tables[seed] = np.array([[float(called[key][1] == truth) for key, truth in truths.items()]])
    return list((truths or {}).values()), tables
