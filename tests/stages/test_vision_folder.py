"""An experiment folder on a base that sees: trained by reward, searched, chosen prompt by prompt, measured, scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from small_pipeline import copy_project, run
from transformers import PreTrainedTokenizerFast
from visual import LIMITS, reward, save_language_model, task, write_okvqa, write_textvqa

from t2.svf import load_expert
from t2.tasks.item import read_items
from t2.tasks.prompt import shown

pytestmark = pytest.mark.slow

SVF = {
    "peft_type": "SVF",
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "parametrisation": "direct",
    "init_mean": 1.0,
    "init_std": 0.0,
    "max_mult": 2.0,
    "renormalise": False,
}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
TRAIN = {"objective": "reinforce", "steps": 2, "batch": 4, "samples": 1, "lr": 0.05, "clip": 1.0, "kl": 0.1}
STAGES = """
stages:
  split:
    cmd: python -m t2.stages.split
    outs: [data/splits, data/runs/split.json]
  basis:
    foreach: [seeing, language]
    do:
      cmd: python -m t2.stages.basis ${item}
      outs: ["data/basis/${item}", "data/runs/basis-${item}.json"]
  train:
    foreach: [svf-signs, lora-signs, svf-math]
    do:
      cmd: python -m t2.stages.train ${item}
      deps: [data/splits, data/basis/seeing, data/basis/language]
      outs: ["data/adapters/${item}", "data/runs/train-${item}.json", "training/${item}.csv": {cache: false}]
      metrics: ["training/${item}.json": {cache: false}]
  derive:
    foreach: [copied-math]
    do:
      cmd: python -m t2.stages.derive ${item}
      deps: [data/adapters/svf-math]
      params: ["adapters.${item}"]
      outs: ["data/adapters/${item}", "data/runs/derive-${item}.json"]
  set:
    foreach: [pair]
    do:
      cmd: python -m t2.stages.set ${item}
      deps: [data/adapters]
      outs: ["data/sets/${item}", "data/runs/set-${item}.json"]
  search:
    foreach: [facts]
    do:
      cmd: python -m t2.stages.search ${item}
      deps: [data/sets/pair]
      outs: ["data/searches/${item}", "data/runs/search-${item}.json"]
  measure:
    cmd: python -m t2.stages.measure
    deps: [data/adapters, data/searches]
    outs: [data/predictions: {persist: true}, data/timings: {persist: true}, data/runs/measure.json]
  score:
    cmd: python -m t2.stages.score
    deps: [data/predictions]
    outs: [data/scores, data/runs/score.json, scores.csv: {cache: false}, readings.csv: {cache: false},
           comparisons.csv: {cache: false}, confusions.csv: {cache: false}, dispatch.csv: {cache: false}]
    metrics: [metrics.json: {cache: false}]
  report:
    cmd: python -m t2.stages.report
    deps: [data/scores]
    outs: [data/report, figures: {cache: false}, report.html: {cache: false}, report.md: {cache: false},
           runs.csv: {cache: false}, searches.csv: {cache: false}, timings.csv: {cache: false}]
"""
TAKEN = ("splits", "training", "search", "measure", "publish", "sandbox", "engine", "execution", "tracking", "plan")


def rows(project: Path, seeing: Path, language: Path) -> dict[str, object]:
    main = yaml.safe_load((project / "params.yaml").read_text())
    base = {**main["bases"]["main"], "adapt": SVF["target_modules"]}
    files = project / "data" / "sources"
    signs = {
        "layout": "textvqa",
        "train": write_textvqa(files / "textvqa", "train", 12),
        "test": write_textvqa(files / "textvqa", "val", 8, first=50),
    }
    facts = {
        "layout": "okvqa",
        "train": write_okvqa(files / "okvqa", "train2014", 6),
        "test": write_okvqa(files / "okvqa", "val2014", 6, first=50),
    }
    ask = {"system": None, "user": "{categories}? {question}", "examples": [], "prefix": None}
    math = {**main["tasks"]["reasoning"], "family": "math", "sizes": {"train": 6, "valid": 4, "test": 4, "shots": 0}}
    dispatched = {"kind": "dispatch", "right": 1.0, "wrong": -1.0, "stop": [], "max_new_tokens": 4}
    system = {"base": "seeing", "tasks": ["signs", "facts"], "variant": ""}
    mixed, alone = {**system, "set": "pair"}, {**system, "strategy": "adapter"}
    return {
        "bases": {
            "seeing": {**base, "label": "sees", "path": str(seeing), "files": str(seeing), "vision": LIMITS},
            "language": {**base, "label": "reads", "path": str(language), "files": str(language)},
        },
        "tasks": {
            "signs": task(signs, (6, 4, 6, 0)),
            "facts": task(facts, (0, 0, 6, 4), role="unseen", reward=reward(statement=True)),
            "math": math,
            "ask": {
                "role": "dispatch",
                "family": "other",
                "prompt": ask,
                "source": {"layout": "dispatch", "tasks": ["signs", "math"]},
                "sizes": {"train": 0, "valid": 0, "test": 1, "shots": 0},
                "reward": dispatched,
            },
        },
        "recipes": {
            "svf": {"peft": SVF, "layers": "half", "seeds": [0], "train": TRAIN},
            "lora": {"peft": LORA, "layers": "half", "seeds": [0], "train": TRAIN},
        },
        "adapters": {
            "svf-signs": {"base": "seeing", "recipe": "svf", "task": "signs"},
            "lora-signs": {"base": "seeing", "recipe": "lora", "task": "signs"},
            "svf-math": {"base": "language", "recipe": "svf", "task": "math"},
            "copied-math": {
                "base": "seeing",
                "recipe": "svf",
                "task": "math",
                "of": "svf-math",
                "change": {"kind": "copied"},
            },
        },
        "sets": {"pair": {"members": ["svf-signs", "svf-math"]}},
        "budgets": {"cem": {**main["budgets"]["cem"], "shots": 3, "draws": 1, "population": 4, "generations": 2}},
        "searches": {"facts": {"base": "seeing", "set": "pair", "task": "facts", "budget": "cem"}},
        "temperatures": {},
        "systems": {
            "base": {**system, "label": "sees", "strategy": "none"},
            "svf": {**alone, "label": "svf", "adapter": "svf-signs"},
            "math": {**alone, "label": "math", "adapter": "svf-math", "variant": "math"},
            "copied": {
                **system,
                "label": "copied",
                "strategy": "adapter",
                "adapter": "copied-math",
                "variant": "copied",
            },
            "lora": {**alone, "label": "lora", "adapter": "lora-signs"},
            "prompt": {**mixed, "label": "prompt", "strategy": "prompt", "dispatch": "ask", "reading": "likelihood"},
            "uniform": {**mixed, "label": "uniform", "strategy": "uniform", "budget": "cem"},
            "found": {**mixed, "label": "found", "strategy": "fewshot", "searches": ["facts"], "tasks": ["facts"]},
            "shown": {**system, "label": "shown", "strategy": "in_context", "searches": ["facts"], "tasks": ["facts"]},
        },
        "score": {"contrasts": [["found", "uniform"]]},
        **{section: {"from": "main"} for section in TAKEN},
    }


def test_a_folder_of_questions_about_images_runs_whole(
    llava_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    project = copy_project(tmp_path)
    language = project / "language"
    save_language_model(llava_folder, language)
    folder = project / "reports" / "vision"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(rows(project, llava_folder, language), sort_keys=False))
    (folder / "dvc.yaml").write_text(STAGES)
    run(project, "dvc", "repro", "-q", "-s", "reports/vision/dvc.yaml")

    with open(folder / "scores.csv", newline="") as file:
        scores = {(row["method"], row["strategy"], row["variant"], row["task"]): row for row in csv.DictReader(file)}
    assert len(scores) == 7 * 2 + 2
    assert all(0 <= float(row["score"]) <= 1 and row["n"] == "6" for row in scores.values())
    # The expert of the language model alone, and its copy under the names of the base that sees, are one.
    assert (
        scores["svf", "adapter", "math", "facts"]["correct"] == scores["svf", "adapter", "copied", "facts"]["correct"]
    )
    trained, copied = (
        load_expert(folder / "data" / "adapters" / name / "seed-0").z for name in ("svf-signs", "copied-math")
    )
    assert trained.keys() == copied.keys() and all(name.startswith("model.language_model.") for name in trained)
    assert {int(name.split(".")[3]) for name in trained} == {2, 3}
    history = (folder / "training" / "svf-signs.csv").read_text()
    assert "-0.1" in history
    items = read_items(folder / "data" / "splits" / "signs" / "test.jsonl")
    assert all(len(shown(item.prompt)) == 1 for item in items)
    cells = json.loads((folder / "data" / "predictions" / "cells.json").read_text())
    replies = {}
    for cell in cells:
        text = (folder / "data" / "predictions" / "replies" / f"{cell['replies'][0]}.jsonl").read_text()
        replies[cell["system"], cell["task"]] = [json.loads(line) for line in text.splitlines()]
    longer = zip(replies["shown", "facts"], replies["base", "facts"], strict=True)
    assert all(with_shots["prompt_tokens"] > bare["prompt_tokens"] for with_shots, bare in longer)
    report = (folder / "report.md").read_text()
    for name in ("signs", "facts"):
        first = read_items(folder / "data" / "splits" / name / "test.jsonl")[0]
        image = shown(first.prompt)[0].path
        assert f"What was asked on {name}." in report and f"![](figures/{image.name})" in report
        assert (folder / "figures" / image.name).read_bytes() == image.read_bytes()
