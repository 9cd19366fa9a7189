"""Where the stages' files lie, relative to the project's root."""

from pathlib import Path

from t2.config import Base

SPLITS = Path("data/splits")
BASIS = Path("data/basis")
EXPERTS = Path("data/experts")
CLASSIFIER = Path("data/classifier")
BASELINES = Path("data/baselines")
CONTROL = Path("data/control")
ADAPTATION = Path("data/adaptation")
PREDICTIONS = Path("data/predictions")
RUNS = Path("data/runs")
PUBLISHED = Path("data/published.json")
REPORT = Path("data/report")
REPORTS = Path("reports")


def split(task: str, name: str) -> Path:
    """The items of one split of a task."""
    return SPLITS / task / f"{name}.jsonl"


def basis(base: Base) -> Path:
    """The basis cache of a base model."""
    return BASIS / base.name


def seed(folder: Path, number: int) -> Path:
    """The adapter of one seed."""
    return folder / f"seed-{number}"


def draw(task: str, number: int) -> Path:
    """The outcome of one few-shot search."""
    return ADAPTATION / task / f"draw-{number}"


def run(stage: str) -> Path:
    """The MLflow run id and the seconds of a stage.

    The report reads those of all other stages, so that its own must not lie among them.
    """
    return REPORT / "run.json" if stage == "report" else RUNS / f"{stage.replace('@', '-')}.json"
