"""`cms init`, step by step: what is done about systemd and a daemon, and what is said."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from support.command_line import GOOD, empty_folders, good_configuration
from support.mail_files import account
from support.newcomers import GUID, USER, Person, empty_home, program, wishes
from support.programs import require_root
from support.reachable import ALICE

from cms import main
from cms.cli import client as remote
from cms.cli.client import NoDaemon, NotListening, Remote
from cms.cli.init import mail_programs, systemd_units, wizard
from cms.cli.init.first_config import Tenant, Wishes, text_of, write
from cms.cli.init.systemd_units import Systemd
from cms.cli.init.wizard import Around, begin, steps_for
from cms.config.load import load
from cms.config.trust import SYSTEM
from cms.grants.messages import Explored
from cms_oauth import paths
from cms_oauth.microsoft import CLOUDS

QUIET = Explored("", "", unknown=False, no_keyring="")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


def no_daemon() -> Remote:
    raise NoDaemon("no daemon is running", "")


def around(
    explored: Explored = QUIET,
    connect: Callable[[], Remote] = no_daemon,
    exchangers: tuple[str, ...] | str = (),
) -> Around:
    return Around(lambda _domain: exchangers, lambda _url, _ca: explored, load, connect)


def test_whom_it_asks(home: Path) -> None:
    """DNS and the global cloud's login host, or the login host that is named; nobody if nothing has to be found out."""
    asked: list[tuple[str, str]] = []
    looked_up: list[str] = []

    def exchangers(domain: str) -> tuple[str, ...]:
        looked_up.append(domain)
        return ("example-test.mail.protection.outlook.com",)

    def explore(url: str, ca: str) -> Explored:
        asked.append((url, ca))
        return QUIET

    ca = home / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----")
    for more in ({}, {"authority": "https://localhost:1", "ca": str(ca)}, {"offline": True}):
        mine = wishes(home, **more)
        assert 0 == begin(mine, Person(there=False), Around(exchangers, explore, load, no_daemon))
        Path(mine.config).unlink()

    login = CLOUDS["global"].login
    assert [(f"{login}/example.test", ""), ("https://localhost:1/example.test", str(ca)), ("", "")] == asked
    assert ["example.test"] == looked_up


@pytest.mark.parametrize(("offline", "expected"), [(True, "looking for a keyring"), (False, "looking up example.test")])
def test_what_it_does_meanwhile(home: Path, monkeypatch: pytest.MonkeyPatch, expected: str, *, offline: bool) -> None:
    """Who has said --offline is not told that something is looked up."""
    told = list[str]()

    @contextmanager
    def working(what: str) -> Iterator[None]:
        told.append(what)
        yield

    monkeypatch.setattr("cms.cli.init.wizard.working", working)

    assert 0 == begin(wishes(home, offline=offline), Person(there=False), around())
    assert [expected] == told


@pytest.mark.parametrize("cloud", ["gcc-high", "dod", "china"])
def test_a_national_cloud_needs_the_users_own_application(home: Path, cloud: str) -> None:
    """Without one init writes no file and says where to register it; with one the file names the cloud."""
    person, found = Person(), Explored(GUID, "", unknown=False, no_keyring="", cloud=cloud)
    path = home / "config" / "cms" / "cms.cfg"

    assert 1 == begin(wishes(home), person, around(found))
    assert f"example.test is the tenant {GUID}, in the national cloud {cloud}." in person.said
    portal = "https://portal.azure.cn" if cloud == "china" else "https://portal.azure.us"
    assert f"register it at {portal} " in person.said
    assert not path.exists()

    assert 0 == begin(wishes(home, client_id=GUID, sign_in=False), person, around(found))
    account = load(str(path)).accounts[0]
    assert (CLOUDS[cloud].imap_host, GUID) == (account.imap_host, account.grant.client_id)


@pytest.mark.parametrize(("uid", "there"), [(0, True), (0, False), (1000, False)])
def test_root_is_told_of_the_service(home: Path, monkeypatch: pytest.MonkeyPatch, uid: int, *, there: bool) -> None:
    """Who is root may have meant the whole machine's, in a script too."""
    monkeypatch.setattr("os.geteuid", lambda: uid)
    person = Person(there=there)

    assert 0 == begin(wishes(home, sign_in=False), person, around())
    assert (uid == 0) == ("A service for the whole machine: `cms init --system`." in person.said)


def test_an_address_of_googles(home: Path) -> None:
    """Entra is not asked; without a client init writes nothing and says how to get one, and with one it names the file."""
    mine = replace(wishes(home, sign_in=False), user="ann@gmail.com")
    path, asked, person = Path(mine.config), list[str](), Person()
    nothing = Explored("", "", unknown=False, no_keyring="")

    def explore(url: str, _ca: str) -> Explored:
        asked.append(url)
        return nothing

    looking = replace(around(nothing), explore=explore)

    assert 1 == begin(mine, person, looking)
    assert "gmail.com is a domain of Google's." in person.said
    assert f"save it as {path.parent / 'google-client.json'}" in person.said
    assert not path.exists()

    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "google-client.json").write_text('{"installed": {"client_id": "123.apps", "client_secret": "x"}}')
    assert 0 == begin(mine, person, looking)
    (account,) = load(str(path)).accounts
    assert ("google", "123.apps", "imap.gmail.com") == (
        account.grant.provider,
        account.grant.client_id,
        account.imap_host,
    )
    assert {""} == {*asked}


def test_a_domain_whose_mail_another_provider_receives(home: Path) -> None:
    """Entra is not asked; the account is the provider's, and what to do if the mailbox is Microsoft's is said."""
    person, asked = Person(), list[str]()
    hosts = ("in1-smtp.messagingengine.com", "in2-smtp.messagingengine.com")

    def explore(url: str, _ca: str) -> Explored:
        asked.append(url)
        return QUIET

    assert 0 == begin(wishes(home, sign_in=False), person, replace(around(exchangers=hosts), explore=explore))
    (account,) = load(wishes(home).config).accounts
    assert ("fastmail", [""]) == (account.grant.provider, asked)
    assert "Fastmail receives the mail of example.test (in1-smtp.messagingengine.com)." in person.said
    assert "`cms init --tenant=example.test`" in person.said
    assert "Which application signs in?" not in person.said


def test_a_domain_that_dns_does_not_tell_of(home: Path) -> None:
    """Where DNS gives no answer, one line says so, and Entra is asked."""
    person = Person()
    mine = wishes(home, sign_in=False)

    assert 0 == begin(mine, person, around(Explored(GUID, "", unknown=False, no_keyring=""), exchangers="no luck"))
    assert "The mail servers of example.test were not looked up (no luck): only Microsoft is asked." in person.said
    assert f'tenant="{GUID}"' in Path(mine.config).read_text()


def test_the_systems_is_readable_and_names_who_may_ask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its paths are the service's, its key a file, and nothing else is done: what to do next is said, by real paths."""
    monkeypatch.setenv("SUDO_USER", "root")
    monkeypatch.setattr("cms.cli.init.systemd_units.USUAL_COMMAND", str(home / "local" / "cms"))
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
    assert str(mail_programs.data("systemd/system/cms.service")) in person.said
    assert f"git-credential-cms {home}/local/" in person.said


@pytest.mark.parametrize("agreed", [True, False])
def test_the_machines_service_is_offered_to_root(home: Path, monkeypatch: pytest.MonkeyPatch, *, agreed: bool) -> None:
    """Where there is a systemd: after it only the sign-in is left."""
    _machine(home, monkeypatch)
    person = Person(agreed=("Create the user cms",) if agreed else ())

    assert 0 == begin(Wishes(str(home / "etc" / "cms" / "cms.cfg"), USER), person, around())
    assert agreed == (home / "units" / "cms.service").exists()
    assert agreed != ("systemctl enable --now cms.socket cms.service" in person.said)
    assert "\nNext, as root (docs/operations.md, As a service):\n" in person.said
    assert "sudo -u cms cms login" in person.said


def _machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be root on a machine with systemd, with its folders below `home`."""
    for name in ("systemctl", "systemd-tmpfiles", "useradd"):
        program(home, name, "exit 0")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(sys, "prefix", "/srv/cms")
    monkeypatch.setattr(systemd_units, "_SYSTEM_UNITS", str(home / "units"))
    monkeypatch.setattr(systemd_units, "_TMPFILES", str(home / "tmpfiles.d" / "cms.conf"))
    monkeypatch.setattr(systemd_units, "_LOGROTATE", str(home / "logrotate.d" / "cms-oauth"))
    monkeypatch.setattr(systemd_units, "_PACKAGED_UNITS", str(home / "packaged"))
    monkeypatch.setattr(systemd_units, "USUAL_COMMAND", str(home / "bin" / "systemctl"))
    monkeypatch.setattr(systemd_units, "CREDENTIAL_FILE", str(home / "credstore" / "cms.key"))


@pytest.mark.parametrize(
    ("agreed", "makes", "expected"),
    [
        (("Have systemd encrypt", "Create the user cms"), "exit 0", 'Credential("cms.key")'),
        (("Have systemd encrypt",), "exit 0", 'Credential("cms.key")'),
        (("Create the user cms",), "exit 0", 'File("/var/lib/cms/vault.key")'),
        (("Have systemd encrypt", "Create the user cms"), "echo no room >&2; exit 1", 'File("/var/lib/cms/vault.key")'),
    ],
)
def test_the_key_can_be_systemds(
    home: Path, monkeypatch: pytest.MonkeyPatch, agreed: tuple[str, ...], makes: str, expected: str
) -> None:
    """With systemd-creds the key is a credential, and a drop-in names it: written, or among what is left to do."""
    _machine(home, monkeypatch)
    program(home, "systemd-creds", "")
    (home / "bin" / "sh").symlink_to("/bin/sh")
    monkeypatch.setattr(systemd_units, "MAKE_CREDENTIAL", makes)
    person, config = Person(agreed=agreed), home / "etc" / "cms" / "cms.cfg"

    assert 0 == begin(Wishes(str(config), USER), person, around())
    assert f"Vault(key={expected})\n" in config.read_text()
    installed, drop_in = "Create the user cms" in agreed, "cms.service.d/credential.conf"
    assert (installed and "Credential" in expected) == (home / "units" / drop_in).exists()
    assert ("Credential" in expected and not installed) == (f"systemd/system/{drop_in}" in person.said)
    assert ("no room" in makes) == ("made no key, so a file has it: no room" in person.said)
    assert load(str(config)).accounts


def test_exims_socket_is_for_exim(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with exim, other users cannot even connect; without it, the socket's unit is left alone."""
    _machine(home, monkeypatch)
    for mailer in ("Debian-exim", "root"):
        config = home / "etc" / "cms" / "cms.cfg"
        monkeypatch.setattr("cms.cli.init.wizard.mailers", lambda name=mailer: [name])

        assert 0 == begin(Wishes(str(config), USER), Person(agreed=("Create the user cms",)), around())
        drop_in = home / "units" / "cms.socket.d" / "exim.conf"
        assert (mailer == "Debian-exim") == drop_in.exists()
        drop_in.unlink(missing_ok=True)
        config.unlink()


def test_a_cms_that_the_service_cannot_see(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ProtectHome= hides home folders: that is said before anything is installed, and where cms belongs."""
    program(home, "systemctl", "exit 0")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(sys, "prefix", "/home/ann/cms")
    monkeypatch.setattr("cms.cli.init.systemd_units.USUAL_COMMAND", str(home / "local" / "cms"))
    person = Person(gives_up="Create the user cms")

    assert 0 == begin(Wishes(str(home / "etc" / "cms" / "cms.cfg"), USER), person, around())
    assert "The service cannot see /home, where this cms is" in person.said
    assert "python3 -m venv /opt/cms" in person.said


# --- systemd ---


@pytest.mark.parametrize(
    ("script", "expected", "left"),
    [
        ("exit 0", "cms is running now, and starts with your session", False),
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
    """It may be another person's work."""
    program(home, "systemctl", "exit 0")
    unit = Systemd().folder / "cms.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    person = Person(agreed=("systemd",))

    begin(wishes(home, offline=True), person, around())

    assert "already exists, is different, and was not changed" in person.said
    assert "[Service]\n" == unit.read_text()


# --- a daemon ---


@contextmanager
def a_daemon(config: str, answers: int = 1, signs_in: bool = True) -> Any:
    """Be a daemon with this configuration; yields what connects to it. The last of two answers ends a sign-in."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0cms-firstrun-" + str(os.getpid()))
        listening.listen()

        def play() -> None:
            for number in range(answers):
                client, _ = listening.accept()
                with client, client.makefile("rb") as lines:
                    lines.readline()
                    answer = {
                        "event": "done",
                        "ok": number == 0 or signs_in,
                        "message": f"{USER} is signed in" if signs_in else "the sign-in ran out",
                        "json": {"daemon": {"config": config}},
                    }
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
    with a_daemon(mine) as connect, wizard.daemon(mine, connect) as problem:
        assert "" == problem
    with a_daemon("/other.cfg") as connect, wizard.daemon(mine, connect) as problem:
        assert "A daemon runs with another configuration, /other.cfg" in problem


@pytest.mark.parametrize("said", [5, {"daemon": 5}, {"daemon": {"config": "\0"}}, {"accounts": [5]}, {"accounts": 5}])
def test_a_daemon_may_answer_anything(said: object) -> None:
    """Another user's, when root sets cms up: no traceback, and it is taken for none, or for one with another configuration."""
    with ExitStack() as stack:

        def connect() -> Remote:
            near, far = socket.socketpair()
            stack.enter_context(far).sendall(json.dumps({"json": said}).encode() + b"\n")
            return Remote(near)

        assert "" != wizard._runs("/my.cfg", connect)
        with suppress(NoDaemon):
            assert "" == wizard._state(account(USER), connect)


def test_a_daemon_that_cannot_be_reached_is_waited_for(home: Path) -> None:
    """A second one would be refused: nothing is started beside it."""

    def connect() -> Remote:
        raise NotListening("a daemon runs, but not at its control socket", "try again")

    with wizard.daemon(str(home / "cms.cfg"), connect) as problem:
        assert "a daemon runs, but not at its control socket: try again." == problem


@pytest.mark.parametrize(
    ("signs_in", "tries", "expected", "left"),
    [(True, False, 0, ["cms status"]), (True, True, 1, []), (False, True, 1, ["cms login", "cms status"])],
)
def test_a_sign_in(  # noqa: PLR0917 - the cases are its arguments
    home: Path, monkeypatch: pytest.MonkeyPatch, signs_in: bool, tries: bool, expected: int, left: list[str]
) -> None:
    """At the daemon that runs; after it the mail servers are tried, if that is wanted. What is left to do is said."""
    person = Person(agreed=("Sign in", "Test the mail") if tries else ("Sign in",))
    mine = wishes(home, offline=True, method="device", try_smtp="localhost:1", try_imap="localhost:1")

    with Path(os.devnull).open() as nothing, a_daemon(mine.config, 2, signs_in) as connect:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert expected == begin(mine, person, around(connect=connect))

    assert (f"{USER} is signed in" if signs_in else "the sign-in ran out") in person.said
    assert (tries and signs_in) == ("SMTP: the test of localhost:1 failed" in person.said)
    assert left == [each for each in ("cms login", "cms status") if f"    {each}\n" in f"{person.said}\n"]


def test_inits_daemon_ends_with_the_block(home: Path) -> None:
    """The daemon lives as long as the block; a process that is not init's child gets no answer after that."""
    mine = wishes(home)
    write(Path(mine.config), text_of(mine, Tenant(), "no keyring"))

    def connect() -> Remote:
        return remote.connect([str(home / "run" / "cms" / "control.sock")])

    with wizard.daemon(mine.config, connect) as problem:
        assert "" == problem
        connect().__exit__(None, None, None)
    with pytest.raises(NoDaemon):
        connect()


@pytest.mark.parametrize(
    ("states", "expected", "left"),
    [
        (["starting", "ok"], f"{USER} needs no sign-in: a usable token is held", ["cms status"]),
        (["failing"], f"{USER} needs no sign-in: the provider cannot be reached", ["cms status"]),
        (["sign-in-required"], "Sign in as", ["cms login", "cms status"]),
    ],
)
def test_going_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, states: list[str], expected: str, left: list[str]
) -> None:
    """With a configuration that is there: what is done is not asked for again, and the running daemon is used."""
    mine = wishes(home)
    write(Path(mine.config), text_of(mine, Tenant(), "no keyring"))
    before = Path(mine.config).read_text()

    class Follower:
        def __init__(self) -> None:
            self._states = iter(states)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def ask(self, _command: str) -> dict[str, Any]:
            return {"json": {"accounts": [{"user": USER, "state": next(self._states)}]}}

    following, person = Follower(), Person()
    monkeypatch.setattr(person, "agree", person.say)
    monkeypatch.setattr(wizard, "_runs", lambda *_: "")

    assert 0 == begin(replace(mine, user=""), person, around(connect=lambda: following))  # type: ignore[arg-type, return-value]
    assert expected in person.said
    assert left == [each for each in ("cms run", "cms login", "cms status") if f"    {each}\n" in f"{person.said}\n"]
    assert before == Path(mine.config).read_text()


def test_going_on_can_be_stopped(home: Path) -> None:
    """With what is left to do; a daemon that cannot be started is said."""
    mine = wishes(home)
    write(Path(mine.config), text_of(mine, Tenant(), "no keyring"))
    program(home, "systemctl", "exit 0")
    stopped = Person(gives_up="Install the systemd units")

    assert 130 == begin(mine, stopped, around())
    assert "Stopped here. What has been done so far stays." in stopped.said


def test_units_that_run_are_not_offered_again(home: Path) -> None:
    """A unit of this very text that is active."""
    program(home, "systemctl", "exit 0")
    first, second = Person(agreed=("systemd",)), Person(gives_up="Install")
    mine = wishes(home, offline=True, sign_in=False)

    assert 0 == begin(mine, first, around())
    assert 0 == begin(mine, second, around())
    assert "cms.service is installed and runs." in second.said
    assert "    cms run\n" not in second.said


def test_the_systems_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is offered the service for a configuration that is there."""
    _machine(home, monkeypatch)
    mine = Wishes(str(home / "etc" / "cms" / "cms.cfg"), USER)
    assert 0 == begin(mine, Person(), around())
    person = Person(agreed=("Create the user cms",))

    assert 0 == begin(mine, person, around())
    assert (home / "units" / "cms.service").exists()
    assert f"sudo -u cms cms login {USER} --paste" in person.said


def test_a_daemon_that_cannot_start_is_said(home: Path) -> None:
    """With the command that says why; the sign-in is not tried."""
    person = Person(agreed=("Sign in",))
    bad = wishes(home, offline=True)

    def broken(path: str) -> Any:
        found = load(path)
        Path(path).write_text("nonsense(")
        return found

    assert 1 == begin(bad, person, replace(around(), load=broken))
    assert "cms could not be started for the sign-in: `cms run` says why." in person.said


# --- the whole ---


def test_giving_up_says_how_to_go_on(home: Path) -> None:
    """With what is there already; before the file is written there is nothing to go on from."""
    early, late = Person(), Person(gives_up="Sign in")

    def interrupt(_url: str, _ca: str) -> Explored:
        raise KeyboardInterrupt

    assert 130 == begin(wishes(home), early, replace(around(), explore=interrupt))
    assert 130 == begin(wishes(home, offline=True), late, around())
    assert ["\nStopped here; nothing was written."] == early.heard
    assert "Stopped here. What has been done so far stays." in late.said
    assert "    cms login\n" in late.said


def test_the_address_is_asked_for_until_it_is_one(home: Path) -> None:
    """A typing error costs a line, not the command; a closed input leads to the name of the option."""
    typing, gone, early = Person(addresses=["ann", "a b@c", USER]), Person(addresses=["ann"]), Person(gives_up="Mail")
    nameless = replace(wishes(home, offline=True), user="")

    assert os.EX_USAGE == begin(nameless, gone, around())
    assert "cms: ann is not a mail address\ncms: no mail address\n`cms init --user=ADDRESS`" == gone.said
    system = Person(addresses=[])
    assert os.EX_USAGE == begin(replace(nameless, config=paths.system_config_file()), system, around())
    assert system.said.endswith("`cms init --system --user=ADDRESS`")
    assert 130 == begin(nameless, early, around())
    assert ["\nStopped here; nothing was written."] == early.heard
    assert not Path(nameless.config).exists()
    assert 0 == begin(nameless, typing, around())
    assert [USER] == [each.user for each in load(nameless.config).accounts]


def test_what_is_there_is_told_before_anything_is_asked(home: Path) -> None:
    """init says so first, whether it is a configuration without the account, a faulty one or another kind of file."""
    person, mine = Person(gives_up="Mail"), home / "my.cfg"
    mine.write_text(GOOD.format(folder=home))

    assert 1 == begin(Wishes(str(mine), USER), person, around())
    mine.write_text("nonsense(")
    assert 1 == begin(Wishes(str(mine)), person, around())
    assert 1 == begin(Wishes(os.devnull), person, around())
    assert (
        f"my.cfg already exists and was not changed. It lacks the account {USER}\nwrite this line above" in person.said
    )
    assert "my.cfg already exists and was not changed, and cannot be loaded: " in person.said
    assert "/dev/null is a device: name a regular file" in person.said


def test_a_second_account(home: Path) -> None:
    """For an address that the configuration lacks init prints the account's line, or what the person needs before it."""
    path, client = home / "my.cfg", home / "google-client.json"
    path.write_text(GOOD.format(folder=home))

    def said(user: str) -> str:
        person = Person()
        assert 1 == begin(Wishes(str(path), user), person, around())
        return person.said

    again = f"`cms init -c {path} --user=ann@gmail.com`"
    assert f"save it as {client} (`chmod 600`), then {again}" in said("ann@gmail.com")
    client.write_text('{"installed": {"client_id": "1-a.apps.googleusercontent.com", "client_secret": "s"}}')
    client.chmod(0o600)
    told = said("ann@gmail.com")
    line = '    account2 = GMail_Account("ann@gmail.com", client=File("google-client.json"))\n'
    assert (line in told, told.endswith(again)) == (True, True)
    assert f'    account2 = Office365_Account(user="{USER}")\n' in said(USER)
    assert "b@ is not a mail address" in said("b@")

    written = path.read_text().replace("CredentialServer", f"{line.strip()}\nCredentialServer")
    path.write_text(written.replace("accounts=[account]", "accounts=[account, account2]"))
    assert ["a@example.test", "ann@gmail.com"] == [each.user for each in load(str(path)).accounts]
    path.write_text(f"account3 = None\n{path.read_text()}")
    assert "    account4 = " in said(USER)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "slip",
    [
        {"tenant": "example test"},
        {"client_id": "5a5a5a5a-0000"},
        {"client_id": GUID, "redirect_uri": "localhost"},
        {"authority": "login.example.test"},
    ],
)
def test_a_slip_in_an_option_leaves_no_file(home: Path, slip: dict[str, str], *, there: bool) -> None:
    """What does not load is not left behind: the corrected command would find a configuration in its way."""
    person = Person(there=there)
    slipped = wishes(home, offline=True, **slip)

    assert 1 == begin(slipped, person, around())
    assert f"nothing was written, because of this:\nOffice365_Account: {list(slip)[-1]}= is" in person.said
    assert "Wrote" not in person.said
    assert not Path(slipped.config).exists()
    assert 0 == begin(wishes(home, offline=True), person, around())


@pytest.mark.parametrize("config", ["config/cms/cms.cfg", "etc/cms/cms.cfg"])
def test_without_a_terminal_only_the_file_is_written(home: Path, config: str) -> None:
    """For a user and for the machine: init asks nothing and says what to do."""
    person = Person(there=False, gives_up="")

    assert 0 == begin(Wishes(str(home / config), USER, tenant=GUID), person, around())
    assert "\nNext" in person.said
    assert (home / config).exists()


def test_steps_that_are_switched_off_are_not_asked_for(home: Path) -> None:
    """--no-unit, --no-sign-in, --no-show."""
    program(home, "systemctl", "exit 0")
    person = Person(gives_up="")

    assert 0 == begin(wishes(home, offline=True, unit=False, sign_in=False, show=False), person, around())


def test_what_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program's configuration with the user's words if it is wanted, and the socket's path if it is not the usual one."""
    program(home, "msmtp", "")
    program(home, "mutt", "")
    monkeypatch.setattr(mail_programs, "TOOLS", [each for each in _TOOLS if each.name in ("msmtp", "mutt")])
    monkeypatch.setenv("CMS_SOCK", "/elsewhere/cms.sock")
    person = Person(agreed=("settings for mutt",))

    begin(wishes(home, offline=True), person, around())

    assert "Mail programs here: msmtp, mutt." in person.said
    assert f'set from = "{USER}"' in person.said
    assert "passwordeval" not in person.said
    assert f"set CMS_SOCK={home}/run/cms/cms.sock" in person.said


def test_without_a_terminal_a_running_daemon_needs_no_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that are left do not name `cms run`."""
    assert 0 == begin(wishes(home, offline=True), Person(there=False), around())
    monkeypatch.setattr(wizard, "_runs", lambda *_: "")
    person = Person(there=False)
    assert 0 == begin(wishes(home, offline=True), person, around())

    assert "cms run" not in person.said
    assert person.said.endswith("    cms login\n    cms status")


def test_what_is_written(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --write: a file for each program that is wanted; nothing is shown, and the next step comes last."""
    program(home, "msmtp", "")
    program(home, "mutt", "")
    monkeypatch.setattr(mail_programs, "TOOLS", [each for each in _TOOLS if each.name in ("msmtp", "mutt")])
    person, folder = Person(agreed=("Write the settings for mutt",)), home / "new" / "settings"

    begin(wishes(home, offline=True, write=str(folder)), person, around())

    assert ["muttrc"] == [each.name for each in folder.iterdir()]
    assert f'set from = "{USER}"' in (folder / "muttrc").read_text()
    assert f"Wrote {folder}/muttrc: mutt, for ~/.muttrc; " in capsys.readouterr().out
    assert USER not in person.heard[-1]
    assert person.said.endswith("    cms run\n    cms login\n    cms status")


def test_what_the_machines_mail_server_needs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --system: exim's lines, for the login that became root, and none of what a user's programs need."""
    monkeypatch.setenv("SUDO_USER", "daemon")
    monkeypatch.setattr(
        mail_programs, "TOOLS", [replace(each, programs=()) for each in _TOOLS if each.name in ("exim", "msmtp")]
    )
    person = Person(agreed=("Show the settings",))

    assert 0 == begin(Wishes(str(home / "etc" / "cms" / "cms.cfg"), USER, unit=False), person, around())

    assert "Mail programs here: exim." in person.said
    assert f"  daemon = {USER} \\\n  root  = {USER}\n" in person.said
    assert 'users=["Debian-exim"])' in person.said


_TOOLS = mail_programs.TOOLS


def test_a_mail_server_that_refuses_is_shown(home: Path) -> None:
    """With all that the test says; one that is not named is not tried."""
    write(home / "my.cfg", text_of(wishes(home), Tenant(), ""))
    account, person = load(str(home / "my.cfg")).accounts[0], Person()

    assert not wizard._test(person, account, paths.default_socket(), "smtp", "localhost:1")
    assert "SMTP: the test of localhost:1 failed:" in person.said
    mine = wishes(home, try_smtp="localhost:1")
    assert [("smtp", "localhost:1"), ("imap", account.imap_host)] == wizard._tests_of(mine, account)


def test_a_mail_server_that_hangs_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cms-oauth has its own deadline; this one is behind it."""

    def hang(*arguments: Any, **_: Any) -> None:
        raise subprocess.TimeoutExpired(arguments[0], 1.0)

    write(home / "my.cfg", text_of(wishes(home), Tenant(), ""))
    person = Person()
    monkeypatch.setattr(subprocess, "run", hang)

    assert not wizard._test(person, load(str(home / "my.cfg")).accounts[0], paths.default_socket(), "imap", "localhost")
    assert "did not answer in time" in person.said
    assert f"`cms-oauth --user={USER} --test-imap=localhost`" in person.said


def test_what_is_left_to_do() -> None:
    """Each step takes its own command away."""
    steps = steps_for(Wishes("/x", USER))
    steps.done("login")
    steps.done("login")
    assert {"run": ["cms run -c /x"], "test": ["cms status"]} == steps.left
    assert "(`cms run` in its own terminal)" in steps.said
    for name in ("run", "test"):
        steps.done(name)
    assert "All is set up" in steps.said


# --- the command line ---


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `home`, with the programs and the keyring of this machine."""
    return empty_folders(tmp_path, monkeypatch)


def test_init_writes_a_configuration_that_is_good(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for its owner alone, loads as it is, and the next two commands are said."""
    assert 0 == main.main(["init", "--offline", "--user", "a@example.test"])
    out = capsys.readouterr().out
    path = own_home / "config" / "cms" / "cms.cfg"

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert "    cms run\n" in out
    assert "    cms login\n" in out
    assert 0 == main.main(["check"])
    assert "account a@example.test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [("a@example.test\n", 0, "cms login"), ("", os.EX_USAGE, "no mail address\n`cms init --user=ADDRESS`")],
)
def test_init_takes_the_address_from_a_pipe(
    own_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    typed: str,
    code: int,
    said: str,
) -> None:
    """If the pipe is empty, init says how to name the address; it does not say that the person gave up."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))

    assert code == main.main(["init", "--offline"])
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert (code == 0) == (own_home / "config" / "cms" / "cms.cfg").exists()


def test_init_elsewhere_names_the_file_in_the_next_command(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-c has to be given again."""
    path = own_home / "my.cfg"

    assert 0 == main.main(["init", "--offline", "-c", str(path), "--user", "a@example.test"])
    assert f"cms run -c {path}" in capsys.readouterr().out


def test_init_never_touches_what_exists(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration is a person's work: init says what is left to do, and for another account what the file lacks."""
    configured = good_configuration(own_home)
    before = configured.read_text()

    assert 0 == main.main(["init", "--offline", "--user", "a@example.test"])
    assert "cms.cfg already exists and is not changed. Going on with" in (out := capsys.readouterr().out)
    assert "    cms run\n    cms login\n    cms status" in out
    assert 1 == main.main(["init", "--offline", "--user", "b@example.test"])
    assert before == configured.read_text()
    assert "It lacks the account b@example.test" in capsys.readouterr().err


@pytest.mark.parametrize("user", ["nobody", "a b@example.test", "a@example.test\n", '"@x', "@x", "a@b@c", "<>", "*@c"])
def test_init_takes_only_an_address(own_home: Path, user: str) -> None:
    """What is no address is refused, and nothing is written."""
    assert os.EX_USAGE == main.main(["init", "--offline", "--user", user])
    assert [] == list(own_home.iterdir())


@pytest.mark.parametrize(
    ("pasted", "user"),
    [
        ("o'connor@domain.com", "o'connor@domain.com"),
        (" <d'arc#1@domain.com> ", "d'arc#1@domain.com"),
        ("'User Name' <r&d@domain.com>", "r&d@domain.com"),
        ('"\'t.hooft@domain.com"', "'t.hooft@domain.com"),
    ],
)
@pytest.mark.parametrize("prompted", [True, False])
def test_init_takes_every_address(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, *, pasted: str, user: str, prompted: bool
) -> None:
    """That Entra takes, as it was pasted: at the prompt as in the option, and the file that it writes loads."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{pasted}\n" if prompted else ""))

    assert 0 == main.main(["init", "--offline", *([] if prompted else ["--user", pasted])])
    assert [user] == [each.user for each in load(str(own_home / "config" / "cms" / "cms.cfg")).accounts]


def test_init_says_what_is_wrong_with_an_address(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it looks like one."""
    assert os.EX_USAGE == main.main(["init", "--offline", "--user", "*@example.test"])
    assert "*@example.test is not a mail address: it has a wildcard" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the machine refuses is one line."""
    (own_home / "config").write_text("a file")

    assert 1 == main.main(["init", "--offline", "--user", "a@example.test"])
    assert (
        f"cms: nothing was written, because of this:\n{own_home}/config is a file and no folder, for the configuration:"
        " change that, or name another file with -c\n" == capsys.readouterr().err
    )


def test_a_link_that_leads_nowhere_is_in_the_way(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not called a file: nobody would find one."""
    (own_home / "state").symlink_to(own_home / "gone")

    assert 1 == main.main(["init", "--offline", "--user", "a@example.test"])
    assert f"{own_home}/state is a link that leads nowhere and no folder, for sign-ins: " in capsys.readouterr().err


def test_all_that_is_in_the_way_is_said_at_once(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a person has answered anything: folders that others can write, that are files, that have no room."""
    for folder in (own_home / "config", own_home / "config" / "cms"):
        folder.mkdir()
        folder.chmod(0o777)
    (own_home / "state").write_text("a file")
    long = f"{own_home}/{'r' * 100}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", long)

    assert 1 == main.main(["init", "--offline", "--ca", "/none.pem"])
    cms = own_home / "config" / "cms"
    fixed = f"`chmod go-w {cms} {own_home}/config`"
    assert [
        "cms: nothing was written, because of this:",
        f"the folder {cms} and the folder {own_home}/config can be written by other users, and a configuration is a program: {fixed}",
        f"path= is longer than the 107 bytes that a socket may have. It is {long}/cms/cms.sock: set XDG_RUNTIME_DIR to a shorter one",
        f"{own_home}/state is a file and no folder, for sign-ins: change that, or set XDG_STATE_HOME to another folder",
        "--ca cannot be read: /none.pem: No such file or directory",
    ] == capsys.readouterr().err.splitlines()


def test_a_state_folder_of_another_users(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sudo cms init` with a user's environment: the user's own command is named."""
    require_root()
    (own_home / "state" / "cms").mkdir(parents=True)
    os.chown(own_home / "state" / "cms", ALICE, ALICE)

    assert 1 == main.main(["init", "--offline", "--user", "a@example.test"])
    assert (
        f"{own_home}/state/cms, for sign-ins, belongs to #{ALICE}: `sudo -u '#{ALICE}' cms init`"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("umask", [0o002, 0o000, 0o077])
@pytest.mark.parametrize("system", [[], ["--system"]])
def test_what_init_makes_is_what_check_takes(own_home: Path, umask: int, system: list[str]) -> None:
    """Whatever the umask: the folders that init makes can be written by nobody else, and the service can read its own."""
    before = os.umask(umask)
    try:
        assert 0 == main.main(["init", "--offline", "--user", "a@example.test", *system])
    finally:
        os.umask(before)
    made = own_home / ("etc" if system else "config/cms") / "cms.cfg"

    assert load(str(made), system=replace(SYSTEM, is_alone_in=lambda _gid, _uid: False)).accounts
    assert ((0o644, 0o755) if system else (0o600, 0o700)) == tuple(
        stat.S_IMODE(each.stat().st_mode) for each in (made, made.parent)
    )
    assert 0o700 == stat.S_IMODE(made.parent.parent.stat().st_mode) or system


@pytest.mark.parametrize("words", [["init", "--system", "-c", "my.cfg"], ["-c", "my.cfg", "init", "--system"]])
def test_the_systems_file_has_its_name(own_home: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """--system and -c are two files: neither is written."""
    assert 2 == main.main([*words, "--user=a@example.test", "--offline"])

    assert "--system names the file already: leave -c out." in capsys.readouterr().err
