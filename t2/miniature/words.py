"""Words of the problems: lists, invented names, and invented facts with a long tail."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")


def words(text: str) -> tuple[str, ...]:
    """The words of a text; lists of words read better so."""
    return tuple(text.split())


NAMES = words("Ann Bob Carl Dora Emma Finn Gus Hana Ivan June Kim Liam")
THINGS = words("apples books coins stamps cards shells pens eggs cups nuts toys keys")
KINDS = {
    "an animal": words("crow wolf trout frog horse snake"),
    "a plant": words("oak fern rose moss tulip pine"),
    "a tool": words("hammer saw drill wrench chisel axe"),
    "a food": words("bread cheese soup cake rice stew"),
}
MONTHS = words("January February March April May June July August September October November December")
_SYLLABLES = words(
    "ba be bo da de do fa fi ga go ka ko la le lu ma mi mo na ne nu pa pe ra ri ro sa se ta ti to va vi wo za zo"
)


def invent(rng: Random, ending: str = "") -> str:
    """A made-up word of two syllables, and an ending."""
    return rng.choice(_SYLLABLES) + rng.choice(_SYLLABLES) + ending


def gazetteer(kind: str, size: int, ending: str) -> tuple[str, ...]:
    """Distinct made-up names, the same in every run, best-known first."""
    rng = Random(f"gazetteer of {kind}")
    return tuple(dict.fromkeys(invent(rng, ending).capitalize() for _ in range(size)))


def fact(name: str, values: Sequence[T]) -> T:
    """What holds for a made-up name: fixed, but nothing in the name tells it."""
    return values[crc32(name.encode()) % len(values)]


def zipf(rng: Random, ranked: Sequence[T]) -> T:
    """Draws with a probability that falls as 1 / rank, so that the last entries are rare."""
    return ranked[int((len(ranked) + 1) ** rng.random()) - 1]
