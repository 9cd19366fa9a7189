"""How figures look, and their bytes: SVG that follows the reader's light or dark theme, always the same.

Figures are drawn in light colours; ``figure.css``, which each holds, gives every one of them its dark value where the
reader's system asks for a dark page.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, INK, MUTED, RULE = "#fefefe", "#1f2430", "#6b7283", "#dfe3ea"
BLUE, ORANGE, TEAL, PURPLE = "#2f6bde", "#d9730d", "#0e8f86", "#8250df"
GREEN, GREY, RED, OCHRE = "#3a8f3a", "#8a92a3", "#d92d3a", "#a67c00"
PALETTE = (ORANGE, OCHRE, BLUE, TEAL, PURPLE, GREEN, GREY)
"""Colours of systems, by their place among those of a base; red is what was chosen."""

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "transformer-squared",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures made and saved inside have this style; it starts from matplotlib's defaults."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def svg(figure: Figure) -> str:
    """A figure as SVG text: no date, no document type, no glyph outlines, colours by theme."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace("'DejaVu Sans'", _FONTS)
    theme = Path(__file__).with_name("figure.css").read_text(encoding="utf-8")
    return text.replace("<defs>", f"<style>\n{theme}</style><defs>", 1)
