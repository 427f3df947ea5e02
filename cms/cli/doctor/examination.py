"""The subject of one run of `cms doctor`, and the facts that several of its checks need.

Each fact is gathered once: for the first check that asks for it; other checks wait for the result. Every look-up runs
in a thread with a deadline, so a resolver, server or daemon that hangs affects only its own line of the report.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast
from urllib.parse import urlsplit

from cms.cli import client
from cms.cli.client import NoDaemon, NotListening
from cms.cli.doctor import access, assess_network, probe_machine, probe_mail, probe_network
from cms.cli.doctor.assess import Asked
from cms.cli.doctor.findings import (
    Finding,
    failed,
    yours,
)
from cms.config.model import Config, ConfigError, SocketSpec
from cms.core.accounts import Account, Grant, accounts_matching, accounts_meant, domain_of
from cms.daemon.serving import socketmap
from cms.system import threads
from cms_oauth import dial, expand, paths, wire
from cms_oauth.addresses import bare, is_pattern
from cms_oauth.claims import claims_of
from cms_oauth.expand import Unusable
from cms_oauth.json_object import read_object
from cms_oauth.mailtest.dialogue import place_of
from cms_oauth.peer import ROOT

T = TypeVar("T")

# The field of Account that has the host for each protocol.
_HOSTS = {"SMTP": "smtp_host", "IMAP": "imap_host", "POP": "pop_host"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds: for a `step` of a network probe, a whole `mail` test, a whole `check`."""

    step: float = probe_network.STEP_SECONDS
    mail: float = probe_mail.SECONDS
    check: float = 10.0

    @property
    def whole(self) -> float:
        """The time for everything: a mail test begins after the tokens that it needs have arrived."""
        return self.check + self.mail

    @property
    def test(self) -> float:
        """The time for a mail test and what it waits for. A tenth of the whole time is left to report it."""
        return 0.9 * self.whole


def _home() -> str:
    try:
        return expand.home()
    except Unusable:
        return ""


@dataclass
class Examination:
    """The subject of one run of the doctor, and the facts that are known so far.

    `user` is "" for every account; `asking` are further users who need the sockets. `load` reads the configuration at
    `path`, which is "" if this user has no place for one: `nowhere` says why. `home` is "" for no home folder.
    """

    path: str
    load: Callable[[str], Config]
    user: str = ""
    asking: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: str = field(default_factory=_home)
    wall: Callable[[], float] = time.time
    limits: Limits = field(default_factory=Limits)
    nowhere: Unusable | None = None
    _known: dict[str, Future[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def once(self, name: str, look: Callable[[], T]) -> T:
        """Return the result of `look`. It runs once for each name; later callers wait for the same result."""
        with self._lock:
            if name not in self._known:
                self._known[name] = threads.start(look, name)
        return cast("T", self._known[name].result())

    def in_time(self, look: Callable[[], T]) -> T | None:
        """Return the result of `look` if it succeeds within a step's time, else None."""
        future = threads.start(look)
        done = wait([future], self.limits.step).done
        return future.result() if done and future.exception() is None else None

    # What several checks need.

    @property
    def config(self) -> Config | ConfigError | None:
        """The configuration, its error, or None if there is none."""
        return self.once("configuration", self._load)

    def _load(self) -> Config | ConfigError | None:
        if not os.path.lexists(self.path):
            return None
        try:
            return self.load(self.path)
        except ConfigError as error:
            return error

    @property
    def accounts(self) -> list[Account]:
        """The accounts to check."""
        found = self.config.accounts if isinstance(self.config, Config) else ()
        who = {each.grant.key: self.name_of(each) for each in found if not each.user} if self.user else {}
        find = accounts_matching if is_pattern(self.user) else accounts_meant
        return list(find(found, self.user, who))

    @property
    def examined(self) -> list[Account]:
        """The first of those accounts that share a sign-in and are set up alike: one token serves them all."""
        found = dict[object, Account]()
        # One for every address of a domain has none that could be asked for in place of the others.
        for each in sorted(self.accounts, key=lambda each: bool(each.domain)):
            found.setdefault(_set_up(each, self.sockets), each)
        return list(found.values())

    def name_of(self, account: Account) -> str:
        """Return an account's user. If the configuration names none, the user who has signed in, "" for none yet.

        For every address of a domain, it is the one to check, "" if that is every account.
        """
        if account.domain:
            return bare(self.user) if domain_of(bare(self.user)) else ""
        if account.user or not isinstance(self.config, Config) or isinstance(self.status, NoDaemon):
            return account.user
        # A row for each token of each account, in the configuration's order; then those of opened mailboxes.
        owners = [each for each in self.config.accounts for _ in set(each.scopes.values())]
        users = [str(row.get("user", "")) for row in self.status.get("accounts", []) if not row.get("part_of")]
        pairs = list(zip(owners, users, strict=False))
        # A daemon with another configuration has other rows.
        same = len(owners) == len(users) and all(user == each.user for each, user in pairs if each.user)
        return next((user for each, user in pairs if same and each == account), "")

    @property
    def sockets(self) -> tuple[SocketSpec, ...]:
        return self.config.sockets if isinstance(self.config, Config) else ()

    @property
    def status(self) -> Mapping[str, Any] | NoDaemon:
        """The status of the running daemon, or why there is none."""
        return self.once("status", lambda: _status(self.path))

    @property
    def runs(self) -> bool:
        """Whether a daemon runs, even if no command reaches it."""
        return not isinstance(self.status, NoDaemon) or isinstance(self.status, NotListening)

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The rows of the status for the accounts to check."""
        rows = [] if isinstance(self.status, NoDaemon) else self.status.get("accounts", [])
        users = {name.lower() for each in self.accounts for name in (each.user, self.name_of(each))}
        users |= {bare(self.user).lower()}
        return [row for row in rows if not self.user or str(row.get("user", "")).lower() in users]

    @property
    def logins(self) -> list[assess_network.Https]:
        """The results of a TLS connection to each login host."""
        return self.once("logins", self._ask_logins)

    def _ask_logins(self) -> list[assess_network.Https]:
        config = self.config
        secret = isinstance(config, Config) and config.proxy is not None and config.proxy.password is not None
        return together([_looking(self, door, secret=secret) for door in self.doors], 0.8 * self.limits.check)

    def skew_at(self, account: Account) -> float | None:
        """Return by how many seconds this clock is ahead of an account's login host, None if not known in time."""
        host = probe_network.door(account.grant.authority, None, None, {}).place
        return next((each.skew for each in self.in_time(lambda: self.logins) or () if each.host == host), None)

    @property
    def doors(self) -> list[probe_network.Door]:
        """How to reach the login hosts of the accounts to check."""
        config = self.config
        if not isinstance(config, Config):
            return []
        addresses = (address for each in self.accounts for address in login_addresses(each.grant))
        hosts = dict.fromkeys("{0.scheme}://{0.netloc}".format(urlsplit(each)) for each in addresses)
        return [probe_network.door(host, config.ca, config.proxy, self.environ) for host in hosts]

    @property
    def tokens(self) -> list[tuple[Asked, str]]:
        """The daemon's answer for each examined account and protocol, with the token, which is never part of a report."""
        return self.once("tokens", self._ask_for_tokens)

    def _ask_for_tokens(self) -> list[tuple[Asked, str]]:
        wanted = [(account, protocol) for account in self.examined for protocol in account.scopes]
        return together([_asking(self, account, protocol) for account, protocol in wanted], 0.9 * self.limits.check)

    def token_of(self, account: Account, protocol: str) -> tuple[Asked, str]:
        """Return the daemon's answer for one account and one of its protocols."""
        return next(found for found in self.tokens if (found[0].account, found[0].protocol) == (account, protocol))

    @property
    def servers(self) -> list[tuple[str, Account, str]]:
        """Each mail protocol of each examined account, with its server's address, "" if none is known."""
        pairs = [(protocol, each) for protocol in _HOSTS for each in self.examined if protocol in each.scopes]
        return [(protocol, each, getattr(each, _HOSTS[protocol], "") or each.imap_host) for protocol, each in pairs]

    @property
    def ports(self) -> dict[tuple[str, str], assess_network.Reached]:
        """Whether each mail server accepts connections, by protocol and address."""
        return self.once("ports", lambda: _ports(self))


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """One of several look-ups that run at the same time. `late` is its result if it does not end in time."""

    find: Callable[[], T]
    late: T


def together(looks: Sequence[Look[T]], seconds: float) -> list[T]:
    """Run all looks at the same time; return their results after at most this many seconds."""
    begun = [(threads.start(look.find), look.late) for look in looks]
    wait([future for future, _ in begun], seconds)
    return [future.result() if future.done() else late for future, late in begun]


def _status(config: str) -> Mapping[str, Any] | NoDaemon:
    # Root may also talk to the daemon of the configuration's owner.
    owners = (probe_machine.owners_control(config),) if os.geteuid() == ROOT else ()
    try:
        with client.connect((*filter(None, owners), *paths.control_candidates())) as found:
            answer = found.ask("status")
        with client.understood():
            document = {**answer.get("json", {})}
            rows = [{**row} for row in document.get("accounts", ())]
            return {**document, "daemon": {**document.get("daemon", {})}, "accounts": rows}
    except NoDaemon as error:
        return error


_UNREAD = "the proxy needs a password, and only the grant worker reads it; `cms status` shows its errors"


def login_addresses(grant: Grant) -> tuple[str, ...]:
    """Return the addresses at which a person signs in and cms gets tokens: Google has these at two hosts."""
    tokens = grant.server.token_endpoint if grant.server else ""
    return tuple(filter(None, (grant.authority, tokens)))


def _looking(examination: Examination, door: probe_network.Door, *, secret: bool) -> Look[assess_network.Https]:
    if secret and door.known.proxy:
        unseen = replace(door.known, unseen=_UNREAD)
        return Look(lambda: unseen, unseen)
    late = replace(door.known, error=NO_ANSWER)
    return Look(lambda: probe_network.https(door, examination.environ, examination.limits.step, examination.wall), late)


NO_ANSWER = "no answer in time"


def _set_up(account: Account, sockets: Sequence[SocketSpec]) -> object:
    """Return what two accounts have in common if the same token does the same for both."""
    serving = [each for each in sockets if account in each.accounts]
    served = frozenset((each.speaks, protocol) for each in serving for protocol in each.protocols)
    hosts = (account.imap_host, account.smtp_host, account.pop_host, account.mailbox)
    return account.grant.key, tuple(account.scopes.items()), hosts, served


def _ports(examination: Examination) -> dict[tuple[str, str], assess_network.Reached]:
    places = list(dict.fromkeys((protocol, place) for protocol, _, place in examination.servers if place))
    looks = [_knocking(protocol, place, examination.limits.step) for protocol, place in places]
    return dict(zip(places, together(looks, 0.9 * examination.limits.check), strict=True))


def _knocking(protocol: str, text: str, seconds: float) -> Look[assess_network.Reached]:
    place = place_of(protocol.lower(), text)
    if place is None:
        none = assess_network.Reached(text, 0, "it is no HOST or HOST:PORT")
        return Look(lambda: none, none)
    late = assess_network.Reached(place.host, place.port, NO_ANSWER)
    return Look(lambda: probe_network.reached(place.host, place.port, seconds), late)


def _asking(examination: Examination, account: Account, protocol: str) -> Look[tuple[Asked, str]]:
    late = Asked(
        account, protocol, code="unavailable", message="the daemon did not answer in time", hint="`cms status`"
    )
    return Look(lambda: _ask(examination, account, protocol), (late, ""))


def _ask(examination: Examination, account: Account, protocol: str) -> tuple[Asked, str]:
    """Ask the daemon for a token as a mail program does, at a socket that serves this account and protocol."""
    serving = [each for each in examination.sockets if protocol in each.protocols and account in each.accounts]
    # A table has the token too, where no program asks by the other protocol: on a relay with Postfix.
    spec = next((each for each in serving if each.speaks == "tokens"), None) or next(iter(serving), None)
    if spec is None:
        return Asked(account, protocol, message="no socket serves it"), ""
    name = examination.name_of(account)
    if account.domain and not name:
        return Asked(account, protocol, message="name one of its addresses, `cms doctor ADDRESS`"), ""
    if spec.speaks == "postfix":
        return _look_up(examination, spec.path, Asked(account, protocol, user=name))
    request = wire.build_request(wire.TokenRequest(protocol, "json", name))
    reply = dial.round_trip(spec.path, request, dial.now() + wire.CLIENT_SECONDS, wire.MAX_REPLY)
    if isinstance(reply, dial.Failed):
        return _unasked(examination, Asked(account, protocol), reply), ""
    return _understood(account, protocol, reply.text)


def _unasked(examination: Examination, asked: Asked, failure: dial.Failed) -> Asked:
    # The client does not know whether a daemon runs.
    hint = access.PUT_BACK if failure.code == "no-daemon" and examination.runs else failure.hint
    return replace(asked, code=failure.code, message=failure.message, hint=hint)


def _look_up(examination: Examination, table: str, asked: Asked) -> tuple[Asked, str]:
    """Look an account up in a table as Postfix does, and return what came back."""
    reply = dial.round_trip(table, socketmap.query("cms", asked.user), dial.now() + wire.CLIENT_SECONDS, wire.MAX_REPLY)
    if isinstance(reply, dial.Failed):
        return _unasked(examination, asked, reply), ""
    try:
        word, text = socketmap.reply(reply.text)
    except ValueError:
        word, text = "", "what answers there is no table of cms"
    if word != "OK":
        message = text or "the daemon's table does not have it"
        return replace(asked, code="unavailable", message=f"the table says: {message}", hint="`cms status`"), ""
    user, _, token = text.partition(":")
    return replace(asked, got=True, claims=claims_of(token), user=user), token


def _understood(account: Account, protocol: str, text: bytes) -> tuple[Asked, str]:
    try:
        answer = read_object(text)
        refused = answer.get("error")
        if refused:
            code, message, hint = (str(refused.get(name, "")) for name in ("code", "message", "hint"))
            return Asked(account, protocol, code=code, message=message, hint=hint), ""
        token = str(answer["token"])
    except (ValueError, KeyError, AttributeError):
        said = "the socket answered nothing: this user may not ask there"
        return Asked(account, protocol, code="denied", message=said, hint="`cms doctor` as the daemon's owner"), ""
    # If the configuration names no user, the daemon knows who has signed in.
    user = str(answer.get("user") or account.user)
    return Asked(account, protocol, got=True, claims=claims_of(token), user=user), token


def unfinished(check: str, what: str = "it") -> Finding:
    cause = "a server or a program did not answer"
    return failed(
        check, f"{what} did not finish in time", yours("hang", cause, "look at the lines above; then try again")
    )
