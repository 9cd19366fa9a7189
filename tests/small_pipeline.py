"""The whole pipeline in a folder of its own, with the smallest parameters that still run every stage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env=surroundings(folder, **environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def surroundings(folder: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "T2_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **more}


def small(params: dict[str, Any]) -> dict[str, Any]:
    """One trained and one unseen task, one seed, a few steps."""
    tasks, recipes, systems = params["tasks"], params["recipes"], params["systems"]
    params["bases"] = {"main": params["bases"]["main"]}
    params["tasks"] = {name: tasks[name] for name in ("reasoning", "reasoning_hard", "other", "dispatch")}
    tasks["reasoning"]["sizes"] = {"train": 24, "valid": 8, "test": 12, "shots": 0}
    tasks["reasoning_hard"]["sizes"] = {"train": 0, "valid": 0, "test": 12, "shots": 6}
    tasks["other"]["sizes"]["test"] = 8
    tasks["dispatch"]["sizes"] = {"train": 8, "valid": 4, "test": 4, "shots": 0}
    tasks["dispatch"]["source"]["tasks"] = ["reasoning", "other"]
    params["recipes"] = {name: recipes[name] for name in ("svf", "classifier", "lora_next_token")}
    for name, steps in (("svf", 3), ("classifier", 2), ("lora_next_token", 2)):
        recipes[name]["seeds"] = [0]
        recipes[name]["train"] |= {"steps": steps, "batch": 8}
    params["training"] |= {"micro_batch": 8, "valid_every": 2, "checkpoint_every": 1}
    adapters = ("svf-reasoning", "classifier", "lora-reasoning")
    params["adapters"] = {name: params["adapters"][name] for name in adapters}
    params["sets"] = {
        "svf": {"members": ["svf-reasoning"]},
        "lora": {"members": ["lora-reasoning"]},
        "published": {"members": ["svf-reasoning", "classifier"]},
    }
    params["budgets"]["cem"] |= {"shots": 3, "draws": 1, "population": 4, "generations": 2}
    params["searches"] = {"reasoning_hard": params["searches"]["reasoning_hard"]}
    rows = ("base", "lora", "oracle", "svf", "prompt", "classifier", "soft", "fewshot", "uniform")
    params["systems"] = {name: systems[name] for name in rows}
    params["temperatures"]["soft"] |= {"tasks": ["reasoning"], "values": [0.5, 4.0]}
    systems["oracle"] |= {"set": "published", "tasks": ["reasoning_hard"], "variant": ""}
    systems["fewshot"] |= {"searches": ["reasoning_hard"], "tasks": ["reasoning_hard"]}
    contrasts = [["fewshot", "uniform"], ["classifier", "prompt"], ["soft", "prompt"], ["svf", "lora"]]
    params["score"] |= {"contrasts": contrasts}
    return params


def copy_project(folder: Path, params: dict[str, Any] | None = None) -> Path:
    """The project's files, without results, in a git repository of its own; with the smallest parameters or these."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in listed.splitlines():
        if not name.startswith(("reports/", "dvc.lock", "tests/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = params or small(yaml.safe_load((ROOT / "params.yaml").read_text()))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "project")
    return folder
