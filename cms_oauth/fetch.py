"""Fetches one token from the daemon and makes the form of it that the command line asks for.

The daemon is asked for `xoauth2`: it is the one plain form whose end can be seen, so half a reply is never mistaken for
a credential. The other forms are made from it here. An empty reply is a refusal: the same request is sent once more, as
`json`, to learn why.
"""

import os

from cms_oauth import dial, paths, sasl, wire

# sysexits.h: what was to be written could not be.
EX_IOERR = 74

# For a code that only a later daemon knows: whatever it is, mail must wait and not bounce.
_UNKNOWN_CODE = 75

_STDOUT, _STDERR = 1, 2


class Options:
    """What the command line asks for. `socket` is "" for the usual places, `user` "" for the only account.

    `test` is "", "smtp", "imap" or "pop", and `host` is then HOST or HOST:PORT; `output` "json" is then the test's.
    """

    __slots__ = ("host", "newline", "output", "protocol", "rejected", "socket", "test", "user")

    def __init__(
        self,
        *,
        user: str = "",
        socket: str = "",
        protocol: str = "SMTP",
        output: str = "xoauth2",
        newline: bool = True,
        rejected: bool = False,
        test: str = "",
        host: str = "",
    ) -> None:
        self.user = user
        self.socket = socket
        self.protocol = protocol
        self.output = output
        self.newline = newline
        self.rejected = rejected
        self.test = test
        self.host = host

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"Options({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Credential:
    """What the daemon granted; `document` is its JSON object where that was asked for. Never printed by accident."""

    __slots__ = ("document", "token", "user")

    def __init__(self, user: str, token: str, document: str = "") -> None:
        self.user = user
        self.token = token
        self.document = document


def fetch(options: Options, deadline: float, refused: str = "") -> Credential | dial.Failed:
    """Return what the daemon grants, or why it does not, before `deadline`, a moment of `dial.now()`.

    `refused` is a token that a mail server did not take: the daemon gets its hash, and must answer with another one.
    """
    question = wire.TokenRequest(options.protocol, user=options.user, rejected=_hash(refused) if refused else "")
    try:
        wire.parse_request(wire.build_request(question))
    except wire.BadRequest as bad:
        return dial.Failed("bad-request", bad.message, "check --user and --proto, or run: cms-oauth --help")
    # No shell expands the ~ in --name=~/x, and the environment's files are read by none.
    path = os.path.expanduser(options.socket) if options.socket else paths.find_socket()  # noqa: PTH111 - see paths.py
    answer = _ask(path, question, deadline, as_json=options.output == "json" and not options.test)
    if isinstance(answer, dial.Failed) and not options.socket and not os.path.lexists(path):
        answer.message += _looked_at(path)
    if isinstance(answer, Credential) and answer.token == refused:
        return dial.Failed(
            "unavailable",
            "cms has no other token than the refused one: it may not ask for more so soon",
            "try again in 5 minutes; if fresh ones are refused as well, run: cms status",
        )
    return answer


def _looked_at(path: str) -> str:
    """Say where else a socket was looked for, and how another place is named."""
    if os.environ.get("CMS_SOCK"):
        return ", which CMS_SOCK names"
    others = "".join(f", nor at {each}" for each in paths.socket_candidates() if each != path)
    return f"{others}; --cms_sock or CMS_SOCK names another place"


def _ask(path: str, question: wire.TokenRequest, deadline: float, *, as_json: bool) -> Credential | dial.Failed:
    """Ask, and ask again as JSON to be told why there was no answer, or because JSON is wanted."""
    if not as_json:
        reply = dial.round_trip(path, wire.build_request(question), deadline, wire.MAX_REPLY)
        if isinstance(reply, dial.Failed):
            return reply
        if reply.text:
            return _from_xoauth2(path, reply.text)
    question.form = "json"
    reply = dial.round_trip(path, wire.build_request(question), deadline, wire.MAX_REPLY)
    if isinstance(reply, dial.Failed):
        return reply
    if not reply.text:
        return _silence(path, unread=reply.unread)
    answer = _from_json(path, reply.text)
    if isinstance(answer, Credential) and not as_json:
        answer.document = ""
    return answer


def _from_xoauth2(path: str, text: bytes) -> Credential | dial.Failed:
    try:
        return Credential(*sasl.split(text.decode()))
    except (sasl.NotSasl, UnicodeDecodeError):
        return _babble(path, text, cut_off=text.startswith(b"user="))


def _from_json(path: str, text: bytes) -> Credential | dial.Failed:
    """Return the token in a JSON reply, or the reason; both come as one object (`wire.json_reply`, `json_refusal`)."""
    import json  # noqa: PLC0415 - as much as the client's whole start: for failures, and for who asks for JSON

    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return _babble(path, text, cut_off=text.startswith(b"{"))
    if not isinstance(answer, dict):
        return _babble(path, text, cut_off=False)
    user, token, error = answer.get("user"), answer.get("token"), answer.get("error")
    if isinstance(user, str) and user.isprintable() and isinstance(token, str) and sasl.is_token(token):
        return Credential(user, token, json.dumps(answer))
    if isinstance(error, dict):
        return _refusal(error)
    return _babble(path, text, cut_off=False)


def _refusal(error: dict[str, object]) -> dial.Failed:
    hint, seconds = str(error.get("hint") or "run: cms status"), error.get("retry_after")
    if not isinstance(seconds, int) or seconds < 0:
        seconds = 0
    if seconds:
        hint = f"{hint}; cms tries again in {seconds} s"
    return dial.Failed(str(error.get("code")), str(error.get("message")), hint, seconds)


def _silence(path: str, *, unread: bool) -> dial.Failed:
    if unread:
        return dial.Failed(
            "denied",
            f"{path} hung up on uid {os.geteuid()} before reading the request",
            "its owner must let you in: CredentialServer(..., users= or groups=)",
        )
    return dial.Failed(
        "unavailable", f"{path} answered nothing, and not why: it refuses, or is not cms's", "run: cms status"
    )


def _babble(path: str, text: bytes, *, cut_off: bool) -> dial.Failed:
    """Say that a reply is none, without quoting it: it may be most of a token."""
    what = "sent half a reply" if cut_off else "sent something that is no reply of cms's"
    return dial.Failed(
        "unavailable", f"{path} {what} ({len(text)} bytes)", "try again; if it stays so, run: cms status"
    )


def _hash(token: str) -> str:
    import hashlib  # noqa: PLC0415 - for --rejected only

    # What is no token has a hash as well: one that the daemon does not know.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()[: wire.HASH_DIGITS]


def report(failed: dial.Failed, command: str = "cms-oauth") -> int:
    """Say on stderr, in one line, what happened, whose move it is and the next command; return the exit status."""
    from cms_oauth.text import printable  # noqa: PLC0415 - a fetch that works has no use for it

    # The words come from a daemon and from the command line: neither may break the line or move a terminal's cursor.
    line = printable(f"{command}: {failed.message} ({failed.code}) - {failed.hint}")
    try:  # noqa: SIM105 - contextlib is not worth its import on the way of every failure
        os.write(_STDERR, line.encode(errors="replace") + b"\n")
    except OSError:
        # Nobody listens there either; the exit status says the most of it.
        pass
    return wire.EXIT_CODES.get(failed.code, _UNKNOWN_CODE)


def write(text: str) -> int:
    """Write a credential to stdout; return the exit status. Not through `sys.stdout`, which fails again at exit."""
    left = text.encode()
    try:
        while left:
            left = left[os.write(_STDOUT, left) :]
    except OSError as error:
        report(dial.Failed("output", f"nobody takes the token: {error.strerror}", "see what reads cms-oauth's output"))
        return EX_IOERR
    return 0
