"""Prints the score tables and says where everything is: ``python -m t2.report.terminal``.

Neither pandas nor torch is imported: it starts at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

from t2.config import ConfigError, load
from t2.config.rows import Params
from t2.files import read_rows
from t2.report.systems import systems_of
from t2.report.tables import score_table, to_text

TITLES = {"trained": "Trained tasks (accuracy in %, with its 95 % interval)", "unseen": "Unseen tasks"}


def summary(root: Path) -> str:
    """What the terminal shows after a run.

    Args:
        root: The project's root.

    Raises:
        FileNotFoundError: There are no scores yet.
        ConfigError: ``params.yaml``, which says what systems are called, is not valid.
    """
    scores = root / "reports" / "scores.csv"
    if not scores.exists():
        raise FileNotFoundError(f"no {scores}; `make repro` makes it")
    params = load(root / "params.yaml")
    rows = read_rows(scores)
    compared = root / "reports" / "comparisons.csv"
    comparisons = read_rows(compared) if compared.exists() else []
    tables = [score_table(rows, comparisons, systems_of(params), suite, title) for suite, title in TITLES.items()]
    places = [(what, where) for what, where in _places(root, params) if where]
    width = max((len(what) for what, _ in places), default=0)
    lines = [f"{what.ljust(width)}  {where}" for what, where in places]
    return "\n\n".join([*(to_text(table) for table in tables if table), "\n".join(lines)])


def main() -> None:
    """Prints the summary of the project in the working directory."""
    try:
        print(f"\n{summary(Path())}\n")
    except (FileNotFoundError, ConfigError) as error:
        sys.exit(str(error))


def _places(root: Path, params: Params) -> list[tuple[str, str]]:
    folder, report, store = root / "data" / "adapters", root / "reports" / "report.html", root / "mlflow.db"
    adapters = [name for name in params.adapters if (folder / name).is_dir()]
    return [
        ("Report", f"{report}   (also report.md, *.csv)" if report.exists() else ""),
        ("Adapters", f"{folder}/<name>/seed-<n>   ({', '.join(adapters)})" if adapters else ""),
        ("MLflow", f"{store}   open its pages with `make ui`" if store.exists() else ""),
    ]


if __name__ == "__main__":
    main()
