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
GIVEN = {"peft_type", "task_type", "layers_to_transform", "inference_mode", "base_model_name_or_path", "revision"}
"""Keys that this project sets: from a recipe's ``layers``, from its base."""


@cache
def allowed_keys(peft_type: str) -> frozenset[str] | None:
    """The keys that a recipe's ``peft`` may have.

    Args:
        peft_type: A PEFT method, ``SVF`` or ``LORA``.

    Returns:
        Their names; None where PEFT has no such method.
    """
    spec = importlib.util.find_spec("peft")
    root = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path()
    source = OWN.get(peft_type, root / "tuners" / peft_type.lower() / "config.py")
    if not source.is_file():
        return None
    # The method's own class is the one that sets `peft_type`; a base class may stand in the same file.
    fields = {
        node.target.id
        for path in (source, root / "config.py")
        for found in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(found, ast.ClassDef)
        for node in found.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return frozenset(fields - GIVEN | {"peft_type"})
