"""docs/clients/msmtp.md: the test that it shows, and its queue, with the real msmtp and the real msmtpq."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import READER, USER, Person, person
from support.programs import give_up, require_program
from support.reachable import Installation
from support.servers import MailServers

# sysexits: what msmtp says for every failure of passwordeval.
EX_CONFIG = 78

QUEUE = Path("/usr/libexec/msmtp/msmtpq/msmtpq")


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Person]:
    """A person with contrib/msmtp.conf, and the queue set up as the page says."""
    require_program("msmtp", "msmtp")
    if not QUEUE.exists():
        give_up(f"{QUEUE} is missing: apt-get install msmtp")
    with person(installation, servers) as owner:
        words = {
            "port 587": f"port {servers.submission}",
            "host smtp.office365.com": "host localhost",
            "/etc/ssl/certs/ca-certificates.crt": servers.ca_file,
        }
        owner.file(".msmtprc", contrib("msmtp.conf"), **words)
        owner.file(".profile", shown("msmtp", "queue-variables") + 'PATH="$HOME/.local/bin:$PATH"\n')
        # As docs/install.md has it.
        linked = owner.shell('mkdir -p ~/.local/bin && ln -s "$(command -v cms-oauth)" ~/.local/bin/')
        assert 0 == linked.returncode, linked.stderr
        done = owner.shell(shown("msmtp", "queue-install"))
        assert 0 == done.returncode, done.stderr
        yield owner


def send(owner: Person) -> tuple[subprocess.CompletedProcess[str], str]:
    """Hand a message to msmtpq, as a mail program does; return how that ended, and the subject."""
    text, subject = owner.message()
    return owner.shell(f". ~/.profile; msmtpq -f {USER} -- {READER}", stdin=text), subject


def queued(owner: Person) -> int:
    """Return how many messages wait."""
    return len(list((owner.home / ".msmtp.queue").glob("*.mail")))


def cron(owner: Person) -> None:
    """Do what the page's line for crontab does: with cron's own PATH, and none of the session's variables."""
    command = shown("msmtp", "queue-cron").split(None, 5)[5]
    owner.shell(command, PATH="/usr/bin:/bin")


def logins(owner: Person) -> int:
    """Return how many logins the server has seen: successful, failed or empty."""
    log = owner.servers.log()
    return log.count("A=xoauth2:") + log.count("535 ") + log.count("501 ")


def test_the_pages_test_passes(signed_in: Person) -> None:
    """The command of the page sends, silently."""
    subject = signed_in.message()[1]
    command = shown("msmtp", "test").replace("Subject: test", f"Subject: {subject}")

    done = signed_in.shell(command)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert signed_in.servers.wait_for_mail(USER, subject)


def test_a_message_goes_through_the_queue_at_once(signed_in: Person) -> None:
    """While all is well the queue is not noticed."""
    done, subject = send(signed_in)

    assert (0, 0) == (done.returncode, queued(signed_in)), done.stderr
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(READER, subject)


def test_mail_waits_while_the_broker_is_down(signed_in: Person) -> None:
    """msmtp ends with 78 and tries no login; the queue takes that as any other failure, and the next run sends."""
    signed_in.broker.stop()
    before = logins(signed_in)
    alone = signed_in.run("msmtp", "-f", USER, READER, stdin=signed_in.message()[0])
    done, subject = send(signed_in)
    cron(signed_in)
    waiting = queued(signed_in)
    attempts = logins(signed_in) - before
    signed_in.start_broker()
    cron(signed_in)

    assert EX_CONFIG == alone.returncode
    assert "(no-daemon)" in alone.stderr
    assert explains("msmtp", alone.stderr)
    assert (0, 1, 0) == (done.returncode, waiting, attempts)
    assert signed_in.servers.wait_for_mail(READER, subject)
    assert 0 == queued(signed_in)


def test_mail_waits_for_a_sign_in(signed_in: Person) -> None:
    """The next message that goes out takes along what waited."""
    signed_in.logout()
    done, waited = send(signed_in)
    waiting = queued(signed_in)
    signed_in.login()
    _, subject = send(signed_in)

    assert (0, 1) == (done.returncode, waiting)
    assert "(sign-in-required)" in done.stderr
    assert explains("msmtp", done.stderr)
    assert signed_in.servers.wait_for_mail(READER, subject)
    assert signed_in.servers.wait_for_mail(READER, waited)
    assert 0 == queued(signed_in)


def test_a_refused_token(signed_in: Person) -> None:
    """msmtp's own words, which the page explains."""
    signed_in.servers.entra.directory.revoke_access(USER)
    done = signed_in.run("msmtp", "-f", USER, READER, stdin=signed_in.message()[0])
    signed_in.logout()
    signed_in.login()

    words = "msmtp: authentication failed (method XOAUTH2)"
    assert 0 != done.returncode
    assert words in done.stderr
    assert f"`{words}`" in page("msmtp")


def test_mail_that_the_server_refuses_waits_too(signed_in: Person) -> None:
    """The queue keeps every message that fails, also one whose sender the account may not use; the page explains it."""
    text, subject = signed_in.message(sender="somebody.else@domain.com")

    done = signed_in.shell(f". ~/.profile; msmtpq -f owner.else@domain.com -- {READER}", stdin=text)

    assert (0, 1) == (done.returncode, queued(signed_in))
    words = "Client does not have permissions to send as this sender"
    assert words in done.stderr
    assert f"`{words}`" in page("msmtp")
    assert not any(subject in each for each in signed_in.servers.mail_of(READER))
    for left in (signed_in.home / ".msmtp.queue").glob("20*"):
        left.unlink()
