"""Programs, graded by running them against unit tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from t2.tasks.item import Item
from t2.tasks.sandbox import Program, Sandbox

_FENCE = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)
_REMEMBERED = 50_000

# A policy that converges writes the same programs again and again. The memory of a sandbox ends with it.
_memory: WeakKeyDictionary[Sandbox, dict[Program, bool]] = WeakKeyDictionary()


def program(reply: str) -> str:
    """The first fenced block of a reply (to the end where the fence stays open), or the whole reply."""
    block = _FENCE.search(reply)
    return block[1] if block else reply


def grade(items: Sequence[Item], replies: Sequence[str], sandbox: Sandbox) -> list[bool]:
    """Runs each item's unit tests on its reply's program, each distinct pair of them once per sandbox."""
    programs = [Program(program(reply), item.answer) for item, reply in zip(items, replies, strict=True)]
    known = _memory.setdefault(sandbox, {})
    fresh = [candidate for candidate in dict.fromkeys(programs) if candidate not in known]
    if len(known) + len(fresh) > _REMEMBERED:
        known.clear()
        fresh = list(dict.fromkeys(programs))
    verdicts = sandbox.run(fresh)
    known.update((candidate, verdict.passed) for candidate, verdict in zip(fresh, verdicts, strict=True))
    return [known[candidate] for candidate in programs]
