"""docs/clients/exim.md, done as it says: what it shows works, and what it explains is what is said."""

from __future__ import annotations

import grp
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import evidence
from support.contrib import ROOT, exim_conf, replaced
from support.daemon import Daemon, daemons
from support.fragments import explains, page, shown
from support.machine import EXIM_USER, Machine
from support.programs import require_program
from support.reachable import ALICE, BOB, CAROL, Installation, bare_environment, open_folder
from support.servers import MailServers
from support.waiting import until

from cms.sandbox.directory import CLIENT_ID

USER = "user@domain.com"
COLLEAGUE = "bob@domain.com"

# The user that systemd/system/cms.service runs as.
CMS = 64010
# What exim logs when cms answers nothing.
SILENCE = "authentication required but authentication attempt(s) failed"
# sysexits: cms cannot make its socket.
EX_CANTCREAT = 73


@dataclass
class Reader:
    """What the page's reader has at its end."""

    machine: Machine
    broker: Daemon
    servers: MailServers

    @property
    def socket(self) -> Path:
        return self.broker.sockets / "exim.sock"

    def use(self, **macros: str) -> None:
        """Install contrib/exim4.conf with its own table, for the test's server."""
        usual = {
            "SOCKET": str(self.socket),
            "SMARTHOST": "localhost",
            "PORT": str(self.servers.submission),
            "AUTHORITIES": self.servers.ca_file,
        }
        self.machine.configure(exim_conf(**(usual | macros)))

    def serve(self, credential_server: str = "") -> None:
        """Write the page's configuration, with another CredentialServer where one is given."""
        text = shown("exim", "configuration")
        if credential_server:
            text = text[: text.index("CredentialServer(")] + credential_server
        sandbox = f'authority="{self.servers.entra.authority}", client_id="{CLIENT_ID}"'
        words = {
            "/var/lib/cms/vault.key": str(self.broker.key),
            "/run/cms": str(self.broker.sockets),
            '@domain.com")': f'@domain.com", {sandbox}, redirect_uri="http://localhost/")',
        }
        self.broker.configure(f'Tls(ca="{self.servers.entra.ca_file}")\n{replaced(text, **words)}')

    def ask(self) -> subprocess.CompletedProcess[str]:
        """Run the page's first test."""
        as_exim = f"setpriv --reuid={EXIM_USER} --regid={EXIM_USER} --init-groups"
        words = {
            "sudo -u Debian-exim": f"{as_exim} env SSL_CERT_FILE={self.servers.ca_file}",
            "cms-oauth": self.broker.installation.command("cms-oauth"),
            "/run/cms/exim.sock": str(self.socket),
            "smtp.office365.com": f"localhost:{self.servers.submission}",
        }
        done = self.machine.run("sh", "-c", replaced(shown("exim", "token"), **words))
        evidence.keep("output", done.stderr)
        return done

    def send(self, sender: str = USER, login: str = "alice") -> subprocess.CompletedProcess[str]:
        """Run the page's second test, to its end, as a login."""
        words = {f"-f {USER}": f"-odf -f {sender}", f"From: {USER}": f"From: {sender}"}
        done = self.machine.run("sh", "-c", replaced(shown("exim", "message"), **words), login=login)
        evidence.keep("output", done.stdout + done.stderr)
        return done

    def refused(self, sender: str = USER) -> str:
        """Send something that has to wait; return what exim logs about it, and remove it."""
        before = len(self.machine.log())
        self.send(sender)
        said = self.machine.log()[before:]
        (waiting,) = self.machine.queue
        self.machine.run(self.machine.exim, "-Mrm", waiting)
        # exim forgets the failure, so that it does not avoid the server in the next test.
        for hint in (self.machine.folder / "spool" / "db").glob("retry*"):
            hint.unlink()
        return said


@contextmanager
def reader(make: Callable[..., Daemon], servers: MailServers, groups: Sequence[int]) -> Iterator[Reader]:
    """Follow the page up to the configuration of cms."""
    for user in (USER, "shared@domain.com", COLLEAGUE):
        servers.add_user(user)
    with open_folder("exim-page") as folder:
        machine = Machine(folder, {"alice": ALICE, "bob": BOB, "carol": CAROL})
        done = Reader(machine, make(CMS, groups), servers)
        done.use()
        yield done


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Reader]:
    """A person who has followed the whole page: the drop-in made cms a member of exim's group."""
    groups = [grp.getgrnam(EXIM_USER).gr_gid]
    with daemons(installation) as make, reader(make, servers, groups) as owner:
        owner.serve()
        owner.broker.start()
        for user in (USER, COLLEAGUE):
            owner.broker.sign_in(user, servers.entra)
        yield owner


@pytest.fixture
def stranger(make_daemon: Callable[..., Daemon], servers: MailServers) -> Iterator[Reader]:
    """A person whose cms is in none of exim's groups and has not been started."""
    with reader(make_daemon, servers, []) as owner:
        yield owner


def test_exims_user_gets_a_token(signed_in: Reader) -> None:
    """The page's first test passes."""
    done = signed_in.ask()

    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert "reply: retcode (235); " in done.stderr.splitlines()[-1]


def test_a_message_is_sent(signed_in: Reader) -> None:
    """The page's second test ends as it says, and shows no credential."""
    done = signed_in.send()

    *_, sent, _, completed = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    identity = re.search(r"OK id=([\w-]+)", sent)
    assert 0 == done.returncode
    assert identity
    assert "A=cms_xoauth2" in sent
    assert "Completed" == completed.strip()
    assert "SMTP>> ****" in done.stdout + done.stderr
    assert "hello" in signed_in.servers.wait_for_mail(USER, f"id {identity[1]}")


@pytest.mark.parametrize("name", ["users", "groups"])
def test_other_sockets_need_no_membership(stranger: Reader, name: str) -> None:
    """With `users=` or `groups=` exim gets its token from a cms that is in no group of exim's; a login gets none."""
    stranger.serve(shown("exim", "users") if name == "users" else shown("exim", "groups"))
    stranger.broker.start()
    stranger.broker.sign_in(USER, stranger.servers.entra)

    sent = stranger.send()
    refused = stranger.broker.token(stranger.socket, USER, uid=BOB)

    assert "A=cms_xoauth2" in stranger.machine.log(), sent.stderr
    assert (77, "") == (refused.returncode, refused.stdout)


def test_the_drop_in_is_one(tmp_path: Path, installation: Installation) -> None:
    """systemd has nothing to say about the service with the page's drop-in, and would of one with a fault."""
    unit = tmp_path / "cms.service"
    text = (ROOT / "systemd" / "system" / "cms.service").read_text()
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={installation.command('cms')}", text))
    drop_in = tmp_path / "cms.service.d" / "exim.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(shown("exim", "drop-in"))
    verified = verify(unit)
    drop_in.write_text(replaced(shown("exim", "drop-in"), SupplementaryGroups="SupplementaryGroup"))
    with_fault = verify(unit)

    assert (0, "", "") == (verified.returncode, verified.stdout, verified.stderr)
    assert "SupplementaryGroup" in with_fault.stderr


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    """Have systemd check a unit, with the drop-ins beside it."""
    command = [require_program("systemd-analyze", "systemd"), "verify", "--man=no", "--system", str(unit)]
    environment = {**bare_environment(), "XDG_RUNTIME_DIR": str(unit.parent), "HOME": str(unit.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_cms_may_not_give_its_socket_away(stranger: Reader) -> None:
    """Without the drop-in cms says what is missing, and does not start."""
    stranger.serve()

    done = stranger.broker.cms("run", "-c", str(stranger.broker.config))

    assert EX_CANTCREAT == done.returncode
    assert re.search("may not give .+ to the group Debian-exim: make it a member", done.stderr)
    assert "`may not give … to the group Debian-exim: make it a member`" in page("exim")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGTERM, "No such file or directory"), (signal.SIGKILL, "Connection refused")],
)
def test_no_daemon(signed_in: Reader, number: int, reason: str) -> None:
    """A daemon that has been stopped, or killed."""
    signed_in.broker.stop(number)
    said = signed_in.refused()
    asked = signed_in.ask()
    signed_in.broker.resume(signed_in.socket, USER)

    assert f"failed to connect to socket {signed_in.socket}: {reason}" in said
    assert "`failed to connect to socket …: No such file or directory`, or `Connection refused`" in page("exim")
    assert explains("exim", asked.stderr)


def test_another_group(stranger: Reader) -> None:
    """A socket that exim's group does not open."""
    stranger.serve(replaced(shown("exim", "users"), **{'users=["Debian-exim"]': "mode=0o660"}))
    stranger.broker.start()

    said = stranger.refused()

    assert f"failed to connect to socket {stranger.socket}: Permission denied" in said
    assert "`failed to connect to socket …: Permission denied`" in page("exim")


def test_another_user(stranger: Reader) -> None:
    """The socket serves another user."""
    stranger.serve(replaced(shown("exim", "users"), **{'"Debian-exim"': '"root"'}))
    stranger.broker.start()

    assert_silence(stranger, stranger.refused(), "denied")


def test_signed_out(signed_in: Reader) -> None:
    """cms has no token: exim sees silence, cms's log and the test say why."""
    signed_in.broker.cms("logout", "-c", str(signed_in.broker.config), USER)
    said = signed_in.refused()
    asked = signed_in.ask()
    signed_in.broker.sign_in(USER, signed_in.servers.entra)

    assert_silence(signed_in, said, "sign-in-required")
    assert "(sign-in-required)" in asked.stderr
    assert explains("exim", asked.stderr)


def test_an_account_that_cms_does_not_know(signed_in: Reader) -> None:
    """A sender of exim's table that is not in cms's configuration."""
    signed_in.use(SENDERS="alice = other@domain.com")
    said = signed_in.refused("other@domain.com")
    signed_in.use()

    assert_silence(signed_in, said, "unknown-account")


def assert_silence(owner: Reader, said: str, outcome: str) -> None:
    """exim says that it got nothing, cms's log says why, and the page has both."""
    assert SILENCE in said
    # cms writes its log when the client has its answer already.
    until(lambda: f"outcome={outcome} " in owner.broker.log, "the refusal in the log")
    assert f"`{SILENCE}`" in page("exim")
    assert f"`outcome={outcome}`" in page("exim")


def test_a_refused_token(signed_in: Reader) -> None:
    """The server says no to a token of cms's: what it says is in the first test's output, not in exim's log.

    That test asks cms for another token, of which there are few.
    """
    signed_in.servers.entra.directory.revoke_access(USER)
    said = signed_in.refused()
    asked = signed_in.ask()
    signed_in.broker.cms("logout", "-c", str(signed_in.broker.config), USER)
    signed_in.broker.sign_in(USER, signed_in.servers.entra)

    assert "SMTP error from remote mail server after ****" in said
    assert "`SMTP error from remote mail server after ****…`" in page("exim")
    assert "535" in asked.stderr
    assert "asking cms for another one" in asked.stderr


@pytest.mark.parametrize(("login", "sender"), [("carol", USER), ("bob", USER)])
def test_a_login_that_the_table_does_not_let(signed_in: Reader, login: str, sender: str) -> None:
    """Without a line in it, or with another address."""
    before = len(signed_in.machine.log())
    done = signed_in.send(sender, login)

    assert 0 != done.returncode
    assert re.search(r"may not send .+: see the table in exim4\.conf", signed_in.machine.log()[before:])
    assert "`… may not send …: see the table in exim4.conf`" in page("exim")
