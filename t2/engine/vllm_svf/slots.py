"""Experts in the form in which vLLM's adapter slots take them.

A slot is filled from a PEFT LoRA folder of rank 1, whose ``lora_A`` is z − 1 and whose ``lora_B`` is not a
number, so that an engine which takes it for a true LoRA cannot answer unseen.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG_KEY = "svf_basis"
"""Of vLLM's ``additional_config``: the folder of the basis cache."""
BASIS_VARIABLE = "T2_SVF_BASIS"
"""Of the environment: the same, for vLLM's server, which makes experts outside of its engine."""
EXPERTS_VARIABLE = "T2_SVF_EXPERTS"
"""Of the environment: the experts that the server may be asked for, as ``name=folder,name=folder``."""


def digest(z: Mapping[str, Tensor]) -> str:
    """The SHA-256, in hex, of z (r,) by module name; of no module: the base."""
    found = hashlib.sha256()
    for name in sorted(z):
        found.update(f"{name} {tuple(z[name].shape)}\n".encode())
        found.update(z[name].detach().to("cpu", torch.float32).contiguous().numpy().data)
    return found.hexdigest()


def slot_number(name: str) -> int:
    """The number of an adapter, by the :func:`digest` of its z: the same in all processes."""
    return int(name[:15], 16) + 1


def write_slot(z: Mapping[str, Tensor], parent: Path) -> Path:
    """Writes an expert below ``parent``, in a folder that its digest names, and returns that folder.

    vLLM caches prompts by an adapter's name and path, not by its values: a new z needs a new path. The folder is whole
    from its first moment and never written again, since vLLM's workers read it whenever they like.

    Raises:
        ValueError: z is not finite, in the float32 that it runs in.
    """
    if wrong := sorted(name for name, values in z.items() if not values.float().isfinite().all()):
        raise ValueError(f"z of {wrong[0]} is not finite in float32; use smaller weights, or another expert")
    folder = parent / digest(z)
    if folder.is_dir():
        return folder
    draft = Path(tempfile.mkdtemp(prefix=".", dir=parent))
    try:
        _write(z, draft)
        draft.rename(folder)
    except OSError:
        # Unless another thread was first, with the same content.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write(z: Mapping[str, Tensor], folder: Path) -> None:
    prefix = "base_model.model."
    tensors = {f"{prefix}{name}.lora_A.weight": (values.float() - 1)[None].cpu() for name, values in z.items()}
    tensors |= {f"{prefix}{name}.lora_B.weight": torch.full((1, 1), torch.nan) for name in z}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": sorted(z), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
