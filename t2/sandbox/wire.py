"""What passes between processes: length-prefixed JSON, and plain Python data as JSON.

Nothing here can run code: decoding builds instances of the exact builtin types below, and hands every other
object to a callback as a number that means something to the process which sent it.
"""

from __future__ import annotations

import array
import builtins
import datetime
import json
import os
import select
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

_HEADER = struct.Struct(">I")
_SMALL = 2**63
_TICK = datetime.timedelta.resolution
# Sequences travel as a list of items, mappings as a list of pairs.
_SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
    type({}.keys()): "dict_keys",
    type({}.values()): "dict_values",
}
_MAPPINGS: dict[type, str] = {
    dict: "dict",
    OrderedDict: "OrderedDict",
    Counter: "Counter",
    MappingProxyType: "mappingproxy",
}
_TEXTS: dict[type, tuple[str, Callable[[Any], str]]] = {
    int: ("int", hex),  # a decimal of more than 4300 digits is refused by json
    bytes: ("bytes", bytes.hex),
    bytearray: ("bytearray", bytearray.hex),
    Decimal: ("Decimal", Decimal.__str__),
    Fraction: ("Fraction", Fraction.__str__),
    datetime.datetime: ("datetime", datetime.datetime.isoformat),
    datetime.date: ("date", datetime.date.isoformat),
    datetime.time: ("time", datetime.time.isoformat),
    datetime.timedelta: ("timedelta", lambda value: hex(value // _TICK)),
    datetime.timezone: ("timezone", lambda value: hex(value.utcoffset(None) // _TICK)),
}
_FROM_ITEMS: dict[str, Callable[[list[Any]], Any]] = {
    **{name: kind for kind, name in _SEQUENCES.items()},
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
}
_FROM_PAIRS: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "mappingproxy": lambda pairs: MappingProxyType(dict(pairs)),
    "dict_items": lambda pairs: dict(pairs).items(),
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Decimal": Decimal,
    "Fraction": Fraction,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda text: int(text, 16) * _TICK,
    "timezone": lambda text: datetime.timezone(int(text, 16) * _TICK),
}
IMMUTABLE: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes,
    tuple: tuple,
    frozenset: frozenset,
}
"""What an instance of a builtin's subclass holds, as a named tuple its items, by the builtin."""
_SINGLETONS = {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}
# Types only: a function such as eval must not come from the other end as itself.
_ITEMS: type = type({}.items())
_TYPES = {name: kind for name, kind in vars(builtins).items() if type(kind) is type}


class Malformed(ValueError):
    """A message that is no message: cut off, too long, or not of the agreed form."""


def pack(value: Any, refer: Callable[[Any], Any]) -> Any:
    """``value`` as JSON; anything that is not plain data becomes what ``refer`` makes of it."""
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if kind is int and -_SMALL < value < _SMALL:
        return value
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], [pack(item, refer) for item in value]]
    if kind in _MAPPINGS:
        return [_MAPPINGS[kind], [[pack(key, refer), pack(item, refer)] for key, item in value.items()]]
    if kind is _ITEMS:
        return ["dict_items", [[pack(key, refer), pack(item, refer)] for key, item in value]]
    if kind is defaultdict:
        factory = value.default_factory if value.default_factory in _TYPES.values() else None
        return ["defaultdict", [pack(factory, refer), pack(dict(value), refer)]]
    if kind in _TEXTS:
        name, to_text = _TEXTS[kind]
        return [name, to_text(value)]
    if kind is complex:
        return ["complex", [value.real, value.imag]]
    if kind is range:
        return ["range", [value.start, value.stop, value.step]]
    if kind is slice:
        return ["slice", [pack(end, refer) for end in (value.start, value.stop, value.step)]]
    if kind is array.array:
        return ["array", [value.typecode, value.tolist()]]
    if value is Ellipsis or value is NotImplemented:
        return ["singleton", str(value)]
    if kind is type and value in _TYPES.values():
        return ["type", value.__name__]
    return refer(value)


def unpack(tree: Any, resolve: Callable[[list[Any]], Any]) -> Any:
    """What :func:`pack` made ``tree`` from; ``resolve`` gets the lists that ``refer`` returned.

    Raises:
        Malformed: ``tree`` is no tree of :func:`pack`.
    """
    if not isinstance(tree, list):
        return tree
    match tree:
        case [str(name), list(items)] if name in _FROM_ITEMS:
            return _FROM_ITEMS[name]([unpack(item, resolve) for item in items])
        case [str(name), list(items)] if name in _FROM_PAIRS:
            return _FROM_PAIRS[name]([(unpack(key, resolve), unpack(item, resolve)) for key, item in items])
        case ["type", str(name)] if name in _TYPES:
            return _TYPES[name]
        case [str(name), str(text)] if name in _FROM_TEXT:
            return _FROM_TEXT[name](text)
        case ["complex", [float(real), float(imaginary)]]:
            return complex(real, imaginary)
        case ["range", [int(start), int(stop), int(step)]]:
            return range(start, stop, step)
        case ["slice", [start, stop, step]]:
            return slice(*(unpack(end, resolve) for end in (start, stop, step)))
        case ["array", [str(code), list(items)]] if code in array.typecodes:
            return array.array(code, items)
        case ["singleton", str(name)] if name in _SINGLETONS:
            return _SINGLETONS[name]
        case ["defaultdict", [factory, pairs]]:
            return defaultdict(unpack(factory, resolve), unpack(pairs, resolve))
        case [str(), *_]:
            return resolve(tree)
    raise Malformed(f"a value of the unknown form {tree!r:.80}")


def send(fd: int, message: Any) -> None:
    """Write one message."""
    body = json.dumps(message).encode()
    view = memoryview(_HEADER.pack(len(body)) + body)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int, limit: int = 2**32) -> Any:
    """Read one message of at most ``limit`` bytes.

    Raises:
        EOFError: the other end is closed.
        Malformed: the message is too long or not JSON.
    """
    (length,) = _HEADER.unpack(_exactly(fd, _HEADER.size))
    if length > limit:
        raise Malformed(f"a message of {length} bytes, the limit is {limit}")
    try:
        return json.loads(_exactly(fd, length))
    except (ValueError, RecursionError) as error:
        raise Malformed("a message that is not JSON") from error


def receive_at_once(fd: int) -> Any:
    """Reads a message that its sender wrote at once, as a pipe does with 4096 bytes; never waits for the rest of one.

    Raises:
        EOFError: The other end is closed.
        Malformed: What is there is no message, or more than one.
    """
    data = os.read(fd, select.PIPE_BUF + 1)
    if not data:
        raise EOFError
    try:
        (length,) = _HEADER.unpack_from(data)
        if length != len(data) - _HEADER.size:
            raise Malformed("a message that is not whole")
        return json.loads(data[_HEADER.size :])
    except (struct.error, ValueError, RecursionError) as error:
        raise Malformed("a message that is not JSON") from error


def forward(source: int, target: int) -> None:
    """Pass one message on without its text ever entering this process.

    Raises:
        EOFError: ``source`` is closed.
        BrokenPipeError: nobody reads ``target``.
    """
    header = _exactly(source, _HEADER.size)
    os.write(target, header)
    (left,) = _HEADER.unpack(header)
    while left:
        moved = os.splice(source, target, left)
        if not moved:
            raise EOFError
        left -= moved


def readable(*fds: int, seconds: float | None = None) -> set[int]:
    """Those of ``fds`` that have something to read, or ended; waits for the first, at most ``seconds``."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000)}


def _exactly(fd: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
