"""Fills the templates beside this module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup, escape

from t2.report.tables import Table

FOLDER = Path(__file__).parent


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, the caption below."""
    return str(template("report.md.jinja").module.table(table))  # type: ignore[attr-defined]


def to_html(table: Table) -> str:
    """A ``figure`` with caption and table; it scrolls sideways where the screen is narrow."""
    return str(template("report.html.jinja").module.table(table))  # type: ignore[attr-defined]


def page(title: str, sections: Sequence[object], *, html: bool) -> str:
    """The report: as HTML, which holds style and pictures and loads nothing, or as Markdown, which links to these."""
    filled = template("report.html.jinja" if html else "report.md.jinja")
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    return filled.render(title=title, sections=sections, style=style).strip() + "\n"


@cache
def template(name: str) -> Template:
    """A template beside this module, by its file's name."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=lambda name: str(name).endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    return environment.get_template(name)


def inline(text: str) -> Markup:
    """Escapes text for HTML; `code` and **strong** keep their meaning, a number its sign of per cent."""
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)).replace(" %", "\u00a0%"))
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped))
