"""The socket protocol, both directions, without I/O: requests, replies, codes and limits.

    request = PROTO *("," option) [SP user] [LF]
    option  = form | why | min=SECONDS | rejected=HASH
    form    = xoauth2 | xoauth2-b64 | oauthbearer | oauthbearer-b64 | token | json
    refusal = "!" CODE SP RETRY_AFTER SP MESSAGE TAB HINT LF

A request ends with LF or with the client closing its writing side. Plain forms are answered with the bytes and
nothing else, and with nothing at all on a refusal: no tool may ever send an error text as a credential. With `why` a
refusal is one line that no credential can look like. `json` is answered with one versioned object, on a refusal too.
docs/protocol.md is the protocol's own document.

The client imports this file for every mail: plain classes and no imports beyond `sasl` keep that cheap.
"""

from cms_oauth import sasl

# A user name has at most 320 octets (`addresses.MAX_ADDRESS`), protocol and options well under 200. The limit keeps an endless request
# from using up memory.
MAX_REQUEST = 1024

# How long a client may take to write its line. exim itself gives up after 5 s.
REQUEST_SECONDS = 5.0

# The longest that the daemon makes a client wait for a token: exim gives up after 5 s.
WAIT_SECONDS = 4.0

# The longest time for a run of `cms-oauth`, including further questions to a daemon that does not know `why`.
CLIENT_SECONDS = 10.0

# An access token of Entra has about 2 KB, one with many group claims up to 10 KB; every form except json has less than
# twice that. A longer reply does not come from cms.
MAX_REPLY = 256 * 1024

# Hex digits of a refused token's SHA-256 that `rejected=` carries: enough to name a token, useless for guessing it.
HASH_DIGITS = 16

JSON_VERSION = 1

FORMS = ("xoauth2", "xoauth2-b64", "oauthbearer", "oauthbearer-b64", "token", "json")

# code -> exit status of the client (sysexits.h). What a person has to fix is EX_TEMPFAIL: mail must wait, not bounce.
EXIT_CODES = {
    "bad-request": 64,
    "unknown-protocol": 64,
    "unknown-account": 67,
    "no-daemon": 69,
    "denied": 77,
    "untrusted": 75,
    "sign-in-required": 75,
    "unavailable": 75,
    "locked": 75,
    "busy": 75,
}

# What people copy with a user.
_BLANKS = " \t"

_PROTOCOL_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_HASH_ALPHABET = frozenset("0123456789abcdef")
# 99,999 s is more than a day, longer than any access token of Entra lives.
_MIN_DIGITS = 5
# More seconds than a year has are no number of cms's.
_RETRY_DIGITS = 8


class TokenRequest:
    """A well-formed request. `user` is "" if the peer named none; `min_valid` is in seconds, None if not given.

    `why` asks for the reason of a refusal.
    """

    __slots__ = ("form", "min_valid", "protocol", "rejected", "user", "why")

    def __init__(
        self,
        protocol: str,
        form: str = "xoauth2",
        user: str = "",
        min_valid: int | None = None,
        rejected: str = "",
        *,
        why: bool = False,
    ) -> None:
        self.protocol = protocol
        self.form = form
        self.user = user
        self.min_valid = min_valid
        self.rejected = rejected
        self.why = why

    def _key(self) -> tuple[str, str, str, int | None, str, bool]:
        return self.protocol, self.form, self.user, self.min_valid, self.rejected, self.why

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenRequest) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"TokenRequest{self._key()!r}"


class BadRequest(ValueError):
    """The bytes are not a valid request. `form` is "json", or `why` is True, if the sender asked to be told so."""

    def __init__(self, message: str, form: str = "", why: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.form = form
        self.why = why


def build_request(request: TokenRequest) -> bytes:
    """Return the bytes of a request, ended by LF. It is not checked: `parse_request` does that."""
    options = [] if request.form == "xoauth2" else [request.form]
    if request.why:
        options.append("why")
    if request.min_valid is not None:
        options.append(f"min={request.min_valid}")
    if request.rejected:
        options.append(f"rejected={request.rejected}")
    head = ",".join([request.protocol, *options])
    # The daemon takes off quotes and `<>`, but a request has no spaces. A user of spaces only is not "the only account".
    line = f"{head} {request.user.strip(_BLANKS) or request.user}" if request.user else head
    try:
        # A command line that is not UTF-8 reaches Python as surrogates; as its original bytes, the request is refused.
        return line.encode(errors="surrogateescape") + b"\n"
    except UnicodeEncodeError:
        # A lone surrogate was never bytes: it becomes bytes that are not UTF-8 either, and is refused too.
        return line.encode(errors="surrogatepass") + b"\n"


def parse_request(received: bytes) -> TokenRequest:
    """Return the request in these bytes: the first line, or all of them if there is no LF.

    Raises BadRequest, whose message never quotes more than one word of the request.
    """
    line, _, rest = received.partition(b"\n")
    words = line.partition(b" ")[0].removesuffix(b"\r").split(b",")[1:]
    asked = "json" if b"json" in words else "", b"why" in words
    if rest:
        raise BadRequest("a connection carries one request: there is more after the first line", *asked)
    if len(line) > MAX_REQUEST:
        raise BadRequest(f"a request has at most {MAX_REQUEST} bytes", *asked)
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError:
        raise BadRequest("a request is UTF-8 text", *asked) from None
    if not text.isprintable():
        raise BadRequest("a request has no control characters", *asked)
    head, _, user = text.partition(" ")
    protocol, *options = head.split(",")
    if not protocol or not _PROTOCOL_ALPHABET.issuperset(protocol):
        raise BadRequest("a request begins with a protocol in capitals, such as SMTP", *asked)
    if " " in user:
        raise BadRequest("a user name has no spaces", *asked)
    request = TokenRequest(protocol, user=user)
    for option in options:
        if not _take(request, option):
            raise BadRequest(f"unknown option {option.partition('=')[0][:20]!r}, or a value it does not take", *asked)
    kinds = ["form" if option in FORMS else option.partition("=")[0] for option in options]
    if len(kinds) != len(set(kinds)):
        raise BadRequest("one form, one why, one min= and one rejected= for each request", *asked)
    return request


def _take(request: TokenRequest, option: str) -> bool:
    """Set one option of the request; return False if the option is unknown or has a bad value."""
    name, _, value = option.partition("=")
    if option in FORMS:
        request.form = option
    elif option == "why":
        request.why = True
    elif name == "min" and value.isascii() and value.isdigit() and len(value) <= _MIN_DIGITS:
        request.min_valid = int(value)
    elif name == "rejected" and len(value) == HASH_DIGITS and _HASH_ALPHABET.issuperset(value):
        request.rejected = value
    else:
        return False
    return True


def render(form: str, user: str, token: str) -> bytes:
    """Return the reply of a plain form. `json` is built by `json_reply`."""
    if form == "token":
        return token.encode()
    text = (sasl.oauthbearer if form.startswith("oauthbearer") else sasl.xoauth2)(user, token)
    return (sasl.encode(text) if form.endswith("-b64") else text).encode()


def json_reply(user: str, protocol: str, token: str, *, expires_in: float, expires_at: float) -> dict[str, object]:
    """Return the object that answers a granted `json` request; times in seconds, `expires_at` as Unix time."""
    return {
        "version": JSON_VERSION,
        "user": user,
        "protocol": protocol,
        "token": token,
        "token_type": "Bearer",
        "expires_in": int(expires_in),
        "expires_at": int(expires_at),
        **{form: render(form, user, token).decode() for form in FORMS[:4]},
    }


def json_refusal(code: str, message: str, hint: str = "", retry_after: float = 0.0) -> dict[str, object]:
    """Return the object that answers a refused `json` request; `retry_after` in seconds, 0 if unknown."""
    return {
        "version": JSON_VERSION,
        "error": {"code": code, "message": message, "hint": hint, "retry_after": int(retry_after)},
    }


def refusal_line(code: str, message: str, hint: str = "", retry_after: float = 0.0) -> bytes:
    """Return the line that answers a refused request with `why`; `retry_after` in seconds, 0 if unknown.

    No credential begins with "!": XOAUTH2, OAUTHBEARER, base64 and bearer tokens (RFC 6750, 2.1) have other alphabets.
    """
    from cms_oauth.text import printable  # noqa: PLC0415 - only the daemon makes a refusal

    return f"!{code} {int(retry_after)} {printable(message) or code}\t{printable(hint)}\n".encode()


def parse_refusal(line: str) -> tuple[str, str, str, int] | None:
    """Return code, message, hint and retry_after of the line that answers a refused request; None if it is no such line."""
    said, _, hint = line.removesuffix("\n").partition("\t")
    code, _, rest = said[1:].partition(" ")
    seconds, _, message = rest.partition(" ")
    is_number = seconds.isascii() and seconds.isdigit() and len(seconds) <= _RETRY_DIGITS
    if said[:1] != "!" or not code or not is_number or not message or "\n" in said + hint:
        return None
    return code, message, hint, int(seconds)
