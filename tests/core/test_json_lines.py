"""Lines of JSON: whole however a stream is cut, bounded, and objects only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.core.json_lines import Garbled, Lines, pack, unpack

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
