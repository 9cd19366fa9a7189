"""Profiles compose into one file that is valid and keeps its comments, and never overwrite an edit unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from t2 import config, profiles

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of profiles of one's own, beside the complete one."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "miniature.yaml").write_text((ROOT / "profiles" / "miniature.yaml").read_text())
    monkeypatch.setattr(profiles, "PROFILES", folder)
    return folder


def test_the_committed_parameters_are_the_composed_default() -> None:
    assert (ROOT / "params.yaml").read_text() == profiles.compose("miniature")


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_is_valid_and_says_in_its_first_line_what_it_is(name: str) -> None:
    params = profiles.load(name)
    assert set(params.experts) == set(params.trained)
    assert (ROOT / "profiles" / f"{name}.yaml").read_text().startswith("# ")


def test_the_paper_s_models_share_its_hyper_parameters() -> None:
    for name in ("llama3-8b", "mistral-7b", "llama3-70b"):
        params = profiles.load(name)
        assert params.training.batch == 256
        assert {(recipe.lr, recipe.clip) for recipe in params.experts.values()} == {(2e-3, 1e-3)}
        assert (params.lora.rank, params.lora.alpha, params.lora.dropout) == (16, 32, 0.05)
        assert params.svf.layers == ("half" if name == "llama3-70b" else "all")
        assert params.base.revision


def test_entries_are_merged_key_by_key_and_what_stays_keeps_its_layout(shelf: Path) -> None:
    (shelf / "mine.yaml").write_text(
        "extends: [miniature]\n"
        "base: {name: mine}\n"
        "training:\n"
        "  # Larger than usual.\n"
        "  batch: 128  # of 64\n"
        "unseen:\n"
        "  math_hard: {max_new_tokens: 99}\n"
        "experts:\n"
        "  math: {lr: 1.0e-3}\n"
    )
    text = profiles.compose("mine")
    before = profiles.compose("miniature")
    changed = set(text.splitlines()) - set(before.splitlines())
    assert changed == {
        "# Composed from profiles/mine.yaml by `make profile PROFILE=mine`.",
        "base:    {name: mine, path: data/miniature/base, revision: null, dtype: float32, quantisation: null}",
        "  # Larger than usual.",
        "  batch: 128  # of 64",
        "    max_new_tokens: 99",
        "  math:      {method: svf, objective: reinforce, steps: 30, lr: 1.0e-3, clip: 1.0, kl: 0.1}",
    }
    differences = list(profiles.differences(yaml.safe_load(text), yaml.safe_load(before)))
    assert sorted(where for where, *_ in differences) == [
        "base.name",
        "experts.math.lr",
        "training.batch",
        "unseen.math_hard.max_new_tokens",
    ]


def test_replaced_mappings_are_taken_whole_and_new_entries_go_to_the_end(shelf: Path) -> None:
    (shelf / "mine.yaml").write_text(
        "extends: [miniature]\n"
        "replaces: [baselines]\n"
        "baselines:\n"
        "  mine: {method: lora, objective: next_token, steps: 2, lr: 5.0e-3, clip: 1.0, kl: 0.0}\n"
        "unseen:\n"
        "  again:\n"
        "    kind: math\n"
        "    family: math\n"
        "    source: {layout: miniature, family: math_hard}\n"
        "    sizes: {train: 0, valid: 0, test: 5, shots: 60}\n"
        "    max_new_tokens: 64\n"
    )
    params = profiles.load("mine")
    assert list(params.baselines) == ["mine"]
    assert list(params.unseen) == ["math_hard", "code_hard", "reasoning_hard", "again"]
    assert "\n# Prompts for no expert" in profiles.compose("mine")


def test_later_profiles_win_and_each_is_composed_once(shelf: Path) -> None:
    (shelf / "a.yaml").write_text("extends: [miniature]\nsplits: {seed: 1}\nbenchmark: {seed: 1}\n")
    (shelf / "b.yaml").write_text("extends: [miniature]\nsplits: {seed: 2}\n")
    (shelf / "c.yaml").write_text("extends: [a, b]\ntracking: {experiment: c}\n")
    params = profiles.load("c")
    assert (params.splits.seed, params.benchmark.seed, params.tracking.experiment) == (2, 1, "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: [nobody]\n", "no profile 'nobody'"),
        ("extends: [mine]\n", "circle: mine -> mine"),
        ("extends: miniature\n", "`extends` is a list"),
        ("- 1\n", "no mapping"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_profile_that_cannot_be_composed_is_refused(shelf: Path, text: str, message: str) -> None:
    (shelf / "mine.yaml").write_text(text)
    with pytest.raises(profiles.ProfileError, match=message):
        profiles.compose("mine")


def test_all_that_is_wrong_with_a_profile_is_named(shelf: Path) -> None:
    (shelf / "mine.yaml").write_text("extends: [miniature]\ntraining: {bacth: 4}\nexperts: {math: {lr: -1}}\n")
    with pytest.raises(config.ConfigError, match=r"(?s)profile mine.*experts.math.lr.*training.bacth"):
        profiles.compose("mine")


def test_a_model_of_the_hub_needs_a_commit(shelf: Path) -> None:
    for revision in ("null", "main"):
        (shelf / "mine.yaml").write_text(f"extends: [miniature]\nbase: {{path: owner/model, revision: {revision}}}\n")
        with pytest.raises(config.ConfigError, match=r"base: .*'owner/model'.*`revision`.*40 hexadecimal"):
            profiles.compose("mine")


def test_a_profile_replaces_another_but_no_edit_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert profiles.write("llama3-8b", path)
    assert not profiles.write("llama3-8b", path)
    assert profiles.write("mistral-7b", path)
    edited = path.read_text().replace("bootstrap: 2000", "bootstrap: 10")
    path.write_text(edited)
    with pytest.raises(profiles.ProfileError, match=r"differs from profile mistral-7b in\n  - benchmark.bootstrap: 10"):
        profiles.write("llama3-8b", path)
    assert path.read_text() == edited
    assert profiles.write("llama3-8b", path, force=True)
    assert path.read_text() == profiles.compose("llama3-8b")


def test_the_command_lists_profiles_and_reports_an_edit(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "t2.profiles", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert all(name in run().stdout for name in profiles.names())
    assert run("qwen2.5-0.5b").returncode == 0
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["splits"]["seed"] = 8
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    refused = run("miniature")
    assert refused.returncode == 1
    assert "splits.seed: 8, not 7" in refused.stderr and "FORCE=1" in refused.stderr
    assert run("miniature", "--force").returncode == 0
