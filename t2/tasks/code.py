"""Programs, graded by running them against unit tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from t2.tasks.item import Item
from t2.tasks.prompt import question
from t2.tasks.sandbox import Program, Sandbox

_FENCE = re.compile(r"^```[^\n]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)
_FUNCTION = re.compile(r"^(?:async +)?def +(\w+)", re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)
_INDENT = " " * 4
_REMEMBERED = 50_000

# A policy that converges writes the same programs again and again. The memory of a sandbox ends with it.
_memory: WeakKeyDictionary[Sandbox, dict[Program, bool]] = WeakKeyDictionary()


def program(reply: str, prompt: str = "") -> str:
    """The program that a reply stands for.

    Args:
        reply: Its first fenced block counts (to the end where the fence stays open), or else the whole reply.
        prompt: Where it has a fenced block, as HumanEval's have, that is the program's beginning: the reply
            continues its last function or defines it anew, beside the helpers and imports of the beginning.
    """
    block, begun = _block(reply), _block(prompt)
    written = reply if block is None else block
    return _completed(begun, written) if begun else written


def _block(text: str) -> str | None:
    found = _FENCE.search(text)
    return found[1] if found else None


def _completed(begun: str, written: str) -> str:
    written = written.lstrip("\r\n")
    names = _FUNCTION.findall(begun)
    anew = not names or re.search(rf"^(?:(?:async +)?def +{names[-1]}\b|{names[-1]} *=)", written, re.MULTILINE)
    if anew or written[:1].isspace():
        future = "".join(_FUTURE.findall(written))  # has to stand first
        return future + begun + _FUTURE.sub("", written)
    # A body that lost its indentation, of the first line by stripping or of all lines.
    first, *rest = written.splitlines(keepends=True) or [""]
    lost = any(line.strip() and not line[0].isspace() for line in rest)
    return begun + _INDENT + first + "".join(_INDENT + line if lost else line for line in rest)


def grade(items: Sequence[Item], replies: Sequence[str], sandbox: Sandbox) -> list[bool]:
    """Runs each item's unit tests on its reply's program, each distinct pair of them once per sandbox."""
    pairs = zip(items, replies, strict=True)
    programs = [Program(program(reply, question(item.prompt)), item.answer) for item, reply in pairs]
    known = _memory.setdefault(sandbox, {})
    fresh = [candidate for candidate in dict.fromkeys(programs) if candidate not in known]
    if len(known) + len(fresh) > _REMEMBERED:
        known.clear()
        fresh = list(dict.fromkeys(programs))
    verdicts = sandbox.run(fresh)
    known.update((candidate, verdict.passed) for candidate, verdict in zip(fresh, verdicts, strict=True))
    return [known[candidate] for candidate in programs]
