"""Tables laid out like the paper's 1, 2 and 3: methods as rows, tasks as columns.

Standard library only, so that the terminal summary starts at once. Rows of a score file are mappings from
column to value, as ``csv.DictReader`` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from t2.report.systems import ADAPTER, BASE, System, name_of, present

Row = Mapping[str, Any]
NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A value and, smaller, what qualifies it."""

    text: str
    asides: tuple[str, ...] = ()
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        title: For example ``Table 1``, and what it shows.
        caption: What the numbers are, with n, intervals and seeds.
        header: One cell a column; the first heads the row labels.
        groups: Blocks of rows, set apart by a rule; the first cell of a row is its label.
    """

    title: str
    caption: str
    header: tuple[Cell, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]


def score_table(scores: Iterable[Row], systems: Sequence[System], suite: str, title: str) -> Table | None:
    """Tables 1 and 2: accuracy by system and task, normalised to the base model in parentheses.

    Args:
        scores: Rows of the score file; bases and tasks keep the order in which they stand there.
        systems: The lines, in order; those without scores are left out.
        suite: ``trained`` or ``unseen``.
        title: The table's title.

    Returns:
        The table, or None where the suite has no rows.
    """
    runs = _runs(row for row in scores if row["suite"] == suite and row["strategy"] != ADAPTER)
    bases, tasks = _distinct(runs, 0), _distinct(runs, 1)
    if not tasks:
        return None
    groups = []
    for base in bases:
        lines = []
        for system in present(systems, base, (name for of, _, name in runs if of == base)):
            alone = system.method == BASE
            cells = [_score_cell(runs.get((base, task, system.name)), runs.get((base, task, BASE))) for task in tasks]
            mine = [row for task in tasks for row in runs.get((base, task, system.name), [])]
            label = base if alone else f"+ {system.label}"
            lines.append((Cell(label, strong=alone), *cells, Cell(_repeats(mine))))
        groups.append(tuple(lines))
    return Table(
        title,
        "Accuracy in per cent, mean over seeds or draws; in parentheses, normalised to the base model. "
        "A method by itself stands for the adapter that was trained on the task's family. "
        "± is half of Wilson's 95 % interval for n items at that mean: what other items could have given, "
        "not what other seeds could have. n is the number of test items.",
        (Cell("Method"), *(Cell(task, (_items(runs, task),)) for task in tasks), Cell("Runs")),
        tuple(groups),
    )


def readings_table(readings: Iterable[Row], systems: Sequence[System], title: str) -> Table | None:
    """The flexible reading beside the strict one, and the share of replies that were cut off.

    Args:
        readings: Rows of the file of readings; bases and tasks keep the order in which they stand there.
        systems: The lines, in order; those without rows are left out.
        title: The table's title.

    Returns:
        The table, or None where there are no rows.
    """
    runs = _runs(row for row in readings if row["strategy"] != ADAPTER)
    tasks = _distinct(runs, 1)
    if not tasks:
        return None

    def share(rows: Sequence[Row], column: str) -> str:
        return f"{100 * _mean([float(row[column]) for row in rows]):.0f}"

    groups = []
    for base in _distinct(runs, 0):
        lines = []
        for system in present(systems, base, (name for of, _, name in runs if of == base)):
            alone = system.method == BASE
            cells = [Cell(base if alone else f"+ {system.label}", strong=alone)]
            for task in tasks:
                rows = runs.get((base, task, system.name))
                cells.append(
                    Cell(f"{share(rows, 'flexible')} / {share(rows, 'strict')}", (f"cut {share(rows, 'cut_off')}",))
                    if rows
                    else Cell(NONE)
                )
            lines.append(tuple(cells))
        groups.append(tuple(lines))
    return Table(
        title,
        "Accuracy in per cent by the flexible and by the strict reading, mean over seeds or draws. Scores and rewards "
        "go by the strict one, of the form that the prompt asks for; where a reply has another, the flexible one takes "
        "the last number, the first letter of an option, or any fenced block. What a method gains only in the strict "
        "reading is form. cut: replies in per cent that came to the limit of their length.",
        (Cell("Method"), *(Cell(task, (_items(runs, task),)) for task in tasks)),
        tuple(groups),
    )


def transfer_table(scores: Iterable[Row], systems: Sequence[System], base: str, title: str) -> Table | None:
    """Every single adapter on every task; tasks of its own family in bold.

    Returns:
        The table, or None where no system of the base is a single adapter.
    """
    rows = [row for row in scores if row["base"] == base]
    runs, family = _runs(rows), {row["task"]: row["family"] for row in rows}
    experts = [system for system in present(systems, base, _distinct(runs, 2)) if system.strategy == ADAPTER]
    if not experts:
        return None

    def of(expert: System, task: str) -> list[Row] | None:
        own = runs.get((base, task, expert.own)) if family[task] == expert.family else None
        return runs.get((base, task, expert.name), own)

    tasks = [task for task in family if any(of(expert, task) for expert in experts)]
    lines = []
    for expert in experts:
        cells = (
            _score_cell(of(expert, task), runs.get((base, task, BASE)), family[task] == expert.family) for task in tasks
        )
        lines.append((Cell(expert.label), *cells))
    return Table(
        title,
        "Accuracy in per cent of each single adapter on each task, mean over seeds, and normalised to the base "
        "model; bold where the task belongs to the adapter's own family. ± as in Table 1.",
        (Cell("Adapter"), *(Cell(task) for task in tasks)),
        (tuple(lines),),
    )


def difference_table(comparisons: Iterable[Row], systems: Sequence[System], suite: str, title: str) -> Table | None:
    """Paired differences in points, with interval and range over runs; bold where the interval excludes 0.

    What single adapters gain over the base stands in :func:`transfer_table` alone.

    Args:
        comparisons: Rows of the comparison file.
        systems: In the order of the lines.
        suite: ``trained`` or ``unseen``.
        title: The table's title.

    Returns:
        The table, or None where there is nothing to compare.
    """
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in comparisons:
        if row["suite"] == suite:
            found.setdefault((row["base"], row["left"], row["right"]), {})[row["task"]] = row
    groups, tasks = [], list(dict.fromkeys(task for cells in found.values() for task in cells))
    for base in _distinct(found, 0):
        named = present(systems, base, (name for of, *pair in found if of == base for name in (BASE, *pair)))
        lines = []
        for right in sorted(named, key=lambda system: system.method != BASE):
            for left in named:
                cells = found.get((base, left.name, right.name))
                if cells and (left.strategy, right.method) != (ADAPTER, BASE):
                    other = base if right.method == BASE else right.label
                    label = f"{left.label} − {other}"
                    lines.append((Cell(label), *(_difference_cell(cells.get(task)) for task in tasks)))
        groups += [tuple(lines)] if lines else []
    if not groups:
        return None
    return Table(
        title,
        "Points of accuracy, each item compared with itself and averaged over seeds or draws. In brackets, "
        "the 95 % interval of a bootstrap over items; below it, the range over single seeds or draws. "
        "Bold: the interval excludes 0.",
        (Cell("Left − right"), *(Cell(task) for task in tasks)),
        tuple(groups),
    )


def timing_table(timings: Iterable[Row], title: str) -> Table | None:
    """Table 3: seconds of both passes of two-pass inference over a task's test split.

    Args:
        timings: Rows with ``base`` and ``system``, their labels, ``task``, ``n``, ``first_seconds`` and
            ``second_seconds``; several rows of a system and task are averaged.
        title: The table's title.
    """
    found: dict[tuple[str, tuple[str, str]], list[Row]] = {}
    for row in timings:
        found.setdefault((row["task"], (row["system"], row["base"])), []).append(row)
    systems = _distinct(found, 1)
    if not systems:
        return None
    lines = []
    for task in _distinct(found, 0):
        cells: list[Cell] = []
        for system in systems:
            rows = found.get((task, system), [])
            first = [float(row["first_seconds"]) for row in rows]
            second = [float(row["second_seconds"]) for row in rows]
            if not rows:
                cells += [Cell(NONE), Cell(NONE)]
                continue
            ratio = f" ({100 * sum(first) / sum(second):.0f}%)" if sum(second) > 0 else ""
            cells += [Cell(f"{_mean(first):.2f}{ratio}"), Cell(f"{_mean(second):.2f}")]
        n = {int(float(row["n"])) for key, rows in found.items() if key[0] == task for row in rows}
        lines.append((Cell(task), Cell(_span(n)), *cells))
    told_apart = len({base for _, base in systems}) > 1
    heads = [Cell(part, names if told_apart else names[:1]) for names in systems for part in ("1st (s)", "2nd (s)")]
    return Table(
        title,
        "Seconds for the whole test split, mean over runs; in parentheses, the first pass as a share of the "
        "second. The first pass asks for a category, the second answers.",
        (Cell("Task"), Cell("n"), *heads),
        (tuple(lines),),
    )


def runs_table(runs: Iterable[Row], title: str) -> Table | None:
    """Where the time goes, longest first.

    Args:
        runs: Rows with ``stage``, ``seconds`` and ``run_id``.
        title: The table's title.
    """
    rows = sorted(runs, key=lambda row: -float(row["seconds"]))
    if not rows:
        return None
    lines = [(Cell(str(row["stage"])), Cell(f"{float(row['seconds']):.1f}"), Cell(str(row["run_id"]))) for row in rows]
    total = sum(float(row["seconds"]) for row in rows)
    last = (Cell("all stages", strong=True), Cell(f"{total:.1f}", strong=True), Cell(""))
    return Table(
        title,
        "Seconds of each stage when it last executed, and its MLflow run. Stages that DVC found unchanged "
        "keep the time of the execution that made their result.",
        (Cell("Stage"), Cell("Seconds"), Cell("MLflow run")),
        (tuple(lines), (last,)),
    )


def _runs(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Scores by base, task and the system's name."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        name = name_of(row["method"], row["strategy"], row["variant"])
        found.setdefault((row["base"], row["task"], name), []).append(row)
    return found


def _distinct(runs: Iterable[tuple[Any, ...]], place: int) -> list[Any]:
    return list(dict.fromkeys(key[place] for key in runs))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _score_cell(rows: Sequence[Row] | None, baseline: Sequence[Row] | None, strong: bool = False) -> Cell:
    if not rows:
        return Cell(NONE)
    score = _mean([float(row["score"]) for row in rows])
    half = 100 * _wilson_half(score, int(float(rows[0]["n"])))
    reference = _mean([float(row["score"]) for row in baseline]) if baseline else 0.0
    normalised = f" ({score / reference:.2f})" if reference > 0 else ""
    return Cell(f"{100 * score:.1f}{normalised}", (f"± {half:.1f}",), strong)


def _difference_cell(row: Row | None) -> Cell:
    if row is None:
        return Cell(NONE)
    value, low, high, least, most = (
        100 * float(row[name]) for name in ("difference", "ci_low", "ci_high", "run_low", "run_high")
    )
    interval = f"[{_points(low)}, {_points(high)}]"
    span = (f"{_points(least)} … {_points(most)}",) if int(float(row["n_runs"])) > 1 else ()
    return Cell(_points(value), (interval, *span), strong=low > 0 or high < 0)


def _points(value: float) -> str:
    """Signed, with a true minus; what rounds to zero has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _wilson_half(share: float, n: int) -> float:
    square = 1.959963984540054**2 / n
    return sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)


def _items(runs: Mapping[tuple[str, str, str], Sequence[Row]], task: str) -> str:
    return "n = " + _span({int(float(row["n"])) for key, rows in runs.items() if key[1] == task for row in rows})


def _span(numbers: set[int]) -> str:
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)}–{max(numbers)}"


def _repeats(rows: Sequence[Row]) -> str:
    """How many seeds and draws stand behind a line, for example ``6 draws, 3 seeds``."""
    parts = []
    for name in ("draw", "seed"):
        count = len({str(row[name]) for row in rows if row[name] not in (None, "")})
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return ", ".join(parts) or NONE
