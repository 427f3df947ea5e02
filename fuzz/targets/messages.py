"""What the daemon and its grant worker say to each other (cms/grants/messages.py, cms/core/json_lines.py)."""

from __future__ import annotations

from collections.abc import Callable

from cms.core.json_lines import Garbled, Lines
from cms.grants.messages import MAX_MESSAGE, Question, WorkerReply, pack, unpack_question, unpack_reply


def check(data: bytes) -> None:
    """A stream is cut into the same lines however it arrives, and a line is a message, which packs to itself, or Garbled."""
    lines = Lines(MAX_MESSAGE).feed(data)
    one_by_one = Lines(MAX_MESSAGE)
    assert lines == [line for each in data for line in one_by_one.feed(bytes((each,)))]
    for line in (*lines, data.rpartition(b"\n")[2]):
        _check_line(line, unpack_question)
        _check_line(line, unpack_reply)


def _check_line(line: bytes, unpack: Callable[[bytes], Question | WorkerReply]) -> None:
    try:
        message = unpack(line)
    except Garbled:
        return
    packed = pack(message)
    # As bytes: no number that is no number equals itself.
    assert pack(unpack(packed.removesuffix(b"\n"))) == packed
