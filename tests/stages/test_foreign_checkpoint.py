"""All stages on a checkpoint that is not the miniature's, over real benchmark files, with each engine."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from peft import PeftModel

from t2 import profiles
from t2.engine import chat
from t2.engine.hf import load_base
from t2.svf import BasisCache, Expert, checkpoint_weights, load_expert
from t2.tasks.item import read_items
from tests.foreign_checkpoints import DATA, MISSING, write_mistral
from tests.small_pipeline import copy_project, run

CONTEXT = 320
"""Shorter than some prompts of HumanEval and longer than all of ARC."""
HUB_ID, COMMIT = "owner/foreign", "0123456789abcdef0123456789abcdef01234567"
RUNS: dict[str, dict[str, Any]] = {
    "hf": {},
    "hf-bfloat16-hub": {
        "bases.main.path": HUB_ID,
        "bases.main.revision": COMMIT,
        "bases.main.dtype": "bfloat16",
        "bases.main.files": "data/bases/README.md",
    },
    "vllm": {"engine.name": "vllm", "reading": "choice"},
    "vllm-folded": {"engine.name": "vllm", "engine.vllm.experts": "folded", "reading": "likelihood"},
}
"""What a run sets besides the few items: the base is named by its folder, or by its Hugging Face id and a commit."""
STRATEGIES = {"trained": {"own"}, "unseen": {"own", "fewshot"}}
SVF = ("svf-math", "svf-code", "svf-reasoning")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=MISSING)]


class Finished(NamedTuple):
    """A project whose pipeline has run on a foreign checkpoint."""

    project: Path
    params: dict[str, Any]
    checkpoint: Path

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.params["bases"]["main"]["dtype"])

    @property
    def scores(self) -> list[dict[str, str]]:
        with open(self.project / "reports" / "scores.csv") as file:
            return list(csv.DictReader(file))

    def tasks(self, *roles: str) -> dict[str, Any]:
        return {name: task for name, task in self.params["tasks"].items() if task["role"] in roles}

    def of_base(self, task: str) -> list[dict[str, Any]]:
        """The base model's replies to a task, graded."""
        predictions = self.project / "data" / "predictions"
        index = json.loads((predictions / "cells.json").read_text())
        (cell,) = (cell for cell in index if (cell["system"], cell["task"]) == ("base", task))
        replies = (predictions / "replies" / f"{cell['replies'][0]}.jsonl").read_text().split("\n")
        right = json.loads((predictions / "grades" / f"{cell['grades'][0]}.json").read_text())
        rows = [json.loads(line) for line in replies if line]
        return [row | {"correct": good} for row, good in zip(rows, right, strict=True)]


def few(path: Path, changed: dict[str, Any]) -> dict[str, Any]:
    """The profile ``real`` on a checkpoint, with a few items of GSM8K, MBPP+, HumanEval+ and ARC and few steps."""
    params = yaml.safe_load(profiles.compose("real"))
    params["bases"]["main"] |= {"label": "foreign", "path": str(path), "files": str(path)}
    params["bases"]["main"]["adapt"] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    del params["tasks"]["math500"]
    del params["searches"]["math500"]
    for rows in ("searches", "tasks"):
        params["systems"]["fewshot"][rows].remove("math500")
    for system in params["systems"].values():
        if isinstance(system["tasks"], list) and "math500" in system["tasks"]:
            system["tasks"].remove("math500")
    for task in params["tasks"].values():
        task["sizes"] = {
            "trained": {"train": 4, "valid": 4, "test": 6, "shots": 0},
            "unseen": {"train": 0, "valid": 0, "test": 6, "shots": 4},
            "dispatch": {"train": 4, "valid": 2, "test": 4, "shots": 0},
        }[task["role"]]
        if task["role"] != "dispatch":
            task["reward"]["max_new_tokens"] = 24
    params["training"] |= {"micro_batch": 2, "generation_batch": 8, "valid_every": 1, "checkpoint_every": 1}
    for recipe in params["recipes"].values():
        recipe["train"] |= {"steps": 2, "batch": 4}
    params["budgets"]["cem"] |= {"population": 4, "elite_share": 0.5, "generations": 2, "shots": 3, "draws": 1}
    params["search"]["batch"] = params["measure"]["batch"] = 8
    params["engine"]["vllm"] |= {"kv_cache_gb": 0.1}
    changed = dict(changed)
    reading = changed.pop("reading", "generation")
    for system in params["systems"].values():
        if "reading" in system:
            system["reading"] = reading
    for name, value in changed.items():
        *sections, key = name.split(".")
        reduce(getitem, sections, params)[key] = value
    return params


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Runs the pipeline as one of :data:`RUNS` says, once."""
    hub = tmp_path_factory.mktemp("hub")
    # As huggingface_hub keeps what it has fetched.
    checkpoint = write_mistral(hub / "models--owner--foreign" / "snapshots" / COMMIT, context=CONTEXT, answers=True)
    runs: dict[str, Finished] = {}

    def finish(name: str) -> Finished:
        if importlib.util.find_spec("vllm") is None and name.startswith("vllm"):
            pytest.skip("vLLM is not installed; `make test-vllm MARKS=` runs this test with it")
        if name not in runs:
            params = few(checkpoint, RUNS[name])
            project = copy_project(tmp_path_factory.mktemp(name) / "project", params)
            shutil.copytree(DATA, project / "data" / "sources", dirs_exist_ok=True)
            run(project, "dvc", "repro", "-q", HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
            runs[name] = Finished(project, params, checkpoint)
        return runs[name]

    return finish


@pytest.fixture(params=RUNS)
def ran(request: pytest.FixtureRequest, finished: Callable[[str], Finished]) -> Finished:
    return finished(request.param)


def test_every_task_is_scored_under_every_strategy(ran: Finished) -> None:
    rows = ran.scores
    assert {(row["base"], row["n"]) for row in rows} == {("foreign", "6")}
    assert all(float(row["score"]) == pytest.approx(int(row["correct"]) / 6, abs=1e-6) for row in rows)
    for suite, own in STRATEGIES.items():
        for task in ran.tasks(suite):
            found = {(row["method"], row["strategy"]) for row in rows if (row["suite"], row["task"]) == (suite, task)}
            assert {("base", "none"), *(("svf", strategy) for strategy in own)} <= found
            assert {strategy for _, strategy in found} >= {"prompt", "classifier", "uniform"}
    assert 0 < sum(row["correct"] for row in ran.of_base("arc_easy")) < 6
    report = (ran.project / "reports" / "report.md").read_text()
    assert all(task in report for task in ran.tasks("trained", "unseen"))


def test_the_basis_is_that_of_every_shard(ran: Finished) -> None:
    assert len(list(ran.checkpoint.glob("model-*.safetensors"))) > 1
    cache = BasisCache.open(ran.project / "data" / "basis" / "main")
    weights = checkpoint_weights(ran.checkpoint, ran.params["bases"]["main"]["adapt"], ran.dtype)
    assert len(weights) == 4 * 7
    assert set(cache) == set(weights)
    for name, weight in weights.items():
        basis = cache.load(name, weight)
        torch.testing.assert_close(
            basis.sigma.double(), torch.linalg.svdvals(weight.double()), rtol=1e-5, atol=1e-5, msg=name
        )


def test_prompts_without_room_in_the_context_are_counted(ran: Finished) -> None:
    tokenizer = chat.load_tokenizer(ran.checkpoint)
    counts = json.loads((ran.project / "reports" / "metrics.json").read_text())["too_long"]
    for task, declared in ran.tasks("trained", "unseen").items():
        items = read_items(ran.project / "data" / "splits" / task / "test.jsonl")
        lengths = [
            len(ids) + declared["reward"]["max_new_tokens"] for ids in chat.encode(tokenizer, [i.prompt for i in items])
        ]
        assert counts[task] == sum(length > CONTEXT for length in lengths)
        assert [row["too_long"] for row in ran.of_base(task)] == [length > CONTEXT for length in lengths]
    assert counts["humaneval"] > 0
    assert counts["arc_easy"] == 0


def test_experts_are_trained_and_saved_for_this_checkpoint(ran: Finished) -> None:
    cache = BasisCache.open(ran.project / "data" / "basis" / "main")
    for name in SVF:
        folder = ran.project / "data" / "adapters" / name / "seed-0"
        expert = load_expert(folder)
        assert expert.provenance["basis_fingerprint"] == cache.fingerprint
        assert expert.provenance["base_model_name_or_path"] == ran.params["bases"]["main"]["path"]
        assert expert.provenance.get("revision") == ran.params["bases"]["main"]["revision"]
        assert {name: len(z) for name, z in expert.z.items()} == {name: cache.rank(name) for name in cache}
        assert all(z.isfinite().all() for z in expert.z.values())
        with open(folder / "history.csv") as file:
            start, *steps = csv.DictReader(file)
        assert [row["step"] for row in steps] == ["1", "2"]
        assert all(float(row["grad_norm"]) > 0 for row in steps)
        # The best step on the validation items is kept, which may be the base itself.
        assert (start["chosen"] == "True") == is_base(expert)


def is_base(expert: Expert) -> bool:
    return all((z == 1).all() for z in expert.z.values())


def test_an_expert_loads_onto_the_checkpoint_with_peft(ran: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran.project)  # an expert names its basis cache relative to the project
    model, tokenizer = load_base(ran.checkpoint, ran.dtype)
    ids = torch.tensor(chat.encode(tokenizer, ["Which of these is a metal?"]))
    with torch.inference_mode():
        before = model(ids).logits
    adapted = PeftModel.from_pretrained(model, "data/adapters/svf-reasoning/seed-0").eval()
    with torch.inference_mode():
        after = adapted(ids).logits
    assert after.isfinite().all()
    assert torch.equal(before, after) == is_base(load_expert("data/adapters/svf-reasoning/seed-0"))


@pytest.mark.parametrize("name", ["vllm", "vllm-folded"])
def test_vllm_answers_as_transformers_does(name: str, finished: Callable[[str], Finished]) -> None:
    ours, theirs = finished(name), finished("hf")
    for task in ours.tasks("trained", "unseen"):
        assert ours.of_base(task) == theirs.of_base(task)
