"""Splits share no problem, whatever the sizes, and equal parameters draw equal splits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from t2 import config
from t2.config.rows import Params, Sizes
from t2.tasks import splits
from t2.tasks.classification import categories_of
from t2.tasks.grading import grade
from t2.tasks.item import Item, read_items
from t2.tasks.leaks import LeakError, Passage
from t2.tasks.splits import Pool, SplitError, dispatch_splits, draw, refuse_leaked

ROOT = Path(__file__).parents[2]
SIZES = Sizes(train=10, valid=5, test=12, shots=3)


def items(task: str, n: int, start: int = 0) -> list[Item]:
    return [
        Item(f"{task}-{k}", f"Problem {k} of {task}, please.", str(k), f"#### {k}") for k in range(start, start + n)
    ]


def pool(task: str, n: int) -> Pool:
    return Pool(items(task, n), items(task, n))


def all_items(drawn: splits.Drawn) -> list[Item]:
    return [item for by_split in drawn.values() for chosen in by_split.values() for item in chosen]


def test_sizes_are_as_asked_and_no_problem_is_drawn_twice() -> None:
    drawn = draw({"a": SIZES, "b": SIZES}, {"a": pool("a", 30), "b": pool("b", 31)}, seed=1)
    for by_split in drawn.values():
        assert {split: len(chosen) for split, chosen in by_split.items()} == SIZES.model_dump()
    assert len({item.id for item in all_items(drawn)}) == len({item.prompt for item in all_items(drawn)}) == 60


def test_problems_that_two_tasks_share_go_to_one_of_them() -> None:
    shared = items("x", 60)
    louder = [Item(f"loud-{item.id}", f"  {item.prompt.upper()} ", item.answer) for item in shared]
    renamed = [Item(item.id, f"In other words: {item.prompt}", item.answer) for item in shared]
    for again in (shared, louder, renamed):
        drawn = draw({"a": SIZES, "b": SIZES}, {"a": Pool(shared, shared), "b": Pool(again, again)}, seed=1)
        assert len({item.answer for item in all_items(drawn)}) == 60
        with pytest.raises(SplitError):
            draw(
                {"a": SIZES, "b": SIZES},
                {"a": Pool(shared[:59], shared[:59]), "b": Pool(again[:59], again[:59])},
                seed=1,
            )


def wrapped(item: Item, opener: str, closer: str) -> Item:
    """The same question between other words."""
    return replace(item, id=f"again-{item.id}", prompt=f"{opener} {item.prompt} {closer}")


def test_the_same_question_in_another_wrapping_goes_to_one_split() -> None:
    plain = items("x", 30)
    again = [wrapped(item, "Quick one:", "Thank you.") for item in plain]
    for sources in ({"a": [*plain, *again]}, {"a": plain[:20], "b": [*again, *items("y", 20)]}):
        sizes = dict.fromkeys(sources, Sizes(train=7, valid=3, test=7, shots=3))
        chosen = all_items(draw(sizes, {name: Pool(some, some) for name, some in sources.items()}, seed=1))
        assert len({item.question for item in chosen}) == len(chosen) == 20 * len(sources)


def test_test_items_come_from_the_test_part() -> None:
    drawn = draw({"a": SIZES}, {"a": Pool(train=items("a", 18), test=items("a", 12, start=100))}, seed=1)["a"]
    assert all(int(item.answer) >= 100 for item in drawn["test"])
    assert all(int(item.answer) < 18 for split in ("train", "valid", "shots") for item in drawn[split])


def test_the_draw_depends_on_seed_and_task_alone() -> None:
    pools = {"a": pool("a", 99), "b": pool("b", 99)}
    first = draw({"a": SIZES, "b": SIZES}, pools, seed=1)
    assert draw({"a": SIZES, "b": SIZES}, pools, seed=1) == first
    assert draw({"a": SIZES, "b": SIZES}, pools, seed=2) != first
    assert draw({"b": SIZES}, {"b": pools["b"]}, seed=1)["b"] == first["b"]
    # More training items leave what is reported on as it was.
    more = draw({"a": SIZES.model_copy(update={"train": 50})}, {"a": pools["a"]}, seed=1)["a"]
    assert {split: more[split] for split in ("test", "shots", "valid")} == {
        split: first["a"][split] for split in ("test", "shots", "valid")
    }
    assert more["train"][:10] == first["a"]["train"]


def test_a_further_task_behind_the_others_changes_none_of_them() -> None:
    """Also where it shares problems with them."""
    pools = {"a": pool("a", 40), "b": pool("b", 40)}
    first = draw({"a": SIZES, "b": SIZES}, pools, seed=1)
    shared = [*items("a", 40), *items("c", 40)]
    more = draw(dict.fromkeys("abc", SIZES), {**pools, "c": Pool(shared, shared)}, seed=1)
    assert {name: more[name] for name in "ab"} == first
    assert len({item.prompt for item in all_items(more)}) == 90


def test_too_few_problems_are_listed_by_task_and_split() -> None:
    with pytest.raises(SplitError) as caught:
        draw({"a": SIZES, "b": SIZES}, {"a": pool("a", 11), "b": pool("b", 25)}, seed=1)
    assert "a: test asks for 12 items, 11 are left" in str(caught.value)
    assert "a: train asks for 10 items, 0 are left" in str(caught.value)
    assert "b: train asks for 10 items, 5 are left" in str(caught.value)


@pytest.mark.parametrize("split", ["train", "valid", "shots"])
@pytest.mark.parametrize("part", ["prompt", "reply"])
def test_a_test_prompt_inside_what_another_task_learns_from_is_refused(split: str, part: str) -> None:
    drawn = draw({"a": SIZES, "b": SIZES}, {"a": pool("a", 30), "b": pool("b", 30)}, seed=1)
    refuse_leaked(drawn)
    tested, learned = drawn["a"]["test"][3], drawn["b"][split][1]
    text = f"As someone asked: {tested.prompt} Think."
    drawn["b"][split][1] = Item(**{**{"id": learned.id, "prompt": "?", "answer": "1", "reply": ""}, part: text})
    with pytest.raises(LeakError) as caught:
        refuse_leaked(drawn)
    assert f"a/test.jsonl {tested.id} stands inside b/{split}.jsonl {learned.id}" in str(caught.value)


@pytest.mark.parametrize("split", ["train", "valid", "shots"])
def test_a_planted_duplicate_in_another_wrapping_is_refused_and_both_are_named(split: str) -> None:
    drawn = draw({"a": SIZES, "b": SIZES}, {"a": pool("a", 30), "b": pool("b", 30)}, seed=1)
    drawn["a"]["test"] = [wrapped(item, "Hello!", "Be fast!") for item in drawn["a"]["test"]]
    tested = drawn["a"]["test"][3]
    planted = Item("planted", tested.prompt.replace("Hello!", "Hurry up!"), "1", question=tested.question)
    assert tested.prompt not in planted.prompt and planted.prompt not in tested.prompt
    refuse_leaked(drawn)
    drawn["b"][split].append(planted)
    with pytest.raises(LeakError) as caught:
        refuse_leaked(drawn)
    assert f"a/test.jsonl {tested.id} stands inside b/{split}.jsonl planted" in str(caught.value)
    assert len(caught.value.leaks) == 1


def test_a_test_prompt_inside_pretraining_text_is_refused() -> None:
    drawn = draw({"a": SIZES}, {"a": pool("a", 30)}, seed=1)
    tested = drawn["a"]["test"][0]
    refuse_leaked(drawn, [Passage("corpus, line 1", drawn["a"]["train"][0].prompt)])
    with pytest.raises(LeakError, match=f"{tested.id} stands inside corpus, line 2"):
        refuse_leaked(drawn, [Passage("corpus, line 2", f"Classify: {tested.prompt}")])


@pytest.fixture
def params() -> Params:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for task in raw["tasks"].values():
        task["sizes"] = SIZES.model_dump()
    raw["tasks"]["other"]["sizes"] = {"train": 0, "valid": 0, "test": 8, "shots": 0}
    raw["tasks"]["dispatch"]["sizes"] = {"train": 4, "valid": 3, "test": 12, "shots": 0}
    raw["searches"], raw["systems"] = {}, {name: raw["systems"][name] for name in ("base", "uniform")}
    raw["publish"] |= {"systems": ["uniform"], "set": "svf"}
    raw["score"]["contrasts"] = []
    return config.parse(raw)


def drawn_for(params: Params) -> splits.Drawn:
    own = [name for name, task in params.tasks.items() if task.role != "dispatch"]
    return draw({name: params.tasks[name].sizes for name in own}, {name: pool(name, 30) for name in own}, seed=1)


def test_dispatching_learns_from_training_splits_only(params: Params) -> None:
    drawn = drawn_for(params)
    classified = dispatch_splits("dispatch", params.tasks, drawn)
    assert {split: len(chosen) for split, chosen in classified.items()} == {
        "train": 12,
        "valid": 9,
        "test": 44,
        "shots": 0,
    }
    for split, chosen in classified.items():
        by_id = {item.id: (task, item) for task in drawn for item in drawn[task][split]}
        for item in chosen:
            task, inner = by_id[item.id]
            assert inner.prompt in item.prompt
            assert item.answer == params.tasks[task].family
        assert all(grade("dispatch", chosen, [item.reply for item in chosen]))
    assert "other" not in {item.answer for item in classified["train"]}
    assert "other" in {item.answer for item in classified["test"]}
    assert categories_of(params.tasks["dispatch"], params.tasks) == ["math", "code", "reasoning", "other"]


def test_a_classifier_meets_other_where_its_row_has_items_to_learn_from(params: Params) -> None:
    """Of role other as many as there are, up to what is asked for per task."""
    for sizes, expected in (({"train": 4, "valid": 3}, (4, 3)), ({"train": 2, "valid": 8}, (2, 3))):
        other = params.tasks["other"].model_copy(update={"sizes": Sizes(**sizes, test=8, shots=0)})
        changed = params.model_copy(update={"tasks": params.tasks | {"other": other}})
        drawn = drawn_for(changed)
        classified = dispatch_splits("dispatch", changed.tasks, drawn)
        named = {split: [item.answer for item in chosen].count("other") for split, chosen in classified.items()}
        assert (named["train"], named["valid"], named["test"]) == (*expected, 8)
        seen = {item.id for split in ("train", "valid") for item in classified[split]}
        assert seen.isdisjoint(item.id for item in drawn["other"]["test"])


def test_dispatching_cannot_ask_for_more_than_a_split_holds(params: Params) -> None:
    drawn = drawn_for(params)
    drawn["code"]["train"] = drawn["code"]["train"][:2]
    with pytest.raises(SplitError, match=r"tasks\.dispatch\.sizes\.train: 4 .* tasks\.code\.sizes\.train is 2"):
        dispatch_splits("dispatch", params.tasks, drawn)


def test_files_and_manifest_hold_what_was_drawn(tmp_path: Path) -> None:
    drawn = draw({"a": SIZES}, {"a": pool("a", 30)}, seed=1)
    (tmp_path / "out" / "stale").mkdir(parents=True)
    files = splits.write(tmp_path / "out", drawn)
    splits.write_manifest(tmp_path / "out", {"files": files})
    assert not (tmp_path / "out" / "stale").exists()
    for name, file in json.loads((tmp_path / "out" / "manifest.json").read_text())["files"].items():
        path = tmp_path / "out" / name
        assert read_items(path) == drawn["a"][path.stem]
        assert file == {
            "n": len(drawn["a"][path.stem]),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
