"""Every stage runs on a base in 8 and in 4 bits, and its experts are of that base."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from typer.testing import CliRunner

from t2 import cli
from t2.engine.hf import load_base
from t2.svf import BasisCache, load_expert
from t2.svf.quantised import layer_weight
from tests.small_pipeline import ROOT, copy_project, run, small

pytestmark = pytest.mark.slow
if importlib.util.find_spec("bitsandbytes") is None:
    pytest.skip(
        "bitsandbytes is not installed; `pip install -e '.[quantised]'`, then "
        "`pytest -m slow tests/stages/test_quantised_pipeline.py`",
        allow_module_level=True,
    )


class Finished(NamedTuple):
    project: Path
    kind: Any


@pytest.fixture(scope="module", params=["int8", "nf4"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    params = small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    params["bases"]["main"]["quantisation"] = request.param
    project = copy_project(tmp_path_factory.mktemp(request.param) / "project", params)
    run(project, "dvc", "repro", "-q")
    return Finished(project, request.param)


def test_every_system_is_scored(finished: Finished) -> None:
    with open(finished.project / "reports" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} >= {"base", "svf", "lora"}
    assert {row["strategy"] for row in rows} >= {"none", "own", "prompt", "classifier", "uniform", "fewshot"}
    assert all(row["n"] in ("12", "8") for row in rows if row["suite"] in ("trained", "unseen"))


def test_basis_and_experts_are_of_the_quantised_weights(finished: Finished) -> None:
    cache = BasisCache.open(finished.project / "data" / "basis" / "main")
    model, _ = load_base(ROOT / "data" / "miniature" / "base", "float32", quantisation=finished.kind)
    for name in cache:
        weight = layer_weight(model.get_submodule(name))
        expected = torch.linalg.svdvals(weight.double())
        torch.testing.assert_close(cache.load(name, weight).sigma.double(), expected, rtol=1e-5, atol=1e-6)
    folder = finished.project / "data" / "adapters" / "svf-reasoning" / "seed-0"
    expert = load_expert(folder)
    assert expert.provenance["basis_fingerprint"] == cache.fingerprint
    assert expert.provenance["quantisation"] == finished.kind
    with open(folder / "history.csv") as file:
        assert all(float(row["grad_norm"]) > 0 for row in list(csv.DictReader(file))[1:])


def test_the_command_line_knows_the_quantised_base(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.project)
    runner = CliRunner()
    asked = runner.invoke(cli.app, ["ask", "What is 3+4?", "--max-new-tokens", "8"])
    assert asked.exit_code == 0, asked.output
    merged = runner.invoke(cli.app, ["expert", "export", "svf-reasoning", "--out", "merged"])
    assert merged.exit_code != 0 and not Path("merged").exists()
    lora = runner.invoke(cli.app, ["expert", "export", "svf-reasoning", "--format", "lora", "--out", "lora"])
    assert lora.exit_code == 0, lora.output
    assert Path("lora/adapter_model.safetensors").is_file()
