"""Draws the splits of all tasks so that no problem is in two of them, and writes them with a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from t2.config import OTHER, Params, Sizes
from t2.tasks.dispatch import classification_prompt, classification_reply
from t2.tasks.item import Item, write_items
from t2.tasks.leaks import Passage, refuse_leaks, tokens

CLASSIFIER = "classifier"
"""The folder of the classifier expert's items, beside those of the tasks."""

NAMES = ("test", "shots", "valid", "train")
"""The splits in the order in which they are drawn: training takes what the others leave."""

Drawn = dict[str, dict[str, list[Item]]]
"""The items by task and split."""


class SplitError(ValueError):
    """The splits that were asked for cannot be made."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What a task's splits are drawn from; both may be the same items.

    Attributes:
        train: For the train, valid and shots splits.
        test: For the test split.
    """

    train: Sequence[Item]
    test: Sequence[Item]


def draw(sizes: Mapping[str, Sizes], pools: Mapping[str, Pool], seed: int) -> Drawn:
    """Draws every split of every task without replacement.

    No two items of the result share their prompt (case and spacing aside) or their id, within a task or
    across tasks. A task's draw has a random generator of its own.

    Args:
        sizes: Items asked for, by task.
        pools: Items to draw from, by task.
        seed: Together with a task's name and the part of its pool, seeds the generator.

    Raises:
        SplitError: Lists every split that asks for more items than are left.
    """
    waiting = {
        (task, part): _shuffled(items, f"splits/{seed}/{task}/{part}")
        for task, pool in pools.items()
        for part, items in (("test", pool.test), ("train", pool.train))
    }
    taken: set[str] = set()
    drawn: Drawn = {task: {} for task in pools}
    problems = []
    for split in NAMES:
        for task in pools:
            asked = getattr(sizes[task], split)
            available = waiting[task, "test" if split == "test" else "train"]
            drawn[task][split] = items = list(_take(available, asked, taken))
            if len(items) < asked:
                problems.append(f"{task}: {split} asks for {asked} items, {len(items)} are left")
    if problems:
        raise SplitError(
            "too few problems for the splits:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
            + "\nask for fewer in the task's `sizes`, or give larger files"
        )
    return drawn


def _shuffled(items: Sequence[Item], name: str) -> Iterator[Item]:
    return iter(Random(name).sample(items, len(items)))


def _take(items: Iterator[Item], n: int, taken: set[str]) -> Iterator[Item]:
    """Yields up to ``n`` items that are not taken yet, and takes them."""
    while n > 0 and (item := next(items, None)) is not None:
        keys = {item.id, " ".join(tokens(item.prompt))}
        if taken.isdisjoint(keys):
            taken |= keys
            n -= 1
            yield item


def classifier_splits(params: Params, drawn: Drawn) -> dict[str, list[Item]]:
    """The classifier expert's items: classification prompts about the trained tasks' items of the same split.

    Its training and validation items thus come from training and validation splits only. ``other`` is among
    them as far as its own splits have items.

    Args:
        params: Says how many items a family gives, and the categories.
        drawn: The tasks' splits and those of ``other``.

    Raises:
        SplitError: A family is asked for more items than its task's split holds.
    """
    families = {name: task.family for name, task in params.trained.items()}
    splits: dict[str, list[Item]] = {split: [] for split in NAMES}
    for split, items in splits.items():
        asked = getattr(params.classifier.per_family, split)
        for task, family in families.items():
            available = drawn[task][split]
            if asked > len(available):
                raise SplitError(
                    f"classifier.per_family.{split}: {asked} items a family, but "
                    f"trained.{task}.sizes.{split} is {len(available)}; lower the one or raise the other"
                )
            items += [_dispatch_item(item, family, params.categories) for item in available[:asked]]
        others = drawn.get(OTHER, {}).get(split, [])
        items += [_dispatch_item(item, OTHER, params.categories) for item in others[:asked]]
    return splits


def _dispatch_item(item: Item, category: str, categories: Sequence[str]) -> Item:
    prompt = classification_prompt(item.prompt, categories)
    return Item(item.id, prompt, answer=category, reply=classification_reply(category))


def refuse_leaked(drawn: Drawn, pretraining: Iterable[Passage] = ()) -> None:
    """Checks the test prompts of all tasks against everything that is learned from.

    The classifier's items need no check of their own: their inner prompts are the tasks'.

    Args:
        drawn: All splits.
        pretraining: What the base model read.

    Raises:
        LeakError: Names all leaks at once.
    """
    tests = [Passage(name, item.prompt) for name, item in _named(drawn, ["test"])]
    learned = _named(drawn, ["train", "valid", "shots"])
    texts = (Passage(name, text) for name, item in learned for text in (item.prompt, item.reply))
    refuse_leaks(tests, chain(texts, pretraining))


def _named(drawn: Drawn, splits: Sequence[str]) -> Iterator[tuple[str, Item]]:
    for task, by_split in drawn.items():
        for split in splits:
            for item in by_split[split]:
                yield f"{task}/{split}.jsonl {item.id}", item


def write(folder: Path, drawn: Drawn) -> dict[str, dict[str, Any]]:
    """Writes ``<task>/<split>.jsonl`` files into a folder that is made anew.

    Returns:
        Number of items and sha256 of each file, by its name.
    """
    shutil.rmtree(folder, ignore_errors=True)
    files = {}
    for task, splits in drawn.items():
        for split, items in splits.items():
            path = folder / task / f"{split}.jsonl"
            write_items(path, items)
            digest = sha256(path.read_bytes()).hexdigest()
            files[f"{task}/{split}.jsonl"] = {"n": len(items), "sha256": digest}
    return files


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes ``manifest.json``; equal contents give equal bytes."""
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
