"""What brings a sign-in back: the browser's request (cms/daemon/signin/http.py), and a pasted address (flow.py)."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import trio

from cms.daemon.signin.flow import Flow
from cms.daemon.signin.http import BadHttp, PageRequest, parse_fields, read_request
from cms.grants.messages import Prompt
from fuzz.targets.vault import GRANT

T = TypeVar("T")

STATE = "0123456789abcdef"


class _Stream(trio.abc.ReceiveStream):
    """A connection that has these bytes, in pieces of at most so many, and then ends."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._rest = data
        self._piece = piece

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = min(self._piece, max_bytes or self._piece)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    async def aclose(self) -> None:
        pass


class _Session:
    """The worker's side of a sign-in."""

    def __init__(self) -> None:
        self.fields: Mapping[str, str] = {}

    async def redirected(self, fields: Mapping[str, str]) -> None:
        self.fields = fields


def check(data: bytes) -> None:
    """A request is read the same however it arrives, or BadHttp; of a pasted address only a right one is passed on."""
    text = _text(data)
    request = _read(data, len(data) or 1)
    assert request == _read(data, 1)
    for fields in (text, *([request.query, request.body.decode("latin-1")] if request else ())):
        with suppress(BadHttp):
            parse_fields(fields)

    flow, session = Flow(GRANT, "paste"), _Session()
    flow.prompted = Prompt(1, "paste", "https://login.microsoftonline.com/", state=STATE)
    flow._session = session  # type: ignore[assignment]  # noqa: SLF001 - all that a paste needs of a worker
    refusal = _at_once(flow.pasted(text))
    assert bool(refusal) != (session.fields.get("state") == STATE)
    flow.returns(text, "/", 0)


def _text(data: bytes) -> str:
    """Return bytes as text as it may come in JSON, with lone surrogates."""
    try:
        return data.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return data.decode(errors="surrogateescape")


def _read(data: bytes, piece: int) -> PageRequest | None:
    with suppress(BadHttp):
        return _at_once(read_request(_Stream(data, piece)))
    return None


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")
