"""Fresh tokens for Python programs, using only the standard library.

    import cms_oauth

    token = cms_oauth.token("user@domain.com", protocol="IMAP")

    login = cms_oauth.Login("user@domain.com")
    smtp.auth("XOAUTH2", login.smtp())
    imap.authenticate("XOAUTH2", login.imap())

Ask for a token for each connection and do not keep it: cms always has a fresh one and answers immediately. A call blocks
for at most 10 s; a program with an event loop should call it in a thread.
"""

from __future__ import annotations

from cms_oauth import dial, fetch, sasl, wire

# For a code of a newer daemon that this library does not know: mail waits (docs/protocol.md, Codes).
_EX_TEMPFAIL = 75

_FORMS = {"XOAUTH2": sasl.xoauth2, "OAUTHBEARER": sasl.oauthbearer}


class TokenError(Exception):
    """Raised when there is no token. It says why and what to do next, and never quotes a token.

    `code` is one of the codes in docs/protocol.md, `message` says what happened, `hint` what to do next, and `retry_after`
    in how many seconds cms tries again by itself (0 if unknown). `exit_code` is the exit status for a program that cannot
    go on without a token, as in sysexits.h: 75 means that mail should wait.
    """

    def __init__(self, code: str, message: str, hint: str, retry_after: int = 0) -> None:
        super().__init__(code, message, hint, retry_after)
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} ({self.code}) - {self.hint}"

    @property
    def exit_code(self) -> int:
        return wire.EXIT_CODES.get(self.code, _EX_TEMPFAIL)


def token(user: str = "", protocol: str = "SMTP", *, rejected: str = "", socket: str = "") -> str:
    """Return an access token that is valid for at least a minute; raise TokenError if there is none.

    `user` is the account, "" for the only one. `protocol` is SMTP, IMAP, POP or another protocol of the configuration.
    `rejected` is a token that a server has just refused: cms gets another one, which it may do once in five minutes
    and six times a day. `socket` is the daemon's, "" for $CMS_SOCK and then the usual places.
    """
    return _fetch(user, protocol, rejected, socket).token


class SmtpAnswers:
    """What `smtplib.SMTP.auth` calls: answers one submission server, with one token."""

    def __init__(self, mechanism: str, credential: fetch.Credential) -> None:
        self._mechanism = mechanism
        self._credential = credential

    def __call__(self, challenge: bytes | None = None, /) -> str:
        return _answer(self._mechanism, self._credential, challenge)


class ImapAnswers:
    """What `imaplib.IMAP4.authenticate` calls: answers one IMAP server, with one token."""

    def __init__(self, mechanism: str, credential: fetch.Credential) -> None:
        self._mechanism = mechanism
        self._credential = credential

    def __call__(self, challenge: bytes, /) -> bytes:
        return _answer(self._mechanism, self._credential, challenge).encode()


class Login:
    """Logs one account in: `smtp()` is for `smtplib.SMTP.auth`, `imap()` for `imaplib.IMAP4.authenticate`.

    Both fetch a token first, and raise TokenError if there is none: after the login has begun, imaplib would hang.
    `mechanism` is XOAUTH2 or OAUTHBEARER and must be the one given to `auth` or `authenticate`. An instance serves any
    number of connections, one after the other.
    """

    def __init__(self, user: str = "", *, mechanism: str = "XOAUTH2", socket: str = "") -> None:
        if mechanism not in _FORMS:
            raise ValueError(f"mechanism is one of {', '.join(_FORMS)}, not {mechanism!r}")
        self.user = user
        self.mechanism = mechanism
        self._socket = socket
        self._used = ""
        self._refused = ""

    def __repr__(self) -> str:
        return f"Login({self.user!r}, mechanism={self.mechanism!r})"

    def smtp(self) -> SmtpAnswers:
        """Return the callable for `smtplib.SMTP.auth`, with a fresh token."""
        return SmtpAnswers(self.mechanism, self._fetched("SMTP"))

    def imap(self) -> ImapAnswers:
        """Return the callable for `imaplib.IMAP4.authenticate`, with a fresh token."""
        return ImapAnswers(self.mechanism, self._fetched("IMAP"))

    def rejected(self) -> None:
        """Say that the server refused the last login: the next one gets another token, as `token(rejected=)` does."""
        self._refused = self._used

    def _fetched(self, protocol: str) -> fetch.Credential:
        # A refusal is reported once: if there is no other token now, a later connection may still use this one.
        refused, self._refused = self._refused, ""
        credential = _fetch(self.user, protocol, refused, self._socket)
        self._used = credential.token
        return credential


def _answer(mechanism: str, credential: fetch.Credential, challenge: bytes | None) -> str:
    """Answer the empty first challenge with the credential, and a refusal's reason without it."""
    if challenge:
        return sasl.closing_answer(mechanism)
    return _FORMS[mechanism](credential.user, credential.token)


def _fetch(user: str, protocol: str, rejected: str, socket: str) -> fetch.Credential:
    options = fetch.Options(user=user, protocol=protocol, socket=socket)
    answer = fetch.fetch(options, dial.now() + wire.CLIENT_SECONDS, rejected)
    if isinstance(answer, dial.Failed):
        raise TokenError(answer.code, answer.message, answer.hint, answer.retry_after)
    return answer
