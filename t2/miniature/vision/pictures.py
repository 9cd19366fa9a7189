"""Pictures: signs with numbers or a word, or things on a ground, drawn at random but seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2.miniature.vision.settings import Look
from t2.miniature.vision.things import THINGS, Thing

PLACES = 4
"""Of a picture: its quarters, in reading order; as many image tokens stand for it."""

IMAGE = "<image>"
"""Stands in a prompt for a picture, or for one of its image tokens."""

_FONT = ImageFont.load_default_imagefont()
"""Of pixels, part of Pillow: other fonts are drawn otherwise where FreeType is another."""

_Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, and what is to be read in it.

    Attributes:
        image: RGB.
        reads: What each of :data:`PLACES` image tokens should stand for: the digits, words or things that are to be
            seen, in reading order, then "" for nothing.
        digest: Of its pixels; see :func:`digest`.
    """

    image: Image.Image
    reads: tuple[str, ...]
    digest: str

    def seen(self) -> list[str]:
        """The numbers, the word, or the things."""
        reads = [read.strip() for read in self.reads if read]
        if reads[0].isdigit():
            return list(map("".join, zip(reads[::2], reads[1::2], strict=True)))
        return reads


def digest(image: Image.Image) -> str:
    """What makes a picture this one: a hash of its size and its pixels as RGB, 16 hexadecimal digits.

    However the picture is stored, and whatever it is called.
    """
    rgb = image.convert("RGB")
    return sha256(f"{rgb.width}x{rgb.height} ".encode() + rgb.tobytes()).hexdigest()[:16]


def draw_signs(texts: Sequence[str], rng: Random, look: Look) -> Picture:
    """Signs in the upper and the lower half of a picture.

    Args:
        texts: What each half says, "" for nothing: a number of two digits, or a word where the other says nothing.
        rng: Draws colours, places and noise.
        look: Of pictures.
    """
    image = _ground(rng, look)
    canvas = ImageDraw.Draw(image)
    half = look.size // 2
    for row, text in enumerate(texts):
        if not text:
            continue
        wide, tall = _FONT.getmask(text).size
        room = look.size - wide
        x = room // 2 + _shift(rng, min(look.shift, room // 2))
        y = row * half + (half - tall) // 2 + _shift(rng, look.shift)
        board, ink = _bright(rng, look), _dark(rng, look)
        canvas.rectangle((x - 2, y, x + wide, y + tall - 1), fill=board)
        canvas.text((x, y), text, font=_FONT, fill=ink)
    reads = tuple(read for text in texts for read in (text if text.isdigit() else [f" {text}"] * bool(text)))
    return _finished(image, reads, rng, look)


def draw_things(names: Sequence[str], rng: Random, look: Look) -> Picture:
    """Things, each in its quarter.

    Args:
        names: The thing of each quarter; "" leaves it empty.
        rng: Draws colours, places and noise.
        look: Of pictures.
    """
    quarter = look.size // 2
    colours = [colour for name in names if name for colour in (THINGS[name].body, THINGS[name].parts)]
    image = _ground(rng, look, colours)
    for place, name in enumerate(names):
        if not name:
            continue
        stamp = _stamp(THINGS[name], mirrored=rng.random() < 0.5)
        x, y = (
            cell * quarter + min(max((quarter - length) // 2 + _shift(rng, look.shift), 0), quarter - length)
            for cell, length in zip((place % 2, place // 2), stamp.size, strict=True)
        )
        image.paste(stamp, (x, y), stamp)
    return _finished(image, tuple(f" {name}" for name in names if name), rng, look)


def _ground(rng: Random, look: Look, beside: Sequence[_Colour] = ()) -> Image.Image:
    return Image.new("RGB", (look.size, look.size), _colour_beside(rng, look, beside))


def _colour_beside(rng: Random, look: Look, others: Sequence[_Colour]) -> _Colour:
    """A colour that differs from others by the contrast in one of red, green and blue; from most, if not from all."""
    colour = (0, 0, 0)
    for _ in range(20):
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if all(max(abs(a - b) for a, b in zip(colour, other, strict=True)) >= look.contrast for other in others):
            break
    return colour


def _dark(rng: Random, look: Look) -> _Colour:
    most = (255 - look.contrast) // 2
    return (rng.randint(0, most), rng.randint(0, most), rng.randint(0, most))


def _bright(rng: Random, look: Look) -> _Colour:
    red, green, blue = _dark(rng, look)
    return (255 - red, 255 - green, 255 - blue)


def _shift(rng: Random, most: int) -> int:
    return rng.randint(-most, most)


def _stamp(thing: Thing, *, mirrored: bool) -> Image.Image:
    colours = {"#": thing.body, "+": thing.parts}
    stamp = Image.new("RGBA", (len(thing.rows[0]), len(thing.rows)))
    for y, row in enumerate(thing.rows):
        for x, sign in enumerate(row):
            if sign in colours:
                stamp.putpixel((x, y), (*colours[sign], 255))
    return stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else stamp


def _finished(image: Image.Image, reads: tuple[str, ...], rng: Random, look: Look) -> Picture:
    """With noise, which makes nearly every picture one of its own."""
    pixels = np.asarray(image, dtype=np.int16)
    noise = np.frombuffer(rng.randbytes(pixels.size), dtype=np.uint8).astype(np.int16)
    noise = noise % (2 * look.noise + 1) - look.noise
    noisy = Image.fromarray((pixels + noise.reshape(pixels.shape)).clip(0, 255).astype(np.uint8))
    return Picture(noisy, reads + ("",) * (PLACES - len(reads)), digest(noisy))
