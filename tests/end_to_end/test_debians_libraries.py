"""cms with the libraries that Debian packages, which are older than those that pip brings. From Debian 13 on they suffice."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.desktop import Desktop
from support.programs import releases_packages
from support.reachable import Installation, open_folder
from support.waiting import until

from cms.sandbox.entra import Entra

USER = "user@domain.com"

# As `import` has them.
LIBRARIES = [package.removeprefix("python3-") for package in releases_packages() if package.startswith("python3-")]
LIBRARIES.remove("venv")

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="the libraries of Debian 12 are older than cms needs")


@pytest.fixture(scope="module")
def debians() -> Iterator[Installation]:
    """cms where every user can run it, with Debian's libraries."""
    with open_folder("debians-libraries") as folder:
        yield Installation(folder / "venv", debians=True)


@pytest.fixture
def broker(debians: Installation, entra: Entra) -> Iterator[Daemon]:
    """A daemon with one account, which nobody has signed in."""
    entra.add_user(USER)
    entra.device_interval = 1
    with daemons(debians) as make:
        made = make(os.geteuid())
        made.configure(
            settings_lines(made.home, entra)
            + account_line("a", USER, entra)
            + f'CredentialServer("{made.sockets / "cms.sock"}", accounts=[a], protocols=["SMTP", "IMAP"])\n'
        )
        made.start()
        yield made


def introspected(broker: Daemon, entra: Entra) -> str:
    """Return whose token a mail program gets."""
    given = until(lambda: broker.token(broker.sockets / "cms.sock", USER, "--output=token").stdout, "a token")
    return str(entra.introspect(given.strip())["email"])


def test_they_are_debians(debians: Installation) -> None:
    """None comes from elsewhere."""
    program = (
        "import importlib, json, sys; print(json.dumps({n: importlib.import_module(n).__file__ for n in sys.argv[1:]}))"
    )
    done = subprocess.run([debians.python, "-I", "-c", program, *LIBRARIES], capture_output=True, text=True, check=True)
    places = {name: str(Path(file).parents[1]) for name, file in json.loads(done.stdout).items()}

    assert places == dict.fromkeys(LIBRARIES, "/usr/lib/python3/dist-packages")


def test_a_sign_in_lasts_through_refreshes_and_restarts(broker: Daemon, entra: Entra) -> None:
    """With a browser; then another token is fetched with what the vault has, before and after a restart."""
    broker.sign_in(USER, entra)
    first = introspected(broker, entra)
    refreshed = broker.cms("refresh", USER)
    broker.restart()
    again = introspected(broker, entra)
    status = broker.cms("status")
    left = broker.cms("logout", "-c", str(broker.config), USER)

    assert [USER, USER] == [first, again]
    assert 0 == refreshed.returncode, refreshed.stderr
    assert USER in status.stdout
    assert 0 == left.returncode, left.stderr
    assert entra.count(grant_type="refresh_token") >= 2


def test_a_device_code(broker: Daemon, entra: Entra) -> None:
    """It signs in; Debian 13's MSAL has no claims to give on."""
    command = [broker.installation.command("cms"), "login", "-c", str(broker.config), USER, "--device"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(broker.environment)
    ) as login:
        assert login.stdout
        code = next(found[1] for line in login.stdout if (found := re.match(r" {4}([A-Z0-9-]{6,})\s*$", line)))
        entra.approve_device(code, USER)
        rest = login.stdout.read()

    assert 0 == login.returncode, rest
    assert f"{USER} is signed in" in rest
    assert USER == introspected(broker, entra)


def test_a_desktops_keyring(debians: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key made by one process is found by the next."""
    program = "from cms.grants.vault.keyring import *; ring = Keyring(patience=Patience(20.0)); "
    desktop = Desktop(tmp_path)
    for name, value in desktop.environment.items():
        monkeypatch.setenv(name, value)

    def run(words: str) -> str:
        command = [str(debians.python), "-I", "-c", program + words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        desktop.start_keyring()
        made = run("print(key_id(ring.make()))")
        found = run(f"print(key_id(ring.find({made!r})))")
    finally:
        desktop.stop()

    assert made
    assert made == found
