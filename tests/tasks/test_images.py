"""An image is whole, of an allowed size and kind, or an error names the item that shows it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from visual import LIMITS, picture

from t2.config.rows import Vision
from t2.tasks.images import ImageError, digests, load
from t2.tasks.prompt import Image

ALLOWED = Vision(**LIMITS)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def declare(path: Path, width: int, height: int) -> None:
    """A PNG whose header promises more than it holds."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"few pixels")), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )


def frames(path: Path, format: str, **settings: Any) -> None:
    first = picture(1)
    first.save(path, format=format, save_all=True, append_images=[picture(2)], **settings)


def transparent(path: Path) -> None:
    made = picture(1).convert("P")
    made.save(path, format="PNG", transparency=0)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "no such file; bring it"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "no such file; bring it"),
    "empty": (lambda path: path.write_bytes(b""), "no image of an allowed format"),
    "text": (lambda path: path.write_text("a picture of a dog"), "no image of an allowed format; .* PNG, JPEG"),
    "a pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "a truncated JPEG": (lambda path: (picture(1, (99, 99)).save(path, "JPEG"), cut(path)), "cut or damaged"),
    "a truncated PNG": (lambda path: (picture(1, (99, 99)).save(path, "PNG"), cut(path)), "cut or damaged"),
    "a damaged PNG": (lambda path: declare(path, 32, 32), "cut or damaged"),
    "one bit": (lambda path: picture(1).convert("1").save(path, "PNG"), "mode '1' .* allows modes L, P, RGB"),
    "alpha": (lambda path: picture(1).convert("RGBA").save(path, "PNG"), "mode 'RGBA'"),
    "transparent": (transparent, "transparent, and nothing says what lies behind"),
    "an animated GIF": (lambda path: frames(path, "GIF"), "no image of an allowed format"),
    "an animated PNG": (lambda path: frames(path, "PNG"), "2 frames"),
    "a bomb": (lambda path: declare(path, 20_000, 20_000), "too many pixels for Pillow .* max_pixels 1000000"),
    "large": (lambda path: declare(path, 1001, 1000), "1001 × 1000 pixels; .* max_pixels 1000000: shrink it"),
    "heavy": (lambda path: path.write_bytes(b"\0" * 100_001), "100001 bytes; .* max_bytes 100000: shrink it"),
    "a TIFF": (lambda path: picture(1).save(path, "TIFF"), "no image of an allowed format"),
}


@pytest.fixture
def shown(tmp_path: Path) -> Image:
    picture(1).save(tmp_path / "sign.png")
    return Image(tmp_path / "sign.png", item="textvqa-7")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_an_error_that_names_the_item(name: str, shown: Image) -> None:
    spoil, message = BAD[name]
    spoil(shown.path)
    with pytest.raises(ImageError, match=message) as caught:
        load(shown, ALLOWED)
    assert str(caught.value).startswith(f"item textvqa-7, image {shown.path}: ") and "\n" not in str(caught.value)


def test_a_header_too_large_is_refused_before_anything_is_decoded(
    shown: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PIL.Image.Image, "load", lambda _: pytest.fail("decoded"))
    for size in (1001, 12_000, 20_000):
        declare(shown.path, size, size)
        with pytest.raises(ImageError, match="max_pixels"):
            load(shown, ALLOWED)


def test_an_animation_is_refused_where_its_format_is_allowed(shown: Image) -> None:
    frames(shown.path, "GIF")
    with pytest.raises(ImageError, match="2 frames; a question shows one picture"):
        load(shown, ALLOWED.model_copy(update={"formats": ["GIF"]}))


def test_one_bit_becomes_black_and_white_where_it_is_allowed(shown: Image) -> None:
    picture(1).convert("1").save(shown.path, "PNG")
    found = load(shown, ALLOWED.model_copy(update={"modes": ["1"]}))
    assert found.mode == "RGB" and {colour for _, colour in found.getcolors() or []} == {(0, 0, 0), (255, 255, 255)}


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_pixels_are_what_pillow_makes_of_them(mode: str, shown: Image) -> None:
    saved = picture(1).convert(mode)
    saved.save(shown.path)
    assert load(shown, ALLOWED).tobytes() == saved.convert("RGB").tobytes()


def test_an_image_stands_upright(shown: Image) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned to the right
    picture(1, (20, 10)).save(shown.path, "JPEG", exif=exif, quality=100)
    assert load(shown, ALLOWED).size == (10, 20)


def test_another_file_in_its_place_is_refused(shown: Image) -> None:
    digest = sha256(shown.path.read_bytes()).hexdigest()
    kept = Image(shown.path, digest, shown.item)
    assert load(kept, ALLOWED).size == (32, 32)
    picture(2).save(shown.path)
    with pytest.raises(ImageError, match=r"item textvqa-7, .* not the file that the splits were made with"):
        load(kept, ALLOWED)


def test_all_that_cannot_be_shown_is_named_at_once(tmp_path: Path) -> None:
    names = ["good.png", "missing.png", "text.png"]
    picture(1).save(tmp_path / names[0])
    (tmp_path / names[2]).write_text("no image")
    images = [Image(tmp_path / name, item=f"i-{n}") for n, name in enumerate(names)]
    with pytest.raises(ImageError, match=r"^2 image\(s\) cannot be shown:\n  - item i-1, .*\n  - item i-2, "):
        digests(images, [ALLOWED])
    assert digests(images[:1] * 2, [ALLOWED]) == {images[0]: sha256((tmp_path / names[0]).read_bytes()).hexdigest()}
    with pytest.raises(ImageError, match="1 image"):  # the strictest of all decides
        digests(images[:1], [ALLOWED, ALLOWED.model_copy(update={"max_pixels": 9})])
