"""What MLflow keeps and gives back: experts as PEFT models, the two-pass system as a model that answers.

The file is also the code of the logged model ("models from code"): MLflow executes it to serve, and nothing is
pickled. It executes it to log as well, which needs no model: torch, PEFT and transformers are imported where one is
loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when MLflow copies artifacts; bars of milliseconds only fill the log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from t2.adaptation.spec import Settings
from t2.config.rows import Vision
from t2.request import read_prompts

if TYPE_CHECKING:
    from peft import PeftModel

    from t2.engine.base import Generation

_ADAPTER, _SEARCH = "adapter.", "search."

SIGNATURE = ModelSignature(
    # MLflow would write null and numbers as texts in a string column, and answers 500 where a required one is missing;
    # in a binary column it refuses null and drops what is no base64.
    inputs=Schema([ColSpec(AnyType(), "prompt", required=False), ColSpec(AnyType(), "image", required=False)]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "text"),
            ColSpec(DataType.boolean, "finished"),
            ColSpec(DataType.string, "category"),
            ColSpec(DataType.string, "mixture"),
            ColSpec(DataType.double, "first_seconds"),
            ColSpec(DataType.double, "second_seconds"),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("system", DataType.string, ""),
            ParamSpec("task", DataType.string, ""),
            ParamSpec("max_new_tokens", DataType.long, 0),
        ]
    ),
)
"""A prompt in, a string, and the image that it shows, if any, as base64; out: the text, whether it came to its end or
was cut at ``max_new_tokens``, what the first pass called the prompt (empty without one), the mixture that it was
answered under, and the seconds of both passes."""


def load_registered(model: str, **options: Any) -> PeftModel:
    """A registered expert on its base model, ready to generate.

    Args:
        model: For example ``models:/svf-math@best`` or ``models:/svf-math/3``.
        **options: For ``from_pretrained`` of the base model, such as ``dtype``.

    Returns:
        The base model that the expert names (a local path is relative to the working directory), adapted.
    """
    from t2.svf.pretrained import load_adapted

    return load_adapted(mlflow.artifacts.download_artifacts(model), **options)


def log_two_pass(
    run_id: str,
    *,
    uri: str,
    name: str,
    adapters: Mapping[str, Path],
    search_results: Mapping[str, Path],
    settings: Settings,
) -> None:
    """Logs systems to a run and registers them as the next version of a model.

    A run that is continued after a kill registers once: what its earlier process had registered stays, what that
    had only logged is logged anew.

    Args:
        run_id: The run.
        uri: Its store.
        name: Of the registered model.
        adapters: The folder of each adapter, by its name.
        search_results: The outcome of each search, ``alpha.json``, by its name.
        settings: What the systems are and how they run; the model configuration.
    """
    files = {
        **{f"{_ADAPTER}{name}": str(folder) for name, folder in adapters.items()},
        **{f"{_SEARCH}{search}": str(path) for search, path in search_results.items()},
    }
    client = MlflowClient(uri)
    if client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        return
    experiment = client.get_run(run_id).info.experiment_id
    for unfinished in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(unfinished.model_id)
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
        mlflow.pyfunc.log_model(
            name=name,
            python_model=__file__,
            artifacts=files,
            model_config=asdict(settings),
            # No input example: MLflow would load the base model and answer it, and only warn where that fails.
            signature=SIGNATURE,
            registered_model_name=name,
            # Served from this environment (`--env-manager local`): the project is no package of an index.
            pip_requirements=[],
        )


class TwoPassModel(PythonModel):
    """:class:`t2.adaptation.system.TwoPassSystem` as MLflow serves it.

    Its :class:`~t2.adaptation.spec.Settings` are the model configuration. Base weights and basis are read from
    where they lie; the experts are part of the logged model. Requests of several clients queue.
    """

    def __init__(self) -> None:
        # The experts of a batch are a state of the one model.
        self._turn = threading.Lock()

    def load_context(self, context: PythonModelContext) -> None:
        """Loads base model and experts; MLflow calls this once."""
        from t2.adaptation.system import TwoPassSystem

        files = context.artifacts
        settings = Settings(**context.model_config)
        limits = settings.base.get("vision")
        self._limits = None if limits is None else Vision(**limits)
        self._system = TwoPassSystem(settings, _below(_ADAPTER, files), _below(_SEARCH, files))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers prompts, a row each; seconds are those of the whole request.

        Whatever a client can change is answered with status 400 and a sentence.

        Args:
            context: Unused.
            model_input: One row per prompt, see :func:`t2.request.read_prompts`.
            params: ``system`` is one of those that were published; empty: the first. One of few-shot search takes
                the mix that was found for ``task``. ``max_new_tokens`` bounds the reply; 0: as the project's tasks do.

        Raises:
            MlflowException: No prompts, a prompt that is no text or leaves no room for a reply, an image that cannot
                be shown, an unknown system, no mix for the task, or ``max_new_tokens`` below 0.
        """
        given = {parameter.name: parameter.default for parameter in SIGNATURE.params} | (params or {})
        try:
            longest = int(given["max_new_tokens"])
            with read_prompts(model_input, self._limits) as prompts, self._turn:
                outcome = self._system.answer(prompts, given["system"], given["task"], longest or None)
            _check_room(outcome.generations)
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(
            {
                "text": [reply.text for reply in outcome.generations],
                "finished": [reply.finished for reply in outcome.generations],
                "category": [category or "" for category in outcome.choice.categories],
                "mixture": [str(outcome.choice.mixtures[row]) for row in outcome.choice.rows],
                "first_seconds": outcome.first_seconds,
                "second_seconds": outcome.second_seconds,
            }
        )


def _check_room(replies: Sequence[Generation]) -> None:
    for row, reply in enumerate(replies):
        if reply.too_long:
            raise ValueError(
                f"prompt {row} has {reply.prompt_tokens} tokens and leaves no room for a reply; shorten it, or lower "
                "max_new_tokens"
            )


def _below(prefix: str, files: Mapping[str, str]) -> dict[str, Path]:
    return {name.removeprefix(prefix): Path(path) for name, path in files.items() if name.startswith(prefix)}


set_model(TwoPassModel())
