"""``t2 ask`` on a finished project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from t2.adaptation.dispatch import dispatch
from t2.cli import main
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine
from t2.svf import SvfConfig, attach, load_expert, mix, stack

ROOT = Path(__file__).parents[2]
PROMPT = "Tom has 3 apples and buys 4 more. How many?"


@pytest.fixture
def engine(project: Path) -> HfEngine:
    config = SvfConfig(target_modules=list(load_expert("data/experts/math/seed-0").z))
    model = AutoModelForCausalLM.from_pretrained("base")
    return HfEngine(attach(model, config), AutoTokenizer.from_pretrained("base"), batch_size=8)


def reply(engine: HfEngine, z: dict[str, torch.Tensor]) -> str:
    return engine.generate([PROMPT], Sampling(12), experts=stack([z]), rows=[0])[0].text


def test_a_found_mix_answers_and_is_named(engine: HfEngine, t2) -> None:
    arguments = ("ask", PROMPT, "--strategy", "fewshot", "--task", "math_hard", "--max-new-tokens", 12)
    answer = json.loads(t2(*arguments, "--json").stdout)
    experts = [load_expert(f"data/experts/{name}/seed-0").z for name in ("math", "code", "reasoning")]
    assert answer["text"] == reply(engine, mix(experts, torch.tensor([0.9, -0.2, 0.4])))
    assert answer["alpha"] == {"math/seed-0": 0.9, "code/seed-0": -0.2, "reasoning/seed-0": 0.4}
    assert answer["expert"] is None and "math_hard" in answer["why"]
    spoken = t2(*arguments)
    assert spoken.stdout == answer["text"] + "\n"
    assert "a mix, math/seed-0=0.9 code/seed-0=-0.2 reasoning/seed-0=0.4: few-shot search found it" in spoken.stderr


@pytest.mark.parametrize("strategy", ["classifier", "prompt"])
def test_the_first_pass_decides_who_answers(engine: HfEngine, strategy: str, t2) -> None:
    """An untrained model names no category, and the base answers."""
    answer = json.loads(t2("ask", PROMPT, "--strategy", strategy, "--max-new-tokens", 12, "--json").stdout)
    classifier = load_expert("data/classifier/seed-0").z if strategy == "classifier" else None
    categories = ["math", "code", "reasoning", "other"]
    assert dispatch(engine, [PROMPT], categories, max_new_tokens=4, classifier=classifier) == ["other"]
    assert (answer["expert"], answer["alpha"], answer["strategy"]) == ("base", None, strategy)
    assert ("classifier expert" if strategy == "classifier" else "base model") in answer["why"]
    assert answer["text"] == engine.generate([PROMPT], Sampling(12), experts={}, rows=[-1])[0].text


def test_a_named_category_is_answered_by_its_best_seed(engine: HfEngine, t2, monkeypatch) -> None:
    """The first pass is scripted: no model of a test names categories."""
    monkeypatch.setattr("t2.adaptation.two_pass.dispatch", lambda engine, prompts, *_, **__: ["math"] * len(prompts))
    spoken = t2("ask", PROMPT, "--max-new-tokens", 12)
    assert spoken.stdout == reply(engine, load_expert("data/experts/math/seed-1").z) + "\n"
    assert spoken.stderr.startswith("— math/seed-1: the classifier expert called the prompt math (")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "fewshot"], "no --task is named"),
        (["--strategy", "fewshot", "--task", "code_hard"], "'code_hard'; there is one for math_hard"),
        (["--task", "math_hard"], "add it"),
        (["--max-new-tokens", "250"], "leaves no room for 250 of a reply"),
    ],
)
def test_what_is_refused_is_said_in_one_line(project: Path, arguments: list[str], message: str, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["t2", "ask", PROMPT, *arguments])
    with pytest.raises(SystemExit, match=f"^t2: .*{message}"):
        main()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "t2.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_an_argument_that_is_no_unicode_text_is_refused_in_one_line(project: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["t2", "ask", os.fsdecode(b"caf\xe9")])
    with pytest.raises(SystemExit, match=r"^t2: no Unicode text: half a surrogate pair, U\+DCE9, behind 'caf'"):
        main()


def test_a_project_without_experts_says_what_to_do(project: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "ask", "Hello?")
    assert done.returncode == 1 and done.stderr.startswith("t2: params.yaml is not a valid configuration")
    assert "run from the project's root" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "params.yaml").symlink_to(project / "params.yaml")
    done = run(tmp_path, "ask", "Hello?")
    assert done.returncode == 1 and done.stderr.startswith("t2: there is no expert 'math'")
    assert "`make repro` trains them" in done.stderr


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; import t2.cli; print({'torch', 'transformers', 'mlflow', 'pandas'} & sys.modules.keys())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    start = time.perf_counter()
    done = run(tmp_path, "--help")
    assert done.returncode == 0 and "ask" in done.stdout and "expert" in done.stdout
    assert time.perf_counter() - start < 5
