"""vLLM in a process of its own, and behind its OpenAI server: the plugin is found by its entry point alone."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from t2.engine.base import Sampling
from t2.svf import Expert, Mixture, save_expert, stack
from t2.svf.cache import BasisCache
from tests.engine.vllm_setting import (
    LONG,
    MINIATURE,
    MISSING,
    PROMPTS,
    TARGETS,
    WAYS,
    Setting,
    damaged,
    make_setting,
    tokens,
    write_biased_llama,
)

pytestmark = pytest.mark.slow
if importlib.util.find_spec("vllm") is None:
    pytest.skip(MISSING, allow_module_level=True)


@pytest.mark.parametrize("way", WAYS)
def test_in_a_process_of_its_own(way, tiny_tokenizer, tmp_path):
    setting = make_setting(write_biased_llama(tmp_path / "model", tiny_tokenizer), tmp_path / "basis")
    engine = setting.vllm(way, slots=2, own_process=True)
    experts, prompts = setting.experts(4), [*PROMPTS, *LONG]
    rows = [n % 5 - 1 for n in range(len(prompts))]
    before = engine.generate(prompts, Sampling(20))
    for sampling in (Sampling(20), Sampling(20, temperature=1.0, seed=2), Sampling(20)):
        found = engine.generate(prompts, sampling, experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(prompts, sampling, experts=experts, rows=rows))
    assert tokens(engine.generate(prompts, Sampling(20))) == tokens(before)


@pytest.mark.parametrize("key_value_heads", [2, 1])
def test_spread_over_two_workers(key_value_heads, tiny_tokenizer, tmp_path):
    """Each holds half of every matrix; of a single key-value head, both hold the whole."""
    folder = write_biased_llama(tmp_path / "model", tiny_tokenizer, key_value_heads)
    setting = make_setting(folder, tmp_path / "basis")
    engine = setting.vllm("folded", tensor_parallel=2)
    experts, prompts = setting.experts(2), [*PROMPTS, *LONG]
    before = engine.generate(prompts, Sampling(20))
    with damaged(setting.basis), pytest.raises(RuntimeError, match=r"could not be pushed .* is damaged"):
        engine.generate(prompts, Sampling(20), experts=experts, rows=[0] * len(prompts))
    rows = [n % 3 - 1 for n in range(len(prompts))]
    for sampling in (Sampling(20), Sampling(20, temperature=1.0, seed=2), Sampling(20)):
        found = engine.generate(prompts, sampling, experts=experts, rows=rows)
        assert tokens(found) == tokens(setting.hf.generate(prompts, sampling, experts=experts, rows=rows))
    assert tokens(engine.generate(prompts, Sampling(20))) == tokens(before)
    assert tokens(before) == tokens(setting.hf.generate(prompts, Sampling(20), experts={}, rows=[-1] * len(prompts)))


def test_an_engine_without_the_plugin_is_refused(tmp_path):
    make_setting(MINIATURE, tmp_path / "basis")
    start = (
        "from tests.engine.vllm_setting import *; from t2.engine.vllm.engine import VllmEngine; "
        f"VllmEngine(MINIATURE, vllm_settings(), basis={str(tmp_path / 'basis')!r})"
    )
    environment = {**os.environ, "VLLM_PLUGINS": "none"}
    run = subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, text=True)
    assert run.returncode != 0
    assert "RuntimeError: vLLM took an expert for a true LoRA" in run.stderr


@contextmanager
def serving(folder: Path, log: Path, *, kv_cache: int = 2**27, **environment: str) -> Iterator[str]:
    """The address of vLLM's server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(kv_cache)]
    command += ["--enable-lora", "--max-lora-rank", "1", "--max-loras", "4", "--lora-target-modules", *TARGETS]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with open(log, "w") as file:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet, **environment}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 900
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def ask(address: str, model: str, prompt: str) -> tuple[int, ...]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 20,
        "temperature": 0,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return tuple(json.load(reply)["choices"][0]["token_ids"])


def refused(address: str, model: str) -> tuple[int, str]:
    """Status and message of a request that gets no reply."""
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(address, model, PROMPTS[0])
    return error.value.code, json.load(error.value)["error"]["message"]


def at_once(address: str, models: Iterable[str], prompt: str) -> list[tuple[int, ...] | int]:
    """Replies of simultaneous requests; the status of those that get none."""

    def one(model: str) -> tuple[int, ...] | int:
        try:
            return ask(address, model, prompt)
        except urllib.error.HTTPError as error:
            return error.code

    models = list(models)
    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(one, models))


def listed(address: str) -> list[str]:
    with urllib.request.urlopen(f"{address}/v1/models", timeout=30) as reply:
        return [model["id"] for model in json.load(reply)["data"]]


NAMES = ("math", "code")


@dataclass(frozen=True)
class Served:
    """What a server serves, and its environment."""

    setting: Setting
    experts: dict[str, dict[str, Tensor]]
    environment: dict[str, str]

    def reply(self, mixture: Mixture | None, prompt: str) -> tuple[int, ...]:
        """Of the transformers engine."""
        z = None if mixture is None else mixture.z(self.experts, self.setting.hf.model.sigmas())
        table = {} if z is None else stack([z])
        (reply,) = self.setting.hf.generate([prompt], Sampling(20), experts=table, rows=[-1 if z is None else 0])
        return reply.tokens


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    folder = tmp_path_factory.mktemp("served")
    setting = make_setting(MINIATURE, folder / "basis")
    drawn = setting.experts(2)
    experts = {name: {module: table[row] for module, table in drawn.items()} for row, name in enumerate(NAMES)}
    provenance = {"basis_fingerprint": BasisCache.open(setting.basis).fingerprint}
    for name, z in experts.items():
        save_expert(Expert(z, provenance), folder / name)
    named = ",".join(f"{name}={folder / name}" for name in experts)
    return Served(setting, experts, {"T2_SVF_BASIS": str(setting.basis), "T2_SVF_EXPERTS": named})


CLEAN = ["base", "svf:math", "svf:code", "svf:math=0.3,code=0.7"]
MIX = Mixture({"math": 0.3, "code": 0.7})


def test_the_openai_server_knows_experts_and_mixes_by_name(served, tmp_path):
    wanted = {
        "base": None,
        "svf:math": Mixture({"math": 1}),
        "svf:code=1.0": Mixture({"code": 1}),
        "svf:base": Mixture({"base": 1}),
        "svf:math=0.3,code=0.7": MIX,
        "svf:base=0.5,code=0.1,math=0.1": Mixture({"math": 0.1, "code": 0.1, "base": 0.5}),
    }
    with serving(served.setting.folder, tmp_path / "log", **served.environment) as address:
        assert listed(address) == ["base", "svf:math", "svf:code"]
        for _ in range(2):
            for model, mixture in wanted.items():
                assert ask(address, model, PROMPTS[0]) == served.reply(mixture, PROMPTS[0]), model
        assert refused(address, "math")[0] == 404
        code, message = refused(address, "svf:nobody=0.5,math=0.5")
        assert code == 404 and "'nobody'" in message and "svf:math, svf:code" in message
        for model, said in {
            "svf:": "cannot be a member",
            "svf:math=much": "no NAME=WEIGHT",
            "svf:math=nan,code=1": "no finite number",
            "svf:math,math": "stands twice",
            "svf:math=0.5": "half an expert is math=0.5,base=0.5",
            "svf:math=1e39,code=1": "no finite number in float32",
            "svf:math=1e20,code=1": "its largest weight is 1e+20; T2_SVF_MAX_WEIGHT allows 10",
        }.items():
            code, message = refused(address, model)
            assert code == 400 and said in message, (model, message)


def spellings() -> list[str]:
    """24 ways to write one expert."""
    return [
        f"svf:math={sign}{zeros}1{point}"
        for sign in ("", "+")
        for zeros in ("", "0", "00")
        for point in ("", ".0", ".00", "e0")
    ]


def test_no_client_ends_the_server_or_changes_the_replies_of_others(served, tmp_path):
    assert len(set(spellings())) == 24
    with serving(served.setting.folder, tmp_path / "log", kv_cache=3 * 2**20, **served.environment) as address:
        prompts = [*PROMPTS[:9], LONG[0]]
        clean = {(model, prompt): ask(address, model, prompt) for model in CLEAN for prompt in prompts}
        assert len(clean) == 40 and len(set(clean.values())) > 8
        for prompt in PROMPTS[9:]:
            assert at_once(address, spellings(), prompt) == [served.reply(Mixture({"math": 1}), prompt)] * 24
        hostile = ["svf:math=1e39", "svf:math=1e20", "svf:math=-1e20,code=1", "svf:math=1e38,code=1e38"]
        assert at_once(address, hostile * 6, LONG[1]) == [400] * 24
        assert {key: ask(address, *key) for key in clean} == clean
        assert listed(address) == ["base", "svf:math", "svf:code", "svf:code=0.7,math=0.3"]


def test_a_request_whose_logits_are_not_finite_ends_alone_and_leaves_nothing(served, tmp_path):
    """As hostile weights would, were they allowed; the cache is so small that its blocks are used again at once."""
    environment = served.environment | {"T2_SVF_MAX_WEIGHT": "1e30"}
    with serving(served.setting.folder, tmp_path / "log", kv_cache=3 * 2**20, **environment) as address:
        prompts = [*PROMPTS[:9], LONG[0]]
        clean = {(model, prompt): ask(address, model, prompt) for model in CLEAN for prompt in prompts}
        mixed = at_once(address, [*CLEAN, "svf:math=1e20,code=-1e20"] * 4, LONG[0])
        assert mixed == [*(clean[model, LONG[0]] for model in CLEAN), 500] * 4
        assert {key: ask(address, *key) for key in clean} == clean


def test_mixes_are_bounded_in_the_list_and_on_disk(served, tmp_path):
    environment = served.environment | {"T2_SVF_MIXES": "3", "TMPDIR": str(tmp_path)}
    with serving(served.setting.folder, tmp_path / "log", **environment) as address:
        mixes = [f"svf:code={1 - n / 10:.1f},math={n / 10:.1f}" for n in range(1, 10)]
        for mix in mixes:
            ask(address, mix, PROMPTS[0])
        ask(address, mixes[-3], PROMPTS[1])
        assert listed(address) == ["base", "svf:math", "svf:code", *mixes[-2:], mixes[-3]]
        ask(address, mixes[0], PROMPTS[0])
        assert listed(address)[3:] == [mixes[-1], mixes[-3], mixes[0]]
        # More at once than the server remembers: those on their way keep their files.
        replies = at_once(address, mixes * 2, LONG[0])
        assert replies == [served.reply(Mixture.parse(mix.removeprefix("svf:")), LONG[0]) for mix in mixes] * 2
        deadline = time.monotonic() + 60
        while len(slots := list(tmp_path.glob("t2-served-*/*"))) > 5 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert len(slots) == 5 and len(listed(address)) == 6


@pytest.mark.parametrize("form", ["free", "unscaled"])
def test_the_server_mixes_in_the_form_that_it_is_told(form, served, tmp_path):
    mixture = Mixture({"math": 0.5, "code": -0.2, "base": 0.4}, "free", renormalise=form == "free")
    environment = served.environment | {"T2_SVF_FORM": "free", "T2_SVF_RENORMALISE": str(form == "free").lower()}
    with serving(served.setting.folder, tmp_path / "log", **environment) as address:
        assert ask(address, f"svf:{mixture}", PROMPTS[0]) == served.reply(mixture, PROMPTS[0])
        assert ask(address, "svf:math", PROMPTS[0]) == served.reply(Mixture({"math": 1}), PROMPTS[0])
        if form == "free":
            code, message = refused(address, "svf:math=-1,code=-1")
            assert code == 400 and "Σσz' <= 0" in message


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"T2_SVF_FORM": "mixed"}, "T2_SVF_FORM is 'mixed'; it must be normalised or free"),
        ({"T2_SVF_RENORMALISE": "no"}, "T2_SVF_RENORMALISE is 'no'; it must be true or false"),
        ({"T2_SVF_MAX_WEIGHT": "inf"}, "T2_SVF_MAX_WEIGHT is 'inf'; it must be a number above 0"),
        ({"T2_SVF_MIXES": "-1"}, "T2_SVF_MIXES is '-1'; it must be a number of mixes, 1 or more"),
        ({"T2_SVF_EXPERTS": "math"}, "T2_SVF_EXPERTS is 'math'; it must be name=folder"),
        ({"T2_SVF_EXPERTS": "math=nowhere"}, "nowhere is no adapter folder"),
    ],
)
def test_the_server_refuses_a_wrong_environment(environment, message, served, monkeypatch):
    from t2.engine.vllm_svf.served import ServedExperts

    for name, value in (served.environment | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        ServedExperts.from_environment()


def test_no_expert_is_called_base(served, monkeypatch):
    from t2.engine.vllm_svf.served import ServedExperts

    monkeypatch.setenv("T2_SVF_BASIS", served.environment["T2_SVF_BASIS"])
    monkeypatch.setenv("T2_SVF_EXPERTS", served.environment["T2_SVF_EXPERTS"].replace("math=", "base=", 1))
    with pytest.raises(ValueError, match="'base' is the base model's name in a mix"):
        ServedExperts.from_environment()


def test_the_server_refuses_an_expert_of_other_weights(served, tmp_path):
    save_expert(Expert(served.experts["math"], {"basis_fingerprint": "0" * 64}), tmp_path / "math")
    environment = served.environment | {"T2_SVF_EXPERTS": f"math={tmp_path / 'math'}"}
    with (
        pytest.raises(AssertionError, match="was made for other base weights"),
        serving(served.setting.folder, tmp_path / "log", **environment),
    ):
        pytest.fail("the server started")
