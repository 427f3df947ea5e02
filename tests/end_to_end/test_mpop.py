"""contrib/mpop.conf and docs/clients/mpop.md in a real mpop, against a Dovecot that checks each token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import USER, Person, person
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers

# sysexits: what mpop says for every failure of passwordeval.
EX_CONFIG = 78


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Person]:
    """A person with an empty maildir."""
    require_program("mpop", "mpop")
    with person(installation, servers) as owner:
        assert 0 == owner.shell("mkdir -p ~/Mail/cur ~/Mail/new ~/Mail/tmp").returncode
        yield owner


def configure(owner: Person, **words: str) -> None:
    """Write contrib/mpop.conf for the test's server."""
    usual = {
        "port 995": f"port {owner.servers.pop}",
        "host outlook.office365.com": "host localhost",
        "/etc/ssl/certs/ca-certificates.crt": owner.servers.ca_file,
    }
    owner.file(".mpoprc", contrib("mpop.conf"), **(usual | words))


def fetched(owner: Person) -> list[str]:
    return [path.read_text() for path in (owner.home / "Mail" / "new").iterdir()]


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_mail_is_fetched(signed_in: Person, mechanism: str) -> None:
    """Once each, with either mechanism, and the page's test passes."""
    configure(signed_in, **{"auth xoauth2": f"auth {mechanism}"})
    subject = signed_in.receive()

    tested = signed_in.shell(shown("mpop", "test"))
    done = [signed_in.run("mpop", "-q") for _ in range(2)]

    assert (0, "", "") == (tested.returncode, tested.stdout, tested.stderr)
    assert [0, 0] == [each.returncode for each in done], done
    assert 1 == sum(subject in each for each in fetched(signed_in))
    assert f"method={mechanism.upper()}" in signed_in.servers.log()


def test_another_account_asks_for_its_own_token(signed_in: Person) -> None:
    """The example's second provider is an account of its own: cms says that this one is not configured here."""
    configure(signed_in)
    done = signed_in.run("mpop", "-q", "gmail")

    assert 0 != done.returncode
    assert "(unknown-account)" in done.stderr


def test_without_a_broker_no_login_is_tried(signed_in: Person) -> None:
    """mpop ends with 78, says why in cms's words, and fetches the mail the next time."""
    configure(signed_in)
    subject = signed_in.receive()
    signed_in.broker.stop()
    before = signed_in.servers.log().count("method=")
    done = signed_in.run("mpop", "-q")
    attempts = signed_in.servers.log().count("method=") - before
    signed_in.start_broker()
    again = signed_in.run("mpop", "-q")

    assert EX_CONFIG == done.returncode
    assert "(no-daemon)" in done.stderr
    assert explains("mpop", done.stderr)
    assert (0, 0) == (attempts, again.returncode)
    assert any(subject in each for each in fetched(signed_in))


def test_signed_out(signed_in: Person) -> None:
    """The page explains what is said."""
    configure(signed_in)
    signed_in.logout()
    done = signed_in.run("mpop", "-q")
    signed_in.login()

    assert EX_CONFIG == done.returncode
    assert "(sign-in-required)" in done.stderr
    assert explains("mpop", done.stderr)


def test_a_refused_token(signed_in: Person) -> None:
    """mpop's own words, which the page explains."""
    configure(signed_in)
    signed_in.servers.entra.directory.revoke_access(USER)
    done = signed_in.run("mpop", "-q")
    signed_in.logout()
    signed_in.login()

    words = "mpop: authentication failed (method XOAUTH2)"
    assert 0 != done.returncode
    assert words in done.stderr
    assert f"`{words}`" in page("mpop")


def test_a_protocol_that_is_not_served(signed_in: Person) -> None:
    """The page explains what is said."""
    configure(signed_in, **{"--proto=POP": "--proto=POPS"})

    done = signed_in.run("mpop", "-q")

    assert EX_CONFIG == done.returncode
    assert "(unknown-protocol)" in done.stderr
    assert explains("mpop", done.stderr)
