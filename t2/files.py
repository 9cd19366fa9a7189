"""Files that a kill leaves as they were or whole, never in between; and text that is JSON, and Unicode."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_LFS = b"version https://git-lfs"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path``; what the block wrote there then takes the place of ``path``.

    File and folder are synced to disk. If the block raises, ``path`` stays as it was. One process at a time
    may replace a file.

    Args:
        path: The file to write; missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    yield temporary
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def replace_file(path: str | Path, content: bytes | str) -> None:
    """Writes a file as :func:`replacing` does; text as UTF-8, with its line ends as they are."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def parse_json(text: str) -> Any:
    """Reads JSON that comes from outside.

    Raises:
        ValueError: It is no JSON, nested too deeply, or holds half a surrogate pair, which no file can hold again.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.casefold():  # only an escape can bring a half in
            require_unicode(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is a Git LFS pointer, cut, no UTF-8, or holds something else.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, "whole JSON file", error) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def damaged(path: str | Path, kind: str, error: Exception) -> ValueError:
    """The error to raise about a file that cannot be read as the ``kind`` that it should be."""
    with open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            return ValueError(f"{path} is a Git LFS pointer, not the file itself; `git lfs pull` fetches it")
    return ValueError(
        f"{path} is no {kind} ({error}); copy or fetch it again, or, if a stage wrote it, `dvc repro` makes it again"
    )


def require_unicode(text: str) -> None:
    """Refuses text with half a surrogate pair: arguments and JSON can hold one, Unicode text cannot.

    Raises:
        ValueError: Says which one and where.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half, context = ord(text[error.start]), ascii(text[max(0, error.start - 20) : error.end])
        raise ValueError(
            f"no Unicode text: half a surrogate pair, U+{half:04X}, in {context}; write the whole character"
        ) from None


def temporary_name(path: Path) -> Path:
    """Where :func:`replacing` writes; a kill may leave this file behind."""
    return path.with_name(f".{path.name}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: str | Path, frame: pd.DataFrame) -> None:
    """Writes a table atomically and always with the same bytes: six decimals, empty where nothing applies."""
    replace_file(path, to_csv(frame))


def to_csv(frame: pd.DataFrame) -> str:
    """The text that :func:`write_csv` writes."""
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """Reads a table of :func:`write_csv` without pandas, for what is to start at once."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_csv(path: str | Path) -> pd.DataFrame:
    """Reads a table of :func:`write_csv`: seeds and draws are nullable integers, no text is a gap."""
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    for name in frame.columns.intersection(["seed", "draw"]):
        frame[name] = frame[name].astype("Int64")
    for name in frame.columns.intersection(["variant", "against"]):
        frame[name] = frame[name].fillna("").astype(str)
    return frame
