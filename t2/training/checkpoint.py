"""Training checkpoints on disk: one file, replaced as a whole, that only its own run may continue.

Tensors and everything else lie in a single safetensors file, the latter as JSON in its metadata, so that no
kill can part them. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from t2 import processor
from t2.files import replacing, temporary_name
from t2.svf.identity import checksum
from t2.svf.tensor_files import open_tensors

_FILE = "checkpoint.safetensors"


class Checkpoint(NamedTuple):
    """What a run needs to go on.

    Attributes:
        tensors: By name, on the CPU.
        record: Everything else, as JSON holds it.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def environment(device: torch.device) -> dict[str, str | int]:
    """What the bits of a result hang on beside its inputs: versions, threads and processor."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "threads": torch.get_num_threads(),
        "processor": processor.central(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def write(folder: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Replaces the folder's checkpoint; a kill at any moment leaves the old one or the new one, whole.

    Args:
        folder: Made if absent. One process at a time may write to it.
        checkpoint: What to store.
        identity: What a run must share with this one to continue it; plain JSON values.
    """
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    stored = {"identity": identity, "record": checkpoint.record, "checksum": checksum(tensors)}
    content = json.dumps(stored, sort_keys=True)
    # safetensors metadata of several keys have no fixed order, so the digest stands before the JSON.
    header = {"checkpoint": f"{_digest(content)} {content}"}
    with replacing(folder / _FILE) as temporary:
        save_file(tensors, temporary, header)


def read(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The folder's checkpoint, or None where there is none; an unfinished write is removed.

    Args:
        folder: Where :func:`write` put it.
        identity: As given to :func:`write`.

    Raises:
        ValueError: The checkpoint belongs to a run of another identity, or is damaged.
    """
    path = folder / _FILE
    temporary_name(path).unlink(missing_ok=True)
    if not path.exists():
        return None
    try:
        with open_tensors(path) as file:
            digest, _, content = file.metadata()["checkpoint"].partition(" ")
            # Copies: mapped from the file, they would not outlive its replacement.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        stored = json.loads(content)
        if digest != _digest(content) or stored["checksum"] != checksum(tensors):
            raise ValueError("its checksum differs")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {folder} to train anew") from None
    _check_identity(path, stored["identity"], json.loads(json.dumps(identity)))
    return Checkpoint(tensors, stored["record"])


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _check_identity(path: Path, stored: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    differing = sorted(name for name in stored.keys() | present.keys() if stored.get(name) != present.get(name))
    if not differing:
        return
    lines = [f"  {name}: {stored.get(name)!r} in the checkpoint, {present.get(name)!r} now" for name in differing]
    threads = "; for the threads, training.threads or torch.set_num_threads" if "threads" in differing else ""
    raise ValueError(
        f"{path} is of another run and cannot be continued bit for bit:\n"
        + "\n".join(lines)
        + f"\nBring back what the checkpoint says{threads}; or delete {path.parent} to train anew"
    )
