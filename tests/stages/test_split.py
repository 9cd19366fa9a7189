"""The split stage: the shipped parameters give leak-free splits, the same bytes each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml

from t2 import config, profiles
from t2.config.rows import Files, Hub, Params
from t2.miniature.corpus import read_prompts, write_prompts
from t2.miniature.registers import REGISTERS
from t2.stages.split import make_splits
from t2.tasks.item import read_items
from t2.tasks.leaks import LeakError
from t2.tasks.sources import VERSIONS, SourceError
from t2.tasks.splits import NAMES

ROOT = Path(__file__).parents[2]
SIZES = {"train": 20, "valid": 10, "test": 30, "shots": 10}


def parameters(tmp_path: Path) -> Params:
    """The shipped ones, small, with bases that lie in the test's folder."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for task in raw["tasks"].values():
        task["sizes"] = SIZES
    for name, base in raw["bases"].items():
        base["path"] = str(tmp_path / "miniature" / name)
    return config.parse(raw)


def test_every_task_gets_its_splits_and_the_manifest_names_them(tmp_path: Path) -> None:
    params = parameters(tmp_path)
    manifest = make_splits(params, tmp_path / "splits")
    assert manifest == json.loads((tmp_path / "splits" / "manifest.json").read_text())
    for task in params.tasks.keys() - {"dispatch"}:
        for split in NAMES:
            items = read_items(tmp_path / "splits" / task / f"{split}.jsonl")
            assert len(items) == SIZES[split] == manifest["files"][f"{task}/{split}.jsonl"]["n"]
    assert manifest["files"]["dispatch/train.jsonl"]["n"] == 4 * SIZES["train"]
    assert manifest["sources"]["math"] == {"layout": "miniature", "family": "math", "version": VERSIONS["miniature"]}


def with_math_from(params: Params, source: dict[str, Any]) -> Params:
    """The task ``math`` from rows in MATH's layout."""
    made = (Hub if "hub" in source else Files)(layout="math", **source)
    return params.model_copy(
        update={"tasks": {**params.tasks, "math": params.tasks["math"].model_copy(update={"source": made})}}
    )


def problems(folder: Path, start: int) -> Path:
    """Forty problems, a file each, as Hendrycks' MATH has them."""
    folder.mkdir(parents=True)
    for n in range(start, start + 40):
        row = {"problem": f"What is {n} less one?", "level": "Level 1", "solution": f"It is \\boxed{{{n - 1}}}."}
        (folder / f"{n}.json").write_text(json.dumps(row))
    return folder


def test_the_manifest_pins_the_files_of_a_folder(tmp_path: Path) -> None:
    parts = {part: str(problems(tmp_path / part / "algebra", n).parent) for part, n in (("train", 100), ("test", 200))}
    params = with_math_from(parameters(tmp_path), parts)
    first = make_splits(params, tmp_path / "splits")["sources"]["math"]
    assert {part: first[part]["file"] for part in parts} == parts
    assert make_splits(params, tmp_path / "splits")["sources"]["math"] == first
    renamed = tmp_path / "test" / "algebra" / "200.json"
    renamed.rename(renamed.with_name("199.json"))
    again = make_splits(params, tmp_path / "splits")["sources"]["math"]
    assert again["train"] == first["train"] and again["test"] != first["test"]


def test_the_manifest_pins_a_hub_data_set(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    hub = tmp_path / "hub"
    for part, start in (("train", 100), ("test", 200)):
        rows = [path.read_text() for path in sorted(problems(tmp_path / part / "algebra", start).iterdir())]
        hub.mkdir(exist_ok=True)
        (hub / f"{part}.jsonl").write_text("\n".join(rows))
    source = {"hub": str(hub), "subset": None, "revision": "e53f048", "train": "train", "test": "test"}
    manifest = make_splits(with_math_from(parameters(tmp_path), source), tmp_path / "splits")
    assert manifest["sources"]["math"] == {"layout": "math", "version": VERSIONS["math"], **source}
    assert "200 less" not in (tmp_path / "splits" / "math" / "train.jsonl").read_text()


def test_a_test_prompt_that_the_base_has_read_is_refused(tmp_path: Path) -> None:
    params = parameters(tmp_path)
    make_splits(params, tmp_path / "splits")
    tested = read_items(tmp_path / "splits" / "code_hard" / "test.jsonl")[5]
    corpus = tmp_path / "miniature" / "pretraining_prompts.txt.xz"
    corpus.parent.mkdir()
    write_prompts(corpus, ["How are you?", f"Classify this: {tested.prompt}"])
    with pytest.raises(LeakError, match=f"{tested.id} stands inside .*pretraining_prompts.txt.xz, line 2"):
        make_splits(params, tmp_path / "splits")
    write_prompts(corpus, ["how are you ?", tested.question])
    with pytest.raises(LeakError, match=f"{tested.id} stands inside .*pretraining_prompts.txt.xz, line 2"):
        make_splits(params, tmp_path / "splits")
    write_prompts(corpus, ["how are you ?"])
    assert list(make_splits(params, tmp_path / "splits")["pretraining"]) == [str(corpus)]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The manifest and the splits of the shipped parameters, and of the fourth pair of families by rows alone."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, like in (("text", "math"), ("text_hard", "math_hard")):
        source = {"layout": "miniature", "family": name}
        raw["tasks"][name] = {**raw["tasks"][like], "family": "text", "source": source}
    folder = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        manifest = make_splits(config.parse(raw), folder)
        assert list(manifest["pretraining"]) == ["data/miniature/pretraining_prompts.txt.xz"]
    return manifest, folder


def test_every_question_of_the_shipped_splits_stands_in_one_of_them_and_in_no_pretraining(
    shipped: tuple[dict[str, Any], Path],
) -> None:
    manifest, folder = shipped
    own = [name for name in manifest["files"] if not name.startswith("dispatch/")]
    asked = {name: [item.question for item in read_items(folder / name)] for name in own}
    questions = [question for some in asked.values() for question in some]
    assert len(questions) == len(set(questions)) > 6500
    assert set(questions).isdisjoint(read_prompts(ROOT / "data/miniature/pretraining_prompts.txt.xz"))
    for task in ("math", "code", "reasoning", "math_hard", "code_hard", "reasoning_hard", "text", "text_hard"):
        assert len(set(asked[f"{task}/test.jsonl"])) == manifest["files"][f"{task}/test.jsonl"]["n"] >= 500


def test_difficulty_is_alike_in_all_splits(shipped: tuple[dict[str, Any], Path]) -> None:
    """How careless a prompt's register is, and how long its reply."""
    _, folder = shipped
    registers = {register: register.carelessness for register in REGISTERS}
    for task in ("math", "code", "reasoning", "math_hard", "code_hard", "reasoning_hard", "text", "text_hard"):
        careless, length = {}, {}
        for split in NAMES:
            if items := read_items(folder / task / f"{split}.jsonl"):
                of = [
                    next(
                        share
                        for register, share in registers.items()
                        if str(item.prompt).startswith(register.opener) and str(item.prompt).endswith(register.closer)
                    )
                    for item in items
                ]
                careless[split], length[split] = mean(of), mean(len(item.reply) for item in items)
        few = 0.12 if "shots" in careless and task.endswith("hard") else 0.06
        assert max(careless.values()) - min(careless.values()) < few, (task, careless)
        assert max(length.values()) < 1.15 * min(length.values()), (task, length)


def test_a_further_task_keeps_the_bytes_of_all_other_splits(
    shipped: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    without, more = make_splits(config.load(), tmp_path / "splits")["files"], shipped[0]["files"]
    assert {name: more[name] for name in without} == without
    assert more.keys() - without.keys() == {
        f"{task}/{split}.jsonl" for task in ("text", "text_hard") for split in NAMES
    }


def test_the_classifier_learns_and_is_validated_with_every_category(shipped: tuple[dict[str, Any], Path]) -> None:
    _, folder = shipped
    for split in ("train", "valid", "test"):
        named = Counter(item.answer for item in read_items(folder / "dispatch" / f"{split}.jsonl"))
        assert named.keys() == {"math", "code", "reasoning", "other"} and len(set(named.values())) == 1


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
    absent = Files(layout="gsm8k", train=str(tmp_path / "absent.jsonl"), test=str(tmp_path / "absent.jsonl"))
    tasks = {"gsm8k": params.tasks["gsm8k"].model_copy(update={"source": absent})}
    here = params.model_copy(update={"tasks": tasks})
    with pytest.raises(SourceError, match=r"absent\.jsonl: no such file"):
        make_splits(here, tmp_path / "splits")
