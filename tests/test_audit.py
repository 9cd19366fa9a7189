"""The audit of a finished run, and that a planted false number does not pass it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_pipeline import copy_project, run, surroundings

from t2.report import readme

pytestmark = pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not on the PATH; run `make test`")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("project"))
    (folder / "README.md").unlink()  # its results are those of the project's own run
    run(folder, "dvc", "repro", "-q", "report")
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(finished, tmp_path / "own", symlinks=True))


def audited(folder: Path) -> tuple[int, list[str], str]:
    """Exit status, the findings that are wrong, and all that was said."""
    done = subprocess.run(
        [sys.executable, "-m", "t2", "audit"],
        cwd=folder,
        env=surroundings(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line.removeprefix("WRONG ") for line in done.stdout.splitlines() if line.startswith("WRONG")]
    return done.returncode, wrong, done.stdout + done.stderr


def test_a_finished_run_passes(finished: Path) -> None:
    status, wrong, said = audited(finished)
    assert (status, wrong) == (0, [])
    assert "any two splits, and each by itself: no question twice" in said
    assert "pretraining_prompts" in said
    assert "first pass prompt on miniature: recall " in said
    assert "search reasoning_hard on reasoning_hard: the weights of a mix sum to 1.000" in said


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")


def last_digit(text: str) -> str:
    """The text with its last digit raised by one, round about."""
    place = max(text.rfind(digit) for digit in "0123456789")
    return text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :]


@pytest.mark.parametrize(
    "name", ["scores.csv", "comparisons.csv", "confusions.csv", "dispatch.csv", "searches.csv", "report.md"]
)
def test_a_planted_number_is_found(own: Path, name: str) -> None:
    edit(own / "reports" / name, last_digit)
    status, wrong, said = audited(own)
    assert status != 0
    assert any(line.startswith(f"reports/{name}: is not what ") for line in wrong)
    assert "findings are wrong; they are marked above" in said


def test_a_planted_number_in_the_readme_is_found(own: Path) -> None:
    front = own / "README.md"
    front.write_text(f"# A project\n\n{readme.begin(readme.MAIN)}\n{readme.END}\n\nMore.\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "t2.report.readme"], cwd=own, env=surroundings(own), check=True)
    text = front.read_text(encoding="utf-8")
    assert text.startswith("# A project\n")
    assert text.endswith("\n\nMore.\n")
    assert "**Trained tasks.**" in text
    assert audited(own)[0] == 0
    edit(front, last_digit)
    status, wrong, _ = audited(own)
    assert (status, [line.split(":")[0] for line in wrong]) == (1, ["README.md"])


def test_a_question_that_stands_twice_is_found(own: Path) -> None:
    splits = own / "data" / "splits"
    taken = (splits / "reasoning" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    test = splits / "reasoning_hard" / "shots.jsonl"
    edit(test, lambda text: text + taken + "\n")
    _, wrong, _ = audited(own)
    assert "reasoning/train and reasoning_hard/shots: 1 questions stand in both" in wrong


def test_what_is_not_there_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    folder = copy_project(tmp_path)
    status, _, said = audited(folder)
    assert status != 0
    assert "no data/splits/reasoning; `dvc repro` makes it" in said
