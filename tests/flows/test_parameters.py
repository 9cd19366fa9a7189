"""Overrides in DVC's syntax: all problems at once, and params.yaml as it was where one is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from flows import parameters
from t2.config import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_override_is_written_and_the_rest_stays(folder: Path) -> None:
    before = yaml.safe_load((folder / "params.yaml").read_text())
    params = parameters.apply(["recipes.svf.train.lr=3e-3", "budgets.cem.shots=5"])
    after = yaml.safe_load((folder / "params.yaml").read_text())
    assert (params.recipes["svf"].train.lr, params.budgets["cem"].shots) == (3e-3, 5)
    before["recipes"]["svf"]["train"]["lr"], before["budgets"]["cem"]["shots"] = 3e-3, 5
    assert after == before
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("overrides", "error", "reason"),
    [
        (["recipes.svf.train.lr=-1", "training.micro_batch=many"], ConfigError, r"2 problem\(s\)"),
        (["recipes.nobody.lr=1"], parameters.OverrideError, "recipes.nobody.lr"),
        (["shots"], parameters.OverrideError, "name=value"),
    ],
)
def test_a_bad_override_changes_nothing(
    folder: Path, overrides: list[str], error: type[Exception], reason: str
) -> None:
    before = (folder / "params.yaml").read_bytes()
    with pytest.raises(error, match=reason):
        parameters.apply(overrides)
    assert (folder / "params.yaml").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]
