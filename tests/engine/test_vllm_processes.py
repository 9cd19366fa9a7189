"""vLLM in a process of its own, and behind its OpenAI server: the plugin is found by its entry point alone."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from t2.engine.base import Sampling
from t2.svf import Expert, mix, save_expert, stack
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
def serving(folder: Path, log: Path, **environment: str) -> Iterator[str]:
    """The address of vLLM's server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", str(2**27)]
    command += ["--enable-lora", "--max-lora-rank", "1", "--max-loras", "4", "--lora-target-modules", *TARGETS]
    quiet = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with open(log, "w") as file:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet, **environment}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
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
        server.wait(60)


def ask(address: str, model: str, prompt: str) -> list[int]:
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
        return json.load(reply)["choices"][0]["token_ids"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    return make_setting(MINIATURE, tmp_path_factory.mktemp("served") / "basis")


def test_the_openai_server_knows_experts_and_mixes_by_name(setting, tmp_path):
    drawn = setting.experts(2)
    experts = {
        name: {module: table[row] for module, table in drawn.items()} for row, name in enumerate(("math", "code"))
    }
    provenance = {"basis_fingerprint": BasisCache.open(setting.basis).fingerprint}
    for name, z in experts.items():
        save_expert(Expert(z, provenance), tmp_path / name)
    mixed = mix(list(experts.values()), torch.tensor([0.3, 0.7]))
    tables = stack([*experts.values(), mixed])
    models = {"base": -1, "svf:math": 0, "svf:code": 1, "svf:math=0.3,code=0.7": 2}
    named = ",".join(f"{name}={tmp_path / name}" for name in experts)
    with serving(setting.folder, tmp_path / "log", T2_SVF_BASIS=str(setting.basis), T2_SVF_EXPERTS=named) as address:
        for _ in range(2):
            for model, row in models.items():
                (wanted,) = setting.hf.generate(PROMPTS[:1], Sampling(20), experts=tables, rows=[row])
                assert tuple(ask(address, model, PROMPTS[0])) == wanted.tokens, model
        for unknown in ("svf:nobody", "svf:math=much", "svf:math=nan", "svf:math,math", "math", "svf:"):
            with pytest.raises(urllib.error.HTTPError) as error:
                ask(address, unknown, PROMPTS[0])
            assert error.value.code == 404, unknown


def test_the_server_refuses_an_expert_of_other_weights(setting, tmp_path):
    z = {module: table[0] for module, table in setting.experts(1).items()}
    save_expert(Expert(z, {"basis_fingerprint": "0" * 64}), tmp_path / "math")
    with (
        pytest.raises(AssertionError, match="was made for other base weights"),
        serving(
            setting.folder,
            tmp_path / "log",
            T2_SVF_BASIS=str(setting.basis),
            T2_SVF_EXPERTS=f"math={tmp_path / 'math'}",
        ),
    ):
        pytest.fail("the server started")
