"""Every stage that generates runs with vLLM in place of transformers, in both of its ways."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml

from tests.engine.vllm_setting import MISSING, WAYS
from tests.small_pipeline import ROOT, copy_project, run, small

pytestmark = pytest.mark.slow
if importlib.util.find_spec("vllm") is None:
    pytest.skip(MISSING, allow_module_level=True)


def scores(folder: Path, name: str, way: str) -> list[dict[str, str]]:
    """The score table of a small pipeline under an engine."""
    params = small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    params["engine"]["name"] = name
    params["engine"]["vllm"] |= {"experts": way, "kv_cache_gb": 0.1}
    run(copy_project(folder, params), "dvc", "repro", "-q")
    with open(folder / "reports" / "scores.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def of_transformers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    return scores(tmp_path_factory.mktemp("hf") / "project", "hf", "folded")


@pytest.mark.parametrize("way", WAYS)
def test_the_pipeline_runs_and_scores_the_base_as_transformers_does(
    way: str, of_transformers: list[dict[str, str]], tmp_path: Path
) -> None:
    found = scores(tmp_path / "project", "vllm", way)
    keys = ("base", "suite", "task", "method", "strategy", "variant", "seed", "n")
    assert [[row[key] for key in keys] for row in found] == [[row[key] for key in keys] for row in of_transformers]
    assert [row for row in found if row["method"] == "base"] == [
        row for row in of_transformers if row["method"] == "base"
    ]
