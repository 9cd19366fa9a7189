"""Profiles: one word for a base model with its tasks and sizes, composed into ``params.yaml``.

A profile is ``profiles/<name>.yaml``. One is complete, ``miniature``; every other says only what differs::

    extends: [paper]      # profiles that are composed first, in this order
    replaces: [trained]   # mappings that are taken whole (dotted names); all others are merged key by key
    base: {name: mine, path: owner/name, revision: <commit>}

Composition edits the text of the complete profile, entry by entry. So comments and layout of what stays remain,
the result is one plain file that DVC, the stages and the flows read, and hand edits of it are possible as before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, NamedTuple, cast

import yaml

from t2 import config
from t2.files import replace_file

PROFILES = Path(__file__).parents[1] / "profiles"
PARAMS = Path("params.yaml")
_OWN_KEYS = ("extends", "replaces")
_HEADER = """\
# Every number of the experiment, typed and validated by t2/config.py before any work starts. Edits may be made here.
# Composed from profiles/{name}.yaml by `make profile PROFILE={name}`.

"""


class ProfileError(ValueError):
    """A profile that does not exist or cannot be composed, or edits that composing would lose."""


class _Profile(NamedTuple):
    """A profile's file, read."""

    text: str
    data: dict[str, Any]


def names() -> list[str]:
    """The profiles that exist, in alphabetical order."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def compose(name: str) -> str:
    """The text of ``params.yaml`` for a profile.

    The comment that opens a profile's file, up to the first blank line, says what the profile is and is left out.

    Raises:
        ProfileError: No such profile, a circle of ``extends``, no complete profile at its root or several, or a file
            that is not a mapping.
        ConfigError: The composed parameters are not valid, all problems at once.
    """
    root, *overlays = _order(name)
    text = _HEADER.format(name=name) + _read(root).text.partition("\n\n")[2]
    for overlay in overlays:
        text = _apply(text, _read(overlay))
    config.parse(yaml.safe_load(text), source=f"profile {name}")
    return text


def load(name: str) -> config.Params:
    """The typed parameters of a profile; raises as :func:`compose`."""
    return config.parse(yaml.safe_load(compose(name)), source=f"profile {name}")


def write(name: str, path: Path = PARAMS, *, force: bool = False) -> bool:
    """Composes a profile into a parameter file, unless its parameters are there already.

    Args:
        name: The profile.
        path: The file.
        force: Overwrite hand edits.

    Returns:
        Whether the file was written.

    Raises:
        ProfileError: As :func:`compose`; or the file holds edits, which means that it equals no profile: they are
            listed against the nearest one.
        ConfigError: As :func:`compose`.
    """
    text = compose(name)
    if path.exists():
        present = yaml.safe_load(path.read_text())
        if present == yaml.safe_load(text):
            return False
        if not force:
            _refuse_edits(present, path, name)
    replace_file(path, text)
    return True


def differences(left: Any, right: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested mappings differ: dotted name, value on the left, value on the right; None where absent."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in dict.fromkeys([*left, *right]):
            yield from differences(left.get(key), right.get(key), f"{where}.{key}" if where else str(key))
    elif left != right:
        yield where, left, right


def _refuse_edits(present: Any, path: Path, name: str) -> None:
    edits = {other: list(differences(present, yaml.safe_load(compose(other)))) for other in names()}
    nearest = min(edits, key=lambda other: len(edits[other]))
    if edits[nearest]:
        lines = "\n".join(f"  - {key}: {ours!r}, not {theirs!r}" for key, ours, theirs in edits[nearest])
        raise ProfileError(
            f"{path} has edits that profile {name} would overwrite; it differs from profile {nearest} in\n{lines}\n"
            f"keep them as a profile of their own (a file in profiles/ with `extends: [{nearest}]`), or overwrite "
            f"them with `make profile PROFILE={name} FORCE=1`"
        )


def _read(name: str) -> _Profile:
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ProfileError(f"there is no profile {name!r}; there are {', '.join(names())}, or make {path}")
    text = path.read_text()
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ProfileError(f"{path} holds no mapping of sections but {type(data).__name__}")
    for key in _OWN_KEYS:
        if not isinstance(data.get(key, []), list):
            raise ProfileError(f"{path}: `{key}` is a list of names, got {data[key]!r}")
    return _Profile(text, data)


def _order(name: str) -> list[str]:
    """The profile and all that it extends, each once, those that are extended first."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ProfileError(f"profiles extend each other in a circle: {' -> '.join((*above, name))}")
        parents = _read(name).data.get("extends", [])
        if not parents and order and name not in order:
            raise ProfileError(f"profile {above[0]!r} has two complete roots, {order[0]!r} and {name!r}; extend one")
        for parent in parents:
            visit(parent, (*above, name))
        if name not in order:
            order.append(name)

    visit(name, ())
    return order


# Text


class _Edit(NamedTuple):
    """Characters ``start`` to ``end`` of a text become ``new``."""

    start: int
    end: int
    new: str


def _apply(text: str, overlay: _Profile) -> str:
    """A complete text with an overlay's entries in it."""
    into, change = _tree(text), _tree(overlay.text)
    change.value = [(key, value) for key, value in change.value if key.value not in _OWN_KEYS]
    edits = list(_edits(text, into, overlay, change, ""))
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text


def _edits(text: str, into: yaml.MappingNode, overlay: _Profile, change: yaml.MappingNode, at: str) -> Iterator[_Edit]:
    present = {key.value: (key, value) for key, value in into.value}
    for key, value in change.value:
        name = f"{at}{key.value}"
        if key.value not in present:
            yield _added(text, into, overlay.text, change, key, value)
            continue
        old_key, old = present[key.value]
        merges = isinstance(old, yaml.MappingNode) and isinstance(value, yaml.MappingNode)
        if merges and name not in overlay.data.get("replaces", []):
            yield from _edits(text, old, overlay, value, f"{name}.")
        elif _data(old) == _data(value):
            continue
        elif into.flow_style:
            yield _Edit(old.start_mark.index, old.end_mark.index, _inline(overlay.text, value))
        else:
            new = _entry(overlay.text, change, key, value)
            start = _first_line(text, old_key, comments=new.startswith("#"))
            yield _Edit(start, _end(text, old_key, old), indent(new, " " * old_key.start_mark.column))


def _added(
    text: str, into: yaml.MappingNode, source: str, change: yaml.MappingNode, key: yaml.Node, value: yaml.Node
) -> _Edit:
    """A new entry behind the last one of a mapping."""
    if into.flow_style or not into.value:
        at = into.end_mark.index - 1
        return _Edit(at, at, f"{', ' if into.value else ''}{key.value}: {_inline(source, value)}")
    last_key, last = into.value[-1]
    at = _end(text, last_key, last)
    return _Edit(at, at, indent(_entry(source, change, key, value), " " * last_key.start_mark.column))


def _entry(text: str, mapping: yaml.MappingNode, key: yaml.Node, value: yaml.Node) -> str:
    """An entry as lines of its own, with its comments, without indentation."""
    if mapping.flow_style:
        return f"{key.value}: {_inline(text, value)}\n"
    lines = text[_first_line(text, key, comments=True) : _end(text, key, value)]
    return dedent(lines if lines.endswith("\n") else f"{lines}\n")


def _inline(text: str, value: yaml.Node) -> str:
    """A value that fits into {braces}."""
    if _is_inline(value):
        return text[value.start_mark.index : value.end_mark.index]
    return str(yaml.safe_dump(_data(value), default_flow_style=True, sort_keys=False, width=10**6)).strip()


def _first_line(text: str, key: yaml.Node, *, comments: bool) -> int:
    """Where the line of a key starts, or the comment lines right above it."""
    start = key.start_mark.index - key.start_mark.column
    while comments and start and text[:start].splitlines()[-1].strip().startswith("#"):
        start = text.rfind("\n", 0, start - 1) + 1
    return start


def _end(text: str, key: yaml.Node, value: yaml.Node) -> int:
    """Behind the last line of an entry in a block mapping; a comment at the end of that line belongs to it."""
    if _is_inline(value):
        newline = text.find("\n", value.end_mark.index)
        return len(text) if newline < 0 else newline + 1
    # A block ends where the next token starts: blank lines and comments before that are not its own.
    lines = text[: value.end_mark.index].splitlines(keepends=True)
    while not lines[-1].strip() or lines[-1].strip().startswith("#"):
        lines.pop()
    return len("".join(lines))


def _tree(text: str) -> yaml.MappingNode:
    return cast(yaml.MappingNode, yaml.compose(text))


def _is_inline(node: yaml.Node) -> bool:
    """Whether a value stands behind its key rather than in lines below it."""
    return not isinstance(node, yaml.CollectionNode) or bool(node.flow_style)


def _data(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_document(node)


def main() -> None:
    """Composes a profile into ``params.yaml``, or lists the profiles."""
    parser = argparse.ArgumentParser(prog="python -m t2.profiles", description=main.__doc__)
    parser.add_argument("name", nargs="?", help="a profile; without it, the profiles are listed")
    parser.add_argument("--to", type=Path, default=PARAMS, help="the file to write (default: params.yaml)")
    parser.add_argument("--force", action="store_true", help="overwrite hand edits")
    options = parser.parse_args()
    if options.name is None:
        for name in names():
            print(f"{name:<16}{_read(name).text.splitlines()[0].lstrip('# ')}")
        return
    try:
        written = write(options.name, options.to, force=options.force)
    except (ProfileError, config.ConfigError) as error:
        sys.exit(str(error))
    print(f"{options.to} {'holds' if written else 'held already'} profile {options.name}")


if __name__ == "__main__":
    main()
