"""`cms doctor` where mail works and where it does not, with the real daemon and real mail servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.evidence import keep
from support.programs import require_program, require_root
from support.reachable import ALICE, Installation, become
from support.servers import MailServers
from support.waiting import until

USER = "user.of.mail@domain.com"
# A machine's name that only this test has. The socket is named after the machine, so that the name is in what is found.
HOST = "m7x-of-q8z"

# The command, with the ports of the test's mail servers, which no configuration can name, and with patience.
_COMMAND = """
import json, sys
from dataclasses import replace
from functools import partial
from cms import main
from cms.cli.commands import doctor
from cms.cli.doctor.examination import Limits
doctor.Examination = partial(doctor.Examination, limits=Limits(step=60.0, mail=60.0, check=60.0))
hosts, *arguments = sys.argv[1:]
def swap(accounts):
    return tuple(replace(each, **json.loads(hosts)) for each in accounts)
def load(path, real=doctor.load):
    found = real(path)
    sockets = tuple(replace(each, accounts=swap(each.accounts)) for each in found.sockets)
    return replace(found, accounts=swap(found.accounts), sockets=sockets)
doctor.load = load
sys.exit(main.main(["doctor", *arguments]))
"""

# Runs a command on a machine of this name.
_NAMED = 'hostname "$0" && exec "$@"'


class Patient:
    """A person with a daemon, and what the doctor tells them."""

    def __init__(self, daemon: Daemon, servers: MailServers) -> None:
        self.daemon = daemon
        self.servers = servers
        self.socket = daemon.sockets / f"{HOST}.sock"

    def configure(self, account: str = "") -> None:
        """Write a configuration whose mail servers are the test's."""
        self.daemon.configure(
            settings_lines(self.daemon.home, self.servers.entra)
            + account_line("account", USER, self.servers.entra, account)
            + f'CredentialServer("{self.socket}", [account], protocols=["SMTP", "IMAP", "POP"])\n'
            + 'Office365("INBOX", account)\n'
        )

    def doctor(self, *arguments: str, uid: int | None = None, host: str = "") -> subprocess.CompletedProcess[str]:
        """Run the doctor, as the owner or as another user, or as the owner on a machine of this name."""
        servers = self.servers
        ports = {"smtp_host": servers.submission, "imap_host": servers.imap, "pop_host": servers.pop}
        hosts = json.dumps({name: f"localhost:{port}" for name, port in ports.items()})
        python = str(self.daemon.installation.folder / "bin" / "python")
        words = [python, "-I", "-c", _COMMAND, hosts, "-c", str(self.daemon.config), *arguments]
        if host:
            unshare = require_program("unshare", "util-linux")
            uid, words = 0, [unshare, "--uts", "sh", "-c", _NAMED, host, *become(self.daemon.uid, words)]
        done = self.daemon.run(*words, uid=uid, SSL_CERT_FILE=servers.ca_file)
        keep("output", done.stdout)
        return done

    def findings(self, *arguments: str, uid: int | None = None) -> list[dict[str, Any]]:
        """Return what the doctor finds."""
        done = self.doctor("--json", *arguments, uid=uid)
        assert done.stdout, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
        return found


@contextmanager
def patient(installation: Installation, servers: MailServers, account: str = "") -> Iterator[Patient]:
    """A person who has signed in; `account` goes into the directive."""
    servers.add_user(USER)
    with daemons(installation) as make:
        owner = Patient(make(ALICE), servers)
        owner.configure(account=account)
        owner.daemon.start()
        owner.daemon.sign_in(USER, servers.entra)
        yield owner


@pytest.fixture(scope="module")
def healthy(installation: Installation, servers: MailServers) -> Iterator[Patient]:
    """A person whose mail works."""
    require_root()
    with patient(installation, servers) as owner:
        yield owner


def levels(findings: list[dict[str, Any]]) -> dict[str, str]:
    """Return the worst level of each check."""
    order = ("pass", "skip", "warn", "fail")
    worst: dict[str, str] = {}
    for each in findings:
        worst[each["check"]] = max(worst.get(each["check"], "pass"), each["level"], key=order.index)
    return worst


def test_everything_is_well(healthy: Patient) -> None:
    """Every check passes; mail tools are skipped, since none of them asks cms."""
    findings = healthy.findings()

    assert {
        **dict.fromkeys(("configuration", "python", "libraries", "clock", "dns", "tls", "proxy", "key"), "pass"),
        "environment": "pass",
        **dict.fromkeys(("state folder", "daemon", "socket", "sign-in", "token", "consent"), "pass"),
        **dict.fromkeys(("mail servers", "SMTP", "IMAP", "POP", "mailbox INBOX"), "pass"),
        "mail tools": "skip",
    } == levels(findings), [each for each in findings if each["level"] != "pass"]


def test_a_person_reads_lines(healthy: Patient) -> None:
    """In the checks' order, with a summary; nothing of a progress display where there is no terminal."""
    done = healthy.doctor(USER)
    checks = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("pass", "skip"))]

    assert (0, "") == (done.returncode, done.stderr)
    assert checks.index("configuration") < checks.index("clock") < checks.index("daemon") < checks.index("SMTP")
    assert done.stdout.splitlines()[-1].endswith("passed")
    assert "\x1b" not in done.stdout


def test_another_user_does_not_reach_the_socket(healthy: Patient) -> None:
    """As root the doctor connects as each user; only the owner reaches the owner's socket."""
    # Root runs no other user's configuration.
    copy = healthy.daemon.folder / "cms.cfg"
    shutil.copy(healthy.daemon.config, copy)
    findings = healthy.findings("--as", "nobody", "-c", str(copy), uid=0)
    found = [each for each in findings if each["check"] == "socket"]
    verdicts = [each["verdicts"][0]["name"] for each in found if each["level"] == "fail"]

    assert ["socket-mode"] == verdicts
    assert any(each["level"] == "pass" for each in found)


def test_root_asks_the_daemon_of_another_user(healthy: Patient) -> None:
    """Its configuration is not root's to run: the daemon knows its sockets, and a connection shows who may ask."""
    findings = healthy.findings("--as", "nobody", "--as", str(ALICE), "--as", "no-such-user", uid=0)
    found = [each for each in findings if each["check"] == "socket"]

    assert [("fail", "socket-mode"), ("pass", ""), ("fail", "no-user")] == [
        (each["level"], each["verdicts"][0]["name"] if each["verdicts"] else "") for each in found
    ]


def test_a_tool_that_asks_at_the_wrong_place(healthy: Patient) -> None:
    """Its line is named, with the sockets that there are."""
    file = healthy.daemon.home / ".msmtprc"
    asks = f"cms-oauth --user={USER} --cms_sock=/nowhere/cms.sock --output=token"
    file.write_text(f'host h\nuser {USER}\nauth xoauth2\npasswordeval "{asks}"\n')
    os.chown(file, ALICE, ALICE)
    try:
        (found,) = [each for each in healthy.findings() if each["check"] == "mail tools"]
    finally:
        file.unlink()

    assert ("fail", "tool-socket") == (found["level"], found["verdicts"][0]["name"])
    assert f"{file}:4" in found["message"]


def test_a_reload_makes_it_known(healthy: Patient) -> None:
    """A configuration that was written after the daemon has read it is warned about, until it has."""
    later = time.time() + 1
    os.utime(healthy.daemon.config, (later, later))
    before = levels(healthy.findings())["daemon"]
    os.utime(healthy.daemon.config)
    reloaded = healthy.daemon.cms("reload")
    after = levels(healthy.findings())["daemon"]

    assert ("warn", 0, "pass") == (before, reloaded.returncode, after)


def test_a_token_for_another_resource_is_not_served(installation: Installation, servers: MailServers) -> None:
    """The commonest mistake of all: the request is refused with a code, the status warns, and the doctor says why."""
    require_root()
    graph = ', scopes=["https://graph.microsoft.com/SMTP.Send"]'
    with patient(installation, servers, graph) as owner:
        asked = owner.daemon.token(owner.socket, USER)
        status = " ".join(owner.daemon.cms("status").stdout.split())
        found = [each for each in owner.findings() if each["check"] == "token"]

    assert (75, "") == (asked.returncode, asked.stdout)
    assert "the token is for Microsoft Graph, and SMTP needs one for Exchange Online" in asked.stderr
    assert "the token is for Microsoft Graph, and SMTP needs one for Exchange Online" in status
    assert {"sign-in-required"} == {each["verdicts"][0]["name"] for each in found}


def test_the_bundle_has_no_personal_data(healthy: Patient) -> None:
    """Of the person the bundle has only the domain; only the owner can read it, and it overwrites no file."""
    path = healthy.daemon.home / "report.json"
    first, second = (healthy.doctor("--bundle", str(path), host=HOST) for _ in range(2))
    text = path.read_text()
    # The run's search for secrets looks through what is kept.
    keep("output", text)
    local = USER.partition("@")[0]

    assert "Look through it before you send it" in first.stdout
    assert (0o600, ALICE) == (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid)
    assert "it already exists and was not changed" in second.stderr
    assert "@domain.com" in text
    assert re.search(r"/sockets/name-\d+\.sock", text)
    assert not [word for word in (local, str(healthy.daemon.home), HOST) if word in text]
    assert "findings" in json.loads(text)


def test_a_bundle_with_refusals_has_no_personal_data(make_daemon: Callable[..., Daemon], servers: MailServers) -> None:
    """A bundle with refusals and a mailbox's name in the configuration still contains no personal data."""
    user, mailbox = "q7@domain.com", "Scheidung Mueller"
    servers.add_user(user)
    owner = Patient(make_daemon(ALICE), servers)
    owner.daemon.configure(
        settings_lines(owner.daemon.home, servers.entra)
        + account_line("account", user, servers.entra)
        + f'CredentialServer("{owner.socket}", [account], protocols=["SMTP", "IMAP"])\n'
        + f'Office365("{mailbox}", account)\n'
    )
    owner.daemon.start()
    owner.daemon.sign_in(user, servers.entra)
    path = owner.daemon.home / "report.json"
    shown = owner.doctor("--bundle", str(path))
    servers.entra.revoke(user)
    owner.daemon.cms("refresh")
    until(lambda: "50173" in owner.daemon.cms("status", "--json").stdout, "the refusal")
    revoked = owner.daemon.home / "revoked.json"
    owner.doctor("--bundle", str(revoked))
    texts = [each.read_text() for each in (path, revoked)]

    assert mailbox in shown.stdout
    assert "mailbox-1" in texts[0]
    assert "50173" in texts[1]
    for text in texts:
        keep("output", text)
        assert not re.search(r"(?<![a-z0-9])q7(?![a-z0-9])", text, re.IGNORECASE)
        assert not [word for word in ("Scheidung", "Mueller", str(owner.daemon.home)) if word in text]


def test_without_a_daemon_it_says_what_to_do(make_daemon: Callable[..., Daemon], servers: MailServers) -> None:
    """Everything else is looked at; what needs a token is told as such."""
    owner = Patient(make_daemon(ALICE), servers)
    owner.configure()
    findings = owner.findings()
    found = levels(findings)

    assert ("fail", "fail", "fail", "pass", "pass") == tuple(
        found[check] for check in ("daemon", "socket", "token", "tls", "mail servers")
    )
    assert ("skip", "skip", "skip") == (found["SMTP"], found["IMAP"], found["POP"])
    assert "cms run" in json.dumps(findings)


def test_without_a_configuration_it_says_what_to_do(make_daemon: Callable[..., Daemon]) -> None:
    """And looks at nothing that only a configuration names: no server anywhere is asked."""
    daemon = make_daemon(ALICE)
    done = daemon.cms("doctor")

    assert 2 == done.returncode
    assert "`cms init`" in done.stdout
    assert "without a configuration there is no server to compare it with" in done.stdout


def test_a_faulty_configuration_is_named_by_its_line(make_daemon: Callable[..., Daemon]) -> None:
    """As `cms check` does."""
    daemon = make_daemon(ALICE)
    daemon.configure('account = Office365_Account(usr="a@example.test")\n')
    done = daemon.cms("doctor", "-c", str(daemon.config))

    assert 2 == done.returncode
    assert f"{daemon.config}:1" in done.stdout
    assert "usr" in done.stdout
