"""Whether the results that are shown are those that were measured, on questions that nobody saw.

An audit computes nothing that a stage has not computed before; it does so again, from the files before, and compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations, product
from pathlib import Path
from statistics import fmean

import pandas as pd

from t2.config.rows import Derived, Dispatching, InContext, Params
from t2.files import read_json, to_csv
from t2.miniature.corpus import read_prompts
from t2.report import readme, render
from t2.report.page import ReportInputs, outline
from t2.stages import cells, paths
from t2.stages.report import report_inputs
from t2.stages.score import measurements, tabulate
from t2.stages.split import pretraining_files
from t2.statistics import BALANCED
from t2.tasks import splits
from t2.tasks.item import read_items


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one thing.

    Attributes:
        about: The thing.
        found: What was found, in words.
        wrong: Whether that must not be.
    """

    about: str
    found: str
    wrong: bool = False


def audit(params: Params) -> list[Finding]:
    """Audits a finished run of the project in the working directory: where :mod:`t2.stages.paths` says it lies.

    Raises:
        FileNotFoundError: A stage's files are not there.
    """
    splits_of = map(paths.splits, params.tasks)
    for needed in (*splits_of, cells.index_file(), paths.scores(), paths.reports() / "report.md"):
        if not needed.exists():
            raise FileNotFoundError(f"no {needed}; `dvc repro` makes it, `dvc pull` fetches it where a remote has it")
    shown = report_inputs(params)
    return [
        *_questions(params),
        *_tables(params),
        *_rows(params, shown.scores, shown.comparisons),
        *_dispatchers(shown.dispatch),
        *_weights(params),
        *_searches(shown.searches),
        *_pages(shown),
    ]


def _questions(params: Params) -> Iterator[Finding]:
    """Every question once: within a split, in any two splits, and in what bases read before."""
    places: dict[str, list[str]] = {}
    asked = [name for name, task in params.tasks.items() if not isinstance(task.source, Derived | Dispatching)]
    for task in asked:
        for split in splits.NAMES:
            for item in read_items(paths.split(task, split)):
                places.setdefault(item.question, []).append(f"{task}/{split}")
    counts = Counter(chain.from_iterable(map(set, places.values())))
    for task in asked:
        yield Finding(
            f"questions of {task}", ", ".join(f"{counts[f'{task}/{split}']} {split}" for split in splits.NAMES)
        )
    shared = Counter(
        pair for where in places.values() if len(where) > 1 for pair in set(combinations(sorted(where), 2))
    )
    for (one, other), count in sorted(shared.items()):
        yield Finding(f"{one} and {other}", f"{count} questions stand in both", wrong=True)
    if not shared:
        yield Finding("any two splits, and each by itself", "no question twice")
    for path in pretraining_files([base.path for base in params.bases.values()]):
        read = Counter(where for question in set(read_prompts(path)) for where in places.get(question, ()))
        tests = {where: count for where, count in read.items() if where.endswith("/test")}
        found = ", ".join(f"{count} of {where}" for where, count in sorted(read.items())) or "no question of any split"
        yield Finding(str(path), f"holds {found}", wrong=bool(tests))


def _tables(params: Params) -> Iterator[Finding]:
    """Each table in ``reports`` beside the one that the cells give now."""
    for name, table in tabulate(params, measurements(params, cells.read_index())).items():
        path = paths.reports() / f"{name}.csv"
        yield _compared(path, path.read_text(encoding="utf-8"), to_csv(table), "the measured cells")


def _compared(path: Path, text: str, expected: str, source: str) -> Finding:
    """A file beside what it should hold."""
    if text == expected:
        return Finding(str(path), f"is what {source} give")
    lines = zip(text.splitlines(), expected.splitlines(), strict=False)
    number, (there, right) = next(
        ((number, pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1]), (0, ("", ""))
    )
    odd = f"line {number} is {there!r}, not {right!r}" if number else "has another number of lines"
    return Finding(str(path), f"is not what {source} give: {odd}", wrong=True)


def _rows(params: Params, scores: pd.DataFrame, comparisons: pd.DataFrame) -> Iterator[Finding]:
    """No accuracy without its number of questions, its seeds and its interval."""
    gaps = scores[["n", "correct", "score", "ci_low", "ci_high"]].isna().any(axis=1).sum()
    gaps += comparisons[["n_items", "n_seeds", "left_low", "left_high", "ci_low", "ci_high"]].isna().any(axis=1).sum()
    yield Finding("scores and comparisons", f"{gaps} rows lack n, seeds or interval", wrong=bool(gaps))
    for name, row in params.systems.items():
        base, (method, strategy, variant) = params.bases[row.base].label, params.key_of(name)
        mine = scores[
            (scores["base"] == base)
            & (scores["method"] == method)
            & (scores["strategy"] == strategy)
            & (scores["variant"] == variant)
        ]
        seeds = sorted(int(seed) for seed in mine["seed"].dropna().unique())
        recipes = (params.recipes[params.adapters[adapter].recipe] for adapter in params.adapters_of(name))
        shown = row.searches if isinstance(row, InContext) else []
        drawn = (params.seeds_of(params.searches[search].set) for search in shown)
        wanted = sorted({seed for recipe in recipes for seed in recipe.seeds}.union(*drawn))
        runs = f"{len(mine)} runs on {mine['task'].nunique()} tasks, seeds {seeds or 'none'}"
        odd = "" if seeds == wanted or not len(mine) else f", but its recipe has {wanted}"
        yield Finding(f"system {name}", runs + odd, wrong=bool(odd))


def _dispatchers(dispatch: pd.DataFrame) -> Iterator[Finding]:
    """Each first pass by category: what is never named is seen here, whatever the mixture of prompts."""
    alone = dispatch[dispatch["against"] == ""]
    for (base, name), rows in alone.groupby(["base", "dispatcher"], sort=False):
        recall = {row["category"]: row["value"] for row in rows.to_dict("records")}
        balanced = recall.pop(BALANCED)
        told = ", ".join(f"{category} {100 * value:.0f}" for category, value in recall.items())
        off = abs(balanced - fmean(recall.values())) > 1e-6
        yield Finding(f"first pass {name} on {base}", f"recall {told}; balanced {100 * balanced:.0f} %", wrong=off)


def _weights(params: Params) -> Iterator[Finding]:
    """The weights that searches found, which are those that answer."""
    for name, search in params.searches.items():
        budget, sums = params.budgets[search.budget], []
        for seed, draw in product(params.seeds_of(search.set), range(budget.draws)):
            alpha = read_json(paths.search(name, seed, draw) / "alpha.json")["alpha"]
            rows = [value if isinstance(value, list) else [value] for value in alpha.values()]
            sums += [sum(weights) for weights in zip(*rows, strict=True)]
        form = budget.form
        off = form == "normalised" and max(abs(total - 1) for total in sums) > 1e-4
        told = f"the weights of a mix sum to {min(sums):.3f} … {max(sums):.3f} ({form})"
        yield Finding(f"search {name} on {search.task}", told, wrong=off)


def _searches(searches: pd.DataFrame) -> Iterator[Finding]:
    """How often a search found more after its first generation, which is random draws."""
    for name, rows in searches.groupby("search", sort=False):
        improved = int((rows["score_generation"] > 1).sum())
        gained = 100 * rows["gain_over_first"].mean()
        told = f"{improved} of {len(rows)} found a better score on the shots later, {gained:+.1f} points on average"
        yield Finding(f"search {name} after its first generation", told)


def _pages(shown: ReportInputs) -> Iterator[Finding]:
    """The report and the README beside what the tables give."""
    for name in ("timings", "runs", "searches"):
        path = paths.reports() / f"{name}.csv"
        yield _compared(path, path.read_text(encoding="utf-8"), to_csv(getattr(shown, name)), "the stages' files")
    report = paths.reports() / "report.md"
    right = render.page(shown.title, outline(shown), html=False)
    yield _compared(report, report.read_text(encoding="utf-8"), right, "the tables")
    front = Path("README.md")
    if front.exists() and readme.begin(readme.MAIN) in (text := front.read_text(encoding="utf-8")):
        yield _compared(front, text, readme.updated(text), "the tables")
