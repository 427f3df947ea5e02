"""contrib/postfix-main.cf in a real Postfix, with tokens of a real cms, against real servers that check each token."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import pytest
from support import evidence, proc
from support.contrib import ODD, ROOT, adjusted, replaced
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.fragments import blocks, contrib, page, shown
from support.postfix import LOG_FILE, PACKAGES, POSTFIX_UID, Postfix, add_plugin, main_cf
from support.reachable import ALICE, BOB, CAROL, Installation, open_folder
from support.servers import MailServers
from support.waiting import until

from cms.sandbox.submission import Submission

A = "user@domain.com"
SHARED = "shared@domain.com"
B = "bob@domain.com"
# The server takes mail from this one and none for it.
NOBODY = "nobody@domain.com"
STRANGER = "stranger@elsewhere.com"

# The daemon's uid: neither Postfix's nor that of a person who sends mail.
CMS = 64010

# What the server says to what should not have been tried.
REFUSED = "535 Incorrect authentication data"
UNAUTHENTICATED = "5.7.57 Client not authenticated"

# After five failures in a row Postfix gives up on a server for a while, unless it is told not to.
MANY = 6

_numbers = count()


@dataclass
class System:
    """A machine with Postfix and cms as contrib/postfix-main.cf has them."""

    machine: Postfix
    broker: Daemon
    servers: MailServers

    @property
    def socket(self) -> Path:
        return self.broker.sockets / "postfix.sock"

    def configure(self, *, prefix: str = "proxy:", **values: str) -> None:
        """Install the files of contrib/; waiting takes seconds in place of minutes."""
        usual = {
            "cms_table": f"{prefix}socketmap:unix:{self.socket}:cms",
            "relayhost": f"[localhost]:{self.servers.submission}",
            "smtp_tls_CAfile": self.servers.ca_file,
            "smtp_host_lookup": "native",
            "maillog_file": LOG_FILE,
            "queue_run_delay": "1s",
            # Not one: a message that is due at once is still locked by the delivery that has kept it.
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "2s",
        }
        self.machine.configure(main_cf(**(usual | values)), self.machine.master_cf + contrib("postfix-master.cf"))

    def reconfigure(self, *, prefix: str = "proxy:", **values: str) -> None:
        """Do the same to a running Postfix."""
        self.configure(prefix=prefix, **values)
        self.machine.postfix("reload")

    def send(self, login: str, to: str, *, sender: str = "") -> str:
        """Return the subject of a message that Postfix has taken; no other message has it."""
        subject = f"by postfix {next(_numbers)}."
        done = self.machine.send(login, f"To: {to}\nSubject: {subject}\n\nhello\n", to, sender=sender)
        assert done.returncode == 0, done.stderr
        return subject

    def tried(self, number: int) -> list[dict[str, Any]]:
        """Return the queue once so many messages are in it and each has been tried."""
        queue = self.machine.queue
        tried = all("delay_reason" in to for message in queue for to in message["recipients"])
        return queue if tried and len(queue) == number else []

    def kept(self, sender: str, quoted: str, start: int, *, number: int = 1) -> None:
        """Have the messages of this sender kept, for a reason that the page quotes and the log has since `start`."""
        kept = until(lambda: self.tried(number), "messages to be kept")
        assert {sender} == {each["sender"] for each in kept}
        assert f"| `{quoted}` |" in page("postfix")
        said = re.compile(".+".join(map(re.escape, quoted.split("…"))))
        # Postfix writes its log when the message is kept already.
        until(lambda: said.search(self.machine.log()[start:]), "the reason in the log")

    def tries(self) -> int:
        """Return how many logins and messages the server has refused so far."""
        log = self.servers.log()
        return log.count(REFUSED) + log.count(UNAUTHENTICATED) + log.count("5.7.60")

    def query(self, key: str) -> CompletedProcess[str]:
        """Ask the table as the page does."""
        words = {"sudo -u postfix ": "", A: key, "/run/cms": str(self.broker.sockets)}
        return self.machine.run("sh", "-c", replaced(shown("postfix", "query"), **words), login="postfix")

    def logout(self, user: str) -> None:
        done = self.broker.cms("logout", "-c", str(self.broker.config), user)
        assert done.returncode == 0, done.stderr


def configuration(broker: Daemon, servers: MailServers) -> str:
    return (
        settings_lines(broker.home, servers.entra)
        + account_line("user", A, servers.entra)
        + account_line("shared", SHARED, servers.entra, f', sign_in_as="{A}"')
        + account_line("bob", B, servers.entra)
        + account_line("nobody", NOBODY, servers.entra)
        + account_line("odd", ODD, servers.entra)
        + replaced(
            shown("postfix", "table"),
            **{
                "/run/cms": str(broker.sockets),
                "[user, bob]": "[user, bob, shared, nobody, odd]",
                # The daemon is outside of the view.
                '"postfix"]': f'"{POSTFIX_UID}"]',
            },
        )
        + f'PostfixTable("{broker.sockets / "default.sock"}", [user, bob], default=user, users=["{POSTFIX_UID}"])\n'
    )


@pytest.fixture(scope="module")
def system(installation: Installation, servers: MailServers) -> Iterator[System]:
    """Three people and a shared mailbox, signed in."""
    for user in (A, SHARED, B, NOBODY, ODD):
        servers.add_user(user)
    with open_folder("postfix") as folder, daemons(installation) as make:
        system = System(Postfix(folder, {"alice": ALICE, "bob": BOB, "carol": CAROL}), make(CMS), servers)
        add_plugin(system.machine)
        system.broker.configure(configuration(system.broker, servers))
        system.broker.start()
        for user in (A, B, NOBODY, ODD):
            system.broker.sign_in(user, servers.entra)
        system.configure()
        system.machine.postfix("start")
        try:
            yield system
        finally:
            system.machine.postfix("stop")
            evidence.keep("postfix", system.machine.log())


@pytest.fixture(autouse=True)
def _usual(system: System) -> Iterator[None]:
    """Every test begins with an empty queue."""
    until(lambda: not system.machine.queue, "an empty queue")
    yield
    system.machine.run("/usr/sbin/postsuper", "-d", "ALL")


def test_an_address_with_signs_of_postfixs_own(system: System) -> None:
    """As `cms init` writes it into the tables: the login's own, and named by the sender."""
    names = ("local_login_sender_maps", "sender_canonical_maps", "log_in_as")
    shown = adjusted("Postfix", "alice", ODD)
    system.reconfigure(**{name: shown[name] for name in names})
    own, named = system.send("alice", B), system.send("alice", B, sender=ODD)

    for subject in (own, named):
        assert f"Return-path: <{ODD}>" in system.servers.wait_for_mail(B, subject)
    system.reconfigure()


def test_each_account_sends_its_own_mail(system: System) -> None:
    """The envelope sender chooses the account: each message goes out under that sender's login."""
    first = system.send("alice", B, sender=A)
    second = system.send("bob", A, sender=B)

    assert f"Return-path: <{A}>" in system.servers.wait_for_mail(B, first)
    assert f"Return-path: <{B}>" in system.servers.wait_for_mail(A, second)
    assert f"A=xoauth2:{A}" in system.servers.log()
    assert f"A=xoauth2:{B}" in system.servers.log()


def test_an_address_goes_out_with_anothers_login(system: System) -> None:
    """As docs/shared-mailboxes.md says: mail goes out with the other account's login; this and other senders stay."""
    shared = (ROOT / "docs" / "shared-mailboxes.md").read_text()
    (line,) = (each.text for each in blocks(shared) if each.mark == "test: postfix")
    name, _, value = replaced(line, **{"sales@domain.com": SHARED, "me@domain.com": A}).strip().partition(" = ")
    with Submission(system.servers.entra.introspect, str(system.servers.folder / "server.pem")) as server:
        system.reconfigure(relayhost=f"[localhost]:{server.port}", **{name: value})
        system.send("alice", B, sender=SHARED)
        system.send("alice", B, sender=A)
        system.send("bob", A, sender=B)
        until(lambda: len(server.messages) == 3, "three messages")
    system.reconfigure()

    assert {(A, SHARED), (A, A), (B, B)} == {(each.user, each.sender) for each in server.messages}


def test_mail_of_anothers_login_waits_for_its_token(system: System) -> None:
    """Without the other's token it is kept: it is not tried with the address's own, and not sent without a login."""
    tries = system.tries()
    system.logout(A)
    system.reconfigure(log_in_as=f"inline:{{ {{ {B} = {A} }} }}")
    start = len(system.machine.log())
    system.send("bob", A, sender=B)
    system.kept(B, "socketmap server temporary error: …", start)
    refused = system.tries() - tries
    system.reconfigure()
    system.broker.sign_in(A, system.servers.entra)

    assert 0 == refused
    assert "status=bounced" not in system.machine.log()[start:]


def test_with_two_providers_the_sender_chooses_the_server(system: System) -> None:
    """The page's line is a table of servers by the sender's domain."""
    name, _, table = shown("postfix", "two-providers").strip().partition(" = ")
    asked = [system.machine.run("postmap", "-q", key, table) for key in ("@gmail.com", "@domain.com")]

    assert "sender_dependent_relayhost_maps" == name
    assert [(0, "[smtp.gmail.com]:587\n"), (1, "")] == [(each.returncode, each.stdout) for each in asked]


def test_a_login_needs_no_sender(system: System) -> None:
    """Without -f a login sends as its own address, so that plain `sendmail` and `mail` work."""
    done = system.machine.run("sh", "-c", shown("postfix", "send"), login="alice")
    message = system.servers.wait_for_mail(B, "Subject: test\n")

    assert 0 == done.returncode
    # The server may deliver it before Postfix has taken note.
    until(lambda: "status=sent" in system.machine.log(), "the end of it in the log")
    assert f"Return-path: <{A}>" in message
    assert f"From: {A}" in message


def test_a_login_sends_as_its_own_only(system: System) -> None:
    """sendmail refuses another's address, and a login that has no line at all."""
    as_another = system.machine.send("bob", "hello\n", B, sender=A)
    unlisted = system.machine.send("carol", "hello\n", B)

    assert 0 != as_another.returncode
    assert f"not authorized to use sender='{A}'" in as_another.stderr
    assert "| `not authorized to use sender='…'` |" in page("postfix")
    assert 0 != unlisted.returncode
    assert [] == system.machine.queue


def test_nothing_is_taken_from_the_network(system: System) -> None:
    """Postfix listens on no port: what comes from there has no login."""
    master = int((system.machine.spool / "pid/master.pid").read_text())

    assert ("master", []) == (proc.name(master), proc.listening(master))


def test_the_table_answers_as_the_page_has_it(system: System) -> None:
    """`postmap -q` prints the address, a colon and a token that the server would take."""
    done = system.query(A)
    address, _, token = done.stdout.strip().partition(":")

    assert (0, A) == (done.returncode, address)
    assert system.servers.entra.introspect(token)["active"]


@pytest.mark.parametrize(("chroot", "prefix"), [("y", "proxy:"), ("n", "proxy:"), ("n", "")])
def test_inside_its_chroot_and_outside(system: System, chroot: str, prefix: str) -> None:
    """The file as it is serves both; outside the chroot smtp(8) can ask the table by itself."""
    system.reconfigure(prefix=prefix)
    system.machine.run("/usr/sbin/postconf", "-F", f"smtp/unix/chroot={chroot}")
    system.machine.postfix("reload")

    subject = system.send("alice", B, sender=A)

    assert system.servers.wait_for_mail(B, subject)
    system.reconfigure()


def test_without_the_proxy_the_chroot_hides_the_socket(system: System) -> None:
    """What `proxy:` is there for: without it a message waits."""
    system.reconfigure(prefix="")
    # Debian 12 and 13 have it so.
    system.machine.run("/usr/sbin/postconf", "-F", "smtp/unix/chroot=y")
    system.machine.postfix("reload")
    start = len(system.machine.log())
    subject = system.send("alice", B, sender=A)
    system.kept(A, "connect to …: No such file or directory", start)
    system.reconfigure()

    assert system.servers.wait_for_mail(B, subject)


def test_mail_of_an_account_that_is_signed_out_waits_alone(system: System) -> None:
    """It is kept, by itself, without a try at the server, and goes out by itself after the sign-in."""
    tries = system.tries()
    system.logout(B)
    start = len(system.machine.log())
    waits = [system.send("bob", A, sender=B) for _ in range(MANY)]
    system.kept(B, "socketmap server temporary error: …", start, number=MANY)
    system.servers.wait_for_mail(B, system.send("alice", B, sender=A))
    system.broker.sign_in(B, system.servers.entra)

    assert all(system.servers.wait_for_mail(A, each) for each in waits)
    assert "delivery temporarily suspended" not in system.machine.log()[start:]
    assert "status=bounced" not in system.machine.log()[start:]
    assert tries == system.tries()


def test_mail_waits_while_the_broker_is_down(system: System) -> None:
    """No daemon: no bounce, no mail without a login. It goes out by itself when cms is back."""
    tries = system.tries()
    start = len(system.machine.log())
    system.broker.stop()
    subject = system.send("alice", B, sender=A)
    system.kept(A, "connect to …: No such file or directory", start)
    system.broker.start()

    assert system.servers.wait_for_mail(B, subject)
    assert "status=bounced" not in system.machine.log()[start:]
    assert tries == system.tries()


def test_a_flush_sends_what_waits_at_once(system: System) -> None:
    """A person who has just signed in need not wait for the next queue run."""
    hour = {"queue_run_delay": "1h", "minimal_backoff_time": "1h", "maximal_backoff_time": "1h"}
    system.reconfigure(**hour)
    start = len(system.machine.log())
    system.broker.stop()
    subject = system.send("alice", B, sender=A)
    system.kept(A, "connect to …: No such file or directory", start)
    system.broker.start()
    until(lambda: system.query(A).returncode == 0, "a token")
    flushed = system.machine.run("/usr/sbin/postqueue", "-f")
    system.servers.wait_for_mail(B, subject)
    system.reconfigure()

    assert 0 == flushed.returncode
    assert "sudo postqueue -f" in page("postfix")


def test_a_message_of_an_unknown_sender_is_kept(system: System) -> None:
    """The table answers "not found" for a sender without an account; Postfix keeps such a message and logs why."""
    tries = system.tries()
    start = len(system.machine.log())
    found = system.query(STRANGER)
    system.send("root", B, sender=STRANGER)
    system.kept(STRANGER, 'fail:no-account-for-this-sender lookup error for "…"', start)

    assert (1, "") == (found.returncode, found.stdout)
    assert tries == system.tries()


def test_without_fail_a_strangers_mail_bounces(system: System) -> None:
    """What `fail:` is there for: without it such a message goes out with the login of the table's default account."""
    table = f"proxy:socketmap:unix:{system.broker.sockets / 'default.sock'}:cms"
    system.reconfigure(smtp_sasl_password_maps=table)
    start = len(system.machine.log())
    system.send("root", B, sender=STRANGER)
    until(lambda: "status=bounced" in system.machine.log()[start:], "the bounce")
    until(lambda: not system.machine.queue, "the queue to empty")
    system.reconfigure()

    assert "5.7.60 SMTP; Client does not have permissions to send as this sender" in system.machine.log()[start:]
    assert "status=bounced" in system.machine.log()[start:]


@pytest.mark.parametrize("error_challenge", [False, True])
def test_a_refused_token_is_tried_again(system: System, *, error_challenge: bool) -> None:
    """Refused with or without a challenge: Postfix keeps the mail, never bounces it, and sends other accounts' mail."""
    introspect = system.servers.entra.introspect
    certificate = str(system.servers.folder / "server.pem")
    with Submission(introspect, certificate, error_challenge=error_challenge) as server:
        system.reconfigure(relayhost=f"[localhost]:{server.port}")
        start = len(system.machine.log())
        system.send("alice", B, sender=SHARED)
        system.kept(SHARED, "SASL authentication failed; server … said: 535 …", start)
        system.send("bob", A, sender=B)
        until(lambda: [B] == [each.sender for each in server.messages], "the other's mail")
        until(lambda: [SHARED] * 2 == [each.user for each in server.logins if not each.accepted][:2], "another try")
    system.reconfigure()

    assert "status=bounced" not in system.machine.log()[start:]


def test_without_the_plugin_mail_waits(system: System) -> None:
    """Postfix cannot log in, and does not go on without."""
    plugin = system.machine.plugins / "libxoauth2.so"
    plugin.rename(plugin.with_suffix(".gone"))
    system.reconfigure()
    start = len(system.machine.log())
    subject = system.send("alice", B, sender=A)
    quoted = "SASL authentication failed; cannot authenticate to server …: no mechanism available"
    system.kept(A, quoted, start)
    plugin.with_suffix(".gone").rename(plugin)
    system.reconfigure()

    assert system.servers.wait_for_mail(B, subject)


def test_debians_plugin_sends_nothing(system: System) -> None:
    """As the page says of libsasl2-modules-kdexoauth2: it crashes smtp(8) or does not log in; the message waits."""
    ours = system.machine.plugins / "libxoauth2.so"
    ours.rename(ours.with_suffix(".gone"))
    (theirs,) = Path("/usr/lib").glob("*/sasl2/libkdexoauth2.so")
    shutil.copy(theirs, system.machine.plugins)
    system.reconfigure()
    start = len(system.machine.log())
    tries = system.tries()
    subject = system.send("alice", B, sender=A)
    ends = {"killed by signal 11": "it crashes Postfix's smtp(8)", "status=deferred": "it does not log in either"}
    said = until(lambda: [words for words in ends if words in system.machine.log()[start:]], "its end")
    # While Postfix moves it from one queue to another, it is seen in none.
    waiting = until(lambda: [each["sender"] for each in system.machine.queue], "the message in the queue")
    seen = system.tries()
    (system.machine.plugins / theirs.name).unlink()
    ours.with_suffix(".gone").rename(ours)
    system.reconfigure()

    assert [A] == waiting
    assert tries == seen
    assert ends[said[0]] in page("postfix")
    assert system.servers.wait_for_mail(B, subject)


def test_a_bounce_comes_back_through_the_account(system: System) -> None:
    """A bounce has an empty sender: Postfix sends it as the account that it returns to."""
    bounce = system.servers.wait_for_mail(A, system.send("alice", NOBODY, sender=A))

    assert f"Return-path: <{A}>" in bounce
    assert "5.1.10 Recipient not found" in bounce


def test_there_are_no_mailboxes_here(system: System) -> None:
    """Mail for a local user is returned to its sender, not lost in an unread file."""
    bounce = system.servers.wait_for_mail(A, system.send("alice", "root", sender=A))

    assert "there are no mailboxes on this machine" in bounce


def test_a_bounce_that_is_refused_ends(system: System) -> None:
    """It does not come back as a bounce of the bounce, time after time."""
    start = len(system.machine.log())
    system.send("root", NOBODY, sender=NOBODY)
    until(lambda: system.machine.log()[start:].count("status=bounced") == 2, "the bounce to be refused")
    until(lambda: not system.machine.queue, "the queue to empty")

    assert system.machine.log()[start:].count("status=bounced") == 2


def test_an_unknown_authority_gets_no_login(system: System) -> None:
    """A server whose certificate comes from an unknown CA gets no token; the message waits."""
    system.reconfigure(smtp_tls_CAfile=system.servers.entra.ca_file)
    before = system.servers.log().count("A=xoauth2")
    start = len(system.machine.log())
    subject = system.send("alice", B, sender=A)
    system.kept(A, "Server certificate not verified", start)

    assert before == system.servers.log().count("A=xoauth2")
    system.reconfigure()
    assert system.servers.wait_for_mail(B, subject)


def test_a_machine_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """These tests fail in CI where Postfix has not been downloaded, and name what downloads it."""
    monkeypatch.setattr("support.postfix.PACKAGES", tmp_path / "none")
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="tests/install-debian-packages"):
        Postfix(tmp_path, {})


def test_without_root_the_download_is_named(tmp_path: Path) -> None:
    """Without root nothing is downloaded: the package is named, with the folder and the command."""
    for name, text in (("id", "echo 1000"), ("dpkg-query", "echo installed"), ("ls", "exit 2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    done = run(
        [str(ROOT / "tests" / "install-debian-packages")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert f"In {PACKAGES} a package is missing. As root, there: apt-get download postfix\n" == done.stderr
