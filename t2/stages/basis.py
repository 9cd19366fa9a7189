"""Stage ``basis``: the narrow-side bases of every adapted matrix, for each base model."""

from __future__ import annotations

import shutil
from functools import partial

import torch

from t2.stages import paths
from t2.stages.progress import Progress
from t2.stages.stage import open_stage
from t2.svf import build_cache, checkpoint_weights
from t2.svf.checkpoint import checkpoint_folder


def main() -> None:
    """Builds each cache in scratch, where a killed build goes on at its next matrix, and moves it to its place."""
    with open_stage("basis") as stage:
        params = stage.params
        paths.BASIS.mkdir(parents=True, exist_ok=True)
        for base in filter(None, (params.base, params.control)):
            folder = checkpoint_folder(base.path, base.revision)
            weights = checkpoint_weights(folder, params.svf.target_modules, getattr(torch, base.dtype))
            progress = Progress(f"basis {base.name}", len(weights))
            with stage.timed(f"basis {base.name}"):
                cache = build_cache(weights, stage.scratch / base.name, partial(_advance, progress))
            stage.run.log_dataset(f"basis {base.name}", cache.fingerprint, len(weights))
            shutil.copytree(stage.scratch / base.name, paths.basis(base))


def _advance(progress: Progress, done: int, total: int, name: str) -> None:
    progress.advance(name)


if __name__ == "__main__":
    main()
