"""A request at the token socket, and the line that refuses one (cms_oauth/wire.py)."""

from __future__ import annotations

from cms_oauth import wire


def check(data: bytes) -> None:
    """A request is one, which its own bytes ask for again, or BadRequest; a refusal's line says what it was made of."""
    try:
        request = wire.parse_request(data)
    except wire.BadRequest as bad:
        assert bad.message.isprintable()
    else:
        assert request.form in wire.FORMS
        assert wire.parse_request(wire.build_request(request)) == request

    refused = wire.parse_refusal(data.decode(errors="surrogateescape"))
    if refused:
        _, message, hint, seconds = refused
        again = wire.parse_refusal(wire.refusal_line("busy", message, hint, seconds).decode())
        assert again is not None
        assert again[::3] == ("busy", seconds)
