"""Profiles compose into one file that DVC writes as it is, keep its comments, and never overwrite an edit unasked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml

from t2 import config, profiles
from t2.config import roundtrip
from t2.config.rows import Files, SeeingBase
from t2.sandbox import Sandbox
from t2.tasks.grading import grade
from t2.tasks.prompt import messages
from t2.tasks.sources import load as load_problems

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("T2_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of profiles of one's own, beside the complete one."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "miniature.yaml").write_text((ROOT / "profiles" / "miniature.yaml").read_text())
    monkeypatch.setattr(profiles, "PROFILES", folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def changed(text: str, before: str) -> list[str]:
    return [line for line in text.splitlines() if line not in before.splitlines() and "composed with" not in line]


def test_the_committed_parameters_are_the_composed_default() -> None:
    assert (ROOT / "params.yaml").read_text() == profiles.compose("miniature")


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_is_valid_and_says_in_its_first_line_what_it_is(name: str) -> None:
    assert (ROOT / "profiles" / f"{name}.yaml").read_text().startswith("# ")
    raw = roundtrip.values(profiles.compose(name))
    # As JSON 1 and 1.0 differ.
    dumped = config.dump(config.parse(raw))
    assert json.dumps(dumped, sort_keys=True) == json.dumps(raw, sort_keys=True)
    for base in dumped["bases"].values():
        assert (ROOT / base["files"]).exists()


@pytest.mark.parametrize("name", profiles.names())
def test_every_composed_profile_is_a_fixed_point_of_dvc_s_writer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    profiles.write(name, path)
    text = path.read_text()
    with modify_yaml(path):
        pass
    assert path.read_text() == text
    # An override puts plain lists and numbers in place of all that are there, so that their comments could go.
    apply_overrides(path, ["splits.seed=8"])
    assert path.read_text() == text.replace("  seed: 7\n", "  seed: 8\n")


def test_the_brief_profile_has_a_row_of_each_kind_that_the_miniature_has() -> None:
    def kinds(name: str) -> list[set[str]]:
        params = profiles.load(name)
        rewards = {task.reward.kind for task in params.tasks.values() if task.reward}
        recipes = params.recipes.values()
        return [
            {system.strategy for system in params.systems.values()},
            {recipe.method for recipe in recipes},
            {recipe.train.objective for recipe in recipes},
            {task.role for task in params.tasks.values()},
            {budget.algorithm for budget in params.budgets.values()},
            rewards,
        ]

    assert kinds("brief") == kinds("miniature")


def test_the_paper_s_models_share_its_hyper_parameters() -> None:
    for name in ("llama3-8b", "mistral-7b", "llama3-70b"):
        params = profiles.load(name)
        learned = [params.recipes[params.adapters[f"svf-{family}"].recipe] for family in ("math", "code", "reasoning")]
        assert {(recipe.train.lr, recipe.train.clip) for recipe in learned} == {(2e-3, 1e-3)}
        assert {recipe.train.batch for recipe in params.recipes.values()} == {256}
        assert [recipe.train.steps for recipe in learned] == [150, 60, 60]
        lora = params.recipes["lora_next_token"].peft
        assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"]) == (16, 32, 0.05)
        layers = "half" if name == "llama3-70b" else "all"
        assert {params.bases["main"].layers, *(recipe.layers for recipe in learned)} == {layers}
        assert params.bases["main"].revision


def test_the_vision_profile_is_the_paper_s_experiment() -> None:
    """Figure 5 and appendix A.1: half of the layers, −0.1 for a wrong answer, OK-VQA with experts of text alone."""
    params = profiles.load("llava-next-8b")
    (base,) = params.bases.values()
    assert isinstance(base, SeeingBase) and base.layers == "half"
    textvqa, okvqa = params.tasks["textvqa"], params.tasks["okvqa"]
    assert (textvqa.role, okvqa.role) == ("trained", "unseen")
    assert textvqa.reward and (textvqa.reward.right, textvqa.reward.wrong) == (1.0, -0.1)
    assert textvqa.sizes.train == textvqa.sizes.valid and okvqa.sizes.train == okvqa.sizes.valid == 0
    experts = [adapter for adapter in params.adapters.values() if params.recipes[adapter.recipe].method == "svf"]
    learned = [params.recipes[adapter.recipe] for adapter in experts]
    assert {adapter.task for adapter in experts} == {"gsm8k", "mbpp", "arc_easy", "textvqa", "dispatch"}
    assert {(recipe.layers, recipe.train.objective) for recipe in learned} == {("half", "reinforce")}
    assert {(recipe.train.lr, recipe.train.clip, recipe.train.batch) for recipe in learned} == {(2e-3, 1e-3, 256)}
    mixing = {name for name, system in params.systems.items() if system.tasks == ["okvqa"] and name != "oracle"}
    assert mixing >= {"prompt", "classifier", "soft", "fewshot", "uniform"}
    used = {adapter for name in mixing for adapter in params.adapters_of(name)}
    assert {params.tasks[params.adapters[name].task].family for name in used} == {"math", "code", "reasoning"}
    assert params.searches["okvqa"].set == params.systems["fewshot"].set == "svf"


# SHA-256 over all prompts of a file, as they were while each layout's wording stood in the code.
PROMPTS = {
    "gsm8k/train.jsonl": "2b06d32a83ecf2f5",
    "gsm8k/test.jsonl": "9187d0bde0d3897c",
    "mbpp/MbppPlus.jsonl.gz": "5fc371d9d6613c4b",
    "arc/hf_layout/arc_easy/train.json": "95bbeeddee9a5b82",
    "arc/ARC-Easy-Test.jsonl": "4e9e794efba74c55",
    "math500/test.jsonl": "051be3ca21c9d8de",
    "humaneval/HumanEval.jsonl.gz": "8394e45f4f99d6fa",
    "humaneval/HumanEvalPlus.jsonl.gz": "a511e123a2b06fa7",
    "arc/ARC-Challenge-Dev.jsonl": "2ca57d7c2cbe8abf",
    "arc/ARC-Challenge-Test.jsonl": "7a09630e669a0a34",
}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark files in {DATA}")
@pytest.mark.parametrize("name", ["benchmarks", "real"])
def test_templates_of_real_tasks_give_the_prompts_that_the_layouts_gave(name: str) -> None:
    seen = set()
    for task in profiles.load(name).tasks.values():
        if not isinstance(task.source, Files):
            continue
        for path in {task.source.train, task.source.test}:
            file = path.removeprefix("data/sources/")
            items = [problem.item(task.prompt) for problem in load_problems(task.source.layout, DATA / file)]
            prompts = "\0".join(str(item.prompt) for item in items)
            assert sha256(prompts.encode()).hexdigest().startswith(PROMPTS[file]), file
            seen.add(file)
    assert len(seen) == 9


@pytest.mark.parametrize("name", ["prompts-qwen", "prompts-completion"])
def test_a_set_of_prompts_says_all_that_it_decides(shelf: Path, name: str) -> None:
    """So that nothing of another set is left where it stands behind that."""
    for path in (ROOT / "profiles").glob("*.yaml"):
        (shelf / path.name).write_text(path.read_text())
    (shelf / "mine.yaml").write_text(f"extends: [paper, {name}]\n")
    assert profiles.load("mine").tasks == profiles.load(name).tasks


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark files in {DATA}")
@pytest.mark.parametrize("name", ["prompts-paper", "prompts-qwen", "prompts-completion"])
def test_every_set_of_prompts_renders_every_task_and_takes_its_references_for_right(name: str) -> None:
    params = profiles.load(name)
    unread = set()  # GSM8K's own replies have no box
    with Sandbox(params.sandbox, workers=2) as sandbox:
        for task, row in params.tasks.items():
            if not isinstance(row.source, Files) or row.reward is None:
                continue
            problems = load_problems(row.source.layout, DATA / row.source.test.removeprefix("data/sources/"))
            items = [problem.item(row.prompt) for problem in problems[:20]]
            if not all(grade(row.reward.kind, items, [item.reply for item in items], sandbox)):
                unread.add(task)
            for item in items:
                shown = [message.content for message in messages(item.prompt)]
                assert not any(example.user in shown[-2:] for example in row.prompt.examples)
    assert unread == ({"gsm8k"} if name == "prompts-qwen" else set())


def test_entries_are_merged_key_by_key_and_what_stays_keeps_its_layout(shelf: Path) -> None:
    (shelf / "mine.yaml").write_text(
        "extends: [miniature]\n"
        "bases:\n"
        "  main: {label: mine}\n"
        "training:\n"
        "  # Larger than usual.\n"
        "  micro_batch: 32  # of 16\n"
        "tasks:\n"
        "  math_hard:\n"
        "    sizes: {test: 99}\n"
        "recipes:\n"
        "  # Faster.\n"
        "  quick:\n"
        "    peft: {peft_type: IA3, target_modules: [k_proj]}\n"
        "    layers: all\n"
        "    seeds: [0]\n"
        "    train: {objective: reinforce, steps: 3, batch: 8, samples: 1, lr: 1.0e-3, clip: 1.0, kl: 0.1}\n"
    )
    text, before = profiles.compose("mine"), profiles.compose("miniature")
    assert changed(text, before) == [
        "    label: mine",
        "    sizes: {train: 0, valid: 150, test: 99, shots: 60}",
        "  # Faster.",
        "  quick:",
        "    peft: {peft_type: IA3, target_modules: [k_proj]}",
        "    train: {objective: reinforce, steps: 3, batch: 8, samples: 1, lr: 0.001, ",
        "  # Larger than usual.",
        "  micro_batch: 32  # of 16",
    ]
    assert changed(before, text) == ["    label: miniature", "  micro_batch: 16"]
    found = list(profiles.differences(roundtrip.values(text), roundtrip.values(before)))
    named = ["bases.main.label", "recipes.quick", "tasks.math_hard.sizes.test", "training.micro_batch"]
    assert sorted(where for where, *_ in found) == named


def test_a_row_with_nothing_in_it_is_taken_out_and_comments_stay_with_what_stays(shelf: Path) -> None:
    (shelf / "mine.yaml").write_text(
        "extends: [miniature]\n"
        "replaces: [searches]\n"
        "bases: {control: null}\n"
        "adapters: {control-math: null, control-code: null, control-reasoning: null}\n"
        "sets: {control: null}\n"
        "tasks: {math: {prompt: {system: null}}}\n"
        "searches:\n"
        "  only: {base: main, set: svf, task: math_hard, budget: cem}\n"
        "systems:\n"
        "  control:\n"
        "  control-svf:\n"
        "  fewshot: {searches: [only], tasks: [math_hard]}\n"
        "  random: {searches: [only], tasks: [math_hard]}\n"
    )
    params = profiles.load("mine")
    assert list(params.bases) == ["main"] and list(params.searches) == ["only"]
    assert params.tasks["math"].prompt.system is None
    text, before = profiles.compose("mine"), profiles.compose("miniature")
    assert [line for line in before.splitlines() if "#" in line and line not in text.splitlines()] == [
        line for line in before.splitlines() if "composed with" in line
    ]
    assert "\n\n# `family` is what" in text and "\n\n# Adapters that are chosen" in text


def test_later_profiles_win_and_each_is_composed_once(shelf: Path) -> None:
    (shelf / "a.yaml").write_text("extends: [miniature]\nsplits: {seed: 1}\nmeasure: {batch: 11}\n")
    (shelf / "b.yaml").write_text("extends: [miniature]\nsplits: {seed: 2}\n")
    (shelf / "c.yaml").write_text("extends: [a, b]\ntracking: {experiment: c}\n")
    params = profiles.load("c")
    assert (params.splits.seed, params.measure.batch, params.tracking.experiment) == (2, 11, "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: [nobody]\n", "no profile 'nobody'"),
        ("extends: [mine]\n", "circle: mine -> mine"),
        ("extends: miniature\n", "`extends` is a list"),
        ("extends: [miniature]\nbases: {nobody: null}\n", r"mine\.yaml takes out bases\.nobody, which is not there"),
        ("- 1\n", "no mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_profile_that_cannot_be_composed_is_refused(shelf: Path, text: str, message: str) -> None:
    (shelf / "mine.yaml").write_text(text)
    with pytest.raises(profiles.ProfileError, match=message):
        profiles.compose("mine")


def test_all_that_is_wrong_with_a_profile_is_named(shelf: Path) -> None:
    (shelf / "mine.yaml").write_text("extends: [miniature]\ntraining: {bacth: 4}\nrecipes: {svf: {train: {lr: -1}}}\n")
    with pytest.raises(config.ConfigError, match=r"(?s)profile mine.*recipes.svf.train.lr.*training.bacth"):
        profiles.compose("mine")


def test_a_profile_replaces_another_but_no_edit_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert profiles.write("llama3-8b", path) == "written"
    assert profiles.write("llama3-8b", path) == "held"
    assert profiles.write("mistral-7b", path) == "written"
    edit(path, "  seed: 7\n", "  seed: 10\n")
    edited = path.read_text()
    with pytest.raises(profiles.ProfileError, match=r"differs from profile mistral-7b in\n  - splits.seed: 10"):
        profiles.write("llama3-8b", path)
    assert path.read_text() == edited
    assert profiles.write("llama3-8b", path, force=True) == "written"
    assert path.read_text() == profiles.compose("llama3-8b")


def test_a_profile_that_has_changed_is_told_apart_from_edited_parameters(shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    (shelf / "mine.yaml").write_text("extends: [miniature]\nsplits: {seed: 1}\n")
    profiles.write("mine", path)
    edit(shelf / "mine.yaml", "seed: 1", "seed: 2")
    assert profiles.write("mine", path) == "renewed"
    edit(shelf / "miniature.yaml", "checkpoint_every: 5", "checkpoint_every: 6")
    assert profiles.write("mine", path) == "renewed"
    assert config.load(path).training.checkpoint_every == 6
    # Changed and edited: the edit is not lost.
    edit(shelf / "mine.yaml", "seed: 2", "seed: 3")
    apply_overrides(path, ["measure.batch=64"])
    with pytest.raises(profiles.ProfileError, match=r"(?s)differs from profile mine in\n.*measure.batch: 64, not 320"):
        profiles.write("mine", path)


def test_rows_in_another_order_are_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    profiles.write("miniature", path)
    values = roundtrip.read(path.read_text())
    values["sets"].move_to_end("svf")
    path.write_text(roundtrip.write(values))
    with pytest.raises(profiles.ProfileError, match=r"profile miniature in\n  - sets: \['lora', .*, not \['svf', "):
        profiles.write("miniature", path)


def test_the_command_lists_profiles_and_reports_an_edit(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "t2.profiles", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert all(name in run().stdout for name in profiles.names())
    assert run("qwen2.5-0.5b").stdout == "params.yaml holds profile qwen2.5-0.5b\n"
    assert run("qwen2.5-0.5b").stdout == "params.yaml held profile qwen2.5-0.5b already\n"
    values = roundtrip.values((tmp_path / "params.yaml").read_text())
    values["splits"]["seed"] = 8
    # Without the head that says where it is from.
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    refused = run("miniature")
    assert refused.returncode == 1
    assert "from profile qwen2.5-0.5b in\n  - splits.seed: 8, not 7" in refused.stderr and "FORCE=1" in refused.stderr
    assert run("miniature", "--force").returncode == 0
