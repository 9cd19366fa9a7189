"""A small finished project: any model as base, untrained experts and classifier, a found mix and temperature."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from torch import Tensor

from t2.svf import Expert, build_cache, checkpoint_weights, save_expert

ROOT = Path(__file__).parents[1]
SEEDS = 3
SCORES = {
    "svf-math": [0.5, 0.75, 0.75],
    "svf-code": [0.6, 0.4, 0.5],
    "svf-reasoning": [0.4, 0.6, 0.3],
    "classifier": [0.9, 0.9, 0.9],
}
"""Validation scores by adapter and seed; together, the members of the set are best with seed 1."""
MEMBERS = ("svf-math", "svf-code", "svf-reasoning")
ALPHA = {"svf-math": 0.9, "svf-code": -0.2, "svf-reasoning": 0.4}
TEMPERATURE = 8.0


def finish_project(folder: Path, base: Path) -> Path:
    """Writes what `make repro` leaves behind, as far as commands and serving read it."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["bases"]["main"] |= {"label": "tiny", "path": "base", "files": "base"}
    params["tasks"]["dispatch"]["reward"]["max_new_tokens"] = 4
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "base").symlink_to(base)
    data = folder / "data"
    weights = dict(checkpoint_weights(base, params["bases"]["main"]["adapt"]))
    fingerprint = build_cache(weights, data / "basis" / "main").fingerprint
    for name, scores in SCORES.items():
        task = params["adapters"][name]["task"]
        for seed, score in enumerate(scores):
            out = data / "adapters" / name / f"seed-{seed}"
            save_expert(_expert(weights, fingerprint, task, seed), out)
            rows = ["step,valid_score,chosen", "0,0.1,False", "5,,False", f"10,{score},True"]
            (out / "history.csv").write_text("\n".join(rows) + "\n")
        about = {"name": name, "base": "main", "method": "svf", "task": task, "family": params["tasks"][task]["family"]}
        record = json.dumps(about | {"valid_scores": dict(enumerate(scores))})
        (data / "adapters" / name / "adapter.json").write_text(record)
    of_set = data / "sets" / "svf"
    of_set.mkdir(parents=True)
    (of_set / "members.json").write_text(json.dumps(MEMBERS))
    for name in MEMBERS:
        (of_set / name).symlink_to((data / "adapters" / name).resolve())
    write_found(folder, "math_hard", ALPHA)
    outcome = data / "searches" / "soft" / "seed-1" / "temperature.json"
    outcome.parent.mkdir(parents=True)
    outcome.write_text(json.dumps({"temperature": TEMPERATURE, "set": "svf", "seed": 1}))
    return folder


def write_found(folder: Path, search: str, alpha: dict[str, object], form: str = "normalised", seed: int = 1) -> None:
    """The outcome of a search."""
    draw = folder / "data" / "searches" / search / f"seed-{seed}" / "draw-0"
    draw.mkdir(parents=True)
    record = {"alpha": alpha, "form": form, "renormalise": True, "seed": seed}
    (draw / "alpha.json").write_text(json.dumps(record))


def write_temperature(folder: Path, search: str) -> None:
    """The outcome of a search for soft dispatch."""
    outcome = folder / "data" / "searches" / search / "seed-1" / "temperature.json"
    outcome.parent.mkdir(parents=True)
    outcome.write_text(json.dumps({"temperature": TEMPERATURE, "set": "svf", "seed": 1}))


def _expert(weights: dict[str, Tensor], fingerprint: str, task: str, seed: int) -> Expert:
    generator = torch.Generator().manual_seed(sum(map(ord, task)) + seed)
    z = {name: 1 + 0.3 * torch.randn(min(w.shape), generator=generator) for name, w in weights.items()}
    known = {"base_model_name_or_path": "base", "basis": "data/basis/main", "basis_fingerprint": fingerprint}
    return Expert(z, {**known, "task": task, "seed": seed})
