"""The file that carries sign-ins to another machine."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.core.accounts import Grant, StoredSignIn
from cms.core.lifecycle import Ending
from cms.grants.transfer import export_file
from cms.grants.transfer.formats import Unfit
from cms.grants.vault.entry_file import Entry

GRANT = Grant("https://login.example.test/common", "client", "ann@example.test")
ENTRY = Entry('{"RefreshToken": {}}', "home.tenant", "ann@example.test", 1_795_000_000.0, (Ending(1.0, 2.0, 70043),))


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at a cost that a test can pay a hundred times."""
    monkeypatch.setattr(export_file, "COST", {"n": 16, "r": 8, "p": 1})


def sealed(passphrase: str = "correct horse") -> bytes:
    return export_file.encrypt([(GRANT, ENTRY)], passphrase).encode()


def with_header(**changed: Any) -> bytes:
    """Return an export whose header says something else."""
    head, _, body = sealed().partition(b"\n")
    header = {name: value for name, value in {**json.loads(head), **changed}.items() if value is not None}
    return json.dumps(header).encode() + b"\n" + body


def refusal(raw: bytes, passphrase: str = "correct horse") -> str:
    with pytest.raises(Unfit) as caught:
        export_file.decrypt(raw, passphrase, "/f")
    assert caught.value.hint
    return caught.value.message


def test_what_was_sealed_is_opened() -> None:
    """Identity and entry, when it was given and how earlier sign-ins ended included."""
    (found,) = export_file.decrypt(sealed(), "correct horse", "/f")

    assert (GRANT, ENTRY) == (found.grant, found.entry)
    identity = (GRANT.key, GRANT.authority, "client", GRANT.login)
    expected = StoredSignIn(*identity, ENTRY.who, ENTRY.signed_in, "microsoft")
    assert expected == found.kept
    assert "RefreshToken" not in repr(found)


def test_every_providers_sign_in_is_opened() -> None:
    """Microsoft's tables of records, in which something may be unknown, and the plain texts of the others."""
    for cache in ('{"RefreshToken": {"a": {"secret": "x", "target": null}}}', '{"refresh_token": "x", "scope": ""}'):
        raw = export_file.encrypt([(GRANT, replace(ENTRY, cache=cache))], "correct horse").encode()
        (found,) = export_file.decrypt(raw, "correct horse", "/f")

        assert cache == found.entry.cache


def test_an_export_of_an_earlier_cms_names_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is opened as ever."""
    pack = export_file._packed  # what an earlier cms has packed
    monkeypatch.setattr(export_file, "_packed", lambda *each: {k: v for k, v in pack(*each).items() if k != "provider"})
    (found,) = export_file.decrypt(sealed(), "correct horse", "/f")

    assert ("", GRANT.key) == (found.kept.provider, found.kept.key)


def test_two_exports_have_nothing_in_common() -> None:
    """Salt and nonce are fresh each time, and nothing in the file is in clear but how to open it."""
    first, second = sealed(), sealed()

    assert first.split(b"\n")[1] != second.split(b"\n")[1]
    assert {"format", "version", "kdf", "salt", "n", "r", "p"} == set(json.loads(first.split(b"\n")[0]))


@pytest.mark.parametrize("passphrase", ["correct hors", "", "Correct horse", "correct horse "])
def test_another_passphrase_opens_nothing(passphrase: str) -> None:
    """Which is all that can be told of it."""
    assert "the passphrase does not open /f" in refusal(sealed(), passphrase)


def test_a_passphrase_is_any_line() -> None:
    """Letters of any script, and bytes that are none in this locale."""
    assert export_file.decrypt(sealed("Dürüm\udcff"), "Dürüm\udcff", "/f")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"version": 2}, "/f was written by a newer cms"),
        ({"kdf": "argon2id"}, "/f was written by a newer cms"),
        ({"format": "cms-vault"}, "/f is not a file of `cms export`"),
        ({"n": 2**30}, "/f is damaged"),
        ({"n": 1}, "/f is damaged"),
        ({"n": 17}, "/f is damaged"),
        ({"n": 0}, "/f is damaged"),
        ({"n": True}, "/f is damaged"),
        ({"r": 2**20}, "/f is damaged"),
        ({"p": 5}, "/f is damaged"),
        ({"p": None}, "/f is damaged"),
        ({"salt": ""}, "/f is damaged"),
        ({"salt": "AAAA" * 30}, "/f is damaged"),
        ({"salt": "?"}, "/f is damaged"),
        ({"salt": 1}, "/f is damaged"),
        ({"salt": base64.b64encode(b"another").decode()}, "the passphrase does not open /f, or the file is damaged"),
        ({"more": 1}, "the passphrase does not open /f, or the file is damaged"),
    ],
)
def test_a_header_is_checked_before_it_is_believed(changed: dict[str, Any], expected: str) -> None:
    """It is authenticated too: but only after the key was derived at the cost that it names."""
    assert expected == refusal(with_header(**changed))


@pytest.mark.parametrize("raw", [b"", b"\n", b"[]\n", b"\xff\n", b"{}", b'{"format": "cms-export"'])
def test_what_is_no_export_is_said(raw: bytes) -> None:
    """A file of something else."""
    assert "/f is not a file of `cms export`" == refusal(raw)
    assert not export_file.is_export(raw)


@pytest.mark.parametrize("body", [b"", b"AAAA", b"\xff", b"not base64"])
def test_a_body_that_was_cut_off_is_damaged(body: bytes) -> None:
    """Whatever is missing of it."""
    assert "damaged" in refusal(sealed().partition(b"\n")[0] + b"\n" + body)


@pytest.mark.parametrize(
    "clear",
    [
        {},
        {"sign_ins": [{}]},
        {"sign_ins": [{"authority": 1, "client_id": "c", "login": "l", "entry": {}}]},
        {"sign_ins": [{"authority": "a", "client_id": "c", "login": "l", "entry": {"later": 1}}]},
        {"sign_ins": [{"authority": "a", "client_id": "c", "login": "l", "entry": asdict(ENTRY) | {"cache": 1}}]},
        {"sign_ins": [{"authority": "a", "client_id": "c", "login": "l", "entry": asdict(ENTRY) | {"redeemed": True}}]},
    ],
)
def test_contents_of_a_later_cms_are_told_from_damage(clear: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """They decrypted, so they were not tampered with."""
    monkeypatch.setattr(
        json, "loads", lambda raw: clear if b"sign_ins" in raw else json.JSONDecoder().decode(raw.decode())
    )

    assert "/f was written by a newer cms" == refusal(sealed())


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt needs what it needs."""

    def scarce(*_: object, **__: object) -> bytes:
        raise MemoryError

    raw = sealed()
    monkeypatch.setattr(export_file, "_derive", scarce)

    assert "there is too little memory to open /f" == refusal(raw)


def test_no_changed_byte_goes_unnoticed() -> None:
    """Any one byte that is another: the file is refused, and never with a traceback."""
    whole = sealed()

    @settings(max_examples=100)
    @given(st.integers(0, len(whole) - 2), st.integers(1, 255))
    def changed(place: int, bits: int) -> None:
        raw = bytearray(whole)
        raw[place] ^= bits
        assert refusal(bytes(raw))

    changed()


@pytest.mark.parametrize(
    "head", [b"[" * 4000, b'{"a":' * 200, b'{"format": "cms-export", "salt": "\\ud800", "version": 1}']
)
def test_a_header_that_is_nested_or_no_text_is_refused(head: bytes) -> None:
    """In one sentence, as any other file that is no export."""
    assert "/f" in refusal(head + b"\n" + sealed().partition(b"\n")[2])


@pytest.mark.parametrize(
    "grant",
    [
        Grant("https://login.example.test/common", "client", "ann\x1b[2J@example.test"),
        Grant("https://login.example.test/common", "client\nx", "ann@example.test"),
        Grant("https://login.example.test/\u202e", "client", "ann@example.test"),
    ],
)
def test_names_that_would_move_a_cursor_are_refused(grant: Grant) -> None:
    """Whoever gives the file gives the passphrase too, and may have written anything into it."""
    raw = export_file.encrypt([(grant, ENTRY)], "correct horse").encode()

    assert "/f was written by a newer cms" == refusal(raw)


@pytest.mark.parametrize(
    "cache",
    [
        "",
        "no JSON",
        "[]",
        "[" * 4000,
        '{"Account": 5}',
        '{"RefreshToken": {"a": []}}',
        '{"RefreshToken": {"a": {"secret": 5}}}',
    ],
)
def test_a_sign_in_that_no_provider_has_written(cache: str) -> None:
    """Who made the file may have put anything into it. No provider gets to read that."""
    raw = export_file.encrypt([(GRANT, replace(ENTRY, cache=cache))], "correct horse").encode()

    assert "/f was written by a newer cms" == refusal(raw)


def test_any_passphrase_can_be_used() -> None:
    """Also one with surrogates, whether they stand for bytes of another locale or not."""
    for passphrase in ("caf\udce9", "\ud800", "caf\udce9\ud800"):
        (found,) = export_file.decrypt(sealed(passphrase), passphrase, "/f")
        assert GRANT == found.grant
