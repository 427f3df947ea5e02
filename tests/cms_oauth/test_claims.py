"""What a token says of itself: read where it can be, and never a reason to fail."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth.claims import Claims, claims_of


def jwt(claims: object) -> str:
    text = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return f"eyJ0eXAiOiJKV1QifQ.{urlsafe_b64encode(text).decode().rstrip('=')}.c2lnbmF0dXJl"


def test_a_persons_token() -> None:
    """As Entra makes them for Exchange."""
    token = jwt(
        {
            "aud": "https://outlook.office.com",
            "scp": "IMAP.AccessAsUser.All SMTP.Send",
            "upn": "ann@example.test",
            "tid": "t",
            "appid": "a",
            "exp": 1_800_000_000,
            "idtyp": "user",
        }
    )
    expected = Claims(
        audience="https://outlook.office.com",
        scopes=("IMAP.AccessAsUser.All", "SMTP.Send"),
        user="ann@example.test",
        tenant="t",
        app="a",
        expires=1_800_000_000.0,
    )

    assert expected == claims_of(token)


@pytest.mark.parametrize(
    ("claims", "application"),
    [
        ({"roles": ["SMTP.SendAsApp"], "idtyp": "app"}, True),
        ({"roles": ["SMTP.SendAsApp"]}, True),
        ({"roles": ["admin"], "scp": "SMTP.Send"}, False),
        ({"idtyp": "app"}, True),
        ({}, False),
    ],
)
def test_an_applications_token(claims: dict[str, object], *, application: bool) -> None:
    """It says so, or has an application's permissions and no person's."""
    known = claims_of(jwt(claims))

    assert known is not None
    assert application == known.application


@pytest.mark.parametrize("name", ["upn", "preferred_username", "unique_name", "email"])
def test_the_user_has_several_names(name: str) -> None:
    """By version of the token and kind of account."""
    known = claims_of(jwt({name: "ann@example.test"}))

    assert known is not None
    assert "ann@example.test" == known.user


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"aud": ["https://outlook.office.com", "other"]}, Claims(audience="https://outlook.office.com")),
        ({"aud": []}, Claims()),
        ({"aud": 5, "scp": ["SMTP.Send"], "roles": "x", "upn": None, "exp": "soon"}, Claims(application=True)),
        ({"exp": True}, Claims()),
        ({"exp": 10**400}, Claims()),
        (b'{"exp": NaN}', Claims()),
        (b'{"exp": Infinity}', Claims()),
        ({"exp": 5.5}, Claims(expires=5.5)),
        ({"roles": ["a", 5]}, Claims(roles=("a",), application=True)),
        ({"upn": "a\x1b[31mb\nc"}, Claims(user="a?[31mb c")),
        ({"upn": "x" * 9999}, Claims(user="x" * 509 + "...")),
        ({"azp": "a"}, Claims(app="a")),
    ],
)
def test_claims_of_another_shape(claims: object, expected: Claims) -> None:
    """What has not the shape that Entra gives it is left out; nothing in it moves a cursor."""
    assert expected == claims_of(jwt(claims))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "EwB4A8l6BAAU" + "x" * 900,
        "a.b",
        "a.b.c.d",
        "a.!!!.c",
        jwt([1]),
        jwt(b"{"),
        jwt(b"\xff\xfe"),
        jwt(b"[" * 60_000),
        "a." + "x" * 200_000 + ".c",
        "a.é.c",
    ],
)
def test_what_is_no_jwt(token: str) -> None:
    """Tokens of personal accounts are opaque: that is no mistake."""
    assert claims_of(token) is None


@given(st.text() | st.binary().map(jwt) | st.dictionaries(st.text(), st.none() | st.floats() | st.text()).map(jwt))
def test_never_raises(token: str) -> None:
    """Whatever a token is."""
    claims_of(token)
