"""A report for strangers contains no name, address, id or secret, and can still be followed."""

from __future__ import annotations

import json
import re
import string
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cms.cli.doctor.bundle import PUBLIC_IDS, Redactor, addresses_in, redacted
from cms_oauth.diagnosis.verdicts import for_powershell
from cms_oauth.moves import cms

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
GUID = "43083d15-7273-40c1-b7db-39efd9ccc17a"


def redactor() -> Redactor:
    return Redactor(
        ["alice", "myhost"], "/home/alice", ["jane.doe@example.test", "jo@example.test"], ["Scheidung Müller"]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jane.doe@example.test: ok", "user-1@example.test: ok"),
        ("Jane.Doe@example.test, bob@example.test", "user-1@example.test, user-3@example.test"),
        ("of jane.doe, by alice", "of user-1, by name-1"),
        ("malice and alicent", "malice and alicent"),
        ("/home/alice/.msmtprc:3", "~/.msmtprc:3"),
        ("/home/alicent/x", "/home/name-1/x"),
        ("http://alice:pw@proxy:8080", "http://<credentials>@proxy:8080"),
        ("on myhost at 192.0.2.7 and 2001:db8::1", "on name-1 at address-1 and address-2"),
        (f"tenant {GUID}, {GUID.upper()}", "tenant id-1, id-1"),
        (f"a token {TOKEN}.", "a token <secret>"),
        ("key 0123456789abcdef0123456789abcdef", "key <secret>"),
        ("hash 0123456789abcdef", "hash <secret>"),
        ("code M.C507_BAY.0.U.aBcDeFgHiJkLmNoPqRsTuVwXyZ012345", "code <secret>"),
        ("a client secret abc8Q~AbCdEfGh.IjKlMnOpQr-StUv", "a client secret <secret>"),
        ("key: correct-horse-battery-staple-again", "key: <secret>"),
        (
            "login_hint=user%40example.test&x=jane.doe%40example.test",
            "login_hint=user-3%40example.test&x=user-1%40example.test",
        ),
        ("x@ünicode.test, jane.doe@münchen.test", "user-3@ünicode.test, user-1@münchen.test"),
        ("login jo failed for JO, who is job", "login user-2 failed for user-2, who is job"),
        ("mailbox Scheidung Müller: opened, Scheidung Müllers", "mailbox mailbox-1: opened, Scheidung Müllers"),
        ("bob@a2.very.long.example.test is bob", "user-3@a2.very.long.example.test is bob"),
        ("Set-CASMailbox -SmtpClientAuthenticationDisabled $false", None),
        ("cms 0.1.0, process 123, up 1 h 5 min; AADSTS700082; 535 5.7.139; 12:34:56", None),
        (f"application {min(PUBLIC_IDS)}", None),
        ("https://outlook.office365.com/IMAP.AccessAsUser.All, /run/cms/cms.sock: mode 0666", None),
    ],
)
def test_what_goes_and_what_stays(text: str, expected: str | None) -> None:
    """Placeholders are the same for the same thing; the report's own words stay as they are."""
    assert (text if expected is None else expected) == redactor().redact(text)


def test_a_placeholder_is_one_persons() -> None:
    """Over all texts of one report, in whatever order."""
    one = redactor()

    assert {"a": ["user-3@x.test", 1, None], "b": "user-3"} == redacted(
        {"a": ["zoe@x.test", 1, None], "b": one.redact("zoe@x.test").partition("@")[0]}, one
    )


def test_without_anything_known_addresses_still_go() -> None:
    """No configuration, no home folder: whose a path below /home is stays unsaid."""
    assert "user-1@x.test, /home/name-1" == Redactor().redact("zoe@x.test, /home/alice")


def test_addresses_are_found_wherever_they_are() -> None:
    """Their owners' names may stand alone in another place."""
    report = {"a": ["of zoe@x.test", 1, None], "b": ({"c": "x=bob%40y.test"},), "d": True}

    assert {"zoe@x.test", "bob@y.test"} == addresses_in(report)


LOCALS = st.text(string.ascii_lowercase + string.digits, min_size=2, max_size=12).filter(
    lambda text: not re.fullmatch(r"user|name|secret|address|id|credentials|example|test", text) and not text.isdigit()
)
SECRETS = st.text(string.ascii_letters + string.digits + "-_.", min_size=32, max_size=200).filter(
    lambda text: any(each.isdigit() for each in text)
)
AROUND = st.sampled_from(["{}", "'{}'", "a {} b", "x={}", "({})", "{}: ok", '"{}",', "<{}>", "/tmp/{}/x", "[{}]\n"])


@given(local=LOCALS, domain=st.sampled_from(["example.test", "mail.example.co.uk"]), around=AROUND)
def test_no_address_survives(local: str, domain: str, around: str) -> None:
    """Wherever it stands, with its domain or alone once it is known."""
    # A user who is called as a part of the domain takes that part out of it, and is taken out all the same.
    assume(local.lower() not in domain.split("."))
    one = Redactor(addresses=[f"{local}@{domain}"])
    said = one.redact(around.format(f"{local}@{domain}") + " " + around.format(local))

    assert not re.search(rf"(?<![a-z0-9]){re.escape(local)}(?![a-z0-9])", re.sub(r"user-\d+", "", said))
    assert domain in said


@pytest.mark.parametrize("local", ["o'connor", "r&d", "a=b/c", "'t.hooft", "{x}y", "50%off", "d'arc-o'neil"])
def test_no_part_of_an_odd_address_survives(local: str) -> None:
    """Alone, in a shell's and PowerShell's quotes, in a URL and in a string of JSON."""
    address = f"{local}@example.test"
    shown = (
        f"{address} <{address.upper()}> --user={address}: `{cms('login', address)}`, `Get-CASMailbox "
        f"{for_powershell(address)}`, ?login_hint={quote(address)}&z=1, {json.dumps(str(cms('login', address)))}, {local}"
    )
    said = Redactor(addresses=[address]).redact(shown)

    assert [] == [
        part
        for part in re.findall("[a-z0-9]+", local.lower())
        if re.search(rf"(?<![a-z]){part}(?![a-z])", said.lower())
    ]
    assert 8 == said.count("user-1")


@given(secret=SECRETS, around=AROUND)
def test_no_secret_survives(secret: str, around: str) -> None:
    """Nothing of a secret that is long enough to be one is left."""
    said = json.dumps(redacted({"message": around.format(secret)}, Redactor()))

    assert not any(secret[start : start + 20] in said for start in range(len(secret) - 19))
