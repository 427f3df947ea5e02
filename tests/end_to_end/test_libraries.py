"""cms with other libraries than the tests': Debian's own, or, where those are too old, the oldest that pyproject.toml allows.

`make test-dependencies` runs many more tests with the oldest.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.desktop import Desktop
from support.programs import give_up, releases_packages
from support.reachable import Installation, open_folder
from support.waiting import until

from cms.sandbox.entra import Entra

ROOT = Path(__file__).parents[2]
USER = "user@domain.com"

_DOCUMENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each library with its lower bound.
LIBRARIES = [Requirement(each) for each in _DOCUMENT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"]]

# Where Debian's packages have their modules.
DEBIANS = Path("/usr/lib/python3/dist-packages")
# Those of Debian 12 do not.
DEBIANS_SUFFICE = "python3-msal" in releases_packages()


def oldest() -> Path:
    """Return the folder of the oldest libraries, which `make test` has installed."""
    for found in (ROOT / ".venv-oldest").glob("lib/python3*/site-packages"):
        return found
    give_up("the oldest libraries are missing: make .venv-oldest/installed")
    raise AssertionError


@pytest.fixture(scope="module")
def cms() -> Iterator[Installation]:
    """cms where every user can run it, with these libraries."""
    with open_folder("libraries") as folder:
        yield Installation(folder / "venv", libraries=None if DEBIANS_SUFFICE else oldest(), debians=DEBIANS_SUFFICE)


@pytest.fixture
def broker(cms: Installation, entra: Entra) -> Iterator[Daemon]:
    """A daemon with one account, which nobody has signed in."""
    entra.add_user(USER)
    entra.device_interval = 1
    with daemons(cms) as make:
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


def test_they_are_used_together(cms: Installation) -> None:
    """Each library is Debian's own in a version that is allowed, or at its lower bound; none is that of the tests."""
    program = (
        "import importlib, importlib.metadata, json, sys; modules = {'pyjwt': 'jwt', 'dnspython': 'dns'}; "
        "print(json.dumps({name: [importlib.import_module(modules.get(name, name.replace('-', '_'))).__file__, "
        "importlib.metadata.version(name)] for name in sys.argv[1:]}))"
    )
    names = [each.name for each in LIBRARIES]
    done = subprocess.run([cms.python, "-I", "-c", program, *names], capture_output=True, text=True, check=True)
    found = {name: (Path(file).parents[1], version) for name, (file, version) in json.loads(done.stdout).items()}

    assert {name: place for name, (place, _) in found.items()} == dict.fromkeys(
        names, DEBIANS if DEBIANS_SUFFICE else cms.packages
    )
    for each in LIBRARIES:
        version = found[each.name][1]
        assert each.specifier.contains(version)
        assert DEBIANS_SUFFICE or str(each.specifier) == f">={version}"


def test_a_sign_in_lasts_through_refreshes_and_restarts(broker: Daemon, entra: Entra) -> None:
    """With a browser; then another token is fetched with what the vault has, before and after a restart.

    The restart itself asks for none.
    """
    broker.sign_in(USER, entra)
    first = introspected(broker, entra)
    refreshed = broker.cms("refresh", USER)
    broker.restart()
    again = introspected(broker, entra)
    before = entra.count(grant_type="refresh_token")
    renewed = broker.cms("refresh", USER)
    status = broker.cms("status")
    left = broker.cms("logout", "-c", str(broker.config), USER)

    assert [USER, USER] == [first, again]
    assert 0 == refreshed.returncode, refreshed.stderr
    assert 0 == renewed.returncode, renewed.stderr
    assert USER in status.stdout
    assert 0 == left.returncode, left.stderr
    assert (1, 2) == (before, entra.count(grant_type="refresh_token"))


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


def test_a_desktops_keyring(cms: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key made by one process is found by the next."""
    program = "from cms.grants.vault.keyring import *; ring = Keyring(patience=Patience(20.0)); "
    desktop = Desktop(tmp_path)
    for name, value in desktop.environment.items():
        monkeypatch.setenv(name, value)

    def run(words: str) -> str:
        command = [str(cms.python), "-I", "-c", program + words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        desktop.start_keyring()
        made = run("print(key_id(ring.make()))")
        found = run(f"print(key_id(ring.find({made!r})))")
    finally:
        desktop.stop()

    assert made
    assert made == found
