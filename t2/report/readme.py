"""The results in ``README.md``: tables of the main run and of experiment folders, and none is typed by hand.

``python -m t2.report.readme`` writes what stands between two marks, from the files of the folder that the first names.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from t2.config import ConfigError, load
from t2.config.rows import Params
from t2.files import read_rows, replace_file
from t2.report.render import to_markdown
from t2.report.systems import systems_of
from t2.report.tables import score_table

MAIN = "reports"
"""The main run's folder; an experiment folder is one in it."""

END = "<!-- end of results -->"
_BEGIN = r"<!-- results of (?P<folder>\S+), written by `make readme` -->"
_MARKED = re.compile(rf"(?P<begin>{_BEGIN}).*?{re.escape(END)}", re.DOTALL)


def begin(folder: str) -> str:
    """The line above the results of a folder."""
    return f"<!-- results of {folder}, written by `make readme` -->"


def updated(readme: str) -> str:
    """The text of a README with the present results between its marks, as of the project in the working directory.

    Raises:
        FileNotFoundError: A folder, or one of its score files, is not there.
        ConfigError: Its parameters are not valid.
        ValueError: There is no mark, or one without the other.
    """
    pairs = len(_MARKED.findall(readme))
    if not pairs or pairs != len(re.findall(_BEGIN, readme)) or pairs != readme.count(END):
        raise ValueError(
            f"README.md needs the lines `{begin(MAIN)}` and `{END}`, in turn: a folder's results stand between them"
        )

    def present(found: re.Match[str]) -> str:
        folder = found["folder"]
        params = load() if folder == MAIN else load(Path(folder, "params.yaml"), main="params.yaml")
        return f"{found['begin']}\n\n{results(params, Path(folder))}\n\n{END}"

    return _MARKED.sub(present, readme)


def results(params: Params, folder: Path) -> str:
    """The tables, as Markdown; a caption that the next one has too is left out.

    Args:
        params: They say what systems are called.
        folder: That of the score files.

    Raises:
        FileNotFoundError: A score file is not there.
    """
    scores, comparisons = (read_rows(folder / f"{name}.csv") for name in ("scores", "comparisons"))
    systems = systems_of(params)
    suites = {"trained": "Trained tasks.", "unseen": "Unseen tasks."}
    found = [score_table(scores, comparisons, systems, suite, title) for suite, title in suites.items()]
    tables = [table for table in found if table]
    last = {table.caption: table for table in tables}
    tables = [table if last[table.caption] is table else replace(table, caption="") for table in tables]
    return "\n\n".join(to_markdown(table).strip() for table in tables)


def main() -> None:
    """Writes the results of the project in the working directory into its README."""
    readme = Path("README.md")
    try:
        replace_file(readme, updated(readme.read_text(encoding="utf-8")))
    except (FileNotFoundError, ConfigError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
