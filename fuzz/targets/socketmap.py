"""Postfix's queries (cms/daemon/serving/socketmap.py)."""

from __future__ import annotations

from cms.daemon.serving import socketmap


def check(data: bytes) -> None:
    """Queries come out one after the other until there is only the beginning of one; a prefix never gives another query."""
    rest, taken = data, list[socketmap.Query]()
    try:
        while True:
            query, rest = socketmap.take(rest)
            if query is None:
                break
            taken.append(query)
            # What Postfix would send for it asks for the same.
            assert socketmap.take(socketmap.query(query.table, query.key)) == (query, b"")
    except socketmap.BadQuery:
        return
    assert len(rest) <= len(f"{socketmap.MAX_QUERY}:") + socketmap.MAX_QUERY
    for end in range(len(data)):
        first, _ = socketmap.take(data[:end])
        assert first in (None, *taken[:1])
