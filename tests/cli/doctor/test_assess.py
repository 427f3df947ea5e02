"""Facts in, findings out: each with the level that it deserves, and a verdict where it does not pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cms.cli.doctor import assess
from cms.cli.doctor.assess import Asked, Folder, KeyFacts, Library, MailTest
from cms.cli.doctor.findings import Finding, as_text
from cms.core.accounts import Account, Grant
from cms_oauth.claims import Claims
from cms_oauth.diagnosis.lookup import diagnose
from cms_oauth.diagnosis.verdicts import Evidence, Verdict

MAIL = ("https://outlook.office.com/SMTP.Send",)
ACCOUNT = Account(
    "a@example.test", Grant("https://login.example.test/common", "client", "a@example.test"), {"SMTP": MAIL}
)
DAY = 86_400.0


def told(found: Finding) -> tuple[str, str]:
    """Return a finding's level, and the name of its first verdict."""
    assert (found.level in {"pass", "skip"}) is not bool(found.verdicts)
    return found.level, found.verdicts[0].name if found.verdicts else ""


def test_python_and_libraries() -> None:
    """As old as the project says, or not."""
    fine = [Library("trio", "0.35.0", "0.35"), Library("click", "8.5.1rc1", "8.5")]

    assert ("pass", "") == told(assess.python((3, 11, 0), (3, 11)))
    assert ("fail", "old-python") == told(assess.python((3, 10, 9), (3, 11)))
    assert ("pass", "") == told(assess.libraries(fine))
    assert ("pass", "") == told(assess.libraries([]))
    old = assess.libraries([*fine, Library("msal", "1.4", "1.39"), Library("requests", "", "2.34")])
    assert ("fail", "old-library") == told(old)
    assert "msal 1.4 (needs 1.39), requests is missing (needs 2.34)" == old.message
    assert "`pip install --upgrade 'msal>=1.39' 'requests>=2.34'`" in old.verdicts[0].steps[0]


FOLDER = Folder("/state", True, 100, "cms", 0o700, 1 << 40, 2)


@pytest.mark.parametrize(
    ("found", "uid", "expected"),
    [
        (FOLDER, 100, ("pass", "")),
        (FOLDER, 0, ("pass", "")),
        (FOLDER, 1000, ("fail", "not-ours")),
        (Folder("/state", exists=False), 1000, ("pass", "")),
        (Folder("/state", error="Permission denied"), 1000, ("skip", "")),
        (replace(FOLDER, mode=0o755), 100, ("warn", "open-folder")),
        (replace(FOLDER, free=1 << 25), 100, ("warn", "disk-full")),
        (replace(FOLDER, free=1000), 100, ("fail", "disk-full")),
    ],
)
def test_the_state_folder(found: Folder, uid: int, expected: tuple[str, str]) -> None:
    """Ours, private, and with room for a rotated sign-in."""
    assert expected == told(assess.state_folder(found, uid))


LOCKED = {"state": "locked", "problem": {"message": "the keyring is locked"}, "next_move": "log in to the desktop"}


@pytest.mark.parametrize(
    ("found", "rows", "expected", "words"),
    [
        (KeyFacts(""), [], ("pass", ""), "chosen automatically"),
        (KeyFacts("file", "/key"), [], ("pass", ""), "file /key"),
        (KeyFacts("odd", "x"), [], ("pass", ""), "odd x"),
        (KeyFacts("file", "/key"), [{"key_from": "file /key"}], ("pass", ""), "file /key"),
        (KeyFacts("file", "/key"), [{"persisted": True, "key_from": "key file /key"}], ("pass", ""), "key file /key"),
        (KeyFacts("file", "/k"), [{"persisted": True, "key_from": "keyring"}], ("warn", "old-key"), "keyring"),
        (KeyFacts(""), [{"persisted": True, "key_from": "key file /key"}], ("pass", ""), "key file /key"),
        (KeyFacts("file", "/key", "it is not there", "restore it"), [], ("fail", "key"), "/key: it is not there"),
        (KeyFacts("keyring"), [LOCKED], ("fail", "locked"), "the keyring is locked"),
        (KeyFacts("keyring"), [{"state": "locked"}], ("fail", "locked"), "locked"),
        (KeyFacts(""), [{"persisted": False}], ("warn", "memory-only"), "none"),
        (KeyFacts("memory"), [{"persisted": False}], ("pass", ""), "memory only, as configured"),
    ],
)
def test_the_key(found: KeyFacts, rows: list[dict[str, Any]], expected: tuple[str, str], words: str) -> None:
    """What the daemon says of it comes before what can be seen of its place."""
    finding = assess.key(found, rows)

    assert expected == told(finding)
    assert words in finding.message


DAEMON = {"daemon": {"version": "1.2", "pid": 7, "uptime": 100, "config": "/c", "warnings": []}}


def test_the_daemon() -> None:
    """One that is of the installed version, with the configuration that was looked at, passes."""
    assert [("pass", "")] == [told(each) for each in assess.daemon(DAEMON, "1.2", "/c", 200.0)]
    assert [("pass", "")] == [told(each) for each in assess.daemon(DAEMON, "1.2", "", None)]


def test_a_daemon_that_is_not_what_is_installed() -> None:
    """Another version, another configuration, one that was written after the start, and its own warnings."""
    warned = {"daemon": {**DAEMON["daemon"], "warnings": ["memory only", 3]}}

    assert ("warn", "old-daemon") == told(assess.daemon(DAEMON, "1.3", "/c", 200.0)[0])
    assert [("pass", ""), ("warn", "other-config")] == [told(each) for each in assess.daemon(DAEMON, "1.2", "/d", 1.0)]
    assert [("pass", ""), ("warn", "reload")] == [told(each) for each in assess.daemon(DAEMON, "1.2", "/c", 50.0)]
    (_, finding) = assess.daemon(warned, "1.2", "/c", 200.0)
    assert ("warn", "memory only") == (finding.level, finding.message)


def test_a_daemon_that_has_loaded_since_knows() -> None:
    """A daemon that tells when it has loaded its configuration is believed."""
    loaded = {"daemon": {**DAEMON["daemon"], "loaded": 40.0}}

    assert 1 == len(assess.daemon(loaded, "1.2", "/c", 50.0))
    assert 2 == len(assess.daemon(loaded, "1.2", "/c", 30.0))


def test_no_daemon() -> None:
    """It is said, with the command."""
    assert ("fail", "no-daemon") == told(assess.no_daemon("no daemon is running", "start it"))
    assert ("fail", "no-control-socket") == told(assess.no_daemon("it has lost its socket", "wait", runs=True))


ROW = {"user": "a@example.test", "protocols": ["SMTP"], "state": "ok", "usable": True, "problem": None}
PROBLEM = {"kind": "refused", "message": "the sign-in was revoked", "aadsts": 50173}
DUE = {"reason": "it ended after a day before", "certainty": "likely"}


@pytest.mark.parametrize(
    ("row", "level"),
    [
        (ROW, "pass"),
        ({**ROW, "forecast": {**DUE, "due": 30 * DAY}}, "pass"),
        ({**ROW, "forecast": {**DUE, "due": DAY}}, "warn"),
        ({**ROW, "problem": PROBLEM, "state": "sign-in-required"}, "warn"),
        ({**ROW, "problem": PROBLEM, "state": "sign-in-required", "usable": False}, "fail"),
        ({**ROW, "problem": {"kind": "network", "message": "no network"}, "state": "failing"}, "warn"),
        ({"state": "failing", "problem": {"kind": "network", "message": "no network", "aadsts": None}}, "fail"),
    ],
)
def test_a_sign_in(row: dict[str, Any], level: str) -> None:
    """What is wrong with it, or when it will end."""
    assert level == told(assess.sign_in(row, 0.0))[0]


def test_a_certificate_that_ends_soon() -> None:
    """Its application's sign-in works until then, and the doctor says when that is, and what to do."""
    finding = assess.sign_in({**ROW, "credential_due": True, "credential_expires_at": 19 * DAY}, 0.0)

    assert ("warn", "certificate-ends") == told(finding)
    assert finding.message.endswith("the application's certificate ends in 19 d")
    assert "upload a new one" in finding.verdicts[0].steps[0]


def test_an_application_is_not_told_to_sign_in() -> None:
    """An application's refusals have separate rows."""
    problem = {"kind": "application", "message": "no permission", "aadsts": 65001}
    finding = assess.sign_in({**ROW, "problem": problem, "state": "failing"}, 0.0)

    assert "application-not-permitted" == finding.verdicts[0].name
    assert not any("cms login" in step for step in finding.verdicts[0].steps)


@pytest.mark.parametrize(
    ("kind", "reason", "name"),
    [
        ("refused", "invalid_grant", "ended"),
        ("refused", "invalid_rapt", "session-control"),
        ("application", "unauthorized_client", "no-delegation"),
        ("network", "", "network"),
    ],
)
def test_another_provider_is_explained_by_its_word(kind: str, reason: str, name: str) -> None:
    """The further steps are those of the provider's table; what it did not say is in the daemon's words."""
    problem = {"kind": kind, "message": "no", "aadsts": None, "reason": reason}
    row = {**ROW, "provider": "google", "problem": problem, "state": "sign-in-required"}
    (verdict,) = assess.sign_in(row, 0.0).verdicts

    assert name == verdict.name
    assert reason in verdict.cause


def test_a_refusal_of_entras_is_explained_by_its_number() -> None:
    """A refusal that only time can fix names no person."""
    refused = assess.sign_in({**ROW, "problem": PROBLEM, "state": "sign-in-required"}, 0.0)
    failing = assess.sign_in({**ROW, "problem": {"kind": "network", "message": "no network"}, "state": "failing"}, 0.0)

    assert "50173" in refused.verdicts[0].cause
    assert "wait" == failing.verdicts[0].mover


GOOD = Asked(ACCOUNT, "SMTP", got=True, claims=Claims("https://outlook.office.com", ("SMTP.Send",)))
GRAPH = Asked(ACCOUNT, "SMTP", got=True, claims=Claims("https://graph.microsoft.com", ("Mail.Send",)))
ROLELESS = Claims("https://outlook.office365.com", roles=("IMAP.AccessAsApp",), application=True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (GOOD, ("pass", "")),
        (Asked(ACCOUNT, "SMTP", got=True), ("pass", "")),
        (Asked(ACCOUNT, "SMTP", got=True, claims=Claims()), ("pass", "")),
        (GRAPH, ("fail", "unfit-token")),
        (Asked(ACCOUNT, "SMTP", got=True, claims=ROLELESS), ("warn", "unfit-token")),
        (Asked(ACCOUNT, "SMTP", message="no socket serves it"), ("skip", "")),
        (Asked(ACCOUNT, "SMTP", code="sign-in-required", message="no"), ("fail", "sign-in-required")),
    ],
)
def test_a_token(asked: Asked, expected: tuple[str, str]) -> None:
    """There, and for the protocol; or why not."""
    assert expected == told(assess.token(asked))


@pytest.mark.parametrize(("provider", "personal"), [("microsoft", True), ("google", False)])
def test_a_token_that_nobody_can_look_into(provider: str, *, personal: bool) -> None:
    """Microsoft's are for personal accounts only; other providers may have no other ones."""
    account = replace(ACCOUNT, grant=replace(ACCOUNT.grant, provider=provider))
    found = assess.token(Asked(account, "SMTP", got=True))

    assert ("pass", personal) == (found.level, "personal accounts" in found.message)


@pytest.mark.parametrize("asked", [GOOD, Asked(ACCOUNT, "SMTP", got=True), GRAPH])
def test_a_token_that_some_programs_have_no_room_for(asked: Asked) -> None:
    """A warning, unless something worse is wrong with it."""
    row = {"state": "ok", "problem": None, "too_long": "the token has 3500 bytes"}
    expected = ("fail", "unfit-token") if asked is GRAPH else ("warn", "long-token")

    assert expected == told(assess.token(asked, row))
    assert "pass" == assess.token(GOOD, row | {"too_long": ""}).level


def test_why_there_is_no_token_is_told_once() -> None:
    """By the sign-in, where its state is the answer; another answer is told here too."""
    asked = Asked(ACCOUNT, "SMTP", code="sign-in-required", message="the sign-in was revoked", hint="`cms login`")
    row = {"state": "sign-in-required", "problem": {"kind": "refused"}}

    assert ("skip", "") == told(assess.token(asked, row))
    assert ("fail", "denied") == told(assess.token(replace(asked, code="denied"), row))
    assert ("fail", "sign-in-required") == told(assess.token(asked, {"state": "ok", "problem": None}))


@pytest.mark.parametrize(
    ("usable", "reason", "level"),
    [
        (False, "the tenant does not know it", "skip"),
        (True, "the tenant does not know it", "fail"),
        (False, "", "fail"),
    ],
)
def test_why_an_application_has_no_token_is_told_once(reason: str, level: str, *, usable: bool) -> None:
    """Its state is `refused` and the answer `unavailable`: the reason is the same. A token that there was is news."""
    asked = Asked(ACCOUNT, "SMTP", code="unavailable", message="the tenant does not know it")
    row = {"state": "refused", "usable": usable, "problem": {"kind": "refused", "message": reason}}

    assert level == assess.token(asked, row).level


def test_consent() -> None:
    """Where scopes can be seen, that of the protocol is among them."""
    unasked = replace(GOOD, claims=Claims("https://outlook.office.com", ("IMAP.AccessAsUser.All",)))
    good, bad = assess.consent(GOOD), assess.consent(unasked)

    assert good is not None
    assert bad is not None
    assert (("pass", ""), ("fail", "consent")) == (told(good), told(bad))
    assert assess.consent(replace(GOOD, protocol="GRAPH")) is None
    assert assess.consent(replace(GOOD, claims=None)) is None
    assert assess.consent(replace(GOOD, claims=Claims())) is None
    assert assess.consent(replace(GOOD, claims=ROLELESS)) is None


MAILED = MailTest("IMAP", "a@example.test", "outlook.office365.com")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (MAILED, ("pass", "")),
        (replace(MAILED, mailbox="inbox"), ("pass", "")),
        (replace(MAILED, code="denied", verdicts=(Verdict("imap-off", "off", "administrator"),)), ("fail", "imap-off")),
        (replace(MAILED, code="unavailable", message="late"), ("fail", "unavailable")),
        (replace(MAILED, code="bad-request", message="no host", hint="name one"), ("fail", "bad-request")),
    ],
)
def test_a_mail_server(found: MailTest, expected: tuple[str, str]) -> None:
    """The test's own verdicts, or what is known without any."""
    assert expected == told(assess.mail(found))


@pytest.mark.parametrize(
    ("protocol", "reply", "way"),
    [
        ("smtp", "535 5.7.139 SmtpClientAuthentication is disabled for the Tenant.", "contrib/graph-sendmail"),
        ("smtp", "535 5.7.3 Authentication unsuccessful", "contrib/graph-sendmail"),
        ("imap", "BAD User is authenticated but not connected.", "DavMail"),
        ("pop", "-ERR Authentication failure: unknown user name or bad password.", "DavMail"),
    ],
)
def test_a_mailbox_that_is_switched_off(protocol: str, reply: str, way: str) -> None:
    """The report names the way that is left, and its page."""
    verdicts = diagnose(protocol, reply, Evidence(user=MAILED.user, host="outlook.office365.com"))
    found = assess.mail(MailTest(protocol.upper(), MAILED.user, MAILED.host, "denied", reply, verdicts=verdicts))

    said = " ".join(each.strip() for each in as_text(found))
    assert (True, 1) == (way in said, said.count("docs/other-ways.md"))


def test_a_finding_names_its_mailbox() -> None:
    """The finding names the mailbox as the configuration does."""
    assert "mailbox Sent" == assess.mail(replace(MAILED, mailbox="Sent")).check
