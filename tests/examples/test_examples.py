"""Each page of examples/ runs as it is written, on the miniature."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2.svf import load_expert, save_expert
from t2.svf.experts import Expert

ROOT = Path(__file__).parents[2]
NO_TRL = "TRL is not installed; `pip install -e '.[examples]'`"
NO_VLLM = "vLLM is not installed; `make test-vllm` runs these tests in an environment of their own"

pytestmark = pytest.mark.slow
with_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason=NO_TRL)
with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=NO_VLLM)


def run(script: str, *arguments: object) -> str:
    """What an example prints."""
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    paths = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def change(printed: str) -> tuple[float, float]:
    before, after = re.findall(r"(-?\d+\.\d+) -> (-?\d+\.\d+)", printed)[0]
    return float(before), float(after)


def test_trainer_trains_resumes_and_leaves_an_expert(tmp_path: Path) -> None:
    before, after = change(run("train_with_trainer.py", "--out", tmp_path, "--steps", 9))
    assert after < before
    expert = load_expert(tmp_path)
    assert expert.provenance["task"] == "math" and any((z != 1).any() for z in expert.z.values())
    run("train_with_trainer.py", "--out", tmp_path, "--steps", 12, "--resume")
    assert (tmp_path / "checkpoint-12").is_dir()


@with_trl
def test_sft_leaves_an_expert(tmp_path: Path) -> None:
    before, after = change(run("sft_with_trl.py", "--out", tmp_path, "--steps", 9))
    assert after < before
    assert load_expert(tmp_path).provenance["task"] == "math"


@with_trl
def test_grpo_raises_the_reward_and_leaves_an_expert(tmp_path: Path) -> None:
    before, after = change(run("grpo_with_trl.py", "--out", tmp_path))
    assert after > before
    assert load_expert(tmp_path).provenance["task"] == "math"


@with_vllm
def test_vllm_serves_experts_and_their_mixture_in_one_batch(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]
    for seed, task in enumerate(("one", "two")):
        generator = torch.Generator().manual_seed(seed)
        z = {name: 1 + 0.1 * torch.randn(128, generator=generator) for name in names}
        save_expert(Expert(z, {"task": task}), tmp_path / task)
    printed = run("serve_with_vllm.py", tmp_path / "one", tmp_path / "two", "--basis", tmp_path / "basis")
    lines = [line for line in printed.splitlines() if line.startswith(("base: ", str(tmp_path), "mixture: "))]
    assert len(lines) == 4 and all(line.partition(": ")[2].strip() for line in lines)
