"""An item of a benchmark, and files of items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t2.config.rows import Prompt as Template
from t2.files import parse_json, replace_file
from t2.tasks.prompt import Message, Prompt, canonical, opening, question, render


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem before a task's template makes a prompt of it.

    Attributes:
        id: Unique within its source.
        fields: What a template may name.
        answer: As :attr:`Item.answer`.
        reply: As :attr:`Item.reply`, from its beginning.
        options: As :attr:`Item.options`.
        question: What it asks, without what may stand around it. Empty: its fields say it.
    """

    id: str
    fields: Mapping[str, str]
    answer: str
    reply: str = ""
    options: tuple[str, ...] = ()
    question: str = ""

    def item(self, template: Template) -> Item:
        """The problem as an item; of the reply, what comes behind the template's opening of it."""
        prompt = render(template, self.fields)
        reply = _behind(opening(prompt), self.reply)
        return Item(self.id, prompt, self.answer, reply, self.options, canonical(self.question or self._asked()))

    def _asked(self) -> str:
        """The field ``question``, or all there are; the options are part of it, but not their order."""
        asked = self.fields.get("question") or "\n".join(self.fields.values())
        return "\n".join([asked, *sorted(self.options)])


def _behind(opened: str, reply: str) -> str:
    """A reply from where its opening ends, if it begins with that or with the last of its lines."""
    lines = opened.splitlines(keepends=True)
    for first in range(len(lines)):
        if reply.casefold().startswith(begun := "".join(lines[first:]).casefold()):
            return reply[len(begun) :]
    return reply


@dataclass(frozen=True, slots=True)
class Item:
    """One problem.

    Attributes:
        id: Unique within its task.
        prompt: The problem as a user types it, or messages.
        answer: What grading compares with: a number, an expression, an option's letter, a category; for code
            the unit-test program, run after the reply's program.
        reply: A worked reference reply, which next-token training imitates.
        options: The texts that a choice is between, in the prompt's order; empty where it is no choice, or its
            source does not tell them apart.
        question: The canonical form of what is asked, by :func:`t2.tasks.prompt.canonical`: without template, opener,
            closer and order of options. Two items with the same one ask the same. Unless given, that of what the
            user asks.
    """

    id: str
    prompt: Prompt
    answer: str
    reply: str = ""
    options: tuple[str, ...] = ()
    question: str = ""

    def __post_init__(self) -> None:
        if not self.question:
            object.__setattr__(self, "question", canonical(question(self.prompt)))


def read_items(path: str | Path) -> list[Item]:
    """Reads a file with one JSON object per line.

    Raises:
        ValueError: A line is no item; names file and line.
    """
    items = []
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_json(line)
                prompt = row["prompt"]
                if not isinstance(prompt, str):
                    prompt = tuple(Message(**message) for message in prompt)
                items.append(Item(**{**row, "prompt": prompt, "options": tuple(row.get("options", ()))}))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not an item ({error})") from None
    return items


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Writes items so that equal items give equal bytes, to a temporary name first."""
    text = "".join(json.dumps(_row(item), sort_keys=True, ensure_ascii=False) + "\n" for item in items)
    replace_file(path, text)


def _row(item: Item) -> dict[str, Any]:
    row = asdict(item)
    if not item.options:
        del row["options"]
    return row
