"""What other programs encrypt by themselves: samples of theirs open, and nothing else does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support import peers as made
from support.peers import PIZAUTH_SAMPLE, PROXY_SAMPLE, SAMPLE_PASSWORD, SAMPLE_TOKEN

from cms.grants.transfer import decrypt, formats
from cms.grants.transfer.formats import Encryption

SALT = b"0123456789abcdef"
SEAL = Encryption("MDEyMzQ1Njc4OWFiY2RlZg==", 1000)


def test_a_dump_opens() -> None:
    """One that pizauth has made."""
    clear = decrypt.open_pizauth(PIZAUTH_SAMPLE)

    assert clear is not None
    assert SAMPLE_TOKEN.encode() in clear


@given(st.binary(max_size=64))
def test_what_is_no_dump_does_not_open(raw: bytes) -> None:
    """The cipher is its own signature."""
    assert decrypt.open_pizauth(raw) is None


def test_a_proxys_token_opens_with_its_password() -> None:
    """One that email-oauth2-proxy has made."""
    (found,) = formats.read(PROXY_SAMPLE, "", "x")

    assert found.encryption is not None
    assert SAMPLE_TOKEN == decrypt.open_fernet(found.refresh_token, found.encryption, SAMPLE_PASSWORD)


def test_another_password_opens_nothing() -> None:
    """And says so."""
    for wrong in ("wrong", "\udc80"):
        assert decrypt.open_fernet(made.fernet("token", "right", SALT, 1000), SEAL, wrong) is None


def test_noted_rounds_need_not_be_those_that_were_used() -> None:
    """A newer version encrypts with more rounds before it notes them."""
    sealed = made.fernet("token", "right", SALT, 100_000)

    assert "token" == decrypt.open_fernet(sealed, SEAL, "right")


def test_spoilt_seals_open_nothing() -> None:
    """No salt, or rounds that would take a day."""
    sealed = made.fernet("token", "right", SALT, 1000)

    assert decrypt.open_fernet(sealed, Encryption("a", 1000), "right") is None
    assert decrypt.open_fernet(sealed, Encryption("é" + SEAL.salt, 1000), "right") is None
    assert decrypt.open_fernet(sealed, Encryption(SEAL.salt, 10**12), "right") is None
