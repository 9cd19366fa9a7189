"""A finished project on the language part of a model that sees, and a folder in which the whole model answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from finished_project import ALPHA, TEMPERATURE, finish_project, write_found, write_temperature
from visual import LIMITS, save_language_model

from t2 import config
from t2.stages.basis import adapted_weights
from t2.svf import build_cache
from t2.svf.language import names_alone
from t2.svf.pretrained import empty_model, load_config

FOLDER = Path("reports", "seeing")
TASKS = ("math", "code", "reasoning", "other", "dispatch", "math_hard")
MAIN = {"from": "main"}
MIXED = {"base": "seeing", "set": "svf", "tasks": ["math_hard"], "variant": ""}
ASKING = {**MIXED, "dispatch": "dispatch", "reading": "likelihood"}
SYSTEMS: dict[str, dict[str, Any]] = {
    "text": {**MIXED, "base": "main", "strategy": "uniform", "budget": "cem"},
    "classifier": {**ASKING, "strategy": "classifier", "adapter": "classifier"},
    "prompt": {**ASKING, "strategy": "prompt"},
    "soft": {**MIXED, "strategy": "soft", "dispatch": "dispatch", "temperature": "warm"},
    "uniform": {**MIXED, "strategy": "uniform", "budget": "cem"},
    "fewshot": {**MIXED, "strategy": "fewshot", "searches": ["found"]},
}
WARM = {"base": "seeing", "set": "svf", "dispatch": "dispatch", "tasks": list(TASKS[:3]), "values": [1.0, TEMPERATURE]}


def finish_seeing_project(project: Path, seeing: Path) -> Path:
    """Writes both; the folder's experts are those of the main run, which has no eyes."""
    language = project / "language"
    save_language_model(seeing, language)
    finish_project(project, language)
    main = yaml.safe_load((project / "params.yaml").read_text())
    base = {**main["bases"]["main"], "label": "sees", "path": str(seeing), "files": str(seeing), "vision": LIMITS}
    rows = dict.fromkeys(main, MAIN) | {
        "bases": {"main": MAIN, "seeing": base},
        "tasks": dict.fromkeys(TASKS, MAIN),
        "recipes": dict.fromkeys(("svf", "classifier"), MAIN),
        "adapters": dict.fromkeys((*ALPHA, "classifier"), MAIN),
        "sets": {"svf": MAIN},
        "budgets": {"cem": MAIN},
        "searches": {"found": {"base": "seeing", "set": "svf", "task": "math_hard", "budget": "cem"}},
        "temperatures": {"warm": WARM},
        "systems": {name: {**system, "label": name} for name, system in SYSTEMS.items()},
        "score": {"contrasts": []},
    }
    folder = project / FOLDER
    write_found(folder, "found", ALPHA)
    write_temperature(folder, "warm")
    (folder / "params.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    params = config.load(folder / "params.yaml", main=project / "params.yaml")
    weights = adapted_weights(params.bases["seeing"], "cpu")
    alone = names_alone(empty_model(load_config(seeing)), weights)
    build_cache(weights, folder / "data" / "basis" / "seeing", alone=alone)
    return project
