"""The checks of `cms doctor`, in the order of the report.

A check gathers facts with a `probe_*` module and passes them to `assess`, `access` or `mail_tools`, which return
findings. Facts that several checks need, such as the configuration, come from the `Examination`, which gathers them once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cms.cli.client import NoDaemon
from cms.cli.doctor import access, assess, assess_network, mail_tools, probe_machine, probe_mail, probe_network
from cms.cli.doctor.examination import Examination, Limits, Look, together, unfinished
from cms.cli.doctor.findings import (
    LEVELS,
    Finding,
    failed,
    passed,
    skipped,
    warned,
    yours,
)
from cms.cli.doctor.mail_tools import judge
from cms.cli.failure import Failure
from cms.config.model import Config, ConfigError, SocketSpec
from cms.config.rules import strict_rules_of
from cms.config.trust import service_of
from cms.core.accounts import Account
from cms.core.proxies import Through
from cms.core.status_table import some
from cms.core.words import NAMELESS
from cms.grants.messages import FleetWork
from cms.system import users
from cms_oauth import paths, tls
from cms_oauth.expand import Unusable, expanded
from cms_oauth.mailtest.dialogue import place_of
from cms_oauth.microsoft import PERMISSIONS
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT
from cms_oauth.version import VERSION

# A mail server is tried with the tokens of so many sign-ins: each is a program and two connections, and hundreds at once
# would look like an attack.
MOST_TRIED = 5

# The oldest Python that cms runs on (requires-python in pyproject.toml).
OLDEST_PYTHON = (3, 11)


def _configuration(examination: Examination) -> Iterator[Finding]:
    config = examination.config
    if examination.nowhere:
        verdict = yours("no-home", examination.nowhere.message, examination.nowhere.hint)
        yield failed("configuration", "there is no usual place for one", verdict)
    elif config is None:
        cause = "without one cms serves no account"
        yield failed(
            "configuration", f"there is none at {examination.path}", yours("no-configuration", cause, "`cms init`")
        )
    elif isinstance(config, ConfigError):
        where = config.file if config.line is None else f"{config.file}:{config.line}"
        verdict = yours("configuration", config.message, config.hint or "correct that line", "`cms check`")
        yield failed("configuration", where, verdict)
    else:
        has = f"{_counted(config.accounts, 'account')}, {_counted(config.sockets, 'socket')}"
        yield passed("configuration", f"{config.file}: {has}")
        yield from (warned("configuration", each) for each in config.warnings)
        if examination.user and not examination.accounts:
            known = some([each.user for each in config.accounts])
            yield failed(
                "configuration",
                f"no account {examination.user}",
                yours("no-account", f"there are: {known}", "name one"),
            )


def _program(_world: Examination) -> Iterator[Finding]:
    yield assess.python(sys.version_info[:3], OLDEST_PYTHON)
    yield assess.libraries(probe_machine.libraries())


def _clock(examination: Examination) -> Iterator[Finding]:
    yield from map(assess_network.clock, examination.logins)
    if not examination.logins:
        yield skipped("clock", "without a configuration there is no server to compare it with")


def _names(examination: Examination) -> Iterator[Finding]:
    hosts = [
        *(each.host for each in examination.doors if not (isinstance(each.route, Through) and each.route.resolves)),
        *(_host(place) for _, _, place in examination.servers if place),
    ]
    looks = [_naming(host) for host in dict.fromkeys(hosts)]
    yield from assess_network.names(together(looks, 0.9 * examination.limits.check))


def _naming(host: str) -> Look[assess_network.Names]:
    return Look(
        lambda: probe_network.names(host), assess_network.Names(host, error="the resolver does not answer in time")
    )


def _host(place: str) -> str:
    found = place_of("imap", place)
    return found.host if found else place


def _tls(examination: Examination) -> Iterator[Finding]:
    yield from map(assess_network.tls, examination.logins)


def _environment(examination: Examination) -> Iterator[Finding]:
    """Yield what is wrong with the variables that this process has: a daemon under systemd has others, and its own check."""
    config, environ = examination.config, examination.environ
    # Tls(ca=) counts before the variables that only login hosts go by.
    bundles = () if isinstance(config, Config) and config.ca else tls.BUNDLES
    counting = [name for name in bundles if environ.get(name)][:1]
    yield from assess_network.environment(
        tls.misnamed(environ, (*tls.OPENSSLS, *tls.SETTINGS)), tls.misnamed(environ, counting)
    )


def _proxy(examination: Examination) -> Iterator[Finding]:
    yield from map(assess_network.proxy, examination.logins)


def _key(examination: Examination) -> Iterator[Finding]:
    config = examination.config
    folder = _state()
    source, old = (config.vault_key, config.vault_old_key) if isinstance(config, Config) else (None, None)
    yield assess.key(probe_machine.key(source, folder.vaults, old), examination.rows)


def _state_folder(examination: Examination) -> Iterator[Finding]:
    config = examination.config
    if isinstance(config, Config) and (uid := service_of(config.file)):
        # This process is root's, and its own folder is not the service's.
        look = Command(("sudo", "-u", users.user_name(uid), "cms", "doctor"))
        yield skipped("state folder", f"it is the service's: `{look}` looks at it")
        return
    yield assess.state_folder(_state(), os.geteuid())


def _fleet(examination: Examination) -> Iterator[Finding]:
    config = examination.config
    if not isinstance(config, Config) or config.fleet is None:
        return
    # Imported here because it loads half a daemon, and few configurations have a fleet.
    from cms.cli import daemonless  # noqa: PLC0415

    try:
        done = daemonless.fleet_work(config, lambda number: FleetWork(number, "status"))
    except Failure as failure:
        verdict = yours("fleet", failure.message, failure.hint or "`cms fleet status`")
        yield failed("fleet", "the database cannot be used", verdict)
    else:
        yield assess.fleet(done, serves_only=config.fleet.serves_only)


def _state() -> assess.Folder:
    try:
        return probe_machine.state_folder(paths.state_folder())
    except Unusable as unusable:
        return assess.Folder("", error=unusable.message, step=unusable.hint)


def _daemon(examination: Examination) -> Iterator[Finding]:
    config = examination.config
    if isinstance(examination.status, NoDaemon):
        # None starts with a configuration that does not load.
        starts = examination.runs or isinstance(config, Config)
        hint = examination.status.hint if starts else "mend the configuration first, as said above"
        yield assess.no_daemon(examination.status.message, hint, runs=examination.runs)
        return
    file = config.file if isinstance(config, Config) else ""
    age = probe_machine.age_of(file, examination.wall()) if file else None
    # The daemon may know the same file by another name: it was started in another folder, or with a link to the file.
    runs_with = str(examination.status.get("daemon", {}).get("config", ""))
    if file and os.path.realpath(runs_with) == os.path.realpath(file):
        file = runs_with
    yield from assess.daemon(examination.status, VERSION, file, age)


def reached(config: Config, asking: Sequence[str], *, connect: bool, runs: bool = False) -> list[Finding]:
    """Return the findings for each socket and each user who needs it. With `connect`, also try to connect.

    `runs` says whether a daemon runs: it puts a lost socket back.
    """
    owner = probe_machine.owner_of(config)
    named = [(name, probe_machine.identity(name)) for name in asking]
    unknown = [failed("socket", f"there is no user {name}", _NO_USER) for name, who in named if who is None]
    looks = []
    for spec in config.sockets:
        identities = [*probe_machine.expected(spec, owner), *(who for _, who in named if who)]
        looks += [_reaching(spec, who, owner, connect=connect, runs=runs) for who in dict.fromkeys(identities)]
    return [*unknown, *together(looks, Limits().check)]


_NO_USER = yours("no-user", "this machine knows no such user", "check the spelling: `getent passwd`")


def _reaching(spec: SocketSpec, who: access.Identity, owner: int, *, connect: bool, runs: bool) -> Look[Finding]:
    def look() -> Finding:
        there = probe_machine.socket_path(spec.path)
        found = access.assess(spec.path, there, strict_rules_of(spec, owner), who, runs=runs)
        reachable = connect and not there.missing and not there.error
        tried = probe_machine.try_socket(spec, who) if reachable else None
        return access.confirm(found, spec.path, who, tried, runs=runs)

    return Look(look, unfinished(access.CHECK, f"{spec.path}, for {who.name}"))


def usable(config: Config, *, own: bool = True) -> list[Finding]:
    """Return what would prevent a daemon with this configuration from serving, as far as can be seen without one.

    `own` is False if another user runs it: then only what this user can judge is looked at.
    """
    owner = probe_machine.owner_of(config)
    found = list[Finding]()
    if own:
        folder = _state()
        found += [assess.key(probe_machine.key(config.vault_key, folder.vaults, config.vault_old_key), ())]
        found += [assess.state_folder(folder, os.geteuid())] if folder.step else []
    for spec in config.sockets:
        if own and spec.group and not probe_machine.may_give_to(spec.group):
            found.append(access.ungiven(spec.path, spec.group))
        there = probe_machine.planned(spec, owner)
        # cms creates a missing folder.
        identities = [] if there.missing else probe_machine.expected(spec, owner)
        found += [access.assess(spec.path, there, strict_rules_of(spec, owner), who) for who in identities]
    return [each for each in found if LEVELS[each.level]]


def _counted(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}" + ("" if len(things) == 1 else "s")


def _sockets(examination: Examination) -> Iterator[Finding]:
    if isinstance(examination.config, Config):
        yield from reached(examination.config, examination.asking, connect=True, runs=examination.runs)
    elif (
        isinstance(examination.config, ConfigError)
        and os.geteuid() == ROOT
        and not isinstance(examination.status, NoDaemon)
    ):
        # Root does not run another user's configuration. The daemon lists its sockets, and connecting shows who may ask.
        listed = [path for path in examination.status.get("daemon", {}).get("sockets", ()) if isinstance(path, str)]
        yield from together([_trying(path, name) for path in listed for name in examination.asking], Limits().check)


def _trying(path: str, name: str) -> Look[Finding]:
    def look() -> Finding:
        who = probe_machine.identity(name)
        if who is None:
            return failed(access.CHECK, f"there is no user {name}", _NO_USER)
        there = probe_machine.socket_path(path)
        return access.by_trial(path, there, who, probe_machine.try_path(path, who), runs=True)

    return Look(look, unfinished(access.CHECK, f"{path}, for {name}"))


def _sign_in(examination: Examination) -> Iterator[Finding]:
    for row in examination.rows:
        user, protocols = str(row.get("user") or NAMELESS), ", ".join(row.get("protocols", ()))
        yield assess.sign_in(row, examination.wall()).about(user, protocols)


def _token(examination: Examination) -> Iterator[Finding]:
    said = {(row.get("user"), each): row for row in examination.rows for each in row.get("protocols", ())}
    for asked, _ in examination.tokens:
        yield assess.token(asked, said.get((asked.who, asked.protocol))).about(asked.who, asked.protocol)
    if more := len(examination.accounts) - len(examination.examined):
        yield skipped(
            "token", f"{more} more accounts share the sign-in of one of these: `cms doctor USER` looks at one"
        )


def _consent(examination: Examination) -> Iterator[Finding]:
    looked = ((asked, assess.consent(asked)) for asked, _ in examination.tokens)
    yield from (found.about(asked.who, asked.protocol) for asked, found in looked if found)


def _servers(examination: Examination) -> Iterator[Finding]:
    for place, found in examination.ports.items():
        users = [account.user or NAMELESS for protocol, account, at in examination.servers if (protocol, at) == place]
        yield assess_network.reached(found, users)


def _mail(protocol: str) -> Callable[[Examination], Iterator[Finding]]:
    def check(examination: Examination) -> Iterator[Finding]:
        mine = dict[str, list[Account]]()
        for each, account, place in examination.servers:
            if each == protocol and place:
                mine.setdefault(place, []).append(account)
        looks = [
            _testing(examination, protocol, account, place)
            for place, accounts in mine.items()
            for account in accounts[:MOST_TRIED]
        ]
        yield from together(looks, examination.limits.test)
        for place, accounts in mine.items():
            if (more := len(accounts) - MOST_TRIED) > 0:
                yield skipped(protocol, f"{more} more sign-ins were not tried at {place}: `cms doctor USER` tries one")

    return check


def _mailbox(examination: Examination) -> Iterator[Finding]:
    mine = [
        (account, place) for each, account, place in examination.servers if each == "IMAP" and place and account.mailbox
    ]
    looks = [_testing(examination, "IMAP", account, place, account.mailbox) for account, place in mine]
    yield from together(looks, examination.limits.test)


def _testing(examination: Examination, protocol: str, account: Account, place: str, mailbox: str = "") -> Look[Finding]:
    check = f"mailbox {mailbox}" if mailbox else protocol

    def look() -> Finding:
        asked, token = examination.token_of(account, protocol)
        if not token:
            return skipped(check, f"{asked.who} at {place}: there is no token").about(asked.who)
        if examination.ports[protocol, place].error:
            # What is wrong there is told once, by the check of mail servers.
            return skipped(check, f"{asked.who} at {place}: it accepts no connections").about(asked.who)
        return assess.mail(
            probe_mail.run(
                *(protocol, place, asked.user, token),
                mailbox=mailbox,
                seconds=examination.limits.mail,
                skew=examination.skew_at(account),
                provider=account.grant.provider,
            )
        ).about(asked.user)

    who = account.user or NAMELESS
    return Look(look, unfinished(check, f"{who} at {place}").about(who))


def _expanded(path: str) -> str:
    """Return a path as `cms-oauth` reads it; one that it refuses stays as it is."""
    try:
        return expanded(path)
    except Unusable:
        return path


def _tools(examination: Examination) -> Iterator[Finding]:
    config = examination.config if isinstance(examination.config, Config) else None
    served = judge.Served(
        config.sockets if config else None,
        config.files if config else None,
        paths.find_socket(),
        examination.home,
        os.path.realpath,
        os.path.isfile,
        _expanded,
    )
    found = mail_tools.uses(probe_machine.mail_files(examination.home, examination.environ))
    findings = [finding for use in found for finding in judge.judge(use, served)]
    yield from findings
    if all(each.level == "skip" for each in findings):
        yield skipped(judge.CHECK, "none was found that asks cms; docs/clients/ has a page for each")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, and the function that yields its findings."""

    name: str
    find: Callable[[Examination], Iterator[Finding]]


CHECKS = (
    Check("configuration", _configuration),
    Check("python, libraries", _program),
    Check("clock", _clock),
    Check("dns", _names),
    Check("environment", _environment),
    Check("tls", _tls),
    Check("proxy", _proxy),
    Check("key", _key),
    Check("state folder", _state_folder),
    Check("fleet", _fleet),
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
