"""What MLflow keeps and gives back: experts as PEFT models, the two-pass system as a model that answers.

The file is also the code of the logged model ("models from code"): MLflow executes it to serve, and nothing is
pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Read when MLflow copies artifacts; bars of milliseconds only fill the log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from peft import PeftModel

from t2.adaptation.system import Settings, TwoPassSystem
from t2.engine.base import Sampling
from t2.svf.pretrained import load_adapted

_EXPERT, _ALPHA, _CLASSIFIER = "expert.", "alpha.", "classifier"

SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "prompt")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.string, "expert"),
            ColSpec(DataType.string, "alpha"),
            ColSpec(DataType.double, "first_seconds"),
            ColSpec(DataType.double, "second_seconds"),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("strategy", DataType.string, "classifier"),
            ParamSpec("task", DataType.string, ""),
            ParamSpec("max_new_tokens", DataType.long, 64),
        ]
    ),
)
"""A prompt in; the text, the expert or the α that it was answered under, and the seconds of both passes out."""


def load_registered(model: str, **options: Any) -> PeftModel:
    """A registered expert on its base model, ready to generate.

    Args:
        model: For example ``models:/experts-math@best`` or ``models:/experts-math/3``.
        **options: For ``from_pretrained`` of the base model, such as ``dtype``.

    Returns:
        The base model that the expert names (a local path is relative to the working directory), adapted.
    """
    return load_adapted(mlflow.artifacts.download_artifacts(model), **options)


def log_two_pass(
    run_id: str,
    *,
    uri: str,
    name: str,
    experts: Mapping[str, Path],
    classifier: Path,
    alphas: Mapping[str, Path],
    settings: Settings,
) -> None:
    """Logs the two-pass system to a run and registers it as the next version of a model.

    Args:
        run_id: The run.
        uri: Its store.
        name: Of the registered model.
        experts: Adapter folder of each expert, by task.
        classifier: That of the classifier expert.
        alphas: The outcome of a few-shot search, ``alpha.json``, by unseen task.
        settings: How the system runs; the model configuration.
    """
    files = {
        **{f"{_EXPERT}{task}": str(folder) for task, folder in experts.items()},
        _CLASSIFIER: str(classifier),
        **{f"{_ALPHA}{task}": str(path) for task, path in alphas.items()},
    }
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
        mlflow.pyfunc.log_model(
            name=name,
            python_model=__file__,
            artifacts=files,
            model_config=asdict(settings),
            signature=SIGNATURE,
            input_example=pd.DataFrame({"prompt": ["What is 3+4?"]}),
            registered_model_name=name,
            # Served from this environment (`--env-manager local`): the project is no package of an index.
            pip_requirements=[],
        )


class TwoPassModel(PythonModel):
    """:class:`t2.adaptation.system.TwoPassSystem` as MLflow serves it.

    Its :class:`~t2.adaptation.system.Settings` are the model configuration. Base weights and basis are read from
    where they lie; the experts are part of the logged model.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Loads base model and experts; MLflow calls this once."""
        files = context.artifacts
        self._system = TwoPassSystem(
            Settings(**context.model_config),
            _below(_EXPERT, files),
            Path(files[_CLASSIFIER]),
            _below(_ALPHA, files),
        )

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers the prompts of the column ``prompt``, a row each; seconds are those of the whole request.

        Args:
            context: Unused.
            model_input: One row a prompt.
            params: ``strategy`` is ``classifier``, ``prompt`` or ``fewshot``; the latter takes the α that was
                found for ``task``. ``max_new_tokens`` bounds the reply.

        Raises:
            ValueError: An unknown strategy, or no α for the task.
        """
        given = {parameter.name: parameter.default for parameter in SIGNATURE.params} | (params or {})
        sampling = Sampling(int(given["max_new_tokens"]))
        outcome = self._system.answer(list(model_input["prompt"]), sampling, given["strategy"], given["task"])
        return pd.DataFrame(
            {
                "text": [reply.text for reply in outcome.generations],
                "expert": outcome.categories,
                "alpha": "" if outcome.alpha is None else json.dumps(outcome.alpha),
                "first_seconds": outcome.first_seconds,
                "second_seconds": outcome.second_seconds,
            }
        )


def _below(prefix: str, files: Mapping[str, str]) -> dict[str, Path]:
    return {name.removeprefix(prefix): Path(path) for name, path in files.items() if name.startswith(prefix)}


set_model(TwoPassModel())
