"""What a client of the served model sends: prompts, and the images that they show."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from t2.config.rows import Vision
from t2.tasks.prompt import Image, Message, Prompt

_FORM = 'send each as a string: {"dataframe_records": [{"prompt": "What is 3+4?"}]}'
_BASE64 = "send the file's bytes as base64, of one line (`base64 -w0 sign.png`), or as a URI: data:image/png;base64,…"
_URI = re.compile(r"data:image/[^;,]+;base64,", re.IGNORECASE)


class _Sent(Image):
    """An image of a request. A client knows no path: messages name its place in the request, as ``item`` says it."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.item


@contextmanager
def read_prompts(rows: pd.DataFrame, limits: Vision | None) -> Iterator[list[Prompt]]:
    """The prompts of a request; their images are files, as those of all prompts are, until the end.

    Args:
        rows: One a prompt. ``prompt``: a string. ``image``, which may be missing: base64 (RFC 4648, section 4), or a
            data URI of that; a list of such; or null.
        limits: What the base is shown; None: it reads text alone.

    Raises:
        ValueError: There is no prompt, or one that is no text; or an image is no base64 or larger than allowed, or the
            base reads text alone. Who looks at an image says whether it is one.
    """
    prompts = _column(rows, "prompt")
    if not prompts:
        raise ValueError(f"the request holds no prompts; {_FORM}")
    for row, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {row} is {_shown(prompt)}, which is no text; {_FORM}")
    sent = [_listed(value) for value in _column(rows, "image")]
    if not any(sent):
        yield prompts
        return
    if limits is None:
        row = next(row for row, images in enumerate(sent) if images)
        raise ValueError(
            f"prompt {row} shows an image, and the base model reads text alone; leave `image` out, or ask a model that "
            "was published over a base with `vision` in its row"
        )
    with TemporaryDirectory(prefix="t2-images-") as folder:
        yield [
            _showing(prompt, row, images, Path(folder), limits)
            for row, (prompt, images) in enumerate(zip(prompts, sent, strict=True))
        ]


def _column(rows: pd.DataFrame, name: str) -> list[Any]:
    return rows[name].tolist() if name in rows else []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if _is_null(value) else [value]


def _is_null(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _shown(value: Any) -> str:
    return "null" if _is_null(value) else ascii(value)[:100]


def _showing(prompt: str, row: int, images: Sequence[Any], folder: Path, limits: Vision) -> Prompt:
    """A prompt and its images, which are written to files."""
    found = []
    for number, encoded in enumerate(images):
        name = f"image {number} of prompt {row}"
        content = _decoded(encoded, name, limits)
        path = folder / f"{row}-{number}"
        path.write_bytes(content)
        found.append(_Sent(path, sha256(content).hexdigest(), name))
    return (Message("user", prompt, tuple(found)),) if found else prompt


def _decoded(encoded: Any, name: str, limits: Vision) -> bytes:
    """The bytes of an image, whose number is known before they are decoded."""
    if not isinstance(encoded, str):
        raise ValueError(f"{name} is {_shown(encoded)}, which is no text; {_BASE64}")
    begin = uri.end() if (uri := _URI.match(encoded)) else 0
    size = (len(encoded) - begin) // 4 * 3 - encoded[-2:].count("=")
    if size > limits.max_bytes:
        raise ValueError(f"{name} has {size} bytes; this model is shown files of {limits.max_bytes} at most: shrink it")
    try:
        return b64decode(encoded[begin:], validate=True)
    except ValueError as error:
        raise ValueError(f"{name} is no base64 ({error}): {_shown(encoded)}; {_BASE64}") from None
