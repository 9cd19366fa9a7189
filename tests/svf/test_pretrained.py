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
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from svf.models import TARGETS, make_model
from t2.svf import SvfConfig
from t2.svf.pretrained import load_adapter, load_config, load_model, load_tokenizer

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
from t2.engine.chat import load_tokenizer
from t2.engine.hf import load_base
from t2.plan.shapes import architecture
from t2.stages.basis import adapted_weights
from t2.svf.pretrained import load_config, load_model, load_processor

base = config.load().bases["main"].model_copy(update={"path": sys.argv[1]})
for load in (
    lambda: load_config(base.path),
    lambda: load_tokenizer(base.path),
    lambda: load_model(base.path),
    lambda: load_processor(base.path),
    lambda: load_base(base.path, "float32"),
    lambda: architecture(base),
    lambda: adapted_weights(base, "cpu"),
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
        "processor_config.json": {"processor_class": "Seeing", "auto_map": {"AutoProcessor": "code.Seeing"}},
    }.items():
        held = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
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
    assert len(said) == 7
    assert all(line.startswith(f"{hostile} needs code of its own") for line in said)


@pytest.mark.parametrize("folder", ["t2", "flows"])
def test_one_module_loads_what_transformers_and_peft_offer(folder: str) -> None:
    """Elsewhere somebody would forget to say that no code is to be run; who reads a GGUF file says it."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADING
        if path.relative_to(ROOT).as_posix() != "t2/svf/pretrained.py"
        if not {"gguf_file", "trust_remote_code"} <= {keyword.arg for keyword in node.keywords}
    ]
    assert not found


def save_adapter(folder: Path, method: str) -> Path:
    """An adapter of the tiny model; returns its file of tensors."""
    config = SvfConfig(target_modules=TARGETS, init_std=0.1) if method == "svf" else LoraConfig(target_modules=TARGETS)
    get_peft_model(make_model(), config).save_pretrained(folder)
    return folder / "adapter_model.safetensors"


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_an_adapter_loads_whole_or_not_at_all(method: str, model: LlamaForCausalLM, tmp_path: Path) -> None:
    file = save_adapter(tmp_path, method)
    tensors = load_file(file)
    assert not load_adapter(model, tmp_path).training
    first = next(iter(tensors))
    changes = [
        # What is named differently, PEFT leaves out without a word.
        {key.replace(".mlp.", ".feed_forward."): tensor for key, tensor in tensors.items()},
        {key: tensor for key, tensor in tensors.items() if key != first},
        tensors | {first: tensors[first] * float("nan")},
    ]
    said = {"svf": ["checksum differs"] * 3, "lora": ["made for another model: it lacks"] * 2 + ["not finite in"]}
    for changed, message in zip(changes, said[method], strict=True):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load_adapter(make_model(), tmp_path)


def test_peft_itself_refuses_an_expert_of_other_modules_or_not_finite(tmp_path: Path) -> None:
    file = save_adapter(tmp_path, "svf")
    tensors = load_file(file)
    first = next(iter(tensors))
    save_file({key.replace("up_proj", "upper"): tensor for key, tensor in tensors.items()}, file)
    with pytest.raises(ValueError, match=r"do not adapt the same modules .*mlp\.up.* differ, of 6"):
        PeftModel.from_pretrained(make_model(), tmp_path)
    save_file(tensors | {first: tensors[first] * float("nan")}, file)
    with pytest.raises(ValueError, match="not finite"):
        PeftModel.from_pretrained(make_model(), tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("model.safetensors", b""),
        ("config.json", None),
        ("generation_config.json", b"[]"),
        ("tokenizer.json", None),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n"),
        ("tokenizer_config.json", b"\xff\xfe{"),
    ],
)
def test_a_damaged_model_folder_is_refused_by_the_name_of_the_file(
    file: str, content: bytes | None, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2] if content is None else content)
    loaders = {"t": (load_tokenizer,), "c": (load_config, load_model)}.get(file[0], (load_model,))
    for load in loaders:
        with pytest.raises(ValueError) as caught:
            load(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / file} ") and "\n" not in str(caught.value)
