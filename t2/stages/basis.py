"""Stage ``basis``: the narrow-side bases of every adapted matrix, for each base model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from t2.config import Base, Svf
from t2.engine.device import find_device
from t2.stages import paths
from t2.stages.progress import Progress
from t2.stages.stage import open_stage
from t2.svf import SvfConfig, build_cache, checkpoint_weights, layer_indices
from t2.svf.checkpoint import checkpoint_folder
from t2.svf.pretrained import empty_model, load_config
from t2.svf.targets import targeted_modules


def main() -> None:
    """Builds each cache in scratch, where a killed build goes on at its next matrix, and moves it to its place."""
    with open_stage("basis") as stage:
        params = stage.params
        paths.BASIS.mkdir(parents=True, exist_ok=True)
        for base in filter(None, (params.base, params.control)):
            device = find_device(params.execution.device)
            weights = adapted_weights(params.svf, base, device)
            progress = Progress(f"basis {base.name}", len(weights))
            with stage.timed(f"basis {base.name}"):
                folder = stage.scratch / base.name
                cache = build_cache(weights, folder, partial(_advance, progress), device)
            stage.run.log_dataset(f"basis {base.name}", cache.fingerprint, len(weights))
            shutil.copytree(stage.scratch / base.name, paths.basis(base))


def adapted_weights(svf: Svf, base: Base, device: str) -> Mapping[str, Tensor]:
    """The weights that get a z, as the model will run with them: in its dtype, quantised where it is.

    Raises:
        ValueError: Not every name in ``target_modules`` is that of layers which can be adapted.
    """
    folder = checkpoint_folder(base.path, base.revision)
    settings = load_config(folder)
    layers = layer_indices(svf.layers, settings.get_text_config().num_hidden_layers)
    model = empty_model(settings)
    wanted = targeted_modules(model, SvfConfig(target_modules=svf.target_modules, layers_to_transform=layers))
    dtype = getattr(torch, base.dtype)
    weights = checkpoint_weights(folder, svf.target_modules, dtype, layers, base.quantisation, device)
    if set(weights) != set(wanted):
        differing = sorted(set(weights) ^ set(wanted))
        raise ValueError(
            f"{folder} and the model that transformers makes of it hold different matrices: {differing[:3]} differ, of "
            f"{len(differing)}; save the model anew with save_pretrained, and name that folder"
        )
    return weights


def _advance(progress: Progress, done: int, total: int, name: str) -> None:
    progress.advance(name)


if __name__ == "__main__":
    main()
