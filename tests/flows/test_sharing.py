"""Records of stages in a DVC remote: what one clone has computed, another one takes over to the byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_pipeline import run

from flows import dag, sharing
from flows.stage_task import take_over
from t2.stages.fingerprint import fingerprint

FOLDER = "reports/x/dvc.yaml"


@contextmanager
def inside(folder: Path) -> Iterator[dict[str, dag.Stage]]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield dag.read_dag(dag.FILE, FOLDER)
    finally:
        os.chdir(before)


@pytest.fixture
def clones(template: Path, tmp_path: Path) -> tuple[Path, Path]:
    project = Path(shutil.copytree(template, tmp_path / "project"))
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "project")
    made = tmp_path / "a", tmp_path / "b"
    for clone in made:
        subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
        run(clone, "dvc", "remote", "add", "--local", "--default", "shared", str(tmp_path / "remote"))
    return made


def test_a_record_makes_a_stage_unchanged_elsewhere_whatever_keeps_its_outs(clones: tuple[Path, Path]) -> None:
    first, second = clones
    # In order: an out that persists, one that git keeps, one in an experiment folder whose lr of 1e-05 stays a number.
    names = ["root", "left", "right", "join", f"{FOLDER}:extra"]
    run(first, "dvc", "repro", "-q")
    run(first, "dvc", "repro", "-q", "-s", FOLDER)
    run(first, "dvc", "push", "-q", *names)
    with inside(first) as stages:
        for name in names:
            sharing.offer(stages[name], fingerprint(name))
    with inside(second) as stages:
        for name in names:
            assert sharing.take(stages[name], fingerprint(name)) == sharing.entry(stages[name]), name
            run(second, "dvc", "pull", "-q", "--force", name)
            assert "didn't change, skipping" in run(second, "dvc", "repro", "-s", name).stdout
        assert not (second / "journal").exists()
        assert sharing.take(stages[f"{FOLDER}:last"], fingerprint(f"{FOLDER}:last")) is None  # nobody offered it
    assert (second / "dvc.lock").read_text() == (first / "dvc.lock").read_text()
    assert (second / "report").read_text() == "kept by git"


def test_a_stage_goes_on_from_the_persistent_out_of_other_inputs_in_a_fresh_clone(clones: tuple[Path, Path]) -> None:
    by_hand, fresh = clones
    run(by_hand, "dvc", "repro", "-q")
    run(by_hand, "dvc", "push", "-q")
    shutil.copy(by_hand / "dvc.lock", fresh)
    with open(fresh / "work.py", "a") as code:
        code.write("# edited\n")
    run(fresh, "dvc", "repro", "-q", "-s", "--pull", "root")
    with inside(fresh) as stages:
        assert take_over(stages["left"], fingerprint("left"), lambda *command: run(fresh, "dvc", *command)) is None
    run(fresh, "dvc", "repro", "-q", "-s", "--pull", "left")
    assert '["left", "goes on"' in (fresh / "journal").read_text()


def test_a_damaged_record_is_named(clones: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = clones
    run(first, "dvc", "repro", "-q", "root")
    with inside(first) as stages:
        sharing.offer(stages["root"], fingerprint("root"))
        (record,) = tmp_path.glob("remote/stages/*/*.tar")
        record.write_bytes(record.read_bytes()[:100])
        with pytest.raises(sharing.SharingError, match=rf"root: the record {record} is damaged .*; remove it"):
            sharing.take(stages["root"], fingerprint("root"))


def test_taking_over_waits_while_another_dvc_of_the_checkout_writes(clones: tuple[Path, Path]) -> None:
    first, second = clones
    run(first, "dvc", "repro", "-q", "root")
    with inside(first) as stages:
        sharing.offer(stages["root"], fingerprint("root"))
    hold = "import time; from dvc.repo import Repo\nwith Repo() as repo, repo.lock: print(flush=True); time.sleep(6)"
    with inside(second) as stages:
        inputs = fingerprint("root")
        with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert sharing.take(stages["root"], inputs) is not None
            assert holder.wait() == 0
