"""Rows of benchmark files, and what is said of a row that is not as expected."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from t2.files import parse_json

T = TypeVar("T")


class SourceError(ValueError):
    """A source is missing, or a row of it is not of its layout."""


@dataclass(frozen=True, slots=True)
class HubSplit:
    """A split of a data set on the Hugging Face hub, at a commit."""

    id: str
    revision: str
    split: str
    subset: str | None = None


Origin = Path | HubSplit
"""A file, a folder of files that hold one row each, or a split on the hub."""


class Row:
    """A JSON object of a source that says where it stands when a field is not as expected.

    Attributes:
        path: The file; for a row from the hub, the data set's id, subset and split as a path.
        number: Counts the source's rows, or a file's lines, from 1.
        fields: The object.
        unit: What is counted: ``row``, ``line``, or ``file`` where each row has a file of its own.
    """

    def __init__(self, path: Path, number: int, fields: Any, unit: str = "row") -> None:
        self.path, self.number, self.unit = path, number, unit
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
            raise self.error(name, f"expected {kind.__name__}, got {value!r:.200}")
        return value

    def strings(self, name: str) -> list[str]:
        """A field that is a list of strings."""
        values = self.get(name, list)
        if not all(isinstance(value, str) for value in values):
            raise self.error(name, f"expected strings, got {values!r:.200}")
        return values

    def objects(self, name: str) -> list[Row]:
        """A field that is a list of objects."""
        return [Row(self.path, self.number, fields, self.unit) for fields in self.get(name, list)]

    def error(self, field: str, problem: str) -> SourceError:
        """What is wrong, with the place to look at."""
        return SourceError(
            f"{self.path}, {self.unit} {self.number}, field {field!r}: {problem}; "
            "correct the row, or the task's `source.layout` where the file is of another kind"
        )


def read_within(path: Path, key: str) -> Iterator[Row]:
    """The rows that a file's one JSON object holds under a key, in their order; it may be packed by gzip.

    Raises:
        SourceError: It cannot be read, or holds something else.
    """
    holder = Row(path, 1, _parse(_text(path), path), unit="object")
    yield from (Row(path, number, fields) for number, fields in enumerate(holder.get(key, list), start=1))


def read(origin: Origin) -> Iterator[Row]:
    """The rows of an origin, in its order; of a folder's files, in the order of their paths.

    A file is a JSON array or has one object per line, and may be packed by gzip.

    Raises:
        SourceError: It cannot be read; says what to bring.
    """
    if isinstance(origin, HubSplit):
        return _read_hub(origin)
    return _read_folder(origin) if origin.is_dir() else _read_file(origin)


def _read_folder(folder: Path) -> Iterator[Row]:
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise SourceError(f"{folder}: no .json file in this folder; correct the task's `source`")
    for number, path in enumerate(files, start=1):
        yield Row(path, number, _parse(_text(path), path), unit="file")


def _read_file(path: Path) -> Iterator[Row]:
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from (Row(path, number, fields) for number, fields in enumerate(_parse(text, path), start=1))
        return
    # Not splitlines(): decoded text may hold other line separators, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Row(path, number, _parse(line, f"{path}, line {number}"), unit="line")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; correct the task's `source`") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: damaged gzip file ({error}); fetch the file again") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text ({error}); bring JSON, or JSON packed by gzip") from None


def _parse(text: str, where: Path | str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise SourceError(f"{where}: not JSON ({error}); fetch the file again") from None


def _read_hub(origin: HubSplit) -> Iterator[Row]:
    name = Path(origin.id, origin.subset or "", origin.split)
    instead = (
        f"or bring its rows as a local file (JSON lines or an array, see data/sources/README.md), name it in "
        f"`source.{origin.split if origin.split in ('train', 'test') else 'train` or `source.test'}` and take "
        "`hub`, `subset` and `revision` out"
    )
    try:
        import datasets
    except ImportError:
        raise SourceError(f"{name}: reading from the hub needs `pip install datasets`; do so, {instead}") from None
    try:
        rows = datasets.load_dataset(origin.id, origin.subset, split=origin.split, revision=origin.revision)
    except (OSError, ValueError) as error:  # no network, HF_HUB_OFFLINE, an unknown id, subset or split
        raise SourceError(
            f"{name} at revision {origin.revision}: not readable from the Hugging Face hub "
            f"({type(error).__name__}: {error}); correct the id, or allow the network (HF_HUB_OFFLINE=0), {instead}"
        ) from None
    yield from (Row(name, number, dict(fields)) for number, fields in enumerate(rows, start=1))
