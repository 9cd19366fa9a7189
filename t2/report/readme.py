"""The results in ``README.md``: two tables of the report, and none is typed by hand.

``python -m t2.report.readme`` writes what stands between two marks, from the files in ``reports/``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from t2.config import ConfigError, load
from t2.config.rows import Params
from t2.files import read_rows, replace_file
from t2.report.render import to_markdown
from t2.report.systems import systems_of
from t2.report.tables import score_table

BEGIN = "<!-- results, written by `make readme` -->"
END = "<!-- end of results -->"


def results(params: Params, reports: Path) -> str:
    """The tables, as Markdown.

    Args:
        params: They say what systems are called.
        reports: The folder with the score files.

    Raises:
        FileNotFoundError: A score file is not there.
    """
    scores, comparisons = (read_rows(reports / f"{name}.csv") for name in ("scores", "comparisons"))
    systems = systems_of(params)
    tables = [
        score_table(scores, comparisons, systems, "trained", "Trained tasks."),
        score_table(scores, comparisons, systems, "unseen", "Unseen tasks."),
    ]
    return "\n\n".join(to_markdown(table).strip() for table in tables if table)


def replaced(readme: str, results: str) -> str:
    """The text of a README with other results between the marks.

    Raises:
        ValueError: The marks are not there, once each and in order.
    """
    before, begun, rest = readme.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended) or BEGIN in after or END in after:
        raise ValueError(f"README.md needs the lines `{BEGIN}` and `{END}`, once each: results stand between them")
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{after}"


def main() -> None:
    """Writes the results of the project in the working directory into its README."""
    readme = Path("README.md")
    try:
        replace_file(readme, replaced(readme.read_text(encoding="utf-8"), results(load(), Path("reports"))))
    except (FileNotFoundError, ConfigError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
