"""Lines of JSON: whole however a stream is cut, bounded, and objects only. Records: only what a dataclass declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.core.json_lines import Garbled, Lines, Records, pack, unpack

LONGEST = 4096


def test_an_object_comes_back() -> None:
    """One line for each message, whatever is in it."""
    message = {"a": "line\nfeed", "b": [1, None], "ü": True}

    assert message == unpack(pack(message))
    assert 1 == pack(message).count(b"\n")


@pytest.mark.parametrize("line", [b"", b"secret-", b"[]", b'"secret-"', b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_not_quoted(line: bytes) -> None:
    """It may hold a token."""
    with pytest.raises(Garbled) as caught:
        unpack(line)

    assert "secret-" not in str(caught.value)


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=5), st.data())
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    """A stream gives the same lines whether it comes whole, byte by byte, or cut anywhere."""
    stream = b"".join(line + b"\n" for line in lines)
    cut = data.draw(st.integers(0, len(stream)))
    whole, pieces = Lines(LONGEST), Lines(LONGEST)

    assert lines == whole.feed(stream)
    assert lines == pieces.feed(stream[:cut]) + pieces.feed(stream[cut:])
    bytewise = Lines(LONGEST)
    assert lines == [line for at in range(len(stream)) for line in bytewise.feed(stream[at : at + 1])]


def test_line_without_end() -> None:
    """A line longer than a message is Garbled, whether its end has come or not; one as long is not."""
    fits = b"x" * LONGEST

    assert [fits] == Lines(LONGEST).feed(fits + b"\n")
    for data in (fits + b"x", fits + b"x\n"):
        with pytest.raises(Garbled):
            Lines(LONGEST).feed(data)


@dataclass(frozen=True)
class Inner:
    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    several: tuple[Inner, ...]
    perhaps: Inner | None
    words: tuple[str, ...]
    known: frozenset[str]
    by_name: Mapping[str, tuple[str, ...]]
    pairs: Mapping[str, str]
    length: float
    is_on: bool
    either: int | str | None = None


FULL = Outer(
    Inner("a"),
    (Inner("b", (1, 2)), Inner("c")),
    Inner("d"),
    ("word", "another"),
    frozenset({"k", "j"}),
    {"SMTP": ("s", "t")},
    {"one": "two"},
    1.5,
    is_on=True,
    either="text",
)
EMPTY = Outer(Inner(""), (), None, (), frozenset(), {}, {}, 2, is_on=False)


def data(value: Outer = FULL) -> dict[str, Any]:
    """Return a record as it arrives."""
    packed: dict[str, Any] = json.loads(json.dumps(Records().pack(value)))
    return packed


@pytest.mark.parametrize("value", [FULL, EMPTY])
def test_a_record_comes_back(value: Outer) -> None:
    """All that a dataclass may declare, equal after the way through JSON."""
    records = Records()

    assert value == records.unpack(data(value), Outer)


def test_the_form() -> None:
    """The type's name is beside the fields; a set has an order, so that the same record is always the same text."""
    assert {"is": "Inner", "name": "b", "numbers": [1, 2]} == data()["several"][0]
    assert ["j", "k"] == data()["known"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"inner": None},
        {"inner": {"is": "Outer", "name": "a", "numbers": []}},
        {"inner": {"name": "a", "numbers": []}},
        {"inner": {"is": "Inner", "name": "a"}},
        {"inner": {"is": "Inner", "name": "a", "numbers": [], "surprise": 1}},
        {"inner": {"is": "Inner", "name": "a", "numbers": [True]}},
        {"several": {}},
        {"several": [1]},
        {"perhaps": 0},
        {"words": "xy"},
        {"words": [None]},
        {"known": "jk"},
        {"known": [1]},
        {"by_name": []},
        {"by_name": {"SMTP": "s"}},
        {"pairs": {"one": 2}},
        {"length": "1.5"},
        {"length": True},
        {"is_on": 1},
        {"either": 1.5},
    ],
)
def test_what_is_not_declared_is_refused(wrong: dict[str, Any]) -> None:
    """A field of another type, one too many or one too few."""
    with pytest.raises(TypeError):
        Records().unpack(data() | wrong, Outer)


def test_a_type_may_have_another_form() -> None:
    """Who writes and who reads agree on it, wherever the type occurs."""
    writer = Records({Inner: lambda inner: len(inner.name)})
    reader = Records(read={Inner: lambda number: Inner("z" * number)})

    assert 1 == writer.pack(FULL)["inner"]
    assert (Inner("z"), Inner("z")) == reader.unpack(writer.pack(FULL), Outer).several


def test_equal_strings_become_one() -> None:
    """Of many records, if that is asked for; else nothing that was read is remembered."""
    sharing, forgetful = Records(share=True), Records()
    text = json.dumps(Records().pack(FULL))

    def words(records: Records) -> tuple[str, ...]:
        found: Outer = records.unpack(json.loads(text), Outer)
        return found.words

    first, second = words(sharing), words(sharing)
    assert first is second
    assert words(forgetful)[0] is not words(forgetful)[0]
    assert words(forgetful) is not words(forgetful)
