"""Tasks made of another's questions: the same answers elsewhere, or answers that say nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from t2 import config
from t2.config.rows import Prompt as Template
from t2.config.rows import Redrawn, Rotated, Sizes
from t2.stages.split import make_splits
from t2.tasks import choice
from t2.tasks.derived import derive, redrawn, rotated
from t2.tasks.item import Item, Problem, read_items
from t2.tasks.options import letters

ROOT = Path(__file__).parents[2]
TEMPLATE = Template(system=None, user="{question}\n{options}\nWhich?", examples=[], prefix="The answer is (")


def item(number: int, texts: tuple[str, ...] = ("red", "green", "blue", "grey")) -> Item:
    fields = {"question": f"Which colour has number {number}?", "options": choice.options(texts)}
    return Problem(f"p{number}", fields, "B", reply=choice.statement("B"), options=texts).item(TEMPLATE)


@pytest.mark.parametrize("by", [1, 2, 3, 4, 7])
def test_a_rotated_item_has_every_option_further_on_and_the_same_one_right(by: int) -> None:
    moved = rotated(item(1), by)
    for place, text in enumerate(item(1).options):
        assert moved.options[(place + by) % 4] == text
    assert moved.options[letters(moved).index(moved.answer)] == "green"
    assert (moved.prompt == item(1).prompt) == (by % 4 == 0)
    assert moved.question == item(1).question


def test_redrawn_answers_hang_on_the_seed_and_are_as_often_each() -> None:
    items = [item(number) for number in range(800)]
    drawn = [redrawn(each, seed=3) for each in items]
    assert drawn == [redrawn(each, seed=3) for each in items] != [redrawn(each, seed=4) for each in items]
    assert {(each.prompt, each.question, each.reply) for each in drawn} == {
        (each.prompt, each.question, "") for each in items
    }
    counts = Counter(each.answer for each in drawn)
    assert set(counts) == set("ABCD")
    assert min(counts.values()) > 150


def test_an_item_without_options_has_no_answer_to_draw() -> None:
    with pytest.raises(ValueError, match="item sum has no options"):
        redrawn(Item("sum", "1+1?", "2"), seed=0)


@pytest.mark.parametrize(
    "source",
    [Rotated(layout="rotated", task="of", by=1), Redrawn(layout="redrawn", task="of", seed=1)],
    ids=lambda source: source.layout,
)
def test_splits_are_the_first_items_of_that_tasks(source: Rotated | Redrawn) -> None:
    drawn = {"of": {"train": [item(1), item(2), item(3)], "test": [item(4), item(5)], "valid": [], "shots": []}}
    made = derive(source, Sizes(train=2, valid=0, test=2, shots=0), drawn)
    assert {split: [each.id for each in items] for split, items in made.items()} == {
        "train": ["p1", "p2"],
        "test": ["p4", "p5"],
        "valid": [],
        "shots": [],
    }


# Through the split stage, and its parameters


@pytest.fixture
def raw() -> dict[str, Any]:
    """The parameters of a folder whose tasks are ARC's, and one made of them."""
    main = config.dump(config.load(ROOT / "params.yaml"))
    main["bases"] = {"main": main["bases"]["main"]}
    prompt = TEMPLATE.model_dump()
    reward = {"kind": "choice", "right": 1.0, "wrong": -1.0, "stop": [], "max_new_tokens": 8}
    file = "tests/tasks/arc.jsonl"
    main["tasks"] = {
        "arc": {
            "role": "trained",
            "family": "reasoning",
            "prompt": prompt,
            "source": {"layout": "arc", "train": file, "test": file},
            "sizes": {"train": 2, "valid": 1, "test": 2, "shots": 0},
            "reward": reward,
        },
        "arc_rotated": {
            "role": "unseen",
            "family": "reasoning",
            "prompt": prompt,
            "source": {"layout": "rotated", "task": "arc", "by": 1},
            "sizes": {"train": 0, "valid": 0, "test": 2, "shots": 0},
            "reward": reward,
        },
    }
    for section in ("adapters", "sets", "searches", "temperatures", "systems"):
        main[section] = {}
    main["adapters"] = {"svf": {"base": "main", "recipe": "svf", "task": "arc"}}
    main["sets"] = {"published": {"members": ["svf"]}}
    main["systems"] = {
        "svf": {"label": "SVF", "base": "main", "strategy": "own", "set": "published", "tasks": "all", "variant": ""}
    }
    main["publish"] = {"systems": ["svf"], "set": "published", "model": "m"}
    main["score"] = {"contrasts": []}
    return main


def test_the_split_stage_writes_them(raw: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        f'{{"id": "q{n}", "question": "Which is {n}?", "choices": {{"text": ["a{n}", "b{n}", "c{n}"], '
        f'"label": ["A", "B", "C"]}}, "answerKey": "C"}}'
        for n in range(5)
    ]
    file = tmp_path / "arc.jsonl"
    file.write_text("\n".join(rows) + "\n")
    raw["tasks"]["arc"]["source"] |= {"train": str(file), "test": str(file)}
    manifest = make_splits(config.parse(raw), tmp_path / "splits")
    assert set(manifest["sources"]) == {"arc"}
    asked, moved = (read_items(tmp_path / "splits" / task / "test.jsonl") for task in ("arc", "arc_rotated"))
    assert [each.id for each in moved] == [each.id for each in asked]
    assert {each.answer for each in asked} == {"C"}
    assert {each.answer for each in moved} == {"A"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda task: task["source"].update(task="arcs"), r"tasks\.arc_rotated\.source\.task: .*arcs"),
        (lambda task: task["source"].update(task="arc_rotated"), "arc_rotated has no options of its own"),
        (lambda task: task["prompt"].update(prefix=None), "differs from that of arc, whose items these are"),
        (lambda task: task["sizes"].update(test=3), r"sizes\.test: 3, and arc has 2; ask for at most that"),
        (lambda task: task["source"].update(by=0), r"source\.by"),
    ],
    ids=["no such task", "of itself", "another prompt", "too many", "no place"],
)
def test_rows_that_contradict_each_other_are_refused(raw: dict[str, Any], change: Any, problem: str) -> None:
    raw["tasks"]["arc_rotated"]["prompt"] = dict(raw["tasks"]["arc_rotated"]["prompt"])
    change(raw["tasks"]["arc_rotated"])
    with pytest.raises(config.ConfigError, match=problem):
        config.parse(raw)
