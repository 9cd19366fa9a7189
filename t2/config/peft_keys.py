"""The keys of PEFT's methods, read from the source of their configuration classes.

Importing PEFT takes seconds, and a parameter file is checked at the start of every program.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

OWN = {"SVF": Path(__file__).parents[1] / "svf" / "config.py"}
"""Configurations of methods that are not PEFT's own."""

GIVEN = {
    "base_model_name_or_path",
    "basis",
    "basis_fingerprint",
    "inference_mode",
    "init_seed",
    "layers_to_transform",
    "quantisation",
    "revision",
    "seed",
    "task",
    "task_type",
}
"""Keys that this project sets: from a recipe's layers and seeds, from its base and task."""


@cache
def config_keys(peft_type: str) -> frozenset[str] | None:
    """The keys of a method's configuration.

    Args:
        peft_type: A PEFT method, ``SVF`` or ``LORA``.

    Returns:
        What the class takes as arguments; None where PEFT has no such method.
    """
    source = OWN.get(peft_type, _package("peft") / "tuners" / peft_type.lower() / "config.py")
    if peft_type != peft_type.upper() or not source.is_file():
        return None
    # A base class may stand in the same file: the method's own is the one that sets its type.
    marks = (f"PeftType.{peft_type}", f"PeftType('{peft_type}')")
    for node in _parse(source).body:
        if isinstance(node, ast.ClassDef) and any(mark in ast.unparse(node) for mark in marks):
            return frozenset(_fields(source, node.name))
    return None


def _fields(path: Path, name: str) -> set[str]:
    """The fields of a dataclass and of those that it inherits from, wherever they are imported from."""
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            inherited = [_fields(path, base.id) for base in node.bases if isinstance(base, ast.Name)]
            return _own_fields(node).union(*inherited)
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            found = _module(path, node)
            return set() if found is None else _fields(found, name)
    return set()


def _own_fields(node: ast.ClassDef) -> set[str]:
    return {
        entry.target.id
        for entry in node.body
        if isinstance(entry, ast.AnnAssign)
        and isinstance(entry.target, ast.Name)
        and "ClassVar" not in ast.unparse(entry.annotation)
        and (entry.value is None or "init=False" not in ast.unparse(entry.value))
    }


def _module(path: Path, node: ast.ImportFrom) -> Path | None:
    """The file of a module that another imports from; None outside of PEFT."""
    parts = node.module.split(".") if node.module else []
    if node.level:
        folder = path.parents[node.level - 1].joinpath(*parts)
    elif parts[0] == "peft":
        folder = _package("peft").joinpath(*parts[1:])
    else:
        return None
    return next((file for file in (folder / "__init__.py", folder.with_suffix(".py")) if file.is_file()), None)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path()


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
