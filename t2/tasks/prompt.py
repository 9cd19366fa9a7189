"""Prompts: what a task's template makes of a problem's fields, with images where it shows any."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from t2.config.rows import Prompt as Template

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Image:
    """A file that a message shows; :mod:`t2.tasks.images` reads it.

    Attributes:
        path: Where it lies.
        sha256: The digest of its bytes; None: not known yet.
        item: The id of the item that shows it, for messages about the file.
    """

    path: Path
    sha256: str | None = None
    item: str = ""

    def __str__(self) -> str:
        return f"item {self.item}, image {self.path}" if self.item else f"image {self.path}"


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a chat; a last one of the assistant's is the opening of the reply, which goes on from there.

    Attributes:
        role: Whose turn it is.
        content: What is said.
        images: What is shown, in front of that.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    images: tuple[Image, ...] = ()


Prompt = str | tuple[Message, ...]
"""What a user types, alone; or messages, the last user's among them."""


def render(template: Template, fields: Mapping[str, str], images: Sequence[Image] = ()) -> Prompt:
    """Fills in a template.

    Args:
        template: System message, user's message, examples and the reply's opening.
        fields: What its user's message may name; braces in their values are plain text.
        images: What the user's message shows.

    Returns:
        The user's text where there is nothing else, else messages.
    """
    user = template.user.format_map(fields)
    if template.system is None and not template.examples and template.prefix is None and not images:
        return user
    chat = [] if template.system is None else [Message("system", template.system)]
    for example in template.examples:
        chat += [Message("user", example.user), Message("assistant", example.reply)]
    chat.append(Message("user", user, tuple(images)))
    if template.prefix is not None:
        chat.append(Message("assistant", template.prefix))
    return tuple(chat)


def messages(prompt: Prompt) -> tuple[Message, ...]:
    """A prompt as messages."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def asked(prompt: Prompt) -> Message:
    """The user's last message."""
    return next(message for message in reversed(messages(prompt)) if message.role == "user")


def question(prompt: Prompt) -> str:
    """What the user asks: the text of the user's last message."""
    return asked(prompt).content


def shown(prompt: Prompt) -> tuple[Image, ...]:
    """All that a prompt shows, in its order."""
    return tuple(image for message in messages(prompt) for image in message.images)


def with_images(prompt: Prompt, change: Callable[[Image], Image]) -> Prompt:
    """A prompt that shows others in the place of its images."""
    if not shown(prompt):
        return prompt
    return tuple(replace(message, images=tuple(map(change, message.images))) for message in messages(prompt))


def tokens(text: str) -> list[str]:
    """Words and punctuation marks; texts with equal tokens differ in case and spacing at most."""
    return _TOKEN.findall(text.casefold())


def canonical(question: str) -> str:
    """A question as it is compared: its tokens, so that case and spacing make no other question of it."""
    return " ".join(tokens(question))


def opening(prompt: Prompt) -> str:
    """How the reply to a prompt opens; empty where the prompt does not say."""
    last = messages(prompt)[-1]
    return last.content if last.role == "assistant" else ""
