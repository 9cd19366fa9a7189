"""The split stage: the shipped parameters give leak-free splits, the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from t2 import config, profiles
from t2.miniature.corpus import write_prompts
from t2.stages.split import make_splits
from t2.tasks.item import read_items
from t2.tasks.leaks import LeakError
from t2.tasks.sources import VERSIONS, SourceError
from t2.tasks.splits import NAMES

ROOT = Path(__file__).parents[2]
SIZES = {"train": 20, "valid": 10, "test": 30, "shots": 10}


def parameters(tmp_path: Path) -> config.Params:
    """The shipped ones, small, with bases that lie in the test's folder."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in (*raw["trained"].values(), *raw["unseen"].values(), raw["other"]):
        section["sizes"] = SIZES
    raw["classifier"]["per_family"] = SIZES
    for base in ("base", "control"):
        raw[base]["path"] = str(tmp_path / "miniature" / base)
    return config.parse(raw)


def test_every_task_gets_its_splits_and_the_manifest_names_them(tmp_path: Path) -> None:
    params = parameters(tmp_path)
    manifest = make_splits(params, tmp_path / "splits")
    assert manifest == json.loads((tmp_path / "splits" / "manifest.json").read_text())
    for task in (*params.tasks, "other"):
        for split in NAMES:
            items = read_items(tmp_path / "splits" / task / f"{split}.jsonl")
            assert len(items) == SIZES[split] == manifest["files"][f"{task}/{split}.jsonl"]["n"]
    assert manifest["files"]["classifier/train.jsonl"]["n"] == 4 * SIZES["train"]
    assert manifest["sources"]["math"] == {"layout": "miniature", "family": "math", "version": VERSIONS["miniature"]}


def test_a_test_prompt_that_the_base_has_read_is_refused(tmp_path: Path) -> None:
    params = parameters(tmp_path)
    make_splits(params, tmp_path / "splits")
    tested = read_items(tmp_path / "splits" / "code_hard" / "test.jsonl")[5]
    corpus = tmp_path / "miniature" / "pretraining_prompts.txt.xz"
    corpus.parent.mkdir()
    write_prompts(corpus, ["How are you?", f"Classify this: {tested.prompt}"])
    with pytest.raises(LeakError, match=f"{tested.id} stands inside .*pretraining_prompts.txt.xz, line 2"):
        make_splits(params, tmp_path / "splits")
    write_prompts(corpus, ["How are you?"])
    assert list(make_splits(params, tmp_path / "splits")["pretraining"]) == [str(corpus)]


def test_the_shipped_parameters_leak_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    manifest = make_splits(config.load(), tmp_path / "splits")
    assert list(manifest["pretraining"]) == ["data/miniature/pretraining_prompts.txt.xz"]
    assert all(manifest["files"][f"{task}/test.jsonl"]["n"] >= 500 for task in config.load().tasks)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/stages')\n"
        "from test_split import parameters, make_splits\n"
        "make_splits(parameters(Path('/nowhere')), Path(sys.argv[1]))"
    )
    written = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, env=environment, check=True)
        written.append(
            {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        )
    assert written[0] == written[1] and len(written[0]) == 1 + 8 * len(NAMES)


def test_real_files_are_read_from_where_the_parameters_say(tmp_path: Path) -> None:
    params = profiles.load("real")
    here = params.model_copy(
        update={
            "trained": {
                name: task.model_copy(
                    update={"source": task.source.model_copy(update={"train": str(tmp_path / "absent.jsonl")})}
                )
                for name, task in params.trained.items()
            }
        }
    )
    with pytest.raises(SourceError, match=r"absent\.jsonl: no such file"):
        make_splits(here, tmp_path / "splits")
