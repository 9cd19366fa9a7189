"""Where the stages' files lie, relative to the project's root; names are those of rows."""

from __future__ import annotations

from pathlib import Path

SPLITS = Path("data/splits")
BASIS = Path("data/basis")
ADAPTERS = Path("data/adapters")
SETS = Path("data/sets")
SEARCHES = Path("data/searches")
PREDICTIONS = Path("data/predictions")
TIMINGS = Path("data/timings")
SCORES = Path("data/scores")
RUNS = Path("data/runs")
PUBLISHED = Path("data/published.json")
REPORT = Path("data/report")
REPORTS = Path("reports")


def split(task: str, name: str) -> Path:
    """The items of one split of a task."""
    return SPLITS / task / f"{name}.jsonl"


def basis(base: str) -> Path:
    """The basis cache of a base model."""
    return BASIS / base


def adapter(name: str, seed: int) -> Path:
    """A trained adapter."""
    return ADAPTERS / name / f"seed-{seed}"


def member(of_set: str, name: str, seed: int) -> Path:
    """An adapter as a set holds it."""
    return SETS / of_set / name / f"seed-{seed}"


def search(name: str, seed: int, draw: int) -> Path:
    """The outcome of one search: for the adapters of one seed, on one draw of the shots."""
    return SEARCHES / name / f"seed-{seed}" / f"draw-{draw}"


def temperature(name: str, seed: int) -> Path:
    """The temperature of soft dispatch that was found for the adapters of one seed."""
    return SEARCHES / name / f"seed-{seed}" / "temperature.json"


def run(stage: str) -> Path:
    """The MLflow run id and the seconds of a stage.

    The report reads those of all other stages, so that its own must not lie among them.
    """
    return REPORT / "run.json" if stage == "report" else RUNS / f"{stage.replace('@', '-')}.json"
