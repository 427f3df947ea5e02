"""Postfix's socketmap protocol: netstrings in any pieces, and nothing in a reply that could be another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.daemon.serving import socketmap
from cms.daemon.serving.socketmap import MAX_QUERY, MAX_REASON, BadQuery, Query, take


def test_a_query_is_a_table_and_a_key() -> None:
    """The bytes that Postfix sends, and what they mean."""
    assert (Query("cms", "me@example.com"), b"") == take(b"18:cms me@example.com,")


@pytest.mark.parametrize("key", ["smtp.office365.com", "[smtp.office365.com]:587", "", "a b@example.com"])
def test_a_key_is_all_that_follows_the_table(key: str) -> None:
    """Hosts, hosts with ports, and addresses with spaces in them."""
    assert (Query("cms", key), b"") == take(socketmap.query("cms", key))


def test_a_query_in_pieces_is_waited_for() -> None:
    """No beginning of a query is one, and none is a fault."""
    whole = socketmap.query("cms", "me@example.com")

    for length in range(len(whole)):
        assert (None, whole[:length]) == take(whole[:length])


def test_what_comes_after_a_query_is_kept() -> None:
    """Two queries in one piece are two queries."""
    first, rest = take(socketmap.query("cms", "a@b") + socketmap.query("cms", "c@d"))

    assert Query("cms", "a@b") == first
    assert (Query("cms", "c@d"), b"") == take(rest)


@pytest.mark.parametrize(
    ("received", "reason"),
    [
        (b"cms me@example.com,", "begins with its length"),
        (b":x,", "begins with its length"),
        (b"-1:x,", "begins with its length"),
        (b"12345", "begins with its length"),
        (b"\n", "begins with its length"),
        (b"1025:", f"at most {MAX_QUERY} bytes"),
        (b"5:cms a;", "ends with a comma"),
        (b"3:cms,", "a table, a space and a key"),
        (b"2: a,", "a table, a space and a key"),
        (b"0:,", "a table, a space and a key"),
    ],
)
def test_what_is_no_query_is_refused(received: bytes, reason: str) -> None:
    """As soon as it shows, with a reason that quotes nothing of it."""
    with pytest.raises(BadQuery, match=reason):
        take(received)


def test_a_key_that_is_no_text_is_not_found() -> None:
    """Bytes that are no UTF-8 make a key that no account has."""
    assert (Query("cms", "\ufffd@example.com"), b"") == take(b"17:cms \xff@example.com,")


@given(st.binary(max_size=60))
def test_anything_is_a_query_a_beginning_or_refused(received: bytes) -> None:
    """No bytes do more than that, and nothing of them is lost."""
    try:
        query, rest = take(received)
    except BadQuery:
        return

    assert received.endswith(rest)
    assert rest == received or query is not None


def test_a_login_is_user_and_token() -> None:
    """As in a file of Postfix's: user, colon, password."""
    assert b"21:OK me@example.com:abc," == socketmap.found("me@example.com", "abc")


def test_a_stranger_is_not_found() -> None:
    """The reply ends with the space that the protocol has there."""
    assert b"9:NOTFOUND ," == socketmap.not_found()


def test_a_reason_is_one_short_line() -> None:
    """Postfix logs it: nothing in it begins another line, and a long one is cut."""
    assert b"9:TEMP wait," == socketmap.temporary("wait")
    assert b"13:PERM not now?," == socketmap.permanent("not\nnow\x00")
    assert MAX_REASON + len("305:TEMP ,") == len(socketmap.temporary("x" * 1000))


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (socketmap.found("me@example.com", "abc"), ("OK", "me@example.com:abc")),
        (socketmap.not_found(), ("NOTFOUND", "")),
        (socketmap.temporary("wait a bit"), ("TEMP", "wait a bit")),
    ],
)
def test_a_reply_is_read_as_it_was_written(received: bytes, expected: tuple[str, str]) -> None:
    """Its first word, and the text behind it."""
    assert expected == socketmap.reply(received)


@pytest.mark.parametrize("received", [b"", b"HTTP/1.1 400", b"3:OKx,", b"x:OK y,"])
def test_what_is_no_reply_is_refused(received: bytes) -> None:
    """Another program may listen there."""
    with pytest.raises(ValueError, match="a reply is a netstring"):
        socketmap.reply(received)
