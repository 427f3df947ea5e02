"""`cms doctor`: every check in order, side by side where they need nothing of each other, each under a deadline.

A check looks (`probes`) and judges (`judge`, `access`, `tools`). What several checks need, such as the configuration, is looked at
once: the first to need it does it, the others wait. Whatever a check does, it is over for the report when its time is.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar, cast
from urllib.parse import urlsplit

from cms import remote
from cms.accounts import PERMISSIONS, Account
from cms.config import Config, ConfigError, SocketSpec
from cms.doctor import access, judge, probes, probes_mail, probes_network, tools
from cms.doctor.bundle import Redactor, addresses_in, redacted
from cms.doctor.findings import (
    LEVELS,
    Finding,
    as_data,
    as_text,
    exit_code,
    failed,
    passed,
    skipped,
    summary,
    warned,
    yours,
)
from cms.doctor.judge import Asked
from cms.policy import ROOT
from cms.remote import NoDaemon
from cms.trust import oddity
from cms.version import VERSION
from cms_oauth import dial, paths, wire
from cms_oauth.claims import claims_of
from cms_oauth.mailtest import place_of

T = TypeVar("T")

# The oldest Python that cms runs on (requires-python in pyproject.toml).
OLDEST_PYTHON = (3, 11)

# The mail servers' ports, and what a host of each protocol is called in an Account.
_HOSTS = {"SMTP": "smtp_host", "IMAP": "imap_host", "POP": "pop_host"}

# Redrawing the line of progress more often than this shows nothing more.
_REDRAW_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds: a `step` of a network probe, a whole `mail` test, a whole `check`."""

    step: float = probes_network.STEP_SECONDS
    mail: float = probes_mail.SECONDS
    check: float = 10.0

    @property
    def whole(self) -> float:
        """The time for everything: a mail test begins when the tokens that it needs are there."""
        return self.check + self.mail

    @property
    def test(self) -> float:
        """The time for a mail test and all that it waits for: a tenth is left to tell of it."""
        return 0.9 * self.whole


@dataclass
class World:
    """What one examination is about, and what has been looked at already.

    `user` is "" for every account; `asking` are further users that must reach the sockets. `load` reads the
    configuration at `path`, and `missing` says that there is none where it is looked for.
    """

    path: str
    load: Callable[[str], Config]
    user: str = ""
    asking: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: str = field(default_factory=lambda: str(Path.home()))
    wall: Callable[[], float] = time.time
    limits: Limits = field(default_factory=Limits)
    _known: dict[str, Future[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def once(self, name: str, look: Callable[[], T]) -> T:
        """Return what `look` finds, which only the first to ask for this name calls."""
        with self._lock:
            first = name not in self._known
            future = self._known.setdefault(name, Future())
        if first:
            _fill(future, look)
        return cast("T", future.result())

    def in_time(self, look: Callable[[], T]) -> T | None:
        """Return what a look finds within a step's time, None where it does not end, or fails."""
        future = start(look)
        done = wait([future], self.limits.step).done
        return future.result() if done and future.exception() is None else None

    # What several checks need.

    @property
    def config(self) -> Config | ConfigError | None:
        """The configuration, why it cannot be used, or None where there is none."""
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
        """The accounts that are meant."""
        found = self.config.accounts if isinstance(self.config, Config) else ()
        if not self.user:
            return list(found)
        return [each for each in found if each.answers_to(self.user) or self.name_of(each).lower() == self.user.lower()]

    def name_of(self, account: Account) -> str:
        """Return whom an account serves: where the configuration names nobody, who has signed in, "" for nobody yet."""
        if account.user or not isinstance(self.config, Config) or isinstance(self.status, NoDaemon):
            return account.user
        # A row for each token of each account, in the configuration's order.
        owners = [each for each in self.config.accounts for _ in set(each.scopes.values())]
        users = [str(row.get("user", "")) for row in self.status.get("accounts", [])]
        pairs = list(zip(owners, users, strict=False))
        # A daemon with another configuration has other rows.
        same = len(owners) == len(users) and all(user == each.user for each, user in pairs if each.user)
        return next((user for each, user in pairs if same and each == account), "")

    @property
    def sockets(self) -> tuple[SocketSpec, ...]:
        return self.config.sockets if isinstance(self.config, Config) else ()

    @property
    def status(self) -> Mapping[str, Any] | NoDaemon:
        """What the running daemon says of itself, or why none can be asked."""
        return self.once("status", lambda: _status(self.path))

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The status' rows of the accounts that are meant."""
        rows = [] if isinstance(self.status, NoDaemon) else self.status.get("accounts", [])
        users = {self.name_of(each).lower() for each in self.accounts} | {self.user.lower()}
        return [row for row in rows if not self.user or str(row.get("user", "")).lower() in users]

    @property
    def logins(self) -> list[judge.Https]:
        """What the login hosts have shown of themselves."""
        return self.once("logins", self._ask_logins)

    def _ask_logins(self) -> list[judge.Https]:
        config = self.config
        secret = isinstance(config, Config) and config.proxy is not None and config.proxy.password is not None
        return together([_looking(self, door, secret=secret) for door in self._doors()], 0.8 * self.limits.check)

    def skew_at(self, account: Account) -> float | None:
        """Return how far this clock is ahead of an account's login host, None where that is not known in time."""
        host = probes_network.door(account.grant.authority, None, {}).place
        return next((each.skew for each in self.in_time(lambda: self.logins) or () if each.host == host), None)

    def _doors(self) -> list[probes_network.Door]:
        config = self.config
        if not isinstance(config, Config):
            return []
        hosts = dict.fromkeys(
            "{0.scheme}://{0.netloc}".format(urlsplit(each.grant.authority)) for each in self.accounts
        )
        return [_door(config, host, self.environ) for host in hosts]

    @property
    def tokens(self) -> list[tuple[Asked, str]]:
        """What was answered for each account and protocol, with the token: that never leaves this object's checks."""
        return self.once("tokens", self._ask_for_tokens)

    def _ask_for_tokens(self) -> list[tuple[Asked, str]]:
        wanted = [(account, protocol) for account in self.accounts for protocol in account.scopes]
        return together([_asking(self, account, protocol) for account, protocol in wanted], 0.9 * self.limits.check)

    def token_of(self, account: Account, protocol: str) -> tuple[Asked, str]:
        """Return what was answered for one account, which may have no name, and a protocol of its own."""
        return next(found for found in self.tokens if (found[0].account, found[0].protocol) == (account, protocol))

    @property
    def servers(self) -> list[tuple[str, Account, str]]:
        """Return each mail protocol of each account, with the server's place, "" where none is known."""
        pairs = [(protocol, each) for protocol in _HOSTS for each in self.accounts if protocol in each.scopes]
        return [(protocol, each, getattr(each, _HOSTS[protocol], "") or each.imap_host) for protocol, each in pairs]


def _fill(future: Future[Any], look: Callable[[], Any]) -> None:
    try:
        future.set_result(look())
    # BLE001: it is raised again in whoever waits for it.
    except BaseException as error:  # noqa: BLE001
        future.set_exception(error)


def start(look: Callable[[], T]) -> Future[T]:
    """Look in a thread that nobody has to wait for: the process can end without it."""
    future: Future[T] = Future()
    threading.Thread(target=_fill, args=(future, look), daemon=True).start()
    return future


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """One of several looks side by side. `late` is what stands for it where it does not end in time."""

    find: Callable[[], T]
    late: T


def together(looks: Sequence[Look[T]], seconds: float) -> list[T]:
    """Return what each finds, looking side by side, within so many seconds: what hangs takes nothing from the others."""
    begun = [(start(look.find), look.late) for look in looks]
    wait([future for future, _ in begun], seconds)
    return [future.result() if future.done() else late for future, late in begun]


def _status(config: str) -> Mapping[str, Any] | NoDaemon:
    # Root may look at the daemon of whoever's configuration it is.
    owners = (probes.owners_control(config),) if os.geteuid() == ROOT else ()
    try:
        with remote.connect((*filter(None, owners), *paths.control_candidates())) as found:
            document: Mapping[str, Any] = found.ask("status").get("json", {})
    except NoDaemon as error:
        return error
    return document


_UNREAD = "the proxy asks for a password, which the grant worker alone reads; `cms status` shows what it met"


def _looking(world: World, door: probes_network.Door, *, secret: bool) -> Look[judge.Https]:
    if secret and door.proxy:
        unseen = judge.Https(door.place, proxy=door.proxy, unseen=_UNREAD)
        return Look(lambda: unseen, unseen)
    late = judge.Https(door.place, proxy=door.proxy, error=_NO_ANSWER)
    return Look(lambda: probes_network.https(door, world.environ, world.limits.step, world.wall), late)


_NO_ANSWER = "no answer in time"


def _door(config: Config, host: str, environ: Mapping[str, str]) -> probes_network.Door:
    if config.proxy is None or not config.proxy.serves(urlsplit(host).hostname or ""):
        return probes_network.door(host, config.ca, {} if config.proxy else environ)
    plain = probes_network.door(host, config.ca, {})
    return probes_network.through(plain, config.proxy.url, config.proxy.user)


def _asking(world: World, account: Account, protocol: str) -> Look[tuple[Asked, str]]:
    late = Asked(
        account, protocol, code="unavailable", message="the daemon did not answer in time", hint="`cms status`"
    )
    return Look(lambda: _ask(world, account, protocol), (late, ""))


def _ask(world: World, account: Account, protocol: str) -> tuple[Asked, str]:
    """Ask the daemon for a token as a mail program does, over a socket that serves this account and protocol."""
    serving = (each for each in world.sockets if each.speaks == "tokens" and protocol in each.protocols)
    spec = next((each for each in serving if account in each.accounts), None)
    if spec is None:
        return Asked(account, protocol, message="no CredentialServer serves it"), ""
    request = wire.build_request(wire.Request(protocol, "json", world.name_of(account)))
    reply = dial.round_trip(spec.path, request, dial.now() + wire.CLIENT_SECONDS, wire.MAX_REPLY)
    if isinstance(reply, dial.Failed):
        return Asked(account, protocol, code=reply.code, message=reply.message, hint=reply.hint), ""
    return _understood(account, protocol, reply.text)


def _understood(account: Account, protocol: str, text: bytes) -> tuple[Asked, str]:
    try:
        answer = json.loads(text)
        refused = answer.get("error")
        if refused:
            code, message, hint = (str(refused.get(name, "")) for name in ("code", "message", "hint"))
            return Asked(account, protocol, code=code, message=message, hint=hint), ""
        token = str(answer["token"])
    except (ValueError, KeyError, AttributeError):
        said = "the socket answered nothing: this user may not ask there"
        return Asked(account, protocol, code="denied", message=said, hint="`cms doctor` as the daemon's owner"), ""
    # Where the configuration names nobody, the daemon knows who has signed in.
    user = str(answer.get("user") or account.user)
    return Asked(account, protocol, got=True, claims=claims_of(token), user=user), token


# The checks.


def _configuration(world: World) -> Iterator[Finding]:
    config = world.config
    if config is None:
        cause = "without one there is nothing to serve"
        yield failed("configuration", f"there is none at {world.path}", yours("no-configuration", cause, "`cms init`"))
    elif isinstance(config, ConfigError):
        where = config.file if config.line is None else f"{config.file}:{config.line}"
        verdict = yours("configuration", config.message, config.hint or "mend that line", "`cms check`")
        yield failed("configuration", where, verdict)
    else:
        has = f"{_counted(config.accounts, 'account')}, {_counted(config.sockets, 'socket')}"
        yield passed("configuration", f"{config.file}: {has}")
        yield from (warned("configuration", each) for each in config.warnings)
        if world.user and not world.accounts:
            known = ", ".join(each.user for each in config.accounts)
            yield failed(
                "configuration", f"no account {world.user}", yours("no-account", f"there are: {known}", "name one")
            )


def _program(_world: World) -> Iterator[Finding]:
    yield judge.python(sys.version_info[:3], OLDEST_PYTHON)
    yield judge.libraries(probes.libraries())


def _clock(world: World) -> Iterator[Finding]:
    yield from map(judge.clock, world.logins)
    if not world.logins:
        yield skipped("clock", "no configuration says which server to compare it with")


def _names(world: World) -> Iterator[Finding]:
    hosts = [*(each.host for each in world._doors()), *(_host(place) for _, _, place in world.servers if place)]  # noqa: SLF001 - the checks are its own
    looks = [_naming(host) for host in dict.fromkeys(hosts)]
    yield from map(judge.names, together(looks, 0.9 * world.limits.check))


def _naming(host: str) -> Look[judge.Names]:
    return Look(lambda: probes_network.names(host), judge.Names(host, error="the resolver does not answer in time"))


def _host(place: str) -> str:
    found = place_of("imap", place)
    return found.host if found else place


def _tls(world: World) -> Iterator[Finding]:
    yield from map(judge.tls, world.logins)


def _proxy(world: World) -> Iterator[Finding]:
    yield from map(judge.proxy, world.logins)


def _key(world: World) -> Iterator[Finding]:
    config = world.config
    folder = probes.state_folder(paths.state_folder())
    source = config.vault_key if isinstance(config, Config) else None
    yield judge.key(probes.key(source, folder.vaults), world.rows)


def _state_folder(_world: World) -> Iterator[Finding]:
    yield judge.state_folder(probes.state_folder(paths.state_folder()), os.geteuid())


def _daemon(world: World) -> Iterator[Finding]:
    if isinstance(world.status, NoDaemon):
        yield judge.no_daemon(world.status.message, world.status.hint)
        return
    config = world.config
    file = config.file if isinstance(config, Config) else ""
    yield from judge.daemon(world.status, VERSION, file, probes.age_of(file, world.wall()) if file else None)


def reached(config: Config, asking: Sequence[str], *, connect: bool) -> list[Finding]:
    """Return, for each socket, who gets tokens there; `connect` tries it as far as this process may."""
    owner = probes.owner_of(config)
    named = [(name, probes.identity(name)) for name in asking]
    unknown = [failed("socket", f"there is no user {name}", _NO_USER) for name, who in named if who is None]
    looks = []
    for spec in config.sockets:
        identities = [*probes.expected(spec, owner), *(who for _, who in named if who)]
        looks += [_reaching(spec, who, owner, connect=connect) for who in dict.fromkeys(identities)]
    return [*unknown, *together(looks, Limits().check)]


_NO_USER = yours("no-user", "this machine knows no such user", "check the spelling: `getent passwd`")


def _reaching(spec: SocketSpec, who: access.Identity, owner: int, *, connect: bool) -> Look[Finding]:
    def look() -> Finding:
        way = probes.way(spec.path)
        found = access.judge(spec.path, way, probes.rules(spec, owner), who)
        there = connect and not way.missing and not way.error
        return access.confirm(found, spec.path, who, probes.try_socket(spec, who) if there else None)

    return Look(look, _late(access.CHECK, f"{spec.path}, for {who.name}"))


def usable(config: Config) -> list[Finding]:
    """Return what would keep a daemon with this configuration from serving, as far as it can be seen without one."""
    owner = probes.owner_of(config)
    folder = probes.state_folder(paths.state_folder())
    found = [judge.key(probes.key(config.vault_key, folder.vaults), ())]
    for spec in config.sockets:
        found += [access.ungiven(spec.path, spec.group)] if spec.group and not probes.may_give_to(spec.group) else []
        there = probes.planned(spec, owner)
        # What is missing cms makes.
        identities = [] if there.missing else probes.expected(spec, owner)
        found += [access.judge(spec.path, there, probes.rules(spec, owner), who) for who in identities]
    return [each for each in found if LEVELS[each.level]]


def _counted(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}" + ("" if len(things) == 1 else "s")


def _sockets(world: World) -> Iterator[Finding]:
    if isinstance(world.config, Config):
        yield from reached(world.config, world.asking, connect=True)
    elif isinstance(world.config, ConfigError) and os.geteuid() == ROOT and not isinstance(world.status, NoDaemon):
        # Root runs nobody else's configuration. The daemon knows its sockets, and a connection shows who may ask.
        listed = [path for path in world.status.get("daemon", {}).get("sockets", ()) if isinstance(path, str)]
        yield from together([_trying(path, name) for path in listed for name in world.asking], Limits().check)


def _trying(path: str, name: str) -> Look[Finding]:
    def look() -> Finding:
        who = probes.identity(name)
        if who is None:
            return failed(access.CHECK, f"there is no user {name}", _NO_USER)
        return access.by_trial(path, probes.way(path), who, probes.try_path(path, who))

    return Look(look, _late(access.CHECK, f"{path}, for {name}"))


def _sign_in(world: World) -> Iterator[Finding]:
    yield from (judge.sign_in(row, world.wall()) for row in world.rows)


def _token(world: World) -> Iterator[Finding]:
    yield from (judge.token(asked) for asked, _ in world.tokens)


def _consent(world: World) -> Iterator[Finding]:
    yield from filter(None, (judge.consent(asked) for asked, _ in world.tokens))


def _servers(world: World) -> Iterator[Finding]:
    places = dict.fromkeys((protocol, place) for protocol, _, place in world.servers if place)
    looks = [_knocking(world, protocol, place) for protocol, place in places]
    yield from map(judge.reached, together(looks, 0.9 * world.limits.check))


def _knocking(world: World, protocol: str, text: str) -> Look[judge.Reached]:
    place = place_of(protocol.lower(), text)
    if place is None:
        none = judge.Reached(text, 0, "it is no HOST or HOST:PORT")
        return Look(lambda: none, none)
    late = judge.Reached(place.host, place.port, _NO_ANSWER)
    return Look(lambda: probes_network.reached(place.host, place.port, world.limits.step), late)


def _mail(protocol: str) -> Callable[[World], Iterator[Finding]]:
    def check(world: World) -> Iterator[Finding]:
        mine = [(account, place) for each, account, place in world.servers if each == protocol and place]
        yield from together([_testing(world, protocol, account, place) for account, place in mine], world.limits.test)

    return check


def _mailbox(world: World) -> Iterator[Finding]:
    mine = [(account, place) for each, account, place in world.servers if each == "IMAP" and place and account.mailbox]
    looks = [_testing(world, "IMAP", account, place, account.mailbox) for account, place in mine]
    yield from together(looks, world.limits.test)


def _testing(world: World, protocol: str, account: Account, place: str, mailbox: str = "") -> Look[Finding]:
    check = f"mailbox {mailbox}" if mailbox else protocol

    def look() -> Finding:
        asked, token = world.token_of(account, protocol)
        if not token:
            return skipped(check, f"{asked.who} at {place}: there is no token")
        return judge.mail(
            probes_mail.run(
                *(protocol, place, asked.user, token),
                mailbox=mailbox,
                seconds=world.limits.mail,
                skew=world.skew_at(account),
            )
        )

    return Look(look, _late(check, f"{account.user} at {place}".strip()))


def _tools(world: World) -> Iterator[Finding]:
    served = tools.Served(world.sockets, paths.find_socket(), os.path.realpath)
    files = probes.tool_files(world.home)
    found = [use for file in files for use in tools.uses(file)]
    for file in files:
        if file.error:
            yield skipped(tools.CHECK, f"{file.tool}: {file.path}: {file.error}")
    yield from (tools.judge(use, served) for use in found)
    if not found:
        yield skipped(tools.CHECK, "none was found that asks cms; docs/clients/ has a page for each")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it is called, and what it finds."""

    name: str
    find: Callable[[World], Iterator[Finding]]


CHECKS = (
    Check("configuration", _configuration),
    Check("python, libraries", _program),
    Check("clock", _clock),
    Check("dns", _names),
    Check("tls", _tls),
    Check("proxy", _proxy),
    Check("key", _key),
    Check("state folder", _state_folder),
    Check("daemon", _daemon),
    Check("socket", _sockets),
    Check("sign-in", _sign_in),
    Check("token", _token),
    Check("consent", _consent),
    Check("mail servers", _servers),
    *(Check(protocol, _mail(protocol)) for protocol in PERMISSIONS),
    Check("mailbox", _mailbox),
    Check("mail tools", _tools),
)


def examine(
    world: World,
    tell: Callable[[Finding], None],
    progress: Callable[[Sequence[str]], None] = lambda _names: None,
    checks: Sequence[Check] = CHECKS,
) -> list[Finding]:
    """Make every check, side by side; tell each finding in the checks' order as soon as it can be; return them all.

    `progress` hears, again and again, the names of the checks that are not done.
    """
    deadline = time.monotonic() + world.limits.whole
    begun = [(check, start(_finding(check, world))) for check in checks]
    found: list[Finding] = []
    for check, future in begun:
        while not wait([future], _REDRAW_SECONDS).done and time.monotonic() < deadline:
            progress([each.name for each, pending in begun if not pending.done()])
        progress([])
        now = future.result() if future.done() else [_late(check.name)]
        for each in now:
            tell(each)
        found += now
    return found


def _finding(check: Check, world: World) -> Callable[[], list[Finding]]:
    def find() -> list[Finding]:
        try:
            return list(check.find(world))
        # BLE001: a fault of one check must not take the others' findings.
        except Exception as error:  # noqa: BLE001
            cause = f"the check itself failed: {type(error).__name__}"
            return [failed(check.name, cause, yours("bug", "this is a fault of cms", "report it with `--bundle FILE`"))]

    return find


def _late(check: str, what: str = "it") -> Finding:
    cause = "something that it asked does not answer"
    return failed(check, f"{what} did not end in time", yours("hang", cause, "look at the lines above; then try again"))


class Progress:
    """The line at the bottom of a terminal that says what is still being looked at. Silent where there is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shows = stream.isatty()
        self._shown = ""

    def __call__(self, names: Sequence[str]) -> None:
        """Show these names in place of the last."""
        columns = shutil.get_terminal_size().columns
        line = f"looking at: {', '.join(names)}"[: columns - 1] if names else ""
        if self._shows and line != self._shown:
            # To the line's begin, and clear it (ECMA-48, CR and EL).
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
            self._shown = line


# What of the daemon's own words goes into a report for strangers: facts that say nothing of anybody. An account's user
# and its problem's message are redacted; links of a sign-in, paths, other sign-ins and requests stay here.
DAEMON_FACTS = ("version", "uptime", "loaded", "memory_chosen")
ROW_FACTS = (
    *("user", "state", "protocols", "usable", "token", "problem", "persisted", "warning", "refused"),
    *("signed_in_age", "forecast", "ends_in", "sign_in_due", "sign_in", "credential_expires_at", "credential_due"),
)


def _facts(status: Mapping[str, Any]) -> dict[str, Any]:
    daemon, rows = status.get("daemon", {}), status.get("accounts", [])
    return {
        "daemon": {name: daemon[name] for name in DAEMON_FACTS if name in daemon},
        "accounts": [{name: row[name] for name in ROW_FACTS if name in row} for row in rows],
    }


def bundle(world: World, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return a report for strangers: what was found and what the daemon says, with nobody's names and secrets in it."""
    status = world.in_time(lambda: world.status)
    report = {**as_data(findings, VERSION), "status": _facts(status) if isinstance(status, Mapping) else {}}
    config = world.in_time(lambda: world.config)
    accounts = config.accounts if isinstance(config, Config) else ()
    addresses = {address for each in accounts for address in (each.user, each.grant.login)} | addresses_in(report)
    tenants = {each.grant.authority.rpartition("/")[2] for each in accounts} - COMMON_TENANTS
    domains = {address.rpartition("@")[2] for address in addresses}
    mailboxes = {each.mailbox for each in accounts} - PUBLIC_MAILBOXES
    names = [*probes.personal_names(), *(tenants - domains)]
    redactor = Redactor(names, world.home, [*sorted(addresses), world.user], mailboxes)
    found: dict[str, Any] = redacted(report, redactor)
    # A kernel's name may have words of its builder's after the number.
    kernel = f"{platform.system()} {platform.release().partition('-')[0]}"
    return {**found, "machine": {"system": kernel, "python": platform.python_version(), "cms": VERSION}}


# Mailboxes that everybody has.
PUBLIC_MAILBOXES = frozenset(("", "INBOX"))

# Tenants that are nobody's.
COMMON_TENANTS = frozenset(("common", "organizations", "consumers"))


def write_bundle(path: str, report: Mapping[str, Any]) -> None:
    """Write a report where nothing is yet, for its owner alone. Raises FileExistsError, or another OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _check_place(path: str) -> None:
    """Raise OSError where no report could be written: before the round, which takes its time."""
    if os.path.lexists(path):
        what = oddity(Path(path))
        said = f"it is {what} and stays as it is: name a file" if what else "it exists already and stays as it is"
        raise FileExistsError(errno.EEXIST, said, path)
    folder = Path(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no file can be written there", str(folder))


def attend(world: World, bundle_path: str, say: Callable[[str], None], *, as_json: bool) -> int:
    """Be the command; return its exit status. Raises OSError where the report cannot be written."""
    if bundle_path:
        _check_place(bundle_path)
    progress = Progress(sys.stderr)

    def tell(finding: Finding) -> None:
        if not as_json:
            progress([])
            say("\n".join(as_text(finding)))

    findings = examine(world, tell, progress)
    say(json.dumps(as_data(findings, VERSION), indent=2) if as_json else f"\n{summary(findings)}")
    if bundle_path:
        write_bundle(bundle_path, bundle(world, findings))
        if not as_json:
            say(f"Wrote {bundle_path}. Look through it before you send it: it has the domains of the addresses")
    return exit_code(findings)
