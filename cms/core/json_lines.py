"""Messages between processes, as lines of JSON: one object per line.

The control socket carries them, and the sockets of the grant worker and of the configuration's process. On those two a
message is a record, a frozen dataclass (`Records`): an object with its fields and `is`, the name of its type. An object
that is read must have exactly the fields that its dataclass declares, each of the declared type: the dataclasses are the
only definition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from cms_oauth.json_object import read_object

Convert: TypeAlias = Callable[[Any], Any]

_PLAIN = frozenset({str, int, float, bool, NoneType})


class Garbled(ValueError):
    """A line is not a message. The text never quotes the line, because it may contain a token."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Return one line, LF included."""
    return json.dumps(message).encode() + b"\n"


def unpack(line: bytes) -> dict[str, Any]:
    """Return the object in a line. Raises Garbled."""
    try:
        return read_object(line)
    except ValueError:
        raise Garbled("a line that is not a JSON object") from None


class Lines:
    """Splits a byte stream into lines, without their LF. No line, complete or not, may be longer than `longest` bytes."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Return the lines that `data` completes. Raises Garbled if a line is too long."""
        first, *more = bytes(data).split(b"\n")
        self._rest += first
        whole = []
        if more:
            whole = [bytes(self._rest), *more[:-1]]
            self._rest[:] = more[-1]
        if any(len(line) > self._longest for line in (*whole, self._rest)):
            raise Garbled("a line that is too long for a message")
        return whole


class Records:
    """Writes and reads records.

    - `written` and `read` are for types that are not written as records: the data of a value, and the value of such data.
      A reader raises TypeError for other data.
    - With `share`, equal strings that are read become one object, and so do equal tuples of strings: ten thousand accounts
      say mostly the same. What has been read is remembered for that, so no secret may be in it.
    """

    def __init__(
        self, written: Mapping[type, Convert] = {}, read: Mapping[type, Convert] = {}, *, share: bool = False
    ) -> None:
        self._written = written
        self._readers: dict[Any, Convert] = dict(read)
        self._shared: dict[Any, Any] | None = {} if share else None

    def pack(self, value: Any) -> Any:
        """Return a value as JSON data."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in self._written:
            return self._written[kind](value)
        if kind is tuple:
            return [self.pack(each) for each in value]
        if is_dataclass(kind):
            return {"is": kind.__name__} | {name: self.pack(getattr(value, name)) for name in _fields(kind)}
        if kind is frozenset:
            return sorted(value)
        assert isinstance(value, Mapping), f"a record has no {kind.__name__}"
        return {name: self.pack(each) for name, each in value.items()}

    def unpack(self, data: Any, declared: Any) -> Any:
        """Return the value of a declared type that JSON data stand for. Raises TypeError if they are of another type."""
        return self._reader(declared)(data)

    def _reader(self, declared: Any) -> Convert:
        """Return what reads a type. It is made once, because thousands of records may come in a row."""
        if declared not in self._readers:
            self._readers[declared] = self._made(declared)
        return self._readers[declared]

    def _made(self, declared: Any) -> Convert:
        if is_dataclass(declared):
            return self._record(declared)
        inside = get_args(declared)
        match get_origin(declared):
            case origin if origin is UnionType:
                return _either(NoneType in inside, [self._reader(each) for each in inside])
            case origin if origin is tuple:
                assert inside[1:] == (...,), "a record's tuples have any length"
                member = self._reader(inside[0])
                whole = self._same if inside[0] is str else _itself
                return lambda data: whole(tuple(map(member, _checked(data, list))))
            case origin if origin is frozenset:
                member = self._reader(inside[0])
                return lambda data: frozenset(map(member, _checked(data, list)))
            case origin if origin is Mapping:
                name, value = map(self._reader, inside)
                return lambda data: {name(key): value(each) for key, each in _checked(data, dict).items()}
        if declared is str:
            return lambda data: self._same(_checked(data, str))
        if declared is float:
            return lambda data: data if type(data) is int else _checked(data, float)
        return lambda data: _checked(data, declared)

    def _record(self, declared: Any) -> Convert:
        """Return what reads a record. Annotations are strings, so their types have to be looked up."""
        readers = {name: self._reader(each) for name, each in get_type_hints(declared).items()}
        names, kind = {"is", *readers}, declared.__name__

        def read(data: Any) -> Any:
            if type(data) is not dict or data.keys() != names or data["is"] != kind:
                raise TypeError
            return declared(*[reader(data[name]) for name, reader in readers.items()])

        return read

    def _same(self, value: Any) -> Any:
        return value if self._shared is None else self._shared.setdefault(value, value)


def _either(optional: bool, readers: list[Convert]) -> Convert:
    """Return what reads a union: the first reader that takes the data."""

    def read(data: Any) -> Any:
        if optional and data is None:
            return None
        for each in readers:
            with suppress(TypeError):
                return each(data)
        raise TypeError

    return read


def _itself(value: Any) -> Any:
    return value


def _checked(data: Any, kind: Any) -> Any:
    """Return data that is of exactly this type: a bool is not a number here."""
    if type(data) is not kind:
        raise TypeError
    return data


@cache
def _fields(record: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(record))
