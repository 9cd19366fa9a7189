"""MLflow's scoring server over systems that are registered in a store of their own, in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server

from t2.adaptation.spec import Settings
from t2.serving import log_two_pass

Post = Callable[[dict[str, Any]], httpx.Response]
"""Sends a request as JSON."""


@contextmanager
def tracking_as_before() -> Iterator[None]:
    """Takes back the store that is named within: MLflow keeps it in the environment too."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(before)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def register(folder: Path, settings: Settings, adapters: dict[str, Path], search_results: dict[str, Path]) -> None:
    """Logs systems to the folder's store ``mlflow.db`` and registers them as ``two-pass``."""
    client = MlflowClient(uri := f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("tests", artifact_location=(folder / "mlartifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    log_two_pass(run, uri=uri, name="two-pass", adapters=adapters, search_results=search_results, settings=settings)


def serve(folder: Path) -> Post:
    """To the registered model."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return posting(TestClient(scoring_server.init(mlflow.pyfunc.load_model("models:/two-pass/1"))), "/invocations")


def posting(client: Any, address: str) -> Post:
    """By a client that is there."""
    headers = {"content-type": "application/json"}
    return lambda request: client.post(address, content=json.dumps(request), headers=headers)


def texts(response: httpx.Response) -> list[tuple[str, str]]:
    """The replies of a request that is answered, with their mixtures."""
    assert response.status_code == 200, response.text
    return [(row["text"], row["mixture"]) for row in response.json()["predictions"]]


def refusal(response: httpx.Response) -> str:
    """What is said to a request that the client has to mend."""
    assert response.status_code == 400, response.text
    said = response.json()
    assert "stack_trace" not in said, "an error that the client did not make"
    return str(said["message"])
