"""Tasks whose questions are another's: with the options elsewhere, or with answers that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from t2.config.rows import Derived, Rotated, Sizes
from t2.tasks.item import Item
from t2.tasks.options import letters, reordered


def derive(source: Derived, sizes: Sizes, drawn: Mapping[str, Mapping[str, Sequence[Item]]]) -> dict[str, list[Item]]:
    """The splits of such a task: the first items of those of the task that its source names.

    Args:
        source: Says which task, and what becomes of its items.
        sizes: At most those of that task.
        drawn: The splits by task.

    Raises:
        ValueError: Items without options.
    """
    firsts = {split: items[: getattr(sizes, split)] for split, items in drawn[source.task].items()}
    if isinstance(source, Rotated):
        return {split: [rotated(item, source.by) for item in items] for split, items in firsts.items()}
    return {split: [redrawn(item, source.seed) for item in items] for split, items in firsts.items()}


def rotated(item: Item, by: int) -> Item:
    """An item with its options ``by`` places further on, the last ones first.

    Raises:
        ValueError: As :func:`t2.tasks.options.reordered`.
    """
    count = len(item.options)
    return reordered(item, [(place - by) % count for place in range(count)])


def redrawn(item: Item, seed: int) -> Item:
    """An item with one of its options' letters as its answer, whichever: by the seed and the item's id.

    Raises:
        ValueError: It has no options.
    """
    if not item.options:
        raise ValueError(f"item {item.id} has no options to draw an answer from; name a task of choices")
    return replace(item, answer=Random(f"redrawn/{seed}/{item.id}").choice(letters(item)), reply="")
