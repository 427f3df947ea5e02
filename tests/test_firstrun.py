"""`cms init`, step by step: what is found out, what is written, and what is done about systemd and a daemon."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from cms import firstrun, fragments
from cms.accounts import CLOUDS
from cms.config import load
from cms.firstrun import (
    Around,
    Steps,
    Tenant,
    Wishes,
    begin,
    known_tenant,
    tenant_of,
    text_of,
    unit_path,
    unit_text,
    write,
)
from cms.grants.messages import Explored
from cms.remote import NoDaemon, Remote

USER = "ann@example.test"
GUID = "5a5a5a5a-0000-4000-8000-000000000001"
QUIET = Explored("", "", unknown=False, no_keyring="")


@dataclass
class Person:
    """Somebody at the terminal: agrees to what is in `agreed`, gives up at `gives_up`."""

    there: bool = True
    agreed: tuple[str, ...] = ()
    gives_up: str = "-"
    shown: str = "none"
    heard: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.heard.append(text)

    def complain(self, text: str) -> None:
        self.heard.append(f"cms: {text}")

    def agree(self, question: str) -> bool:
        if self.gives_up in question:
            raise KeyboardInterrupt
        return any(each in question for each in self.agreed)

    def choose(self, _question: str, _choices: Sequence[str], usual: str) -> str:
        return usual

    def reply(self, _question: str, _usual: str) -> str:
        return self.shown

    @property
    def said(self) -> str:
        return "\n".join(self.heard)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of our own, a PATH with nothing in it, and no keyring."""
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CMS_SOCK", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_CONFIG", str(tmp_path / "etc" / "cms"))
    monkeypatch.setattr(fragments, "TOOLS", ())
    return tmp_path


def wishes(home: Path, **more: Any) -> Wishes:
    return Wishes(str(home / "config" / "cms" / "cms.cfg"), USER, **more)


def nobody() -> Remote:
    raise NoDaemon("no daemon is running", "")


def around(explored: Explored = QUIET, connect: Callable[[], Remote] = nobody) -> Around:
    return Around(lambda _url, _ca: explored, load, connect)


def program(home: Path, name: str, text: str) -> None:
    path = home / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


# --- whose address it is ---


@pytest.mark.parametrize(
    ("user", "more", "expected"),
    [
        (USER, {"tenant": GUID}, Tenant(GUID)),
        ("ann@outlook.com", {}, Tenant(personal=True, said="outlook.com is for personal accounts.")),
        ("ann@hotmail.co.uk", {}, Tenant(personal=True, said="hotmail.co.uk is for personal accounts.")),
        ("ann@live.example.test", {}, None),
        (USER, {"offline": True}, Tenant(said="Written without a tenant (--offline).")),
        (USER, {}, None),
        ("ann@nvidia.com", {"client_id": "x"}, None),
    ],
)
def test_what_nobody_has_to_be_asked(home: Path, user: str, more: dict[str, Any], expected: Tenant | None) -> None:
    """What was said, Microsoft's own domains, domains with an application of their own, and --offline."""
    assert expected == known_tenant(replace(wishes(home, **more), user=user))


def test_a_domain_with_an_application_of_its_own(home: Path) -> None:
    """That application knows its tenant."""
    found = known_tenant(replace(wishes(home), user="ann@nvidia.com"))

    assert found is not None
    assert ("", "nvidia.com has an application of its own") == (found.id, found.said.partition(":")[0])


@pytest.mark.parametrize(
    ("explored", "expected"),
    [
        (Explored(GUID, "", unknown=False, no_keyring=""), (GUID, False, "example.test is the tenant")),
        (Explored(firstrun._PERSONAL_TENANT, "", unknown=False, no_keyring=""), ("", True, "for personal accounts")),
        (
            Explored("", "", unknown=True, no_keyring=""),
            ("", False, "Microsoft knows no organisation called example.test"),
        ),
        (Explored("", "no network", unknown=False, no_keyring=""), ("", False, "could not be looked up (no network)")),
    ],
)
def test_what_the_provider_says(explored: Explored, expected: tuple[str, bool, str]) -> None:
    """Found, a domain of personal accounts, unknown, or nobody answered: it is said, and never stops anything."""
    found = tenant_of(USER, explored)

    assert expected[:2] == (found.id, found.personal)
    assert expected[2] in found.said


def test_whom_it_asks(home: Path) -> None:
    """The login host of the global cloud, or another one; nobody where nothing has to be found out."""
    asked: list[tuple[str, str]] = []

    def explore(url: str, ca: str) -> Explored:
        asked.append((url, ca))
        return QUIET

    for more in ({}, {"authority": "https://localhost:1", "ca": "/ca.pem"}, {"offline": True}):
        firstrun._look_around(wishes(home, **more), Around(explore, load, nobody))

    login = CLOUDS["global"].login
    assert [(f"{login}/example.test", ""), ("https://localhost:1/example.test", "/ca.pem"), ("", "")] == asked


# --- the file ---


@pytest.mark.parametrize("no_keyring", ["", "keyring is not there"])
@pytest.mark.parametrize("tenant", [Tenant(), Tenant(GUID, note=" Found."), Tenant(personal=True)])
def test_what_is_written_loads(home: Path, tenant: Tenant, no_keyring: str) -> None:
    """Each kind of account, with a keyring and without; its key is in a file where no keyring keeps it."""
    path = home / "my.cfg"
    write(path, text_of(wishes(home), tenant, no_keyring))
    config = load(str(path))

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [USER] == [each.user for each in config.accounts]
    assert bool(no_keyring) == (config.vault_key is not None)
    assert [str(home / "run" / "cms" / "cms.sock")] == [each.path for each in config.sockets]
    assert (tenant.id or "c") in config.accounts[0].grant.authority


def test_what_was_said_is_in_it(home: Path) -> None:
    """An application of one's own, another login host, and an authority to trust."""
    ca = home / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    more = {"client_id": GUID, "authority": "https://localhost:1", "redirect_uri": "http://localhost/", "ca": str(ca)}
    path = home / "my.cfg"
    write(path, text_of(wishes(home, **more), Tenant(), ""))
    config = load(str(path))

    found = config.accounts[0].grant
    assert ("https://localhost:1/common", GUID, "http://localhost/") == (
        found.authority,
        found.client_id,
        found.redirect_uri,
    )
    assert str(ca) == config.ca


def test_the_systems_is_readable_and_names_who_may_ask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its paths are the service's, its key a file, and nothing else is done: only what to do next is said."""
    monkeypatch.setenv("SUDO_USER", "root")
    person = Person(agreed=("",))
    mine = Wishes(str(home / "etc" / "cms" / "cms.cfg"), USER)

    assert 0 == begin(mine, person, around())
    text = Path(mine.config).read_text()
    assert (0o644, 0o755) == tuple(
        stat.S_IMODE(each.stat().st_mode) for each in (Path(mine.config), home / "etc" / "cms")
    )
    assert '"/run/cms/cms.sock"' in text
    assert 'Vault(key=File("/var/lib/cms/vault.key"))' in text
    assert f"sudo -u cms cms login {USER} --paste" in person.said
    assert load(mine.config).sockets[0].users


@pytest.mark.parametrize(("sudo", "expected"), [("", "root"), ("nobody-of-this-name", "root"), ("daemon", "daemon")])
def test_who_asks_the_systems(monkeypatch: pytest.MonkeyPatch, sudo: str, expected: str) -> None:
    """The mail server's user where there is one, else whoever has become root, else root."""
    known = {"daemon": pwd.getpwuid(1), "Debian-exim": pwd.getpwuid(1)}
    monkeypatch.setenv("SUDO_USER", sudo)
    assert firstrun._mailers() in (["Debian-exim"], [expected])
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"daemon": known["daemon"]}[name])
    assert [expected] == firstrun._mailers()


# --- systemd ---


def test_the_unit_runs_this_very_cms(home: Path) -> None:
    """By its path, and with the configuration where that is not the usual one; else it is the project's own unit."""
    usual, other = unit_text(str(home / "config" / "cms" / "cms.cfg")), unit_text("/other.cfg")
    (line,) = [each for each in usual.split("\n") if each.startswith("ExecStart=")]

    assert line.endswith("cms run")
    assert line.removeprefix("ExecStart=").startswith("/")
    assert "cms run -c /other.cfg" in other
    own = fragments.data("systemd/user/cms.service").read_text()
    assert own.replace("%h/.local/bin/cms run", line.removeprefix("ExecStart=")) == usual
    assert home / "config" / "systemd" / "user" / "cms.service" == unit_path()


def test_units_have_their_place_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd.unit(5)."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path / ".config" / "systemd" / "user" / "cms.service" == unit_path()


@pytest.mark.parametrize(
    ("script", "expected", "left"),
    [
        ("exit 0", "cms runs now, and with every session of yours", False),
        (
            '[ "$2" = show-environment ] && exit 0; echo no such thing >&2; exit 5',
            "could not be started: no such thing",
            True,
        ),
        ('[ "$2" = show-environment ] && exit 0; exit 5', "systemctl ended with status 5", True),
    ],
)
def test_installing_the_unit(home: Path, script: str, expected: str, *, left: bool) -> None:
    """Started, or why not: then `cms run` is left to do."""
    program(home, "systemctl", script)
    person = Person(agreed=("systemd",))

    assert 0 == begin(wishes(home, offline=True), person, around())
    assert expected in person.said
    assert left == ("    cms run\n" in person.said)


def test_another_unit_is_left_alone(home: Path) -> None:
    """It may be somebody's work."""
    program(home, "systemctl", "exit 0")
    unit_path().parent.mkdir(parents=True)
    unit_path().write_text("[Service]\n")
    person = Person(agreed=("systemd",))

    begin(wishes(home, offline=True), person, around())

    assert "is there already, is another one, and stays as it is" in person.said
    assert "[Service]\n" == unit_path().read_text()


def test_a_systemctl_that_cannot_be_run(home: Path) -> None:
    """As good as none."""
    program(home, "systemctl", "")
    (home / "bin" / "systemctl").write_text("#!/nowhere\n")

    assert not firstrun._has_systemd()
    assert "cannot be run" in firstrun._systemctl("show-environment")


# --- a daemon ---


@contextmanager
def a_daemon(config: str, answers: int = 1) -> Any:
    """Be a daemon with this configuration; yields what connects to it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0cms-firstrun-" + str(os.getpid()))
        listening.listen()

        def play() -> None:
            for _ in range(answers):
                client, _ = listening.accept()
                with client, client.makefile("rb") as lines:
                    lines.readline()
                    answer = {"event": "done", "ok": True, "json": {"daemon": {"config": config}}}
                    client.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=play)
        thread.start()

        def connect() -> Remote:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect("\0cms-firstrun-" + str(os.getpid()))
            return Remote(sock)

        yield connect
        thread.join()


def test_a_daemon_that_runs_is_used(home: Path) -> None:
    """If it has this configuration; another one's is said."""
    mine = str(home / "cms.cfg")
    with a_daemon(mine) as connect, firstrun.daemon(mine, connect) as problem:
        assert "" == problem
    with a_daemon("/other.cfg") as connect, firstrun.daemon(mine, connect) as problem:
        assert "A daemon runs with another configuration, /other.cfg" in problem


def test_a_daemon_that_cannot_start_is_said(home: Path) -> None:
    """With the command that says why; the sign-in is not tried."""
    person = Person(agreed=("Sign in",))
    bad = wishes(home, offline=True)

    def broken(path: str) -> Any:
        found = load(path)
        Path(path).write_text("nonsense(")
        return found

    assert 1 == begin(bad, person, Around(lambda _url, _ca: QUIET, broken, nobody))
    assert "cms could not be started for the sign-in: `cms run` says why." in person.said


# --- the whole ---


def test_giving_up_says_how_to_go_on(home: Path) -> None:
    """With what is there already; before the file is written there is nothing to go on from."""
    early, late = Person(), Person(gives_up="Sign in")

    def interrupt(_url: str, _ca: str) -> Explored:
        raise KeyboardInterrupt

    assert 130 == begin(wishes(home), early, Around(interrupt, load, nobody))
    assert 130 == begin(wishes(home, offline=True), late, around())
    assert ["\nStopped here; what has been done stays."] == early.heard
    assert "    cms login\n" in late.said


def test_steps_that_are_switched_off_are_not_asked_for(home: Path) -> None:
    """--no-unit, --no-sign-in, --no-show."""
    program(home, "systemctl", "exit 0")
    person = Person(gives_up="")

    assert 0 == begin(wishes(home, offline=True, unit=False, sign_in=False, show=False), person, around())


def test_what_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that a person has named, with the user's words; and where the socket is, if nobody would look there."""
    program(home, "msmtp", "")
    program(home, "mutt", "")
    monkeypatch.setattr(fragments, "TOOLS", [each for each in _TOOLS if each.name in ("msmtp", "mutt")])
    monkeypatch.setenv("CMS_SOCK", "/elsewhere/cms.sock")
    person = Person(shown="mutt, and nothing else")

    begin(wishes(home, offline=True), person, around())

    assert "Mail programs here: msmtp, mutt." in person.said
    assert f'set from = "{USER}"' in person.said
    assert "passwordeval" not in person.said
    assert f"set CMS_SOCK={home}/run/cms/cms.sock" in person.said


_TOOLS = fragments.TOOLS


def test_a_mail_server_that_refuses_is_shown(home: Path) -> None:
    """With all that the test says; one that is not named is not tried."""
    write(home / "my.cfg", text_of(wishes(home), Tenant(), ""))
    account, person = load(str(home / "my.cfg")).accounts[0], Person()

    assert not firstrun._test(person, account, "smtp", "localhost:1")
    assert "SMTP: localhost:1 does not take the token:" in person.said
    mine = wishes(home, try_smtp="localhost:1")
    assert [("smtp", "localhost:1"), ("imap", account.imap_host)] == firstrun._tests_of(mine, account)


def test_a_mail_server_that_hangs_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cms-oauth has a deadline of its own; this one is behind it."""

    def hang(*arguments: Any, **_: Any) -> None:
        raise subprocess.TimeoutExpired(arguments[0], 1.0)

    write(home / "my.cfg", text_of(wishes(home), Tenant(), ""))
    person = Person()
    monkeypatch.setattr(subprocess, "run", hang)

    assert not firstrun._test(person, load(str(home / "my.cfg")).accounts[0], "imap", "localhost")
    assert "gave no answer in time" in person.said
    assert "cannot be run" in firstrun._systemctl("show-environment")


def test_what_is_left_to_do() -> None:
    """Each step takes its own command away."""
    steps = Steps(" -c /x")
    steps.done("login")
    steps.done("login")
    assert {"run": "cms run -c /x", "test": "cms status"} == steps.left
    for name in ("run", "test"):
        steps.done(name)
    assert "All is set up" in firstrun._go_on(steps)


@pytest.mark.parametrize("there", [True, False])
def test_this_very_cms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    """Beside the interpreter, as in a virtual environment; else wherever the PATH has it, else as a module."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if there:
        (tmp_path / "cms").touch()

    assert (str(tmp_path / "cms") if there else f"{tmp_path}/python -P -m cms.main") == firstrun._command()
