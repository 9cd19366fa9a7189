"""The parameter file of the bases that see."""

from __future__ import annotations

import pytest
import yaml

from t2.config import ConfigError
from t2.miniature.vision import settings


def problems_of(tmp_path, change):
    raw = yaml.safe_load(settings.PATH.read_text())
    change(raw)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        settings.load(path)
    return caught.value.problems


def test_the_shipped_file_is_valid():
    params = settings.load()
    assert set(params.bases) == {"base", "control"}
    assert min(sizes.test for sizes in params.benchmarks.sizes.values()) >= 500


def test_all_errors_at_once(tmp_path):
    def change(raw):
        raw["optimiser"]["steps"] = 0
        raw["corpus"]["carefull"] = raw["corpus"].pop("careful")
        raw["tower"]["optimiser"]["muon_lr"] = "fast"
        raw["look"]["noise"] = 200

    problems = problems_of(tmp_path, change)
    for place in ("optimiser.steps", "corpus.careful", "corpus.carefull", "tower.optimiser.muon_lr", "look.noise"):
        assert any(problem.startswith(f"{place}:") for problem in problems)


def test_what_does_not_go_together_is_named(tmp_path):
    def change(raw):
        del raw["corpus"]["families"]["legs"]
        raw["benchmarks"]["sizes"]["captions"] = raw["benchmarks"]["sizes"].pop("signs")
        raw["tower"]["patch"] = 8

    problems = problems_of(tmp_path, change)
    assert len(problems) == 3
    for place in ("corpus.families", "benchmarks.sizes", "tower.patch"):
        assert any(problem.startswith(f"{place}:") for problem in problems)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(ConfigError, match="project's root"):
        settings.load(tmp_path / "none.yaml")
