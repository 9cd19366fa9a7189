"""Prompts: what a task's template makes of a problem's fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from t2.config.rows import Prompt as Template

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Message:
    """A turn of a chat; a last one of the assistant's is the opening of the reply, which goes on from there."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[Message, ...]
"""What a user types, alone; or messages, the last user's among them."""


def render(template: Template, fields: Mapping[str, str]) -> Prompt:
    """Fills in a template.

    Args:
        template: System message, user's message, examples and the reply's opening.
        fields: What its user's message may name; braces in their values are plain text.

    Returns:
        The user's text where there is nothing else, else messages.
    """
    user = template.user.format_map(fields)
    if template.system is None and not template.examples and template.prefix is None:
        return user
    chat = [] if template.system is None else [Message("system", template.system)]
    for example in template.examples:
        chat += [Message("user", example.user), Message("assistant", example.reply)]
    chat.append(Message("user", user))
    if template.prefix is not None:
        chat.append(Message("assistant", template.prefix))
    return tuple(chat)


def messages(prompt: Prompt) -> tuple[Message, ...]:
    """A prompt as messages."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def question(prompt: Prompt) -> str:
    """What the user asks: the text of the user's last message."""
    return next(message.content for message in reversed(messages(prompt)) if message.role == "user")


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
