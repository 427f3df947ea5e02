"""`cms logout` and `cms prune`, and what they leave behind: nothing, in a real keyring and in a real key file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import secretstorage
from support import evidence
from support.daemon import Daemon, account_line, settings_lines
from support.desktop import Desktop
from support.waiting import until

from cms.grants.vault.keyring import SERVICE
from cms.sandbox.entra import Entra

ANN, BOB, CID = "ann@leaving.test", "bob@leaving.test", "cid@leaving.test"


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
    """Three accounts; not started."""
    for user in (ANN, BOB, CID):
        entra.add_user(user)
    daemon = make_daemon(os.geteuid())
    configure(daemon, entra, ANN, BOB, CID)
    return daemon


def configure(daemon: Daemon, entra: Entra, *users: str) -> None:
    """Give the daemon these accounts, the first one's with a token file."""
    lines = [account_line(f"account{number}", user, entra) for number, user in enumerate(users)]
    names = ", ".join(f"account{number}" for number in range(len(users)))
    server = f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[{names}], protocols=["SMTP"])\n'
    token_file = f'TokenFile("{daemon.home}/token", account0, "SMTP")\n'
    daemon.configure("".join([settings_lines(daemon.home, entra), *lines, server, token_file]))


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


def test_each_leaves_in_turn(daemon: Daemon, entra: Entra) -> None:
    """Everything local of one account goes, and the others stay; the last one takes the key along.

    What cannot be ended from here is said, with where it can. After it all a sign-in makes a new key.
    """
    daemon.start()
    for user in (ANN, BOB, CID):
        daemon.sign_in(user, entra)
    before = daemon.key.read_text()
    evidence.keep_secret(before.strip())
    assert all(serves(daemon, user) for user in (ANN, BOB))

    said = leave(daemon, ANN)
    again = leave(daemon, ANN)

    assert f"{ANN}: signed out, and the stored sign-in deleted\n" in said
    assert "no way to revoke a single token: the access token that programs have works until" in said
    assert "https://mysignins.microsoft.com" in said
    assert "not signed in, so there was nothing to delete" in again
    assert (False, True) == (serves(daemon, ANN), serves(daemon, BOB))
    until(lambda: not (daemon.home / "token").exists(), "the end of the token file")
    assert 2 == len([name for name in state(daemon) if name.endswith(".vault")])
    assert f"the key that encrypted them (key file {daemon.key})" in leave(daemon, "--all")
    assert (set(), False) == (state(daemon), daemon.key.exists())
    daemon.sign_in(ANN, entra)
    assert serves(daemon, ANN)
    assert before != daemon.key.read_text()


def test_who_has_no_account_any_more_can_leave(daemon: Daemon, entra: Entra) -> None:
    """What is stored without an account is listed; one goes by the name that it has, the rest by `cms prune`."""
    daemon.start()
    for user in (ANN, BOB, CID):
        daemon.sign_in(user, entra)
    configure(daemon, entra, ANN)
    assert 0 == daemon.cms("reload").returncode
    listed = orphans(daemon, 2)

    said = leave(daemon, BOB)
    unknown = daemon.run("cms", "logout", BOB)
    refused, pruned = (daemon.run("cms", "prune", *words, "-c", str(daemon.config)) for words in ((), ("--yes",)))

    assert {(BOB, BOB), (CID, CID)} == {(each["login"], each["who"]) for each in listed}
    assert f"{BOB}: signed out, and the stored sign-in deleted" in said
    assert (1, True) == (unknown.returncode, "there is no account" in unknown.stderr)
    assert (1, True) == (refused.returncode, "nothing was deleted" in refused.stdout + refused.stderr)
    assert (0, True) == (pruned.returncode, "deleted: 1" in pruned.stdout + pruned.stderr)
    assert [] == orphans(daemon, 0)
    assert serves(daemon, ANN)


def orphans(daemon: Daemon, number: int) -> list[dict[str, str]]:
    """Return what `cms status` lists without an account, once it is so many and the worker has said whose."""
    found: list[dict[str, str]] = []

    def settled() -> bool:
        found[:] = json.loads(daemon.cms("status", "--json").stdout)["orphans"]
        return len(found) == number and all(each["who"] for each in found)

    until(settled, f"{number} stored sign-ins without an account")
    return found


def test_without_a_daemon_too(daemon: Daemon, entra: Entra) -> None:
    """The last sign-in of a machine that cms is taken off."""
    daemon.sign_in(ANN, entra)

    assert "is no longer needed and was deleted too" in leave(daemon, ANN)
    assert (set(), False) == (state(daemon), daemon.key.exists())
    assert "not signed in" in leave(daemon, "--all")


def test_a_key_in_a_real_keyring_goes_too(daemon: Daemon, desktop: Desktop, entra: Entra) -> None:
    """gnome-keyring's entry is made by the first sign-in, deleted with the last, and made anew."""
    daemon.configure(daemon.config.read_text().replace(f'Vault(key=File("{daemon.key}"))', 'Vault(key="keyring")'))
    bus = {"DBUS_SESSION_BUS_ADDRESS": desktop.environment["DBUS_SESSION_BUS_ADDRESS"]}
    daemon.start(**bus)
    daemon.sign_in(ANN, entra)
    made = keys_in_keyring()

    said = leave(daemon, ANN)

    assert (1, 0) == (made, keys_in_keyring())
    assert "the key that encrypted them (keyring)" in said
    assert set() == state(daemon)
    daemon.sign_in(ANN, entra)
    assert 1 == keys_in_keyring()
