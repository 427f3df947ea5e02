"""contrib/aerc-accounts.conf and docs/clients/aerc.md in a real aerc, against servers that check each token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, Terminal, login, terminal


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person who uses aerc."""
    for program in ("aerc", "tmux"):
        require_program(program, program)
    with login(installation, servers) as owner:
        yield owner


def configure(owner: Login, **words: str) -> None:
    """Write contrib/aerc-accounts.conf for the test's servers; this person's ~/.config is ~/config."""
    usual = {
        "outlook.office365.com:993": f"localhost:{owner.servers.imap}",
        "smtp.office365.com:587": f"localhost:{owner.servers.submission}",
    }
    owner.file("config/aerc/accounts.conf", contrib("aerc-accounts.conf"), **(usual | words))


def aerc(owner: Login) -> AbstractContextManager[Terminal]:
    """Start aerc, with an editor that writes a line and ends."""
    return terminal(owner, "aerc", EDITOR="echo hello >>", TMPDIR=str(owner.home))


def compose(owner: Login, window: Terminal) -> str:
    """Write a message to oneself with the page's command, up to the question whether to send it; return the subject."""
    subject = owner.message()[1]
    window.press(shown("aerc", "compose").strip().replace("Subject: test", f"Subject: {subject}"), "Enter")
    window.wait_for("Send this email?", subject)
    return subject


def why(owner: Login) -> subprocess.CompletedProcess[str]:
    return owner.shell(shown("aerc", "why"))


def assert_page_explains(said: str, why: subprocess.CompletedProcess[str]) -> None:
    """aerc shows cms-oauth's exit status, which the page has; the page's command says the rest, which it has too."""
    status = f"failed to read password: exit status {why.returncode}"

    assert status in said
    assert f"`{status}`" in page("aerc")
    assert explains("aerc", why.stderr)


def test_mail_is_read_and_sent(signed_in: Login) -> None:
    """aerc logs in, lists the INBOX, and sends a message."""
    configure(signed_in)
    received = signed_in.receive()
    before = signed_in.servers.log().count(f"user=<{USER}>, method=XOAUTH2")

    with aerc(signed_in) as window:
        window.wait_for("Connected", received)
        subject = compose(signed_in, window)
        window.press("y")
        arrived = signed_in.servers.wait_for_mail(USER, subject)

    assert f"Return-path: <{USER}>" in arrived
    assert before < signed_in.servers.log().count(f"user=<{USER}>, method=XOAUTH2")
    assert f"A=xoauth2:{USER}" in signed_in.servers.log()


def test_it_does_not_start_without_a_broker(signed_in: Login) -> None:
    """No login is tried, and the page explains it."""
    configure(signed_in)
    signed_in.broker.stop()
    before = signed_in.attempts()
    done = signed_in.run("aerc")
    attempts = signed_in.attempts() - before
    said = why(signed_in)
    signed_in.start_broker()

    assert (1, 0) == (done.returncode, attempts)
    assert "(no-daemon)" in said.stderr
    assert_page_explains(done.stderr, said)


def test_a_message_waits_for_a_sign_in(signed_in: Login) -> None:
    """Signed out while aerc runs: no login is tried, the page explains it, and `y` sends the message afterwards."""
    configure(signed_in)
    with aerc(signed_in) as window:
        window.wait_for("Connected")
        signed_in.logout()
        before = signed_in.attempts()
        subject = compose(signed_in, window)
        window.press("y")
        screen = window.wait_for("failed to read password")
        attempts = signed_in.attempts() - before
        said = why(signed_in)
        signed_in.login()
        window.press("y")
        arrived = signed_in.servers.wait_for_mail(USER, subject)

    assert (0, True) == (attempts, bool(arrived))
    assert "(sign-in-required)" in said.stderr
    assert_page_explains(screen, said)


def test_a_protocol_that_is_not_served(signed_in: Login) -> None:
    """The page explains it."""
    configure(signed_in, **{"--proto=IMAP": "--proto=IMAPS"})

    done = signed_in.run("aerc")
    said = signed_in.shell(shown("aerc", "why").replace("IMAP", "IMAPS"))

    assert "(unknown-protocol)" in said.stderr
    assert_page_explains(done.stderr, said)
