"""Tables laid out like the paper's 1, 2 and 3: methods as rows, tasks as columns.

Standard library only, so that the terminal summary starts at once. Rows of a score file are mappings from
column to value, as ``csv.DictReader`` gives them.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from t2.report.systems import ADAPTER, BASE, System, name_of, present

Row = Mapping[str, Any]
Key = TypeVar("Key", bound=Hashable)
NONE = "–"
OWN = "°"
"""Behind what an adapter scores on a task of its own family."""
WHOLE = "all"
"""In similarities: all modules together."""
NO_CATEGORY = "none"
"""In confusions: the column of prompts that were called by no category."""

RIGHT, WRONG = "✓", "✗"

_EXCERPT = 240
"""Characters of a reply that a table shows."""

_INTERVAL = "In brackets, the 95 % interval over training runs and test questions"


def _bold(what: str) -> str:
    return f"Bold: differs {what}, by Holm's rule over the table's comparisons (family-wise 5 %)."


@dataclass(frozen=True)
class Image:
    """An image that a question is about: its file's name, and what the file holds."""

    name: str
    content: bytes

    @property
    def address(self) -> str:
        """The image itself, as an address."""
        return f"data:{mimetypes.guess_type(self.name)[0]};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Cell:
    """A value and, smaller, what qualifies it; or, ``verbatim``, what somebody wrote, as it is; above it an image."""

    text: str
    asides: tuple[str, ...] = ()
    strong: bool = False
    verbatim: bool = False
    image: Image | None = None


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        title: For example ``Table 1``, and what it shows.
        caption: What the numbers are, with n, intervals and seeds.
        header: One cell per column; the first heads the row labels.
        groups: Blocks of rows, set apart by a rule; the first cell of a row is its label.
        worded: Cells hold words, not numbers.
    """

    title: str
    caption: str
    header: tuple[Cell, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    worded: bool = False

    @property
    def images(self) -> list[Image]:
        """What its header shows."""
        return [cell.image for cell in self.header if cell.image]


def score_table(
    scores: Iterable[Row], comparisons: Iterable[Row], systems: Sequence[System], suite: str, title: str
) -> Table | None:
    """Tables 1 and 2: accuracy by system and task with its interval, and as a multiple of the base model's.

    Args:
        scores: Rows of the score file; bases and tasks keep the order in which they stand there.
        comparisons: Rows of the comparison file: intervals, and what differs from the base.
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
    against = {key: row for key, row in _against_base(comparisons).items() if key in runs}
    strong = _strong(against)
    groups = []
    for base in bases:
        lines = []
        for system in present(systems, base, (name for of, _, name in runs if of == base)):
            keys = [(base, task, system.name) for task in tasks]
            cells = [_score_cell(runs.get(key), against.get(key), key in strong) for key in keys]
            mine = [row for key in keys for row in runs.get(key, [])]
            label = base if system.method == BASE else f"+ {system.label}"
            lines.append((Cell(label), *cells, Cell(_repeats(mine))))
        groups.append(tuple(lines))
    return Table(
        title,
        f"Accuracy in per cent, mean over seeds (and before over a seed's draws). {_INTERVAL}; × the multiple of the "
        "base model's accuracy, with its own. A method by itself stands for the adapter that was trained on the task's "
        f"family. {_bold('from the base model')} n is the number of test questions.",
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

    groups = []
    for base in _distinct(runs, 0):
        lines = []
        for system in present(systems, base, (name for of, _, name in runs if of == base)):
            alone = system.method == BASE
            cells = [Cell(base if alone else f"+ {system.label}", strong=alone)]
            for task in tasks:
                rows = runs.get((base, task, system.name))
                if rows:
                    flexible, strict, cut = (
                        _percent(_mean([float(row[share]) for row in rows]))
                        for share in ("flexible", "strict", "cut_off")
                    )
                    cells.append(Cell(f"{flexible} / {strict}", (f"cut {cut}",)))
                else:
                    cells.append(Cell(NONE))
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


def transfer_table(
    scores: Iterable[Row], comparisons: Iterable[Row], systems: Sequence[System], base: str, title: str
) -> Table | None:
    """Every single adapter on every task; tasks of its own family are marked.

    Returns:
        The table, or None where no system of the base is a single adapter.
    """
    rows = [row for row in scores if row["base"] == base]
    runs, family = _runs(rows), {row["task"]: row["family"] for row in rows}
    experts = [system for system in present(systems, base, _distinct(runs, 2)) if system.strategy == ADAPTER]
    if not experts:
        return None

    def of(expert: System, task: str) -> tuple[str, str, str]:
        name = expert.own if family[task] == expert.family and (base, task, expert.name) not in runs else expert.name
        return base, task, name

    tasks = [task for task in family if any(of(expert, task) in runs for expert in experts)]
    places = {of(expert, task) for expert in experts for task in tasks}
    against = {key: row for key, row in _against_base(comparisons).items() if key in places}
    strong = _strong(against)
    lines = []
    for expert in experts:
        cells = []
        for task in tasks:
            cell = _score_cell(runs.get(of(expert, task)), against.get(of(expert, task)), of(expert, task) in strong)
            own = family[task] == expert.family and cell.text != NONE
            # The multiples would make the table too wide; comparisons.csv has them.
            cells.append(replace(cell, text=f"{cell.text}{OWN}" if own else cell.text, asides=cell.asides[:1]))
        lines.append((Cell(expert.label), *cells))
    return Table(
        title,
        f"Accuracy in per cent of each single adapter on each task, mean over seeds. {_INTERVAL}. "
        f"{OWN} marks tasks of the adapter's own family. {_bold('from the base model')}",
        (Cell("Adapter"), *(Cell(task) for task in tasks)),
        (tuple(lines),),
    )


def difference_table(comparisons: Iterable[Row], systems: Sequence[System], suite: str, title: str) -> Table | None:
    """Paired differences in points, with interval and range over runs.

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
    shown: list[list[tuple[str, dict[str, Row]]]] = []
    tasks = list(dict.fromkeys(task for cells in found.values() for task in cells))
    for base in _distinct(found, 0):
        named = present(systems, base, (name for of, *pair in found if of == base for name in (BASE, *pair)))
        lines = []
        for right in sorted(named, key=lambda system: system.method != BASE):
            for left in named:
                cells = found.get((base, left.name, right.name))
                if cells and (left.strategy, right.method) != (ADAPTER, BASE):
                    other = base if right.method == BASE else right.label
                    lines.append((f"{left.label} − {other}", cells))
        shown += [lines] if lines else []
    if not shown:
        return None
    strong = _strong(
        {
            (group, line, task): row
            for group, lines in enumerate(shown)
            for line, (_, cells) in enumerate(lines)
            for task, row in cells.items()
        }
    )
    groups = [
        tuple(
            (Cell(label), *(_difference_cell(cells.get(task), (group, line, task) in strong) for task in tasks))
            for line, (label, cells) in enumerate(lines)
        )
        for group, lines in enumerate(shown)
    ]
    return Table(
        title,
        f"Points of accuracy, each question compared with itself. {_INTERVAL}; below it, the range over single seeds "
        f"or draws. {_bold('from 0')}",
        (Cell("Left − right"), *(Cell(task) for task in tasks)),
        tuple(groups),
    )


def dispatch_table(
    dispatch: Iterable[Row], confusions: Iterable[Row], systems: Sequence[System], title: str
) -> Table | None:
    """How many of each category's prompts each dispatcher calls by it, and how these differ.

    Args:
        dispatch: Rows of the dispatch file.
        confusions: Rows of the confusion file: how many prompts were called nothing.
        systems: They give dispatchers their labels.
        title: The table's title.

    Returns:
        The table, or None where nothing dispatches.
    """
    rows: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in dispatch:
        rows.setdefault((row["base"], row["dispatcher"], row["against"] or ""), {})[row["category"]] = row
    if not rows:
        return None
    counts: dict[tuple[str, str], list[int]] = {}
    for row in confusions:
        of = counts.setdefault((row["base"], row["dispatcher"]), [0, 0])
        of[0] += int(row["count"]) if row["predicted"] == NO_CATEGORY else 0
        of[1] += int(row["count"])
    categories = list(dict.fromkeys(category for cells in rows.values() for category in cells))
    labels = {(system.base, system.dispatcher): system.label for system in systems}
    differences = {(key, name): cells[name] for key, cells in rows.items() if key[2] for name in cells}
    strong = _strong(differences)
    groups = []
    for base in _distinct(rows, 0):
        of_base: tuple[list[tuple[Cell, ...]], list[tuple[Cell, ...]]] = [], []
        for key, cells in rows.items():
            if key[0] != base:
                continue
            left, right = (labels.get((base, name), name) for name in key[1:])
            nothing, asked = counts.get((base, key[1]), [0, 0])
            if key[2]:
                line = [_difference_cell(cells.get(name), (key, name) in strong) for name in categories]
                of_base[1].append((Cell(left, (f"− {right}",)), *line, Cell(NONE)))
            else:
                line = [_recall_cell(cells.get(name)) for name in categories]
                of_base[0].append((Cell(left), *line, Cell(_percent(nothing / asked) if asked else NONE)))
        groups += [tuple(lines) for lines in of_base if lines]
    counted = {
        name: {int(float(cells[name]["n_items"])) for cells in rows.values() if name in cells} for name in categories
    }
    return Table(
        title,
        "Per cent of a category's prompts that the first pass calls by it; balanced is the mean over categories, which "
        f"does not hang on how many prompts each has. {_INTERVAL}; what has no seed covers questions alone. "
        f"Differences are points. {_bold('from 0')} The last column: prompts that were called by no category; the base "
        "model answers them, and none counts as right.",
        (
            Cell("First pass"),
            *(Cell(name, (f"n = {_span(counted[name])}",)) for name in categories),
            Cell(NO_CATEGORY),
        ),
        tuple(groups),
    )


def checkpoint_table(histories: Iterable[Row], title: str) -> Table | None:
    """What each adapter scored on validation untrained, where it is kept, and at the end of its training.

    Args:
        histories: Rows of learning curves: base, label, adapter, seed, step, valid_score and chosen.
        title: The table's title.

    Returns:
        The table, or None where nothing was trained.
    """
    found: dict[str, dict[tuple[str, str, str], dict[str, list[Row]]]] = {}
    for row in histories:
        if row["valid_score"] is not None:
            adapters = found.setdefault(row["base"], {})
            seeds = adapters.setdefault((row["base"], row["label"], row["adapter"]), {})
            seeds.setdefault(str(row["seed"]), []).append(row)
    if not found:
        return None
    groups = []
    for adapters in found.values():
        lines = []
        for (base, label, adapter), seeds in adapters.items():
            curves = list(seeds.values())
            kept = [next(row for row in curve if row["chosen"]) for curve in curves]
            ends = [[curve[0] for curve in curves], kept, [curve[-1] for curve in curves]]
            untrained = sum(not row["step"] for row in kept)
            scores = (Cell(_percent(_mean([float(row["valid_score"]) for row in rows]))) for rows in ends)
            lines.append((Cell(adapter, (f"{base}, {label}",)), *scores, Cell(f"{untrained} of {len(kept)}")))
        groups.append(tuple(lines))
    return Table(
        title,
        "Accuracy on the validation items in per cent, mean over seeds: before training, of the checkpoint that is "
        "kept, which is the best of those that were validated, and of the last. The best of several is too high by "
        "what the choice gains, so that only the test questions tell what was learned. Last column: seeds that keep "
        "the untrained start, whose adapter is the base model.",
        tuple(map(Cell, ("Adapter", "Untrained", "Kept", "Last", "Untrained is kept"))),
        tuple(groups),
    )


def adapter_table(trained: Iterable[Row], title: str) -> Table | None:
    """What each adapter adapts and learns from, how many numbers it trains, and how long that took.

    Args:
        trained: base, adapter, label, objective, lr, modules, layers, parameters, seeds and seconds (None: of another
            run).
        title: The table's title.

    Returns:
        The table, or None where nothing was trained.
    """
    rows = list(trained)
    if not rows:
        return None
    groups = [
        tuple(
            (
                Cell(row["adapter"], (f"{row['base']}, {row['label']}",)),
                Cell(str(row["objective"]).replace("_", " "), (f"learning rate {float(row['lr']):g}",)),
                Cell(row["modules"], () if row["layers"] == "all" else (f"layers: {row['layers']}",)),
                Cell(f"{int(row['parameters']):,}"),
                Cell(NONE if row["seconds"] is None else f"{float(row['seconds']):.0f}", (f"{row['seeds']} seeds",)),
            )
            for row in rows
            if row["base"] == base
        )
        for base in dict.fromkeys(row["base"] for row in rows)
    ]
    return Table(
        title,
        "Parameters: numbers that are trained, of each seed. Seconds until all seeds were trained, some side by "
        "side, with rollouts and validation; of adapters of another run they stand in its report.",
        tuple(map(Cell, ("Adapter", "Learns by", "Adapts", "Parameters", "Seconds"))),
        tuple(groups),
    )


def similarity_table(similarities: Iterable[Row], title: str) -> Table | None:
    """How alike z − 1 is by module: between seeds of one adapter, and between adapters.

    Args:
        similarities: base, left, left_seed, right, right_seed, module and cosine; :data:`WHOLE` are all modules.
        title: The table's title.

    Returns:
        The table, or None where there are no two experts.
    """
    found: dict[tuple[str, str], dict[bool, list[float]]] = {}
    for row in similarities:
        of_module = found.setdefault((row["base"], row["module"]), {True: [], False: []})
        if (row["left"], row["left_seed"]) < (row["right"], row["right_seed"]) and row["cosine"] is not None:
            of_module[row["left"] == row["right"]].append(float(row["cosine"]))
    if not any(values for pairs in found.values() for values in pairs.values()):
        return None

    def cell(values: list[float]) -> Cell:
        spread = (f"{_signed(min(values))} … {_signed(max(values))}",) if len(values) > 1 else ()
        return Cell(_signed(_mean(values)), spread) if values else Cell(NONE)

    groups = [
        tuple(
            (Cell(module), cell(pairs[True]), cell(pairs[False])) for (of, module), pairs in found.items() if of == base
        )
        for base in dict.fromkeys(base for base, _ in found)
    ]
    return Table(
        title,
        "Mean cosine of z − 1, with its range over pairs: of two seeds of one adapter, and of two adapters.",
        tuple(map(Cell, ("Module", "Seeds of one adapter", "Different adapters"))),
        tuple(groups),
    )


def shots_table(shown: Iterable[Row], title: str) -> Table | None:
    """What shots in the prompt cost, and when a search over the same shots has paid.

    Args:
        shown: base, label, task, n, prompt_tokens and reply_tokens (means), too_long, base_tokens (of prompt and
            reply without shots) and searched (replies that the search of these shots generates; None: none).
        title: The table's title.

    Returns:
        The table, or None where no system is shown shots.
    """
    rows = list(shown)
    if not rows:
        return None
    lines = []
    for row in rows:
        more = float(row["prompt_tokens"]) + float(row["reply_tokens"]) - float(row["base_tokens"])
        paid = more > 0 and row["searched"] is not None and float(row["too_long"]) < float(row["n"])
        after = float(row["searched"]) * float(row["base_tokens"]) / more if paid else None
        lines.append(
            (
                Cell(row["label"], (row["base"], row["task"])),
                Cell(f"{float(row['prompt_tokens']):.0f}"),
                Cell(f"{100 * float(row['too_long']) / float(row['n']):.0f}%"),
                Cell(f"{more:+.0f}".replace("-", "−")),
                Cell(NONE if after is None else f"{after:,.0f}"),
            )
        )
    return Table(
        title,
        "Tokens of a prompt with its shots, mean over questions and draws; how many prompts had no room for a reply "
        "in the context, which counts as wrong; tokens of prompt and reply together beyond those of the base model "
        "without shots. The search generates replies to its shots for each candidate, once; taken as long as the base "
        "model's, they are as many tokens as those added to the number of prompts in the last column.",
        tuple(map(Cell, ("Shown", "Prompt", "No room", "More tokens", "A search pays after"))),
        (tuple(lines),),
    )


def search_table(searches: Iterable[Row], title: str) -> Table | None:
    """How each search came by its result: when, and what it gained over random search.

    Args:
        searches: Rows of the table of searches, one per seed and draw.
        title: The table's title.

    Returns:
        The table, or None where nothing was searched.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in searches:
        found.setdefault((row["base"], row["search"]), []).append(row)
    if not found:
        return None
    lines = []
    for (_, name), rows in found.items():
        several = [row["gain_over_random"] for row in rows if row["gain_over_random"] is not None]
        rest = [row["rest_score"] - row["rest_uniform"] for row in rows if row["rest_score"] is not None]
        improved = sum(int(row["score_generation"]) > 1 for row in rows)
        generations = {int(float(row["best_generation"])) for row in rows}
        lines.append(
            (
                Cell(name, (f"{rows[0]['algorithm']}, {rows[0]['objective']}",)),
                Cell(_percent(_mean_of(rows, "score")), (f"{_span({int(row['shots']) for row in rows})} shots",)),
                Cell(
                    f"{_mean_of(rows, 'best_generation'):.1f}", (f"{_span(generations)}, of {rows[0]['generations']}",)
                ),
                Cell(f"{improved} of {len(rows)}"),
                Cell(points(_mean_of(rows, "gain_over_first"))),
                Cell(points(_mean(several)) if several else NONE),
                Cell(points(_mean(rest)) if rest else NONE),
                Cell(_span({int(row["evaluations"]) for row in rows})),
            )
        )
    return Table(
        title,
        "On the shots that were searched on, mean over draws and seeds: the score of the mix that was found (accuracy, "
        "or the likelihood of worked replies), in per cent; the generation that it comes from, and the range; how many "
        "searches found a better score after the first generation, which is nothing but random draws; points gained "
        "over that generation, and over random search on the same shots with as many evaluations. Points on the shots "
        "are no points elsewhere: the next column has the points of accuracy that the mix gains over the uniform one "
        "on the rest of the pool that shots were drawn from.",
        tuple(
            map(
                Cell,
                (
                    *("Search", "Score, %", "Generation", "Improved", "Over first", "Over random"),
                    *("Over uniform, on the rest", "Evaluations"),
                ),
            )
        ),
        (tuple(lines),),
    )


def holm(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several comparisons differ, so that the chance of a single false one among them is at most ``level``.

    Holm's step-down rule (Holm 1979, https://www.jstor.org/stable/4615733).
    """
    found = [False] * len(p)
    for tried, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[place] > level / (len(p) - tried):
            break
        found[place] = True
    return found


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
    last = (Cell("all stages"), Cell(f"{total:.1f}"), Cell(""))
    return Table(
        title,
        "Seconds of each stage when it last executed, and its MLflow run. Stages that DVC found unchanged "
        "keep the time of the execution that made their result.",
        (Cell("Stage"), Cell("Seconds"), Cell("MLflow run")),
        (tuple(lines), (last,)),
    )


def replies_table(replies: Iterable[Row], title: str) -> Table | None:
    """Replies before and after, of questions that one of the two has right.

    Args:
        replies: Columns task, label, question, before, after, ``gained`` (whether the one after is right).
        title: Of the table.
    """
    rows = list(replies)
    if not rows:
        return None
    groups = [[row for row in rows if row["task"] == task] for task in dict.fromkeys(row["task"] for row in rows)]
    header = ("Task, method", "Question", "Reply of the base model", "Reply of the expert", "Right is")

    def line(row: Row) -> tuple[Cell, ...]:
        said = (Cell(_excerpt(row[name]), verbatim=True) for name in ("question", "before", "after"))
        return Cell(f"{row['task']}, {row['label']}"), *said, Cell("the expert" if row["gained"] else "the base model")

    return Table(
        title,
        "Of each trained task, the first test questions that its own expert has turned right, and the first that it "
        "has turned wrong; of several seeds, the first. How often either happens is not seen here.",
        tuple(map(Cell, header)),
        tuple(tuple(map(line, group)) for group in groups),
        worded=True,
    )


def image_table(answers: Iterable[Row], title: str) -> Table | None:
    """Questions about images, and what each system answers.

    Args:
        answers: Columns id, question, image (an :class:`Image`), expected, label, reply, right (a share); of one task.
        title: Of the table.
    """
    rows = list(answers)
    if not rows:
        return None
    asked, labels = (list(dict.fromkeys(row[name] for row in rows)) for name in ("id", "label"))
    by_place = {(row["id"], row["label"]): row for row in rows}
    first = [by_place[id, labels[0]] for id in asked]

    def line(label: str) -> tuple[Cell, ...]:
        said = (by_place[id, label] for id in asked)
        return Cell(label), *(Cell(f"{RIGHT if row['right'] else WRONG} {_excerpt(row['reply'])}") for row in said)

    return Table(
        title,
        "The first test questions about images, whatever came of them, and what each system answers; of several seeds "
        "and draws, the first. Below each question stands what most people answered. "
        f"{RIGHT}: right, if only for some of those who were asked; {WRONG}: wrong.",
        (Cell("Method"), *(Cell(row["question"], (row["expected"],), image=row["image"]) for row in first)),
        (tuple(map(line, labels)),),
        worded=True,
    )


def _excerpt(text: str) -> str:
    """One line, of a length that a table bears."""
    line = " ⏎ ".join(part for part in text.splitlines() if part.strip()) or "(nothing)"
    return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1]}…"


def to_text(table: Table) -> str:
    """Aligned columns for a terminal: the first aside beside each value, no caption."""

    def texts(row: tuple[Cell, ...]) -> list[str]:
        return [" ".join(filter(None, (cell.text, *cell.asides[:1]))) for cell in row]

    groups = [[texts(row) for row in group] for group in table.groups]
    rows = [texts(table.header), *(row for group in groups for row in group)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = sum(widths) + 2 * (len(widths) - 1)

    def line(row: list[str]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()

    lines = [table.title, "━" * rule, line(rows[0])]
    for group in groups:
        lines += ["─" * rule, *map(line, group)]
    return "\n".join([*lines, "━" * rule])


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


def _against_base(comparisons: Iterable[Row]) -> dict[tuple[str, str, str], Row]:
    """Comparisons with the base model by base, task and the system's name."""
    return {(row["base"], row["task"], row["left"]): row for row in comparisons if row["right"] == BASE}


def _strong(comparisons: Mapping[Key, Row]) -> set[Key]:
    """Which of a table's comparisons are bold."""
    found = holm([float(row["p"]) for row in comparisons.values()])
    return {key for key, differs in zip(comparisons, found, strict=True) if differs}


def _mean_of(rows: Sequence[Row], column: str = "score") -> float:
    """Mean over draws, then over seeds."""
    seeds: dict[str, list[float]] = {}
    for row in rows:
        seeds.setdefault(str(row["seed"]), []).append(float(row[column]))
    return _mean([_mean(scores) for scores in seeds.values()])


def _score_cell(rows: Sequence[Row] | None, against: Row | None, strong: bool) -> Cell:
    """A mean with its interval; of a single run that is compared with nothing, the run's own interval."""
    if not rows:
        return Cell(NONE)
    asides = []
    if against is not None:
        asides.append(_range(against["left_low"], against["left_high"]))
        if against["ratio"] not in (None, ""):
            low, high = (f"{float(against[name]):.2f}" for name in ("ratio_low", "ratio_high"))
            asides.append(f"× {float(against['ratio']):.2f} [{low}, {high}]")
    elif len(rows) == 1:
        asides.append(_range(rows[0]["ci_low"], rows[0]["ci_high"]))
    return Cell(_percent(_mean_of(rows)), tuple(asides), strong)


def _recall_cell(row: Row | None) -> Cell:
    return Cell(NONE) if row is None else Cell(_percent(row["value"]), (_range(row["ci_low"], row["ci_high"]),))


def _difference_cell(row: Row | None, strong: bool) -> Cell:
    """A difference with its interval, and the range over single runs where there are several."""
    if row is None:
        return Cell(NONE)
    value = row["difference"] if "difference" in row else row["value"]
    asides = [f"[{points(row['ci_low'])}, {points(row['ci_high'])}]"]
    if int(float(row.get("n_runs", 1))) > 1:
        asides.append(f"{points(row['run_low'])} … {points(row['run_high'])}")
    return Cell(points(value), tuple(asides), strong)


def _percent(share: Any) -> str:
    return f"{100 * float(share):.0f}"


def _range(low: Any, high: Any) -> str:
    return f"[{_percent(low)}, {_percent(high)}]"


def points(share: Any) -> str:
    """Signed whole points, with a true minus; what rounds to zero has no sign."""
    text = f"{100 * float(share):+.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def _signed(value: float) -> str:
    """Two places, with a true minus; what rounds to zero has no sign."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


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
