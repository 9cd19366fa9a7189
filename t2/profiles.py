"""Profiles: one word for a base model with its tasks and sizes, composed into ``params.yaml``.

A profile is ``profiles/<name>.yaml``. One is complete, ``miniature``; every other says only what differs::

    extends: [paper]    # profiles that are composed first, in this order
    replaces: [tasks]   # mappings that are taken whole (dotted names); all others are merged key by key
    bases:
      main: {label: mine, path: owner/name, revision: <commit>}
      control:          # a row with nothing in it is taken out

Comments stay with the entries that they stand above or behind. The result is one plain file that DVC, the stages and
the flows read, written as DVC writes it for ``-S``. Its head says which profile it is and has a digest of its values,
so that later edits are told apart from a profile that has changed since.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from t2 import config
from t2.config import roundtrip
from t2.config.rows import Params
from t2.files import replace_file

PROFILES = Path(__file__).parents[1] / "profiles"
PARAMS = Path("params.yaml")
SHOWN = 20
"""Edits that a refusal lists."""

ROWS = {name for name, field in Params.model_fields.items() if typing.get_origin(field.annotation) is dict}
"""The sections of rows."""

_HEAD = """\
# The experiment as data: rows that name each other, and every number that
# someone may change. Checked by t2/config before any work starts. Edits may be
# made here, by hand or by `dvc exp run -S recipes.svf.train.lr=1e-2`.
# Profile {name}, composed with the values {digest}; `make profile` lists others.

"""
_ORIGIN = re.compile(r"^# Profile (?P<name>\S+), composed with the values (?P<digest>[0-9a-f]{16});", re.MULTILINE)
_OWN_KEYS = ("extends", "replaces")

Outcome = Literal["held", "renewed", "written"]
"""The values were there already; they were an earlier state of the same profile; they were others, or none."""


class ProfileError(ValueError):
    """A profile that does not exist or cannot be composed, or edits that composing would lose."""


def names() -> list[str]:
    """The profiles that exist, in alphabetical order."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def compose(name: str) -> str:
    """The text of ``params.yaml`` for a profile.

    The comment that opens a profile's file, up to the first blank line, says what the profile is and is left out.

    Raises:
        ProfileError: No such profile, a circle of ``extends``, no complete profile at its root or several, a file that
            is not a mapping, or a row to be taken out that is not there.
        ConfigError: The composed parameters are not valid, all problems at once.
    """
    root, *overlays = _order(name)
    composed = roundtrip.read(root.text.partition("\n\n")[2])
    for overlay in overlays:
        _merge(composed, overlay.change, overlay)
    body = roundtrip.write(composed)
    values = roundtrip.values(body)
    config.parse(values, source=f"profile {name}")
    return _HEAD.format(name=name, digest=_digest(values)) + body


def load(name: str) -> config.Params:
    """The typed parameters of a profile; raises as :func:`compose`."""
    return config.parse(roundtrip.values(compose(name)), source=f"profile {name}")


def write(name: str, path: Path = PARAMS, *, force: bool = False) -> Outcome:
    """Composes a profile into a parameter file, unless its parameters are there already.

    Args:
        name: The profile.
        path: The file.
        force: Overwrite hand edits.

    Returns:
        What became of the file.

    Raises:
        ProfileError: As :func:`compose`; or the file holds edits, which are listed: its values are not those that its
            head says were composed.
        ConfigError: As :func:`compose`.
    """
    text = compose(name)
    outcome: Outcome = "written"
    if path.exists():
        present = path.read_text(encoding="utf-8")
        digest = _digest(_values(present, path))
        if digest == _digest(roundtrip.values(text)):
            return "held"
        origin = _ORIGIN.search(present)
        untouched = origin is not None and origin["digest"] == digest
        if not untouched and not force:
            raise _edits(present, path, name)
        if untouched and origin is not None and origin["name"] == name:
            outcome = "renewed"
    replace_file(path, text)
    return outcome


def differences(left: Any, right: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested mappings differ: dotted name, value on the left, value on the right; None where absent.

    Of two that hold the same in another order, which tables and draws follow, the keys are given.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in dict.fromkeys([*left, *right]):
            yield from differences(left.get(key), right.get(key), f"{where}.{key}" if where else str(key))
        if left.keys() == right.keys() and list(left) != list(right):
            yield where, list(left), list(right)
    elif left != right:
        yield where, left, right


def _edits(present: str, path: Path, name: str) -> ProfileError:
    """What a file has that no profile gave it, against the profile that its head names, else the nearest."""
    values, origin = _values(present, path), _ORIGIN.search(present)
    named = [origin["name"]] if origin and origin["name"] in names() else names()
    edits = {other: list(differences(values, roundtrip.values(compose(other)))) for other in named}
    nearest = min(edits, key=lambda other: len(edits[other]))
    lines = [f"  - {key}: {_short(ours)}, not {_short(theirs)}" for key, ours, theirs in edits[nearest]]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"  - and {len(lines) - SHOWN} more"]
    return ProfileError(
        f"{path} has edits that profile {name} would overwrite; it differs from profile {nearest} in\n"
        + "\n".join(lines)
        + f"\nkeep them as a profile of their own (a file in profiles/ with `extends: [{nearest}]`), or overwrite "
        f"them with `make profile PROFILE={name} FORCE=1`"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _values(text: str, path: Path) -> Any:
    try:
        return roundtrip.values(text)
    except YAMLError as error:
        raise ProfileError(f"{path} is not YAML: {error}") from None


def _digest(values: Any) -> str:
    """Of values and their order, which is that of tables and draws."""
    return sha256(json.dumps(values).encode()).hexdigest()[:16]


# Composing


class _Profile(NamedTuple):
    """A profile's file, read.

    Attributes:
        path: The file.
        text: All of it.
        extends: Profiles that are composed first.
        replaces: Dotted names of mappings that are taken whole.
        change: Its other entries.
    """

    path: Path
    text: str
    extends: list[str]
    replaces: list[str]
    change: CommentedMap


def _read(name: str) -> _Profile:
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ProfileError(f"there is no profile {name!r}; there are {', '.join(names())}, or make {path}")
    text = path.read_text(encoding="utf-8")
    found = _values(text, path)
    if not isinstance(found, dict):
        raise ProfileError(f"{path} holds no mapping of sections but {type(found).__name__}")
    change = roundtrip.read(text)
    for key in _OWN_KEYS:
        if not isinstance(change.setdefault(key, []), list):
            raise ProfileError(f"{path}: `{key}` is a list of names, got {change[key]!r}")
    return _Profile(path, text, list(change.pop("extends")), list(change.pop("replaces")), change)


def _order(name: str) -> list[_Profile]:
    """The profile and all that it extends, each once, those that are extended first."""
    order: dict[str, _Profile] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ProfileError(f"profiles extend each other in a circle: {' -> '.join((*above, name))}")
        profile = _read(name)
        if not profile.extends and order and name not in order:
            roots = f"{next(iter(order))!r} and {name!r}"
            raise ProfileError(f"profile {above[0]!r} has two complete roots, {roots}; extend one")
        for parent in profile.extends:
            visit(parent, (*above, name))
        order.setdefault(name, profile)

    visit(name, ())
    return list(order.values())


def _merge(into: CommentedMap, change: CommentedMap, overlay: _Profile, at: str = "") -> None:
    for key, value in change.items():
        name, old = f"{at}{key}", into.get(key)
        if value is None and name.rpartition(".")[0] in ROWS:
            if key not in into:
                raise ProfileError(f"{overlay.path} takes out {name}, which is not there; correct the name")
            del into[key]
        elif isinstance(old, CommentedMap) and isinstance(value, CommentedMap) and name not in overlay.replaces:
            _merge(old, value, overlay, f"{name}.")
        else:
            into[key] = value
            roundtrip.take_comments(key, change, into)


def main() -> None:
    """Composes a profile into ``params.yaml``, or lists the profiles."""
    parser = argparse.ArgumentParser(prog="python -m t2.profiles", description=main.__doc__)
    parser.add_argument("name", nargs="?", help="a profile; without it, the profiles are listed")
    parser.add_argument("--to", type=Path, default=PARAMS, help="the file to write (default: params.yaml)")
    parser.add_argument("--force", action="store_true", help="overwrite hand edits")
    options = parser.parse_args()
    if options.name is None:
        for name in names():
            print(f"{name:<20}{(PROFILES / f'{name}.yaml').read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return
    try:
        outcome = write(options.name, options.to, force=options.force)
    except (ProfileError, config.ConfigError) as error:
        sys.exit(str(error))
    said = {
        "held": "held profile {} already",
        "renewed": "holds profile {}, which had changed since it was composed",
        "written": "holds profile {}",
    }
    print(f"{options.to} {said[outcome].format(options.name)}")


if __name__ == "__main__":
    main()
