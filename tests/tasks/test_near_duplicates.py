"""Near-duplicates are found and named, with their exact similarity."""

from __future__ import annotations

from random import Random

import pytest

from t2.config.rows import NearDuplicates
from t2.tasks.item import Item
from t2.tasks.leaks import Passage
from t2.tasks.near_duplicates import near_duplicates
from t2.tasks.splits import Pool, near_in, repeated

PARAMS = NearDuplicates(threshold=0.7, words=3, permutations=128)
QUESTION = "write a function to find the longest word of a list that holds no digit and no vowel at all ."


def passages(name: str, *texts: str) -> list[Passage]:
    return [Passage(f"{name} {number}", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("learned", "similarity"),
    [
        (QUESTION, 1.0),
        (QUESTION.replace("all", "once"), 0.81),
        (QUESTION.replace("longest", "shortest").replace("digit", "letter"), None),
        ("what is the capital of the land ?", None),
        ("write", None),
    ],
)
def test_what_is_alike_is_named_with_its_similarity(learned: str, similarity: float | None) -> None:
    found = near_duplicates(passages("test", "is ?", QUESTION), passages("train", "something else", learned), PARAMS)
    expected = [] if similarity is None else [("test 1", "train 1", similarity)]
    assert [(pair.test, pair.learned, pair.similarity) for pair in found] == expected


def test_it_finds_what_comparing_all_with_all_finds() -> None:
    rng = Random("near duplicates")
    vocabulary = [f"w{n}" for n in range(300)]
    learned = [rng.sample(vocabulary, 30) for _ in range(60)]
    tests = [[word if rng.random() > 0.01 else "new" for word in rng.choice(learned)] for _ in range(60)]

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}

    alike = {
        (f"test {a}", f"train {b}")
        for a, test in enumerate(tests)
        for b, read in enumerate(learned)
        if len(runs(test) & runs(read)) >= 0.8 * len(runs(test) | runs(read))
    }
    found = near_duplicates(passages("test", *map(" ".join, tests)), passages("train", *map(" ".join, learned)), PARAMS)
    assert len(alike) > 30 and alike <= {(pair.test, pair.learned) for pair in found}
    assert [pair.similarity for pair in found] == sorted((pair.similarity for pair in found), reverse=True)


def test_pairs_are_sought_across_tasks_and_repetitions_within_files() -> None:
    again = Item("b", QUESTION.replace("all", "once"), "1")
    drawn = {"x": {"test": [Item("a", QUESTION, "1")], "train": [], "valid": [], "shots": []}}
    drawn["y"] = {"test": [], "train": [], "valid": [], "shots": [again]}
    assert [(pair.test, pair.learned) for pair in near_in(drawn, PARAMS)] == [("x/test.jsonl a", "y/shots.jsonl b")]
    loud = Item("c", QUESTION.upper(), "2")
    assert repeated(Pool([drawn["x"]["test"][0], again], [again, loud])) == [["a", "c"]]
