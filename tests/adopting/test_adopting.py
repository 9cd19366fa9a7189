"""A change of code that leaves results as they are is adopted, and nothing else is: on a small finished pipeline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_pipeline import ROOT, copy_project, run, small, surroundings

from t2.stages import cells, paths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not on the PATH; run `make test`"),
]
ADOPT = [sys.executable, "-m", "t2", "adopt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose short run is smaller still."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    params = fewer(small(yaml.safe_load((ROOT / "params.yaml").read_text())))
    (folder / "profiles" / "brief.yaml").write_text("# Small.\n\n" + yaml.safe_dump(params, sort_keys=False))
    run(folder, "dvc", "repro", "-q")
    commit(folder, "results")
    return folder


def fewer(params: dict[str, Any]) -> dict[str, Any]:
    """The base, an expert and dispatch to it; starting further stages would take most of the time."""
    left_out = ("classifier", "lora", "soft", "fewshot", "uniform")
    for section in ("recipes", "adapters", "sets", "temperatures", "systems"):
        params[section] = {name: row for name, row in params[section].items() if not name.startswith(left_out)}
    params["searches"] = {}
    params["sets"]["published"]["members"] = ["svf-reasoning"]
    params["publish"]["systems"] = ["prompt"]
    params["score"]["contrasts"] = [["prompt", "svf"]]
    return params


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "own", symlinks=True))


def commit(folder: Path, message: str) -> str:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message)
    return run(folder, "git", "rev-parse", "HEAD").stdout.strip()


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert text.count(old) == 1
    (folder / name).write_text(text.replace(old, new))


def rename_two_modules(folder: Path) -> None:
    """One of those that a stage depends on by its folder, and one of those that ``dvc.yaml`` names."""
    for old, new in (("svf/mixture", "svf/mixing"), ("seeds", "derived_seeds")):
        run(folder, "git", "mv", f"t2/{old}.py", f"t2/{new}.py")
        module = f"t2.{old.replace('/', '.')}"
        for path in (*folder.glob("t2/**/*.py"), folder / "dvc.yaml"):
            text = path.read_text()
            renamed = text.replace(f"{module} import", f"t2.{new.replace('/', '.')} import")
            path.write_text(renamed.replace(f"t2/{old}.py", f"t2/{new}.py"))


def due(folder: Path) -> set[str]:
    return set(json.loads(run(folder, "dvc", "status", "--json").stdout))


def kept(folder: Path) -> dict[str, bytes]:
    """What a refusal leaves as it is: the lock, and all that stages have made."""
    paths = [folder / "dvc.lock", *(folder / "data").rglob("*"), *(folder / "reports").rglob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def refused(folder: Path) -> str:
    before = kept(folder)
    done = subprocess.run(ADOPT, cwd=folder, env=surroundings(folder), capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert kept(folder) == before
    assert "Traceback" not in done.stderr
    return done.stderr.split("t2: ")[-1]


def made(folder: Path) -> dict[str, bytes]:
    """What rows have become, without the names of cells."""
    folders = tuple(f"data/{name}/" for name in ("basis", "adapters", "sets", "searches", "splits", "scores"))
    return {name: content for name, content in kept(folder).items() if name.startswith(folders)}


PREPARE = """
from t2 import config
from t2.adopting import due_by_code, git, plan, prepare
from t2.stages.fingerprint import declared
commit, due = git("rev-parse", "HEAD").strip(), due_by_code()
prepare(config.load(), plan(config.load(), declared("measure")), {"stages": list(due), "made": "before", "at": commit})
"""
"""As after both runs."""


def answers(folder: Path) -> dict[Any, Any]:
    """What became of each item of each cell."""
    with paths.within(folder, frozenset()):
        return {cell.place: cells.answers(cell) for cell in cells.read_index()}


def keys(index: list[dict[str, Any]]) -> set[str]:
    return {key for cell in index for key in (*cell["replies"], *cell["grades"])}


def test_a_renaming_is_adopted_and_nothing_runs_again(own: Path) -> None:
    made_at = run(own, "git", "rev-parse", "HEAD").stdout.strip()
    rename_two_modules(own)
    at = commit(own, "renamed")
    stages = due(own)
    assert {"basis@main", "train@svf-reasoning", "search@reasoning_hard", "temperature@soft", "measure"} <= stages
    before, said = made(own), answers(own)
    index = own / "data" / "predictions" / "cells.json"
    old = index.read_bytes()
    done = run(own, *ADOPT)
    assert "0 differ" in done.stderr
    assert all(name in done.stdout for name in stages - {"publish"})
    assert due(own) == {"publish", "report", "score"}
    new = json.loads(index.read_bytes())
    assert not keys(json.loads(old)) & keys(new)
    assert answers(own) == said
    output = run(own, "dvc", "repro").stdout.splitlines()
    assert {line.split("'")[1] for line in output if line.startswith("Running")} == {"score", "publish", "report"}
    assert due(own) == set()
    assert made(own) == before
    assert "nothing to adopt" in run(own, *ADOPT).stdout

    report = (own / "reports" / "report.md").read_text()
    assert (
        f"{len(new)} of {len(new)} measured cells, made by the code of {made_at[:10]} and adopted at {at[:10]}"
        in report
    )
    # What runs again loses the note; cells that are kept keep theirs.
    times = {path: path.stat().st_mtime_ns for path in index.parent.rglob("*") if path.is_file() and path != index}
    run(own, "dvc", "repro", "-q", "-s", "-f", "basis@main", "measure")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "adopted" not in json.loads((own / "data" / "runs" / "basis-main.json").read_text())
    assert "adopted" in json.loads((own / "data" / "runs" / "train-svf-reasoning.json").read_text())
    run(own, "dvc", "repro", "-q")
    report = (own / "reports" / "report.md").read_text()
    assert "`basis@main`, " not in report.split("Not run again")[1].split("\n")[0]
    assert f"{len(new)} of {len(new)} measured cells" in report


def test_a_killed_rewriting_goes_on_and_what_really_ran_meanwhile_gets_no_note(own: Path) -> None:
    rename_two_modules(own)
    commit(own, "renamed")
    index = own / "data" / "predictions" / "cells.json"
    old, expected = index.read_bytes(), answers(own)
    run(own, sys.executable, "-c", PREPARE)
    process = subprocess.Popen(ADOPT, cwd=own, env=surroundings(own), stdout=subprocess.DEVNULL)
    while index.read_bytes() == old:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() < 0
    assert "basis@main" in due(own)
    run(own, "dvc", "repro", "-q", "-s", "basis@main")
    done = run(own, *ADOPT)
    assert "running profile" not in done.stdout + done.stderr
    assert due(own) == {"publish", "report", "score"}
    assert not (own / ".t2" / "adopting").exists()
    assert answers(own) == expected
    runs = {path.stem: json.loads(path.read_text()) for path in (own / "data" / "runs").iterdir()}
    assert "adopted" not in runs["basis-main"]
    assert {"train-svf-reasoning", "measure"} <= {name for name, record in runs.items() if "adopted" in record}


def test_a_changed_constant_is_refused(own: Path) -> None:
    edit(own, "t2/training/loop.py", "recipe.lr * 0.5 *", "recipe.lr * 0.4 *")
    commit(own, "another schedule")
    said = refused(own)
    assert "gives other results than that of" in said and "data/adapters/svf-reasoning" in said
    assert {"train@svf-reasoning", "train@classifier", "train@lora-reasoning"} <= due(own)


def test_what_differs_in_more_than_code_is_refused_before_anything_runs(own: Path) -> None:
    with open(own / "t2" / "svf" / "basis.py", "a") as file:
        file.write("\n# A comment.\n")
    assert "commit the code first" in refused(own)
    commit(own, "a comment")
    edit(own, "params.yaml", "generations: 2", "generations: 3")
    (own / "data" / "adapters" / "classifier" / "seed-0" / "history.csv").unlink()
    said = refused(own)
    assert "search@reasoning_hard: params.yaml: budgets.cem.generations" in said
    assert "train@classifier: data/adapters/classifier (modified)" in said and "dvc repro -s" in said


def test_results_of_code_that_was_never_committed_are_refused(own: Path) -> None:
    lock = yaml.safe_load((own / "dvc.lock").read_text())
    code = [dep for dep in lock["stages"]["basis@main"]["deps"] if dep["path"] == "t2/svf"]
    edit_all = (own / "dvc.lock").read_text().replace(code[0]["md5"], "0" * 32 + ".dir")
    (own / "dvc.lock").write_text(edit_all)
    said = refused(own)
    assert "has the code which dvc.lock names for basis@main" in said and "never committed" in said
