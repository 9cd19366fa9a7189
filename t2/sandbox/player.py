"""The untrusted side: runs the program, then does with its objects what the referee asks for.

Nothing here is a line of defence. Whatever a program does to this process, all it can say to the referee is
what a program could return anyway.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from . import wire

# A subclass of these is compared by what it holds, as a named tuple is by its items.
_BASES: dict[type, Callable[[Any], Any]] = {**wire.IMMUTABLE, list: list, dict: dict, set: set}
_MUTABLE = (list, dict, set, bytearray, deque)


class Export:
    """Something of the tests' own, such as a function they pass; using it asks the referee."""

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        self.__dict__.update(_ask=ask, _number=number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self._ask("call", self._number, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._ask("get", self._number, [name], {})


# The same for instances of the tests' own subclasses of builtins: a named tuple is still a tuple.
_EXPORTS = {
    base: type("Export", (base,), {"__init__": lambda self, *_: None, "__getattr__": Export.__getattr__})
    for base in wire.IMMUTABLE
}


class Player:
    """Answers requests until the pipe ends."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._module = types.ModuleType("program")
        sys.modules["program"] = self._module
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._operations: dict[str, Callable[..., Any]] = {
            "run": self._run,
            "name": self._name,
            "getattr": getattr,
            "setattr": setattr,
            "bool": bool,
            "int": int,
            "float": float,
            "str": str,
            "repr": repr,
            "hash": hash,
            "len": len,
            "iter": iter,
            "next": next,
            "reversed": reversed,
            "isinstance": isinstance,
            "divmod": divmod,
            "round": round,
            "complex": complex,
            "format": format,
            "trunc": math.trunc,
            "floor": math.floor,
            "ceil": math.ceil,
        }

    def play(self) -> None:
        """Serve every request."""
        while True:
            self._answer(wire.receive(self._requests))

    def _answer(self, request: list[Any]) -> None:
        try:
            operation, kwargs, trees = request
            function = self._operations.get(operation) or getattr(operator, operation)
            arguments = [wire.unpack(tree, self._resolve) for tree in trees]
            result = function(*arguments, **wire.unpack(kwargs, self._resolve))
            reply = ["ok", wire.pack(result, self._refer), self._changes(arguments, trees)]
        except BaseException as error:
            reply = ["raise", [kind.__name__ for kind in type(error).__mro__], _text(error)]
        wire.send(self._replies, reply)

    def _changes(self, arguments: list[Any], trees: list[Any]) -> list[list[Any]]:
        """Arguments that the call changed in place, so that the tests see it in theirs."""
        now = [(i, wire.pack(a, self._refer)) for i, a in enumerate(arguments) if type(a) in _MUTABLE]
        return [[i, tree] for i, tree in now if tree != trees[i]]

    def _run(self, code: str) -> None:
        exec(compile(code, "<program>", "exec", dont_inherit=True), self._module.__dict__)

    def _name(self, name: str) -> Any:
        try:
            return self._module.__dict__[name]
        except KeyError:
            raise NameError(f"name {name!r} is not defined") from None

    def _refer(self, value: Any) -> list[Any]:
        if type(value) is Export or type(value) in _EXPORTS.values():
            return ["export", value._number]
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # which keeps its id from being given to another object
        for base, plain in _BASES.items():
            if isinstance(value, base):
                return ["object", number, wire.pack(plain(value), self._refer)]
        return ["object", number]

    def _resolve(self, tree: list[Any]) -> Any:
        kind, what, *plain = tree
        if kind == "builtin":
            return getattr(builtins, what)
        if kind == "object":
            return self._objects[what]
        if not plain:
            return Export(self._ask, what)
        value = wire.unpack(plain[0], self._resolve)
        export = _EXPORTS[type(value)](value)
        export.__dict__.update(_ask=self._ask, _number=what)
        return export

    def _ask(self, what: str, number: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        wire.send(self._replies, [what, number, wire.pack(args, self._refer), wire.pack(kwargs, self._refer)])
        while True:
            message = wire.receive(self._requests)
            if message[0] == "answer":
                return wire.unpack(message[1], self._resolve)
            if message[0] == "error":
                raise getattr(builtins, message[1], RuntimeError)(message[2])
            self._answer(message)  # answering may need the program's own objects


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:
        return ""
