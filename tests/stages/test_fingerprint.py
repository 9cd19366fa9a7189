"""A stage's fingerprint follows its declared inputs and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from t2.stages.fingerprint import fingerprint

DVC_FILE = """
stages:
  train:
    foreach: ${experts}
    do:
      cmd: train ${key}
      deps:
        - data.txt
      params:
        - experts.${key}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(DVC_FILE)
    (tmp_path / "data.txt").write_text("one")
    (tmp_path / "params.yaml").write_text("experts: {math: {lr: 1}, code: {lr: 2}}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_changes_with_a_dependency_and_with_its_own_parameters_only(project: Path) -> None:
    first = fingerprint("train@math")
    assert fingerprint("train@math") == first
    assert fingerprint("train@code") != first
    (project / "params.yaml").write_text("experts: {math: {lr: 1}, code: {lr: 3}}")
    assert fingerprint("train@math") == first
    (project / "params.yaml").write_text("experts: {math: {lr: 9}, code: {lr: 3}}")
    changed = fingerprint("train@math")
    assert changed != first
    (project / "data.txt").write_text("two")
    assert fingerprint("train@math") != changed


def test_an_unknown_stage_is_named(project: Path) -> None:
    with pytest.raises(ValueError, match="train@poetry"):
        fingerprint("train@poetry")
