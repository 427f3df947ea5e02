"""What crosses between the broker and the grant worker: both ways, as values and as lines of JSON.

The broker asks (`Open`, `Acquire`, `SignIn`, `Redirected`, `Cancel`, `Forget`, `Import`, and the `Chore`s), the worker
answers (`Prompt`, `Done`).
Every question has a number of its own, and every answer names it. A line that is no message raises `Garbled`, whose
text never quotes the line: it could hold a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeAlias, TypeVar

from cms.core import json_lines
from cms.core.accounts import Grant, Proxy, Scopes, Source, StoredSignIn
from cms.core.json_lines import Garbled
from cms.core.lifecycle import Ending, Granted, Outcome, Refused, Transient, Trouble

# An export of a thousand sign-ins, some 4 KB each. What is longer is not a message.
MAX_MESSAGE = 8 * 1024 * 1024


# Why some sign-ins are in no export, for people: their refresh token never comes here.
BROKERED = "Microsoft's broker keeps the sign-in, for this device alone"


@dataclass(frozen=True, slots=True)
class Open:
    """The first message, once: where the vault is, where its key comes from, and how the network is.

    `state_folder` is a path; `key` is None for the order of `cms.grants.vault`; `ca` a PEM file or None; `timeout` the
    seconds that one grant may take inside the worker; `idle` the seconds after which an unused worker leaves. With `persist`
    a sign-in that could be kept in memory only does not begin: the worker is about to end. `proxy` is the way to Entra,
    None for what the environment says.
    """

    state_folder: str
    key: Source | None = None
    ca: str | None = None
    timeout: float = 25.0
    idle: float = 5.0
    persist: bool = False
    proxy: Proxy | None = None


@dataclass(frozen=True, slots=True)
class Acquire:
    """Redeem the grant for a token with exactly these scopes."""

    number: int
    grant: Grant
    scopes: Scopes


@dataclass(frozen=True, slots=True)
class SignIn:
    """Sign in. `method` is "browser", "device" or "paste"; `claims` a challenge of an earlier refusal, or ""."""

    number: int
    grant: Grant
    method: str
    claims: str = ""


@dataclass(frozen=True, slots=True)
class Redirected:
    """What the browser brought to the redirect address: the query or form fields, as Entra sent them."""

    number: int
    fields: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up the sign-in with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete what the vault holds of this grant."""

    number: int
    grant: Grant


@dataclass(frozen=True, slots=True)
class Place:
    """Where another program keeps a sign-in. `path` is absolute, or the name of a keyring entry.

    `source` is the format, "" for whichever fits; `entry` says which of several; `password` opens it, "" if nobody has
    said one.
    """

    path: str
    source: str = ""
    entry: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Import:
    """Take another program's sign-in over: redeem it, and store it as this grant's.

    With `source` "cms" the place is an export of cms's own, and `keep` leaves a sign-in that is there already.
    """

    number: int
    grant: Grant
    place: Place
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """Encrypt what the vault holds of these grants to a passphrase. Ends with `Exported`."""

    number: int
    grants: tuple[Grant, ...]
    passphrase: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peek:
    """Say which sign-ins an export of cms's own holds. Ends with `Listed`."""

    number: int
    place: Place


@dataclass(frozen=True, slots=True)
class Survey:
    """Say whose sign-ins these vault files hold, named by their grants' keys. Ends with `Listed`."""

    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete these vault files, named by their grants' keys, which no account has. Ends as a `Forget` does."""

    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explore:
    """Look around for a first configuration. Ends with `Explored`.

    `url` is the authority whose discovery document names a tenant, "" to ask nobody.
    """

    number: int
    url: str


# Questions about the vault or the surroundings as a whole.
Chore: TypeAlias = Export | Peek | Survey | Discard | Explore
Question: TypeAlias = Open | Acquire | SignIn | Redirected | Cancel | Forget | Import | Chore


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person must do now. `url` is where to go; `user_code` only for the device flow; `expires_in` seconds.

    `state` is the value that the redirect will bring back, for the redirect listener to tell flows apart.
    """

    number: int
    method: str
    url: str
    user_code: str = ""
    expires_in: float = 600.0
    redirect_uri: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Exported:
    """An encrypted export, ready to be written to a file, and the keys of the grants that are in it.

    `brokered` are those that cannot be: `BROKERED`.
    """

    text: str = field(repr=False)
    keys: tuple[str, ...]
    brokered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """Stored sign-ins."""

    items: tuple[StoredSignIn, ...]


@dataclass(frozen=True, slots=True)
class Explored:
    """What was found.

    `tenant` is "" where nobody has told; then `why` says so, for people, and `unknown` if the provider knows no such
    domain. `no_keyring` says why this process can keep no key in a keyring, "" where it can. `cloud` is the national
    cloud that the tenant is in, as `cloud=` has it, "" for none.
    """

    tenant: str
    why: str
    unknown: bool
    no_keyring: str
    cloud: str = ""


Finding: TypeAlias = Exported | Listed | Explored
Ended: TypeAlias = Outcome | Finding


@dataclass(frozen=True, slots=True)
class Done:
    """The end of one question.

    A Forget ends with `Granted` of an empty secret when nothing is left. `persisted` says then whether anything had
    been there, and `key_from` which place a key was deleted from that nothing needs any more.
    """

    number: int
    outcome: Ended


Reply: TypeAlias = Prompt | Done

_Record = TypeVar("_Record", bound=Prompt | Ended | Trouble | StoredSignIn | Ending)

_QUESTIONS: dict[str, type[Any]] = {
    each.__name__: each
    for each in (Open, Acquire, SignIn, Redirected, Cancel, Forget, Import, Export, Peek, Survey, Discard, Explore)
}
_OUTCOMES: dict[str, type[Any]] = {
    each.__name__: each for each in (Granted, Transient, Refused, Exported, Listed, Explored)
}

# What a value of each type that the fields of a reply are declared with may be. A bool is no number.
_FITS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "float": lambda value: type(value) in (int, float),
    "tuple[str, ...]": lambda value: all(isinstance(word, str) for word in value),
    "tuple[StoredSignIn, ...]": lambda value: all(isinstance(each, StoredSignIn) for each in value),
    "tuple[Ending, ...]": lambda value: all(isinstance(each, Ending) for each in value),
    "Trouble": lambda value: isinstance(value, Trouble),
}


def pack(message: Question | Reply) -> bytes:
    """Return one line, LF included."""
    body = asdict(message)
    if isinstance(message, Done):
        body["outcome"]["is"] = type(message.outcome).__name__
    return json_lines.pack({"is": type(message).__name__, **body})


def unpack_question(line: bytes) -> Question:
    """Return the question in a line, or raise Garbled."""
    body = json_lines.unpack(line)
    try:
        kind = _QUESTIONS[body.pop("is")]
        if "grant" in body:
            body["grant"] = _grant(body["grant"])
        if "grants" in body:
            body["grants"] = tuple(_grant(each) for each in body["grants"])
        for name in ("scopes", "keys"):
            if name in body:
                body[name] = _words(body[name])
        if kind is Open:
            body["key"] = _source(body["key"])
            body["proxy"] = _proxy(body["proxy"])
        if kind is not Open:
            body["number"] = _number(body["number"])
        if "place" in body:
            _words(body["place"].values())
            body["place"] = Place(**body["place"])
        if kind is Redirected:
            _words(body["fields"].values())
        question: Question = kind(**body)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Garbled("a question that is none") from None
    return question


def unpack_reply(line: bytes) -> Reply:
    """Return the reply in a line, or raise Garbled."""
    body = json_lines.unpack(line)
    try:
        kind = body.pop("is")
        if kind == "Prompt":
            return _checked(Prompt(**body))
        if kind == "Done":
            return Done(_number(body["number"]), _outcome(body["outcome"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise Garbled("a reply that is none") from None


def _outcome(body: dict[str, Any]) -> Ended:
    kind = _OUTCOMES[body.pop("is")]
    if "trouble" in body:
        body["trouble"] = _checked(Trouble(**body["trouble"]))
    for name in ("scopes", "keys", "brokered"):
        if name in body:
            body[name] = tuple(body[name])
    if "endings" in body:
        body["endings"] = tuple(_checked(Ending(**each)) for each in body["endings"])
    if "items" in body:
        body["items"] = tuple(_checked(StoredSignIn(**each)) for each in body["items"])
    outcome: Ended = _checked(kind(**body))
    return outcome


def _checked(record: _Record) -> _Record:
    """Return a record of a reply, or raise TypeError where a field is not what it is declared as."""
    if not all(_FITS[str(each.type)](getattr(record, each.name)) for each in fields(record)):
        raise TypeError
    return record


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _words(values: Iterable[Any]) -> tuple[str, ...]:
    words = tuple(values)
    if not all(isinstance(word, str) for word in words):
        raise TypeError
    return words


def _proxy(body: dict[str, Any] | None) -> Proxy | None:
    if not body:
        return None
    _words((body["url"], body["user"]))
    return Proxy(**body | {"no_proxy": _words(body["no_proxy"]), "password": _source(body["password"])})


def _source(body: dict[str, Any] | None) -> Source | None:
    return Source(body["kind"], _words(body["value"])) if body else None


def _grant(body: dict[str, Any]) -> Grant:
    body["scope_sets"] = tuple(_words(scopes) for scopes in body["scope_sets"])
    for name in ("client_secret", "certificate", "certificate_password", "client_assertion"):
        body[name] = _source(body[name])
    return Grant(**body)
