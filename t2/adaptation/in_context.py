"""Learning in context: shots as worked examples in the prompt, what few-shot adaptation is compared with first."""

from __future__ import annotations

from collections.abc import Sequence

from t2.tasks.item import Item
from t2.tasks.prompt import Message, Prompt, asked, messages, opening


def with_shots(prompt: Prompt, shots: Sequence[Item]) -> Prompt:
    """A prompt with shots and their worked replies as turns before its last one (paper, appendix D).

    Args:
        prompt: Of an item; its system message and its own examples stay in front.
        shots: Other items of the task, in the order in which they are shown.

    Raises:
        ValueError: A shot has no worked reply.
    """
    turns: list[Message] = []
    for shot in shots:
        if not shot.reply:
            raise ValueError(f"{shot.id}: no worked reply to show; in_context needs a source that has them")
        turns.append(asked(shot.prompt))
        turns.append(Message("assistant", opening(shot.prompt) + shot.reply))
    chat = messages(prompt)
    last = max(place for place, message in enumerate(chat) if message.role == "user")
    return (*chat[:last], *turns, *chat[last:])
