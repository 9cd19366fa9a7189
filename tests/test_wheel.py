"""What ``pip install .`` brings by itself: SVF for PEFT, with nothing but torch, transformers, PEFT and safetensors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

TRAINS = """
import sys, torch
import t2.svf
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1,
)
model = get_peft_model(LlamaForCausalLM(config), t2.svf.SvfConfig(target_modules=["q_proj", "down_proj"]))
optimiser = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.1)
tokens, losses = torch.randint(0, 64, (4, 12)), []
for _ in range(3):
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    losses.append(loss.item())
assert losses[2] < losses[0], losses
print("unwanted:", sorted({"mlflow", "prefect", "dvc", "pandas", "pydantic", "typer"} & set(sys.modules)))
"""


def run(*command: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command that sees installed packages only."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=kept, check=how.pop("check", True), text=True, **how)


def required(name: str, seen: dict[str, Distribution]) -> dict[str, Distribution]:
    """A distribution and all that it needs here, by name; extras are not wanted."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key not in seen:
        try:
            seen[key] = distribution(name)
        except PackageNotFoundError:  # of another platform, or torch's CUDA libraries
            return seen
        for text in seen[key].requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required(requirement.name, seen)
    return seen


def tops(found: Distribution) -> Iterator[Path]:
    """What a distribution has put into site-packages: its packages, modules and metadata."""
    for file in found.files or []:
        if file.parts[0] not in ("..", "__pycache__"):
            yield Path(str(found.locate_file(file.parts[0])))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it requires, as it is installed here, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    source = folder / "source"
    source.mkdir()
    for name in ("t2", "flows", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    wheel = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    run(sys.executable, "-m", "pip", *wheel)
    venv.create(folder / "env", with_pip=True)
    (built,) = folder.glob("transformer_squared-*.whl")
    python = folder / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", built)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (own,) = site.glob("transformer_squared-*.dist-info")
    named = [Requirement(text) for text in Distribution.at(own).requires or []]
    seen: dict[str, Distribution] = {}
    for requirement in named:
        if requirement.marker is None:
            required(requirement.name, seen)
    for found in seen.values():
        for path in tops(found):
            if not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    return folder / "env"


def test_svf_trains_where_nothing_else_is_installed(bare: Path, tmp_path: Path) -> None:
    done = run(bare / "bin/python", "-c", TRAINS, cwd=tmp_path, capture_output=True)
    assert done.stdout.splitlines()[-1] == "unwanted: []"


def test_the_command_says_which_extra_it_needs(bare: Path, tmp_path: Path) -> None:
    done = run(bare / "bin/t2", "ask", "What is 3+4?", cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"t2: \w+ is not installed; .*transformer-squared\[pipeline\]'`\n", done.stderr)
