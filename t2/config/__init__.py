"""The typed view of ``params.yaml``, validated before any work starts. Torch-free and cheap to import.

:func:`load` reads a file, checks every row and every relation between rows, and raises one :class:`ConfigError` that
lists *all* that is wrong. No result depends on this code: stages depend on the values, which DVC compares.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml.error import YAMLError

from t2.config import folder, roundtrip
from t2.config.checks import relations
from t2.config.rows import Params


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one line each."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(
            f"{source} is not a valid configuration; {len(problems)} problem(s):\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )


def load(path: str | Path = "params.yaml", main: str | Path | None = None) -> Params:
    """Reads and validates a parameter file.

    Args:
        path: The YAML file.
        main: The main run's file, where ``path`` is that of an experiment folder, which may take rows from it.

    Returns:
        The typed parameters; those of a folder hold the rows that it takes, see :attr:`t2.config.rows.Params.taken`.

    Raises:
        ConfigError: Lists every unknown key, missing key, bad value and broken relation at once.
    """
    try:
        raw = roundtrip.values(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(str(path), [f"no such file; run from the project's root (here: {os.getcwd()})"]) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not YAML: {error}"]) from None
    return parse(raw, source=str(path), main=None if main is None else load(main))


def parse(raw: Any, *, source: str = "params", main: Params | None = None) -> Params:
    """Validates parameters that are already in memory; see :func:`load`."""
    if not isinstance(raw, dict):
        raise ConfigError(source, [f"expected a mapping of sections, got {type(raw).__name__}"])
    unknown = raw.keys() - Params.model_fields.keys()
    problems = [f"{name}: unknown section; remove it or correct its spelling" for name in unknown]
    taken: frozenset[str] = frozenset()
    if main is not None:
        raw, taken, refused = folder.resolve(raw, dump(main))
        problems += refused
    valid: dict[str, Any] = {}
    for name, field in Params.model_fields.items():
        if name not in raw:
            problems.append(f"{name}: missing; every section is written out")
            continue
        try:
            valid[name] = TypeAdapter(cast(Any, field.rebuild_annotation())).validate_python(raw[name])
        except ValidationError as error:
            problems += [_describe(name, entry) for entry in error.errors()]
    problems += relations(valid, None if main is None else taken)
    if problems:
        raise ConfigError(source, sorted(problems))
    return Params(**valid).with_taken(taken)


def dump(params: Params) -> dict[str, Any]:
    """Parameters as plain values, equal to those that they were read from."""
    return folder.unresolve(params.model_dump(), params.taken)


def _describe(section: str, entry: Any) -> str:
    """One pydantic error as 'where: what is wrong (got …)'."""
    # The tags of unions and of keys are no part of the file: pydantic names them in between.
    where = ".".join(str(part) for part in (section, *entry["loc"]) if not str(part).startswith(("<", "[")))
    if entry["loc"] and entry["loc"][-1] == "[key]":
        return f"{where}: a row's name has letters, digits, - and _ only; rename it"
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key; remove it or correct its spelling"
    if entry["type"] == "missing":
        return f"{where}: missing; every parameter is written out"
    said, got = entry["msg"].removeprefix("Value error, "), entry["input"]
    # What a whole row is stands in the file.
    return f"{where}: {said}" if isinstance(got, dict) else f"{where}: {said} (got {got!r})"
