"""Fetches one token from the daemon and converts it to the form that the command line asks for.

The request asks for `xoauth2`, the only plain form with a recognisable end, so that half a reply is never taken for a
credential. The other forms are made from it here. With `why`, a refusal is one line with its reason. An older daemon
answers nothing to `why`: only then is the same asked as `json`, and of other programs' daemons in the original form.
"""

import os

from cms_oauth import dial, expand, paths, sasl, wire

# sysexits.h: the output cannot be written.
EX_IOERR = 74

# For a code from a newer daemon: mail must wait, not bounce.
_UNKNOWN_CODE = 75

_STDOUT, _STDERR = 1, 2

# The forms to ask for, in turn until there is an answer, and whether with `why`.
_QUESTIONS = (("xoauth2", True), ("json", False), ("xoauth2", False))


class Options:
    """The options of the command line. `socket` is "" for the usual places, `user` "" for the only account.

    `test` is "smtp", "imap" or "pop" with `host` HOST or HOST:PORT, or "" for none. In a test, `output` "json" means the
    test's result.
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
    """A token from the daemon; `document` is the JSON object if that was requested. It has no repr that shows the token."""

    __slots__ = ("document", "token", "user")

    def __init__(self, user: str, token: str, document: str = "") -> None:
        self.user = user
        self.token = token
        self.document = document


def fetch(options: Options, deadline: float, refused: str = "") -> Credential | dial.Failed:
    """Return a token from the daemon, or why there is none, before `deadline`, a time of `dial.now()`.

    `refused` is a token that a mail server refused: the daemon gets its hash and must answer with another one.
    """
    question = wire.TokenRequest(options.protocol, user=options.user, rejected=_hash(refused) if refused else "")
    try:
        wire.parse_request(wire.build_request(question))
    except wire.BadRequest as bad:
        return dial.Failed("bad-request", bad.message, "check --user and --proto, or run: cms-oauth --help")
    try:
        path = _socket_path(options.socket)
    except expand.Unusable as unusable:
        return dial.Failed("bad-request", unusable.message, unusable.hint)
    answer = _ask(path, question, deadline, as_json=options.output == "json" and not options.test)
    if isinstance(answer, dial.Failed) and not options.socket and not os.path.lexists(path):
        answer.message += _looked_at(path)
    if isinstance(answer, Credential) and answer.token == refused:
        return dial.Failed(
            "unavailable",
            "cms has no other token than the refused one: it may not ask for more so soon",
            "try again in 5 minutes; if new tokens are refused too, run: cms status",
        )
    return answer


def _socket_path(given: str) -> str:
    """Return the path of the socket that --cms_sock names, "" for $CMS_SOCK or the usual places. Raises Unusable."""
    path = paths.named(given, "--cms_sock") if given else paths.find_socket()
    if not path.startswith("/"):
        expand.current_folder()
    return path


def _looked_at(path: str) -> str:
    """Return where else cms looked for a socket, and how to name another path."""
    if os.environ.get("CMS_SOCK"):
        return ", which CMS_SOCK names"
    others = "".join(f", nor at {each}" for each in paths.socket_candidates() if each != path)
    return f"{others}; to use another path, set --cms_sock or CMS_SOCK"


def _ask(path: str, question: wire.TokenRequest, deadline: float, *, as_json: bool) -> Credential | dial.Failed:
    """Ask until there is an answer: once, unless the daemon does not know `why`. Ask only for JSON if the caller wants that."""
    for form, why in (("json", False),) if as_json else _QUESTIONS:
        question.form, question.why = form, why
        reply = dial.round_trip(path, wire.build_request(question), deadline, wire.MAX_REPLY)
        if isinstance(reply, dial.Failed):
            return reply
        if reply.text:
            return _understood(path, form, reply.text, as_json=as_json)
        if reply.unread:
            return _hung_up(path)
    return dial.Failed(
        "unavailable",
        f"{path} answered nothing and gave no reason: it refuses the request, or is not cms",
        "run: cms status",
    )


def _understood(path: str, form: str, text: bytes, *, as_json: bool) -> Credential | dial.Failed:
    if text.startswith(b"!"):
        refused = wire.parse_refusal(text.decode(errors="replace"))
        return _refusal(*refused) if refused else _babble(path, text, cut_off=True)
    if form != "json":
        return _from_xoauth2(path, text)
    answer = _from_json(path, text)
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
    import json  # noqa: PLC0415 - costs as much as the client's whole start: only for failures, and for those who ask for JSON

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
        seconds = error.get("retry_after")
        seconds = seconds if isinstance(seconds, int) and seconds > 0 else 0
        return _refusal(str(error.get("code")), str(error.get("message")), str(error.get("hint") or ""), seconds)
    return _babble(path, text, cut_off=False)


def _refusal(code: str, message: str, hint: str, seconds: int) -> dial.Failed:
    """Return a daemon's refusal. Its text is shown by this command, and by every program that uses the library."""
    from cms_oauth.text import printable  # noqa: PLC0415 - a fetch that works has no use for it

    hint = printable(hint) or "run: cms status"
    if seconds:
        hint = f"{hint}; cms tries again in {seconds} s"
    return dial.Failed(printable(code), printable(message), hint, seconds)


def _hung_up(path: str) -> dial.Failed:
    return dial.Failed(
        "denied",
        f"{path} hung up on uid {os.geteuid()} before reading the request",
        "its owner must allow you: CredentialServer(..., users= or groups=)",
    )


def _babble(path: str, text: bytes, *, cut_off: bool) -> dial.Failed:
    """Return the failure for an invalid reply, without quoting it: it may contain most of a token."""
    what = "sent half a reply" if cut_off else "sent something that is not a reply of cms"
    return dial.Failed(
        "unavailable", f"{path} {what} ({len(text)} bytes)", "try again; if it keeps failing, run: cms status"
    )


def _hash(token: str) -> str:
    import hashlib  # noqa: PLC0415 - for --rejected only

    # Text that is not a token has a hash too, which the daemon does not know.
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()[: wire.HASH_DIGITS]


def report(failed: dial.Failed, command: str = "cms-oauth") -> int:
    """Print one line on stderr: what happened, who can fix it and the next command. Return the exit status."""
    from cms_oauth.text import printable  # noqa: PLC0415 - a fetch that works has no use for it

    hint = failed.hint
    if "docs/" in hint:
        from cms_oauth.documents import located  # noqa: PLC0415 - few hints name a document

        hint = located(hint)

    # The text comes from a daemon and from the command line: neither may break the line or move a terminal's cursor.
    line = printable(f"{command}: {failed.message} ({failed.code}) - {hint}")
    try:  # noqa: SIM105 - contextlib is not worth its import on the way of every failure
        os.write(_STDERR, line.encode(errors="replace") + b"\n")
    except OSError:
        # stderr is closed too; the exit status says enough.
        pass
    return wire.EXIT_CODES.get(failed.code, _UNKNOWN_CODE)


def write(text: str) -> int:
    """Write a credential to stdout; return the exit status. Not through `sys.stdout`, which fails again at exit."""
    left = text.encode()
    try:
        while left:
            left = left[os.write(_STDOUT, left) :]
    except OSError as error:
        report(
            dial.Failed(
                "output",
                f"the token cannot be written: {error.strerror}",
                "check the program that reads cms-oauth's output",
            )
        )
        return EX_IOERR
    return 0
