"""A method, a base, a task, a search, a system: each is added to a finished project by its rows, and only it runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_pipeline import copy_project, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not on the PATH; run `make test`"),
]
Rows = dict[str, Any]


def a_method(params: Rows) -> None:
    peft = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    params["recipes"]["ia3"] = {**params["recipes"]["lora_next_token"], "peft": peft}
    params["adapters"]["ia3-reasoning"] = {"base": "main", "recipe": "ia3", "task": "reasoning"}
    params["sets"]["ia3"] = {"members": ["ia3-reasoning"]}
    params["systems"]["ia3"] = system("IA3", strategy="own", set="ia3")


def a_base(params: Rows) -> None:
    control = "data/miniature/control"
    params["bases"]["control"] = {**params["bases"]["main"], "label": "control", "path": control, "files": control}
    params["systems"]["control"] = {**system("control", strategy="none"), "base": "control", "variant": ""}


def a_task(params: Rows) -> None:
    sizes = {"train": 0, "valid": 0, "test": 8, "shots": 0}
    params["tasks"]["more"] = {**params["tasks"]["reasoning_hard"], "sizes": sizes}


def a_search(params: Rows) -> None:
    params["budgets"]["brief"] = {**params["budgets"]["cem"], "generations": 1}
    params["searches"]["brief"] = {**params["searches"]["reasoning_hard"], "budget": "brief"}
    found = {"strategy": "fewshot", "set": "svf", "searches": ["brief"], "tasks": ["reasoning_hard"]}
    params["systems"]["brief"] = system("Few-shot, brief", **found)


def a_system(params: Rows) -> None:
    params["systems"]["single"] = system("Classifier", strategy="adapter", adapter="classifier")


def system(label: str, **more: Any) -> Rows:
    return {"label": label, "base": "main", "tasks": "all", "variant": label.lower().replace(" ", "-"), **more}


ADDITIONS: dict[str, tuple[Callable[[Rows], None], set[str]]] = {
    "a method": (a_method, {"train@ia3-reasoning"}),
    "a base": (a_base, {"basis@control", "split"}),  # what a base has read is searched for test prompts
    "a task": (a_task, {"split"}),
    "a search": (a_search, {"search@brief"}),
    "a system": (a_system, set()),
}
"""What is added, and the stages that make or draw something for it; behind these come those that measure and show."""
BEHIND = ("measure", "publish", "report", "score", "set@")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("project"))
    run(folder, "dvc", "repro", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "results")
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "own", symlinks=True))


def add(folder: Path, addition: Callable[[Rows], None]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    addition(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def made(folder: Path) -> dict[str, str]:
    """The bytes of what rows have become: splits, bases, adapters, sets, searches, replies and grades."""
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    kept = ("splits", "basis", "adapters", "sets", "searches", "predictions")
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if (name := path.relative_to(folder / "data").as_posix()).startswith(kept)
        and path.name not in ("cells.json", "manifest.json", ".gitignore")  # which list what is there
    }


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_is_its_rows_and_only_what_it_adds_is_made(own: Path, name: str) -> None:
    addition, expected = ADDITIONS[name]
    before = made(own)
    add(own, addition)
    touched = run(own, "git", "status", "--porcelain").stdout.split()[1::2]
    output = run(own, "dvc", "repro").stdout
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    after = made(own)
    print(f"{name} | {', '.join(touched)} | {', '.join(ran)} | {len(after.keys() - before.keys())} files more")
    assert touched == ["params.yaml"]
    assert {stage for stage in ran if not stage.startswith(BEHIND)} == expected
    assert {path: after.get(path) for path in before} == before
    assert after.keys() > before.keys()
    assert json.loads(run(own, "dvc", "status", "--json").stdout) == {}


def test_a_task_that_dispatch_names_changes_its_split_alone(own: Path) -> None:
    def a_trained_task(params: Rows) -> None:
        reward = {**params["tasks"]["reasoning"]["reward"], "kind": "math"}
        source = {"layout": "miniature", "family": "math"}
        params["tasks"]["math"] = {**params["tasks"]["reasoning"], "family": "math", "source": source, "reward": reward}
        params["tasks"]["dispatch"]["source"]["tasks"].append("math")

    before = made(own)
    add(own, a_trained_task)
    run(own, "dvc", "repro", "-q", "-s", "split")
    after = made(own)
    changed = {path.split("/")[1] for path in before if after.get(path) != before[path]}
    assert changed == {"dispatch"}
    assert {path.split("/")[1] for path in after.keys() - before.keys()} == {"math"}
