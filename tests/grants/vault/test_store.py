from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.grants import PATIENCE, NoRing, TurnsUpLocked
from support.killed_lines import killed_at

from cms.core.accounts import Grant, Scopes, Source
from cms.core.lifecycle import Granted, SignInFacts, token_hash
from cms.grants.secret_sources import Locked, Missing, Unavailable
from cms.grants.vault import entry_file, keyring, keys, vault_key
from cms.grants.vault import store as vault_store
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keyring import KEY_BYTES
from cms.grants.vault.keys import Keys
from cms.grants.vault.minted import Moment
from cms.grants.vault.store import Stored, Vault

SCOPES = ("https://outlook.office.com/SMTP.Send",)
OTHER_SCOPES = ("https://graph.microsoft.com/Mail.Send",)
GRANT = Grant("https://login.example/common", "Client", "Ann@example.test")
# The same, with the scopes that its accounts need.
WIDE = replace(GRANT, scope_sets=(SCOPES, OTHER_SCOPES))
OTHER = Grant("https://login.example/common", "Client", "ben@example.test")
ENTRY = Entry('{"RefreshToken": {"x": {"secret": "the-refresh-token"}}}', "oid.tid", "ann@example.test", 1700000000.0)
NEWER = replace(ENTRY, cache='{"RefreshToken": {"x": {"secret": "its-successor"}}}')


def granted(secret: str, now: Moment, life: float = 3600.0) -> Granted:
    """A token that has just come."""
    return Granted(secret, now.boot, life, SCOPES)


def prepare(vault: Vault, grant: Grant = GRANT) -> Stored:
    """Say where a sign-in would go."""
    with vault.hold(grant) as held:
        place = held.prepare()
        held.release()
        return place


def put(vault: Vault, grant: Grant = GRANT, entry: Entry = ENTRY) -> Stored:
    """Store an entry, as after a sign-in."""
    with vault.hold(grant) as held:
        held.prepare()
        return held.store(entry)


def put_token(vault: Vault, secret: str, scopes: Scopes = SCOPES, entry: Entry = ENTRY, grant: Grant = WIDE) -> None:
    """Store an access token, as after a redemption."""
    with vault.hold(grant, scopes) as held:
        held.inspect()
        held.prepare()
        held.store(entry, granted(secret, vault.now()))


def secret_of(vault: Vault, scopes: Scopes = SCOPES, held_hash: str = "", grant: Grant = WIDE) -> str:
    """Return the stored access token, "" for none."""
    with vault.hold(grant, scopes) as held:
        held.read()
        found = held.minted(held_hash)
        return found[0].secret if found else ""


def doubtful(lab: Lab, scopes: Scopes = SCOPES) -> bool:
    """Whether the stored access token is said to be."""
    with lab.vault().hold(WIDE, scopes) as held:
        held.read()
        found = held.minted("")
    assert found is not None
    return found[0].doubtful


class Lab:
    """A state folder, and its vault as each new process opens it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "deep" / "state"
        self.key = folder / "vault.key"
        self.named: Source | None = Source("file", (str(self.key),))
        self.now = Moment(1_700_000_000.0, 5000.0, "boot")

    def vault(self, patience: float = 20.0) -> Vault:
        return Vault(str(self.state), Keys(self.named, environ={}, ring=NoRing()), patience, lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        self.now = replace(self.now, wall=self.now.wall + seconds, boot=self.now.boot + seconds)

    def store(self, grant: Grant = GRANT, entry: Entry = ENTRY) -> Stored:
        return put(self.vault(), grant, entry)

    def read(self, grant: Grant = GRANT) -> Entry | None:
        with self.vault().hold(grant) as held:
            return held.read()

    def interrupted(self) -> bool:
        with self.vault().hold(GRANT) as held:
            return held.interrupted

    def path(self, grant: Grant = GRANT) -> Path:
        return self.state / f"{grant.key}.vault"

    def names(self) -> set[str]:
        return {path.name for path in self.state.iterdir()}

    def trouble(self, call: Callable[[], object] | None = None) -> str:
        """Return the kind of trouble that a call, or else a read, ends with."""
        with pytest.raises(Unavailable) as caught:
            (call or self.read)()
        return caught.value.outcome.trouble.kind


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_what_is_stored_is_read(lab: Lab) -> None:
    """An entry comes back in the next process as it was stored, and is said to be persisted."""
    assert lab.read() is None
    assert Stored(persisted=True, key_from=f"key file {lab.key}") == lab.store()
    assert ENTRY == lab.read()
    assert NEWER != lab.read()
    lab.store(entry=NEWER)
    assert NEWER == lab.read()


def test_private(lab: Lab) -> None:
    """The folder is made 0700, its files 0600, whatever the umask."""
    old = os.umask(0)
    try:
        lab.store()
    finally:
        os.umask(old)

    assert 0o700 == stat.S_IMODE(lab.state.stat().st_mode)
    assert {0o600} == {stat.S_IMODE((lab.state / name).stat().st_mode) for name in lab.names() - {"key-id"}}


def test_open_folder_is_closed(lab: Lab) -> None:
    """A folder of ours that others may enter is made private."""
    lab.state.mkdir(parents=True)
    lab.state.chmod(0o755)
    lab.store()

    assert 0o700 == stat.S_IMODE(lab.state.stat().st_mode)


def test_folder_of_another_user(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder that belongs to another user is not used."""
    lab.state.mkdir(parents=True)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)

    assert "storage" == lab.trouble(lambda: prepare(lab.vault()))
    assert "storage" == lab.trouble()


def test_nothing_in_clear(lab: Lab) -> None:
    """The file holds neither a token nor any other part of the cache in clear; nor do a repr and a file name."""
    lab.store()
    raw = lab.path().read_bytes()

    for word in (b"the-refresh-token", b"RefreshToken"):
        assert word not in raw
    assert "the-refresh-token" not in repr(ENTRY)
    assert not any("ann" in name.lower() for name in lab.names())
    assert "Vault(" + repr(str(lab.state)) + ")" == repr(lab.vault())


def test_fresh_nonce(lab: Lab) -> None:
    """The same entry is never encrypted alike twice."""
    lab.store()
    first = lab.path().read_bytes()
    lab.store()

    assert first.partition(b"\n")[0] == lab.path().read_bytes().partition(b"\n")[0]
    assert first.partition(b"\n")[2][:12] != lab.path().read_bytes().partition(b"\n")[2][:12]


def test_header_names_what_it_binds(lab: Lab) -> None:
    """The header says, without the key, which sign-in a file belongs to and which key opens it."""
    lab.store()
    header = entry_file.parse_header(lab.path().read_bytes().partition(b"\n")[0] + b"\n")

    assert {
        "format": "cms-vault",
        "version": 2,
        "key": keyring.key_id(keyring.parse_key(lab.key.read_bytes())),
        "authority": "https://login.example/common",
        "client_id": "client",
        "login": "ann@example.test",
        "sign_in": "",
        "provider": "microsoft",
    } == header


def test_a_header_of_an_earlier_cms_names_no_provider(lab: Lab) -> None:
    """The sign-in is read as ever; whose it is, is told by its authority."""
    lab.store(replace(GRANT, provider=""))
    raw = lab.path().read_bytes()
    head, _, body = raw.partition(b"\n")
    assert b'"provider": ""' in head

    assert ENTRY == lab.read()
    assert "" == entry_file.grant_of(raw).provider
    assert "" == entry_file.grant_of(head.replace(b', "provider": ""', b"") + b"\n" + body).provider


def test_whatever_a_provider_calls_a_person_is_read_again(lab: Lab) -> None:
    """A name of any length is no part of the header, which has a limit."""
    entry = replace(ENTRY, home_account_id="s" * entry_file.MAX_HEADER)
    lab.store(entry=entry)

    assert entry == lab.read()


@pytest.mark.parametrize("field", ["authority", "client_id", "login", "format", "version"])
def test_header_cannot_be_changed(lab: Lab, field: str) -> None:
    """A changed header is found out: a grant is redeemed nowhere but where it was given."""
    lab.store()
    head, _, body = lab.path().read_bytes().partition(b"\n")
    header = json.loads(head) | {field: "other"}
    lab.path().write_bytes(json.dumps(header, sort_keys=True).encode() + b"\n" + body)

    assert "vault-damaged" == lab.trouble()


def test_file_of_another_grant(lab: Lab) -> None:
    """A file that was copied over another one is not taken for it."""
    lab.store()
    lab.store(OTHER, NEWER)
    shutil.copy(lab.path(OTHER), lab.path())

    assert "vault-damaged" == lab.trouble()


def test_any_flipped_bit(lab: Lab) -> None:
    """A file with one bit changed anywhere is never read, is left as it is, and nothing but an outcome comes of it."""
    lab.store()
    whole = lab.path().read_bytes()
    kinds = set()
    for place in range(0, len(whole), 7):
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        lab.path().write_bytes(changed)
        kinds.add(lab.trouble())
        assert changed == lab.path().read_bytes()

    # A changed key id names a key that does not exist; a changed version may be one to come.
    assert {"vault-damaged", "locked"} <= kinds <= {"vault-damaged", "locked", "vault-newer"}


def test_any_truncation(lab: Lab) -> None:
    """A truncated file is never read."""
    lab.store()
    whole = lab.path().read_bytes()
    for length in range(0, len(whole), 11):
        lab.path().write_bytes(whole[:length])
        assert "vault-damaged" == lab.trouble()


@pytest.mark.parametrize("head", [b"[]", b"{}", b"\xff", b"1", b'{"format": "cms-vault", "version": 1, "key": 5}'])
def test_other_formats(lab: Lab, head: bytes) -> None:
    """Any other file than a vault file of this version counts as damaged."""
    lab.store()
    lab.path().write_bytes(head + b"\n" + b"x" * 100)

    assert "vault-damaged" == lab.trouble()


@pytest.mark.parametrize("head", [b"[" * 4000, b'{"key":' * 4000, b"[]", b"\0", b'"\\ud800"'])
def test_a_header_that_is_no_object_is_damage(lab: Lab, head: bytes) -> None:
    """Also one that is nested more deeply than Python can read: the same as any other damage, and no bug."""
    lab.store()
    lab.path().write_bytes(head + b"\n" + lab.path().read_bytes())

    assert "vault-damaged" == lab.trouble()


def newer(raw: bytes, **header: object) -> bytes:
    """Return a vault file as a later version of cms may write it."""
    head, _, body = raw.partition(b"\n")
    return json.dumps(json.loads(head) | {"version": entry_file.VERSION + 1, **header}).encode() + b"\n" + body


@pytest.mark.parametrize("header", [{}, {"key": 7}, {"login": "elsewhere"}, {"version": 99}])
def test_a_newer_cms_file_is_left_alone(lab: Lab, header: dict[str, object]) -> None:
    """Whatever else its header says: it is neither damaged nor replaced by a sign-in, and there is a way out."""
    lab.store()
    raw = newer(lab.path().read_bytes(), **header)
    lab.path().write_bytes(raw)
    names = lab.names()
    with lab.vault().hold(GRANT) as held, pytest.raises(Unavailable) as caught:
        held.inspect()
    trouble = caught.value.outcome.trouble

    assert "vault-newer" == lab.trouble() == trouble.kind
    assert f"{lab.path()} was written by a newer cms than this one, which leaves it as it is" == trouble.message
    assert f"install that cms again, or a later one. To stay with this one, move {lab.path()} away" in trouble.hint
    assert (raw, {f"{GRANT.key}.lock"}) == (lab.path().read_bytes(), lab.names() - names)


def test_a_newer_cms_file_needs_its_key(lab: Lab) -> None:
    """No other key is made beside it: a sign-in of another account waits for the key."""
    lab.store()
    lab.path().write_bytes(newer(lab.path().read_bytes()))
    lab.key.unlink()

    assert "locked" == lab.trouble(lambda: lab.store(OTHER))
    assert not lab.key.exists()


def version_1(lab: Lab, entry: Entry = ENTRY) -> bytes:
    """Put a file there as the first version of cms wrote it; return its bytes."""
    lab.store()
    key = lab.vault().key.keys.need(json.loads(lab.path().read_bytes().partition(b"\n")[0])["key"])
    head = lab.path().read_bytes().partition(b"\n")[0].replace(b'"version": 2', b'"version": 1') + b"\n"
    raw = head + bytes(12) + AESGCM(key.secret).encrypt(bytes(12), json.dumps(asdict(entry)).encode(), head)
    lab.path().write_bytes(raw)
    return raw


def test_an_older_file_is_read_and_replaced_at_the_next_write(lab: Lab) -> None:
    """Reading alone changes nothing."""
    raw = version_1(lab)

    assert (ENTRY, raw) == (lab.read(), lab.path().read_bytes())
    put_token(lab.vault(), "access-token", entry=NEWER)
    assert (NEWER, "access-token") == (lab.read(), secret_of(lab.vault()))
    assert 2 == json.loads(lab.path().read_bytes().partition(b"\n")[0])["version"]


def test_an_older_file_stays_until_the_new_one_was_read_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives back something else than it was given costs no sign-in."""
    raw = version_1(lab)
    with monkeypatch.context() as patched, lab.vault().hold(GRANT) as held:
        held.read()
        held.prepare()
        patched.setattr(entry_file, "read_regular", lambda path, most: path.read_bytes()[:-1])
        assert "storage" == lab.trouble(lambda: held.store(NEWER))

    assert (ENTRY, raw) == (lab.read(), lab.path().read_bytes())


def test_no_access_token_in_clear(lab: Lab) -> None:
    """Neither the token nor its scopes, in any file; only their owner could read them anyway."""
    put_token(lab.vault(), "access-token")
    kept = b"".join(path.read_bytes() for path in lab.state.iterdir())

    assert [] == [word for word in (b"access-token", b"SMTP.Send", b"tokens") if word in kept]


class TestTokens:
    """The access tokens beside a sign-in."""

    def test_kept_until_they_expire(self, lab: Lab) -> None:
        """In the next process too, with what is left of their life."""
        put_token(lab.vault(), "access-token")
        lab.pass_time(1800.0)
        with lab.vault().hold(WIDE, SCOPES) as held:
            held.read()
            then = replace(lab.now, wall=lab.now.wall - 1800.0, boot=lab.now.boot - 1800.0)
            handed_out = replace(granted("access-token", then), sign_in=SignInFacts(redeemed_at=then.wall))
            assert (handed_out, "") == held.minted("")
        lab.pass_time(1800.0)

        assert "" == secret_of(lab.vault())

    def test_one_for_each_scope_set(self, lab: Lab) -> None:
        """The newest."""
        put_token(lab.vault(), "first")
        put_token(lab.vault(), "other", OTHER_SCOPES)
        put_token(lab.vault(), "second")

        assert ("second", "other") == (secret_of(lab.vault()), secret_of(lab.vault(), OTHER_SCOPES))

    def test_one_that_has_expired_already_replaces_none(self, lab: Lab) -> None:
        """The daemon goes on with the one before."""
        put_token(lab.vault(), "access-token")
        with lab.vault().hold(WIDE, SCOPES) as held:
            held.read()
            held.prepare()
            held.store(ENTRY, granted("dead", lab.now, -1.0))

        assert "access-token" == secret_of(lab.vault())

    def test_the_one_that_is_held_already_is_no_news(self, lab: Lab) -> None:
        """A daemon that has it wants another."""
        put_token(lab.vault(), "access-token")

        assert "" == secret_of(lab.vault(), held_hash=token_hash("access-token"))
        assert "access-token" == secret_of(lab.vault(), held_hash=token_hash("another"))

    def test_a_new_sign_in_ends_them(self, lab: Lab) -> None:
        """They are not of its person's last word."""
        put_token(lab.vault(), "first", OTHER_SCOPES)
        put_token(lab.vault(), "second", entry=replace(ENTRY, signed_in=ENTRY.signed_in + 1))

        assert ("second", "") == (secret_of(lab.vault()), secret_of(lab.vault(), OTHER_SCOPES))

    def test_a_changed_grant_ends_them(self, lab: Lab) -> None:
        """Other scopes get no token of before, and the next write deletes it."""
        put_token(lab.vault(), "access-token")
        changed = replace(GRANT, scope_sets=(OTHER_SCOPES,))
        assert "" == secret_of(lab.vault(), OTHER_SCOPES, grant=changed)
        put_token(lab.vault(), "other", OTHER_SCOPES, grant=changed)

        assert ("", "other") == (secret_of(lab.vault()), secret_of(lab.vault(), OTHER_SCOPES))

    def test_facts_leave_them_alone(self, lab: Lab) -> None:
        """As when the end of a sign-in is noted: what was given is good until it expires."""
        put_token(lab.vault(), "access-token")
        with lab.vault().hold(WIDE) as held:
            held.read()
            held.prepare()
            held.store(replace(ENTRY, claims="challenge"))

        assert "access-token" == secret_of(lab.vault())

    def test_one_whose_successor_was_refused_is_doubtful(self, lab: Lab) -> None:
        """Those for other scopes are not, and neither is the next; that it is so is news once."""
        put_token(lab.vault(), "access-token")
        put_token(lab.vault(), "other", OTHER_SCOPES)
        for news in (True, False):
            with lab.vault().hold(WIDE, SCOPES) as held:
                held.read()
                held.prepare()
                assert news == held.mark_refused()
                held.store(ENTRY)

        assert (True, False) == (doubtful(lab), doubtful(lab, OTHER_SCOPES))
        put_token(lab.vault(), "next")
        assert not doubtful(lab)

    def test_after_a_redemption_that_was_cut_off_each_is_doubtful(self, lab: Lab) -> None:
        """The sign-in may have ended with it."""
        put_token(lab.vault(), "access-token")
        lab.path().with_suffix(".redeeming").write_bytes(b"")

        assert doubtful(lab)

    def test_each_knows_what_the_application_proved_itself_with(self, lab: Lab) -> None:
        """So that a changed secret can end it."""
        with lab.vault().hold(WIDE, SCOPES) as held:
            held.prepare()
            held.store(ENTRY, granted("access-token", lab.now), "fingerprint")
        with lab.vault().hold(WIDE, SCOPES) as held:
            held.read()
            found = held.minted("")

        assert found is not None
        assert ("access-token", "fingerprint") == (found[0].secret, found[1])

    def test_a_sign_out_deletes_them(self, lab: Lab) -> None:
        """With all the rest."""
        put_token(lab.vault(), "access-token")
        with lab.vault().hold(WIDE) as held:
            held.delete()

        assert "" == secret_of(lab.vault())
        lab.store()
        assert "" == secret_of(lab.vault())

    @pytest.mark.parametrize("interrupted", [False, True])
    def test_a_refused_one_is_deleted(self, lab: Lab, *, interrupted: bool) -> None:
        """That one alone; the sign-in stays, and so does the mark of a redemption that was cut off."""
        put_token(lab.vault(), "access-token")
        put_token(lab.vault(), "other", OTHER_SCOPES)
        lab.path().with_suffix(".redeeming").write_bytes(b"") if interrupted else None
        with lab.vault().hold(WIDE, SCOPES) as held:
            held.read()
            held.withdraw(token_hash("access-token"))
            assert held.minted("") is None

        assert ("", "other") == (secret_of(lab.vault()), secret_of(lab.vault(), OTHER_SCOPES))
        assert (ENTRY, interrupted) == (lab.read(), lab.interrupted())

    def test_another_one_is_not(self, lab: Lab) -> None:
        """Nothing is written for a token that is not there."""
        put_token(lab.vault(), "access-token")
        raw = lab.path().read_bytes()
        with lab.vault().hold(WIDE, SCOPES) as held:
            held.withdraw(token_hash("access-token"))
            held.read()
            held.withdraw(token_hash("another"))

        assert raw == lab.path().read_bytes()

    def test_a_refused_one_that_cannot_be_deleted(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """Is said, and the file is whole."""
        put_token(lab.vault(), "access-token")

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched, lab.vault().hold(WIDE, SCOPES) as held:
            held.read()
            patched.setattr(os, "fsync", full)
            assert "storage" == lab.trouble(lambda: held.withdraw(token_hash("access-token")))

        assert ("access-token", ENTRY) == (secret_of(lab.vault()), lab.read())

    def test_they_take_no_more_room_than_is_reserved(self, lab: Lab) -> None:
        """A successor must find its place: the oldest tokens are left out."""
        put_token(lab.vault(), "a" * 40_000, OTHER_SCOPES)
        put_token(lab.vault(), "b" * 40_000)

        assert entry_file.RESERVED > lab.path().stat().st_size
        assert ("b" * 40_000, "") == (secret_of(lab.vault()), secret_of(lab.vault(), OTHER_SCOPES))
        put_token(lab.vault(), "c" * 70_000)
        assert ("", ENTRY) == (secret_of(lab.vault()), lab.read())

    def test_memory_has_none(self, lab: Lab) -> None:
        """What ends with the process needs none."""
        lab.named = Source("memory")
        vault = lab.vault()
        put_token(vault, "access-token")

        assert "" == secret_of(vault)
        assert [ENTRY] == list(vault.memory.values())
        with vault.hold(WIDE, SCOPES) as held:
            held.read()
            held.withdraw(token_hash("access-token"))


def test_a_pipe_in_place_of_a_file_is_an_error(lab: Lab) -> None:
    """Nothing waits for a writer, and the next sign-in replaces it."""
    lab.store()
    lab.path().unlink()
    os.mkfifo(lab.path())

    assert "storage" == lab.trouble()
    assert [] == lab.vault().survey([GRANT.key])
    lab.store()
    assert ENTRY == lab.read()


def test_damaged_file_says_what_to_do(lab: Lab) -> None:
    """The trouble names the file and the command, and promises to keep the file."""
    lab.store()
    lab.path().write_bytes(b"")
    with pytest.raises(Unavailable) as caught:
        lab.read()
    trouble = caught.value.outcome.trouble

    assert str(lab.path()) in trouble.message
    assert "`cms login Ann@example.test`; the file is kept aside. Or restore it" in trouble.hint


def test_damaged_file_is_kept_aside(lab: Lab) -> None:
    """A new sign-in takes the damaged file's place; the file itself stays until a logout."""
    lab.store()
    damaged = lab.path().read_bytes()[:-1]
    lab.path().write_bytes(damaged)
    with lab.vault().hold(GRANT) as held:
        held.inspect()
        held.prepare()
        held.store(NEWER)
    aside = [name for name in lab.names() if ".damaged-" in name]

    assert NEWER == lab.read()
    assert [damaged] == [(lab.state / name).read_bytes() for name in aside]


def test_a_logout_takes_what_was_kept_aside(lab: Lab) -> None:
    """What was kept aside may be a sign-in that can be decrypted: it goes with a logout, and no other grant's does."""
    for grant in (GRANT, OTHER):
        lab.store(grant)
        lab.path(grant).write_bytes(b"")
        with lab.vault().hold(grant) as held:
            held.inspect()
            held.prepare()
            held.store(NEWER)
    with lab.vault().hold(GRANT) as held:
        held.delete()
    aside = [name for name in lab.names() if ".damaged-" in name]

    assert [True] == [name.startswith(OTHER.key) for name in aside]


def test_whole_file_is_not_kept_aside(lab: Lab) -> None:
    """A new sign-in over one that can be read leaves nothing behind; nor does the first one."""
    lab.store()
    with lab.vault().hold(GRANT) as held:
        held.inspect()
        held.prepare()
        held.store(NEWER)

    assert NEWER == lab.read()
    assert not [name for name in lab.names() if "damaged" in name]


def test_inspect_waits_for_the_key(lab: Lab) -> None:
    """A file whose key is not there is not damaged: it is not replaced."""
    lab.store()
    lab.key.unlink()
    with lab.vault().hold(GRANT) as held, pytest.raises(Unavailable) as caught:
        held.inspect()

    assert "locked" == caught.value.outcome.trouble.kind


class TestKey:
    """Which key is used, and when one is made."""

    def test_lost(self, lab: Lab) -> None:
        """With its key gone a grant is locked, and no new key is made; with the key back it is read."""
        lab.store()
        secret = lab.key.read_bytes()
        lab.key.unlink()
        assert "locked" == lab.trouble()
        assert "locked" == lab.trouble(lambda: lab.store(entry=NEWER))
        assert "locked" == lab.trouble(lambda: lab.store(OTHER, NEWER))
        assert not lab.key.exists()
        lab.key.write_bytes(secret)
        lab.key.chmod(0o600)

        assert ENTRY == lab.read()

    def test_another(self, lab: Lab) -> None:
        """Another key in the same place is not used for anything while files need the old one."""
        lab.store()
        lab.key.write_bytes(bytes(KEY_BYTES))

        assert "locked" == lab.trouble()
        assert "locked" == lab.trouble(lambda: lab.store(OTHER, NEWER))

    def test_logout_gives_it_up(self, lab: Lab) -> None:
        """A sign-in whose key is lost for good can be given up, and then a new key is made."""
        lab.store()
        lab.key.unlink()
        with lab.vault().hold(GRANT) as held:
            held.delete()
        lab.store(entry=NEWER)

        assert NEWER == lab.read()

    def test_kept_over_a_logout(self, lab: Lab) -> None:
        """After the last sign-in was given up, the next one uses the same key, if it is still there."""
        lab.store()
        secret = lab.key.read_bytes()
        with lab.vault().hold(GRANT) as held:
            held.delete()
        lab.store()

        assert secret == lab.key.read_bytes()
        assert (lab.state / "key-id").read_text().strip() not in secret.decode()

    def test_one_of_several(self, lab: Lab) -> None:
        """Where files have different keys, a new file gets one that is there."""
        lab.store()
        first = lab.key.rename(lab.key.with_name("first"))
        old, new = lab.path(), lab.state.with_name("aside")
        old.rename(new)
        lab.store(OTHER)
        new.rename(old)
        second = lab.key.rename(lab.key.with_name("second"))
        for kept in (first, second):
            shutil.copy(kept, lab.key)
            lab.store(replace(GRANT, login=kept.name))
            assert ENTRY == lab.read(replace(GRANT, login=kept.name))

    def test_unreadable_header_needs_no_key(self, lab: Lab) -> None:
        """A file that names no key does not keep others from being stored."""
        lab.state.mkdir(parents=True)
        lab.path().write_bytes(b"")
        lab.store(OTHER)

        assert ENTRY == lab.read(OTHER)

    def test_locked_place(self, lab: Lab) -> None:
        """A keyring that is locked when the first key is to be made is waited for: no quiet fall-back to memory."""

        class LockedRing(NoRing):
            def make(self) -> bytes:
                raise Locked("is locked")

            def find(self, wanted: str) -> bytes:
                raise Locked("is locked")

        vault = Vault(str(lab.state), Keys(None, environ={}, ring=LockedRing()))

        assert "locked" == lab.trouble(lambda: prepare(vault))
        assert vault.stays
        (lab.state / "key-id").write_text("0123456789abcdef\n")
        assert "locked" == lab.trouble(lambda: prepare(vault))

    def test_key_id_cannot_be_written(self, lab: Lab) -> None:
        """A folder in which nothing can be written is trouble before a person signs in."""
        (lab.state / "key-id").mkdir(parents=True)

        assert "storage" == lab.trouble(lambda: prepare(lab.vault()))

    def test_remembered_key_locked(self, lab: Lab) -> None:
        """A remembered key that cannot be asked for is waited for, not replaced."""
        lab.store()
        with lab.vault().hold(GRANT) as held:
            held.delete()
        vault = lab.vault()

        def locked(_wanted: str) -> Any:
            raise Locked("keyring is locked")

        vault.key.keys.find = locked  # type: ignore[method-assign,assignment]  # what a locked keyring does

        assert "locked" == lab.trouble(lambda: prepare(vault))


class TestMemory:
    """Memory-only mode."""

    @pytest.fixture(params=[None, Source("memory")], ids=["nowhere else", "asked for"])
    def vault(self, request: pytest.FixtureRequest, lab: Lab) -> Vault:
        lab.named = request.param
        return lab.vault()

    def test_kept_in_the_process(self, vault: Vault, lab: Lab) -> None:
        """An entry lasts as long as the process, which therefore must stay; no file holds it."""
        assert Stored(persisted=False, key_from="memory only") == prepare(vault)
        stays = [vault.stays]
        assert Stored(persisted=False, key_from="memory only") == put(vault)
        with vault.hold(GRANT) as held:
            held.prepare()
            assert ENTRY == held.read()
            assert Stored(persisted=False, key_from="memory only") == held.stored
        stays.append(vault.stays)
        assert not list(lab.state.glob("*.vault"))
        with vault.hold(GRANT) as held:
            held.delete()
        stays.append(vault.stays)

        assert [False, True, False] == stays

    def test_files_are_left_alone(self, lab: Lab) -> None:
        """When memory is asked for, what an earlier configuration left is neither read nor changed, until a logout."""
        lab.store()
        before = lab.path().read_bytes()
        lab.named = Source("memory")

        assert lab.read() is None
        lab.store(entry=NEWER)
        assert before == lab.path().read_bytes()
        with lab.vault().hold(GRANT) as held:
            held.delete()
        assert not lab.path().exists()

    def test_files_make_it_locked(self, lab: Lab) -> None:
        """Files whose key is nowhere are never passed over in favour of memory."""
        lab.store()
        lab.key.unlink()
        lab.named = None

        assert "locked" == lab.trouble()
        assert "locked" == lab.trouble(lambda: lab.store(entry=NEWER))

    def test_ends_when_there_is_a_place(self, lab: Lab) -> None:
        """As soon as there is a place for a key, what was in memory goes to disk at the next redemption."""
        places: list[bytes] = []

        class LateRing(NoRing):
            def make(self) -> bytes:
                return places[0] if places else super().make()

            def find(self, wanted: str) -> bytes:
                if not places:
                    raise Missing("does not hold it")
                return places[0]

        ring = LateRing()
        vault = Vault(str(lab.state), Keys(None, environ={}, ring=ring))
        put(vault)
        places.append(bytes(KEY_BYTES))
        assert Stored(persisted=True, key_from="keyring") == put(vault, entry=NEWER)

        assert not vault.stays
        with Vault(str(lab.state), Keys(None, environ={}, ring=ring)).hold(GRANT) as held:
            assert NEWER == held.read()

    def test_a_locked_place_takes_nothing_away(self, lab: Lab) -> None:
        """A keyring that turns up locked is no reason to lose a sign-in that memory holds; a new one waits for it."""
        ring = TurnsUpLocked()
        vault = Vault(str(lab.state), Keys(None, environ={}, ring=ring))
        put(vault)
        ring.there = True
        assert Stored(persisted=False, key_from="memory only") == put(vault, entry=NEWER)
        with vault.hold(GRANT) as held:
            assert NEWER == held.read()

        assert "locked" == lab.trouble(lambda: put(vault, OTHER))
        with vault.hold(OTHER) as held:
            assert Stored(persisted=False, key_from="memory only") == held.prepare(memory_will_do=True)

    @pytest.mark.parametrize("broken", ["posix_fallocate", "fsync"])
    def test_a_broken_disk_takes_nothing_away(self, lab: Lab, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that takes nothing, be it known before or after the redemption, leaves the sign-in in memory."""
        lab.named = None
        vault = lab.vault()
        put(vault)
        vault.key.keys = Keys(Source("file", (str(lab.key),)), environ={}, ring=NoRing())
        # The key is made before the disk breaks.
        prepare(vault, OTHER)

        def fail(*_args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, broken, fail)
            assert Stored(persisted=False, key_from="memory only") == put(vault, entry=NEWER)
        with vault.hold(GRANT) as held:
            assert (NEWER, False) == (held.read(), held.interrupted)

        assert Stored(persisted=True, key_from=f"key file {lab.key}") == put(vault, entry=NEWER)
        assert not vault.stays


class TestRedemption:
    """The mark beside the file: what is known of a redemption that did not come to its end."""

    def begin(self, lab: Lab) -> None:
        with lab.vault().hold(GRANT) as held:
            held.read()
            held.prepare()

    def test_stored(self, lab: Lab) -> None:
        """Storing the successor takes the mark away, and leaves nothing else behind."""
        lab.store()
        assert not lab.interrupted()
        before = lab.names()
        with lab.vault().hold(GRANT) as held:
            held.read()
            held.prepare()
            held.store(NEWER)

        assert before == lab.names()
        assert NEWER == lab.read()
        assert not lab.interrupted()

    def test_cut_off(self, lab: Lab) -> None:
        """A redemption that was cut off is known of until a successor is stored, whatever fails in between."""
        lab.store()
        self.begin(lab)
        assert lab.interrupted()
        with lab.vault().hold(GRANT) as held:
            held.read()
            held.prepare()
            held.release()
        assert lab.interrupted()
        lab.store(entry=NEWER)

        assert not lab.interrupted()

    def test_refused(self, lab: Lab) -> None:
        """A redemption that the provider refused was none."""
        lab.store()
        with lab.vault().hold(GRANT) as held:
            held.read()
            held.prepare()
            held.release()

        assert not lab.interrupted()
        assert ENTRY == lab.read()

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
    def test_no_room(self, lab: Lab, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the successor could not be stored nothing is redeemed: that is known before."""
        lab.store()

        def full(*_args: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", full)
        assert "storage" == lab.trouble(lambda: self.begin(lab))
        assert not lab.interrupted()
        assert ENTRY == lab.read()

    def test_no_room_after_a_cut(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that fills up does not make cms forget that a redemption was cut off."""
        lab.store()
        self.begin(lab)

        def full(*_args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        assert "storage" == lab.trouble(lambda: self.begin(lab))
        assert lab.interrupted()

    def test_disk_fails_while_storing(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that fails nevertheless leaves the old file whole, and the redemption known to be cut off."""
        lab.store()
        with lab.vault().hold(GRANT) as held:
            held.read()
            held.prepare()

            def broken(_descriptor: int) -> None:
                raise OSError(errno.EIO, "Input/output error")

            monkeypatch.setattr(os, "fsync", broken)
            assert "storage" == lab.trouble(lambda: held.store(NEWER))
        monkeypatch.undo()

        assert ENTRY == lab.read()
        assert lab.interrupted()


def test_unreadable_file(lab: Lab) -> None:
    """A file that cannot be read is trouble with the storage, not a missing sign-in."""
    lab.state.mkdir(parents=True)
    lab.path().mkdir()

    assert "storage" == lab.trouble()


def test_no_folder(lab: Lab) -> None:
    """Reading and giving up make no folder; a folder that cannot be made is trouble with the storage."""
    assert lab.read() is None
    with lab.vault().hold(GRANT) as held:
        held.delete()
    assert not lab.state.exists()
    lab.state.parent.touch()

    assert "storage" == lab.trouble(lambda: prepare(lab.vault()))


def test_file_cannot_be_deleted(lab: Lab) -> None:
    """A sign-in that cannot be deleted is not said to be."""
    lab.state.mkdir(parents=True)
    lab.path().mkdir()

    def sign_out() -> None:
        with lab.vault().hold(GRANT) as held:
            held.delete()

    assert "storage" == lab.trouble(sign_out)


def test_lock_cannot_be_made(lab: Lab) -> None:
    """Without a lock nothing is redeemed."""
    lab.state.mkdir(parents=True)
    (lab.state / f"{GRANT.key}.lock").mkdir()

    assert "storage" == lab.trouble()


def test_no_locks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that knows no locks nothing is redeemed."""
    lab.store()

    def unsupported(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)

    assert "storage" == lab.trouble()


def test_one_at_a_time(lab: Lab) -> None:
    """A grant that is held, by this process or by another, is waited for, but not for ever; others are not."""
    lab.store()
    vault = lab.vault(patience=0.05)
    with vault.hold(GRANT):
        for second in (vault, lab.vault(patience=0.05)):
            with pytest.raises(Unavailable) as caught, second.hold(GRANT):
                pass
            assert "timeout" == caught.value.outcome.trouble.kind
        with vault.hold(OTHER) as held:
            assert held.read() is None

    with vault.hold(GRANT) as held:
        assert ENTRY == held.read()


def test_waits_for_its_turn(lab: Lab) -> None:
    """A process that waits for a grant reads what the one before it has stored."""
    lab.store()
    read: list[Entry | None] = []
    waiting = threading.Thread(target=lambda: read.append(lab.read()))
    with lab.vault().hold(GRANT) as held:
        waiting.start()
        held.prepare()
        held.store(NEWER)
    waiting.join(PATIENCE)

    assert [NEWER] == read


def test_other_grants_are_untouched(lab: Lab) -> None:
    """Storing, forgetting and damage concern one grant's files and no other's."""
    lab.store(OTHER)
    before = lab.path(OTHER).stat()
    lab.store()
    lab.path().write_bytes(b"")
    with suppress(Unavailable):
        lab.read()
    with lab.vault().hold(GRANT) as held:
        held.delete()

    assert before == lab.path(OTHER).stat()


def test_killed_at_every_line(lab: Lab) -> None:
    """Wherever in a redemption the process is killed, the file is whole, old or new; and only an unstored one is marked."""
    lab.store()
    old = lab.path().read_bytes()

    def redeem() -> None:
        with lab.vault().hold(GRANT) as held:
            held.read()
            held.prepare()
            held.store(NEWER)

    killed = 0
    while killed_at(killed + 1, redeem, (entry_file, keys, vault_key, vault_store)):
        killed += 1
        stored = lab.read()
        assert stored in (ENTRY, NEWER)
        assert not (stored == NEWER and lab.interrupted())
        lab.path().write_bytes(old)
        lab.path().with_suffix(".redeeming").unlink(missing_ok=True)

    assert killed > 50
    assert NEWER == lab.read()


def test_killed_during_the_first_sign_in(lab: Lab) -> None:
    """Wherever the very first store is cut off, key included, the next one works."""

    def first() -> None:
        vault = lab.vault()
        prepare(vault)
        put(vault)

    killed = 0
    while killed_at(killed + 1, first, (entry_file, keys, vault_key, vault_store)):
        killed += 1
        assert lab.read() in (None, ENTRY)
        lab.store(entry=NEWER)
        assert NEWER == lab.read()
        shutil.rmtree(lab.state)
        lab.key.unlink()

    assert killed > 50
