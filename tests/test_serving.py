"""The model that MLflow serves is the two-pass system, and its server answers many clients and any request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from finished_project import ALPHA, ROOT, finish_project
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.pyfunc import PythonModelContext
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from scoring import Post, posting, refusal, register, serve, texts, tracking_as_before

from t2 import config
from t2.adaptation.spec import Settings
from t2.adaptation.system import TwoPassSystem
from t2.serving import SIGNATURE, TwoPassModel, log_two_pass

PROMPTS = ["Tom has 3 apples.", "How many?"]
CLIENTS = 8


@pytest.fixture(scope="module", autouse=True)
def tracking_of_its_own() -> Iterator[None]:
    with tracking_as_before():
        yield


@pytest.fixture
def settings(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(finish_project(tmp_path, tiny_folder))
    return settings_here()


def settings_here() -> Settings:
    return Settings.of(config.load(), ["classifier", "prompt", "fewshot"], Path("data/basis/main"))


def files() -> tuple[dict[str, Path], dict[str, Path]]:
    adapters = {name: Path(f"data/adapters/{name}/seed-1") for name in (*ALPHA, "classifier")}
    return adapters, {"math_hard": Path("data/searches/math_hard/seed-1/draw-0/alpha.json")}


@pytest.mark.parametrize(
    "given",
    [None, {"system": "prompt", "max_new_tokens": 5}, {"system": "fewshot", "task": "math_hard"}],
    ids=["defaults", "prompt", "fewshot"],
)
def test_the_served_model_answers_as_the_system_does(settings: Settings, given: dict[str, object] | None) -> None:
    adapters, search_results = files()
    artifacts = {
        **{f"adapter.{name}": str(folder) for name, folder in adapters.items()},
        **{f"search.{search}": str(path) for search, path in search_results.items()},
    }
    model = TwoPassModel()
    model.load_context(PythonModelContext(artifacts, asdict(settings)))
    served = model.predict(PythonModelContext(artifacts, {}), pd.DataFrame({"prompt": PROMPTS}), given)
    assert list(served.columns) == SIGNATURE.outputs.input_names()

    outcome = TwoPassSystem(settings, adapters, search_results).answer(PROMPTS, **(given or {}))
    assert served["text"].tolist() == [reply.text for reply in outcome.generations]
    assert served["category"].tolist() == [category or "" for category in outcome.choice.categories]
    mixtures = [str(outcome.choice.mixtures[row]) for row in outcome.choice.rows]
    assert served["mixture"].tolist() == mixtures
    if given and given["system"] == "fewshot":
        assert set(mixtures) == {"svf-code=-0.23333333,svf-math=0.8666667,svf-reasoning=0.36666667"}


def test_what_the_system_lacks_is_said(settings: Settings) -> None:
    system = TwoPassSystem(settings, *files())
    with pytest.raises(ValueError, match="system is 'guess'; allowed: classifier, fewshot, prompt"):
        system.answer(PROMPTS, "guess")
    with pytest.raises(ValueError, match="needs the task whose mix answers, got 'x'; there is one for code_hard"):
        system.answer(PROMPTS, "fewshot", "x")
    with pytest.raises(ValueError, match="'prompt' has none of; name system fewshot"):
        system.answer(PROMPTS, "prompt", "math_hard")


@pytest.fixture(scope="module")
def published(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose two-pass system is logged and registered in the store ``mlflow.db``."""
    folder = finish_project(tmp_path_factory.mktemp("published"), tiny_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register(folder, settings_here(), *files())
    return folder


@pytest.mark.parametrize(
    ("store", "call"),
    [
        (TrackingStore, "create_logged_model"),
        (TrackingStore, "finalize_logged_model"),
        (RegistryStore, "create_model_version"),
    ],
)
def test_a_killed_publication_is_continued_and_registers_once(
    store: type, call: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finish_project(tmp_path, tiny_folder))
    settings, (adapters, search_results) = settings_here(), files()
    client = MlflowClient(uri := f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("tests", artifact_location=(tmp_path / "mlartifacts").as_uri())
    run = client.create_run(experiment).info.run_id

    def publish() -> None:
        log_two_pass(run, uri=uri, name="two-pass", adapters=adapters, search_results=search_results, settings=settings)

    if (pid := os.fork()) == 0:
        method = getattr(store, call)

        def killed(*arguments: Any, **options: Any) -> None:
            method(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        try:
            setattr(store, call, killed)
            publish()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    for _ in range(2):
        publish()
        (version,) = client.search_model_versions("name='two-pass'")
        (logged,) = client.search_logged_models([experiment])
        assert (version.run_id, logged.status) == (run, LoggedModelStatus.READY)


@pytest.fixture(scope="module")
def post(published: Path) -> Post:
    """To MLflow's scoring server over the registered model, in this process."""
    return serve(published)


def records(*prompts: object, **params: object) -> dict[str, Any]:
    return {"dataframe_records": [{"prompt": prompt} for prompt in prompts], "params": params}


def ask_from_many(post: Post, seconds: float) -> int:
    """Clients ask until the time is over, each for its own prompts; how many answers came, all of them the same."""
    ways: list[dict[str, object]] = [{"system": "fewshot", "task": "math_hard"}, {"system": "prompt"}, {}]
    asked = [
        records(f"Tom has {client} apples.", "How many?", max_new_tokens=4, **ways[client % len(ways)])
        for client in range(CLIENTS)
    ]
    alone = [texts(post(request)) for request in asked]
    end = time.monotonic() + seconds

    def client(number: int) -> int:
        answers = 0
        while time.monotonic() < end:
            assert texts(post(asked[number])) == alone[number]
            answers += 1
        return answers

    with ThreadPoolExecutor(CLIENTS) as clients:
        counts = list(clients.map(client, range(CLIENTS)))
    assert all(counts), counts
    return sum(counts)


def test_requests_of_many_clients_queue(post: Post) -> None:
    assert ask_from_many(post, seconds=3) >= CLIENTS


@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "inputs", "instances"])
@pytest.mark.parametrize("value", [None, 3, 0.5, True, ["How many?"], {"a": 1}], ids=repr)
def test_what_is_no_prompt_is_refused_in_every_form_of_request(post: Post, form: str, value: object) -> None:
    beside = [] if form == "instances" and value is not None else [["How many?", value]]  # NumPy has made it text there
    for row, prompts in enumerate([[value], *beside]):
        rows = [{"prompt": prompt} for prompt in prompts]
        split = {"columns": ["prompt"], "data": [[prompt] for prompt in prompts]}
        said = refusal(post({form: split if form == "dataframe_split" else rows}))
        assert f"prompt {row} is " in said
        assert "dataframe_records" in said


def test_what_is_no_unicode_text_is_refused(post: Post) -> None:
    assert "surrogates not allowed" in refusal(post(records("\ud800")))


@pytest.mark.parametrize("image", ["iVBORw0KGgo=", ["no base64"], 3], ids=str)
def test_a_base_of_text_is_shown_nothing(post: Post, image: object) -> None:
    said = refusal(post({"dataframe_records": [{"prompt": "How many?"}, {"prompt": "How many?", "image": image}]}))
    assert (
        "prompt 1 shows an image, and the base model reads text alone; leave `image` out, or ask a model that" in said
    )
    assert texts(post({"dataframe_records": [{"prompt": "How many?", "image": None}]})) == texts(
        post(records("How many?"))
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"dataframe_records": [{"question": "How many?"}]},
        {"dataframe_records": []},
        {"dataframe_split": {"columns": [], "data": []}},
        {"inputs": 3},
    ],
    ids=str,
)
def test_a_request_without_prompts_is_refused(post: Post, request_: dict[str, Any]) -> None:
    assert "no prompt" in refusal(post(request_))


@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_prompts_as_texts_alone_are_refused_with_the_form_that_is_read(post: Post, form: str) -> None:
    said = refusal(post({form: PROMPTS}))
    assert "dataframe_records" in said
    assert len(texts(post({form: [{"prompt": prompt} for prompt in PROMPTS]}))) == 2


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"system": "guess"}, "system is 'guess'; allowed: classifier, fewshot, prompt"),
        ({"system": "fewshot", "task": "x"}, "needs the task whose mix answers, got 'x'; there is one for"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1; it must be at least 1"),
        ({"max_new_tokens": "five"}, "max_new_tokens"),
    ],
)
def test_an_error_in_the_parameters_reaches_the_client_in_its_own_words(
    post: Post, params: dict[str, Any], words: str
) -> None:
    assert words in refusal(post(records("How many?", **params)))


def test_a_prompt_that_is_too_long_is_refused_by_its_number(post: Post) -> None:
    long = "Tom has 3 apples. " * 100
    said = refusal(post(records("How many?", long, max_new_tokens=5)))
    assert "prompt 1 has" in said
    assert "prompt 0" not in said
    assert "max_new_tokens" in refusal(post(records("How many?", max_new_tokens=10**6)))


def test_what_was_cut_is_told_apart_from_what_ended(post: Post) -> None:
    prompts = [f"Tom has {n} apples." for n in range(40)]
    rows = post(records(*prompts, max_new_tokens=20)).json()["predictions"]
    cut = [row["finished"] for row in rows]
    assert set(cut) == {True, False}
    longer = post(records(*prompts, max_new_tokens=60)).json()["predictions"]
    for row, more in zip(rows, longer, strict=True):
        assert (row["text"] == more["text"]) == row["finished"]


@pytest.fixture
def serving(published: Path) -> Iterator[str]:
    """The address of ``mlflow models serve``, as the README starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{published}/mlflow.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = ["mlflow", "models", "serve", "-m", "models:/two-pass/1", "--env-manager", "local", "-p", str(port)]
    with (published / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=published, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(240):
            assert process.poll() is None, (published / "serve.log").read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_eight_clients_of_a_real_server_lose_nothing_in_a_minute(serving: str) -> None:
    with httpx.Client(timeout=60) as client:
        post = posting(client, serving)
        answers = ask_from_many(post, seconds=60)
        assert "prompt 0 is null" in refusal(post(records(None)))
    print(f"{answers} answers")
