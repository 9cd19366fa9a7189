"""Questions about images, graded as VQA's evaluation does it (arXiv 1505.00468, https://visualqa.org/evaluation).

A reply is worth what it shares with ten people: for each of them min(1, agreeing others / 3), and the mean of that.
Before answers are compared, both sides are written alike: without articles and most punctuation, numbers as digits,
contractions with their apostrophes. The published script leaves that out where all ten answers are the same, and one
later evaluation server does not; here it is always done.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

ENOUGH = 3
"""So many others that agree make an answer right."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
    y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, sign in enumerate(word)
    if sign == "'"
} | {"somebody'd": "somebodyd", "someonell": "someone'll"}  # as the published table has these two
"""Words in which one apostrophe is missing."""

_STATED = re.compile(r"(?i:\bthe answer is)\b:?[ \t]*(?P<answer>[^\n]*)")


def written(references: Sequence[str]) -> str:
    """The references of an item as its answer holds them."""
    return json.dumps(list(references), ensure_ascii=False)


def references(answer: str) -> list[str]:
    """The references that an item's answer holds.

    Raises:
        ValueError: It holds no list of two or more strings.
    """
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) < 2 or not all(isinstance(entry, str) for entry in found):
        raise ValueError(
            f"the answer of a vqa item is a JSON list of what people said, got {answer!r:.100}; correct the item"
        )
    return found


def usual(references: Sequence[str]) -> str:
    """What most people said; of equals, who was asked first."""
    return Counter(references).most_common(1)[0][0]


def processed(text: str) -> str:
    """An answer as it is compared."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = _GROUPED.search(text) is not None
    bare = text
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        bare = bare.replace(sign, "" if beside_space or grouped else " ")
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub("", bare).lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(reply: str, references: Sequence[str]) -> float:
    """The official accuracy of an answer, in [0, 1].

    Args:
        reply: The answer alone.
        references: What R people said, usually ten.

    Returns:
        The mean over r of min(1, how many of the other R − 1 said the same / 3).
    """
    said = processed(reply)
    agreeing = [processed(reference) == said for reference in references]
    others = sum(agreeing)
    return sum(min(1.0, (others - agrees) / ENOUGH) for agrees in agreeing) / len(agreeing)


def stated(reply: str) -> str | None:
    """What a reply gives in its last sentence "The answer is …", up to the line's end; None where it has none."""
    found = [match["answer"].strip() for match in _STATED.finditer(reply)]
    return found[-1] if found else None


def credit(answer: str, reply: str, *, statement: bool, flexible: bool = False) -> float:
    """The accuracy of what is read in a reply; where nothing is, 0.

    Args:
        answer: As :func:`written` makes it.
        reply: What is graded.
        statement: Whether the reply has to say "The answer is …"; else all of it is the answer, as VQA has it.
        flexible: The other way counts too, where it gives more.
    """
    people = references(answer)
    found = stated(reply)
    whole, read = accuracy(reply, people), 0.0 if found is None else accuracy(found, people)
    return max(whole, read) if flexible else read if statement else whole
