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


@pytest.mark.parametrize("way", WAYS)
def test_the_pipeline_runs_and_scores_the_base_as_transformers_does(way: str, tmp_path: Path) -> None:
    params = small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    bases = {}
    for name in ("hf", "vllm"):
        params["engine"]["name"] = name
        params["engine"]["vllm"] |= {"experts": way, "kv_cache_gb": 0.1}
        folder = copy_project(tmp_path / name, params)
        run(folder, "dvc", "repro", "-q")
        with open(folder / "reports" / "scores.csv") as file:
            rows = list(csv.DictReader(file))
        assert {row["strategy"] for row in rows} >= {"none", "own", "uniform", "fewshot", "prompt", "classifier"}
        bases[name] = [row for row in rows if row["method"] == "base"]
    assert bases["vllm"] == bases["hf"]
