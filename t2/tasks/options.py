"""The options of a choice in another order: so that where an answer stands teaches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t2.tasks.choice import LETTERS, options
from t2.tasks.item import Item
from t2.tasks.prompt import messages


def letters(item: Item) -> str:
    """The letters of an item's options."""
    return LETTERS[: len(item.options)]


def reordered(item: Item, order: Sequence[int]) -> Item:
    """An item with its options in another order, and its answer where the right one now stands.

    Args:
        item: A choice.
        order: Which option comes first, second and so on, as indices into ``item.options``.

    Returns:
        The item without its worked reply, which may speak of letters.

    Raises:
        ValueError: The item has no options, or its last user's message does not hold them once, as
            :func:`t2.tasks.choice.options` writes them.
    """
    chat, shown = list(messages(item.prompt)), options(item.options)
    last = max(place for place, message in enumerate(chat) if message.role == "user")
    if not item.options or chat[last].content.count(shown) != 1:
        raise ValueError(
            f"item {item.id}: its prompt does not hold its options once, so they cannot be shuffled; name {{options}} "
            "once in the task's prompt.user, of a layout that has them, and make the splits again"
        )
    texts = [item.options[place] for place in order]
    chat[last] = replace(chat[last], content=chat[last].content.replace(shown, options(texts)))
    prompt = chat[0].content if isinstance(item.prompt, str) else tuple(chat)
    answer = LETTERS[list(order).index(LETTERS.index(item.answer))]
    return replace(item, prompt=prompt, answer=answer, reply="", options=tuple(texts))
