"""What MLflow keeps and gives back: experts as PEFT models, the two-pass system as a model that answers.

The file is also the code of the logged model ("models from code"): MLflow executes it to serve, and nothing is
pickled.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Read when MLflow copies artifacts; bars of milliseconds only fill the log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
import torch
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from peft import AutoPeftModelForCausalLM, PeftModel

from t2.adaptation.two_pass import generate_two_pass
from t2.engine.base import Generation, Sampling
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig, attach, base_expert, load_expert, mix, stack
from t2.svf.experts import Z

STRATEGIES = ("classifier", "prompt", "fewshot")
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
    return AutoPeftModelForCausalLM.from_pretrained(mlflow.artifacts.download_artifacts(model), **options)


def log_two_pass(
    run_id: str,
    *,
    uri: str,
    name: str,
    experts: Mapping[str, Path],
    classifier: Path,
    alphas: Mapping[str, Path],
    settings: Mapping[str, Any],
) -> None:
    """Logs the two-pass system to a run and registers it as the next version of a model.

    Args:
        run_id: The run.
        uri: Its store.
        name: Of the registered model.
        experts: Adapter folder of each expert, by task.
        classifier: That of the classifier expert.
        alphas: The outcome of a few-shot search, ``alpha.json``, by unseen task.
        settings: The model configuration, see :class:`TwoPassModel`.
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
            model_config=dict(settings),
            signature=SIGNATURE,
            input_example=pd.DataFrame({"prompt": ["What is 3+4?"]}),
            registered_model_name=name,
            # Served from this environment (`--env-manager local`): the project is no package of an index.
            pip_requirements=[],
        )


class TwoPassModel(PythonModel):
    """Answers prompts in two passes (paper, section 3.2).

    The model configuration says ``base``, ``revision``, ``dtype``, ``basis`` (a cache; None: computed when the
    model is loaded), ``families`` (by task), ``dispatch_tokens``, ``batch``, ``form`` and ``renormalise``. Base
    weights and basis are read from where they lie; the experts are part of the logged model.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Loads base model and experts; MLflow calls this once."""
        settings, files = context.model_config, context.artifacts
        folders = _below(_EXPERT, files)
        config = SvfConfig.from_pretrained(next(iter(folders.values())))
        config.basis = settings["basis"]
        model, tokenizer = load_base(settings["base"], settings["dtype"], settings["revision"])
        self._engine = HfEngine(attach(model, config), tokenizer, batch_size=settings["batch"])
        self._settings = settings
        self._experts: dict[str, Z] = {task: load_expert(folder).z for task, folder in folders.items()}
        self._classifier = load_expert(files[_CLASSIFIER]).z
        found = _below(_ALPHA, files).items()
        self._alphas = {task: json.loads(Path(path).read_text())["alpha"] for task, path in found}

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers the prompts of the column ``prompt``.

        Args:
            context: Unused.
            model_input: One row a prompt.
            params: ``strategy`` is ``classifier``, ``prompt`` or ``fewshot``; the latter takes the α that was
                found for ``task``. ``max_new_tokens`` bounds the reply.

        Raises:
            ValueError: An unknown strategy, or no α for the task.
        """
        given = params or {}
        strategy, task = given.get("strategy", "classifier"), given.get("task", "")
        prompts, sampling = list(model_input["prompt"]), Sampling(int(given.get("max_new_tokens", 64)))
        if strategy == "fewshot":
            return self._mixed(prompts, sampling, task)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is {strategy!r}; allowed: {', '.join(STRATEGIES)}")
        outcome = generate_two_pass(
            self._engine,
            prompts,
            sampling,
            {self._settings["families"][task]: z for task, z in self._experts.items()},
            dispatch_tokens=self._settings["dispatch_tokens"],
            classifier=self._classifier if strategy == "classifier" else None,
        )
        return _answers(outcome.generations, outcome.categories, "", outcome.first_seconds, outcome.second_seconds)

    def _mixed(self, prompts: list[str], sampling: Sampling, task: str) -> pd.DataFrame:
        if task not in self._alphas:
            raise ValueError(f"no α was searched for task {task!r}; there is one for {', '.join(self._alphas)}")
        found = self._alphas[task]
        experts = {**self._experts, "base": base_expert(next(iter(self._experts.values())))}
        start = time.perf_counter()
        alpha = torch.tensor(list(found.values())).movedim(0, -1)
        sigma = self._engine.model.sigmas() if self._settings["form"] == "free" else None
        z = mix([experts[name] for name in found], alpha, self._settings["form"], sigma, self._settings["renormalise"])
        between = time.perf_counter()
        replies = self._engine.generate(prompts, sampling, experts=stack([z]), rows=[0] * len(prompts))
        end = time.perf_counter()
        return _answers(replies, ["mix"] * len(prompts), json.dumps(found), between - start, end - between)


def _below(prefix: str, files: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(prefix): path for name, path in files.items() if name.startswith(prefix)}


def _answers(replies: list[Generation], experts: list[str], alpha: str, first: float, second: float) -> pd.DataFrame:
    """A row a prompt; seconds are those of the whole request."""
    return pd.DataFrame(
        {
            "text": [reply.text for reply in replies],
            "expert": experts,
            "alpha": alpha,
            "first_seconds": first,
            "second_seconds": second,
        }
    )


set_model(TwoPassModel())
