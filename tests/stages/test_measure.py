"""What the measurement makes of stored results, and what its keys hang on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from finished_project import MEMBERS, finish_project

from t2 import config
from t2.adaptation.system import read_mixture
from t2.adaptation.weighted import coordinates
from t2.config.rows import VqaReward
from t2.sandbox import Sandbox
from t2.stages import cells, measure, paths
from t2.stages.measure import plan
from t2.stages.search import _shape
from t2.svf import Expert, load_expert, mix, mix_population, save_expert
from t2.tasks import vqa
from t2.tasks.grading import GRADERS
from t2.tasks.item import Item

INPUTS = {"cmd": "measure", "t2/engine": "a", "t2/tasks/grading.py": "b", "t2/tasks/math.py": "c"}


@pytest.mark.parametrize("per_layer", [False, True])
def test_stored_weights_reach_the_experts_whose_names_they_bear(tmp_path: Path, per_layer: bool) -> None:
    assert list(MEMBERS) != sorted(MEMBERS)  # else the order could not go wrong
    modules = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]
    experts = {name: {module: torch.rand(4) for module in modules} for name in MEMBERS}
    alpha = torch.tensor([[0.7, -0.2, 0.5], [0.1, 0.2, 0.7]] if per_layer else [0.7, -0.2, 0.5])
    by_name = dict(zip(MEMBERS, alpha.movedim(-1, 0).tolist(), strict=True))
    stored = {"alpha": by_name, "form": "normalised", "renormalise": True}
    (tmp_path / "alpha.json").write_text(json.dumps(stored, sort_keys=True))
    expected = mix(list(experts.values()), alpha)
    for name, z in read_mixture(tmp_path / "alpha.json").z(experts).items():
        assert torch.equal(z, expected[name])


@pytest.mark.parametrize(("granularity", "rows"), [("one", ()), ("layer", (2,)), ("matrix", (4,))])
def test_a_search_has_weights_for_what_its_granularity_says(granularity: str, rows: tuple[int, ...]) -> None:
    modules = [f"model.layers.{layer}.{module}" for layer in (3, 7) for module in ("self_attn.q_proj", "mlp.up_proj")]
    experts = {name: {module: torch.rand(4) for module in modules} for name in MEMBERS}
    shape = _shape(experts, granularity)
    assert shape == (*rows, len(MEMBERS))
    mix_population(list(experts.values()), torch.rand(5, *shape))


def test_a_search_over_lora_adapters_has_a_weight_for_each() -> None:
    axes = coordinates(MEMBERS)
    shape = _shape(axes, "one")
    assert torch.equal(mix_population(list(axes.values()), torch.eye(3)).tables["weights"], torch.eye(3))
    assert shape == (3,)


@pytest.fixture
def params(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Params:
    """Those of a finished project, with the systems whose adapters it has, on one task."""
    monkeypatch.chdir(finish_project(tmp_path, tiny_folder))
    test = tmp_path / "data" / "splits" / "math" / "test.jsonl"
    test.parent.mkdir(parents=True)
    test.write_text(json.dumps({"id": "1", "prompt": "How many?", "answer": "1", "reply": ""}) + "\n")
    monkeypatch.setattr(measure, "tasks_of", lambda *_: ["math"])
    found = config.load()
    kept = {name: row for name, row in found.systems.items() if name in ("base", "svf", "uniform", "classifier")}
    return found.model_copy(update={"systems": kept})


def test_every_seed_of_a_system_is_a_cell_and_two_passes_are_timed_once(params: config.Params) -> None:
    cells = [(each.system, each.seed, each.timed) for each in plan(params, INPUTS)]
    seeds = [(name, seed, False) for name in ("svf", "uniform") for seed in range(3)]
    seeds += [("classifier", seed, seed == 0) for seed in range(3)]
    assert sorted(cells, key=str) == sorted([("base", None, False), *seeds], key=str)


def test_replies_hang_on_what_changes_them_and_on_nothing_else(params: config.Params) -> None:
    def of_base(params: config.Params, inputs: dict[str, str]) -> object:
        return plan(params, inputs)[0].inputs

    before = of_base(params, INPUTS)
    graders = {path for of_kind in GRADERS.values() for path in of_kind} | {"t2/tasks/grading.py"}
    assert of_base(params, INPUTS | dict.fromkeys(graders, "changed")) == before
    labelled = params.bases["main"].model_copy(update={"label": "another", "files": "elsewhere"})
    assert of_base(params.model_copy(update={"bases": {**params.bases, "main": labelled}}), INPUTS) == before

    assert of_base(params, INPUTS | {"t2/engine": "changed"}) != before
    wider = params.measure.model_copy(update={"batch": params.measure.batch + 1})
    assert of_base(params.model_copy(update={"measure": wider}), INPUTS) != before
    rounded = params.bases["main"].model_copy(update={"dtype": "bfloat16"})
    assert of_base(params.model_copy(update={"bases": {**params.bases, "main": rounded}}), INPUTS) != before


def test_an_adapter_of_another_base_is_refused_by_its_folder(params: config.Params) -> None:
    folder = paths.adapter("svf-math", 0)
    worker = measure.Worker(params)
    assert worker.experts("svf", 0).keys() == set(MEMBERS)
    expert = load_expert(folder)
    save_expert(Expert(expert.z, expert.provenance | {"basis_fingerprint": "0" * 64}), folder)
    with pytest.raises(ValueError, match=rf"^{folder}: .* was made for other base weights"):
        measure.Worker(params).experts("svf", 0)


def test_questions_about_images_are_graded_by_shares_and_the_better_reading_is_the_flexible_one(
    params: config.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = ["84"] * 2 + ["41"] * 8
    rules = VqaReward(kind="vqa", right=1.0, wrong=-0.1, stop=[], max_new_tokens=8, pass_mark=0.9, statement=False)
    task = params.tasks["math"].model_copy(update={"reward": rules})
    asked = params.model_copy(update={"tasks": {**params.tasks, "math": task}})
    items = [Item(f"q-{n}", "What does it say?", vqa.written(people)) for n in range(4)]
    texts = ["84", "41", "Signs. The answer is 84.", "41"]
    replies = [
        cells.Reply(item.id, item.question, text, 1, True, item.id == "q-3", 1)
        for item, text in zip(items, texts, strict=True)
    ]
    monkeypatch.chdir(tmp_path)
    cells.write_replies("key", replies)
    each = measure.Plan("base", "math", None, None, False, {}, {})
    with Sandbox(params.sandbox) as sandbox:
        key = measure.Worker(asked)._grades(each, "key", items, sandbox)
        stated = rules.model_copy(update={"statement": True})
        task = task.model_copy(update={"reward": stated})
        other = measure.Worker(asked.model_copy(update={"tasks": {"math": task}}))._grades(each, "key", items, sandbox)
    assert cells.read_values(cells.grades_file(key)) == pytest.approx([0.6, 1.0, 0.0, 0.0])
    assert cells.read_values(cells.flexible_file(key)) == pytest.approx([0.6, 1.0, 0.6, 0.0])
    assert cells.read_values(cells.grades_file(other)) == pytest.approx([0.0, 0.0, 0.6, 0.0])
