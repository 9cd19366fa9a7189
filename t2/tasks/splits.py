"""Draws the splits of all tasks so that no problem is in two of them, and writes them with a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from t2.config.rows import OTHER, NearDuplicates, Sizes, Task
from t2.files import replace_file
from t2.tasks.classification import categories_of, classification_prompt, classification_reply
from t2.tasks.item import IMAGES, Item, write_items
from t2.tasks.leaks import Passage, refuse_leaks
from t2.tasks.near_duplicates import Pair, near_duplicates
from t2.tasks.prompt import Image, question, shown, with_images

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

    No two items of the result share their canonical question (whatever stands around it) or their id, within a task
    or across tasks: what an earlier task has taken, a later one leaves out; and no two splits show the same image. Each
    task has random generators of its own and tasks are drawn one after the other, so that a further one changes none
    before it.

    Args:
        sizes: Items asked for, by task.
        pools: Items to draw from, by task.
        seed: Together with a task's name and the part of its pool, seeds the generator.

    Raises:
        SplitError: Lists every split that asks for more items than are left.
    """
    taken: set[str] = set()
    places: dict[Path, str] = {}
    drawn: Drawn = {}
    problems = []
    for task, pool in pools.items():
        waiting = {
            part: _shuffled(items, f"splits/{seed}/{task}/{part}")
            for part, items in (("test", pool.test), ("train", pool.train))
        }
        drawn[task] = {}
        for split in NAMES:
            asked = getattr(sizes[task], split)
            available = waiting["test" if split == "test" else "train"]
            drawn[task][split] = items = list(_take(available, asked, taken, places, f"{task}/{split}"))
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


def _take(items: Iterator[Item], n: int, taken: set[str], places: dict[Path, str], split: str) -> Iterator[Item]:
    """Yields up to ``n`` items that are not taken yet, and takes them; what they show, for this split alone."""
    while n > 0 and (item := next(items, None)) is not None:
        keys, files = {item.id, item.question}, [image.path for image in shown(item.prompt)]
        if taken.isdisjoint(keys) and all(places.get(file, split) == split for file in files):
            taken |= keys
            places |= dict.fromkeys(files, split)
            n -= 1
            yield item


def dispatch_splits(name: str, tasks: Mapping[str, Task], drawn: Drawn) -> dict[str, list[Item]]:
    """The items of a task that asks for categories: about those of other tasks, split by split.

    Training and validation items thus come from training and validation splits only.

    Args:
        name: The task, of role ``dispatch``.
        tasks: All of them.
        drawn: The splits of the tasks that it is made of.

    Raises:
        SplitError: A task is asked for more items than its split holds; of role ``other``, as many as there are.
    """
    declared = tasks[name]
    categories = categories_of(declared, tasks)
    splits: dict[str, list[Item]] = {split: [] for split in NAMES}
    for split, items in splits.items():
        asked = getattr(declared.sizes, split)
        for task in declared.source.tasks:  # type: ignore[union-attr]
            available, family = drawn[task][split], tasks[task].family
            if asked > len(available) and tasks[task].role != OTHER:
                raise SplitError(
                    f"tasks.{name}.sizes.{split}: {asked} items per task, but tasks.{task}.sizes.{split} is "
                    f"{len(available)}; lower the one or raise the other"
                )
            for item in available[:asked]:
                prompt = classification_prompt(declared.prompt, item.prompt, categories)
                reply = classification_reply(family)
                items.append(Item(item.id, prompt, answer=family, reply=reply, question=item.question))
    return splits


def near_in(drawn: Drawn, params: NearDuplicates) -> list[Pair]:
    """Test questions that nearly stand in another split, of any of the tasks."""
    tests, learned = (
        [Passage(name, item.question) for name, item in _named(drawn, splits)]
        for splits in (["test"], ["train", "valid", "shots"])
    )
    return near_duplicates(tests, learned, params)


def repeated(pool: Pool) -> list[list[str]]:
    """The ids of what asks the same within the files of a task: one of each can be in a split."""
    ids: dict[str, dict[str, None]] = {}
    for item in (*pool.train, *pool.test):
        ids.setdefault(item.question, {})[item.id] = None
    return [list(some) for some in ids.values() if len(some) > 1]


def refuse_leaked(drawn: Drawn, pretraining: Iterable[Passage] = ()) -> None:
    """Checks what the test items of all tasks ask against everything that is learned from.

    Both the canonical question, which another opener, closer or template cannot hide, and the prompt as a whole may
    stand in no question, prompt or reply. The items of dispatching need no check of their own: what they ask about
    is the tasks'.

    Args:
        drawn: All splits.
        pretraining: The canonical questions that the base models read.

    Raises:
        LeakError: Names all leaks at once.
    """
    tests = [Passage(name, text) for name, item in _named(drawn, ["test"]) for text in sorted(_asked(item))]
    learned = _named(drawn, ["train", "valid", "shots"])
    texts = (Passage(name, text) for name, item in learned for text in (*sorted(_asked(item)), item.reply))
    refuse_leaks(tests, chain(texts, pretraining))


def images_of(drawn: Drawn) -> list[Image]:
    """All images of all splits."""
    return [image for _, item in _named(drawn, NAMES) for image in shown(item.prompt)]


def refuse_shared_images(drawn: Drawn, digests: Mapping[Image, str]) -> None:
    """Checks that no image of a test split is in another split under another name.

    Args:
        drawn: All splits.
        digests: Of their images.

    Raises:
        SplitError: Names every item that shows such an image.
    """
    tested = {digests[image]: name for name, item in _named(drawn, ["test"]) for image in shown(item.prompt)}
    shared = [
        f"{name} shows the image of {tested[digests[image]]}"
        for name, item in _named(drawn, ["train", "valid", "shots"])
        for image in shown(item.prompt)
        if digests[image] in tested
    ]
    if shared:
        raise SplitError(
            "images of test questions are learned from:\n"
            + "\n".join(f"  - {problem}" for problem in shared)
            + "\ntake these questions out of one of the files"
        )


def _asked(item: Item) -> set[str]:
    # "What is this?" about another image asks something else; the canonical question names the image.
    return {item.question} if shown(item.prompt) else {item.question, question(item.prompt)}


def _named(drawn: Drawn, splits: Sequence[str]) -> Iterator[tuple[str, Item]]:
    for task, by_split in drawn.items():
        for split in splits:
            for item in by_split[split]:
                yield f"{task}/{split}.jsonl {item.id}", item


def write(folder: Path, drawn: Drawn, digests: Mapping[Image, str] | None = None) -> dict[str, dict[str, Any]]:
    """Writes ``<task>/<split>.jsonl`` files into a folder that is made anew, and what their items show beside them.

    Args:
        folder: Whose files are lost.
        drawn: All splits.
        digests: Of their images, which are copied to ``<task>/images`` and listed in :data:`t2.tasks.item.IMAGES`.

    Returns:
        Number of items and sha256 of each file, by its name.
    """
    shutil.rmtree(folder, ignore_errors=True)
    files = {}
    for task, splits in drawn.items():
        copies = _Images(folder / task, digests or {})
        for split, items in splits.items():
            path = folder / task / f"{split}.jsonl"
            write_items(path, [replace(item, prompt=with_images(item.prompt, copies.copied)) for item in items])
            digest = sha256(path.read_bytes()).hexdigest()
            files[f"{task}/{split}.jsonl"] = {"n": len(items), "sha256": digest}
        copies.write()
    return files


class _Images:
    """What a task's items show, in its folder, each file once, under the name of its digest."""

    def __init__(self, folder: Path, digests: Mapping[Image, str]) -> None:
        self._folder, self._digests = folder, digests
        self._listed: dict[str, str] = {}

    def copied(self, image: Image) -> Image:
        digest = self._digests[image]
        name = f"images/{digest[:16]}{image.path.suffix.lower()}"
        if name not in self._listed:
            self._listed[name] = digest
            replace_file(self._folder / name, image.path.read_bytes())
        return replace(image, path=self._folder / name, sha256=digest)

    def write(self) -> None:
        if self._listed:
            replace_file(self._folder / IMAGES, json.dumps(self._listed, indent=1, sort_keys=True) + "\n")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes ``manifest.json``; equal contents give equal bytes."""
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
