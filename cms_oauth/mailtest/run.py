"""`--test-smtp`, `--test-imap`, `--test-pop`: log in at a real server, run one real command, and show the dialogue.

A server may accept a login and refuse everything after it, as Exchange does for a mailbox with IMAP switched off. So
each test goes on to a command that needs the mailbox: RSET, EXAMINE INBOX, STAT.

The dialogue goes to stderr in the style of smtplib's debug output; stdout stays empty. A credential is sent once, over
verified TLS only, and never shown.

The result is a `Report`: the server's own words, what they mean (`diagnosis`), and the evidence for that.
"""

from __future__ import annotations

import imaplib
import os
import poplib
import signal
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from cms_oauth import tls
from cms_oauth.claims import claims_of
from cms_oauth.diagnosis import lookup
from cms_oauth.diagnosis.verdicts import Evidence, Verdict
from cms_oauth.dial import Failed
from cms_oauth.mailtest.dialogue import ANSWER_SECONDS, Dialogue, Place, Refused, place_of
from cms_oauth.mailtest.imap import test_imap
from cms_oauth.mailtest.pop import test_pop
from cms_oauth.mailtest.smtp import smtp_text, test_smtp

# Exchange answers within a second or two, an overloaded server within 30; this is for everything.
TEST_SECONDS = 60.0

# smtplib and others take a timeout for one failed address and try the next, so the alarm rings again.
_RING_AGAIN_SECONDS = 1.0


class Report:
    """The result of a test. `failed` is None if it passed; `reply` is the server's last word on the login.

    `verdicts` explain a failure, the likeliest first; `stale` says that another token may help; `trace` is the dialogue.
    """

    __slots__ = ("evidence", "failed", "reply", "stale", "trace", "verdicts")

    def __init__(
        self,
        failed: Failed | None,
        *,
        reply: str = "",
        verdicts: tuple[Verdict, ...] = (),
        evidence: Evidence | None = None,
        trace: list[str] | None = None,
        stale: bool = False,
    ) -> None:
        self.failed = failed
        self.reply = reply
        self.verdicts = verdicts
        self.evidence = evidence or Evidence()
        self.trace = trace or []
        self.stale = stale


def run(
    test: str,
    host: str,
    user: str,
    token: str,
    seconds: float = TEST_SECONDS,
    *,
    mailbox: str = "INBOX",
    personal: bool | None = None,
    skew: float | None = None,
    provider: str = "",
) -> Report:
    """Log in and do something there; return what came of it. In the main thread only, whose alarm clock it uses.

    `test` is "smtp", "imap" or "pop"; `seconds` bounds everything; `mailbox` is what an IMAP test opens.
    Where the caller knows it, `personal` says whether the account is a personal one, `provider` whose it is, and `skew` how
    many seconds this machine's clock is ahead; else the time in Exchange's greeting tells the latter.
    """
    place = place_of(test, host)
    if place is None:
        return Report(Failed("bad-request", f"{host!r} is no HOST or HOST:PORT", "run: cms-oauth --help"))
    dialogue = Dialogue(user, token, mailbox)
    given = Evidence(claims=claims_of(token), personal=personal, skew=skew, provider=provider)
    try:
        with _deadline(seconds):
            _TESTS[test](place, dialogue, tls.client_context())
    except Refused as refused:
        reply = dialogue.mask(refused.text)
        code = "unavailable" if refused.temporary else "denied"
        what = f"{place} refused {dialogue.step or user} over {test.upper()}: {reply}"
    except (OSError, EOFError, ValueError, smtplib.SMTPException, imaplib.IMAP4.error, poplib.error_proto) as error:
        code, what, reply = "unavailable", *_no_dialogue(test, place, dialogue, error)
    else:
        return Report(None, reply=dialogue.passed, evidence=_evidence(given, place, dialogue), trace=dialogue.trace)
    if dialogue.passed:
        what = f"the sign-in of {user} worked; after it, {what}"
    evidence = _evidence(given, place, dialogue)
    verdicts = lookup.diagnose(test, reply, evidence)
    failed = Failed(code, what, verdicts[0].hint())
    # After the login, the token was accepted: another one would not help.
    unsaid = not dialogue.passed and lookup.may_be_stale(test, reply, evidence)
    stale = unsaid or lookup.is_stale(verdicts)
    return Report(failed, reply=reply, verdicts=verdicts, evidence=evidence, trace=dialogue.trace, stale=stale)


def _evidence(given: Evidence, place: Place, dialogue: Dialogue) -> Evidence:
    """Return what the reply is judged by: what the caller knew, and what the dialogue showed."""
    return replace(
        given,
        user=dialogue.user,
        host=place.host,
        port=place.port,
        starttls=not place.tls_at_once,
        offered=dialogue.offered,
        skew=dialogue.greeted if given.skew is None else given.skew,
        now=time.time(),
        greeting=dialogue.greeting,
        challenge=dialogue.challenge,
        accepted=bool(dialogue.passed),
    )


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds, wherever it is: a server may drip a byte a second for ever."""

    def ring(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's arguments
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _RING_AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _no_dialogue(test: str, place: Place, dialogue: Dialogue, error: Exception) -> tuple[str, str]:
    """Say why the dialogue failed or broke off: as a sentence, and as the words to look up."""
    if dialogue.greeting and not lookup.is_greeting(test, dialogue.greeting):
        return f"{place} answered, but not as {test.upper()} does: {dialogue.greeting}", dialogue.greeting
    if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code > 0:
        dialogue.goodbye = dialogue.mask(smtp_text(error.smtp_code, error.smtp_error))
    if dialogue.goodbye:
        return f"{place} ended the dialogue: {dialogue.goodbye}", dialogue.goodbye
    what = _no_connection(place, error)
    if not what and not dialogue.greeting and "timed out" in str(error):
        what = f"nothing came from {place} for {ANSWER_SECONDS:.0f} s"
    elif not what:
        # smtplib's -1 says that there was no number: nothing was answered, or nothing that SMTP knows.
        said = "" if isinstance(error, smtplib.SMTPResponseException) else dialogue.mask(str(error))
        what = f"{place} gave no whole answer: {said or 'the connection was closed'}"
    return what, what


def _no_connection(place: Place, error: Exception) -> str:
    """Say why there was no connection, "" when there was one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        ignored = "".join(f"; {each}" for each in tls.misnamed(os.environ, tls.OPENSSLS))
        return f"the certificate of {place} is not trusted: {error.verify_message}{ignored}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with {place}: {error.reason}"
    if isinstance(error, socket.gaierror):
        return f"{place.host} cannot be resolved: {error.strerror}"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, smtplib.SMTPException):
        return f"no connection with {place}: {error.strerror}"
    return ""


_TESTS = {"smtp": test_smtp, "imap": test_imap, "pop": test_pop}
