"""The model that MLflow serves is the two-pass system."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from finished_project import ALPHA, finish_project
from mlflow.pyfunc import PythonModelContext

from t2 import config
from t2.adaptation.system import Settings, TwoPassSystem
from t2.engine.base import Sampling
from t2.serving import SIGNATURE, TwoPassModel

PROMPTS = ["Tom has 3 apples.", "How many?"]


@pytest.fixture
def settings(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(finish_project(tmp_path, tiny_folder))
    return Settings.of(config.load(), Path("data/basis/tiny"))


def files() -> tuple[dict[str, Path], Path, dict[str, Path]]:
    experts = {task: Path(f"data/experts/{task}/seed-0") for task in ALPHA}
    return experts, Path("data/classifier/seed-0"), {"math_hard": Path("data/adaptation/math_hard/draw-0/alpha.json")}


@pytest.mark.parametrize(
    "given",
    [None, {"strategy": "prompt", "max_new_tokens": 5}, {"strategy": "fewshot", "task": "math_hard"}],
    ids=["defaults", "prompt", "fewshot"],
)
def test_the_served_model_answers_as_the_system_does(settings: Settings, given: dict[str, object] | None) -> None:
    experts, classifier, alphas = files()
    artifacts = {
        **{f"expert.{task}": str(folder) for task, folder in experts.items()},
        "classifier": str(classifier),
        **{f"alpha.{task}": str(path) for task, path in alphas.items()},
    }
    model = TwoPassModel()
    model.load_context(PythonModelContext(artifacts, asdict(settings)))
    served = model.predict(PythonModelContext(artifacts, {}), pd.DataFrame({"prompt": PROMPTS}), given)
    assert list(served.columns) == SIGNATURE.outputs.input_names()

    asked = {"strategy": "classifier", "task": "", "max_new_tokens": 64} | (given or {})
    system = TwoPassSystem(settings, experts, classifier, alphas)
    outcome = system.answer(PROMPTS, Sampling(asked["max_new_tokens"]), asked["strategy"], asked["task"])
    assert served["text"].tolist() == [reply.text for reply in outcome.generations]
    assert served["expert"].tolist() == outcome.categories
    assert (outcome.alpha == ALPHA) == (asked["strategy"] == "fewshot") == bool(served["alpha"][0])


def test_what_the_system_lacks_is_said(settings: Settings) -> None:
    experts, _, alphas = files()
    system = TwoPassSystem(settings, experts, alphas=alphas)
    with pytest.raises(ValueError, match=r"has no classifier expert; .* 'prompt'"):
        system.answer(PROMPTS, Sampling(4))
    with pytest.raises(ValueError, match="strategy is 'guess'; allowed: classifier, prompt, fewshot"):
        system.answer(PROMPTS, Sampling(4), "guess")
    with pytest.raises(ValueError, match="no α was searched for task 'x'; there is one for math_hard"):
        system.answer(PROMPTS, Sampling(4), "fewshot", "x")
