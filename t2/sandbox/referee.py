"""The trusted side: runs the tests, asks the player whatever they want of the program, gives the verdict.

The tests' own values stay here. In their namespace a name that only the program defines is a :class:`Handle`;
a call sends the arguments to the player and returns plain data, which is then compared with pristine
builtins. What is not plain data comes back as another handle, ruled by one principle: *only an explicit call,
index or assignment hands the program a value of the tests, and gets plain data for it*. An object whose ``==``
agrees with everything is hence never asked, and a handle differs from every plain value. Arithmetic of a handle
and a value of the tests gives another handle or nothing, and what has been told a value in this way no longer
says how large, long or true it is: ``abs(f(1) - 3.14) < 1e-6`` is not for an object of the program to decide.
"""

from __future__ import annotations

import ast
import builtins
import operator
import os
import resource
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from . import wire

_LONGEST_REPLY = 16 << 20
_NOTHING = object()


class Foul(BaseException):
    """The program ended, or broke the rules of the conversation; no ``except`` of the tests may save it."""


class Handle:
    """An object of the program, used from the tests.

    ``_value`` is what an instance of a mutable builtin's subclass holds: it stands for the object in comparisons
    and arithmetic, which are done here. ``_told`` says that it came of arithmetic with a value of the tests.
    """

    __slots__ = ("_ask", "_number", "_told", "_value")

    def __init__(self, ask: Callable[..., Any], number: int, value: Any = _NOTHING) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_told", False)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # so that a list's subclass passes for a list
        return Handle if self._value is _NOTHING else type(self._value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        return self._ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delitem", self, key)

    def __enter__(self) -> Any:
        return self._ask("getattr", self, "__enter__")()

    def __exit__(self, *_: object) -> None:
        self._ask("getattr", self, "__exit__")(None, None, None)

    def __instancecheck__(self, instance: Any) -> bool:
        return _is_of_the_program(instance) and self._ask("isinstance", instance, self) is True

    def __str__(self) -> str:
        return self._ask("str", self)

    def __repr__(self) -> str:
        return self._ask("repr", self)

    def __format__(self, spec: str) -> str:
        return self._ask("format", self, spec) if self._value is _NOTHING else format(self._value, spec)


def _protocol(name: str) -> Callable[..., Any]:
    def method(self: Handle, *args: Any) -> Any:
        if self._told:
            raise TypeError(f"{name}() of an object that came of arithmetic with a value of the tests")
        return self._ask(name, self, *args)

    return method


def _operator(name: str, *, reflected: bool = False, compares: bool = False) -> Callable[[Handle, Any], Any]:
    operation = getattr(operator, name, divmod)

    def method(self: Handle, other: Any) -> Any:
        mine = self if self._value is _NOTHING else self._value
        theirs = other._value if type(other) is Handle and other._value is not _NOTHING else other
        pair, values = ((other, self), (theirs, mine)) if reflected else ((self, other), (mine, theirs))
        handles = [value for value in (mine, theirs) if type(value) is Handle]
        if not handles:
            return operation(*values)
        if compares:
            return self._ask(name, *pair) if len(handles) == 2 else NotImplemented
        result = self._ask(name, *pair)
        if len(handles) == 2 and not any(handle._told for handle in handles):
            return result
        return _tell(result, name)

    return method


def _unary(name: str) -> Callable[[Handle], Any]:
    def method(self: Handle) -> Any:
        result = self._ask(name, self)
        return _tell(result, name) if self._told else result

    return method


def _tell(result: Any, name: str) -> Handle:
    if type(result) is not Handle or result._value is not _NOTHING:
        raise TypeError(f"{name} with a value of the tests gave plain data")
    object.__setattr__(result, "_told", True)
    return result


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Handle, f"__{_name}__", _operator(_name, compares=True))
for _name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor"):
    setattr(Handle, f"__{_name.rstrip('_')}__", _operator(_name))
    setattr(Handle, f"__r{_name.rstrip('_')}__", _operator(_name, reflected=True))
for _name in ("lshift", "rshift", "divmod"):
    setattr(Handle, f"__{_name}__", _operator(_name))
    setattr(Handle, f"__r{_name}__", _operator(_name, reflected=True))
for _name in ("iadd", "isub", "imul", "imatmul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(Handle, f"__{_name}__", _operator(_name))
for _name in ("neg", "pos", "invert"):
    setattr(Handle, f"__{_name}__", _unary(_name))
for _name in ("len", "iter", "next", "reversed", "bool", "int", "index", "float", "complex", "hash", "abs", "round"):
    setattr(Handle, f"__{_name}__", _protocol(_name))
for _name in ("trunc", "floor", "ceil"):
    setattr(Handle, f"__{_name}__", _protocol(_name))


def _of_subclass(base: type) -> type:
    """A class for instances of the program's subclasses of an immutable builtin: named tuples, members of an IntEnum.

    They are instances of the builtin here too. How they look, and whatever has no double underscore, the program says.
    """

    def handle(self: Any) -> Handle:
        return object.__getattribute__(self, "__dict__")["handle"]

    def get(self: Any, name: str) -> Any:
        return object.__getattribute__(self, name) if name.startswith("__") else getattr(handle(self), name)

    body = {
        "__init__": lambda self, *_: None,
        "__getattribute__": get,
        "__setattr__": lambda self, name, value: setattr(handle(self), name, value),
        "__str__": lambda self: str(handle(self)),
        "__repr__": lambda self: repr(handle(self)),
    }
    return type(base.__name__, (base,), body)


_SUBCLASSES = {base: _of_subclass(base) for base in wire.IMMUTABLE}


def _is_of_the_program(value: Any) -> bool:
    return type(value) is Handle or type(value) in _SUBCLASSES.values()


class Conversation:
    """What the referee says to the player, and what it believes of the answers: that they are data."""

    def __init__(self, player: int, ended: int, requests: int, replies: int, output: int, output_bytes: int) -> None:
        # `ended` is a descriptor of the player's process: the walls around the tests let nobody open one.
        self._player, self._ended, self._requests, self._replies = player, ended, requests, replies
        self._outputs, self._output_left = [output], output_bytes
        self._exports: list[Any] = []
        self._objects: dict[int, Any] = {}
        self.foul: str | None = None

    def ask(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Have the player apply ``operation``; returns plain data and handles.

        Raises:
            Exception: what the program raised, as its nearest builtin type.
            Foul: there will be no answer.
        """
        if self.foul:
            raise Foul
        trees = [wire.pack(argument, self._refer) for argument in args]
        self._send([operation, wire.pack(kwargs, self._refer), trees])
        while True:
            match self._receive():
                case ["ok", result, list(changes)]:
                    for i, tree in changes:
                        _overwrite(args[i], wire.unpack(tree, self._resolve))
                    return wire.unpack(result, self._resolve)
                case ["raise", list(kinds), str(text)]:
                    self._raise(kinds, text)
                case ["call" | "get" as what, int(number), list(arguments), list(keywords)]:
                    self._send(self._use_export(what, number, arguments, keywords))
                case _:
                    self.declare("broke the protocol")

    def declare(self, reason: str) -> NoReturn:
        """End the game: ``reason`` is the verdict's, whatever the tests do next."""
        self.foul = reason
        raise Foul

    def _send(self, message: Any) -> None:
        try:
            wire.send(self._requests, message)
        except BrokenPipeError:
            self.declare(self._ending())

    def _receive(self) -> Any:
        """The player's next message, draining what the program prints meanwhile."""
        while True:
            ready = wire.readable(self._replies, *self._outputs)
            if self._replies in ready:
                try:
                    return wire.receive(self._replies, _LONGEST_REPLY)
                except EOFError:
                    self.declare(self._ending())
                except wire.Malformed as error:
                    self.declare(f"sent {error}")
            printed = len(os.read(self._outputs[0], 1 << 16))
            self._output_left -= printed
            if self._output_left < 0:
                self.declare("printed more than the output limit")
            if not printed:  # the program closed it
                self._outputs = []

    def _ending(self) -> str:
        if not wire.readable(self._ended, seconds=1):
            return "closed its pipe"
        _, status, usage = os.wait4(self._player, 0)
        if not os.WIFSIGNALED(status):
            return f"ended early with status {os.waitstatus_to_exitcode(status)}"
        spent = usage.ru_utime + usage.ru_stime
        # The limit counts clock ticks, the usage is exact: on a busy machine they differ much.
        if os.WTERMSIG(status) == signal.SIGKILL and spent > 0.5 * resource.getrlimit(resource.RLIMIT_CPU)[0]:
            return "reached the CPU limit"
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"

    def _raise(self, kinds: list[Any], text: str) -> NoReturn:
        for name in kinds:
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    error = kind(text)
                except TypeError:  # the likes of UnicodeDecodeError want more than a text
                    continue
                raise error
        self.declare(f"raised {kinds[0] if kinds else 'nothing'!s:.40}")

    def _use_export(self, what: str, number: int, arguments: list[Any], keywords: list[Any]) -> list[Any]:
        thing = self._exports[number]
        args = wire.unpack(arguments, self._resolve)
        try:
            if what == "call":
                result = thing(*args, **wire.unpack(keywords, self._resolve))
            elif _is_of_the_tests(thing) and not args[0].startswith("_"):
                result = getattr(thing, args[0])
            else:  # a function's attributes lead to the tests' namespace
                raise AttributeError(args[0])
            return ["answer", wire.pack(result, self._refer)]
        except Exception as error:
            return ["error", type(error).__name__, str(error)]

    def _refer(self, value: Any) -> list[Any]:
        if _is_of_the_program(value):
            handle = value if type(value) is Handle else object.__getattribute__(value, "__dict__")["handle"]
            return ["object", object.__getattribute__(handle, "_number")]
        if isinstance(value, Iterator):
            return wire.pack(list(value), self._refer)
        name = getattr(value, "__name__", "")
        if isinstance(value, types.BuiltinFunctionType) and vars(builtins).get(name) is value:
            return ["builtin", name]
        if not (callable(value) or _is_of_the_tests(value)):
            raise TypeError(f"the tests pass the program a {type(value).__name__}, which is not plain data")
        self._exports.append(value)
        plain = [
            wire.pack(hold(value), self._refer) for base, hold in wire.IMMUTABLE.items() if isinstance(value, base)
        ]
        return ["export", len(self._exports) - 1, *plain]

    def _resolve(self, tree: list[Any]) -> Any:
        match tree:
            case ["object", int(number), *plain]:
                return self._object(number, *(wire.unpack(value, self._resolve) for value in plain[:1]))
            case ["export", int(number)] if 0 <= number < len(self._exports):
                return self._exports[number]
        raise wire.Malformed(f"an unknown reference {tree!r:.80}")

    def _object(self, number: int, value: Any = _NOTHING) -> Any:
        """The program's object of that number, always the same one; what a mutable one holds is what it held last."""
        known = self._objects.get(number)
        if type(value) in _SUBCLASSES:
            if known is None:
                known = self._objects[number] = _SUBCLASSES[type(value)](value)
                object.__getattribute__(known, "__dict__")["handle"] = Handle(self.ask, number)
        elif known is None:
            known = self._objects[number] = Handle(self.ask, number, value)
        elif type(known) is Handle:
            object.__setattr__(known, "_value", value)
        return known


class Names(dict[str, Any]):
    """The tests' namespace. What it lacks is looked up in the program, save builtins and common modules."""

    def __init__(self, conversation: Conversation, trusted: frozenset[str]) -> None:
        super().__init__(__name__="tests")
        self._conversation, self._trusted = conversation, trusted

    def __missing__(self, name: str) -> Any:
        if name not in self._trusted:
            try:
                return self._conversation.ask("name", name)
            except NameError:
                pass
        elif not hasattr(builtins, name):
            return sys.modules[name]
        raise KeyError(name)


def judge(code: str, tests: str, conversation: Conversation, modules: frozenset[str]) -> tuple[bool, str]:
    """Run ``code`` at the player's and ``tests`` here; passed means that the tests ran to their end.

    Args:
        code: the program.
        tests: statements that use the names it defines.
        conversation: the way to the player.
        modules: loaded modules that the tests may use without importing them.

    Returns:
        The verdict and its reason, in words that do not differ between equal runs.
    """
    try:
        compiled = compile(tests, "<tests>", "exec", dont_inherit=True)
        trusted = (modules | set(dir(builtins))) - _subject(tests, modules)
    except (SyntaxError, ValueError) as error:
        return False, f"{type(error).__name__}: the tests do not compile"
    sys.modules["tests"] = types.ModuleType("tests")
    running = "program"
    try:
        conversation.ask("run", code)
        running = "tests"
        exec(compiled, Names(conversation, trusted))
    except BaseException as error:
        line = f", line {_line(error)}" if running == "tests" else ""
        return False, conversation.foul or f"{type(error).__name__} in the {running}{line}"
    return (False, conversation.foul) if conversation.foul else (True, "passed")


def _subject(tests: str, modules: frozenset[str]) -> set[str]:
    """The builtin's name that the program is to define, as MBPP's ``assert sum(10, 15) == 6`` has it.

    A builtin means the program's own function only if the tests use no name that is neither builtin nor
    theirs; otherwise a program could define the ``set`` or ``abs`` through which its answers are seen.
    """
    nodes = list(ast.walk(ast.parse(tests)))
    used = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    own = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    own |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    own |= {(n.asname or n.name).partition(".")[0] for n in nodes if isinstance(n, ast.alias)}
    free = [n for n in used if n.id not in own]
    if not free or any(n.id not in modules and not hasattr(builtins, n.id) for n in free):
        return set()
    return {min(free, key=lambda n: (n.lineno, n.col_offset)).id}


def _line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _is_of_the_tests(value: Any) -> bool:
    return type(value).__module__ == "tests"


def _overwrite(target: Any, value: Any) -> None:
    """Give the tests' own ``target`` the content that the program gave its copy."""
    if type(target) is not type(value):
        raise wire.Malformed("an argument that changed its type")
    if isinstance(target, list | bytearray):
        target[:] = value
    else:
        target.clear()
        (target.extend if hasattr(target, "extend") else target.update)(value)
