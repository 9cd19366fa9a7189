"""Tables as Markdown, HTML and plain text; standard library only."""

from __future__ import annotations

import re
from html import escape

from t2.report.tables import Cell, Table


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, the caption below."""
    lines = [
        f"**{table.title}**",
        "",
        _markdown_row([_one_line(cell) for cell in table.header]),
        _markdown_row(["---", *["---:"] * (len(table.header) - 1)]),
    ]
    for row in (row for group in table.groups for row in group):
        lines.append(_markdown_row([_markdown_cell(cell) for cell in row]))
    return "\n".join([*lines, "", table.caption])


def to_html(table: Table) -> str:
    """A ``figure`` with caption and table; it scrolls sideways where the screen is narrow."""
    head = "".join(_html_cell(cell, "th", 'scope="col"') for cell in table.header)
    bodies = [
        "<tbody>"
        + "".join(
            "<tr>"
            + _html_cell(row[0], "th", 'scope="row"')
            + "".join(_html_cell(cell, "td") for cell in row[1:])
            + "</tr>"
            for row in group
        )
        + "</tbody>"
        for group in table.groups
    ]
    caption = f"<strong>{escape(table.title)}</strong> {inline(table.caption)}"
    rows = f"<thead><tr>{head}</tr></thead>{''.join(bodies)}"
    return (
        f'<figure class="table"><figcaption>{caption}</figcaption>'
        f'<div class="scroll" tabindex="0"><table>{rows}</table></div></figure>'
    )


def to_text(table: Table) -> str:
    """Aligned columns for a terminal: the first aside beside each value, no caption."""
    rows = [[_one_line(cell, asides=1) for cell in table.header]]
    groups = [[[_one_line(cell, asides=1) for cell in row] for row in group] for group in table.groups]
    rows += [row for group in groups for row in group]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]

    def line(row: list[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    total = sum(widths) + 2 * (len(widths) - 1)
    lines = [table.title, "━" * total, line(rows[0])]
    for group in groups:
        lines += ["─" * total, *(line(row) for row in group)]
    return "\n".join([*lines, "━" * total])


def inline(text: str) -> str:
    """Escapes text for HTML; `code` and **strong** keep their meaning, a number its sign of per cent."""
    text = escape(text, quote=False).replace(" %", "\u00a0%")
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _one_line(cell: Cell, asides: int | None = None) -> str:
    return " ".join(part for part in (cell.text, *cell.asides[:asides]) if part)


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.strong and cell.text else cell.text
    return "<br>".join([" ".join([text, *cell.asides[:1]]), *cell.asides[1:]]).replace("|", "\\|")


def _html_cell(cell: Cell, tag: str, attributes: str = "") -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.strong else escape(cell.text)
    asides = "".join(f"<small>{escape(aside)}</small>" for aside in cell.asides)
    return f"<{' '.join(filter(None, [tag, attributes]))}>{text}{asides}</{tag}>"
