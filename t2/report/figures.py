"""Figures like the paper's 4, 6 and 7, and the differences to the base model at a glance.

Each function takes data frames and returns SVG text, or None where there is nothing to draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from t2.report import style
from t2.report.tables import system_name, system_of, system_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DISPATCHERS = {"prompt": "Prompt", "classifier": "Classifier expert"}


def difference_figure(comparisons: pd.DataFrame, base: str) -> str | None:
    """Each method's paired difference to the base model, by task: interval thick, range over runs thin.

    Args:
        comparisons: Columns base, suite, task, left, right, difference, ci_low, ci_high, run_low, run_high.
        base: The base model.
    """
    rows = comparisons[(comparisons["base"] == base) & (comparisons["right"] == "base")]
    rows = rows[[system_of(left)[1] != "none" for left in rows["left"]]]
    if rows.empty:
        return None
    suites = list(dict.fromkeys(rows["suite"]))
    panels = {suite: list(dict.fromkeys(rows["task"][rows["suite"] == suite])) for suite in suites}
    systems = {
        suite: sorted(set(rows["left"][rows["suite"] == suite]), key=lambda left: system_order(system_of(left)))
        for suite in suites
    }
    wide = max(len(tasks) for tasks in panels.values())
    heights = [1.2 + 0.3 * len(systems[suite]) for suite in suites]
    with style.drawing():
        figure = _figure(1.9 + 2.35 * wide, sum(heights))
        grid = _grid(figure, len(suites), wide, height_ratios=heights, sharex=True)
        for line, suite in enumerate(suites):
            for column, axes in enumerate(grid[line]):
                if column >= len(panels[suite]):
                    axes.set_visible(False)
                    continue
                task = panels[suite][column]
                axes.set_title(task)
                axes.axvline(0, color=style.MUTED, linewidth=1)
                axes.grid(axis="x")
                for place, left in enumerate(systems[suite]):
                    _interval(axes, place, rows[(rows["task"] == task) & (rows["left"] == left)])
                names = [system_name(system_of(left)) for left in systems[suite]]
                axes.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
                axes.tick_params(axis="y", labelcolor=style.INK)
                axes.set_ylim(len(names) - 0.4, -0.6)
                axes.spines["left"].set_visible(False)
                axes.tick_params(axis="x", labelbottom=True)
                if line == len(suites) - 1:
                    axes.set_xlabel("points over the base model")
        return style.svg(figure)


def learning_figure(histories: pd.DataFrame, scores: pd.DataFrame, base: str) -> str | None:
    """Figure 4: validation accuracy over training, a line a seed; a row of panels a method.

    The dashed line is the base model on the test split; a red dot marks the checkpoint that is kept. Nothing
    stops early in the picture: the whole training is drawn.

    Args:
        histories: Columns base, task, method, variant, seed, step, ``valid_score`` (a fraction, empty where
            not measured) and ``chosen`` (true in the row of the kept checkpoint).
        scores: The score table.
        base: The base model.
    """
    rows = histories[(histories["base"] == base) & histories["valid_score"].notna()]
    if rows.empty:
        return None
    keys = {(method, variant or "") for method, variant in zip(rows["method"], rows["variant"], strict=True)}
    systems = sorted(((method, "own", variant) for method, variant in keys), key=_svf_first)
    tasks = list(dict.fromkeys(rows["task"]))
    reference = scores[(scores["base"] == base) & (scores["method"] == "base")].set_index("task")["score"]
    with style.drawing():
        figure = _figure(0.9 + 2.35 * len(tasks), 0.6 + 1.95 * len(systems))
        grid = _grid(figure, len(systems), len(tasks), sharex="row", sharey="col")
        for line, (method, strategy, variant) in enumerate(systems):
            colour = style.COLOURS.get(f"{method}/{strategy}", style.INK)
            mine = rows[(rows["method"] == method) & (rows["variant"].fillna("") == variant)]
            for axes, task in zip(grid[line], tasks, strict=True):
                curves = mine[mine["task"] == task]
                if curves.empty:
                    axes.set_visible(False)
                    continue
                for _, curve in curves.groupby("seed", dropna=False):
                    axes.plot(curve["step"], 100 * curve["valid_score"], color=colour, alpha=0.75)
                    kept = curve[curve["chosen"].astype(bool)]
                    axes.plot(kept["step"], 100 * kept["valid_score"], "o", color=style.RED, ms=5, zorder=3)
                if task in reference.index:
                    axes.axhline(100 * float(reference[task]), color=style.MUTED, dashes=(4, 3), linewidth=1.2)
                axes.grid(axis="y")
                axes.margins(x=0.03, y=0.12)
                axes.tick_params(labelleft=True)
                name = system_name((method, strategy, variant))
                axes.set_title(task if line == 0 else "")
                if axes is grid[line][0]:
                    axes.set_ylabel(f"{name}\nvalidation, %")
                if line == len(systems) - 1:
                    axes.set_xlabel("step")
        return style.svg(figure)


def confusion_figure(confusions: pd.DataFrame, base: str) -> str | None:
    """Figure 6: what each dispatcher calls the prompts of each family, in per cent of the row.

    Args:
        confusions: Columns base, dispatcher, truth, predicted, count; several tasks and seeds are added up.
        base: The base model.
    """
    rows = confusions[confusions["base"] == base]
    found = [name for name in DISPATCHERS if (rows["dispatcher"] == name).any()]
    if not found:
        return None
    columns = [name for name in dict.fromkeys(rows["predicted"]) if _is_used(rows, name)]
    truths = [name for name in columns if (rows["truth"] == name).any()]
    with style.drawing():
        figure = _figure(0.9 + 0.95 * len(columns) * len(found), 1.5 + 0.55 * len(truths))
        for axes, name in zip(_grid(figure, 1, len(found))[0], found, strict=True):
            mine = rows[rows["dispatcher"] == name]
            counts = mine.groupby(["truth", "predicted"])["count"].sum().unstack()
            counts = counts.reindex(index=truths, columns=columns).fillna(0)
            right = sum(counts.loc[truth, truth] for truth in truths)
            accuracy = 100 * right / max(1, counts.to_numpy().sum())
            axes.set_title(f"{DISPATCHERS[name]}: {accuracy:.1f} % right")
            _heat(axes, counts)
            axes.set_xlabel("called")
            if axes is figure.axes[0]:
                axes.set_ylabel("true family")
        return style.svg(figure)


def alpha_figure(alphas: pd.DataFrame, base: str) -> str | None:
    """Figure 7: the mixing weight of each expert on each unseen task; a point a draw, a bar the mean.

    Args:
        alphas: Columns base, task, draw, expert, alpha; several layers of a draw are averaged.
        base: The base model.
    """
    rows = alphas[alphas["base"] == base]
    if rows.empty:
        return None
    tasks, experts = list(dict.fromkeys(rows["task"])), list(dict.fromkeys(rows["expert"]))
    draws = rows.groupby(["task", "expert", "draw"])["alpha"].mean()
    with style.drawing():
        figure = _figure(0.9 + 2.35 * len(tasks), 2.7)
        for column, (axes, task) in enumerate(zip(_grid(figure, 1, len(tasks), sharey=True)[0], tasks, strict=True)):
            for place, expert in enumerate(experts):
                values = draws.loc[task, expert].to_numpy()
                axes.bar(place, values.mean(), width=0.62, color=style.BLUE, alpha=0.28, linewidth=0)
                spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
                axes.plot(place + np.asarray(spread), values, "o", color=style.BLUE, ms=4, alpha=0.85)
            axes.axhline(0, color=style.MUTED, linewidth=1)
            axes.axhline(1 / len(experts), color=style.MUTED, dashes=(4, 3), linewidth=1.2)
            axes.set_title(task)
            axes.set_xticks(range(len(experts)), experts)
            axes.tick_params(axis="x", length=0, labelcolor=style.INK)
            axes.spines["bottom"].set_visible(False)
            axes.grid(axis="y")
            if column == 0:
                axes.set_ylabel("α")
        return style.svg(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.09, h_pad=0.09)
    return figure


def _grid(figure: Figure, lines: int, columns: int, **options: Any) -> Any:
    ratios = options.pop("height_ratios", None)
    return figure.subplots(lines, columns, squeeze=False, height_ratios=ratios, **options)


def _svf_first(system: tuple[str, str, str]) -> tuple[bool, int, str]:
    return (system[0] != "svf", *system_order(system))


def _is_used(confusions: pd.DataFrame, name: str) -> bool:
    """Whether a category is somebody's truth or answer."""
    called = confusions["count"][confusions["predicted"] == name].sum()
    return bool(called) or bool((confusions["truth"] == name).any())


def _interval(axes: Axes, place: int, row: pd.DataFrame) -> None:
    if row.empty:
        return
    value = {name: 100 * float(row.iloc[0][name]) for name in _INTERVAL}
    method, strategy, _ = system_of(row.iloc[0]["left"])
    colour = style.COLOURS.get(f"{method}/{strategy}", style.INK)
    axes.plot([value["ci_low"], value["ci_high"]], [place, place], color=colour, linewidth=5, alpha=0.3)
    axes.plot([value["run_low"], value["run_high"]], [place, place], color=colour, linewidth=1.4)
    axes.plot(value["difference"], place, "o", color=colour, ms=5.5)


_INTERVAL = ("difference", "ci_low", "ci_high", "run_low", "run_high")


def _heat(axes: Axes, counts: pd.DataFrame) -> None:
    """Cells shaded by their share of the row, with the share written in."""
    from matplotlib.patches import Rectangle

    values = counts.to_numpy(float)
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    for (line, column), share in np.ndenumerate(shares):
        shade = 0.06 + 0.9 * share
        axes.add_patch(Rectangle((column - 0.47, line - 0.46), 0.94, 0.92, color=style.BLUE, alpha=shade, linewidth=0))
        ink = style.PAPER if share > 0.7 else style.INK
        axes.text(column, line, f"{100 * share:.1f}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xlim(-0.5, shares.shape[1] - 0.5)
    axes.set_ylim(shares.shape[0] - 0.5, -0.5)
    axes.set_xticks(range(shares.shape[1]), [str(name) for name in counts.columns])
    names = [f"{name}\nn = {int(n)}" for name, n in zip(counts.index, values.sum(1), strict=True)]
    axes.set_yticks(range(shares.shape[0]), names)
    axes.tick_params(length=0, labelcolor=style.INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
