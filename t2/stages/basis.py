"""Stage ``basis@<base>``: the narrow-side bases of every matrix of a base model that may be adapted.

Whoever depends on what it writes depends on the base: beside the bases lies a digest of all its files.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2.config.rows import Base
from t2.engine.device import find_device
from t2.files import replace_file
from t2.stages import paths
from t2.stages.progress import Progress
from t2.stages.stage import open_stage
from t2.svf import SvfConfig, build_cache, checkpoint_weights, layer_indices
from t2.svf.base_checkpoint import checkpoint_folder
from t2.svf.language import name_in_memory, names_alone, outside_language
from t2.svf.pretrained import empty_model, load_config
from t2.svf.targets import targeted_modules

MANIFEST = "base.json"
"""Beside a basis cache: the base that it was made of."""


def main(name: str) -> None:
    """Builds the cache in scratch, where a killed build goes on at its next matrix, and moves it to its place."""
    with open_stage(f"basis@{name}") as stage:
        base = stage.params.bases[name]
        device = find_device(stage.params.execution.device)
        weights = adapted_weights(base, device)
        alone = names_alone(_empty(base), weights)
        progress = Progress(stage.name, len(weights))
        folder = stage.scratch / "basis"
        cache = build_cache(weights, folder, partial(_advance, progress), device, alone)
        replace_file(folder / MANIFEST, manifest(base))
        stage.run.log_dataset(f"basis {name}", cache.fingerprint, len(weights))
        shutil.copytree(folder, paths.basis(name))


def adapted_weights(base: Base, device: str) -> Mapping[str, Tensor]:
    """The weights that may get a z, as the model will run with them: in its dtype, quantised where it is.

    Raises:
        ValueError: Not every name in ``adapt`` is that of layers which can be adapted.
    """
    folder, model = checkpoint_folder(base.path, base.revision), _empty(base)
    layers = layer_indices(base.layers, model.config.get_text_config().num_hidden_layers)
    elsewhere = outside_language(model)
    config = SvfConfig(target_modules=base.adapt, layers_to_transform=layers, exclude_modules=elsewhere)
    wanted = targeted_modules(model, config)
    dtype = getattr(torch, base.dtype)
    weights = checkpoint_weights(
        folder, base.adapt, dtype, layers, base.quantisation, device, elsewhere, name_in_memory(model)
    )
    if set(weights) != set(wanted):
        differing = sorted(set(weights) ^ set(wanted))
        raise ValueError(
            f"{folder} and the model that transformers makes of it hold different matrices: {differing[:3]} differ, of "
            f"{len(differing)}; save the model anew with save_pretrained, and name that folder"
        )
    return weights


def _empty(base: Base) -> PreTrainedModel:
    return empty_model(load_config(checkpoint_folder(base.path, base.revision)))


def manifest(base: Base) -> str:
    """Path, revision and the SHA-256 of each file of a base, as JSON; of a hub id, whose commit says all, no file."""
    folder = Path(base.path)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    digests = {path.relative_to(folder).as_posix(): _digest(path) for path in files}
    return json.dumps({"path": base.path, "revision": base.revision, "files": digests}, indent=1, sort_keys=True) + "\n"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        digest = sha256()
        while block := file.read(2**24):
            digest.update(block)
    return digest.hexdigest()


def _advance(progress: Progress, done: int, total: int, name: str) -> None:
    progress.advance(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
