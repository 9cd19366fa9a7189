"""What the intervals say, in words: which system is better than which, and where the paper's order holds.

Standard library only, like :mod:`t2.report.tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from t2.report.systems import ADAPTER, BASE, System, present
from t2.report.tables import NONE, Cell, Row, Table, points

BETTER, WORSE, OPEN = "better", "worse", "not told apart"

_ORDER = ("prompt", "classifier", "fewshot")
"""The strategies of the paper's section 4.3, each at least as good as the one before it on unseen tasks."""


def claims_table(comparisons: Iterable[Row], systems: Sequence[System], title: str) -> Table | None:
    """On which tasks each system is better or worse than what it is compared with.

    Args:
        comparisons: Rows of the comparison file.
        systems: They give systems their labels, and lines their order; single adapters are left out.
        title: The table's title.

    Returns:
        The table, or None where nothing is compared.
    """
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in comparisons:
        found.setdefault((row["base"], row["left"], row["right"]), {})[row["task"]] = row
    groups, orders = [], []
    for base in dict.fromkeys(base for base, *_ in found):
        pairs = {(left, right): rows for (of, left, right), rows in found.items() if of == base}
        named = present(systems, base, (name for pair in pairs for name in (BASE, *pair)))
        lines = []
        for right in named:
            for left in named:
                if left.strategy != ADAPTER and (rows := pairs.get((left.name, right.name))):
                    other = base if right.method == BASE else right.label
                    lines.append((Cell(f"{left.label} against {other}"), *_sorted(rows)))
        groups += [tuple(lines)] if lines else []
        orders += _order(base, named, pairs)
    if not groups:
        return None
    return Table(
        title,
        "Points of accuracy with the 95 % interval over training runs and test questions; better and worse: it "
        f"excludes 0, before rounding. {' '.join(orders)}".strip(),
        (Cell("Compared"), *map(Cell, (BETTER, WORSE, OPEN))),
        tuple(groups),
        worded=True,
    )


def verdict(row: Row) -> str:
    """What the interval of a comparison allows to say."""
    return BETTER if float(row["ci_low"]) > 0 else WORSE if float(row["ci_high"]) < 0 else OPEN


def _sorted(rows: Mapping[str, Row]) -> list[Cell]:
    """The tasks by verdict."""
    texts: dict[str, list[str]] = {BETTER: [], WORSE: [], OPEN: []}
    for task, row in rows.items():
        value, low, high = (points(row[name]) for name in ("difference", "ci_low", "ci_high"))
        texts[verdict(row)].append(f"{task} {value} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}"))
    return [Cell("; ".join(of) or NONE) for of in texts.values()]


def _order(base: str, systems: Sequence[System], pairs: Mapping[tuple[str, str], Mapping[str, Row]]) -> list[str]:
    """Whether the paper's order holds on a base's unseen tasks, in a sentence; none where it was not measured."""
    of_strategy = {system.strategy: system for system in reversed(systems)}
    if not of_strategy.keys() >= set(_ORDER):
        return []
    ranked = [of_strategy[strategy] for strategy in _ORDER]
    steps = [
        (low, high, row)
        for low, high in pairwise(ranked)
        for row in pairs.get((high.name, low.name), {}).values()
        if row["suite"] == "unseen"
    ]
    if not steps:
        return []
    told = {
        kind: ", ".join(
            f"{row['task']} ({high.label} against {low.label})" for low, high, row in steps if verdict(row) == kind
        )
        for kind in (BETTER, WORSE)
    }
    order = " ≤ ".join(system.label for system in ranked)
    return [
        f"The paper's order on unseen tasks ({base}), {order}: a step up on {told[BETTER] or 'no task'}; contradicted "
        f"on {told[WORSE] or 'no task'}."
    ]
