"""Programs that run no model import none of the libraries that run models, which takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from finished_project import ALPHA, finish_project

HEAVY = ("accelerate", "peft", "sklearn", "sympy", "torch", "transformers")
LOADED = f"import sys; print(*sorted({set(HEAVY)} & sys.modules.keys()))"


def loaded(program: str, folder: Path | None = None) -> str:
    command = [sys.executable, "-c", f"{program}\n{LOADED}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("stage", ["split", "set", "score", "report", "publish"])
def test_a_program_without_a_model_imports_no_torch(stage: str) -> None:
    assert loaded(f"import t2.stages.{stage}") == ""


def test_a_program_with_a_model_does() -> None:
    assert "torch" in loaded("import t2.stages.basis").split()


@pytest.mark.parametrize(
    ("stage", "unwanted"), [("split", "PIL"), ("train", "transformers.models.auto.processing_auto")]
)
def test_text_waits_for_nothing_that_images_need(stage: str, unwanted: str) -> None:
    """Pillow itself comes with transformers, wherever that is."""
    program = f"import sys, t2.stages.{stage}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_systems_are_registered_without_torch(tiny_folder: Path, tmp_path: Path) -> None:
    """MLflow executes the model's code when it logs it, and with an input example would load the model."""
    project = finish_project(tmp_path, tiny_folder)
    program = f"""
from pathlib import Path
from mlflow import MlflowClient
from t2 import config
from t2.adaptation.spec import Settings
from t2.serving import log_two_pass
client = MlflowClient(uri := "sqlite:///mlflow.db")
run = client.create_run(client.create_experiment("tests", artifact_location=Path("mlartifacts").resolve().as_uri()))
settings = Settings.of(config.load(), ["classifier", "fewshot"], Path("data/basis/main"))
adapters = {{name: Path(f"data/adapters/{{name}}/seed-1") for name in {[*ALPHA, "classifier"]}}}
results = {{"math_hard": Path("data/searches/math_hard/seed-1/draw-0/alpha.json")}}
log_two_pass(run.info.run_id, uri=uri, name="two-pass", adapters=adapters, search_results=results, settings=settings)
assert client.get_model_version("two-pass", 1).status == "READY"
"""
    assert loaded(program, project) == ""
