"""`cms doctor`: every check in order, side by side where they need nothing of each other, each under a deadline.

A check looks (`probes`) and judges (`judge`, `access`, `tools`). What several checks need, such as the configuration, is looked at
once: the first to need it does it, the others wait. Whatever a check does, it is over for the report when its time is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cms.cli.client import NoDaemon
from cms.cli.doctor import access, assess, mail_tools, probe_machine, probe_mail, probe_network
from cms.cli.doctor.examination import NO_ANSWER, Examination, Limits, Look, late, together
from cms.cli.doctor.findings import (
    LEVELS,
    Finding,
    failed,
    passed,
    skipped,
    warned,
    yours,
)
from cms.config.model import Config, ConfigError, SocketSpec
from cms.core.accounts import Account
from cms.core.policy import ROOT
from cms.version import VERSION
from cms_oauth import paths
from cms_oauth.mailtest.dialogue import place_of
from cms_oauth.microsoft import PERMISSIONS

# The oldest Python that cms runs on (requires-python in pyproject.toml).
OLDEST_PYTHON = (3, 11)


# The checks.


def _configuration(world: Examination) -> Iterator[Finding]:
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


def _program(_world: Examination) -> Iterator[Finding]:
    yield assess.python(sys.version_info[:3], OLDEST_PYTHON)
    yield assess.libraries(probe_machine.libraries())


def _clock(world: Examination) -> Iterator[Finding]:
    yield from map(assess.clock, world.logins)
    if not world.logins:
        yield skipped("clock", "no configuration says which server to compare it with")


def _names(world: Examination) -> Iterator[Finding]:
    hosts = [*(each.host for each in world._doors()), *(_host(place) for _, _, place in world.servers if place)]  # noqa: SLF001 - the checks are its own
    looks = [_naming(host) for host in dict.fromkeys(hosts)]
    yield from map(assess.names, together(looks, 0.9 * world.limits.check))


def _naming(host: str) -> Look[assess.Names]:
    return Look(lambda: probe_network.names(host), assess.Names(host, error="the resolver does not answer in time"))


def _host(place: str) -> str:
    found = place_of("imap", place)
    return found.host if found else place


def _tls(world: Examination) -> Iterator[Finding]:
    yield from map(assess.tls, world.logins)


def _proxy(world: Examination) -> Iterator[Finding]:
    yield from map(assess.proxy, world.logins)


def _key(world: Examination) -> Iterator[Finding]:
    config = world.config
    folder = probe_machine.state_folder(paths.state_folder())
    source = config.vault_key if isinstance(config, Config) else None
    yield assess.key(probe_machine.key(source, folder.vaults), world.rows)


def _state_folder(_world: Examination) -> Iterator[Finding]:
    yield assess.state_folder(probe_machine.state_folder(paths.state_folder()), os.geteuid())


def _daemon(world: Examination) -> Iterator[Finding]:
    if isinstance(world.status, NoDaemon):
        yield assess.no_daemon(world.status.message, world.status.hint)
        return
    config = world.config
    file = config.file if isinstance(config, Config) else ""
    yield from assess.daemon(world.status, VERSION, file, probe_machine.age_of(file, world.wall()) if file else None)


def reached(config: Config, asking: Sequence[str], *, connect: bool) -> list[Finding]:
    """Return, for each socket, who gets tokens there; `connect` tries it as far as this process may."""
    owner = probe_machine.owner_of(config)
    named = [(name, probe_machine.identity(name)) for name in asking]
    unknown = [failed("socket", f"there is no user {name}", _NO_USER) for name, who in named if who is None]
    looks = []
    for spec in config.sockets:
        identities = [*probe_machine.expected(spec, owner), *(who for _, who in named if who)]
        looks += [_reaching(spec, who, owner, connect=connect) for who in dict.fromkeys(identities)]
    return [*unknown, *together(looks, Limits().check)]


_NO_USER = yours("no-user", "this machine knows no such user", "check the spelling: `getent passwd`")


def _reaching(spec: SocketSpec, who: access.Identity, owner: int, *, connect: bool) -> Look[Finding]:
    def look() -> Finding:
        way = probe_machine.way(spec.path)
        found = access.judge(spec.path, way, probe_machine.rules(spec, owner), who)
        there = connect and not way.missing and not way.error
        return access.confirm(found, spec.path, who, probe_machine.try_socket(spec, who) if there else None)

    return Look(look, late(access.CHECK, f"{spec.path}, for {who.name}"))


def usable(config: Config) -> list[Finding]:
    """Return what would keep a daemon with this configuration from serving, as far as it can be seen without one."""
    owner = probe_machine.owner_of(config)
    folder = probe_machine.state_folder(paths.state_folder())
    found = [assess.key(probe_machine.key(config.vault_key, folder.vaults), ())]
    for spec in config.sockets:
        found += (
            [access.ungiven(spec.path, spec.group)] if spec.group and not probe_machine.may_give_to(spec.group) else []
        )
        there = probe_machine.planned(spec, owner)
        # What is missing cms makes.
        identities = [] if there.missing else probe_machine.expected(spec, owner)
        found += [access.judge(spec.path, there, probe_machine.rules(spec, owner), who) for who in identities]
    return [each for each in found if LEVELS[each.level]]


def _counted(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}" + ("" if len(things) == 1 else "s")


def _sockets(world: Examination) -> Iterator[Finding]:
    if isinstance(world.config, Config):
        yield from reached(world.config, world.asking, connect=True)
    elif isinstance(world.config, ConfigError) and os.geteuid() == ROOT and not isinstance(world.status, NoDaemon):
        # Root runs nobody else's configuration. The daemon knows its sockets, and a connection shows who may ask.
        listed = [path for path in world.status.get("daemon", {}).get("sockets", ()) if isinstance(path, str)]
        yield from together([_trying(path, name) for path in listed for name in world.asking], Limits().check)


def _trying(path: str, name: str) -> Look[Finding]:
    def look() -> Finding:
        who = probe_machine.identity(name)
        if who is None:
            return failed(access.CHECK, f"there is no user {name}", _NO_USER)
        return access.by_trial(path, probe_machine.way(path), who, probe_machine.try_path(path, who))

    return Look(look, late(access.CHECK, f"{path}, for {name}"))


def _sign_in(world: Examination) -> Iterator[Finding]:
    yield from (assess.sign_in(row, world.wall()) for row in world.rows)


def _token(world: Examination) -> Iterator[Finding]:
    yield from (assess.token(asked) for asked, _ in world.tokens)


def _consent(world: Examination) -> Iterator[Finding]:
    yield from filter(None, (assess.consent(asked) for asked, _ in world.tokens))


def _servers(world: Examination) -> Iterator[Finding]:
    places = dict.fromkeys((protocol, place) for protocol, _, place in world.servers if place)
    looks = [_knocking(world, protocol, place) for protocol, place in places]
    yield from map(assess.reached, together(looks, 0.9 * world.limits.check))


def _knocking(world: Examination, protocol: str, text: str) -> Look[assess.Reached]:
    place = place_of(protocol.lower(), text)
    if place is None:
        none = assess.Reached(text, 0, "it is no HOST or HOST:PORT")
        return Look(lambda: none, none)
    late = assess.Reached(place.host, place.port, NO_ANSWER)
    return Look(lambda: probe_network.reached(place.host, place.port, world.limits.step), late)


def _mail(protocol: str) -> Callable[[Examination], Iterator[Finding]]:
    def check(world: Examination) -> Iterator[Finding]:
        mine = [(account, place) for each, account, place in world.servers if each == protocol and place]
        yield from together([_testing(world, protocol, account, place) for account, place in mine], world.limits.test)

    return check


def _mailbox(world: Examination) -> Iterator[Finding]:
    mine = [(account, place) for each, account, place in world.servers if each == "IMAP" and place and account.mailbox]
    looks = [_testing(world, "IMAP", account, place, account.mailbox) for account, place in mine]
    yield from together(looks, world.limits.test)


def _testing(world: Examination, protocol: str, account: Account, place: str, mailbox: str = "") -> Look[Finding]:
    check = f"mailbox {mailbox}" if mailbox else protocol

    def look() -> Finding:
        asked, token = world.token_of(account, protocol)
        if not token:
            return skipped(check, f"{asked.who} at {place}: there is no token")
        return assess.mail(
            probe_mail.run(
                *(protocol, place, asked.user, token),
                mailbox=mailbox,
                seconds=world.limits.mail,
                skew=world.skew_at(account),
            )
        )

    return Look(look, late(check, f"{account.user} at {place}".strip()))


def _tools(world: Examination) -> Iterator[Finding]:
    served = mail_tools.Served(world.sockets, paths.find_socket(), os.path.realpath)
    files = probe_machine.tool_files(world.home)
    found = [use for file in files for use in mail_tools.uses(file)]
    for file in files:
        if file.error:
            yield skipped(mail_tools.CHECK, f"{file.tool}: {file.path}: {file.error}")
    yield from (mail_tools.judge(use, served) for use in found)
    if not found:
        yield skipped(mail_tools.CHECK, "none was found that asks cms; docs/clients/ has a page for each")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it is called, and what it finds."""

    name: str
    find: Callable[[Examination], Iterator[Finding]]


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
