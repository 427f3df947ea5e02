"""`--test-smtp`, `--test-imap`, `--test-pop`: log in at a real server, do one real thing, and show the dialogue.

A server may take a login and still refuse all that comes after it (Exchange does, for a mailbox with IMAP switched
off), so each test goes on to a command that needs the mailbox: RSET, EXAMINE INBOX, STAT.

The dialogue goes to stderr in the style of smtplib's debug output; stdout stays empty. A credential is sent once, over
verified TLS only, and never shown. smtplib, imaplib and poplib are imported here and nowhere else.

What comes of it is a `Report`: the server's own words, what they mean (`diagnosis`), and what that was judged by.
"""

from __future__ import annotations

import imaplib
import poplib
import re
import signal
import smtplib
import socket
import ssl
import sys
import time
from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from cms_oauth import diagnosis, sasl
from cms_oauth.claims import claims_of
from cms_oauth.dial import Failed
from cms_oauth.verdicts import Evidence, Verdict

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Exchange answers within a second or two, an overloaded server within 30; this is for everything.
TEST_SECONDS = 60.0

# For one answer, and for one of a host's addresses to be reached: the next one wants its chance within the minute.
_ANSWER_SECONDS = 20.0

# Once the time is up, libraries that take a timeout for one failed address of several are told again.
_RING_AGAIN_SECONDS = 1.0

# Exchange advertises XOAUTH2 alone; OAUTHBEARER is for servers that know only the standard.
_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")

_DEFAULT_PORTS = {"smtp": 587, "imap": 993, "pop": 995}

# Submission has TLS from the first byte on port 465 alone; IMAP and POP have it everywhere but on their oldest ports.
_SMTPS_PORT = 465
_UPGRADED_PORTS = {"imap": 143, "pop": 110}

# What IMAP and POP servers say when it is theirs to mend and time helps (reference: Exchange's replies, RFC 5530, 3206).
_TEMPORARY = ("[UNAVAILABLE]", "[INUSE]", "[LIMIT]", "[SYS/TEMP]", "[IN-USE]", "THROTTLED", "SERVER UNAVAILABLE")

_SMTP_DONE = 250
_SMTP_CONTINUE = 334
_SMTP_PASSED = 235
_SMTP_UNRECOGNISED = 504
_SMTP_PERMANENT = 500


# A challenge has some hundred characters; RFC 4954 allows 12,288, and POP's own limit is less.
_POP_MAX_LINE = 16 * 1024


class _Refused(Exception):
    """The server's answer is the end of the test. `text` is its own words."""

    def __init__(self, text: str, *, temporary: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.temporary = temporary


class Report:
    """What came of a test. `failed` is None where it passed; `reply` is the server's last word on the login.

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


class Place:
    """Where to log in. `tls_at_once` is False where the connection begins in clear and is upgraded."""

    __slots__ = ("host", "port", "tls_at_once")

    def __init__(self, host: str, port: int, *, tls_at_once: bool) -> None:
        self.host = host
        self.port = port
        self.tls_at_once = tls_at_once

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def place_of(test: str, text: str) -> Place | None:
    """Return the place that HOST, HOST:PORT, [ADDRESS]:PORT or a bare IPv6 address names; None when it names none."""
    shape = re.fullmatch(
        r"\[([^\]\s]+)\](?::(\d{1,5}))?|([^:\[\]\s]+)(?::(\d{1,5}))?|([0-9A-Fa-f.]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)", text
    )
    if not shape:
        return None
    host = shape[1] or shape[3] or shape[5]
    port = int(shape[2] or shape[4] or _DEFAULT_PORTS[test])
    at_once = port == _SMTPS_PORT if test == "smtp" else port != _UPGRADED_PORTS[test]
    return Place(host, port, tls_at_once=at_once) if 0 < port < 1 << 16 else None


class Login:
    """Who logs in, with what and for which mailbox of IMAP's, and the dialogue as far as it may be shown.

    `greeting`, `offered` and `challenge` are what the server said before it decided, and `greeted` is how far this
    machine's clock was ahead of the time in its greeting, None where that had none; `passed` is its answer to a login
    that passed; `farewell` is what it said when it left in the middle.
    """

    # A piece of a credential as long as this is one, whatever a server has cut off around it; `mask` looks for words
    # of at least this length.
    _TELLING = 20

    def __init__(self, user: str, token: str, mailbox: str = "INBOX") -> None:
        self.user = user
        self.mailbox = mailbox
        self.trace: list[str] = []
        self.greeting = ""
        self.greeted: float | None = None
        self.offered: tuple[str, ...] = ()
        self.challenge = ""
        self.passed = ""
        self.farewell = ""
        self._texts = {"XOAUTH2": sasl.xoauth2(user, token), "OAUTHBEARER": sasl.oauthbearer(user, token)}
        self._forms = "\n".join([token, *map(sasl.encode, (token, *self._texts.values()))])

    def text(self, mechanism: str) -> str:
        """Return the initial response of a mechanism, not encoded."""
        return self._texts[mechanism]

    def mask(self, text: str) -> str:
        """Return the text with each word hidden that has a telling piece of the credential in it."""
        return re.sub(r"[^\s'\"\\]{20,}", self._masked, text)

    def _masked(self, word: re.Match[str]) -> str:
        pieces = (word[0][start : start + self._TELLING] for start in range(len(word[0]) - self._TELLING + 1))
        return "<credential>" if any(piece in self._forms for piece in pieces) else word[0]

    def show(self, text: str) -> None:
        """Show one line of the dialogue on stderr, and keep it."""
        self.trace.append(self.mask(text))
        print(self.trace[-1], file=sys.stderr, flush=True)

    def greet(self, text: str) -> None:
        """Keep the server's first line; later ones are none."""
        if not self.greeting:
            self.greeting, said = self.mask(text), diagnosis.clock_of(text)
            self.greeted = None if said is None else time.time() - said


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
) -> Report:
    """Log in and do something there; return what came of it. In the main thread only, whose alarm clock it uses.

    `test` is "smtp", "imap" or "pop"; `seconds` bounds everything; `mailbox` is what an IMAP test opens.
    `personal` says whether the account is a personal one and `skew` how many seconds this machine's clock is ahead,
    where the caller knows; else the time in Exchange's greeting tells the latter.
    """
    place = place_of(test, host)
    if place is None:
        return Report(Failed("bad-request", f"{host!r} is no HOST or HOST:PORT", "run: cms-oauth --help"))
    login = Login(user, token, mailbox)
    given = Evidence(claims=claims_of(token), personal=personal, skew=skew)
    try:
        with _deadline(seconds):
            _TESTS[test](place, login, _context())
    except _Refused as refused:
        reply = login.mask(refused.text)
        code = "unavailable" if refused.temporary else "denied"
        what = f"{place} refused {user} over {test.upper()}: {reply}"
    except (OSError, EOFError, ValueError, smtplib.SMTPException, imaplib.IMAP4.error, poplib.error_proto) as error:
        code, what, reply = "unavailable", *_no_dialogue(place, login, error)
    else:
        return Report(None, reply=login.passed, evidence=_evidence(given, place, login), trace=login.trace)
    evidence = _evidence(given, place, login)
    verdicts = diagnosis.diagnose(test, reply, evidence)
    failed = Failed(code, what, verdicts[0].hint())
    # What is refused after the login is refused to whoever it was that the token has let in.
    unsaid = not login.passed and diagnosis.may_be_stale(test, reply, evidence)
    stale = unsaid or diagnosis.is_stale(verdicts)
    return Report(failed, reply=reply, verdicts=verdicts, evidence=evidence, trace=login.trace, stale=stale)


def _evidence(given: Evidence, place: Place, login: Login) -> Evidence:
    """Return what the reply is to be judged by: what was known before, and what the dialogue has told."""
    return replace(
        given,
        user=login.user,
        host=place.host,
        offered=login.offered,
        skew=login.greeted if given.skew is None else given.skew,
        now=time.time(),
        greeting=login.greeting,
        challenge=login.challenge,
    )


def _context() -> ssl.SSLContext:
    """Return what TLS is made with: certificate and host name verified against the system's authorities.

    SSL_CERT_FILE names others. Not `create_default_context`, which writes the session's keys where SSLKEYLOGFILE says.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    return context


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


def _no_dialogue(place: Place, login: Login, error: Exception) -> tuple[str, str]:
    """Say why there was no talking to the server, or none to the end: in a sentence, and in words to look up."""
    if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code > 0:
        login.farewell = login.mask(_smtp_text(error.smtp_code, error.smtp_error))
    if login.farewell:
        return f"{place} ended the dialogue: {login.farewell}", login.farewell
    what = _no_connection(place, error)
    if not what:
        what = f"{place} gave no whole answer: {login.mask(str(error)) or 'the connection was closed'}"
    return what, what


def _no_connection(place: Place, error: Exception) -> str:
    """Say why there was no connection, "" when there was one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {place} does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with {place}: {error.reason}"
    if isinstance(error, socket.gaierror):
        return f"{place.host} cannot be resolved: {error.strerror}"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, smtplib.SMTPException):
        return f"no connection with {place}: {error.strerror}"
    return ""


def _mechanism(login: Login, offered: list[str]) -> str:
    """Return the mechanism to use of those that a server offers."""
    login.offered = tuple(offered)
    for mechanism in _MECHANISMS:
        if mechanism in offered:
            return mechanism
    raise _Refused(f"it offers no OAuth2 login, only: {' '.join(offered) or 'none'}")


def _answers(login: Login, mechanism: str) -> Callable[[bytes], bytes | None]:
    """Return what answers a server's challenges: the credential once, then what ends an error, then None to cancel."""
    answers = iter((login.text(mechanism).encode(), sasl.closing_answer(mechanism).encode()))

    def answer(challenge: bytes) -> bytes | None:
        if challenge:
            text = challenge.decode(errors="replace")
            login.challenge = login.mask(text)
            login.show(f"challenge: {text!r}")
        return next(answers, None)

    return answer


def _line(answer: bytes | None) -> str:
    """Return an answer as SMTP and POP carry it; `*` cancels."""
    return "*" if answer is None else sasl.encode(answer.decode())


def _decoded(challenge: bytes | str) -> bytes:
    """Return a challenge without its base64, or as it is where it has none."""
    try:
        return a2b_base64(challenge)
    except NotBase64:
        return challenge if isinstance(challenge, bytes) else challenge.encode()


def _in_clear() -> _Refused:
    return _Refused("it offers no TLS there, and no token is sent in clear")


class _Smtp(smtplib.SMTP):
    """smtplib's client with the dialogue shown."""

    def __init__(self, place: Place, login: Login, **tls: Any) -> None:
        self._login = login
        try:
            super().__init__(place.host, place.port, timeout=_ANSWER_SECONDS, **tls)
        except BaseException:
            self.close()
            raise

    def send(self, s: ReadableBuffer | str) -> None:
        self._login.show(f"send: {s!r}")
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        code, message = super().getreply()
        self._login.greet(_smtp_text(code, message))
        self._login.show(f"reply: retcode ({code}); Msg: {message!r}")
        return code, message


class _Smtps(_Smtp, smtplib.SMTP_SSL):
    """The same over TLS from the first byte."""


def _test_smtp(place: Place, login: Login, context: ssl.SSLContext) -> None:
    client = _Smtps(place, login, context=context) if place.tls_at_once else _Smtp(place, login)
    with closing(client) as smtp:
        smtp.ehlo_or_helo_if_needed()
        if not place.tls_at_once:
            if not smtp.has_extn("starttls"):
                raise _in_clear()
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        code, message = _smtp_login(smtp, login)
        reset = smtp.rset()
        if reset[0] != _SMTP_DONE:
            raise _of_smtp(*reset)
        with suppress(smtplib.SMTPException, OSError):
            smtp.quit()
    # The promise of CMS's document: the last line is the server's answer to the login.
    login.show(f"reply: retcode ({code}); Msg: {message!r}")


def _smtp_login(smtp: smtplib.SMTP, login: Login) -> tuple[int, bytes]:
    """Log in and return the server's answer.

    In two steps, since a command line may not be as long as a token (RFC 4954, 4); in one, once, where a server says
    that it does not know that way: by then it has not seen the token.
    """
    mechanism = _mechanism(login, smtp.esmtp_features.get("auth", "").upper().split())
    answer = _answers(login, mechanism)
    code, message = smtp.docmd("AUTH", mechanism)
    if code == _SMTP_UNRECOGNISED:
        code, message = smtp.docmd("AUTH", f"{mechanism} {_line(answer(b''))}")
    while code == _SMTP_CONTINUE:
        code, message = smtp.docmd(_line(answer(_decoded(message))))
    if code != _SMTP_PASSED:
        raise _of_smtp(code, message)
    login.passed = _smtp_text(code, message)
    return code, message


def _of_smtp(code: int, message: bytes) -> _Refused:
    return _Refused(_smtp_text(code, message), temporary=code < _SMTP_PERMANENT)


def _smtp_text(code: int, message: bytes | str) -> str:
    text = message if isinstance(message, str) else message.decode(errors="replace")
    return f"{code} {' '.join(text.split())}"


class _Imap(imaplib.IMAP4):
    """imaplib's client with the dialogue shown."""

    def __init__(self, place: Place, login: Login, **tls: Any) -> None:
        self._login = login
        super().__init__(place.host, place.port, timeout=_ANSWER_SECONDS, **tls)

    def send(self, data: ReadableBuffer) -> None:
        self._login.show(f"send: {data!r}")
        super().send(data)

    def readline(self) -> bytes:
        line = super().readline()
        text = line.decode(errors="replace").strip()
        self._login.greet(text)
        if text.upper().startswith("* BYE "):
            self._login.farewell = self._login.mask(text[len("* BYE ") :])
        self._login.show(f"reply: {line!r}")
        return line


class _Imaps(_Imap, imaplib.IMAP4_SSL):
    """The same over TLS from the first byte."""


def _test_imap(place: Place, login: Login, context: ssl.SSLContext) -> None:
    imap = _Imaps(place, login, ssl_context=context) if place.tls_at_once else _Imap(place, login)
    try:
        if not place.tls_at_once:
            if "STARTTLS" not in imap.capabilities:
                raise _in_clear()
            imap.starttls(context)
        _imap_login(imap, login)
        with suppress(imaplib.IMAP4.error, OSError):
            imap.logout()
    finally:
        # imaplib's own way to close logs out first, and what goes wrong with that hides what went wrong before.
        with suppress(OSError):
            imap.shutdown()


def _imap_login(imap: imaplib.IMAP4, login: Login) -> None:
    """Log in, and open the mailbox so that nothing in it changes."""
    mechanism = _mechanism(
        login, [each.removeprefix("AUTH=") for each in imap.capabilities if each.startswith("AUTH=")]
    )
    with _said_no():
        # Any: typeshed has it for text, and it is a list of bytes.
        said: Any = imap.authenticate(mechanism, _answers(login, mechanism))
    login.passed = f"{said[0]} {said[1][0].decode(errors='replace')}"
    with _said_no(after_login=True):
        status, data = imap.select(_mailbox_name(login.mailbox), readonly=True)
        if status != "OK":
            raise imaplib.IMAP4.error((data[0] or b"").decode(errors="replace"))


def _mailbox_name(name: str) -> str:
    """Return a mailbox's name as IMAP carries it: modified UTF-7 (RFC 3501, 5.1.3), quoted where it is no plain word."""

    def shifted(found: re.Match[str]) -> str:
        return f"&{b2a_base64(found[0].encode('utf-16-be'), newline=False).decode().rstrip('=').replace('/', ',')}-"

    encoded = re.sub(r"[^\x20-\x7e]+", shifted, name.replace("&", "&-"))
    return encoded if encoded.isalnum() else '"' + re.sub(r'(["\\])', r"\\\1", encoded) + '"'


@contextmanager
def _said_no(*, after_login: bool = False) -> Iterator[None]:
    """Turn imaplib's exception for NO and BAD into the server's answer; a lost connection stays what it is.

    What is refused after a login that passed may be Exchange's trouble as well as the mailbox's.
    """
    try:
        yield
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as error:
        text = _own_words(str(error))
        raise _Refused(text, temporary=after_login or _is_temporary(text)) from None


def _own_words(text: str) -> str:
    """Return the server's answer without what imaplib puts around it: `EXAMINE command error: BAD [b'...']`."""
    found = re.fullmatch(r"\w+ command error: (\w+) \[b(['\"])(.*)\2\]", text)
    return f"{found[1]} {found[3]}" if found else text


def _is_temporary(text: str) -> bool:
    return any(word in text.upper() for word in _TEMPORARY)


class _Pop(poplib.POP3):
    """poplib's connection. poplib knows no AUTH, so commands are sent from here, and shown."""

    def __init__(self, place: Place, login: Login, **tls: Any) -> None:
        self._login = login
        try:
            super().__init__(place.host, place.port, timeout=_ANSWER_SECONDS, **tls)
        except BaseException:
            # poplib leaves its socket open when the greeting is bad, and has none when there was no connection.
            with suppress(AttributeError):
                self.close()
            raise
        self._login.greet(self.getwelcome().decode(errors="replace"))
        self._login.show(f"reply: {self.getwelcome()!r}")

    def ask(self, command: str) -> str:
        """Send a command and return the first line of the answer."""
        line = command.encode() + b"\r\n"
        self._login.show(f"send: {line!r}")
        self.sock.sendall(line)
        return self.more()

    def more(self) -> str:
        """Return the next line of an answer."""
        line = self.file.readline(_POP_MAX_LINE)
        if not line:
            raise EOFError
        self._login.show(f"reply: {line!r}")
        return line.decode(errors="replace").rstrip("\r\n")

    def capabilities(self) -> list[str]:
        """Return the lines of CAPA, in capitals; none where the server does not know that."""
        lines = []
        if self.ask("CAPA").startswith("+OK"):
            while (line := self.more()) != ".":
                lines.append(line.upper())
        return lines

    def upgrade(self, context: ssl.SSLContext) -> None:
        """Go on over TLS. What came in clear before is forgotten."""
        self.file.close()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        self.file = self.sock.makefile("rb")


class _Pops(_Pop, poplib.POP3_SSL):
    """The same over TLS from the first byte."""


def _test_pop(place: Place, login: Login, context: ssl.SSLContext) -> None:
    client = _Pops(place, login, context=context) if place.tls_at_once else _Pop(place, login)
    with closing(client) as pop:
        if not place.tls_at_once:
            if "STLS" not in pop.capabilities() or not pop.ask("STLS").startswith("+OK"):
                raise _in_clear()
            pop.upgrade(context)
        _pop_login(pop, login)
        status = pop.ask("STAT")
        if not status.startswith("+OK"):
            raise _Refused(status, temporary=True)
        pop.ask("QUIT")


def _pop_login(pop: _Pop, login: Login) -> None:
    sasl_line = next((line for line in pop.capabilities() if line.startswith("SASL ")), "")
    mechanism = _mechanism(login, sasl_line.split()[1:])
    answer = _answers(login, mechanism)
    reply = pop.ask(f"AUTH {mechanism}")
    while reply.startswith("+") and not reply.startswith("+OK"):
        reply = pop.ask(_line(answer(_decoded(reply[2:]))))
    if not reply.startswith("+OK"):
        raise _Refused(reply, temporary=_is_temporary(reply))
    login.passed = reply


_TESTS = {"smtp": _test_smtp, "imap": _test_imap, "pop": _test_pop}
