"""Programs, graded by running them against unit tests."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

from t2.sandbox import Program, Sandbox
from t2.tasks.item import Item
from t2.tasks.prompt import question

_FENCE = re.compile(r"^(?P<before>.*?)(?P<ticks>`{3,}|~{3,})[ \t]*(?P<name>[\w+#.-]*)[ \t\r]*$", re.MULTILINE)
_BUILTINS = frozenset(dir(builtins))
_FUNCTION = re.compile(r"^(?:async +)?def +(\w+)", re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)
_INDENT = " " * 4
_REMEMBERED = 50_000

# A policy that converges writes the same programs again and again. The memory of a sandbox ends with it.
_memory: WeakKeyDictionary[Sandbox, dict[Program, bool]] = WeakKeyDictionary()


def program(reply: str, prompt: str = "", tests: str = "") -> str:
    """The program that a reply stands for.

    Args:
        reply: Prose with fenced blocks, wherever on its line a fence stands, or a bare program. A block that stays
            open ends with the reply. The part that compiles and defines what is wanted counts, with the parts that
            define what it needs; where none does, the first block.
        prompt: Where it has a fenced block with a function, as HumanEval's have, that is the program's beginning: the
            reply continues its last function or defines it anew, beside the helpers and imports of the beginning.
        tests: The unit tests. Wanted is what they use and do not define.
    """
    begun = _begun(prompt)
    parts = _split(reply)
    bare = len(parts) == 1 or _compiles(reply)  # fences may stand in a program's strings
    written = reply if bare else _chosen(parts, begun, tests)
    return _completed(begun, written) if begun else written


def fenced(reply: str, prompt: str = "") -> list[str]:
    """The programs that the fenced blocks of a reply stand for, each by itself; arguments as :func:`program`."""
    begun = _begun(prompt)
    return [_completed(begun, block) if begun else block for block in _split(reply)[1::2]]


def _begun(prompt: str) -> str:
    """What a prompt has of the program already."""
    block = next(iter(_split(prompt)[1::2]), "")
    if not _FUNCTION.search(block):
        return ""
    return block if block.endswith("\n") else block + "\n"  # a fence that the prompt leaves open ends with its text


def _split(text: str) -> list[str]:
    """Prose and blocks in turn, starting with prose. Blocks of an indented fence lose their indentation."""
    parts, start, opened, indented = [], 0, "", False
    for fence in _FENCE.finditer(text):
        if opened and (fence["name"] or not fence["ticks"].startswith(opened)):
            continue
        part = text[start : fence.start("ticks") if fence["before"].strip() else fence.start()]
        parts.append(textwrap.dedent(part) if indented else part)
        indented = not opened and fence["before"] != ""
        start, opened = fence.end() + 1, "" if opened else fence["ticks"]
    part = text[start:]
    return [*parts, textwrap.dedent(part) if indented else part]


def _chosen(parts: Sequence[str], begun: str, tests: str) -> str:
    """The parts of a reply with fences that make the program."""
    functions = _FUNCTION.findall(begun)
    wanted = {functions[-1]} if functions else _wanted(tests)
    read = [_Names.of(part) for part in parts]
    main = next((i for i, names in enumerate(read) if names.made & wanted), None)
    if main is None:
        fits = [part for part in parts[1::2] if (_compiles(_completed(begun, part)) if begun else _Names.of(part).made)]
        return fits[0] if fits else parts[1]
    chosen = {main}
    while True:
        missing = wanted.union(*(read[i].free for i in chosen)).difference(*(read[i].defined for i in chosen))
        helper = next((i for i, names in enumerate(read) if i not in chosen and names.defined & missing), None)
        if helper is None:
            break
        chosen.add(helper)
    return parts[main] if len(chosen) == 1 else "\n".join(parts[i] for i in sorted(chosen))


class _Names(NamedTuple):
    """A program's names; of text that does not compile, none.

    Attributes:
        made: Defined at its top level, but for imports.
        imported: Imported at its top level.
        free: Read, and neither defined in it nor Python's own.
    """

    made: frozenset[str]
    imported: frozenset[str]
    free: frozenset[str]

    @property
    def defined(self) -> frozenset[str]:
        return self.made | self.imported

    @classmethod
    def of(cls, text: str) -> _Names:
        tree = _parsed(text)
        if tree is None:
            return cls(frozenset(), frozenset(), frozenset())
        made, imported = set(), set()
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                made.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                imported |= {(name.asname or name.name).partition(".")[0] for name in node.names}
            elif isinstance(node, ast.Assign):
                made |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        nodes = list(ast.walk(tree))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        own = made | imported | {name.id for name in names if not isinstance(name.ctx, ast.Load)}
        own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
        own |= {(n.asname or n.name).partition(".")[0] for n in nodes if isinstance(n, ast.alias)}
        return cls(frozenset(made), frozenset(imported), frozenset({name.id for name in names} - own - _BUILTINS))


@lru_cache(1000)
def _wanted(tests: str) -> frozenset[str]:
    return _Names.of(tests).free


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _compiles(text: str) -> bool:
    return _parsed(text) is not None


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


def grade(items: Sequence[Item], replies: Sequence[str], sandbox: Sandbox, *, flexible: bool = False) -> list[bool]:
    """Runs each item's unit tests on its reply's program, each distinct pair of them once per sandbox.

    Args:
        items: The problems.
        replies: Their replies.
        sandbox: Where programs run.
        flexible: A reply is right, too, if one of its fenced blocks is.
    """
    asked = [question(item.prompt) for item in items]
    whole = [program(reply, prompt, item.answer) for item, reply, prompt in zip(items, replies, asked, strict=True)]
    right = _run([Program(text, item.answer) for item, text in zip(items, whole, strict=True)], sandbox)
    if not flexible:
        return right
    blocks = [
        (place, Program(text, items[place].answer))
        for place, good in enumerate(right)
        if not good
        for text in fenced(replies[place], asked[place])
    ]
    passed = _run([candidate for _, candidate in blocks], sandbox)
    also = {place for (place, _), good in zip(blocks, passed, strict=True) if good}
    return [good or place in also for place, good in enumerate(right)]


def _run(programs: Sequence[Program], sandbox: Sandbox) -> list[bool]:
    """Which programs pass; those that are known already are not run again."""
    known = _memory.setdefault(sandbox, {})
    fresh = [candidate for candidate in dict.fromkeys(programs) if candidate not in known]
    if len(known) + len(fresh) > _REMEMBERED:
        known.clear()
        fresh = list(dict.fromkeys(programs))
    verdicts = sandbox.run(fresh)
    known.update((candidate, verdict.passed) for candidate, verdict in zip(fresh, verdicts, strict=True))
    return [known[candidate] for candidate in programs]
