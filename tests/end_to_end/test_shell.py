"""docs/clients/shell.md: each of its examples in a shell, with the real nc, socat and curl, against real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.contrib import replaced
from support.fragments import contrib, explains, shown
from support.person import READER, USER, Person, person
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers

SOCKET = "/run/user/1000/cms/cms.sock"


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Person]:
    """A person with mail to read."""
    for program, package in (("nc", "netcat-openbsd"), ("socat", "socat"), ("curl", "curl")):
        require_program(program, package)
    with person(installation, servers) as owner:
        owner.receive()
        yield owner


# How each of the page's examples for a token is called there, and that it is run.
TOKENS = {"nc": shown("shell", "nc"), "socat": shown("shell", "socat"), "cms-oauth": shown("shell", "cms-oauth")}


def in_place(owner: Person, example: str) -> str:
    """Return an example with the test's socket and servers."""
    words = {
        SOCKET: str(owner.socket),
        "imaps://outlook.office365.com": f"imaps://localhost:{owner.servers.imap}",
        "pop3s://outlook.office365.com": f"pop3s://localhost:{owner.servers.pop}",
        "smtp.office365.com:587": f"localhost:{owner.servers.submission}",
    }
    return replaced(example, **{old: new for old, new in words.items() if old in example})


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_is_printed(signed_in: Person, name: str) -> None:
    """A good one, and nothing else."""
    done = signed_in.shell(in_place(signed_in, TOKENS[name]))

    assert (0, "") == (done.returncode, done.stderr)
    assert signed_in.servers.entra.introspect(done.stdout.rstrip("\n"))["active"]


def test_the_socket_in_a_variable(signed_in: Person) -> None:
    """As the page exports it; cms-oauth looks nowhere else then."""
    export = in_place(signed_in, shown("shell", "socket"))
    elsewhere = replaced(export, **{"cms.sock": "elsewhere.sock"})

    found = signed_in.shell(f'{export}printf "SMTP,token {USER}\\n" | nc -U "$CMS_SOCK"')
    missed = signed_in.shell(f"{elsewhere}{TOKENS['cms-oauth']}")

    assert signed_in.servers.entra.introspect(found.stdout)["active"]
    assert (69, "") == (missed.returncode, missed.stdout)
    assert explains("shell", missed.stderr)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (f"--user={USER} --cms_sock=/run/none", "no-daemon"),
        (f"--user={USER} --proto=GRAPH", "unknown-protocol"),
        ("--user=nobody@domain.com", "unknown-account"),
        (f"--user={USER} --cms_sock=/root/cms.sock", "denied"),
    ],
)
def test_what_goes_wrong_everywhere_is_explained(signed_in: Person, options: str, code: str) -> None:
    """docs/clients/README.md has the words of cms-oauth that no page has to repeat."""
    done = signed_in.shell(f"cms-oauth {options}")

    assert 0 != done.returncode
    assert f"({code})" in done.stderr
    assert explains("README", done.stderr)


def curl(owner: Person, example: str) -> tuple[int, str, str]:
    """Run a line of the page's after the file with its function; curl trusts the test's authority."""
    owner.file("with-token.sh", contrib("with-token.sh"))
    trust = f"alias curl='curl --cacert {owner.servers.ca_file}'\n"
    done = owner.shell(f"{trust}. ./with-token.sh\n" + in_place(owner, example))
    return done.returncode, done.stdout, done.stderr


def test_curl_lists_mailboxes(signed_in: Person) -> None:
    """Over IMAPS."""
    status, out, err = curl(signed_in, shown("shell", "imaps"))

    assert (0, "") == (status, err)
    assert "INBOX" in out


def test_curl_lists_messages(signed_in: Person) -> None:
    """Over POP3S."""
    status, out, err = curl(signed_in, shown("shell", "pop3s"))

    assert (0, "") == (status, err)
    assert out.startswith("1 ")


def test_curl_sends(signed_in: Person) -> None:
    """Over SMTP with STARTTLS."""
    text, subject = signed_in.message()
    signed_in.file("message", text.replace("\n", "\r\n"))

    status, out, err = curl(signed_in, shown("shell", "smtp"))

    assert (0, "", "") == (status, out, err)
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(READER, subject)


def test_curl_says_when_the_server_refuses(signed_in: Person) -> None:
    """The words that the page explains."""
    signed_in.servers.entra.directory.revoke_access(USER)
    status, out, err = curl(signed_in, shown("shell", "imaps"))
    signed_in.logout()
    signed_in.login()

    assert (67, "") == (status, out)
    assert "curl: (67) Login denied" in err


def test_without_a_token_nothing_is_printed_or_tried(signed_in: Person) -> None:
    """nc and socat print nothing, cms-oauth says why, and curl is not started."""
    before = signed_in.servers.log().count("imap-login")
    signed_in.logout()
    printed = {name: signed_in.shell(in_place(signed_in, example)) for name, example in TOKENS.items()}
    status, out, err = curl(signed_in, shown("shell", "imaps"))
    signed_in.login()

    assert {"nc": "", "socat": "", "cms-oauth": ""} == {name: done.stdout for name, done in printed.items()}
    assert [75, 75, ""] == [printed["cms-oauth"].returncode, status, out]
    assert "(sign-in-required)" in err
    assert explains("shell", err)
    assert explains("README", err)
    assert before == signed_in.servers.log().count("imap-login")
