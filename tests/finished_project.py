"""A small finished project: any model as the base, untrained experts, the classifier expert and a found mix."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from torch import Tensor

from t2.svf import Expert, build_cache, checkpoint_weights, save_expert

ROOT = Path(__file__).parents[1]
SCORES = {"math": [0.5, 0.75, 0.75], "code": [0.6], "reasoning": [0.4]}
"""Validation scores by task and seed."""
ALPHA = {"math": 0.9, "code": -0.2, "reasoning": 0.4}


def finish_project(folder: Path, base: Path) -> Path:
    """Writes what `make repro` leaves behind, as far as commands and serving read it."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["base"] = {"name": "tiny", "path": "base", "revision": None, "dtype": "float32"}
    params["classifier"]["max_new_tokens"] = 4
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "base").symlink_to(base)
    data = folder / "data"
    weights = dict(checkpoint_weights(base, params["svf"]["target_modules"]))
    fingerprint = build_cache(weights, data / "basis" / "tiny").fingerprint
    for task, scores in SCORES.items():
        for seed, score in enumerate(scores):
            out = data / "experts" / task / f"seed-{seed}"
            save_expert(_expert(weights, fingerprint, task, seed), out)
            rows = ["step,valid_score,chosen", "0,0.1,False", "5,,False", f"10,{score},True"]
            (out / "history.csv").write_text("\n".join(rows) + "\n")
    save_expert(_expert(weights, fingerprint, "classifier", 0), data / "classifier" / "seed-0")
    draw = data / "adaptation" / "math_hard" / "draw-0"
    draw.mkdir(parents=True)
    (draw / "alpha.json").write_text(json.dumps({"alpha": ALPHA, "expert_seed": 0}))
    return folder


def _expert(weights: dict[str, Tensor], fingerprint: str, task: str, seed: int) -> Expert:
    generator = torch.Generator().manual_seed(sum(map(ord, task)) + seed)
    z = {name: 1 + 0.3 * torch.randn(min(w.shape), generator=generator) for name, w in weights.items()}
    known = {"base_model_name_or_path": "base", "basis": "data/basis/tiny", "basis_fingerprint": fingerprint}
    return Expert(z, {**known, "task": task, "seed": seed})
