"""`cms vault rekey`: to another key file, and on to the desktop's keyring, with a daemon that serves and without one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, account_line, ask
from support.desktop import Desktop
from support.waiting import until

from cms.sandbox.entra import Entra

ANN = "ann@rekey.test"


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """A session whose keyring runs and is unlocked."""
    session = Desktop(tmp_path)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", session.environment["DBUS_SESSION_BUS_ADDRESS"])
    session.start_keyring()
    yield session
    session.stop()


def configure(daemon: Daemon, entra: Entra, vault: str) -> None:
    sock = f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[account], protocols=["SMTP"])\n'
    daemon.configure(f'Vault({vault})\nTls(ca="{entra.ca_file}")\n{account_line("account", ANN, entra)}{sock}')


def rekey(daemon: Daemon, bus: str) -> tuple[int, str]:
    done = daemon.run("cms", "vault", "rekey", "-c", str(daemon.config), DBUS_SESSION_BUS_ADDRESS=bus)
    return done.returncode, done.stdout + done.stderr


def test_to_another_key_and_back(make_daemon: Callable[..., Daemon], entra: Entra, desktop: Desktop) -> None:
    """The sign-in goes through three keys, each old one deleted by its owner, and is asked for no second time."""
    bus = desktop.environment["DBUS_SESSION_BUS_ADDRESS"]
    entra.add_user(ANN)
    daemon = make_daemon(os.geteuid())
    first, second = daemon.home / "first.key", daemon.home / "second.key"
    configure(daemon, entra, f'key=File("{first}")')
    daemon.start(DBUS_SESSION_BUS_ADDRESS=bus)
    daemon.sign_in(ANN, entra)

    # A configuration without the old key changes nothing, and neither does a new key that cannot be used.
    before = first.read_bytes()
    configure(daemon, entra, f'key=File("{second}")')
    status, said = rekey(daemon, bus)
    assert (1, True) == (status, "Vault(key=..., old_key=...), then `cms vault rekey`" in said), said
    configure(daemon, entra, f'key=Command(["false"]), old_key=File("{first}")')
    status, said = rekey(daemon, bus)
    assert (1, True) == (status, "the new key cannot be used: command ended with status 1" in said), said
    assert (before, False) == (first.read_bytes(), second.exists())

    configure(daemon, entra, f'key=File("{second}"), old_key=File("{first}")')
    assert (0, True) == (rekey(daemon, bus)[0], bool(token(daemon)))
    first.unlink()
    assert f"key file {second}" == json.loads(daemon.cms("status", "--json").stdout)["accounts"][0]["key_from"]

    daemon.stop()
    configure(daemon, entra, f'key="keyring", old_key=File("{second}")')
    status, said = rekey(daemon, bus)
    assert (0, True) == (status, "1 sign-in moved to the key from keyring" in said), said
    second.unlink()
    configure(daemon, entra, 'key="keyring"')
    daemon.start(DBUS_SESSION_BUS_ADDRESS=bus)
    assert token(daemon)
    assert 1 == entra.count("token", grant_type="authorization_code")


def token(daemon: Daemon) -> bytes:
    """Return the account's token; wait for it."""
    return until(lambda: ask(daemon.sockets / "cms.sock", f"SMTP,token {ANN}".encode()), "a token")
