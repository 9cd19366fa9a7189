"""An experiment folder: rows of its own beside rows of the main run, and the same programs, which leave that alone."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_pipeline import ROOT, copy_project, run, small
from test_dvc_file import AROUND, closure, files

from t2 import config
from t2.stages import paths
from t2.stages.stage import _enter

HERE = Path("reports/slow")
ROWS, STAGES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "folders.md").read_text(), re.DOTALL)
"""The example that the documentation gives."""
SMALL = {"seeds: [0, 1, 2, 3, 4]": "seeds: [0]", "steps: 30, batch: 64": "steps: 2, batch: 8"}


def smaller(rows: str) -> str:
    """The rows as the small pipeline has them, which knows of reasoning only."""
    for value, less in SMALL.items():
        rows = rows.replace(value, less)
    return re.sub(r"  (svf-)?(math|code): {from: main}\n", "", rows)


@pytest.fixture
def main() -> config.Params:
    return config.parse(small(yaml.safe_load((ROOT / "params.yaml").read_text())))


@pytest.fixture
def raw() -> dict[str, Any]:
    return config.roundtrip.values(smaller(ROWS))


def test_the_documented_folder_is_valid_beside_the_committed_run() -> None:
    params = config.parse(config.roundtrip.values(ROWS), main=config.load(ROOT / "params.yaml"))
    assert params.recipes["slow"].seeds == params.recipes["svf"].seeds


@pytest.mark.parametrize("stage", ["train", "measure", "score", "report"])
def test_a_documented_stage_depends_on_the_code_that_it_imports(stage: str) -> None:
    declared = yaml.safe_load(STAGES)["stages"][stage]
    code = [path.removeprefix("../../") for path in declared.get("do", declared)["deps"] if "/t2/" in path]
    assert closure(f"t2/stages/{stage}.py") - AROUND <= set().union(*map(files, code))


def test_a_folder_holds_the_rows_that_it_takes_and_is_written_as_it_was_read(
    main: config.Params, raw: dict[str, Any]
) -> None:
    params = config.parse(raw, main=main)
    assert params.adapters["svf-reasoning"] == main.adapters["svf-reasoning"]
    assert params.training == main.training
    assert list(params.systems) == ["base", "svf", "slow", "pair"]
    assert {"adapters.svf-reasoning", "training"} <= params.taken
    assert not {"adapters.slow-reasoning", "score"} & params.taken
    assert json.dumps(config.dump(params), sort_keys=True) == json.dumps(raw, sort_keys=True)


REFUSED: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (lambda raw: raw["sets"].update(lorry={"from": "main"}), "sets.lorry", "the main run has none of that name"),
    (lambda raw: raw["sets"].update(svf={"from": "elsewhere"}), "sets.svf", "expected {from: main}"),
    (lambda raw: raw["training"].update(batch=4), "training", "and nothing beside it"),
    (lambda raw: raw.pop("training"), "training", "missing"),
    (lambda raw: raw["sets"]["pair"].update(members=["svf-code"]), "sets.pair.members", "no row 'svf-code'"),
    (lambda raw: raw["recipes"].update(svf=raw["recipes"]["slow"]), "recipes.svf", "rename it"),
    (lambda raw: raw["recipes"].pop("svf"), "adapters.svf-reasoning.recipe", "there is no row 'svf'"),
    (
        lambda raw: raw["tasks"].update(own={"from": "main"}),
        "tasks.own",
        "it has reasoning, reasoning_hard, other, dispatch",
    ),
]


@pytest.mark.parametrize(("change", "where", "reason"), REFUSED)
def test_what_a_folder_cannot_take_is_refused(
    main: config.Params, raw: dict[str, Any], change: Callable[[dict[str, Any]], object], where: str, reason: str
) -> None:
    change(raw)
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw, main=main)
    assert any(problem.startswith(f"{where}: ") and reason in problem for problem in caught.value.problems)


def test_all_that_is_wrong_with_a_folder_is_said_at_once(main: config.Params, raw: dict[str, Any]) -> None:
    for change, _, _ in REFUSED[:3]:
        change(raw)
    raw["measure"] = {"batch": -1}
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw, main=main)
    assert {problem.split(":")[0] for problem in caught.value.problems} >= {"sets.lorry", "sets.svf", "measure.batch"}


def test_a_folder_has_rows_of_its_own_and_takes_its_tasks(main: config.Params, raw: dict[str, Any]) -> None:
    task = config.dump(main)["tasks"]["reasoning_hard"]
    raw["tasks"]["reasoning_hard"] = task
    with pytest.raises(config.ConfigError, match=r"tasks\.reasoning_hard: the folder's own, while others are the main"):
        config.parse(raw, main=main)
    # All of them are drawn together, but the main run's adapters learned from others.
    every = config.dump(main)["tasks"]
    with pytest.raises(config.ConfigError) as caught:
        config.parse({**raw, "tasks": {name: every[name] for name in raw["tasks"]}}, main=main)
    assert "tasks.reasoning: the folder's own, while adapters.svf-reasoning is the main run's" in str(caught.value)
    assert "while others are" not in str(caught.value)
    taken = {name: {row: {"from": "main"} for row in raw[name]} for name in ("bases", "tasks")}
    taken |= {name: {"svf": {"from": "main"}} for name in ("recipes", "sets", "systems")}
    taken["adapters"] = {"svf-reasoning": {"from": "main"}}
    score = {"contrasts": []}
    with pytest.raises(config.ConfigError, match="every row is taken from the main run"):
        config.parse({**raw, **taken, "score": score}, main=main)


MADE = {"base": "main", "recipe": "slow", "task": "reasoning", "of": "slow-reasoning", "change": {"kind": "negated"}}


def summed(*others: str) -> dict[str, Any]:
    return {"change": {"kind": "summed", "others": list(others)}}


def test_an_adapter_may_be_made_of_a_trained_one(main: config.Params, raw: dict[str, Any]) -> None:
    raw["adapters"]["made"] = MADE
    params = config.parse(raw, main=main)
    assert params.adapters["made"].of == "slow-reasoning"
    assert params.adapters["slow-reasoning"] == config.parse(raw, main=main).adapters["slow-reasoning"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of": "nobody"}, "adapters.made.of: there is no row 'nobody'"),
        ({"of": "other"}, "adapters.made.of: other is made of another itself"),
        ({"recipe": "svf"}, "adapters.made.recipe: svf has seeds [1, 2, 3, 4], and slow-reasoning only [0]"),
        ({"recipe": "half"}, "adapters.made.recipe: half adapts otherwise than slow"),
        ({"recipe": "half", "change": {"kind": "resampled"}}, "adapters.made.recipe: half adapts some layers"),
        ({"change": {"kind": "turned"}}, "adapters.made.change: `kind` is one of copied, shuffled"),
        ({"change": {"kind": "largest", "share": 0.0}}, "adapters.made.change.share"),
        (summed("nobody"), "adapters.made.change.others: there is no row 'nobody'"),
        (summed("slow-reasoning"), "adapters.made.change.others: slow-reasoning stands there more than once"),
        (summed("other"), "adapters.made.change.others: other is made of another itself"),
        (summed("halved"), "adapters.made.recipe: slow adapts otherwise than half, by which halved learned"),
        (summed("elsewhere"), "adapters.made.change.others: elsewhere was trained on twin, slow-reasoning on main"),
    ],
)
def test_what_an_adapter_cannot_be_made_of_is_said(
    main: config.Params, raw: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    raw["recipes"]["half"] = {**raw["recipes"]["slow"], "layers": "half"}
    raw["recipes"]["svf"] = {**raw["recipes"]["slow"], "seeds": [0, 1, 2, 3, 4]}
    trained = raw["adapters"]["slow-reasoning"]
    raw["bases"]["twin"] = {**config.dump(main)["bases"]["main"], "label": "twin"}
    raw["adapters"] = {"slow-reasoning": trained, "other": MADE, "made": {**MADE, **change}}
    raw["adapters"] |= {"halved": {**trained, "recipe": "half"}, "elsewhere": {**trained, "base": "twin"}}
    with pytest.raises(config.ConfigError) as error:
        config.parse(raw, main=main)
    assert said in str(error.value)


def test_the_main_run_trains_every_adapter(main: config.Params) -> None:
    raw = config.dump(main)
    raw["adapters"]["made"] = {**MADE, "recipe": "svf", "of": "svf-reasoning"}
    with pytest.raises(config.ConfigError, match="move it to an experiment folder"):
        config.parse(raw)


def test_the_main_run_takes_no_rows(raw: dict[str, Any]) -> None:
    with pytest.raises(config.ConfigError, match=r"adapters\.svf-reasoning\.from: unknown key"):
        config.parse(raw)


def test_files_of_own_rows_lie_in_the_folder_and_those_of_the_main_runs_rows_there(
    main: config.Params, raw: dict[str, Any]
) -> None:
    with paths.within(HERE, config.parse(raw, main=main).taken):
        assert paths.adapter("slow-reasoning", 0) == HERE / "data/adapters/slow-reasoning/seed-0"
        assert paths.adapter("svf-reasoning", 0) == Path("data/adapters/svf-reasoning/seed-0")
        assert paths.split("reasoning", "test") == Path("data/splits/reasoning/test.jsonl")
        assert (paths.basis("main"), paths.members("pair")) == (Path("data/basis/main"), HERE / "data/sets/pair")
        assert (paths.predictions(), paths.reports()) == (HERE / "data/predictions", HERE)
    assert (paths.adapters("svf-reasoning"), paths.reports()) == (Path("data/adapters/svf-reasoning"), Path("reports"))


def test_a_program_works_at_the_root_of_the_copy_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy" / HERE).mkdir(parents=True)
    (tmp_path / "copy" / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path / "copy" / HERE)
    assert _enter() == HERE
    assert Path.cwd() == tmp_path / "copy"
    assert _enter() == Path()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small project with a folder that has not run."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    run(folder, "dvc", "repro", "-q")
    (folder / HERE).mkdir(parents=True)
    (folder / HERE / "params.yaml").write_text(smaller(ROWS))
    (folder / HERE / "dvc.yaml").write_text(STAGES)
    shutil.copy(ROOT / "Makefile", folder)
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "folder")
    return folder


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def of_main(folder: Path) -> dict[str, str]:
    """The bytes of what the main run is made of and has made."""
    listed = [path for name in ("data", "reports", "t2") for path in (folder / name).rglob("*")]
    listed += [folder / name for name in ("dvc.yaml", "dvc.lock", "params.yaml")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in listed
        if path.is_file() and folder / HERE not in path.parents and "__pycache__" not in path.parts
    }


def rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a table of scores by the system's variant or, without one, its strategy."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(path.read_text().splitlines()):
        found.setdefault(row["variant"] or row["strategy"], []).append(row)
    return found


@pytest.mark.slow
def test_a_folder_runs_alone_beside_the_main_run_and_under_other_values(project: Path) -> None:
    before = of_main(project)
    here = [f"--old-file={made}" for made in (".venv/installed", "pyproject.toml", "constraints.txt")]
    said = run(project, "make", *here, "table", "NAME=slow").stdout
    assert f"the main run is up to date in all that {HERE}/dvc.yaml builds on" in said
    stages = [f"{HERE}/dvc.yaml:{name}" for name in ("train@slow-reasoning", "measure", "score", "report")]
    assert ran(said) == stages
    assert of_main(project) == before
    assert json.loads(run(project, "dvc", "status", "--json").stdout) == {}

    own, there = rows(project / HERE / "scores.csv"), rows(project / "reports" / "scores.csv")
    assert list(own) == ["none", "own", "slow", "pair"]
    assert own["none"] == there["none"]
    assert own["own"] == [row for row in there["own"] if row["method"] == "svf"]
    assert "slow" in (project / HERE / "report.md").read_text()

    override = f"{HERE}/params.yaml:recipes.slow.train.lr=0.02"
    again = run(project, "dvc", "exp", "run", "--name", "faster", "-s", f"{HERE}/dvc.yaml", "-S", override).stdout
    assert ran(again) == stages
    assert of_main(project) == before
    assert rows(project / HERE / "scores.csv")["own"] == own["own"]

    with sqlite3.connect(project / "mlflow.db") as store:
        tagged = store.execute("select run_uuid from tags where key = 't2.folder' and value = ?", [str(HERE)])
        marked = {run_id for (run_id,) in tagged}
        listed = store.execute("select run_uuid, name, experiment_id from runs").fetchall()
    assert len({experiment for *_, experiment in listed}) == 1
    names = [name for run_id, name, _ in listed if run_id in marked]
    assert names.count("train@slow-reasoning") == names.count("slow-reasoning/seed-0") == 2
    assert "split" not in names and names.count("measure") == 2


KINDS = """
bases: {main: {from: main}}
tasks: {reasoning: {from: main}, reasoning_hard: {from: main}, other: {from: main}, dispatch: {from: main}}
splits: {from: main}
recipes:
  svf: {from: main}
  classifier: {from: main}
  lora_next_token: {from: main}
  fast:
    peft: {peft_type: LORA, r: 2, lora_alpha: 4, lora_dropout: 0.0, target_modules: [q_proj, v_proj]}
    layers: all
    seeds: [0]
    train: {objective: next_token, steps: 2, batch: 8, samples: 1, lr: 0.05, clip: 1.0, kl: 0.0}
training: {from: main}
adapters:
  svf-reasoning: {from: main}
  classifier: {from: main}
  lora-reasoning: {from: main}
  fast: {base: main, recipe: fast, task: reasoning}
  same: {base: main, recipe: svf, task: reasoning, of: svf-reasoning, change: {kind: copied}}
  turned: {base: main, recipe: svf, task: reasoning, of: svf-reasoning, change: {kind: negated}}
  both: {base: main, recipe: svf, task: reasoning, of: svf-reasoning, change: {kind: summed, others: [classifier]}}
sets:
  svf: {from: main}
  same: {members: [same]}
  turned: {members: [turned]}
  both: {members: [both]}
  pair: {members: [lora-reasoning, fast]}
budgets: {cem: {from: main}}
searches:
  reasoning_hard: {from: main}
  pair: {base: main, set: pair, task: reasoning_hard, budget: cem}
search: {from: main}
temperatures: {}
systems:
  base: {from: main}
  svf: {from: main}
  same: {label: same, base: main, strategy: own, set: same, tasks: all, variant: same}
  turned: {label: turned, base: main, strategy: own, set: turned, tasks: all, variant: turned}
  both: {label: both, base: main, strategy: uniform, set: both, budget: null, tasks: all, variant: both}
  equal: {label: equal, base: main, strategy: uniform, set: pair, budget: cem, tasks: all, variant: equal}
  found:
    {label: found, base: main, strategy: fewshot, set: pair, searches: [pair], tasks: [reasoning_hard], variant: found}
  shown:
    {label: shown, base: main, strategy: in_context, searches: [reasoning_hard], tasks: [reasoning_hard], variant: ''}
  fewshot: {from: main}
  best: {label: best, base: main, strategy: best, systems: [found, fewshot], by: rest, variant: best}
  most: {label: 'best, oracle', base: main, strategy: best, systems: [found, fewshot], by: test, variant: most}
measure: {from: main}
score: {contrasts: [[turned, svf], [found, equal]]}
publish: {from: main}
sandbox: {from: main}
engine: {from: main}
execution: {from: main}
tracking: {from: main}
plan: {from: main}
"""
RUNS = """
stages:
  train:
    foreach: [fast]
    do:
      cmd: python -m t2.stages.train ${item}
      outs: [data/adapters/fast, data/runs/train-fast.json, training/fast.csv: {cache: false}]
      metrics: [training/fast.json: {cache: false}]
  derive:
    foreach: [same, turned, both]
    do:
      cmd: python -m t2.stages.derive ${item}
      params: ["adapters.${item}"]
      outs: ["data/adapters/${item}", "data/runs/derive-${item}.json"]
  set:
    foreach: [pair]
    do:
      cmd: python -m t2.stages.set ${item}
      deps: [data/adapters]
      outs: [data/sets/pair, data/runs/set-pair.json]
  search:
    foreach: [pair]
    do:
      cmd: python -m t2.stages.search ${item}
      deps: [data/sets/pair]
      outs: [data/searches/pair, data/runs/search-pair.json]
  measure:
    cmd: python -m t2.stages.measure
    deps: [data/adapters, data/searches]
    outs: [data/predictions: {persist: true}, data/timings: {persist: true}, data/runs/measure.json]
  score:
    cmd: python -m t2.stages.score
    deps: [data/predictions, data/searches]
    outs: [data/scores, data/runs/score.json, scores.csv: {cache: false}, readings.csv: {cache: false},
           comparisons.csv: {cache: false}, confusions.csv: {cache: false}, dispatch.csv: {cache: false}]
    metrics: [metrics.json: {cache: false}]
  report:
    cmd: python -m t2.stages.report
    deps: [data/scores]
    outs: [data/report, figures: {cache: false}, report.html: {cache: false}, report.md: {cache: false},
           runs.csv: {cache: false}, searches.csv: {cache: false}, timings.csv: {cache: false}]
"""


@pytest.mark.slow
def test_made_adapters_mixed_lora_and_shots_in_the_prompt_run_in_a_folder(project: Path) -> None:
    folder = project / "reports" / "kinds"
    folder.mkdir()
    (folder / "params.yaml").write_text(KINDS)
    (folder / "dvc.yaml").write_text(RUNS)
    run(project, "dvc", "repro", "-q", "-s", "reports/kinds/dvc.yaml")
    found = rows(folder / "scores.csv")
    assert list(found) == [
        "none",
        "own",
        "same",
        "turned",
        "both",
        "equal",
        "found",
        "in_context",
        "fewshot",
        "best",
        "most",
    ]
    # After three steps replies are alike, and only z tells an expert from its opposite.
    same, turned, both, classifier = (
        load_file(made / "seed-0" / "adapter_model.safetensors")
        for made in (
            *(folder / "data" / "adapters" / name for name in ("same", "turned", "both")),
            project / "data" / "adapters" / "classifier",
        )
    )
    assert all(torch.allclose(z + turned[name], torch.full_like(z, 2.0)) for name, z in same.items())
    assert all(torch.allclose(both[name], z + classifier[name] - 1) for name, z in same.items())
    assert any(not torch.equal(both[name], z) for name, z in same.items())
    score = {name: [row["correct"] for row in of] for name, of in found.items()}
    assert score["same"] == score["own"]
    assert score["most"] == [max(score["found"] + score["fewshot"], key=float)]
    rest = {
        name: json.loads((where / "seed-0" / "draw-0" / "alpha.json").read_text())["rest_score"]
        for name, where in (
            ("found", folder / "data" / "searches" / "pair"),
            ("fewshot", project / "data" / "searches" / "reasoning_hard"),
        )
    }
    assert score["best"] == score[max(rest, key=rest.__getitem__)]
    replies = {}
    for cell in json.loads((folder / "data" / "predictions" / "cells.json").read_text()):
        text = (folder / "data" / "predictions" / "replies" / f"{cell['replies'][0]}.jsonl").read_text()
        replies[cell["system"], cell["task"]] = [json.loads(line) for line in text.splitlines()]
    longer = zip(replies["shown", "reasoning_hard"], replies["base", "reasoning_hard"], strict=True)
    assert all(shown["prompt_tokens"] > 2 * bare["prompt_tokens"] for shown, bare in longer)
    alpha = json.loads((folder / "data" / "searches" / "pair" / "seed-0" / "draw-0" / "alpha.json").read_text())
    assert set(alpha["alpha"]) == {"lora-reasoning", "fast"} and sum(alpha["alpha"].values()) == pytest.approx(1)
    report = (folder / "report.md").read_text()
    assert "**What is trained.**" in report and "**Shots in the prompt.**" in report
