"""Mixtures under the names of vLLM's server, without the server."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from t2 import config
from t2.adaptation.spec import Settings
from t2.adaptation.system import TwoPassSystem
from t2.cli.selection import Base, select
from t2.stages import paths
from t2.svf.experts import Z
from tests.engine.vllm_setting import MISSING
from tests.finished_project import ALPHA, finish_project, write_found

if importlib.util.find_spec("vllm") is None:
    pytest.skip(MISSING, allow_module_level=True)

TASKS = ("math", "code", "reasoning")


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish_project(tmp_path_factory.mktemp("project"), tiny_folder)


class Engine:
    """Notes what it is asked for; vLLM's is not needed to make files."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def add_lora(self, request) -> None:
        assert (Path(request.lora_path) / "adapter_config.json").is_file()
        self.loaded.append(request.lora_name)

    async def is_sleeping(self) -> bool:
        return False


async def opened(monkeypatch: pytest.MonkeyPatch, **environment: str):
    from t2.engine.vllm_svf.served import ServedExperts

    named = ",".join(f"{task}=data/adapters/svf-{task}/seed-1" for task in TASKS)
    for name, value in {"T2_SVF_BASIS": "data/basis/main", "T2_SVF_EXPERTS": named, **environment}.items():
        monkeypatch.setenv(name, value)
    served = ServedExperts.from_environment()
    await served.open(SimpleNamespace(engine_client=Engine(), lora_requests={}))
    return served


def z_less_one(request) -> Z:
    """As the slot's file has it."""
    tensors = load_file(Path(request.lora_path) / "adapter_model.safetensors")
    name = "base_model.model.{}.lora_A.weight"
    modules = json.loads((Path(request.lora_path) / "adapter_config.json").read_text())["target_modules"]
    return {module: tensors[name.format(module)][0] for module in modules}


@pytest.mark.parametrize("form", ["normalised", "free"])
def test_a_found_alpha_is_the_same_z_by_name_in_ask_and_in_export(form, finished, tmp_path, monkeypatch):
    for name in ("base", "params.yaml", "data/adapters", "data/sets", "data/basis"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(finished / name)
    for search in ("math_hard", "code_hard", "reasoning_hard"):
        write_found(tmp_path, search, ALPHA, form)
    monkeypatch.chdir(tmp_path)

    exported = select([], "math_hard", Base()).expert.z
    system = TwoPassSystem(
        Settings.of(config.load(), ["fewshot"], paths.basis("main")),
        {f"svf-{task}": paths.adapter(f"svf-{task}", 1) for task in TASKS},
        {"math_hard": paths.search("math_hard", 1, 0) / "alpha.json"},
    )
    asked = []
    generate = system._engine.generate
    monkeypatch.setattr(
        system._engine, "generate", lambda *args, **given: asked.append(given["experts"]) or generate(*args, **given)
    )
    system.answer(["How many?"], "fewshot", "math_hard", 2)

    async def served_z() -> Z:
        served = await opened(monkeypatch, T2_SVF_FORM=form)
        return z_less_one(served["svf:" + ",".join(f"{task}={ALPHA[f'svf-{task}']!r}" for task in TASKS)])

    found = asyncio.run(served_z())
    assert found.keys() == exported.keys() == asked[0].keys()
    for name, less_one in found.items():
        assert torch.equal(exported[name], asked[0][name][0])
        # The server mixes first and rescales then; the others weigh by what comes out, which rounds otherwise.
        torch.testing.assert_close(less_one, exported[name] - 1, rtol=0, atol=1e-6)
    assert max(less_one.abs().max() for less_one in found.values()) > 0.01


def test_spellings_share_one_adapter_and_mixes_go_when_nobody_needs_them(finished, monkeypatch):
    from t2.engine.vllm_svf import served as module

    monkeypatch.chdir(finished)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.01)

    async def run() -> None:
        served = await opened(monkeypatch, T2_SVF_MIXES="2")
        alone = [f"svf:{task}" for task in TASKS]
        assert list(served) == served._engine.loaded == alone
        assert served["svf:math=1.00"] is served["svf:math"]
        one = served["svf:math=0.3,code=0.7"]
        assert served["svf:code=7e-1,math=.30"] is one and one.lora_name == "svf:code=0.7,math=0.3"
        # Other members, the same z: one folder, which stays for the one that is left.
        twin = served["svf:math=0.3,code=0.7,base=0"]
        assert (twin.lora_path, twin.lora_int_id) == (
            one.lora_path,
            one.lora_int_id,
        ) and twin.lora_name != one.lora_name
        path = Path(one.lora_path)
        for n in range(2, 9):
            assert f"svf:math=0.{n},base=0.{10 - n}" in served
        assert list(served) == [*alone, "svf:math=0.7,base=0.3", "svf:math=0.8,base=0.2"]
        del twin
        await settled(served)
        assert path.is_dir() and len(list(path.parent.iterdir())) == 6
        # Asked for again while it waits to be removed, it stays.
        del one
        gc.collect()
        again = served["svf:math=0.3,code=0.7"]
        await settled(served)
        assert path.is_dir() and Path(again.lora_path) == path
        assert list(served)[3:] == ["svf:math=0.8,base=0.2", "svf:code=0.7,math=0.3"]
        assert len(list(path.parent.iterdir())) == 5
        # Both adapters of a folder go at once.
        twin = served["svf:math=0.3,code=0.7,base=0"]
        assert [served[f"svf:math=0.{n},base=0.{10 - n}"].lora_name for n in (1, 2)] == list(served)[3:]
        del again, twin
        await settled(served)
        assert not path.exists() and len(list(path.parent.iterdir())) == 5

    async def settled(served) -> None:
        gc.collect()
        await asyncio.sleep(0.05)
        while served._removals:
            await asyncio.gather(*served._removals)

    asyncio.run(run())
