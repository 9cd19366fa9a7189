"""An item of a benchmark, and files of items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from t2.config.rows import Prompt as Template
from t2.files import parse_json, read_json, replace_file
from t2.tasks.prompt import Image, Message, Prompt, canonical, opening, question, render

IMAGES = "images.json"
"""Beside files of items that show images: the SHA-256 of each, by its path from there."""


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
        images: Files that the user's message shows.
    """

    id: str
    fields: Mapping[str, str]
    answer: str
    reply: str = ""
    options: tuple[str, ...] = ()
    question: str = ""
    images: tuple[Path, ...] = ()

    def item(self, template: Template) -> Item:
        """The problem as an item; of the reply, what comes behind the template's opening of it."""
        prompt = render(template, self.fields, [Image(path, item=self.id) for path in self.images])
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
            the unit-test program, run after the reply's program; for vqa what several people said, as a JSON list.
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
    """Reads a file with one JSON object per line. Images are not looked at here, nor need they be there.

    Raises:
        ValueError: A line is no item, or shows an image that :data:`IMAGES` does not list; names file and line.
    """
    items = []
    shown = _Shown(Path(path).parent)
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_json(line)
                prompt = row["prompt"]
                if not isinstance(prompt, str):
                    prompt = tuple(shown.message(message, row["id"]) for message in prompt)
                items.append(Item(**{**row, "prompt": prompt, "options": tuple(row.get("options", ()))}))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: not an item ({error})") from None
    return items


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Writes items so that equal items give equal bytes, to a temporary name first; their images lie in its folder."""
    folder = Path(path).parent
    text = "".join(json.dumps(_row(item, folder), sort_keys=True, ensure_ascii=False) + "\n" for item in items)
    replace_file(path, text)


def _row(item: Item, folder: Path) -> dict[str, Any]:
    row = asdict(item)
    if not item.options:
        del row["options"]
    if not isinstance(item.prompt, str):
        row["prompt"] = [_turn(message, folder) for message in item.prompt]
    return row


def _turn(message: Message, folder: Path) -> dict[str, Any]:
    shown = [image.path.relative_to(folder).as_posix() for image in message.images]
    return {"role": message.role, "content": message.content, **({"images": shown} if shown else {})}


class _Shown:
    """The images of a folder's items."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _digests(self) -> dict[str, Any]:
        return read_json(self._folder / IMAGES)

    def message(self, turn: Mapping[str, Any], item: str) -> Message:
        """A turn of an item's prompt.

        Raises:
            ValueError: It shows what is not listed, or lies elsewhere.
        """
        names = turn.get("images", [])
        return Message(**{**turn, "images": tuple(self._image(name, item) for name in names)})

    def _image(self, name: str, item: str) -> Image:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"item {item} shows {name!r}, which lies outside of {self._folder}; make the splits again")
        digest = self._digests.get(name) if (self._folder / IMAGES).is_file() else None
        if not isinstance(digest, str):
            raise ValueError(f"item {item} shows {name!r}, which {IMAGES} does not list; make the splits again")
        return Image(self._folder / name, digest, item)
