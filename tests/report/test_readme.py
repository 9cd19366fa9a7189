"""Results in a README stand between marks that name their folder; everything else stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from t2.report import readme
from t2.report.readme import END, MAIN, begin, updated

ROOT = Path(__file__).parents[2]
FOLDER = "reports/search_settings"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters and the score files that are committed."""
    for folder in (MAIN, FOLDER):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("scores.csv", "comparisons.csv"):
            shutil.copy(ROOT / folder / name, tmp_path / folder)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / FOLDER / "params.yaml", tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)


def test_each_folders_tables_stand_between_its_marks() -> None:
    text = f"# One\n{begin(FOLDER)}\nSTALE\n{END}\nTwo\n{begin(MAIN)}{END}\nThree\n"
    new = updated(text)
    first, second = new.index(begin(FOLDER)), new.index(begin(MAIN))
    assert new.startswith("# One\n") and new.endswith(f"{END}\nThree\n") and f"{END}\nTwo\n" in new
    assert first < second and "STALE" not in new
    assert "+ Transformer² (Few-shot)" not in new[first:second]
    assert "+ Transformer² (Few-shot)" in new[second:]
    assert "**Trained tasks.**" in new[first:second]
    assert new[second:].count("Accuracy in per cent") == 1, "what both tables say of themselves stands once"
    assert updated(new) == new


@pytest.mark.parametrize(
    "text",
    [
        "none",
        f"{begin(MAIN)}\n",
        f"{END}\n",
        f"{begin(MAIN)}\n{begin(MAIN)}\n{END}\n",
        f"{begin(MAIN)}\n{END}\n{END}\n",
    ],
    ids=["no marks", "no end", "no beginning", "two beginnings", "two ends"],
)
def test_marks_come_in_pairs(text: str) -> None:
    with pytest.raises(ValueError, match="needs the lines `<!-- results of reports, written"):
        updated(text)


def test_a_folder_without_scores_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(MAIN, "scores.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"reports/scores\.csv"):
        updated(f"{begin(MAIN)}\n{END}\n")
    Path("README.md").write_text(f"{begin('reports/none')}\n{END}\n")
    with pytest.raises(SystemExit, match="reports/none"):
        readme.main()
