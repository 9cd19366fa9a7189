"""Images from outside, read by Pillow: whole, of an allowed size and kind, or an error that names the item."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

from t2.config.rows import Vision
from t2.tasks.prompt import Image

if TYPE_CHECKING:
    import PIL.Image

_LFS = b"version https://git-lfs"


class ImageError(ValueError):
    """An image that cannot be shown, or every one that was found, one a line."""


def load(image: Image, limits: Vision) -> PIL.Image.Image:
    """The pixels of an image in RGB, upright as its EXIF orientation says.

    Size and kind are judged by the file's length and header, before anything is decoded.

    Args:
        image: Where it lies, and the digest that it must have if one is known.
        limits: What is allowed.

    Raises:
        ImageError: It is missing, damaged, too large, moving or transparent, of another kind, or not the file that it
            was; names the item.
    """
    return _decoded(image, _bytes(image, limits), limits)


def digest(image: Image, limits: Vision) -> str:
    """The SHA-256 of an image's bytes, in hex; errors as of :func:`load`, as far as they need no decoding."""
    return sha256(_bytes(image, limits)).hexdigest()


def digests(images: Iterable[Image], limits: Sequence[Vision]) -> dict[Image, str]:
    """The SHA-256 of images that each can be shown within all of some limits, at least one.

    Raises:
        ImageError: Names every one that cannot.
    """
    found, problems = {}, []
    for image in dict.fromkeys(images):
        try:
            for allowed in limits:
                load(image, allowed)
                found[image] = digest(image, allowed)
        except ImageError as error:
            problems.append(str(error))
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise ImageError(f"{len(problems)} image(s) cannot be shown:\n{listed}")
    return found


def _bytes(image: Image, limits: Vision) -> bytes:
    try:
        size = image.path.stat().st_size
        if size > limits.max_bytes:
            raise ImageError(
                f"{image}: {size} bytes; bases.*.vision allows max_bytes {limits.max_bytes}: shrink it, or raise that"
            )
        content = image.path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ImageError(
            f"{image}: no such file; bring it, or correct the images folder of the task's source"
        ) from None
    if image.sha256 is not None and sha256(content).hexdigest() != image.sha256:
        raise ImageError(f"{image}: not the file that the splits were made with; make them again (`dvc repro split`)")
    if content.startswith(_LFS):
        raise ImageError(f"{image}: a Git LFS pointer, not the image itself; `git lfs pull` fetches it")
    return content


def _decoded(image: Image, content: bytes, limits: Vision) -> PIL.Image.Image:
    import PIL.Image
    import PIL.ImageOps

    allowed = f"bases.*.vision allows formats {', '.join(limits.formats)}"
    try:
        # The warning is about sizes that the limit decides about.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            opened = PIL.Image.open(BytesIO(content), formats=list[str](limits.formats))
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{image}: no image of an allowed format; {allowed}: convert it, or add its format") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"{image}: too many pixels for Pillow to open; {_allowed_pixels(limits)}") from None
    except Exception as error:  # decoders raise what they like on damaged headers
        raise ImageError(f"{image}: damaged ({error}); copy or fetch it again") from None
    with opened:
        _judge(image, opened, limits)
        try:
            whole: PIL.Image.Image = PIL.ImageOps.exif_transpose(opened).convert("RGB")
        except Exception as error:
            raise ImageError(f"{image}: cut or damaged ({error}); copy or fetch it again") from None
    return whole


def _judge(image: Image, opened: Any, limits: Vision) -> None:
    """Whether what the header says is allowed."""
    width, height = opened.size
    if width * height > limits.max_pixels:
        raise ImageError(f"{image}: {width} × {height} pixels; {_allowed_pixels(limits)}")
    if (frames := getattr(opened, "n_frames", 1)) > 1:
        raise ImageError(f"{image}: {frames} frames; a question shows one picture: save a single frame")
    if opened.mode not in limits.modes:
        raise ImageError(
            f"{image}: mode {opened.mode!r} (Pillow's); bases.*.vision allows modes {', '.join(limits.modes)}: convert "
            "it, or add the mode, whose pixels then become RGB as Pillow's convert has it"
        )
    if opened.has_transparency_data:
        raise ImageError(f"{image}: transparent, and nothing says what lies behind; flatten it")


def _allowed_pixels(limits: Vision) -> str:
    return f"bases.*.vision allows max_pixels {limits.max_pixels}: shrink it, or raise that"
