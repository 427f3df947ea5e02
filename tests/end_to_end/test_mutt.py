"""contrib/muttrc and docs/clients/mutt.md in a real mutt and a real neomutt, against servers that check each token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import READER, USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login, terminal
from support.waiting import until

PROGRAMS = ["mutt", "neomutt"]

# neomutt's OAUTHBEARER takes no token of Microsoft's size.
MECHANISMS = [("mutt", "xoauth2"), ("mutt", "oauthbearer"), ("neomutt", "xoauth2")]


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person who has both programs."""
    for program in (*PROGRAMS, "tmux"):
        require_program(program, program)
    with login(installation, servers) as owner:
        yield owner


def configure(owner: Login, program: str, mechanism: str = "xoauth2", **words: str) -> None:
    """Write contrib/muttrc for the test's servers, where the program looks for it."""
    servers = owner.servers
    usual = {
        "outlook.office365.com:993": f"localhost:{servers.imap}",
        "smtp.office365.com:587": f"localhost:{servers.submission}",
        "/etc/ssl/certs/ca-certificates.crt": servers.ca_file,
        '"xoauth2"': f'"{mechanism}"',
    }
    owner.file(f".{program}rc", contrib("muttrc"), **(usual | words))


def send(owner: Login, program: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Send a message as the page's test does; return how that ended, and the subject."""
    subject = owner.message()[1]
    return owner.run(program, "-s", subject, READER, stdin="hello\n"), subject


@pytest.mark.parametrize(("program", "mechanism"), MECHANISMS)
def test_a_message_is_sent(signed_in: Login, program: str, mechanism: str) -> None:
    """From a script, with each mechanism that the build has."""
    configure(signed_in, program, mechanism)
    before = signed_in.servers.log().count(f"A={mechanism}:{USER}")

    done, subject = send(signed_in, program)

    assert 0 == done.returncode, done.stderr
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(READER, subject)
    assert before + 1 == signed_in.servers.log().count(f"A={mechanism}:{USER}")


@pytest.mark.parametrize(("program", "mechanism"), MECHANISMS)
def test_the_inbox_is_read(signed_in: Login, program: str, mechanism: str) -> None:
    """The list of the INBOX, and a message in it, without a question."""
    configure(signed_in, program, mechanism)
    subject = signed_in.receive()
    before = signed_in.servers.log().count(f"user=<{USER}>, method={mechanism.upper()}")

    with terminal(signed_in, program) as window:
        window.wait_for(subject, "INBOX")
        window.press("G", "*", "Enter")
        window.wait_for(f"Subject: {subject}", "hello")

    assert before + 1 == signed_in.servers.log().count(f"user=<{USER}>, method={mechanism.upper()}")


def test_the_pages_test_passes(signed_in: Login) -> None:
    """The command of the page sends to oneself."""
    configure(signed_in, "mutt")
    subject = signed_in.message()[1]

    done = signed_in.shell(shown("mutt", "send").replace("-s test", f"-s '{subject}'"))

    assert 0 == done.returncode, done.stderr
    assert signed_in.servers.wait_for_mail(USER, subject)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_a_broker_no_login_is_tried(signed_in: Login, program: str) -> None:
    """The page explains what is said in a script, and knows what little is left of it on a screen."""
    configure(signed_in, program)
    # The last is 20260616's.
    shown_instead = {"mutt": ["Command returned empty string"], "neomutt": ["Unable to open mailbox", "(no mailbox)"]}
    signed_in.broker.stop()
    before = signed_in.attempts()
    try:
        done, _ = send(signed_in, program)
        with terminal(signed_in, program) as window:
            seen = until(lambda: [words for words in shown_instead[program] if words in window.screen()], "the trouble")
        attempts = signed_in.attempts() - before
    finally:
        signed_in.start_broker()

    assert (1, 0) == (done.returncode, attempts)
    assert "(no-daemon)" in done.stderr
    assert explains("mutt", done.stderr)
    assert f"`{seen[0]}`" in page("mutt")


@pytest.mark.parametrize("program", PROGRAMS)
def test_signed_out(signed_in: Login, program: str) -> None:
    """No login is tried, and the page explains what is said."""
    configure(signed_in, program)
    before = signed_in.attempts()
    signed_in.logout()
    done, _ = send(signed_in, program)
    attempts = signed_in.attempts() - before
    signed_in.login()

    assert (1, 0) == (done.returncode, attempts)
    assert "(sign-in-required)" in done.stderr
    assert explains("mutt", done.stderr)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_protocol_that_is_not_served(signed_in: Login, program: str) -> None:
    """The page explains what is said."""
    configure(signed_in, program, **{"--proto=SMTP": "--proto=SMTPS"})

    done, _ = send(signed_in, program)

    assert 1 == done.returncode
    assert "(unknown-protocol)" in done.stderr
    assert explains("mutt", done.stderr)


def test_neomutts_oauthbearer(signed_in: Login) -> None:
    """What the page says of it: a token like Microsoft's is too long, nothing is tried. A newer build sends."""
    configure(signed_in, "neomutt", "oauthbearer")
    before = signed_in.attempts()

    done, subject = send(signed_in, "neomutt")

    if done.returncode:
        assert "OAUTH token is too big" in done.stderr
        assert "`OAUTH token is too big`" in page("mutt")
        assert before == signed_in.attempts()
    else:
        assert signed_in.servers.wait_for_mail(READER, subject)
