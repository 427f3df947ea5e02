"""Logging in at mail servers that follow a script: the dialogue, what is shown of it, and every way it ends."""

from __future__ import annotations

import imaplib
import json
import re
import ssl
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.ports import closed_port
from support.scripted import MailServer, Talk

from cms_oauth import sasl
from cms_oauth.mailtest import dialogue
from cms_oauth.mailtest import run as mailtest
from cms_oauth.mailtest.run import Report

USER = "user@domain.com"
TOKEN = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9." + "Zm9vYmFy" * 40 + ".c2lnbmF0dXJl-_~+/"
XOAUTH2 = sasl.encode(sasl.xoauth2(USER, TOKEN))
BEARER = sasl.encode(sasl.oauthbearer(USER, TOKEN))
LAST_LINE = "reply: retcode (235); Msg: b'2.7.0 Authentication successful'"
CHALLENGE = json.dumps({"status": "401", "schemes": "Bearer", "scope": "https://mail.example.test/"})
CHALLENGE_B64 = b64encode(CHALLENGE.encode()).decode()

Script = Callable[[Talk], None]


class Outcome:
    """One test: what came of it, the dialogue that was shown, and what the server heard."""

    def __init__(self, report: Report, shown: str, heard: list[str], place: str) -> None:
        self.failed = report.failed
        self.steps = report.verdicts[0].steps if report.verdicts else ()
        self.shown = shown
        self.heard = heard
        self.place = place

    def code(self) -> str:
        return self.failed.code if self.failed else ""

    def message(self) -> str:
        return self.failed.message if self.failed else ""

    def hint(self) -> str:
        return self.failed.hint if self.failed else ""


Tester = Callable[..., Outcome]


@pytest.fixture
def tester(tls: ssl.SSLContext, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tester:
    """Run a test against a script; `at_once` is TLS from the first byte."""

    def run(
        test: str, script: Script, *, at_once: bool = False, host: str = "localhost", seconds: float = 10.0
    ) -> Outcome:
        with MailServer(script, tls if at_once else None) as server:
            monkeypatch.setattr(dialogue, "_SMTPS_PORT", server.port if at_once else 465)
            upgraded = 0 if at_once else server.port
            monkeypatch.setattr(dialogue, "_UPGRADED_PORTS", {"imap": upgraded, "pop": upgraded})
            report = mailtest.run(test, f"{host}:{server.port}", USER, TOKEN, seconds)
        failed = report.failed
        out, err = capfd.readouterr()

        assert "" == out
        assert_masked(err + (failed.message + failed.hint if failed else ""))
        return Outcome(report, err, server.heard, f"{host}:{server.port}")

    return run


def assert_masked(text: str) -> None:
    """No piece of the token, nor of anything that it is wrapped in, is in what a person sees."""
    for secret in (TOKEN, XOAUTH2, BEARER, sasl.encode(TOKEN)):
        for start in range(0, len(secret) - 20, 7):
            assert secret[start : start + 20] not in text


# --- SMTP ---


def submission(
    talk: Talk,
    tls: ssl.SSLContext,
    auth: str = "LOGIN XOAUTH2",
    login: Script | None = None,
    *,
    starttls: bool = True,
    greeting: str = "220 mail.example.test Microsoft ESMTP MAIL Service ready",
) -> None:
    """Speak as Exchange does on port 587, up to AUTH; `login` goes on from there."""
    talk.say(greeting)
    talk.hear()
    if starttls:
        talk.say("250-mail.example.test", "250 STARTTLS")
        talk.hear()
        talk.say("220 2.0.0 SMTP server ready")
        talk.start_tls(tls)
        talk.hear()
    talk.say("250-mail.example.test", f"250 AUTH {auth}")
    (login or passing)(talk)


def passing(talk: Talk) -> None:
    talk.hear()
    talk.say("334 ")
    talk.hear()
    talk.say("235 2.7.0 Authentication successful")
    after_login(talk)


def after_login(talk: Talk) -> None:
    talk.hear()
    talk.say("250 2.0.0 Resetting")
    talk.hear()
    talk.say("221 2.0.0 Bye")


def answering(*answers: str) -> Script:
    """Answer one line after another, whatever is asked."""

    def script(talk: Talk) -> None:
        for answer in answers:
            talk.hear()
            talk.say(answer)
        talk.hear()

    return script


def login_lines(outcome: Outcome) -> list[str]:
    """What the server heard after the last EHLO."""
    last = max(number for number, line in enumerate(outcome.heard) if line.lower().startswith("ehlo"))
    return [line for line in outcome.heard[last + 1 :] if line]


def test_a_passed_smtp_test_ends_with_the_line_of_cmss_document(tester: Tester, tls: ssl.SSLContext) -> None:
    """STARTTLS, AUTH in two steps, RSET; the last line is the server's answer to the login."""
    outcome = tester("smtp", lambda talk: submission(talk, tls))

    assert outcome.failed is None
    assert LAST_LINE == outcome.shown.splitlines()[-1]
    assert ["AUTH XOAUTH2", XOAUTH2, "rset", "QUIT"] == [
        line if line != "quit" else "QUIT" for line in login_lines(outcome)
    ]
    assert "send: '<credential>" in outcome.shown
    assert "send: 'AUTH XOAUTH2\\r\\n'" in outcome.shown


def test_port_465_has_tls_from_the_first_byte(tester: Tester, tls: ssl.SSLContext) -> None:
    """And no STARTTLS."""
    outcome = tester("smtp", lambda talk: submission(talk, tls, starttls=False), at_once=True)

    assert outcome.failed is None
    assert not any("STARTTLS" in line.upper() for line in outcome.heard)


def test_oauthbearer_is_used_where_nothing_else_is_offered(tester: Tester, tls: ssl.SSLContext) -> None:
    """XOAUTH2 first, since Exchange knows nothing else."""
    outcome = tester("smtp", lambda talk: submission(talk, tls, auth="OAUTHBEARER PLAIN"))

    assert outcome.failed is None
    assert ["AUTH OAUTHBEARER", BEARER] == login_lines(outcome)[:2]


def test_a_504_is_answered_with_one_line_once(tester: Tester, tls: ssl.SSLContext) -> None:
    """Some servers know only the one-line form; the token has not been sent by then."""

    def one_line(talk: Talk) -> None:
        talk.hear()
        talk.say("504 5.7.4 Unrecognized authentication type")
        talk.hear()
        talk.say("235 2.7.0 Authentication successful")
        after_login(talk)

    outcome = tester("smtp", lambda talk: submission(talk, tls, login=one_line))

    assert outcome.failed is None
    assert ["AUTH XOAUTH2", f"AUTH XOAUTH2 {XOAUTH2}"] == login_lines(outcome)[:2]
    assert LAST_LINE == outcome.shown.splitlines()[-1]


def test_a_second_504_is_the_end(tester: Tester, tls: ssl.SSLContext) -> None:
    """The token is never sent twice."""
    script = answering("504 5.7.4 Unrecognized", "504 5.7.4 Unrecognized")
    outcome = tester("smtp", lambda talk: submission(talk, tls, login=script))

    assert "denied" == outcome.code()
    assert 1 == sum(XOAUTH2 in line for line in outcome.heard)


@pytest.mark.parametrize(("auth", "closing"), [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")])
def test_an_error_challenge_is_answered_and_the_final_error_shown(
    tester: Tester, tls: ssl.SSLContext, auth: str, closing: str
) -> None:
    """XOAUTH2 ends it with an empty line, OAUTHBEARER with ^A; the JSON says more than the error."""
    script = answering("334 ", f"334 {CHALLENGE_B64}", "535 5.7.8 Bad credentials [hex id]")
    outcome = tester("smtp", lambda talk: submission(talk, tls, auth=auth, login=script))

    assert "denied" == outcome.code()
    assert f"{outcome.place} refused {USER} over SMTP: 535 5.7.8 Bad credentials [hex id]" == outcome.message()
    assert f"challenge: {CHALLENGE!r}" in outcome.shown
    assert closing == outcome.heard[outcome.heard.index(f"AUTH {auth}") + 2]


def test_a_server_that_only_challenges_is_cancelled(tester: Tester, tls: ssl.SSLContext) -> None:
    """The credential goes out once, whatever the server says."""
    script = answering("334 ", "334 bm90LWpzb24=", "334 not/base64", "501 5.7.0 cancelled")
    outcome = tester("smtp", lambda talk: submission(talk, tls, login=script))

    assert "denied" == outcome.code()
    assert ["AUTH XOAUTH2", XOAUTH2, "*"] == login_lines(outcome)[:3]
    assert "challenge: 'not-json'" in outcome.shown
    assert "challenge: 'not/base64'" in outcome.shown


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("535 5.7.3 Authentication unsuccessful [X.prod.outlook.com 2026 08D]", "denied"),
        ("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.", "denied"),
        ("454 4.7.0 Temporary authentication failure", "unavailable"),
        ("421 4.3.2 Service not active", "unavailable"),
    ],
)
def test_a_refused_login_is_shown_in_the_servers_words(
    tester: Tester, tls: ssl.SSLContext, reply: str, code: str
) -> None:
    """Support wants the whole of it; 4xx is for later, 5xx for a person."""
    outcome = tester("smtp", lambda talk: submission(talk, tls, login=answering("334 ", reply)))

    assert code == outcome.code()
    assert reply in outcome.message()
    assert (USER in outcome.hint()) == (code == "denied")


def test_a_token_in_the_servers_answer_is_masked(tester: Tester, tls: ssl.SSLContext) -> None:
    """Some servers quote the line that they do not like, or what is left of it."""
    reply = f"500 unrecognized command: {XOAUTH2[:200]} {TOKEN[30:90]}"
    outcome = tester("smtp", lambda talk: submission(talk, tls, login=answering("334 ", reply)))

    assert "500 unrecognized command: <credential> <credential>" in outcome.message()


def test_a_login_that_a_real_command_does_not_follow_has_failed(tester: Tester, tls: ssl.SSLContext) -> None:
    """RSET after AUTH must work as well."""
    script = answering("334 ", "235 2.7.0 Authentication successful", "451 4.7.0 Temporary server error. PRX2")
    outcome = tester("smtp", lambda talk: submission(talk, tls, login=script))

    assert "unavailable" == outcome.code()
    assert "PRX2" in outcome.message()
    assert LAST_LINE != outcome.shown.splitlines()[-1]


def test_a_server_that_leaves_at_quit_has_passed(tester: Tester, tls: ssl.SSLContext) -> None:
    """All that was to be shown has been."""

    def leaving(talk: Talk) -> None:
        answering("334 ", "235 2.7.0 Authentication successful", "250 OK")(talk)

    assert tester("smtp", lambda talk: submission(talk, tls, login=leaving)).failed is None


def test_no_token_goes_to_a_server_without_tls(tester: Tester) -> None:
    """The test stops if STARTTLS is not offered, whether by the server or by an attacker in between."""

    def clear(talk: Talk) -> None:
        talk.say("220 ready")
        talk.hear()
        talk.say("250-mail", "250 AUTH XOAUTH2")
        talk.hear()

    outcome = tester("smtp", clear)

    assert "denied" == outcome.code()
    assert "no TLS" in outcome.message()
    assert not any("AUTH" in line for line in outcome.heard)


def test_a_server_without_oauth_is_named_with_what_it_offers(tester: Tester, tls: ssl.SSLContext) -> None:
    """A password is not what we have."""
    outcome = tester("smtp", lambda talk: submission(talk, tls, auth="LOGIN PLAIN"))

    assert "denied" == outcome.code()
    assert "no OAuth2 login, only: LOGIN PLAIN" in outcome.message()


# --- IMAP ---


def imap(
    *answers: str,
    capability: str = "IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR",
    then: Callable[[Talk], object] = Talk.hear,
) -> Script:
    """Speak IMAP up to AUTHENTICATE, then give these answers; TAG stands for the tag of the last command."""

    def script(talk: Talk) -> None:
        talk.say("* OK The Microsoft Exchange IMAP4 service is ready.")
        tag = talk.hear().split()[0]
        talk.say(f"* CAPABILITY {capability}", f"{tag} OK CAPABILITY completed.")
        for answer in answers:
            words = talk.hear().split()
            tag = words[0] if len(words) > 1 else tag
            talk.say(*answer.replace("TAG", tag).split("\n"))
        then(talk)

    return script


IMAP_PASSING = (
    "+ ",
    "TAG OK AUTHENTICATE completed.",
    "* 3 EXISTS\nTAG OK [READ-ONLY] EXAMINE completed.",
    "* BYE see you\nTAG OK LOGOUT completed.",
)


def test_a_passed_imap_test_has_opened_the_inbox(tester: Tester) -> None:
    """TLS from the first byte, AUTHENTICATE in two steps, INBOX opened so that nothing in it changes."""
    outcome = tester("imap", imap(*IMAP_PASSING), at_once=True)

    assert outcome.failed is None
    assert ["AUTHENTICATE XOAUTH2", XOAUTH2, "EXAMINE INBOX", "LOGOUT"] == [
        re.sub(r"^[A-Z]+\d+ ", "", line) for line in outcome.heard[1:5]
    ]
    assert "<credential>" in outcome.shown
    assert "reply: b'* 3 EXISTS\\r\\n'" in outcome.shown


@pytest.mark.parametrize("answer", ["TAG BAD not now", "TAG NO not for you", "TAG OK", "* BYE no questions, please"])
def test_no_question_after_the_login_is_taken_for_its_refusal(
    tester: Tester, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """Python 3.13.18 and 3.14 ask for the capabilities after a login as well: whatever the answer, the login passed."""
    older = imaplib.IMAP4.authenticate

    def authenticate(self: imaplib.IMAP4, *given: Any) -> Any:
        said = older(self, *given)
        self._get_capabilities()  # what a newer `authenticate` ends with
        return said

    def script(talk: Talk) -> None:
        imap(*IMAP_PASSING[:2], then=lambda _: None)(talk)
        for passing in IMAP_PASSING[2:]:
            tag, command, *_ = talk.hear().split()
            answers = answer if command == "CAPABILITY" else passing
            talk.say(*answers.replace("TAG", tag).split("\n"))

    monkeypatch.setattr(imaplib.IMAP4, "authenticate", authenticate)
    outcome = tester("imap", script, at_once=True)

    assert outcome.failed is None
    assert 1 == sum("CAPABILITY" in line for line in outcome.heard)


def test_port_143_is_upgraded_first(tester: Tester, tls: ssl.SSLContext) -> None:
    """The capabilities that count are those after STARTTLS."""

    def script(talk: Talk) -> None:
        talk.say("* OK ready")
        tag = talk.hear().split()[0]
        talk.say("* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED", f"{tag} OK done")
        talk.say(f"{talk.hear().split()[0]} OK begin TLS")
        talk.start_tls(tls)
        tag = talk.hear().split()[0]
        talk.say("* CAPABILITY IMAP4rev1 AUTH=OAUTHBEARER", f"{tag} OK done")
        for answer in IMAP_PASSING:
            words = talk.hear().split()
            tag = words[0] if len(words) > 1 else tag
            talk.say(*answer.replace("TAG", tag).split("\n"))

    outcome = tester("imap", script)

    assert outcome.failed is None
    assert BEARER in outcome.heard


def test_imap_in_clear_only_is_refused(tester: Tester) -> None:
    """No token over a connection that anyone can read."""
    outcome = tester("imap", imap())

    assert "denied" == outcome.code()
    assert "no TLS" in outcome.message()


@pytest.mark.parametrize(("mechanism", "closing"), [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")])
def test_an_imap_error_challenge_is_answered(tester: Tester, mechanism: str, closing: str) -> None:
    """Not with the token; the final NO is what is told."""
    script = imap("+ ", f"+ {CHALLENGE_B64}", "TAG NO AUTHENTICATE failed.", capability=f"IMAP4rev1 AUTH={mechanism}")
    outcome = tester("imap", script, at_once=True)

    assert "denied" == outcome.code()
    assert "AUTHENTICATE failed." in outcome.message()
    assert f"challenge: {CHALLENGE!r}" in outcome.shown
    assert closing == outcome.heard[3]


def test_an_imap_server_that_only_challenges_is_cancelled(tester: Tester) -> None:
    """The credential once, the end of the error once, then `*`."""
    script = imap("+ ", f"+ {CHALLENGE_B64}", f"+ {CHALLENGE_B64}", "TAG BAD cancelled")
    outcome = tester("imap", script, at_once=True)

    assert "denied" == outcome.code()
    assert [XOAUTH2, "", "*"] == outcome.heard[2:5]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("INBOX", "INBOX"),
        ("Sent Items", '"Sent Items"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("R&D", '"R&-D"'),
        ("Entwürfe", '"Entw&APw-rfe"'),
        ("台北", '"&U,BTFw-"'),
    ],
)
def test_the_named_mailbox_is_opened(tls: ssl.SSLContext, name: str, expected: str) -> None:
    """As `cms doctor` does for `Office365("Sent Items", account)`. The last name is an example of RFC 3501."""
    with MailServer(imap(*IMAP_PASSING), tls) as server:
        report = mailtest.run("imap", f"localhost:{server.port}", USER, TOKEN, mailbox=name)

    assert report.failed is None
    assert any(line.endswith(f"EXAMINE {expected}") for line in server.heard)


@pytest.mark.parametrize("text", ["[UNAVAILABLE] try later", "Request is throttled. Suggested Backoff Time: 9 ms"])
def test_an_imap_refusal_that_time_mends_is_temporary(tester: Tester, text: str) -> None:
    """The person has nothing to do."""
    outcome = tester("imap", imap("+ ", f"TAG NO {text}"), at_once=True)

    assert "unavailable" == outcome.code()
    assert text in outcome.message()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("TAG BAD User is authenticated but not connected.\n* BYE Connection closed. 14", "ImapEnabled"),
        ("TAG NO no such mailbox", "Get-EXOMailbox"),
    ],
)
def test_a_login_that_passed_may_still_not_open_the_inbox(tester: Tester, answer: str, hint: str) -> None:
    """Exchange says so of a mailbox with IMAP switched off, and when it is in trouble itself: the hint says what to see."""
    outcome = tester("imap", imap("+ ", "TAG OK AUTHENTICATE completed.", answer), at_once=True)

    assert "unavailable" == outcome.code()
    assert outcome.message().endswith(f": {answer.partition(chr(10))[0].removeprefix('TAG ').removeprefix('NO ')}")
    assert hint in outcome.hint()


def test_an_imap_connection_that_breaks_is_no_refusal(tester: Tester) -> None:
    """A BYE in the middle of the login is trouble, not an answer."""
    script = imap("+ ", "* BYE Server Unavailable. 15", then=Talk.close)
    outcome = tester("imap", script, at_once=True)

    assert "unavailable" == outcome.code()
    assert "ended the dialogue: Server Unavailable. 15" in outcome.message()


def test_an_imap_server_with_a_challenge_that_is_no_base64(tester: Tester) -> None:
    """What is not base64 is no challenge; nothing is sent in answer to it."""
    outcome = tester("imap", imap("+ abc", "TAG OK"), at_once=True)

    assert "unavailable" == outcome.code()
    assert XOAUTH2 not in outcome.heard


# --- POP ---


def pop(*answers: str, capability: tuple[str, ...] = ("TOP", "SASL PLAIN XOAUTH2", "UIDL")) -> Script:
    def script(talk: Talk) -> None:
        talk.say("+OK The Microsoft Exchange POP3 service is ready.")
        talk.hear()
        talk.say("+OK", *capability, ".")
        for answer in answers:
            talk.hear()
            talk.say(answer)
        talk.hear()

    return script


POP_PASSING = ("+ ", "+OK User successfully authenticated.", "+OK 3 1000", "+OK bye")


def test_a_passed_pop_test_has_counted_the_mail(tester: Tester) -> None:
    """AUTH in two lines, as POP demands, and STAT."""
    outcome = tester("pop", pop(*POP_PASSING), at_once=True)

    assert outcome.failed is None
    assert ["CAPA", "AUTH XOAUTH2", XOAUTH2, "STAT", "QUIT"] == outcome.heard[:5]
    assert "reply: b'+OK 3 1000\\r\\n'" in outcome.shown


def test_port_110_is_upgraded_first(tester: Tester, tls: ssl.SSLContext) -> None:
    """STLS, then the capabilities that count."""

    def script(talk: Talk) -> None:
        talk.say("+OK ready")
        talk.hear()
        talk.say("+OK", "STLS", ".")
        talk.hear()
        talk.say("+OK begin TLS")
        talk.start_tls(tls)
        talk.hear()
        talk.say("+OK", "SASL OAUTHBEARER", ".")
        for answer in POP_PASSING:
            talk.hear()
            talk.say(answer)

    outcome = tester("pop", script)

    assert outcome.failed is None
    assert ["CAPA", "STLS", "CAPA", "AUTH OAUTHBEARER", BEARER] == outcome.heard[:5]


@pytest.mark.parametrize("script", [pop(), pop("-ERR not now", capability=("STLS",))])
def test_pop_in_clear_only_is_refused(tester: Tester, script: Script) -> None:
    """STLS not offered, or refused."""
    outcome = tester("pop", script)

    assert "denied" == outcome.code()
    assert "no TLS" in outcome.message()


def test_a_pop_server_without_capa_offers_nothing(tester: Tester) -> None:
    """So there is no mechanism to choose."""

    def script(talk: Talk) -> None:
        talk.say("+OK ready")
        answering("-ERR what?")(talk)

    assert "only: none" in tester("pop", script, at_once=True).message()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("-ERR Authentication failure: unknown user name or bad password.", "denied"),
        ("-ERR [SYS/TEMP] later", "unavailable"),
    ],
)
def test_a_pop_error_challenge_is_answered(tester: Tester, reply: str, code: str) -> None:
    """With an empty line; then the final error is told."""
    outcome = tester("pop", pop("+ ", f"+ {CHALLENGE_B64}", reply), at_once=True)

    assert code == outcome.code()
    assert reply in outcome.message()
    assert f"challenge: {CHALLENGE!r}" in outcome.shown
    assert ["AUTH XOAUTH2", XOAUTH2, ""] == outcome.heard[1:4]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [("-ERR Connection is closed. 14", "try again"), ("-ERR User is authenticated but not connected.", "PopEnabled")],
)
def test_a_pop_login_that_passed_may_still_count_nothing(tester: Tester, answer: str, hint: str) -> None:
    """As IMAP's."""
    outcome = tester("pop", pop("+ ", "+OK", answer), at_once=True)

    assert "unavailable" == outcome.code()
    assert hint in outcome.hint()


def test_a_bad_pop_greeting(tester: Tester) -> None:
    """And the connection is closed, which poplib leaves to its caller."""
    outcome = tester("pop", lambda talk: talk.say("-ERR full"), at_once=True)

    assert "unavailable" == outcome.code()
    assert "full" in outcome.message()


# --- connections ---


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_server_that_hangs_is_given_up(tester: Tester, test: str) -> None:
    """One deadline for everything, here a quarter of a second."""
    outcome = tester(test, Talk.hold, at_once=test != "smtp", seconds=0.25)

    assert "unavailable" == outcome.code()
    assert "not done after 0 s" in outcome.message()


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_server_that_says_nothing_waits_perhaps_for_the_client(
    tester: Tester, monkeypatch: pytest.MonkeyPatch, test: str
) -> None:
    """As web servers do, and ports where TLS comes first: waiting helps nobody, another port may."""
    monkeypatch.setattr(f"cms_oauth.mailtest.{test}.ANSWER_SECONDS", 0.1)

    outcome = tester(test, Talk.hold, at_once=test != "smtp")

    assert f"nothing came from {outcome.place}" in outcome.message()
    assert "check host and port" in outcome.hint()


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_server_that_drips_is_given_up(tester: Tester, test: str) -> None:
    """A byte now and then resets any timeout for one answer, not the deadline."""

    def drip(talk: Talk) -> None:
        for _ in range(1_000_000):
            talk.say("220-still" if test == "smtp" else "* OK still")

    outcome = tester(test, drip, at_once=test != "smtp", seconds=0.25)

    assert "unavailable" == outcome.code()


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_server_that_closes_at_once(tester: Tester, test: str) -> None:
    """No traceback, whichever library meets it."""
    outcome = tester(test, Talk.close, at_once=test != "smtp")

    assert "unavailable" == outcome.code()
    assert outcome.place in outcome.message()


def test_a_pop_server_that_closes_in_the_middle(tester: Tester) -> None:
    """The end of the connection is not an empty line."""

    def script(talk: Talk) -> None:
        talk.say("+OK ready")
        talk.hear()
        talk.close()

    assert "the connection was closed" in tester("pop", script, at_once=True).message()


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_certificate_of_an_unknown_authority_is_refused(
    tester: Tester, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, test: str, tmp_path: Path
) -> None:
    """In a clear sentence, and no token is sent."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    outcome = tester(test, lambda talk: submission(talk, tls), at_once=test != "smtp")

    assert "unavailable" == outcome.code()
    assert f"the certificate of {outcome.place} is not trusted" in outcome.message()
    starttls = " -starttls smtp" if test == "smtp" else ""
    assert f"to see it: `openssl s_client -connect {outcome.place}{starttls} -showcerts`" in outcome.steps
    assert "SSL_CERT_FILE" in outcome.hint()
    assert not any("AUTH" in line for line in outcome.heard)


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_variable_that_names_nothing_is_named(
    tester: Tester, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, test: str, tmp_path: Path
) -> None:
    """What OpenSSL ignores in silence is the cause, and the hint says what to correct."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nonexistent.pem"))
    outcome = tester(test, lambda talk: submission(talk, tls), at_once=test != "smtp")

    assert f"SSL_CERT_FILE names {tmp_path}/nonexistent.pem, which does not exist" in outcome.message()
    assert "correct the variable" in outcome.hint()


@pytest.mark.parametrize("test", ["smtp", "imap", "pop"])
def test_a_certificate_for_another_name_is_refused(tester: Tester, tls: ssl.SSLContext, test: str) -> None:
    """The host name is verified as well: this certificate is for localhost."""
    outcome = tester(test, lambda talk: submission(talk, tls), at_once=test != "smtp", host="127.0.0.1")

    assert "unavailable" == outcome.code()
    assert "is not trusted" in outcome.message()
    assert "127.0.0.1" in outcome.message()


def test_no_tls_at_all_is_said() -> None:
    """A server in clear where TLS was to begin."""

    def script(talk: Talk) -> None:
        talk.say("* OK ready")
        talk.hold()

    with MailServer(script) as server:
        failed = mailtest.run("imap", f"localhost:{server.port}", USER, TOKEN).failed

    assert failed
    assert "unavailable" == failed.code
    assert f"no TLS with localhost:{server.port}" in failed.message


def test_the_keys_of_the_session_are_never_logged(
    tester: Tester, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SSLKEYLOGFILE would give the token to a person who recorded the traffic."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    outcome = tester("smtp", lambda talk: submission(talk, tls))

    assert outcome.failed is None
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(("ahead", "skew", "expected"), [(7200, None, 7200), (-7200, None, -7200), (7200, 3.0, 3)])
def test_the_clock_is_judged_by_exchanges_greeting(
    tls: ssl.SSLContext, ahead: float, skew: float | None, expected: float
) -> None:
    """Where no caller has a better source; then a refusal that names no cause is the clock's fault."""
    greeting = f"220 x Microsoft ESMTP MAIL Service ready at {formatdate(time.time() - ahead)} [08DE]"
    script = answering("334 ", "535 5.7.3 Authentication unsuccessful")
    with MailServer(lambda talk: submission(talk, tls, login=script, greeting=greeting)) as server:
        report = mailtest.run("smtp", f"localhost:{server.port}", USER, TOKEN, skew=skew)
    found = report.evidence.skew

    assert found is not None
    assert found == pytest.approx(expected, abs=60)
    assert (skew is None) == ("clock-wrong" == report.verdicts[0].name)


@pytest.mark.parametrize("personal", [None, True, False])
def test_who_knows_that_an_account_is_personal_says_so(*, personal: bool | None) -> None:
    """The caller's word is among what the reply is judged by."""
    with closed_port() as port:
        report = mailtest.run("imap", f"127.0.0.1:{port}", USER, TOKEN, personal=personal)

    assert personal is report.evidence.personal


def test_a_host_that_cannot_be_reached_or_resolved(capfd: pytest.CaptureFixture[str]) -> None:
    """A closed port; a name that no server has (RFC 6761)."""
    with closed_port() as port:
        closed = mailtest.run("smtp", f"127.0.0.1:{port}", USER, TOKEN).failed
    unknown = mailtest.run("imap", "cms.invalid", USER, TOKEN, 20).failed

    assert closed
    assert f"no connection with 127.0.0.1:{port}: Connection refused" == closed.message
    assert unknown
    assert "cannot be resolved" in unknown.message or "not done" in unknown.message
    assert "" == capfd.readouterr().out


@pytest.mark.parametrize(
    ("test", "text", "host", "port", "at_once"),
    [
        ("smtp", "smtp.office365.com", "smtp.office365.com", 587, False),
        ("smtp", "host:465", "host", 465, True),
        ("smtp", "host:25", "host", 25, False),
        ("imap", "host", "host", 993, True),
        ("imap", "host:143", "host", 143, False),
        ("imap", "host:1993", "host", 1993, True),
        ("pop", "host", "host", 995, True),
        ("pop", "host:110", "host", 110, False),
        ("imap", "[::1]:143", "::1", 143, False),
        ("imap", "[::1]", "::1", 993, True),
        ("imap", "fe80::1", "fe80::1", 993, True),
    ],
)
def test_places(test: str, text: str, host: str, port: int, *, at_once: bool) -> None:
    """The usual ports, and where TLS begins."""
    place = dialogue.place_of(test, text)

    assert place is not None
    assert (host, port, at_once) == (place.host, place.port, place.tls_at_once)


@pytest.mark.parametrize(
    "text", ["host:", "host:0", "host:65536", "host:smtp", ":25", "a b", "[::1", "host:1:2", "", "[]:1"]
)
def test_what_is_no_place_is_a_mistake_in_the_options(text: str) -> None:
    """EX_USAGE, before any connection."""
    failed = mailtest.run("smtp", text, USER, TOKEN).failed

    assert failed
    assert "bad-request" == failed.code


def test_a_user_name_in_the_dialogue_is_not_taken_for_the_credential() -> None:
    """However long it is: only what the token is part of is hidden."""
    long_user = "first.last@a-long-name.onmicrosoft.example"
    login = dialogue.Dialogue(long_user, TOKEN)

    assert f"550 {long_user}" == login.mask(f"550 {long_user}")
    assert "x <credential> y" == login.mask(f"x {TOKEN} y")


def test_smtplib_is_not_loaded_by_the_client() -> None:
    """Nor are imaplib, poplib and ssl: tests alone pay for them."""
    import subprocess  # noqa: PLC0415 - for this one alone

    program = (
        "import sys, cms_oauth.main; print([n for n in ('ssl', 'smtplib', 'imaplib', 'poplib') if n in sys.modules])"
    )

    assert "[]\n" == subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
