"""Test prompts that stand inside text a model learns from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from t2.tasks.prompt import tokens

_GRAM = 8


class LeakError(ValueError):
    """Every leak that was found, one a line."""

    def __init__(self, leaks: list[Leak]) -> None:
        self.leaks = leaks
        lines = "\n".join(f"  - {leak.test} stands inside {leak.text}" for leak in leaks)
        super().__init__(
            f"{len(leaks)} test prompt(s) stand inside text that a model learns from:\n{lines}\n"
            "choose another `splits.seed`, or take these problems out of one of the files"
        )


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and what to call it in a message."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Leak:
    """The name of a test prompt and of the text in which it stands."""

    test: str
    text: str


def refuse_leaks(tests: Iterable[Passage], texts: Iterable[Passage]) -> None:
    """Checks that no test prompt stands inside a text, word for word, whatever its case and spacing.

    Args:
        tests: The test prompts, without the classification prompt that may be put around them, and what they ask.
        texts: Everything that is learned from: prompts, questions and replies of training, validation and shots, and
            the questions of pretraining.

    Raises:
        LeakError: Names all leaks at once.
    """
    leaks = list(dict.fromkeys(_find(tests, texts)))
    if leaks:
        raise LeakError(leaks)


def _find(tests: Iterable[Passage], texts: Iterable[Passage]) -> Iterator[Leak]:
    """Looks each test prompt up by its rarest run of words: how prompts open, many have in common."""
    prompts = [(test.name, words) for test in tests if (words := tokens(test.text))]
    counts = Counter(gram for _, words in prompts for gram in _grams(words, min(_GRAM, len(words))))
    by_size: dict[int, dict[tuple[str, ...], list[tuple[str, list[str], int]]]] = {}
    for name, words in prompts:
        size = min(_GRAM, len(words))
        offset, gram = min(enumerate(_grams(words, size)), key=lambda entry: counts[entry[1]])
        by_size.setdefault(size, {}).setdefault(gram, []).append((name, words, offset))
    for text in texts:
        read = tokens(text.text)
        for size, wanted in by_size.items():
            if wanted.keys().isdisjoint(_grams(read, size)):
                continue
            for position, gram in enumerate(_grams(read, size)):
                for name, words, offset in wanted.get(gram, ()):
                    start = position - offset
                    if start >= 0 and read[start : start + len(words)] == words:
                        yield Leak(name, text.name)


def _grams(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)
