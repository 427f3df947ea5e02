"""contrib/exim4.conf in a real exim4, with tokens of a real cms, against real servers that check each token."""

from __future__ import annotations

import grp
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self, TextIO

import pytest
from support import evidence
from support.contrib import exim_conf
from support.daemon import Daemon, account_line, ask, daemons, settings_lines
from support.machine import EXIM_USER, Machine
from support.reachable import ALICE, BOB, CAROL, Installation, open_folder
from support.servers import MailServers
from support.waiting import until

A = "user@domain.com"
SHARED = "shared@domain.com"
B = "bob@domain.com"
SENDERS = f"alice = {A}:{SHARED} bob = {B} root = {A}"

# The broker's own uid: neither exim's nor that of anybody who sends.
CMS = 64010

# What the server says, and counts, of a credential that is none.
REFUSED = "535 Incorrect authentication data"

_numbers = count()


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


def configuration(broker: Daemon, servers: MailServers) -> str:
    return (
        settings_lines(broker.home, servers.entra)
        + account_line("a", A, servers.entra)
        + account_line("shared", SHARED, servers.entra, f', sign_in_as="{A}"')
        + account_line("b", B, servers.entra)
        + f'CredentialServer("{broker.sockets / "exim.sock"}", accounts=[a, shared, b], users=["{EXIM_USER}"])\n'
        + f'CredentialServer("{broker.sockets / "group.sock"}", accounts=[a], group="{EXIM_USER}")\n'
        + f'CredentialServer("{broker.sockets / "own.sock"}", accounts=[a], mode=0o660)\n'
    )


@pytest.fixture(scope="module")
def system(installation: Installation, servers: MailServers) -> Iterator[System]:
    """Two people and a shared mailbox, signed in."""
    for user in (A, SHARED, B):
        servers.add_user(user)
    with open_folder("exim") as folder, daemons(installation) as make:
        machine = Machine(folder, {"alice": ALICE, "bob": BOB, "carol": CAROL})
        broker = make(CMS, groups=[grp.getgrnam(EXIM_USER).gr_gid])
        broker.configure(configuration(broker, servers))
        broker.start()
        broker.sign_in(A, servers.entra)
        broker.sign_in(B, servers.entra)
        yield System(machine, broker, servers)
        for name in ("main", "reject", "panic"):
            evidence.keep("exim", machine.log(name))


@pytest.fixture(autouse=True)
def usual(system: System) -> None:
    """Every test begins with the usual configuration and an empty queue."""
    system.configure()
    assert [] == system.machine.queue


def test_each_account_sends_its_own_mail(system: System) -> None:
    """The envelope sender chooses the account: each message goes out under the login of its own sender."""
    _, first = system.send("alice", B, header_from=A, sender=A)
    _, second = system.send("bob", A, header_from=B, sender=B)

    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, first)
    assert f"Return-path: <{B}>" in system.servers.wait_for_mail(A, second)
    assert f"A=xoauth2:{A}" in system.servers.log()
    assert f"A=xoauth2:{B}" in system.servers.log()


def test_a_login_needs_no_sender(system: System) -> None:
    """Without -f a login sends as its first address, so that plain `sendmail` and `mail` work."""
    _, subject = system.send("alice", B, header_from=A)

    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, subject)


def test_nobody_but_exim_gets_the_token(system: System) -> None:
    """exim asks under its own uid; a login that asks itself is refused, so exim's table cannot be gone round."""
    refused = system.broker.token(system.socket, A, uid=BOB)
    answered = ask(system.socket, f"SMTP {A}".encode())  # root may

    assert (77, "") == (refused.returncode, refused.stdout)
    assert answered.startswith(f"user={A}\x01auth=Bearer ".encode())


def test_exims_primary_group_opens_a_socket(system: System) -> None:
    """A socket of the group Debian-exim serves exim, though exim drops all groups but its own."""
    system.configure(SOCKET=str(system.broker.sockets / "group.sock"))

    _, subject = system.send("alice", B, header_from=A, sender=A)

    assert system.servers.wait_for_mail(B, subject)


def test_a_socket_of_another_group_is_closed_to_exim(system: System) -> None:
    """The permissions of the socket are what lets exim in: where they do not, the message waits."""
    system.configure(SOCKET=str(system.broker.sockets / "own.sock"))

    _, subject = system.send("alice", B, header_from=A, sender=A)

    assert 1 == len(system.machine.queue)
    system.configure()
    system.empty_queue()
    assert system.servers.wait_for_mail(B, subject)


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
    """A bounce has no sender of its own: it is sent as the account that it goes back to."""
    _, subject = system.send("alice", "nobody@domain.com", header_from=A, sender=A)

    bounce = system.servers.wait_for_mail(A, subject)
    assert f"Return-path: <{A}>" in bounce
    assert "5.1.10 Recipient not found" in bounce


def test_mail_waits_while_the_broker_is_down(system: System) -> None:
    """No broker: no bounce, no login with nothing in it, no mail without a login. It goes out when cms is back."""
    before = system.servers.log().count(REFUSED)
    system.broker.stop()
    status, subject = system.send("alice", B, header_from=A, sender=A)
    waiting = system.machine.queue
    system.broker.start()
    system.empty_queue()

    assert (0, 1) == (status, len(waiting))
    assert system.servers.wait_for_mail(B, subject)
    assert not system.has(A, subject)
    assert before == system.servers.log().count(REFUSED)
    assert "not authenticated" not in system.servers.log()


def test_mail_of_an_account_that_is_signed_out_waits_alone(system: System) -> None:
    """One account without a token keeps its own mail and nobody else's, until it is signed in again."""
    before = system.servers.log().count(REFUSED)
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
    assert before == system.servers.log().count(REFUSED)
    assert "not authenticated" not in system.servers.log()


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
    """A server whose certificate is vouched for by nobody we trust sees no token; the message waits."""
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
    with _PlainServer() as plain:
        system.configure(PORT=str(plain.port))
        _, subject = system.send("alice", B, header_from=A, sender=A)
        heard = plain.heard

    assert 1 == len(system.machine.queue)
    assert "EHLO" in heard
    assert not {"AUTH", "MAIL"} & set(heard)
    system.configure()
    system.machine.run(system.machine.exim, "-qff")
    assert system.servers.wait_for_mail(B, subject)


class _PlainServer:
    """An SMTP server that offers XOAUTH2 and no STARTTLS, and remembers the commands that it hears."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.port = self._listener.getsockname()[1]
        self.heard: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as file:
                self._converse(file)

    def _converse(self, file: TextIO) -> None:
        print("220 plain ESMTP", file=file, flush=True)
        for line in file:
            command = line.split()[0].upper()
            self.heard.append(command)
            extra = "250-plain\n250 AUTH XOAUTH2" if command == "EHLO" else "221 bye" if command == "QUIT" else "250 ok"
            print(extra, file=file, flush=True)
