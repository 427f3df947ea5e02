"""For `cms check`: which users of this machine get a token at a socket, and what that token opens beyond the socket."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

from cms.cli.doctor import access, probe_machine
from cms.cli.doctor.access import Identity, SocketPath
from cms.config.model import Config, SocketSpec
from cms.config.rules import strict_rules_of
from cms.core.accounts import ALL_CONSENTED, Account, mailboxes
from cms.core.policy import ALL_MAPPED, NAMESPACE, Peer, Rules, admits, shadowed
from cms.core.preflight import permission_for, permission_of
from cms.core.status_table import some
from cms.core.words import NAMELESS
from cms.daemon.serving.folders import distrust
from cms.system import users
from cms_oauth.microsoft import PERMISSIONS
from cms_oauth.peer import ROOT
from cms_oauth.providers import SIGN_INS_OWN

# Users who are named for each socket. Of the rest only the number is told.
MOST_NAMED = 20

# A user's own folder for sockets, which logind makes.
_SESSION = re.compile(r"/run/user/(\d+)(?=/)")

# No user has these numbers, so that what lets this one in lets everybody in.
_ANYBODY = Identity("", 2**32 - 2, 2**32 - 2)


def lines(config: Config) -> dict[str, list[str]]:
    """Return by its path what there is to say of each socket."""
    owner, everyone, sharing = probe_machine.owner_of(config), _everyone(), _sharing(config)
    return {spec.path: list(_lines(spec, owner, everyone, sharing)) for spec in config.sockets}


def _lines(
    spec: SocketSpec, owner: int, everyone: Iterable[Identity], sharing: Mapping[str, set[str]]
) -> Iterator[str]:
    there, rules = probe_machine.planned(spec, owner), strict_rules_of(spec, owner)
    if actual := _actual(spec, there):
        yield actual
    who = _who(there, rules, spec, everyone)
    yield f"can ask there: {who}"
    yield from (f"can ask for {mailboxes(each.user)}: {who}" for each in spec.accounts if each.domain)
    others = spec.mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others and rules.owner != ROOT and (changed := _changeable(there)):
        yield (
            f"cms-oauth of other users takes no token from there, because others than root can change {changed}: use a folder"
            " such as /run/cms"
        )
    for more, names in _beyond(spec, sharing).items():
        yield f"a token of {some(names, MOST_NAMED)} also opens {more}: all that has one sign-in has one token"


def folders(config: Config) -> Iterator[str]:
    """Yield why a daemon would not start: folders of sockets and token files that are another's, or that others can write."""
    for path in (*(each.path for each in config.sockets), *(each.path for each in config.files)):
        try:
            if why := _of_another_session(path, os.geteuid()) or distrust(path):
                yield f"{path}: cms does not start, because {why}"
        except OSError as error:
            yield f"the folder of {path} cannot be looked at: {error.strerror}"


def _of_another_session(path: str, uid: int) -> str:
    """Return why this user makes nothing there: the number in an example's /run/user/1000 was not replaced. "" if not."""
    found = _SESSION.match(path)
    if not found or int(found[1]) == uid or uid == ROOT:
        return ""
    return f"{found[0]} is the folder of uid {found[1]}, and you are {uid}: write /run/user/{uid}"


def namespace(config: Config) -> str:
    """Return a warning if numbers of the configuration admit nobody, because they stand for many here; "" if not."""
    rules = [strict_rules_of(spec, os.geteuid()) for spec in config.sockets]
    return f"{NAMESPACE}: {_numbers()}" if any(map(shadowed, rules)) else ""


def namespace_note() -> str:
    """Return a note if users are not in this user namespace, "" if all are."""
    return "" if users.unmapped() == ALL_MAPPED else f"note: {NAMESPACE}: {_numbers()}"


def _numbers() -> str:
    found = users.unmapped()
    return ", ".join(f"{what} {number}" for what, number in found._asdict().items() if number is not None)


def _changeable(there: SocketPath) -> str:
    """Return the first folder above a socket's own that is not root's alone, "" if there is none.

    A client cannot know who else may take the place of the socket's folder there.
    """
    above = there.steps[:-1] if there.missing else there.steps[:-2]
    writable = stat.S_IWGRP | stat.S_IWOTH
    return next((step.path for step in above if step.uid != ROOT or step.mode & writable), "")


def _actual(spec: SocketSpec, there: SocketPath) -> str:
    """Return what the socket's file is, if it is not as configured: another program has made it, such as systemd."""
    if not there.steps or there.steps[-1].path != spec.path:
        return ""
    last = there.steps[-1]
    mode = stat.S_IMODE(last.mode)
    if mode == spec.mode and spec.group in (None, last.group, str(last.gid)):
        return ""
    return f"is there with mode {mode:04o}, owner {last.owner}, group {last.group}: cms holds to the configured mode and group"


def _who(there: SocketPath, rules: Rules, spec: SocketSpec, everyone: Iterable[Identity]) -> str:
    if there.error:
        return f"unknown, because the path cannot be read: {there.error}"
    if there.missing:
        # cms makes the missing folders for its owner only.
        everyone = (Identity(users.user_name(uid), uid, uid) for uid in dict.fromkeys((0, rules.owner)))
    elif _passes(_ANYBODY, there, rules):
        return "every user of this machine"
    else:
        # Databases need not list all whom they know.
        everyone = (*everyone, *(who for each in spec.users or () if (who := probe_machine.identity(each))))
    found = dict[int, str]()
    for who in everyone:
        if _passes(who, there, rules):
            # A number may have several names.
            found.setdefault(who.uid, f"{who.name} (uid {who.uid})")
    return some(list(found.values()), MOST_NAMED)


def _passes(who: Identity, there: SocketPath, rules: Rules) -> bool:
    free = bool(there.missing) or access.barrier(there, who) is None
    return free and admits(Peer(0, who.uid, who.gid, lambda: who.groups), rules)


def _everyone() -> list[Identity]:
    """Return the users of this machine's databases, as far as those list them."""
    also = dict[str, list[int]]()
    for group in grp.getgrall():
        for name in group.gr_mem:
            also.setdefault(name, []).append(group.gr_gid)
    return [
        Identity(each.pw_name, each.pw_uid, each.pw_gid, tuple(also.get(each.pw_name, ()))) for each in pwd.getpwall()
    ]


def _sharing(config: Config) -> dict[str, set[str]]:
    """Return the users of each sign-in, by its key."""
    found = dict[str, set[str]]()
    for account in config.accounts:
        found.setdefault(account.grant.key, set()).add(account.user or NAMELESS)
    return found


def _beyond(spec: SocketSpec, sharing: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return what tokens from a socket open that it does not serve, and of which accounts: mostly the same for all."""
    served = {account.user or NAMELESS for account in spec.accounts}
    found = dict[str, list[str]]()
    for account in spec.accounts:
        mailboxes = sorted(_mailbox(name) for name in sharing[account.grant.key] - served)
        if more := ", ".join([*_permissions(spec, account), *mailboxes]):
            found.setdefault(more, []).append(account.user or NAMELESS)
    return found


def _mailbox(name: str) -> str:
    every = mailboxes(name)
    return f"the mailbox of {name}" if every == name else every


def _permissions(spec: SocketSpec, account: Account) -> list[str]:
    """Return what an account's mail tokens permit that none of the socket's protocols needs."""
    mail = [
        scopes for protocol, scopes in account.scopes.items() if protocol in spec.protocols and protocol in PERMISSIONS
    ]
    names = {each.rpartition("/")[2] for scopes in mail for each in scopes} - SIGN_INS_OWN
    if account.needs is None:
        given = {permission_for(each, scopes) for scopes in mail for each in spec.protocols}
    else:
        given = {permission_of(account, each) for each in spec.protocols}
    return [
        "all that its application has consent for" if each == ALL_CONSENTED else each for each in sorted(names - given)
    ]
