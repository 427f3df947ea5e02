"""XOAUTH2 and OAUTHBEARER strings."""

from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth import sasl

USERS = st.text().filter(str.isprintable)
TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)

WHOLE = "user=user@domain.com\x01auth=Bearer T.o-k_e~n\x01\x01"


def test_xoauth2_is_googles_and_microsofts_form() -> None:
    """The bytes are those of Microsoft's own example."""
    assert WHOLE == sasl.xoauth2("user@domain.com", "T.o-k_e~n")


def test_oauthbearer_is_rfc_7628s_form() -> None:
    """A GS2 header with the user, then the bearer token."""
    assert "n,a=user@domain.com,\x01auth=Bearer T\x01\x01" == sasl.oauthbearer("user@domain.com", "T")


def test_oauthbearer_escapes_what_would_end_the_name() -> None:
    """`,` and `=` in a user name are written as RFC 5801 says."""
    assert sasl.oauthbearer("a,b=c", "T").startswith("n,a=a=2Cb=3Dc,\x01")


@given(st.text())
def test_encode_is_base64_in_one_line(text: str) -> None:
    """However long the text, there is no line break, and base64 decodes to it."""
    encoded = sasl.encode(text)

    assert "\n" not in encoded
    assert text == b64decode(encoded, validate=True).decode()


@given(USERS, TOKENS)
def test_split_undoes_xoauth2(user: str, token: str) -> None:
    """What was put in comes out, whatever the user's name looks like."""
    assert (user, token) == sasl.split(sasl.xoauth2(user, token))


@given(USERS, TOKENS, st.data())
def test_every_shorter_string_is_seen_to_be_cut_off(user: str, token: str, data: st.DataObject) -> None:
    """No part of a reply that lacks its end passes for a whole one."""
    whole = sasl.xoauth2(user, token)
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(sasl.NotSasl):
        sasl.split(whole[:cut])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x01\x01",
        "user=\x01\x01",
        "user=u\x01auth=Bearer \x01\x01",
        "user=u\x01auth=Basic T\x01\x01",
        "user=u\x01auth=Bearer\x01\x01",
        "user=u\x01auth=Bearer two words\x01\x01",
        "user=u\x01auth=Bearer T\x01x=y\x01\x01",
        "user=u\nx\x01auth=Bearer T\x01\x01",
        "user=u\x01auth=Bearer T\u00e4\x01\x01",
        "user=u\x01auth=Bearer T\n\x01\x01",
        WHOLE + "\n",
        WHOLE + WHOLE,
        " " + WHOLE,
        "ERROR: no such user",
        "n,a=u,\x01auth=Bearer T\x01\x01",
    ],
)
def test_anything_else_is_no_xoauth2_string(text: str) -> None:
    """Trailing bytes, other schemes, other forms and error texts are refused, and not quoted."""
    with pytest.raises(sasl.NotSasl) as refusal:
        sasl.split(text)

    assert "Bearer" not in str(refusal.value)


def test_an_error_challenge_is_never_answered_with_the_token() -> None:
    """XOAUTH2 ends an error with an empty line, OAUTHBEARER with one ^A (RFC 7628, 3.2.3)."""
    assert "" == sasl.closing_answer("XOAUTH2")
    assert "AQ==" == sasl.encode(sasl.closing_answer("OAUTHBEARER"))
