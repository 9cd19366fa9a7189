"""The rows of an experiment folder, ``reports/<name>/params.yaml``: its own, and those that it takes from the main run.

What is taken is named, row by row (``svf-math: {from: main}``) or as a section without rows (``training: {from:
main}``), so that nothing is merged silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TAKEN = {"from": "main"}
"""In place of a row, or of a section without rows: the one of that name in the main run's file."""

ROWS = ("bases", "tasks", "recipes", "adapters", "sets", "budgets", "searches", "temperatures", "systems")
"""Sections of rows."""


def resolve(raw: Mapping[str, Any], main: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str], list[str]]:
    """Puts rows of the main run where a folder's file names them.

    Args:
        raw: The folder's values.
        main: Those of the main run.

    Returns:
        The whole values; the names of what was taken, as ``adapters.svf-math`` or ``training``; what cannot be taken.
    """
    whole = {section: dict(value) if isinstance(value, dict) else value for section, value in raw.items()}
    taken, problems = set(), []
    for section, row in entries(raw):
        where = f"{section}.{row}" if row else section
        name, there, here = (row, main[section], whole[section]) if row else (section, main, whole)
        value = here[name]
        if value == TAKEN and name in there:
            taken.add(where)
            here[name] = there[name]
            continue
        del here[name]
        if value != TAKEN:
            problems.append(f"{where}: expected {{from: main}} and nothing beside it (got {value!r})")
        else:
            problems.append(f"{where}: the main run has none of that name; it has {', '.join(there) or 'none'}")
    return whole, frozenset(taken), problems


def entries(raw: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Section and row of whatever has a key ``from``; None for a row: the section as a whole."""
    for section, value in raw.items():
        if not isinstance(value, dict):
            continue
        if "from" in value and section not in ROWS:
            yield section, None
        if section in ROWS:
            yield from ((section, name) for name, row in value.items() if isinstance(row, dict) and "from" in row)


def unresolve(whole: Mapping[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """The values that :func:`resolve` was given."""
    return {
        section: dict(TAKEN)
        if section in taken
        else {name: dict(TAKEN) if f"{section}.{name}" in taken else row for name, row in value.items()}
        for section, value in whole.items()
    }
