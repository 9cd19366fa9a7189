"""Items from the files of public benchmarks, in the layouts in which these are published.

GSM8K: https://github.com/openai/grade-school-math. MBPP, full and sanitized:
https://github.com/google-research/google-research/tree/master/mbpp. ARC: https://allenai.org/data/arc, and
the Hugging Face layout of the same rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from t2.tasks import choice, math
from t2.tasks.item import Item

Part = Literal["train", "test"]
T = TypeVar("T")

VERSIONS = {"miniature": 2, "gsm8k": 1, "mbpp": 1, "arc": 1}
"""Raised whenever a layout, or the miniature's generators, make other items than before; in the manifest."""

_MBPP_TEST = {f"mbpp-{number}" for number in range(11, 511)}
_CALCULATOR = re.compile(r"<<[^<>]*>>")


class SourceError(ValueError):
    """A source file is missing, or a row of it is not of its layout."""


class Row:
    """A JSON object of a source file that says where it stands when a field is not as expected."""

    def __init__(self, path: Path, place: str, fields: Any) -> None:
        self.path, self.place = path, place
        if not isinstance(fields, dict):
            raise self.error("row", f"expected an object, got {type(fields).__name__}")
        self.fields = fields

    def get(self, name: str, kind: type[T]) -> T:
        """A field of the given type; a dotted name reaches into nested objects."""
        value: Any = self.fields
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise self.error(name, "missing")
            value = value[part]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(name, f"expected {kind.__name__}, got {value!r}")
        return value

    def strings(self, name: str) -> list[str]:
        """A field that is a list of strings."""
        values = self.get(name, list)
        if not all(isinstance(value, str) for value in values):
            raise self.error(name, f"expected strings, got {values!r}")
        return values

    def error(self, field: str, problem: str) -> SourceError:
        """What is wrong, with the place to look at."""
        return SourceError(
            f"{self.path}, {self.place}, field {field!r}: {problem}; "
            "correct the row, or the task's `source.layout` where the file is of another kind"
        )


def load(layout: str, path: str | Path, part: Part | None = None) -> list[Item]:
    """Reads a benchmark file.

    Args:
        layout: ``gsm8k``, ``mbpp`` (the full file's lines, or the sanitized array) or ``arc`` (AI2's lines,
            or the Hugging Face array).
        path: The file.
        part: MBPP is one file that is divided by ``task_id``: ``test`` takes 11 to 510, ``train`` the
            others. The other benchmarks have a file for each part, and this changes nothing.

    Returns:
        An item a row, in the order of the file. Ids: ``gsm8k-<file>-<line>``, ``mbpp-<task_id>`` (the same
        in both files of MBPP) and ARC's own.

    Raises:
        SourceError: No such file, an odd row (named by line and field), or an id that occurs twice.
        ValueError: An unknown layout.
    """
    if layout not in _READERS:
        raise ValueError(f"a source file's layout is one of {', '.join(_READERS)}; got {layout!r}")
    items: dict[str, Item] = {}
    for row in _rows(Path(path)):
        item = _READERS[layout](row)
        if item.id in items:
            raise row.error("id", f"{item.id!r} occurs twice")
        items[item.id] = item
    if layout == "mbpp" and part is not None:
        return [item for item in items.values() if (item.id in _MBPP_TEST) == (part == "test")]
    return list(items.values())


def _rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON array or of a file with one object a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; correct the task's `source`") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text ({error}); unpack a packed file first") from None
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise SourceError(f"{path}: not JSON ({error}); fetch the file again") from None
        yield from (Row(path, f"row {count}", fields) for count, fields in enumerate(rows, start=1))
        return
    # Not splitlines(): decoded text may hold other line separators, such as U+2028.
    for count, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise SourceError(f"{path}, line {count}: not JSON ({error}); fetch the file again") from None
        yield Row(path, f"line {count}", fields)


def _gsm8k(row: Row) -> Item:
    worked = _CALCULATOR.sub("", row.get("answer", str))
    value = math.final_number(worked)
    if value is None:
        raise row.error("answer", "no last line `#### n`")
    return Item(
        id=f"gsm8k-{row.path.stem}-{row.place.removeprefix('line ')}",
        prompt=f"{row.get('question', str)}\nEnd with a line `#### n`, where n is the answer.",
        answer=str(value),
        reply=worked,
    )


def _mbpp(row: Row) -> Item:
    text = row.get("text" if "text" in row.fields else "prompt", str)
    asserts = row.strings("test_list")
    if not asserts:
        raise row.error("test_list", "no tests")
    sanitized = "test_imports" in row.fields
    before = row.strings("test_imports") if sanitized else [row.get("test_setup_code", str)]
    tests = "\n".join(line for line in [*before, *asserts] if line)
    return Item(
        id=f"mbpp-{row.get('task_id', int)}",
        prompt="\n".join([text, "It has to pass these tests:", *asserts, "Reply with Python code only."]),
        answer=_unix(tests),
        reply=_unix(row.get("code", str)),
    )


def _arc(row: Row) -> Item:
    if isinstance(row.fields.get("question"), str):
        stem = row.get("question", str)
        texts, labels = row.strings("choices.text"), row.strings("choices.label")
    else:
        stem = row.get("question.stem", str)
        choices = [Row(row.path, row.place, fields) for fields in row.get("question.choices", list)]
        texts = [entry.get("text", str) for entry in choices]
        labels = [entry.get("label", str) for entry in choices]
    if len(texts) != len(labels) or not 2 <= len(labels) <= len(choice.LETTERS):
        raise row.error("choices", f"expected 2 to {len(choice.LETTERS)} labelled options, got {labels}")
    key = row.get("answerKey", str)
    if key not in labels:
        raise row.error("answerKey", f"{key!r} is none of the labels {labels}")
    letter = choice.LETTERS[labels.index(key)]  # by position: some rows are labelled 1 to 4
    return Item(
        id=row.get("id", str),
        prompt=f'{stem}\n{choice.options(texts)}\nReply with "{choice.statement("X")}", where X is a letter.',
        answer=letter,
        reply=choice.statement(letter),
    )


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


_READERS: dict[str, Callable[[Row], Item]] = {"gsm8k": _gsm8k, "mbpp": _mbpp, "arc": _arc}
