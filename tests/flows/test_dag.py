"""What the flows read from DVC: the order of stages, what changed, what stands behind it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from small_pipeline import run

from flows import dag

ROOT = Path(__file__).parents[2]


def test_stages_come_behind_what_they_read_with_direct_edges_only(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(template)
    stages = dag.read_dag()
    assert list(stages) == ["root", "left", "right", "join"]
    assert {name: set(stage.upstream) for name, stage in stages.items()} == {
        "root": set(),
        "left": {"root"},
        "right": {"root"},
        "join": {"left", "right"},  # not root, though that stands before it too
    }
    assert list(dag.with_upstream(stages, ["left"])) == ["root", "left"]
    assert dag.with_downstream(stages, {"left"}) == {"left", "join"}
    with pytest.raises(dag.DagError, match="nobody"):
        dag.with_upstream(stages, ["nobody"])
    assert dag.changed_stages(stages) == {"root", "left", "right", "join"}


def test_a_lock_that_a_kill_left_empty_does_not_block_the_project(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Path(shutil.copytree(template, tmp_path / "project"))
    monkeypatch.chdir(project)
    lock = project / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("")
    refused = subprocess.run(dag.dvc("repro", "root"), capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "corrupted" in refused.stderr
    dag.read_dag()
    subprocess.run(dag.dvc("repro", "-q", "root"), check=True)
    held = lock.read_text(encoding="utf-8")
    assert held
    dag.read_dag()
    assert lock.read_text(encoding="utf-8") == held


def test_the_projects_own_pipeline_is_read_and_says_what_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = dag.read_dag()
    order = list(stages)
    assert all(order.index(before) < order.index(name) for name, stage in stages.items() for before in stage.upstream)
    assert order.index("measure") < order.index("score") < order.index("report")
    gpu = {name for name, stage in stages.items() if stage.gpu}
    assert {"train@svf-math", "measure"} <= gpu and not {"split", "report"} & gpu
    assert set(stages["measure"].persistent_outs) == {"data/predictions", "data/timings"}
    assert {"reports/scores.csv", "data/scores"} <= set(stages["score"].outs)
    assert "reports/scores.csv" in stages["score"].git_outs and "data/scores" not in stages["score"].git_outs


def test_an_experiment_folder_is_read_with_what_it_builds_on(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Path(shutil.copytree(template, tmp_path / "project"))
    monkeypatch.chdir(project)
    file = "reports/x/dvc.yaml"
    stages = dag.read_dag(dag.FILE, file)
    extra, last = stages[f"{file}:extra"], stages[f"{file}:last"]
    assert (extra.upstream, extra.key, extra.outs) == ({"left"}, "extra", ("reports/x/out/extra",))
    assert last.upstream == {extra.name}
    own = {stage.name: stage for stage in (extra, last)}
    assert dag.changed_stages(own) == set(own)
    assert dag.due_before(stages, file) == ["root", "left"]  # not right and join, on which nothing here builds
    run(project, "dvc", "repro", "-q")
    assert dag.due_before(stages, file) == []
    run(project, "dvc", "repro", "-q", "-s", file)
    assert dag.changed_stages(own) == set()
    with pytest.raises(dag.DagError, match=r"reports/y/dvc\.yaml"):
        dag.read_dag(dag.FILE, "reports/y/dvc.yaml")


def test_make_table_says_what_is_due_first_and_runs_the_folder_only(template: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(template, tmp_path / "project"))
    shutil.copy(ROOT / "Makefile", project)
    here = [f"--old-file={made}" for made in (".venv/installed", "pyproject.toml", "constraints.txt")]
    run(project, "dvc", "repro", "-q")
    (project / "seed").write_text("2")
    said = run(project, "make", *here, "table", "NAME=x").stdout
    assert "due in the main run, and not run here: root, left;" in said
    assert (project / "reports" / "x" / "out" / "last").read_text() == "last after 0"
    ends = [json.loads(line)[0] for line in (project / "journal").read_text().splitlines() if '"end"' in line]
    assert sorted(ends) == ["extra", "join", "last", "left", "right", "root"]  # root ran once
    failed = subprocess.run(["make", *here, "table"], cwd=project, capture_output=True, text=True, check=False)
    assert failed.returncode and "NAME=<one of: x>" in failed.stdout


def test_a_pipeline_that_dvc_cannot_read_is_refused_in_its_own_words(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(template, tmp_path / "broken"))
    (folder / "dvc.yaml").write_text("stages: {root: {deps: [seed]}}\n")
    monkeypatch.chdir(folder)
    with pytest.raises(dag.DagError, match=r"dvc\.yaml"):
        dag.read_dag()
