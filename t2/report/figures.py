"""Figures like the paper's 4, 6 and 7, and the differences to the base model at a glance.

Each function takes data frames and returns SVG text, or None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, cycle
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from t2.report import style
from t2.report.systems import ADAPTER, BASE, System, present

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def difference_figure(comparisons: pd.DataFrame, systems: Sequence[System], base: str) -> str | None:
    """Each system's paired difference to the base model, by task: interval thick, range over runs thin.

    Args:
        comparisons: Columns base, suite, task, left, right, difference, ci_low, ci_high, run_low, run_high.
        systems: In the order of the lines; single adapters are left out.
        base: The base model.
    """
    rows = comparisons[(comparisons["base"] == base) & (comparisons["right"] == BASE)]
    shown = [system for system in present(systems, base, rows["left"]) if system.strategy != ADAPTER]
    rows = rows[rows["left"].isin([system.name for system in shown])]
    if rows.empty:
        return None
    suites = list(dict.fromkeys(rows["suite"]))
    panels = {suite: list(dict.fromkeys(rows["task"][rows["suite"] == suite])) for suite in suites}
    lines = {suite: present(shown, base, rows["left"][rows["suite"] == suite]) for suite in suites}
    colours = _colours(systems, base)
    wide = max(len(tasks) for tasks in panels.values())
    heights = [1.2 + 0.3 * len(lines[suite]) for suite in suites]
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
                for place, system in enumerate(lines[suite]):
                    row = rows[(rows["task"] == task) & (rows["left"] == system.name)]
                    _interval(axes, place, row, colours.get(system.label, style.INK))
                names = [system.label for system in lines[suite]]
                axes.set_yticks(range(len(names)), names if column == 0 else [""] * len(names))
                axes.tick_params(axis="y", labelcolor=style.INK)
                axes.set_ylim(len(names) - 0.4, -0.6)
                axes.spines["left"].set_visible(False)
                axes.tick_params(axis="x", labelbottom=True)
                if line == len(suites) - 1:
                    axes.set_xlabel("points over the base model")
        return style.svg(figure)


def learning_figure(histories: pd.DataFrame, scores: pd.DataFrame, systems: Sequence[System], base: str) -> str | None:
    """Figure 4: validation accuracy over training, a line per seed; a row of panels per label, or one after the other.

    The dashed line is the base model on the test split; a red dot marks the checkpoint that is kept. Nothing
    stops early in the picture: the whole training is drawn.

    Args:
        histories: Columns base, label, adapter, task, seed, step, ``valid_score`` (a fraction, empty where not
            measured) and ``chosen`` (true in the row of the kept checkpoint).
        scores: The score table.
        systems: They give labels their colours.
        base: The base model.
    """
    rows = histories[(histories["base"] == base) & histories["valid_score"].notna()]
    if rows.empty:
        return None
    labels = list(dict.fromkeys(rows["label"]))
    lines = [[(label, task) for task in dict.fromkeys(rows["task"][rows["label"] == label])] for label in labels]
    wide = max(map(len, lines))
    if wrapped := wide == 1:
        lines = _wrapped(list(chain.from_iterable(lines)), 4)
        wide = len(lines[0])
    reference = scores[(scores["base"] == base) & (scores["method"] == BASE)].set_index("task")["score"]
    colours = _colours(systems, base)
    of_task: dict[str, Axes] = {}
    with style.drawing():
        figure = _figure(0.9 + 2.35 * wide, 0.6 + 1.95 * len(lines))
        grid = _grid(figure, len(lines), wide, sharex="row")
        for line, panels in enumerate(lines):
            for column, axes in enumerate(grid[line]):
                if column >= len(panels):
                    axes.set_visible(False)
                    continue
                label, task = panels[column]
                if (first := of_task.setdefault(task, axes)) is not axes:
                    axes.sharey(first)
                curves = rows[(rows["label"] == label) & (rows["task"] == task)]
                for _, curve in curves.groupby(["adapter", "seed"], sort=False):
                    colour = colours.get(label, style.INK)
                    axes.plot(curve["step"], 100 * curve["valid_score"], color=colour, alpha=0.75)
                    kept = curve[curve["chosen"].astype(bool)]
                    axes.plot(kept["step"], 100 * kept["valid_score"], "o", color=style.RED, ms=5, zorder=3)
                if task in reference.index:
                    axes.axhline(100 * float(reference[task]), color=style.MUTED, dashes=(4, 3), linewidth=1.2)
                axes.grid(axis="y")
                axes.margins(x=0.03, y=0.12)
                axes.set_title(fill(f"{label}: {task}", 30) if wrapped else task)
                if column == 0:
                    axes.set_ylabel("validation, %" if wrapped else f"{label}\nvalidation, %")
                if line == len(lines) - 1:
                    axes.set_xlabel("step")
        return style.svg(figure)


def change_figure(changes: pd.DataFrame, base: str) -> str | None:
    """Where experts differ from the base model: a panel for each, layers by modules.

    Args:
        changes: Columns base, adapter, layer, module, change.
        base: The base model.
    """
    rows = changes[changes["base"] == base]
    if rows.empty:
        return None
    adapters, modules = list(dict.fromkeys(rows["adapter"])), list(dict.fromkeys(rows["module"]))
    layers = sorted(rows["layer"].unique())
    step = max(1, len(layers) // 8)
    with style.drawing():
        lines = _wrapped(adapters, 4)
        size = (0.6 + (0.5 + 0.26 * len(modules)) * len(lines[0]), (1.7 + 0.17 * len(layers)) * len(lines))
        figure = _figure(*size)
        panels = list(chain.from_iterable(_grid(figure, len(lines), len(lines[0]), sharey=True)))
        for axes in panels[len(adapters) :]:
            axes.set_visible(False)
        for axes, adapter in zip(panels, adapters, strict=False):
            mine = rows[rows["adapter"] == adapter]
            grid = mine.pivot_table(index="layer", columns="module", values="change").reindex(layers, columns=modules)
            largest = float(mine["change"].max())
            axes.imshow(grid.to_numpy(), cmap="viridis", aspect="auto", vmin=0.0, vmax=largest or 1.0)
            axes.set_title(f"{adapter}\nlightest: {largest:.3f}")
            axes.set_xticks(range(len(modules)), modules, rotation=60, ha="right")
            axes.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
            if axes in panels[:: len(lines[0])]:
                axes.set_ylabel("layer")
        return style.svg(figure)


def similarity_figure(similarities: pd.DataFrame, base: str) -> str | None:
    """How alike experts' changes are: the cosine of z − 1 between any two, of all adapters and seeds.

    Args:
        similarities: Columns base, left, left_seed, right, right_seed, cosine.
        base: The base model.
    """
    rows = similarities[similarities["base"] == base]
    if len(rows) < 2:  # one expert is like itself
        return None
    keys = list(dict.fromkeys(zip(rows["left"], rows["left_seed"], strict=True)))
    places = {key: place for place, key in enumerate(keys)}
    grid = np.full((len(keys), len(keys)), np.nan)  # where adapters scale different matrices
    lines, columns = (
        [places[key] for key in zip(rows[side], rows[f"{side}_seed"], strict=True)] for side in ("left", "right")
    )
    grid[lines, columns] = rows["cosine"]
    adapters = list(dict.fromkeys(adapter for adapter, _ in keys))
    starts = [next(place for place, key in enumerate(keys) if key[0] == adapter) for adapter in adapters]
    ends = [*starts[1:], len(keys)]
    with style.drawing():
        figure = _figure(2.6 + 0.24 * len(keys), 1.6 + 0.24 * len(keys))
        axes = _grid(figure, 1, 1)[0][0]
        picture = axes.imshow(grid, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
        middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        axes.set_xticks(middles, adapters, rotation=60, ha="right")
        axes.set_yticks(middles, adapters)
        for start in starts[1:]:
            axes.axhline(start - 0.5, color=style.PAPER, linewidth=1.5)
            axes.axvline(start - 0.5, color=style.PAPER, linewidth=1.5)
        axes.tick_params(length=0)
        figure.colorbar(picture, ax=axes, label="cosine of z − 1", shrink=0.8)
        return style.svg(figure)


def confusion_figure(confusions: pd.DataFrame, systems: Sequence[System], base: str) -> str | None:
    """Figure 6: what each dispatcher calls the prompts of each family, in per cent of the row.

    Families that no category stands for come last, and are not part of the balanced accuracy.

    Args:
        confusions: Columns base, dispatcher, truth, predicted, count; several tasks and seeds are added up.
        systems: They give dispatchers their labels.
        base: The base model.
    """
    rows = confusions[confusions["base"] == base]
    if rows.empty:
        return None
    labels = {name: name for name in dict.fromkeys(rows["dispatcher"])}
    labels |= {system.dispatcher: system.label for system in systems if system.base == base}
    found = [name for name in labels if (rows["dispatcher"] == name).any()]
    columns = [name for name in dict.fromkeys(rows["predicted"]) if _is_used(rows, name)]
    told = [name for name in columns if (rows["truth"] == name).any()]
    truths = [*told, *(name for name in dict.fromkeys(rows["truth"]) if name not in told)]
    with style.drawing():
        figure = _figure(0.9 + 0.95 * len(columns) * len(found), 1.7 + 0.55 * len(truths))
        for axes, name in zip(_grid(figure, 1, len(found))[0], found, strict=True):
            mine = rows[rows["dispatcher"] == name]
            counts = mine.groupby(["truth", "predicted"])["count"].sum().unstack()
            counts = counts.reindex(index=truths, columns=columns).fillna(0)
            recalls = [counts.loc[truth, truth] / max(1, counts.loc[truth].sum()) for truth in told]
            axes.set_title(labels[name] + (f"\nbalanced {100 * np.mean(recalls):.0f} %" if told else ""))
            _heat(axes, counts)
            axes.set_xlabel("called")
            if axes is figure.axes[0]:
                axes.set_ylabel("true family")
        return style.svg(figure)


def alpha_figure(alphas: pd.DataFrame, base: str) -> str | None:
    """Figure 7: the mixing weights that each search found; a point per seed and draw, a bar for their mean.

    Args:
        alphas: Columns base, search, task, seed, draw, expert, alpha, lowest, highest.
        base: The base model.
    """
    rows = alphas[alphas["base"] == base]
    if rows.empty:
        return None
    searches = dict(zip(rows["search"], rows["task"], strict=True))
    with style.drawing():
        lines = _wrapped(list(searches.items()), 6)
        figure = _figure(0.9 + 2.35 * len(lines[0]), 2.7 * len(lines))
        # Free forms may weigh in tens: one scale would flatten the others.
        alike = float(rows["highest"].max() - rows["lowest"].min()) < 8
        panels = list(chain.from_iterable(_grid(figure, len(lines), len(lines[0]), sharey=alike)))
        for axes in panels[len(searches) :]:
            axes.set_visible(False)
        for axes, (search, task) in zip(panels, searches.items(), strict=False):
            mine = rows[rows["search"] == search]
            experts = list(dict.fromkeys(mine["expert"]))
            for place, expert in enumerate(experts):
                draws = mine[mine["expert"] == expert]
                values, mean = draws["alpha"].to_numpy(), draws.groupby("seed")["alpha"].mean().mean()
                axes.bar(place, mean, width=0.62, color=style.BLUE, alpha=0.28, linewidth=0)
                spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0.0]
                places = place + np.asarray(spread)
                axes.vlines(places, draws["lowest"], draws["highest"], color=style.BLUE, linewidth=1.2, alpha=0.6)
                axes.plot(places, values, "o", color=style.BLUE, ms=4, alpha=0.85)
            axes.axhline(0, color=style.MUTED, linewidth=1)
            axes.axhline(1 / len(experts), color=style.MUTED, dashes=(4, 3), linewidth=1.2)
            axes.set_title(task if list(searches.values()).count(task) == 1 else search)
            axes.set_xticks(range(len(experts)), experts)
            axes.tick_params(axis="x", length=0, labelcolor=style.INK)
            axes.spines["bottom"].set_visible(False)
            axes.grid(axis="y")
            if axes in panels[:: len(lines[0])]:
                axes.set_ylabel("α")
        return style.svg(figure)


def _colours(systems: Sequence[System], base: str) -> dict[str, str]:
    """Colours by label."""
    mine = (system for system in systems if system.base == base and system.method != BASE)
    labels = [system.label for system in mine if system.strategy != ADAPTER]
    return dict(zip(labels, cycle(style.PALETTE), strict=False))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.09, h_pad=0.09)
    return figure


def _grid(figure: Figure, lines: int, columns: int, **options: Any) -> Any:
    ratios = options.pop("height_ratios", None)
    return figure.subplots(lines, columns, squeeze=False, height_ratios=ratios, **options)


def _wrapped(panels: list[Any], most: int) -> list[list[Any]]:
    """Panels in lines of so many at most."""
    return [panels[start : start + most] for start in range(0, len(panels), most)]


def _is_used(confusions: pd.DataFrame, name: str) -> bool:
    """Whether a category is somebody's truth or answer."""
    called = confusions["count"][confusions["predicted"] == name].sum()
    return bool(called) or bool((confusions["truth"] == name).any())


def _interval(axes: Axes, place: int, row: pd.DataFrame, colour: str) -> None:
    if row.empty:
        return
    value = {name: 100 * float(row.iloc[0][name]) for name in _INTERVAL}
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
        axes.text(column, line, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xlim(-0.5, shares.shape[1] - 0.5)
    axes.set_ylim(shares.shape[0] - 0.5, -0.5)
    axes.set_xticks(range(shares.shape[1]), [str(name) for name in counts.columns])
    names = [f"{name}\nn = {int(n)}" for name, n in zip(counts.index, values.sum(1), strict=True)]
    axes.set_yticks(range(shares.shape[0]), names)
    axes.tick_params(length=0, labelcolor=style.INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
