"""docs/clients/python.md: each example as a program, against real servers that check each token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.contrib import replaced
from support.fragments import contrib, explains, shown
from support.person import READER, USER, Person, person
from support.reachable import Installation
from support.servers import MailServers


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Person]:
    """A person with mail to read."""
    with person(installation, servers) as owner:
        owner.receive()
        yield owner


def run(owner: Person, program: str, **words: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the test's servers; Python trusts the test's authority by $SSL_CERT_FILE."""
    there = {
        '"smtp.office365.com", 587': f'"localhost", {owner.servers.submission}',
        '"outlook.office365.com", 993': f'"localhost", {owner.servers.imap}',
    }
    text = replaced(program, **{old: new for old, new in there.items() if old in program}, **words)
    return owner.run(str(owner.broker.installation.python), "-I", "-c", text)


def mechanism(name: str) -> dict[str, str]:
    """Return what makes an example use this mechanism."""
    if name == "XOAUTH2":
        return {}
    return {'Login("user@domain.com")': f'Login("user@domain.com", mechanism="{name}")', '"XOAUTH2"': f'"{name}"'}


def test_the_pages_test_passes(signed_in: Person) -> None:
    """With the Python that has cms."""
    folder = f"{signed_in.broker.installation.folder}/bin"

    done = signed_in.shell(shown("python", "token").replace("python3", f"{folder}/python -P"))

    assert (0, "there is a token\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", ["XOAUTH2", "OAUTHBEARER"])
def test_smtplib_sends(signed_in: Person, name: str) -> None:
    """With either mechanism."""
    subject = f"by Python with {name}."

    done = run(signed_in, contrib("send.py"), **{'"test"': f'"{subject}"'}, **mechanism(name))

    assert (0, "") == (done.returncode, done.stderr)
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(READER, subject)
    assert f"A={name.lower()}:{USER}" in signed_in.servers.log()


@pytest.mark.parametrize("name", ["XOAUTH2", "OAUTHBEARER"])
def test_imaplib_reads(signed_in: Person, name: str) -> None:
    """With either mechanism."""
    done = run(signed_in, shown("python", "imap"), **mechanism(name))

    assert (0, "") == (done.returncode, done.stderr)
    assert "('OK', [b'1" in done.stdout


def test_without_a_token(signed_in: Person) -> None:
    """The page's way to end: one line that the page explains, and an exit status that makes mail wait."""
    signed_in.logout()
    ended = run(signed_in, shown("python", "error"))
    raised = run(signed_in, contrib("send.py"))
    signed_in.login()

    assert (75, "") == (ended.returncode, ended.stdout)
    assert "(sign-in-required)" in ended.stderr
    assert explains("python", raised.stderr)


def test_a_broker_that_is_down(signed_in: Person) -> None:
    """The page explains the exception."""
    signed_in.broker.stop()
    raised = run(signed_in, shown("python", "imap"))
    ended = run(signed_in, shown("python", "error"))
    signed_in.start_broker()

    assert "(no-daemon)" in raised.stderr
    assert explains("python", raised.stderr)
    assert 69 == ended.returncode


def test_a_protocol_that_is_not_served(signed_in: Person) -> None:
    """The page explains the exception."""
    raised = run(signed_in, 'import cms_oauth; cms_oauth.token("user@domain.com", "GRAPH")')

    assert "(unknown-protocol)" in raised.stderr
    assert explains("python", raised.stderr)


def test_a_refused_token_is_replaced(signed_in: Person) -> None:
    """The page's second try gets a token that the server takes."""
    subject = "at the second try."
    once = '    server.auth("XOAUTH2", login.smtp())\n'
    twice = "".join(f"    {line}\n" for line in shown("python", "rejected").splitlines())
    signed_in.outlive_pause()
    signed_in.servers.entra.directory.revoke_access(USER)

    done = run(signed_in, contrib("send.py"), **{'"test"': f'"{subject}"', once: twice})

    assert (0, "") == (done.returncode, done.stderr)
    assert signed_in.servers.wait_for_mail(READER, subject)
