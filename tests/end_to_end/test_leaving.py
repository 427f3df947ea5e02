"""`cms logout` and what it leaves behind: nothing, in a real keyring and in a real key file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import secretstorage
from support import evidence
from support.daemon import Daemon, account_line, settings_lines
from support.desktop import Desktop

from cms.grants.vault.keyring import SERVICE
from cms.sandbox.entra import Entra

ANN, BOB = "ann@leaving.test", "bob@leaving.test"


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """A session whose keyring runs and is unlocked."""
    session = Desktop(tmp_path)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", session.environment["DBUS_SESSION_BUS_ADDRESS"])
    session.start_keyring()
    yield session
    session.stop()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """Two accounts; not started."""
    for user in (ANN, BOB):
        entra.add_user(user)
    daemon = make_daemon(os.geteuid())
    daemon.configure(
        settings_lines(daemon.home, entra)
        + account_line("ann", ANN, entra)
        + account_line("bob", BOB, entra)
        + f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[ann, bob], protocols=["SMTP"])\n'
        + f'TokenFile("{daemon.home}/token", ann, "SMTP")\n'
    )
    return daemon


def leave(daemon: Daemon, *words: str) -> str:
    """Give `cms logout`; return what it says."""
    done = daemon.run("cms", "logout", *words, "-c", str(daemon.config))
    evidence.keep("output", done.stdout + done.stderr)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def state(daemon: Daemon) -> set[str]:
    """Return the names in the state folder. The daemon's own lock is never deleted."""
    return {path.name for path in (daemon.home / "state" / "cms").iterdir()} - {"daemon.lock"}


def keys_in_keyring() -> int:
    with closing(secretstorage.dbus_init()) as bus:
        return len(list(secretstorage.Collection(bus).search_items({"service": SERVICE})))


def serves(daemon: Daemon, user: str) -> bool:
    return daemon.token(daemon.sockets / "cms.sock", user).returncode == 0


def test_one_leaves_and_the_other_stays(daemon: Daemon, entra: Entra) -> None:
    """Everything local of the one is gone, and what cannot be ended from here is said, with where it can."""
    daemon.start()
    for user in (ANN, BOB):
        daemon.sign_in(user, entra)
    assert serves(daemon, ANN)

    said = leave(daemon, ANN)

    assert f"{ANN}: signed out, and the stored sign-in deleted\n" in said
    assert "no way to revoke a single token: the access token that programs were given works until" in said
    assert "https://mysignins.microsoft.com" in said
    assert (False, True) == (serves(daemon, ANN), serves(daemon, BOB))
    assert not (daemon.home / "token").exists()
    assert 1 == len([name for name in state(daemon) if name.endswith(".vault")])
    assert daemon.key.exists()
    assert "nobody was signed in, so there was nothing to delete" in leave(daemon, ANN)


def test_the_last_one_takes_the_key_along(daemon: Daemon, entra: Entra) -> None:
    """With --all nothing is left but the daemon's lock; the next sign-in makes a new key."""
    daemon.start()
    for user in (ANN, BOB):
        daemon.sign_in(user, entra)
    before = daemon.key.read_text()
    evidence.keep_secret(before.strip())

    said = leave(daemon, "--all")

    assert f"the key that they were encrypted with (key file {daemon.key})" in said
    assert (set(), False) == (state(daemon), daemon.key.exists())
    daemon.sign_in(ANN, entra)
    assert serves(daemon, ANN)
    assert before != daemon.key.read_text()


def test_without_a_daemon_too(daemon: Daemon, entra: Entra) -> None:
    """The last sign-in of a machine that cms is taken off."""
    daemon.sign_in(ANN, entra)

    assert "nothing needs it any more" in leave(daemon, ANN)
    assert (set(), False) == (state(daemon), daemon.key.exists())
    assert "nobody was signed in" in leave(daemon, "--all")


def test_a_key_in_a_real_keyring_goes_too(daemon: Daemon, desktop: Desktop, entra: Entra) -> None:
    """gnome-keyring's entry is made by the first sign-in, deleted with the last, and made anew."""
    daemon.configure(daemon.config.read_text().replace(f'Vault(key=File("{daemon.key}"))', 'Vault(key="keyring")'))
    bus = {"DBUS_SESSION_BUS_ADDRESS": desktop.environment["DBUS_SESSION_BUS_ADDRESS"]}
    daemon.start(**bus)
    daemon.sign_in(ANN, entra)
    made = keys_in_keyring()

    said = leave(daemon, ANN)

    assert (1, 0) == (made, keys_in_keyring())
    assert "the key that they were encrypted with (keyring)" in said
    assert set() == state(daemon)
    daemon.sign_in(ANN, entra)
    assert 1 == keys_in_keyring()


def test_who_has_no_account_any_more_can_leave(daemon: Daemon, entra: Entra) -> None:
    """By the name that the stored sign-in has, and everybody at once."""
    daemon.start()
    for user in (ANN, BOB):
        daemon.sign_in(user, entra)
    text = daemon.config.read_text().replace(account_line("bob", BOB, entra), "").replace("ann, bob", "ann")
    daemon.configure(text)
    assert 0 == daemon.cms("reload").returncode

    assert f"{BOB}: signed out, and the stored sign-in deleted" in leave(daemon, BOB)
    refused = daemon.run("cms", "logout", BOB)
    assert (1, True) == (refused.returncode, "there is no account" in refused.stderr)
    assert serves(daemon, ANN)
