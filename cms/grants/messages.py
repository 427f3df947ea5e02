"""The messages between the daemon and the grant worker, as values and as lines of JSON.

The daemon asks (`Open`, `Acquire`, `Look`, `SignIn`, `Redirected`, `Cancel`, `SignOut`, `Import`, and the `Housekeeping`s),
the worker answers (`Prompt`, `Done`), and in a fleet tells what other hosts do (`Heard`, `Reached`). Every question has a
number, and its answers carry the same number. A line that is not a message raises `Garbled`, whose text never quotes the
line: it could contain a token.

`cms.core.json_lines` writes and reads them: the dataclasses are the only definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeAlias

from cms.core import json_lines
from cms.core.accounts import Fleet, Grant, Proxy, Scopes, Source, StoredSignIn
from cms.core.json_lines import Garbled, Records
from cms.core.lifecycle import Outcome
from cms_oauth.frozen import dataclass
from cms_oauth.moves import Move, as_data, from_data

# Enough for an export of a thousand sign-ins of 4 KB each. Anything longer is not a message.
MAX_MESSAGE = 8 * 1024 * 1024

# The longest time for one question, in seconds: the worker then answers, whatever hangs. Everything that it waits for has
# a shorter limit: a key's source, a keyring, an exchange with a provider. The daemon waits a little longer.
QUESTION_SECONDS = 25.0

# Why some sign-ins cannot be exported: cms never gets their refresh token.
KEPT_BY_MS_BROKER = "Microsoft's broker keeps the sign-in, for this device only"


@dataclass(frozen=True, slots=True)
class Open:
    """The first message, once: where the vault is, where its key comes from, and how to reach the network.

    `state_folder` is a path; `key` is None for the order of `cms.grants.vault`; `ca` is a PEM file or None. `timeout` is
    the seconds that the worker may take over one question, `idle` the seconds after which an unused worker exits. With
    `persist`, a sign-in that could be kept in memory only is refused: the worker is about to exit. `proxy` is the proxy
    on the way to the providers, None for what the environment says. `old_key` is where a key is looked for too. With a `fleet`,
    several hosts share their sign-ins in its database.
    """

    state_folder: str
    key: Source | None = None
    ca: str | None = None
    timeout: float = QUESTION_SECONDS
    idle: float = 5.0
    persist: bool = False
    proxy: Proxy | None = None
    old_key: Source | None = None
    fleet: Fleet | None = None


@dataclass(frozen=True, slots=True)
class Acquire:
    """Get a token with exactly these scopes: a stored one that is still good, else by redeeming the grant.

    `held` is the hash of the token that the daemon holds, "" for none: the stored one has to be another. None: the grant
    is redeemed in any case. `rejected` is the hash of a token that a mail server has refused, which is deleted first.
    `wanted` is True if a person or a client asks for another token, although the held one is good. A fleet bounds how often
    its hosts may.
    """

    number: int
    grant: Grant
    scopes: Scopes
    held: str | None = None
    rejected: str = ""
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Say what another host of the fleet has done with a grant. Nothing is redeemed.

    Ends with another token than the one with the hash `held`, with the refusal that was its end, or with `Looked`.
    """

    number: int
    grant: Grant
    scopes: Scopes
    held: str


@dataclass(frozen=True, slots=True)
class SignIn:
    """Sign a person in. `method` is one of `cms.core.accounts.METHODS`: "browser", "device", "paste" or "broker".

    `claims` is a conditional-access challenge of an earlier refusal, "" for none.
    """

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
    """Cancel the sign-in with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class SignOut:
    """Delete the vault's sign-in of this grant. With `revoke`, end it at the provider first; if that fails, it stays."""

    number: int
    grant: Grant
    revoke: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where another program keeps a sign-in. `path` is absolute, or the name of a keyring entry.

    `source` is the format, "" for any; `entry` says which of several; `password` decrypts it, "" for none so far.
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
    """Say which sign-ins an export of cms's own, or another program's file, holds. Ends with `Listed`."""

    number: int
    place: Place


@dataclass(frozen=True, slots=True)
class Survey:
    """Say whose sign-ins these vault files hold, named by their grants' keys. Ends with `Listed`."""

    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete these vault files, named by their grants' keys, which no account has. Ends as a `SignOut` does."""

    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rekey:
    """Move stored sign-ins to the key of `Open.key`, as many as a few seconds allow. Ends with `Rekeyed`.

    `key` is its id as an earlier answer says it, "" at first. Ask again until an answer says that none was moved.
    """

    number: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Explore:
    """Look around for a first configuration. Ends with `Explored`.

    `url` is the authority whose discovery document names a tenant, "" to ask none.
    """

    number: int
    url: str


@dataclass(frozen=True, slots=True)
class CheckCredentials:
    """Say when the certificates of these grants' applications end. Ends with `CredentialEnds`, one for each grant."""

    number: int
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class FleetWork:
    """Make, change or examine the fleet's database, or move this host's sign-ins there. Ends with `FleetReport`.

    `action` is "init", "upgrade", "status" or "adopt". The first two only say what they would run, unless `owner` is the
    connection string of the database's owner. "adopt" is for these `grants`.
    """

    number: int
    action: str
    owner: str = ""
    grants: tuple[Grant, ...] = ()


# Questions that are not about one grant: the vault as a whole, the surroundings, the configuration's certificates.
Housekeeping: TypeAlias = Export | Peek | Survey | Delete | Rekey | Explore | CheckCredentials | FleetWork
# Questions that are answered once, without a person in between.
Work: TypeAlias = Acquire | Look | SignOut | Import | Housekeeping
Question: TypeAlias = Open | SignIn | Redirected | Cancel | Work


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person must do now. `url` is where to go; `user_code` only for the device flow; `expires_in` seconds.

    `state` is the value that the redirect will bring back, for the redirect listener to tell flows apart. `complete_url` is
    an address with the user code in it already, "" where the provider has none (RFC 8628, 3.3.1).
    """

    number: int
    method: str
    url: str
    user_code: str = ""
    expires_in: float = 600.0
    redirect_uri: str = ""
    state: str = ""
    complete_url: str = ""

    @property
    def link(self) -> str:
        """Where to go, with as little to type there as there can be."""
        return self.complete_url or self.url


@dataclass(frozen=True, slots=True)
class Exported:
    """An encrypted export, ready to be written to a file, and the keys of the grants that are in it.

    `kept_by_ms_broker` are the keys of those that cannot be exported.
    """

    text: str = field(repr=False)
    keys: tuple[str, ...]
    kept_by_ms_broker: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """Stored sign-ins."""

    items: tuple[StoredSignIn, ...]


@dataclass(frozen=True, slots=True)
class Unmoved:
    """A sign-in that could not be moved to another key, named by its grant's key. `login` is "" if it is unknown."""

    key: str
    login: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """What was moved to another key. `key` is its id, `key_from` its place in words; `before` are those of the old keys."""

    key: str
    key_from: str
    moved: int
    unmoved: tuple[Unmoved, ...] = ()
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explored:
    """What was found.

    `tenant` is "" where it is not known; then `why` says so, for people, and `unknown` if the provider knows no such
    domain. `no_keyring` says why this process can keep no key in a keyring, "" where it can. `cloud` is the national
    cloud that the tenant is in, as `cloud=` has it, "" for none.
    """

    tenant: str
    why: str
    unknown: bool
    no_keyring: str
    cloud: str = ""


@dataclass(frozen=True, slots=True)
class CredentialEnd:
    """When the certificate of a grant's application ends. `key` is the grant's.

    `expires` is Unix time, 0 for unknown; then `why` says why it cannot be read, for people, and is "" where the
    application has no certificate.
    """

    key: str
    expires: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class CredentialEnds:
    """The ends of certificates, in the order of the grants that were asked for."""

    items: tuple[CredentialEnd, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """There is the sign-in that was made at `given_at` (Unix time), and no other token than the held one.

    `wished` is True if a host that cannot renew that one wants another, and `shared` is that of `SignInFacts`.
    """

    given_at: float
    wished: bool = False
    shared: bool | None = None


@dataclass(frozen=True, slots=True)
class SharedSignIn:
    """One sign-in as the fleet's database has it. `key` is its grant's.

    - `state`: "signed-in", "signed-out" or "refused" (for good, by the provider). A host that serves only cannot tell the
      first two apart: "no-token" if there is none.
    - `holder`: the host that has a claim on it, "" for none; `lease` is how many seconds that has left, below 0 if it is
      over. A host that serves only cannot see them.
    - `minted_by`: the host that minted its newest token, "" for none, which can be used for `expires_in` seconds.
    - `unshared`: this host's journal has a later refresh token than the database.
    """

    key: str
    state: str
    holder: str = ""
    lease: float = 0.0
    minted_by: str = ""
    expires_in: float = 0.0
    unshared: bool = False


@dataclass(frozen=True, slots=True)
class FleetReport:
    """The end of a `FleetWork`.

    - `version`: that of the tables in the database, 0 for none; `program` is the one that this cms makes.
    - `statements`: what "init" and "upgrade" run, as text for psql; `ran` says whether they have.
    - `made`: the key files that "init" has made, and `no_file` the keys that it cannot make: they are in no file.
    - `sign_ins`: for "status", all of the database.
    - `adopted`: the keys of the grants that "adopt" has moved, and `unmoved` those that it has left.
    """

    version: int = 0
    program: int = 0
    statements: str = ""
    ran: bool = False
    made: tuple[str, ...] = ()
    no_file: tuple[str, ...] = ()
    sign_ins: tuple[SharedSignIn, ...] = ()
    adopted: tuple[str, ...] = ()
    unmoved: tuple[Unmoved, ...] = ()


Finding: TypeAlias = Looked | Exported | Listed | Rekeyed | Explored | CredentialEnds | FleetReport
Ended: TypeAlias = Outcome | Finding


@dataclass(frozen=True, slots=True)
class Done:
    """The end of one question.

    A SignOut ends with `Granted` of an empty secret when nothing is left. `persisted` says then whether a sign-in was
    there, and `key_from` where a key was deleted that nothing needs any more, "" for none.
    """

    number: int
    outcome: Ended


@dataclass(frozen=True, slots=True)
class Heard:
    """Other hosts of the fleet may have changed the sign-ins of these grants, named by their keys; none means all.

    It answers no question.
    """

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reached:
    """Whether the fleet's database can be asked: `why` not, "" if it can. It answers no question."""

    why: str


# What the worker tells without being asked.
Told: TypeAlias = Heard | Reached
WorkerReply: TypeAlias = Prompt | Done | Told


# A move goes over with its parts: the other side rewords it.
_RECORDS = Records({Move: as_data}, {Move: from_data})


def pack(message: Question | WorkerReply) -> bytes:
    """Return one line, LF included."""
    return json_lines.pack(_RECORDS.pack(message))


def unpack_question(line: bytes) -> Question:
    """Return the question in a line, or raise Garbled."""
    question: Question = _message(line, Question, "an invalid question")
    return question


def unpack_reply(line: bytes) -> WorkerReply:
    """Return the reply in a line, or raise Garbled."""
    reply: WorkerReply = _message(line, WorkerReply, "an invalid reply")
    return reply


def _message(line: bytes, declared: Any, otherwise: str) -> Any:
    body = json_lines.unpack(line)
    try:
        return _RECORDS.unpack(body, declared)
    except TypeError:
        raise Garbled(otherwise) from None
