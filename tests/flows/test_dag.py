"""What the flows read from DVC: the order of stages, what changed, what stands behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_the_projects_own_pipeline_is_read_and_says_what_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = dag.read_dag()
    order = list(stages)
    assert all(order.index(before) < order.index(name) for name, stage in stages.items() for before in stage.upstream)
    assert order[-1] == "report"
    gpu = {name for name, stage in stages.items() if stage.gpu}
    assert {"expert@math", "benchmark"} <= gpu and not {"split", "report"} & gpu


def test_a_pipeline_that_dvc_cannot_read_is_refused_in_its_own_words(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    folder = Path(shutil.copytree(template, tmp_path / "broken"))
    (folder / "dvc.yaml").write_text("stages: {root: {deps: [seed]}}\n")
    monkeypatch.chdir(folder)
    with pytest.raises(dag.DagError, match=r"dvc\.yaml"):
        dag.read_dag()
