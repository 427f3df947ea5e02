"""contrib/aerc-accounts.conf and docs/clients/aerc.md in a real aerc, against servers that check each token."""

from __future__ import annotations

import re
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
from support.waiting import until

# What the page has its reader delete from the file, if their aerc is newer.
ONLY_0_14 = "smtp-starttls     = yes\n"


def version() -> tuple[int, ...]:
    said = subprocess.run([require_program("aerc", "aerc"), "-v"], capture_output=True, text=True, check=True)
    return tuple(int(number) for number in re.findall(r"\d+", said.stdout)[:2])


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person who uses aerc."""
    for program in ("aerc", "tmux"):
        require_program(program, program)
    with login(installation, servers) as owner:
        yield owner


def configure(owner: Login, **words: str) -> None:
    """Write contrib/aerc-accounts.conf for the test's servers, as the page says; this person's ~/.config is ~/config."""
    usual = {
        **({ONLY_0_14: ""} if version() >= (0, 15) else {}),
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


def complaint(owner: Login, status: int) -> str:
    """Start aerc, which complains of this status: 0.14 ends with it, newer ones show it. Return what is to be read."""
    written = owner.home / "last-words"
    # Without a terminal aerc 0.20 fails in another way.
    with terminal(owner, "sh", "-c", f"aerc 2>{written.name}") as window:
        until(written.exists, "aerc's start")
        return until(
            lambda: next(
                (said for said in (window.text(), written.read_text()) if f"exit status {status}" in said), ""
            ),
            f"exit status {status}",
        )


def why(owner: Login) -> subprocess.CompletedProcess[str]:
    return owner.shell(shown("aerc", "why"))


def assert_page_explains(said: str, why: subprocess.CompletedProcess[str]) -> None:
    """aerc shows why it has no password, which the page has; the page's command says all of it, which it has too."""
    assert "failed to read password" in said
    # Newer versions show as much as fits of what cms-oauth says, and the status behind it.
    assert f"exit status {why.returncode}" in said or why.stderr[:40] in said
    assert f"`failed to read password … exit status {why.returncode}`" in page("aerc")
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


def test_a_newer_aerc_complains_of_a_line(signed_in: Login) -> None:
    """In the words of the page, which has its reader delete that line."""
    if version() < (0, 15):
        pytest.skip("aerc 0.14 needs the line that newer ones complain of")
    configure(signed_in, **{ONLY_0_14: ONLY_0_14})

    with aerc(signed_in) as window:
        window.wait_for("Connected", "smtp-starttls is deprecated")

    assert "`smtp-starttls is deprecated`" in page("aerc")


def test_it_does_not_start_without_a_broker(signed_in: Login) -> None:
    """No login is tried, and the page explains it."""
    configure(signed_in)
    signed_in.broker.stop()
    before = signed_in.attempts()
    said = why(signed_in)
    try:
        screen = complaint(signed_in, said.returncode)
    finally:
        signed_in.start_broker()
    attempts = signed_in.attempts() - before

    assert 0 == attempts
    assert "(no-daemon)" in said.stderr
    assert_page_explains(screen, said)


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

    said = signed_in.shell(shown("aerc", "why").replace("IMAP", "IMAPS"))
    screen = complaint(signed_in, said.returncode)

    assert "(unknown-protocol)" in said.stderr
    assert_page_explains(screen, said)
