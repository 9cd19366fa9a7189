"""Problems from public benchmarks, in the layouts in which these are published.

A layout is a declaration here and a function from a row to a problem in the module of its benchmark family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t2.tasks.item import Problem
from t2.tasks.sources import arc, mathematics, programs
from t2.tasks.sources.rows import HubSplit, Row, SourceError, read
from t2.tasks.sources.vqa import asked

__all__ = ["LAYOUTS", "VERSIONS", "HubSplit", "Layout", "Part", "SourceError", "asked", "load"]

Part = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a benchmark's rows become items.

    Attributes:
        version: Raised whenever the layout makes other problems than before; in the manifest.
        problem: Reads a row.
        part: The part to which a row belongs, where one file holds both.
    """

    version: int
    problem: Callable[[Row], Problem]
    part: Callable[[Row], Part] | None = None


LAYOUTS = {
    "gsm8k": Layout(1, mathematics.gsm8k),
    "math": Layout(1, mathematics.competition),
    "humaneval": Layout(1, programs.humaneval),
    "humaneval_plus": Layout(1, programs.humaneval_plus),
    "mbpp": Layout(1, programs.mbpp, programs.mbpp_part),
    "mbpp_base": Layout(1, programs.mbpp_base),
    "mbpp_plus": Layout(1, programs.mbpp_plus, programs.mbpp_plus_part),
    "arc": Layout(2, arc.arc),
}
"""The layouts by name. Each is read in every form in which its benchmark is published."""

VERSIONS = {
    "miniature": 3,
    **{name: layout.version for name, layout in LAYOUTS.items()},
    "textvqa": 1,
    "okvqa": 1,
}
"""The versions of all layouts, of the miniature's generators, and of questions about images."""


def load(layout: str, origin: str | Path | HubSplit, part: Part | None = None) -> list[Problem]:
    """Reads the problems of a benchmark.

    Args:
        layout: A key of :data:`LAYOUTS`.
        origin: A file, a folder with a file per row (MATH), or a split on the Hugging Face hub.
        part: Of a file that holds both parts (MBPP, by ``task_id``; MBPP+, by position), the one to keep.
            The other benchmarks have a file for each part, and this changes nothing; nor does it for the
            hub, where the split says it.

    Returns:
        A problem per row, in their order. Ids are the benchmark's own where it has any (``mbpp-<task_id>``,
        ``humaneval-<n>``, ARC's, ``math-<subject's folder>/<n>``), else made of the file's name and the line.

    Raises:
        SourceError: The origin cannot be read, has an odd row (named by place and field), or an id twice.
        ValueError: An unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"a source file's layout is one of {', '.join(LAYOUTS)}; got {layout!r}")
    declared = LAYOUTS[layout]
    divides = declared.part if part is not None and not isinstance(origin, HubSplit) else None
    kept: dict[str, Problem | None] = {}
    for row in read(origin if isinstance(origin, HubSplit) else Path(origin)):
        problem = declared.problem(row)
        if problem.id in kept:
            raise row.error("id", f"{problem.id!r} occurs twice")
        kept[problem.id] = problem if divides is None or divides(row) == part else None
    return [problem for problem in kept.values() if problem is not None]
