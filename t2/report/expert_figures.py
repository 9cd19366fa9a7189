"""Pictures that stand beside an expert in MLflow: where it changes the model, and how a search found α."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure


def change(statistics: pd.DataFrame) -> Figure:
    """The mean of |z − 1| as a picture, layers × modules."""
    modules = list(dict.fromkeys(statistics["module"]))
    grid = statistics.pivot_table(index="layer", columns="module", values="change")[modules]
    figure = Figure(figsize=(2.0 + 0.55 * len(modules), 1.6 + 0.28 * len(grid)), layout="constrained")
    axes = figure.subplots()
    top = _round_up(float(statistics["change"].max()))  # the grid has holes where a layer lacks a module
    picture = axes.imshow(grid.to_numpy(), cmap="viridis", aspect="auto", vmin=0.0, vmax=top)
    axes.set_xticks(range(len(modules)), modules, rotation=45, ha="right")
    axes.set_yticks(range(len(grid)), [str(layer) for layer in grid.index])
    axes.set_ylabel("layer")
    figure.colorbar(picture, ax=axes, label="mean |z − 1|")
    return figure


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, …, so that pictures of like experts have the same colours."""
    if value <= 0.0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return unit * next(step for step in (1, 2, 5, 10) if step * unit >= value)


def search(history: pd.DataFrame, experts: Sequence[str]) -> Figure:
    """Mean and deviation of the search's own variable by generation, for each expert."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = history["generation"].to_numpy(float)
    for expert in experts:
        if f"raw.{expert}" in history:
            mean = history[f"raw.{expert}"].to_numpy(float)
            axes.plot(steps, mean, label=expert)
            if f"raw_std.{expert}" in history:
                spread = history[f"raw_std.{expert}"].to_numpy(float)
                axes.fill_between(steps, mean - spread, mean + spread, alpha=0.15, linewidth=0)
    axes.set(xlabel="generation", ylabel="α of the search, before it becomes weights")
    if axes.lines:
        axes.legend(frameon=False)
    return figure
