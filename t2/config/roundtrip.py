"""A parameter file's text, read and written as DVC does it for ``-S``, so that an override changes one line of it.

DVC writes with ruamel's round trip, after it has replaced every value, lists too, by a plain one.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

ABOVE, BEHIND, BELOW = 1, 2, 3
"""Where ruamel keeps the comments of an entry: above its key, behind key or value, above what is nested in it."""


def values(text: str) -> Any:
    """The plain values of a file, as DVC reads them: ``1e-2`` is a number, ``no`` is a word.

    Raises:
        ruamel.yaml.error.YAMLError: The text is not YAML, or has a key twice.
    """
    return YAML(typ="safe").load(text)


def read(text: str) -> CommentedMap:
    """A file for editing: each comment belongs to the entry that it stands above or behind, and moves with it."""
    data: CommentedMap = _yaml().load(text)
    _lift(data)
    return data


def write(data: CommentedMap) -> str:
    """The text that DVC would write: nothing changes when it is read and written once more."""
    _flatten(data)
    stream = io.StringIO()
    _yaml().dump(data, stream)
    return stream.getvalue()


def take_comments(key: str, source: CommentedMap, target: CommentedMap) -> None:
    """Gives an entry the comments that it has elsewhere; where it has none there, it keeps its own."""
    tokens = target.ca.items.setdefault(key, [None] * 4)
    for place, found in enumerate(source.ca.items.get(key, ())):
        # A blank line is no comment.
        if found and any(token.value.strip() for token in (found if isinstance(found, list) else [found])):
            tokens[place] = found


def _yaml() -> YAML:
    yaml = YAML()
    yaml.default_flow_style = False
    return yaml


def _lift(node: CommentedMap) -> None:
    """Moves comments above a key to it from the value before, where ruamel keeps them."""
    for key, value in node.items():
        tokens = node.ca.items.get(key)
        if isinstance(value, CommentedMap) and value and not value.fa.flow_style():
            if tokens and tokens[BELOW]:
                _set_above(value, next(iter(value)), tokens[BELOW])
                tokens[BELOW] = None
                value.ca.comment = None
            _lift(value)
    for key, following in pairwise(list(node)):
        column = node.lc.key(following)[1]
        if lines := _take_below(node, key):
            marks = (CommentMark(column if line.strip() else 0) for line in lines)
            _set_above(node, following, [*map(CommentToken, lines, marks)])


def _set_above(node: CommentedMap, key: str, tokens: list[CommentToken]) -> None:
    node.ca.items.setdefault(key, [None] * 4)[ABOVE] = tokens


def _take_below(node: CommentedMap | CommentedSeq, key: Any) -> list[str]:
    """Cuts off the lines that follow an entry, from the comment behind the last thing in it."""
    value = node[key]
    if isinstance(value, CommentedMap | CommentedSeq) and value and not value.fa.flow_style():
        return _take_below(value, next(reversed(value)) if isinstance(value, CommentedMap) else len(value) - 1)
    place = BEHIND if isinstance(node, CommentedMap) else 0
    tokens = node.ca.items.get(key)
    if not tokens or tokens[place] is None:
        return []
    behind, _, below = tokens[place].value.partition("\n")
    if behind:
        tokens[place].value = f"{behind}\n"
    else:
        tokens[place] = None
        if isinstance(value, CommentedMap | CommentedSeq):
            value.ca.comment = None
    return [f"{line.strip()}\n" for line in below.splitlines()]


def _flatten(node: CommentedMap) -> None:
    for key, value in node.items():
        if isinstance(value, CommentedMap):
            _flatten(value)
        else:
            node[key] = _plain(value)


def _plain(value: Any) -> Any:
    """A value without ruamel's memory of how it was written."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool):
        return value
    return next((kind(value) for kind in (int, float, str) if isinstance(value, kind)), value)
