"""Scratch outlives the stage until DVC has recorded what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from t2.stages import scratch
from t2.stages.fingerprint import fingerprint

DVC_FILE = """
stages:
  first:
    cmd: echo 1 > one
    deps: [data.txt]
    params: [lr]
    outs: [one]
  second:
    cmd: echo 2 > two
    deps: [one]
    outs: [two]
"""


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    dvc("init", "-q", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(DVC_FILE)
    (tmp_path / "data.txt").write_text("one")
    (tmp_path / "params.yaml").write_text("lr: 0.1")
    return tmp_path


def finished(project: Path, stage: str) -> Path:
    made = scratch.folder(project, stage, fingerprint(stage))
    made.mkdir(parents=True)
    scratch.finish(made)
    return made


def test_what_dvc_has_not_recorded_stays_and_what_it_has_goes(project: Path) -> None:
    first = finished(project, "first")
    scratch.tidy(project, "first", fingerprint("first"))
    assert first.exists(), "killed before DVC's record: the next start finds its work"
    dvc("repro", "-q", "first")
    scratch.tidy(project, "second", fingerprint("second"))
    assert not first.exists()


def test_work_that_is_not_finished_stays(project: Path) -> None:
    dvc("repro", "-q", "first")
    begun = scratch.folder(project, "first", fingerprint("first"))
    begun.mkdir(parents=True)
    scratch.tidy(project, "first", fingerprint("first"))
    assert begun.exists()


def test_a_record_of_other_inputs_is_none_of_these(project: Path) -> None:
    dvc("repro", "-q", "first")
    (project / "params.yaml").write_text("lr: 0.2")
    first = finished(project, "first")
    scratch.tidy(project, "second", fingerprint("second"))
    assert first.exists()
    (project / "params.yaml").write_text("lr: 0.3")
    scratch.tidy(project, "first", fingerprint("first"))
    assert not first.exists(), "the stage itself goes on to other inputs"
