"""``reports/index.html``: every table and figure of the paper beside what stands for it here.

``python -m t2.report.index`` writes it from the map ``reports/paper.csv``, the paper's numbers in ``reports/paper/``
and the reports and pictures that the map names; it computes nothing.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from t2.files import read_rows, replace_file
from t2.report.render import FOLDER, template, to_html
from t2.report.tables import Cell, Table

MAP = Path("reports/paper.csv")
NUMBERS = Path("reports/paper")
PAGE = Path("reports/index.html")
COLUMNS = ("item", "title", "place", "file", "block", "says")


@dataclass(frozen=True)
class Part:
    """A row of the map.

    Attributes:
        item: The paper's number, ``Table 4``; or ``Beyond the paper``.
        title: What it shows.
        place: The stage or experiment folder that makes its counterpart here; empty: there is none.
        file: Where that stands: a report (HTML), a picture (SVG) or a table (CSV).
        block: Of a report, the title of its table or picture; empty for a file that is one.
        says: What holds at this scale and what does not, or why there is no counterpart.
    """

    item: str
    title: str
    place: str
    file: str
    block: str
    says: str

    @property
    def anchor(self) -> str:
        """Where the page has it."""
        return self.item.lower().replace(" ", "-")

    def shown(self) -> Markup:
        """The counterpart, as HTML; none where there is none.

        Raises:
            FileNotFoundError: The file is not there.
            ValueError: The report has no such block.
        """
        if not self.file:
            return Markup()
        path = Path(self.file)
        if path.suffix == ".csv":
            return Markup(to_html(_table(path, self.block or self.item)))
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".svg":
            address = f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"
            return Markup(
                f'<figure><div class="scroll" tabindex="0"><img alt="{escape(self.title)}" src="{address}">'
                "</div></figure>"
            )
        marked = f"<strong>{escape(self.block)}</strong>"
        found = [figure for figure in re.findall(r"<figure.*?</figure>", text, re.DOTALL) if marked in figure]
        if len(found) != 1:
            raise ValueError(
                f"{self.file} has {len(found)} blocks called {self.block!r}; correct {MAP}, or make it anew"
            )
        return Markup(found[0])


def parts() -> list[Part]:
    """The map.

    Raises:
        ValueError: Its columns are others.
    """
    rows = read_rows(MAP)
    if any(tuple(row) != COLUMNS for row in rows):
        raise ValueError(f"{MAP} needs the columns {', '.join(COLUMNS)}")
    return [Part(**row) for row in rows]


def page(found: Sequence[Part]) -> str:
    """The page, with the paper's own numbers beside each counterpart."""
    items = dict.fromkeys(part.item for part in found)
    of_paper = {}
    for item in items:
        numbers = NUMBERS / f"{item.lower().replace(' ', '-')}.csv"
        if numbers.exists():
            of_paper[item] = Markup(to_html(_table(numbers, "In the paper.")))
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    listed = [[part for part in found if part.item == item] for item in items]
    return template("index.html.jinja").render(items=listed, of_paper=of_paper, style=style).strip() + "\n"


def _table(path: Path, title: str) -> Table:
    rows = read_rows(path)
    if not rows:
        raise ValueError(f"{path} has no rows; fill it, or take it out of {MAP}")
    return Table(title, "", tuple(map(Cell, rows[0])), (tuple(tuple(map(Cell, row.values())) for row in rows),))


def main() -> None:
    """Writes the page."""
    try:
        replace_file(PAGE, page(parts()))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
