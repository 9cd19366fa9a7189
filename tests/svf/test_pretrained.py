"""Whatever lies in a model folder, it is read as data."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADING = {"from_pretrained", "from_config", "get_class_from_dynamic_module"}
MODULE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({mark!r}).touch()


class Config(LlamaConfig):
    model_type = "elsewhere"


class Model(LlamaForCausalLM):
    config_class = Config


class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
LOADERS = """
import sys

from t2 import config
from t2.config import Base
from t2.engine.chat import load_tokenizer
from t2.engine.hf import load_base
from t2.plan.shapes import architecture
from t2.stages.basis import adapted_weights
from t2.svf.pretrained import load_config, load_model

base = Base(name="x", path=sys.argv[1], revision=None, dtype="float32", quantisation=None)
for load in (
    lambda: load_config(base.path),
    lambda: load_tokenizer(base.path),
    lambda: load_model(base.path),
    lambda: load_base(base.path, "float32"),
    lambda: architecture(base),
    lambda: adapted_weights(config.load().svf, base, "cpu"),
):
    try:
        load()
        print("loaded")
    except ValueError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def hostile(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose configuration, model and tokenizer name classes in a file of its own."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "code.py").write_text(MODULE.format(mark=str(folder.parent / "ran")))
    for file, entries in {
        "config.json": {
            "model_type": "elsewhere",
            "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "Tokenizer",
            "auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]},
        },
    }.items():
        held = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(held | entries))
    return folder


def test_yes_on_standard_input_runs_no_code_of_a_model_folder(hostile: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADERS, str(hostile)],
        input="yes\n" * 100,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(hostile.parent / "modules")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (hostile.parent / "ran").exists()
    said = done.stdout.splitlines()
    assert len(said) == 6
    assert all(line.startswith(f"{hostile} needs code of its own") for line in said)


@pytest.mark.parametrize("folder", ["t2", "flows"])
def test_one_module_loads_what_transformers_and_peft_offer(folder: str) -> None:
    """Elsewhere somebody would forget to say that no code is to be run."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in LOADING
        if path.relative_to(ROOT).as_posix() != "t2/svf/pretrained.py"
    ]
    assert not found
