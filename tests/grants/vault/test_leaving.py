"""What is left of a sign-in once it was given up, and of the key once the last one was: nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.grants import NoRing

from cms.core.accounts import Grant, Source, StoredSignIn
from cms.grants.secret_sources import Absent, Locked, Missing, Unavailable
from cms.grants.vault import entry_file, vault_key
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keyring import KEY_BYTES, SERVICE, Key, Keyring, Patience, key_id
from cms.grants.vault.keys import KeyFile, Keys
from cms.grants.vault.store import Vault
from cms.grants.vault.vault_key import VaultKey
from cms.system.files import read_regular

GRANT = Grant("https://login.example/common", "client", "ann@example.test")
OTHER = Grant("https://login.example/common", "client", "ben@example.test")
ENTRY = Entry('{"RefreshToken": {}}', "oid.tid", "ann@example.test", 1_700_000_000.0)


class Ring:
    """A keyring backend in memory, which may be locked."""

    priority = 5

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        self._check(service)
        return self.kept.get(username)

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check(service)
        self.kept[username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._check(service)
        del self.kept[username]

    def _check(self, service: str) -> None:
        assert service == SERVICE
        if self.locked:
            raise Locked("is locked")


class Home:
    """A state folder whose key is in a keyring or in a file; each vault is opened as by a new process."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.state = folder / "state"
        self.ring = Ring()
        self.file = folder / "vault.key"
        self._named = Source("file", (str(self.file),)) if kind == "file" else None

    def vault(self, patience: float = 20.0) -> Vault:
        ring = NoRing() if self._named else Keyring(lambda: self.ring, Patience(20.0))
        return Vault(str(self.state), Keys(self._named, environ={}, ring=ring), patience)

    @property
    def has_key(self) -> bool:
        return bool(self.ring.kept) or self.file.exists()

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.state.iterdir()}


@pytest.fixture(params=["file", "keyring"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    return Home(tmp_path, request.param)


def store(vault: Vault, grant: Grant = GRANT) -> None:
    with vault.hold(grant) as held:
        held.prepare()
        held.store(ENTRY)


def sign_out(vault: Vault, grant: Grant = GRANT) -> bool:
    with vault.hold(grant) as held:
        return held.delete()


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(Unavailable) as caught:
        call()
    return f"{caught.value.outcome.trouble.kind}: {caught.value.outcome.trouble.message}"


def test_nothing_is_left_after_the_last_one(home: Home) -> None:
    """Not the file, not its lock, not the key, not the key's name; the next sign-in makes a new key."""
    store(home.vault())
    store(home.vault(), OTHER)
    vault = home.vault()

    assert (True, "", True) == (sign_out(vault), vault.drop_key(), home.has_key)
    assert f"{GRANT.key}.lock" not in home.names
    assert sign_out(vault, OTHER)
    assert vault.drop_key()
    assert (set(), False) == (home.names, home.has_key)
    store(home.vault())
    assert home.has_key


def test_what_was_not_there_was_not_deleted(home: Home) -> None:
    """cms says that no person was signed in."""
    vault = home.vault()

    assert not sign_out(vault)
    assert "" == vault.drop_key()


def test_locks_of_those_who_never_signed_in_go_too(home: Home) -> None:
    """A lock that a process holds stays."""
    store(home.vault())
    vault, third = home.vault(), Grant(GRANT.authority, GRANT.client_id, "third@example.test")
    with home.vault().hold(OTHER):
        pass
    sign_out(vault)
    with home.vault().hold(third):
        vault.drop_key()

    assert {f"{third.key}.lock"} == home.names


@pytest.mark.parametrize("needs_it", ["x.vault", "x.redeeming", "x.vault.damaged-20260101T000000Z"])
def test_a_key_that_may_be_needed_stays(home: Home, needs_it: str) -> None:
    """An unreadable file, or a sign-in in progress, may need it."""
    store(home.vault())
    (home.state / needs_it).touch()
    vault = home.vault()
    sign_out(vault)

    assert ("", True) == (vault.drop_key(), home.has_key)


def test_a_key_that_was_just_chosen_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment that it is chosen it is needed: another sign-out comes too late to delete it."""
    store(home.vault())
    sign_out(home.vault())
    dropped = []
    choose = VaultKey.choose

    def raced(vault_key: VaultKey, reserve: Callable[[], None]) -> Key | None:
        key = choose(vault_key, reserve)
        dropped.append(home.vault().drop_key())
        return key

    with monkeypatch.context() as patched:
        patched.setattr(VaultKey, "choose", raced)
        store(home.vault())

    assert ([""], True) == (dropped, home.has_key)
    with home.vault().hold(GRANT) as held:
        assert ENTRY == held.read()


def test_a_key_file_from_before_cms_stays(tmp_path: Path) -> None:
    """A key file that was there before cms."""
    home = Home(tmp_path, "file")
    home.file.write_bytes(os.urandom(KEY_BYTES))
    home.file.chmod(0o600)
    store(home.vault())
    vault = home.vault()
    sign_out(vault)

    assert ("", True, set()) == (vault.drop_key(), home.has_key, home.names)


def test_a_key_file_with_another_key_stays(tmp_path: Path) -> None:
    """A replaced key file is no longer cms's."""
    home = Home(tmp_path, "file")
    store(home.vault())
    home.file.write_bytes(os.urandom(KEY_BYTES))
    vault = home.vault()
    sign_out(vault)

    assert ("", True) == (vault.drop_key(), home.has_key)


def test_a_key_file_that_is_gone_is_no_trouble(tmp_path: Path) -> None:
    """What is to be deleted is gone."""
    home = Home(tmp_path, "file")
    store(home.vault())
    home.file.unlink()
    vault = home.vault()
    sign_out(vault)

    assert "" == vault.drop_key()


def test_a_key_file_that_cannot_be_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its name, for the next sign-in to find it."""
    home = Home(tmp_path, "file")
    store(home.vault())
    vault = home.vault()
    sign_out(vault)

    def refuse(_path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)

    assert "locked: the vault's key cannot be deleted" in reason(vault.drop_key)
    assert "key-id" in home.names


def test_a_locked_keyring_keeps_its_key(tmp_path: Path) -> None:
    """Deleting it now is impossible, and said; it is used again by the next sign-in."""
    home = Home(tmp_path, "keyring")
    store(home.vault())
    vault = home.vault()
    sign_out(vault)
    home.ring.locked = True

    assert "keyring is locked" in reason(vault.drop_key)
    home.ring.locked = False
    before = dict(home.ring.kept)
    store(home.vault())
    assert before == home.ring.kept


def test_a_keyring_that_is_not_there_any_more_has_nothing(tmp_path: Path) -> None:
    """As after a move to a server."""
    home = Home(tmp_path, "keyring")
    store(home.vault())
    vault = Vault(str(home.state), Keys(None, environ={}, ring=NoRing()), 20.0)
    sign_out(vault)

    assert "" == vault.drop_key()


def test_a_key_that_is_gone_from_the_keyring(tmp_path: Path) -> None:
    """Another program has already deleted it."""
    home = Home(tmp_path, "keyring")
    store(home.vault())
    home.ring.kept.clear()
    vault = home.vault()
    sign_out(vault)

    assert "" == vault.drop_key()


def test_memory_has_no_key_to_delete(tmp_path: Path) -> None:
    """Nor a folder."""
    vault = Vault(str(tmp_path / "state"), Keys(Source("memory"), environ={}, ring=NoRing()), 20.0)

    assert "" == vault.drop_key()


def test_the_name_of_a_key_that_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is read-only by now."""
    home = Home(tmp_path, "keyring")
    store(home.vault())
    vault = home.vault()
    sign_out(vault)

    def refuse(_folder: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(vault_key, "sync_folder", refuse)

    assert "storage: the name of the key" in reason(vault.drop_key)


def test_a_sign_in_beside_many_reads_one_of_them(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first says which key to use, among ten thousand too."""
    for number in range(20):
        store(home.vault(), replace(GRANT, login=f"user{number}@example.test"))
    read = list[Path]()

    def noted(path: Path, most: int) -> bytes:
        read.append(path)
        return read_regular(path, most)

    monkeypatch.setattr(vault_key, "read_regular", noted)
    store(home.vault(), OTHER)

    assert 1 == sum(path.suffix == ".vault" for path in read)


def test_a_folder_that_cannot_be_listed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is made or chosen then, because some file may need another one."""
    store(home.vault())

    def refuse(_folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.scandir", refuse)

    assert "storage: the sign-ins in" in reason(home.vault().key.choose)


def test_a_lock_that_was_deleted_while_it_was_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited looks again: two processes never hold locks of the same name."""
    home = Home(tmp_path, "file")
    store(home.vault())
    first, second = home.vault(), home.vault()
    waiting, inside = threading.Event(), threading.Event()
    flock = entry_file._flock

    def tell_if_refused(descriptor: int) -> bool:
        got = flock(descriptor)
        if not got:
            waiting.set()
        return got

    def wait() -> None:
        with second.hold(GRANT):
            inside.set()

    monkeypatch.setattr(entry_file, "_flock", tell_if_refused)
    thread = threading.Thread(target=wait)
    with first.hold(GRANT) as held:
        thread.start()
        assert waiting.wait(60.0)
        held.delete()
        assert not inside.is_set()
    assert inside.wait(60.0)
    thread.join(60.0)
    with first.hold(GRANT), pytest.raises(Unavailable), home.vault(0.0).hold(GRANT):
        raise AssertionError("held twice")


# --- what lies there without an account ---


def test_a_survey_says_whose_files_these_are(home: Home) -> None:
    """By what is in them, where the key is at hand; any other file is left out."""
    store(home.vault())

    identity = (GRANT.key, GRANT.authority, GRANT.client_id, GRANT.login)
    expected = StoredSignIn(*identity, ENTRY.who, ENTRY.signed_in, "microsoft")
    assert [expected] == home.vault().survey([GRANT.key, "missing"])


def test_a_survey_without_the_key_goes_by_the_header(tmp_path: Path) -> None:
    """Which is in clear, and names the login."""
    home = Home(tmp_path, "file")
    store(home.vault())
    home.file.unlink()

    identity = (GRANT.key, GRANT.authority, GRANT.client_id, GRANT.login)
    assert [StoredSignIn(*identity, provider="microsoft")] == home.vault().survey([GRANT.key])


@pytest.mark.parametrize("raw", [b"", b"nonsense\n", b'{"format": "cms-vault", "version": 1, "key": "x"}\n'])
def test_a_survey_of_what_cannot_be_read(tmp_path: Path, raw: bytes) -> None:
    """It is there all the same, to be deleted."""
    home = Home(tmp_path, "file")
    home.state.mkdir()
    (home.state / "x.vault").write_bytes(raw)

    assert [StoredSignIn("x", "", "", "")] == home.vault().survey(["x"])


def test_what_no_account_has_is_deleted_by_its_name(home: Home) -> None:
    """With all that lies beside it; what is not there is no trouble."""
    store(home.vault())
    vault = home.vault()
    (home.state / f"{GRANT.key}.vault.damaged-1").touch()

    assert (True, False) == (vault.delete([GRANT.key]), vault.delete([GRANT.key]))
    assert not [name for name in home.names if name.startswith(GRANT.key)]


def test_what_a_newer_cms_has_stored_is_not_deleted(home: Home) -> None:
    """Nor is anything else that was to be deleted with it, nor the key."""
    store(home.vault())
    store(home.vault(), OTHER)
    path = home.state / f"{OTHER.key}.vault"
    path.write_bytes(path.read_bytes().replace(b'"version": ', b'"version": 9', 1))
    vault, before = home.vault(), home.names

    assert reason(lambda: vault.delete([GRANT.key, OTHER.key])).startswith("vault-newer: ")
    assert reason(lambda: sign_out(vault, OTHER)).startswith("vault-newer: ")
    assert before == home.names
    assert sign_out(vault)
    assert ("", True) == (vault.drop_key(), home.has_key)


# --- sources ---


def test_no_keyring_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a first configuration: whether a key could be kept in one now."""

    def absent() -> None:
        raise Absent("is not there")

    found = Keys(None, environ={}, ring=NoRing())
    monkeypatch.setattr("cms.grants.vault.keyring.desktop_ring", absent)
    assert "keyring is not there" == found.no_keyring()
    monkeypatch.setattr("cms.grants.vault.keyring.desktop_ring", Ring)
    assert "" == found.no_keyring()


def test_a_key_file_of_no_keys_is_not_deleted(tmp_path: Path) -> None:
    """Whatever was written into it."""
    path = tmp_path / "key"
    path.write_text("no key")
    path.chmod(0o600)

    with pytest.raises(Missing):
        KeyFile(str(path)).remove(key_id(bytes(KEY_BYTES)))
    assert path.exists()
