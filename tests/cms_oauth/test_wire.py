"""The socket protocol: requests and replies, whole, in pieces, too long and wrong."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth import sasl, wire
from cms_oauth.text import printable

HASH = "0123456789abcdef"

# Bytes that found faults in parsers like this one, or could.
SEEDS = [
    b"",
    b"\n",
    b"\r\n",
    b" ",
    b",",
    b",json",
    b",json\n",
    b"SMTP,",
    b"SMTP,,json",
    b"SMTP,json,json",
    b"SMTP,why,json,why",
    b"SMTP,json,token",
    b"SMTP,min=",
    b"SMTP,min=-1",
    b"SMTP,min=+1",
    b"SMTP,min=1e3",
    b"SMTP,min=\xd9\xa3",
    b"SMTP,min=999999999999999999999999",
    b"SMTP,min=000000000060",
    b"SMTP,min=1,min=2",
    b"SMTP,rejected=",
    b"SMTP,rejected=0123456789ABCDEF",
    b"SMTP,rejected=0123456789abcdef0",
    b"SMTP,XOAUTH2",
    b"SMTP;json user",
    b"smtp user@domain",
    b"SMTP\tuser@domain",
    b"SMTP  user@domain",
    b"SMTP user@domain ",
    b"SMTP user@domain\n\n",
    b"SMTP user@domain\nIMAP user@domain\n",
    b"SMTP user\rname\n",
    b"SMTP user\x00name",
    b"SMTP user\x01auth=Bearer x",
    b"SMTP \xff\xfe",
    b"SMTP \xed\xa0\x80",
    b"SMTP \xe2\x80\xa8x",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'{"json": true}',
    b"A" * 5000,
    b"SMTP " + b"a" * 5000,
    b"SMTP,json " + b"a" * 5000 + b"\n",
    b"SMTP" + b",json" * 500,
]

PROTOCOLS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=1, max_size=30)
USERS = st.text(max_size=100).filter(lambda text: text.isprintable() and " " not in text)
REQUESTS = st.builds(
    wire.TokenRequest,
    PROTOCOLS,
    st.sampled_from(wire.FORMS),
    USERS,
    st.none() | st.integers(0, 99_999),
    st.sampled_from(["", HASH]),
    why=st.booleans(),
)


@pytest.mark.parametrize("received", [b"SMTP user@domain", b"SMTP user@domain\n", b"SMTP user@domain\r\n"])
def test_the_original_requests_parse(received: bytes) -> None:
    """exim's request without LF, ended by its half-close, and the same with a newline of either kind."""
    assert wire.TokenRequest("SMTP", "xoauth2", "user@domain") == wire.parse_request(received)


@given(REQUESTS)
def test_what_is_built_parses_to_the_same(request_: wire.TokenRequest) -> None:
    """Building and parsing undo each other, with and without the newline."""
    built = wire.build_request(request_)

    assert built.endswith(b"\n")
    assert request_ == wire.parse_request(built)
    assert request_ == wire.parse_request(built[:-1])
    assert hash(request_) == hash(wire.parse_request(built))


@given(st.binary(max_size=2000))
def test_any_bytes_parse_or_are_a_bad_request(received: bytes) -> None:
    """Nothing else ever comes of a request: no other exception, and no form but a known one."""
    _parse_or_refuse(received)


@pytest.mark.parametrize("received", SEEDS)
def test_the_seeds_parse_or_are_a_bad_request(received: bytes) -> None:
    """The same, of bytes chosen with malice."""
    _parse_or_refuse(received)


def _parse_or_refuse(received: bytes) -> None:
    parsed = _outcome(received)
    if isinstance(parsed, wire.BadRequest):
        assert parsed.message.isprintable()
        assert len(parsed.message) < 100
        assert parsed.form in ("", "json")
    else:
        assert parsed.form in wire.FORMS
        assert parsed == wire.parse_request(wire.build_request(parsed))


def _outcome(received: bytes) -> wire.TokenRequest | wire.BadRequest:
    try:
        return wire.parse_request(received)
    except wire.BadRequest as bad:
        return bad


@pytest.mark.parametrize(
    ("received", "words"),
    [
        (b"", "begins with a protocol"),
        (b"smtp user@domain", "begins with a protocol"),
        (b"SMTP,bogus user@domain", "unknown option 'bogus'"),
        (b"SMTP,min=soon user@domain", "unknown option 'min'"),
        (b"SMTP,min=100000 user@domain", "unknown option 'min'"),
        (b"SMTP,rejected=xyz user@domain", "unknown option 'rejected'"),
        (b"SMTP,token,json user@domain", "one form"),
        (b"SMTP,why,why user@domain", "one why"),
        (b"SMTP,why=1 user@domain", "unknown option 'why'"),
        (b"SMTP,min=1,min=2 user@domain", "one min="),
        (b"SMTP user domain", "no spaces"),
        (b"SMTP user\x01", "no control characters"),
        (b"SMTP \xff", "UTF-8"),
        (b"SMTP user@domain\nmore", "more after the first line"),
        (b"SMTP " + b"a" * wire.MAX_REQUEST, "at most 1024 bytes"),
    ],
)
def test_a_bad_request_says_what_is_wrong_with_it(received: bytes, words: str) -> None:
    """The author of a client reads a sentence that says what is wrong."""
    with pytest.raises(wire.BadRequest) as bad:
        wire.parse_request(received)

    assert words in bad.value.message
    assert bad.value.message == str(bad.value)


def test_the_longest_request_still_parses() -> None:
    """The limit is the line without its newline: 1,024 bytes pass, one more does not."""
    line = b"SMTP " + b"a" * (wire.MAX_REQUEST - 5)

    assert "a" * (wire.MAX_REQUEST - 5) == wire.parse_request(line + b"\n").user
    with pytest.raises(wire.BadRequest):
        wire.parse_request(line + b"a")


@pytest.mark.parametrize(
    ("received", "form", "why"),
    [
        (b"SMTP,json,bogus user@domain", "json", False),
        (b"smtp,json", "json", False),
        (b"smtp,json\r\n", "json", False),
        (b"SMTP,json \xff", "json", False),
        (b"SMTP,json user@domain\nmore", "json", False),
        (b"SMTP,jsonx user@domain", "", False),
        (b"json user@domain", "", False),
        (b"SMTP,bogus ,json", "", False),
        (b"SMTP,why,bogus user@domain", "", True),
        (b"smtp,token,why\r\n", "", True),
        (b"SMTP,why \xff", "", True),
        (b"SMTP,why " + b"a" * wire.MAX_REQUEST, "", True),
        (b"SMTP,why,json,bogus", "json", True),
        (b"why user@domain", "", False),
        (b"SMTP,whyx ,why", "", False),
    ],
)
def test_a_bad_request_is_answered_as_it_asks(received: bytes, form: str, *, why: bool) -> None:
    """The wish for a reason is seen even where the rest cannot be read; only as an option, not as any word."""
    with pytest.raises(wire.BadRequest) as bad:
        wire.parse_request(received)

    assert (form, why) == (bad.value.form, bad.value.why)


def test_a_user_that_is_no_utf8_is_a_bad_request_not_a_crash() -> None:
    """A command line in another encoding reaches Python as surrogates."""
    built = wire.build_request(wire.TokenRequest("SMTP", user="m\udcfcller"))

    assert b"SMTP m\xfcller\n" == built
    with pytest.raises(wire.BadRequest, match="UTF-8"):
        wire.parse_request(built)


def test_requests_are_compared_by_what_they_ask() -> None:
    """Two requests that ask the same are the same; a request is no other thing; its repr names its fields."""
    assert wire.TokenRequest("SMTP", "json", "u", 60, HASH) == wire.TokenRequest("SMTP", "json", "u", 60, HASH)
    assert wire.TokenRequest("SMTP") != wire.TokenRequest("IMAP")
    assert wire.TokenRequest("SMTP") != "SMTP"
    assert wire.TokenRequest("SMTP") != wire.TokenRequest("SMTP", why=True)
    assert f"TokenRequest('SMTP', 'xoauth2', 'u', None, '{HASH}', True)" == repr(
        wire.TokenRequest("SMTP", user="u", rejected=HASH, why=True)
    )


@pytest.mark.parametrize(
    ("form", "reply"),
    [
        ("xoauth2", b"user=u@d\x01auth=Bearer T\x01\x01"),
        ("xoauth2-b64", b"dXNlcj11QGQBYXV0aD1CZWFyZXIgVAEB"),
        ("oauthbearer", b"n,a=u@d,\x01auth=Bearer T\x01\x01"),
        ("oauthbearer-b64", b"bixhPXVAZCwBYXV0aD1CZWFyZXIgVAEB"),
        ("token", b"T"),
    ],
)
def test_a_plain_form_is_its_bytes_and_nothing_else(form: str, reply: bytes) -> None:
    """No newline: exim would put it into the base64."""
    assert reply == wire.render(form, "u@d", "T")
    if form.endswith("-b64"):
        assert wire.render(form.removesuffix("-b64"), "u@d", "T") == b64decode(reply, validate=True)


def test_a_granted_json_reply_has_the_token_its_expiry_and_every_form() -> None:
    """One object, versioned; seconds are whole."""
    reply = wire.json_reply("u@d", "SMTP", "T", expires_in=3599.9, expires_at=1_800_000_000.5)

    assert {
        "version": 1,
        "user": "u@d",
        "protocol": "SMTP",
        "token": "T",
        "token_type": "Bearer",
        "expires_in": 3599,
        "expires_at": 1_800_000_000,
        "xoauth2": "user=u@d\x01auth=Bearer T\x01\x01",
        "xoauth2-b64": "dXNlcj11QGQBYXV0aD1CZWFyZXIgVAEB",
        "oauthbearer": "n,a=u@d,\x01auth=Bearer T\x01\x01",
        "oauthbearer-b64": "bixhPXVAZCwBYXV0aD1CZWFyZXIgVAEB",
    } == reply
    assert reply == json.loads(json.dumps(reply))


def test_a_refused_json_reply_has_code_message_hint_and_pause() -> None:
    """What happened, whose move it is, and when cms itself tries again."""
    assert {
        "version": 1,
        "error": {"code": "unavailable", "message": "it is down", "hint": "wait", "retry_after": 42},
    } == wire.json_refusal("unavailable", "it is down", "wait", 42.9)


@given(st.sampled_from(list(wire.EXIT_CODES)), st.text(min_size=1), st.text(), st.integers(0, 100_000))
def test_a_refusals_line_is_one_line_with_everything(code: str, message: str, hint: str, retry_after: int) -> None:
    """Whatever is in the texts, which come from servers too."""
    line = wire.refusal_line(code, message, hint, retry_after + 0.9)

    assert (b"!", 1, 1) == (line[:1], line.count(b"\n"), line.count(b"\t"))
    assert (code, printable(message), printable(hint), retry_after) == wire.parse_refusal(line.decode())


def test_a_refusal_without_a_message_has_its_code() -> None:
    """Its line stays one that a client can read."""
    assert ("locked", "locked", "", 0) == wire.parse_refusal(wire.refusal_line("locked", "").decode())


@given(st.sampled_from(wire.FORMS[:5]), USERS, st.text("ABCxyz019-._~+/=", min_size=1))
def test_no_credential_looks_like_a_refusal(form: str, user: str, token: str) -> None:
    """In no form, of no user, with any bearer token (RFC 6750, 2.1)."""
    assert wire.parse_refusal(wire.render(form, user, token).decode()) is None


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (64, ["bad-request", "unknown-protocol"]),
        (67, ["unknown-account"]),
        (69, ["no-daemon"]),
        (75, ["untrusted", "sign-in-required", "unavailable", "locked", "busy"]),
        (77, ["denied"]),
    ],
)
def test_exit_codes_are_those_of_sysexits(status: int, codes: list[str]) -> None:
    """What a person has to mend is EX_TEMPFAIL: mail must wait for them, not bounce."""
    assert codes == [code for code, its in wire.EXIT_CODES.items() if its == status]


def test_the_longest_reply_fits_the_limit() -> None:
    """A token of 32 KB in all forms at once, as JSON, is well within what a client reads."""
    reply = json.dumps(wire.json_reply("u@d", "SMTP", "t" * 32_768, expires_in=1, expires_at=1))

    assert len(reply) < wire.MAX_REPLY
    assert sasl.is_token("t" * 32_768)


@pytest.mark.parametrize("user", ["\ud800@example.test", "\udcffx\ud800", "a\udfff"])
def test_a_user_that_is_no_text_is_a_bad_request(user: str) -> None:
    """Half a surrogate pair, and what a command line in another encoding becomes: refused, and no traceback."""
    with pytest.raises(wire.BadRequest, match="a request is UTF-8 text"):
        wire.parse_request(wire.build_request(wire.TokenRequest("SMTP", user=user)))
