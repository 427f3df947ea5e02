"""contrib/exim4.conf in a real exim4, with tokens of a real cms, against real servers that check each token."""

from __future__ import annotations

import grp
import json
import pwd
import re
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

import pytest
from support import evidence, proc
from support.contrib import ODD, ROOT, adjusted, exim_conf, replaced
from support.daemon import Daemon, account_line, ask, daemons, settings_lines
from support.fragments import blocks, shown
from support.machine import EXIM_USER, Machine
from support.reachable import ALICE, BOB, CAROL, Installation, bare_environment, open_folder
from support.servers import MailServers
from support.waiting import PATIENCE, until

A = "user@domain.com"
SHARED = "shared@domain.com"
B = "bob@domain.com"
SENDERS = f"alice = {A}:{SHARED} bob = {B} root = {A}"

# exim's table has no quotes for a dollar sign.
APOSTROPHE = ODD.replace("$", "")

# The daemon's uid: neither exim's nor that of a person who sends mail.
CMS = 64010

# What the server says, and counts, when a credential is invalid.
REFUSED = "535 Incorrect authentication data"
# What it says of a sender without a login, and the sender's exim takes for a reason to bounce.
STRANGER = "not authenticated"

_numbers = count()


# What exim has to send when there is no token: it begins a login, and cancels it when the server asks for a credential.
CANCELLED = ["EHLO", "STARTTLS", "EHLO", "AUTH XOAUTH2", "*", "QUIT"]

# Debian starts exim by its init script, which leaves a daemon behind, or by its unit, whose command stays in the
# foreground (Debian 12 has none). Here each ends when its input does; $0 is /etc/default/exim4.
_UNIT = Path("/usr/lib/systemd/system/exim4.service")
_PREPARED = """
mount --bind "$0" /etc/default/exim4
mount -t tmpfs -o mode=0755 tmpfs /run
"""
_INIT_SCRIPT = f"""{_PREPARED}
/etc/init.d/exim4 start
read -r end || true
/etc/init.d/exim4 stop
"""
# systemd's $NAME is cut into words as the shell's.
_UNITS_COMMAND = f"""{_PREPARED}
eval "export $(sed -n s/^Environment=//p {_UNIT})"
. /etc/default/exim4
eval "$(sed -n s/^ExecStart=//p {_UNIT}) &"
read -r end || true
kill $!
"""
STARTS = {"init script": _INIT_SCRIPT} | ({"unit": _UNITS_COMMAND} if _UNIT.exists() else {})

# A command with another /etc/group, which is $0.
_WITH_GROUPS = ["sh", "-ec", 'mount --bind "$0" /etc/group; exec "$@"']


@dataclass
class System:
    """A machine with exim and cms as contrib/exim4.conf has them."""

    machine: Machine
    broker: Daemon
    servers: MailServers

    @property
    def socket(self) -> Path:
        return self.broker.sockets / "exim.sock"

    def configure(self, **macros: str) -> None:
        usual = {
            "SENDERS": SENDERS,
            "SOCKET": str(self.socket),
            "SMARTHOST": "localhost",
            "PORT": str(self.servers.submission),
            "AUTHORITIES": self.servers.ca_file,
        }
        self.machine.configure(exim_conf(**(usual | macros)))

    def processes_of_exim(self) -> set[int]:
        """The processes of exim's own uid that got a token, as cms's status has them."""
        exim = pwd.getpwnam(EXIM_USER).pw_uid
        requests = json.loads(self.broker.cms("status", "--json").stdout)["requests"]
        return {each["pid"] for each in requests if (each["uid"], each["outcome"]) == (exim, "granted")}

    def client(self, name: str) -> list[str]:
        """Return the command that asks one of the sockets for A's token."""
        command = self.broker.installation.command("cms-oauth")
        return [command, f"--user={A}", f"--cms_sock={self.broker.sockets / name}"]

    def send(self, login: str, to: str, *, header_from: str, sender: str = "") -> tuple[int, str]:
        """Return sendmail's exit status and the message's subject, which no other message has."""
        subject = f"message {next(_numbers)}."
        text = f"From: {header_from}\nTo: {to}\nSubject: {subject}\n\nhello\n"
        return self.machine.send(login, text, to, sender=sender).returncode, subject

    def has(self, user: str, subject: str) -> bool:
        return any(subject in message for message in self.servers.mail_of(user))

    def empty_queue(self) -> None:
        """Run the queue until nothing waits: a second must pass after a login that failed."""

        def tried() -> bool:
            self.machine.run_queue()
            return not self.machine.queue

        until(tried, "the queue to empty")

    @contextmanager
    def queue_runner(self, start: str = _INIT_SCRIPT, settings: str = "") -> Iterator[Callable[[], list[int]]]:
        """Have exim run its queue by itself, as the page says with a second in place of minutes, or with other settings.

        The block gets a function that returns exim's processes.
        """
        default = self.machine.folder / "default"
        default.write_text(settings or shown("exim", "queue").replace("2m", "1s"))
        command = self.machine.argv("sh", "-ec", start, str(default))
        with (
            (self.machine.folder / "runner.log").open("wb") as said,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=bare_environment()
            ) as script,
        ):
            try:
                yield lambda: [each for each in proc.beside(script.pid) if proc.name(each) == "exim4"]
            finally:
                script.communicate(timeout=PATIENCE)
        assert script.returncode == 0, Path(said.name).read_text()

    def tries(self, message: str) -> int:
        """Return how often exim has tried to send a message and has put it off."""
        return sum(f" {message} == " in line and "retry time" not in line for line in self.machine.log().splitlines())


def configuration(broker: Daemon, servers: MailServers) -> str:
    return (
        settings_lines(broker.home, servers.entra)
        + account_line("a", A, servers.entra)
        + account_line("shared", SHARED, servers.entra, f', sign_in_as="{A}"')
        + account_line("b", B, servers.entra)
        + account_line("odd", APOSTROPHE, servers.entra)
        + f'CredentialServer("{broker.sockets / "exim.sock"}", accounts=[a, shared, b, odd], users=["{EXIM_USER}"])\n'
        + f'CredentialServer("{broker.sockets / "group.sock"}", accounts=[a], group="{EXIM_USER}")\n'
        + f'CredentialServer("{broker.sockets / "groups.sock"}", accounts=[a], groups=["{EXIM_USER}"])\n'
        + f'CredentialServer("{broker.sockets / "own.sock"}", accounts=[a], mode=0o660)\n'
    )


@contextmanager
def stopped(system: System) -> Iterator[None]:
    """No daemon, and no socket."""
    system.broker.stop()
    try:
        yield
    finally:
        system.broker.start()


@contextmanager
def killed(system: System) -> Iterator[None]:
    """A socket whose daemon was killed."""
    system.broker.stop(signal.SIGKILL)
    try:
        yield
    finally:
        system.broker.start()


@contextmanager
def frozen(system: System) -> Iterator[None]:
    """A daemon that can be connected to and never answers: exim gives up after 5 s."""
    assert system.broker.process
    system.broker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        system.broker.process.send_signal(signal.SIGCONT)


@contextmanager
def signed_out(system: System) -> Iterator[None]:
    """A daemon that has no token, and so answers nothing and closes."""
    done = system.broker.cms("logout", "-c", str(system.broker.config), A)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        system.broker.sign_in(A, system.servers.entra)


Outage = Callable[[System], AbstractContextManager[None]]
OUTAGES: list[Outage] = [stopped, killed, frozen, signed_out]


@pytest.fixture(scope="module")
def system(installation: Installation, servers: MailServers) -> Iterator[System]:
    """Two people and a shared mailbox, signed in."""
    for user in (A, SHARED, B, APOSTROPHE):
        servers.add_user(user)
    with open_folder("exim") as folder, daemons(installation) as make:
        machine = Machine(folder, {"alice": ALICE, "bob": BOB, "carol": CAROL})
        broker = make(CMS, groups=[grp.getgrnam(EXIM_USER).gr_gid])
        broker.configure(configuration(broker, servers))
        broker.start()
        for user in (A, B, APOSTROPHE):
            broker.sign_in(user, servers.entra)
        yield System(machine, broker, servers)
        for name in ("main", "reject", "panic"):
            evidence.keep("exim", machine.log(name))


@pytest.fixture(autouse=True)
def usual(system: System) -> None:
    """Every test begins with the usual configuration and an empty queue."""
    system.configure()
    # The server may deliver a message before exim has taken note.
    until(lambda: not system.machine.queue, "an empty queue")


def test_an_address_with_signs_of_exims_own(system: System) -> None:
    """As `cms init` writes it into the table: chosen by the login, and named by the sender."""
    system.configure(SENDERS=adjusted("exim", "alice", APOSTROPHE)["SENDERS"])
    _, own = system.send("alice", B, header_from=APOSTROPHE)
    _, named = system.send("alice", B, header_from=APOSTROPHE, sender=APOSTROPHE)

    for subject in (own, named):
        assert f"Return-path: <{APOSTROPHE}>" in system.servers.wait_for_mail(B, subject)
    assert 2 == system.servers.log().count(f"A=xoauth2:{APOSTROPHE}")


def test_each_account_sends_its_own_mail(system: System) -> None:
    """The envelope sender chooses the account: each message goes out under that sender's login."""
    _, first = system.send("alice", B, header_from=A, sender=A)
    _, second = system.send("bob", A, header_from=B, sender=B)

    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, first)
    assert f"Return-path: <{B}>" in system.servers.wait_for_mail(A, second)
    assert f"A=xoauth2:{A}" in system.servers.log()
    assert f"A=xoauth2:{B}" in system.servers.log()


def test_one_login_sends_through_several_accounts(system: System) -> None:
    """The sender alone chooses: one login's messages go out under the account that each names."""
    system.configure(SENDERS=f"alice = {A}:{B}")

    _, first = system.send("alice", B, header_from=A, sender=A)
    _, second = system.send("alice", A, header_from=B, sender=B)

    # The server takes mail only from the sender's login.
    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, first)
    assert f"Return-path: <{B}>" in system.servers.wait_for_mail(A, second)


def test_an_address_goes_out_with_anothers_login(system: System) -> None:
    """As docs/shared-mailboxes.md says: mail and bounces go out with the other account's login; the sender stays."""
    page = (ROOT / "docs" / "shared-mailboxes.md").read_text()
    (line,) = (each.text for each in blocks(page) if each.mark == "test: exim")
    macro, _, value = replaced(line, **{"sales@domain.com": SHARED, "me@domain.com": A}).strip().partition(" = ")
    here = system.machine.run(system.machine.exim, "-bP", "primary_hostname").stdout.split()[-1]
    system.configure(**{macro: value})
    with system.servers.sending_as(A, SHARED):
        _, shared = system.send("alice", B, header_from=SHARED, sender=SHARED)
        _, own = system.send("alice", B, header_from=A, sender=A)
        _, others = system.send("bob", A, header_from=B, sender=B)
        _, returned = system.send("alice", f"somebody@{here}", header_from=SHARED, sender=SHARED)
        until(lambda: not system.machine.queue, "the queue to empty")
    senders = [
        system.servers.wait_for_mail(reader, subject).splitlines()[0]
        for reader, subject in ((B, shared), (B, own), (A, others), (SHARED, returned))
    ]
    logins = re.findall(r"<= (\S+) .* A=xoauth2:(\S+)", system.servers.log())[-4:]

    assert [f"Return-path: <{each}>" for each in (SHARED, A, B, SHARED)] == senders
    assert [(SHARED, A), (A, A), (B, B), (SHARED, A)] == logins


def test_with_two_providers_the_sender_chooses_the_server(system: System) -> None:
    """The page's line, with addresses in place of the servers: exim says which one it would connect to."""
    servers = {"smtp.gmail.com": "127.0.0.2", "smtp.office365.com": "127.0.0.3"}
    line = replaced(shown("exim", "two-providers"), **servers)
    system.configure(SMARTHOST=line.strip().removeprefix("SMARTHOST = "))

    for sender, server in (("ann@gmail.com", "127.0.0.2"), (A, "127.0.0.3"), ("", "127.0.0.3")):
        routed = system.machine.run(system.machine.exim, "-f", sender or "<>", "-bt", "reader@domain.com").stdout
        assert f"[{server}]" in routed


def test_a_login_needs_no_sender(system: System) -> None:
    """Without -f a login sends as its first address, so that plain `sendmail` and `mail` work."""
    _, subject = system.send("alice", B, header_from=A)

    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, subject)


def test_only_exim_gets_the_token(system: System) -> None:
    """exim asks under its uid. A user who asks directly is refused, so exim's table cannot be bypassed."""
    refused = system.broker.token(system.socket, A, uid=BOB)
    answered = ask(system.socket, f"SMTP {A}".encode())  # root may

    assert (77, "") == (refused.returncode, refused.stdout)
    assert answered.startswith(f"user={A}\x01auth=Bearer ".encode())


@pytest.mark.parametrize("name", ["group.sock", "groups.sock"])
def test_exims_primary_group_opens_a_socket(system: System, name: str) -> None:
    """A socket of, or for, the group Debian-exim serves exim's own uid, which has no other group; and no other user."""
    system.configure(SOCKET=str(system.broker.sockets / name))
    before = system.processes_of_exim()

    _, subject = system.send("alice", B, header_from=A, sender=A)
    refused = system.machine.run(*system.client(name), login="bob")

    assert system.servers.wait_for_mail(B, subject)
    assert system.processes_of_exim() - before
    assert (77, "") == (refused.returncode, refused.stdout)


def test_a_supplementary_group_opens_no_socket(system: System) -> None:
    """exim drops them: as a member of the socket's group it is let in, and not as the exim that sends. Mail waits."""
    system.configure(SOCKET=str(system.broker.sockets / "own.sock"))
    groups = system.machine.folder / "group"
    groups.write_text(f"{Path('/etc/group').read_text()}cms-own:x:{CMS}:{EXIM_USER}\n")
    member = ["setpriv", f"--reuid={EXIM_USER}", f"--regid={EXIM_USER}", "--init-groups"]
    text = f"From: {A}\nTo: {B}\nSubject: of another group.\n\nhello\n"

    answered = system.machine.run(*_WITH_GROUPS, str(groups), *member, *system.client("own.sock"))
    system.machine.run(*_WITH_GROUPS, str(groups), "/usr/sbin/sendmail", "-i", "-odf", B, stdin=text)
    waiting = system.machine.queue
    system.configure()
    system.empty_queue()

    assert (0, "") == (answered.returncode, answered.stderr)
    assert 1 == len(waiting)
    assert system.servers.wait_for_mail(B, "of another group.")


def test_b_cannot_send_as_a(system: System) -> None:
    """A login that names another's address is refused and told; nothing goes out through the other's account."""
    before = system.servers.log().count(f"A=xoauth2:{A}")

    status, subject = system.send("bob", B, header_from=A, sender=A)

    assert 0 != status
    assert "bob may not send with this From" in system.servers.wait_for_mail(B, subject)
    assert not system.has(A, subject)
    assert before == system.servers.log().count(f"A=xoauth2:{A}")


def test_b_cannot_use_a_account_with_his_own_from(system: System) -> None:
    """An envelope sender that is not the login's own is not heard: the message goes out as the login itself."""
    before = system.servers.log().count(f"A=xoauth2:{A}")

    _, subject = system.send("bob", B, header_from=B, sender=A)

    assert f"Return-path: <{B}>" in system.servers.wait_for_mail(B, subject)
    assert before == system.servers.log().count(f"A=xoauth2:{A}")


@pytest.mark.parametrize(("login", "answer"), [("bob", "550 bob may not send"), ("alice", "250 OK id=")])
def test_the_table_holds_for_smtp_on_standard_input(system: System, login: str, answer: str) -> None:
    """`sendmail -bs` is under the same rules: A's address is refused to B and taken from A."""
    dialogue = f"EHLO x\r\nMAIL FROM:<{A}>\r\nRCPT TO:<{B}>\r\nDATA\r\nFrom: {A}\r\n\r\nhello\r\n.\r\nQUIT\r\n"

    said = system.machine.run("/usr/sbin/sendmail", "-bs", login=login, stdin=dialogue).stdout

    assert answer in said
    until(lambda: not system.machine.queue, "delivery")


def test_a_login_without_a_line_may_not_send(system: System) -> None:
    """Who is not in the table is refused, whatever sender is named."""
    status, subject = system.send("carol", B, header_from=A, sender=A)

    assert 0 != status
    assert "carol may not send" in system.machine.log()
    assert not system.has(B, subject)


def test_nothing_is_taken_from_the_network(system: System) -> None:
    """Not even from this machine: a TCP connection has no login."""
    dialogue = f"EHLO x\r\nMAIL FROM:<{A}>\r\nRCPT TO:<{B}>\r\nQUIT\r\n"

    said = system.machine.run(system.machine.exim, "-bh", "127.0.0.1", stdin=dialogue).stdout

    assert "550 mail is accepted from programs of this machine only" in said


def test_a_bounce_comes_back_through_the_account(system: System) -> None:
    """A bounce has an empty sender: exim sends it as the account that it returns to."""
    _, subject = system.send("alice", "nobody@domain.com", header_from=A, sender=A)

    bounce = system.servers.wait_for_mail(A, subject)
    assert f"Return-path: <{A}>" in bounce
    assert "5.1.10 Recipient not found" in bounce


def test_a_bounce_waits_for_its_token(system: System) -> None:
    """A bounce that arises while there is no token stays in the queue, too, and comes back when there is one."""
    here = system.machine.run(system.machine.exim, "-bP", "primary_hostname").stdout.split()[-1]
    with stopped(system):
        _, subject = system.send("alice", f"somebody@{here}", header_from=A, sender=A)
        bounces = until(lambda: re.findall(r"(\S+) <= <>", system.machine.log()), "the bounce")
        until(lambda: system.tries(bounces[-1]), "a try to send it")
        waiting = system.machine.queue
    system.empty_queue()

    bounce = system.servers.wait_for_mail(A, subject)
    assert [bounces[-1]] == waiting
    assert f"Return-path: <{A}>" in bounce
    assert "there are no mailboxes on this machine" in bounce


def test_only_exim_has_no_sender(system: System) -> None:
    """A user who names the empty sender is refused: the mail would go out through the recipient's account."""
    status, subject = system.send("bob", A, header_from=B, sender="<>")

    assert 0 != status
    assert "bob may not send as <>" in system.machine.log()
    assert not system.has(A, subject)


@pytest.mark.parametrize("outage", OUTAGES)
def test_mail_goes_out_by_itself_when_cms_is_back(system: System, outage: Outage) -> None:
    """Without a token exim keeps a message through every retry and never bounces it. Once cms is back, it goes out."""
    before = [system.servers.log().count(words) for words in (REFUSED, STRANGER)]
    with system.queue_runner():
        with outage(system):
            status, subject = system.send("alice", B, header_from=A, sender=A)
            (waiting,) = system.machine.queue
            until(lambda: system.tries(waiting) > 1, "the queue runner's try")
        message = system.servers.wait_for_mail(B, subject)
        # The server may deliver it before exim has taken note.
        until(lambda: not system.machine.queue, "the queue to empty")

    assert 0 == status
    assert f"Return-path: <{A}>" in message
    assert [] == system.machine.queue
    assert f" {waiting} ** " not in system.machine.log()
    assert before == [system.servers.log().count(words) for words in (REFUSED, STRANGER)]


@pytest.mark.parametrize("start", STARTS)
def test_exim_runs_its_queue_and_listens_nowhere(system: System, start: str) -> None:
    """However Debian starts it: what waits goes out by itself, and no port is open, not even port 25."""
    with stopped(system):
        _, subject = system.send("alice", B, header_from=A, sender=A)
    with system.queue_runner(STARTS[start]) as processes:
        system.servers.wait_for_mail(B, subject)
        listening = {each: proc.listening(each) for each in processes()}

    assert listening
    assert [] == [end for ends in listening.values() for end in ends]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    "settings", ["# as installed", "QUEUERUNNER=combined", "QUEUERUNNER=separate", "QUEUERUNNER=no"]
)
def test_exim_listens_nowhere_with_other_settings(system: System, start: str, settings: str) -> None:
    """Who skips the page's section on the queue, or has settings of another release, opens no port either."""
    before = len(system.machine.log())
    with system.queue_runner(STARTS[start], settings) as processes:
        until(lambda: "daemon started" in system.machine.log()[before:], "exim's daemon")
        listening = {each: proc.listening(each) for each in processes()}

    assert listening
    assert [] == [end for ends in listening.values() for end in ends]


@pytest.mark.parametrize("outage", OUTAGES)
def test_without_a_token_the_login_is_cancelled(system: System, outage: Outage) -> None:
    """The server sees no credential, not even an empty one, no other way to log in, and no sender."""
    with Listener(server_tls(system.servers)) as server, outage(system):
        system.configure(PORT=str(server.port))
        _, subject = system.send("alice", B, header_from=A, sender=A)

    assert CANCELLED == server.heard
    system.configure()
    system.empty_queue()
    assert system.servers.wait_for_mail(B, subject)


def test_mail_of_an_account_that_is_signed_out_waits_alone(system: System) -> None:
    """An account without a token holds back only its own mail, until the person signs in again."""
    before = [system.servers.log().count(words) for words in (REFUSED, STRANGER)]
    system.broker.cms("logout", "-c", str(system.broker.config), B)
    _, waits = system.send("bob", A, header_from=B, sender=B)
    queued = system.machine.queue
    until(lambda: system.has(B, system.send("alice", B, header_from=A, sender=A)[1]), "alice's mail to go out")
    said = system.machine.log()
    system.broker.sign_in(B, system.servers.entra)
    system.empty_queue()

    assert 1 == len(queued)
    assert system.servers.wait_for_mail(A, waits)
    assert "authentication required but authentication attempt(s) failed" in said
    assert before == [system.servers.log().count(words) for words in (REFUSED, STRANGER)]


def test_a_queue_of_several_accounts_goes_out_in_one_run(system: System) -> None:
    """Messages that waited together are not sent over one login: the server would refuse the second sender."""
    system.broker.stop()
    _, first = system.send("alice", B, header_from=A, sender=A)
    _, second = system.send("bob", A, header_from=B, sender=B)
    _, third = system.send("alice", B, header_from=A, sender=A)
    assert 3 == len(system.machine.queue)
    system.broker.start()
    system.empty_queue()

    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, first)
    assert f"Return-path: <{B}>" in system.servers.wait_for_mail(A, second)
    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, third)
    assert "5.7.60" not in system.servers.log()


def test_an_unknown_authority_gets_no_login(system: System) -> None:
    """A server whose certificate comes from an unknown CA gets no token; the message waits."""
    system.configure(AUTHORITIES=system.servers.entra.ca_file)
    before = system.servers.log().count("A=xoauth2")

    _, subject = system.send("alice", B, header_from=A, sender=A)

    assert 1 == len(system.machine.queue)
    assert "certificate verification failed" in system.machine.log()
    assert before == system.servers.log().count("A=xoauth2")
    system.configure()
    system.machine.run(system.machine.exim, "-qff")
    assert system.servers.wait_for_mail(B, subject)


def test_a_server_without_tls_gets_nothing(system: System) -> None:
    """Where STARTTLS has been stripped neither a login nor a sender is sent; the message waits."""
    with Listener() as plain:
        system.configure(PORT=str(plain.port))
        _, subject = system.send("alice", B, header_from=A, sender=A)

    assert 1 == len(system.machine.queue)
    assert ["EHLO", "QUIT"] == plain.heard
    system.configure()
    system.machine.run(system.machine.exim, "-qff")
    assert system.servers.wait_for_mail(B, subject)


def server_tls(servers: MailServers) -> ssl.SSLContext:
    """Return what a server of the test's own needs to be taken for the real one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(servers.folder / "server.pem")
    return context


class Listener:
    """An SMTP server that offers logins, with STARTTLS or without, takes none, and remembers what it hears."""

    # More of a line than anything harmless has, and less than a credential.
    _SHOWN = 12

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.port = self._listener.getsockname()[1]
        self.heard: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        # A conversation is heard to its end.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220 listener ESMTP\r\n")
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        """Answer until the other side closes or wants TLS, and then within it."""
        with connection.makefile("r") as lines:
            for line in lines:
                command = line.split()[0].upper()
                self.heard.append(command if command == "EHLO" else line.strip()[: self._SHOWN])
                connection.sendall(self._answers(connection).get(command, "250 ok").encode() + b"\r\n")
                if command == "STARTTLS":
                    break
            else:
                return
        assert self._tls
        with self._tls.wrap_socket(connection, server_side=True) as secure:
            self._converse(secure)

    def _answers(self, connection: socket.socket) -> Mapping[str, str]:
        secure = isinstance(connection, ssl.SSLSocket)
        offer = "250-STARTTLS\r\n" if self._tls and not secure else ""
        return {
            "EHLO": f"250-listener\r\n{offer}250 AUTH PLAIN LOGIN XOAUTH2",
            "STARTTLS": "220 go ahead",
            "AUTH": "334 ",
            "*": "501 cancelled",
            "QUIT": "221 bye",
        }
