"""Figures 10 and 11: the share of the sum of singular values in the largest of them, by layer and module."""

from __future__ import annotations

from fractions import Fraction

import pandas as pd

from t2.report import style


def spectrum_figure(rows: pd.DataFrame, base: str) -> str:
    """A panel for each kind of module, a line for each share of the components; dotted, of random matrices.

    Args:
        rows: Columns layer, module, weights, share, ratio.
        base: The base model's label.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    modules, shares = list(dict.fromkeys(rows["module"])), sorted(rows["share"].unique())
    columns = min(4, len(modules))
    lines = -(-len(modules) // columns)
    with style.drawing():
        figure = Figure(figsize=(0.8 + 2.1 * columns, 0.9 + 1.9 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
        for axes in panels[len(modules) :]:
            axes.set_visible(False)
        for place, (axes, module) in enumerate(zip(panels, modules, strict=False)):
            for number, share in enumerate(shares, start=1):
                of_share = rows[(rows["module"] == module) & (rows["share"] == share)]
                for weights, line in (("trained", "-"), ("random", ":")):
                    curve = of_share[of_share["weights"] == weights]
                    label = f"{Fraction(share)}" if weights == "trained" else None
                    shade = 0.25 + 0.75 * number / len(shares)
                    axes.plot(curve["layer"], 100 * curve["ratio"], line, color=style.BLUE, alpha=shade, label=label)
            axes.set_title(module)
            axes.set_ylim(0, 100)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y")
            if place % columns == 0:
                axes.set_ylabel("share of Σσ, %")
            if place + columns >= len(modules):
                axes.set_xlabel("layer")
                axes.tick_params(labelbottom=True)
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(shares) + 1,
            title=f"{base}: in the largest … of the components; dotted, of a random matrix of that shape",
        )
        return style.svg(figure)
