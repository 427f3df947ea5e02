"""Decides which peer may have which token, from the peer, the request and the rules of one socket. Pure.

The kernel says who the peer is (cms/system/listener.py), and the configuration says who may ask (`Rules`). All
decisions are in this file. A peer that may not ask is told only that: nothing about accounts or protocols.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from cms.core.accounts import Account, Grant, domain_of
from cms.core.lifecycle import Deny
from cms_oauth.addresses import bare
from cms_oauth.peer import ROOT
from cms_oauth.wire import TokenRequest


class Peer(NamedTuple):
    """The process at the other end of a connection, as the kernel recorded it at connect().

    `groups` returns the supplementary groups: few rules need them. A tuple, because each connection makes one.
    """

    pid: int
    uid: int
    gid: int
    groups: Callable[[], tuple[int, ...]] = tuple


class Unmapped(NamedTuple):
    """The uid and the gid that stand for all users and groups which are not in cms's user namespace (user_namespaces(7)).

    None if there are none: outside of all namespaces.
    """

    uid: int | None = None
    gid: int | None = None


ALL_MAPPED = Unmapped()


class Bits(NamedTuple):
    """The permission bits of a socket's file, and whose it is."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What one socket serves, and to whom. `owner` is the uid that the daemon runs as.

    - If `users` and `groups` are both None, every peer that can connect may ask: the socket's mode decides.
    - `default` is the account for a request that names no user, if there are several accounts; only a Postfix table has one.
    - `unmapped`: numbers that admit nobody, because they stand for many.
    - `held_to`: the file as the configuration wants it, where another program has made it: a peer that could not connect to
      such a file may not ask. None if the kernel has decided that.
    """

    owner: int
    accounts: tuple[Account, ...]
    protocols: tuple[str, ...]
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    default: Account | None = None
    unmapped: Unmapped = ALL_MAPPED
    held_to: Bits | None = None
    # The accounts by their user in lower case, those for every address of a domain by that, and those whose user is whoever
    # has signed in. Computed once, because each request looks one up, also among ten thousand.
    named: Mapping[str, tuple[Account, ...]] = field(init=False, compare=False, repr=False)
    domains: Mapping[str, Account] = field(init=False, compare=False, repr=False)
    nameless: tuple[Account, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        named = dict[str, tuple[Account, ...]]()
        for account in self.accounts:
            if account.user and not account.domain:
                name = _name(account.user)
                named[name] = (*named.get(name, ()), account)
        object.__setattr__(self, "named", named)
        object.__setattr__(self, "domains", {each.domain: each for each in self.accounts if each.domain})
        object.__setattr__(self, "nameless", tuple(each for each in self.accounts if not each.user))


@lru_cache(maxsize=1024)
def _name(user: str) -> str:
    """Return a user as accounts are compared. Cached, because requests ask about the same few users."""
    # lower() and not casefold(): that folds ß to ss, so two mailboxes could get the same name.
    return bare(user).lower()


def admits(peer: Peer, rules: Rules) -> bool:
    """True if this peer may ask at all."""
    if peer.uid == rules.unmapped.uid or (rules.held_to and not _permits(rules.held_to, peer, rules)):
        return False
    if rules.users is None and rules.groups is None:
        return True
    if peer.uid in (rules.owner, ROOT) or peer.uid in (rules.users or ()):
        return True
    return bool(rules.groups and not rules.groups.isdisjoint(_groups(peer, rules)))


def _groups(peer: Peer, rules: Rules) -> set[int]:
    """Return the groups of a peer, without the number that stands for many."""
    return {peer.gid, *peer.groups()} - {rules.unmapped.gid}


def _permits(file: Bits, peer: Peer, rules: Rules) -> bool:
    """True if the kernel would let this peer connect to a socket with this file (unix(7))."""
    if peer.uid == ROOT:
        return True
    if peer.uid == file.uid:
        return bool(file.mode & stat.S_IWUSR)
    return bool(file.mode & (stat.S_IWGRP if file.gid in _groups(peer, rules) else stat.S_IWOTH))


def shadowed(rules: Rules) -> bool:
    """True if the rules name a uid or a gid that admits nobody because it stands for many, or the daemon runs as one."""
    uids, gids = {rules.owner, *(rules.users or ())}, rules.groups or ()
    return rules.unmapped.uid in uids or rules.unmapped.gid in gids


def decide(peer: Peer, request: TokenRequest, rules: Rules, signed_in: Callable[[Grant], str]) -> Account | Deny:
    """Return the account whose token for its protocol a request gets, or why it gets none.

    An account that is configured without a user has the name of the user who has signed in: `signed_in` returns that
    for a grant, "" for none yet. Several accounts may have the same name, with different protocols.
    """
    if not admits(peer, rules):
        return _DENIED
    meant = _meant(request.user, rules, signed_in)
    if not meant:
        return _no_account(request.user, nameless=not all(signed_in(each.grant) for each in rules.nameless))
    name = request.protocol
    if name not in rules.protocols:
        return _no_protocol(name, f"this socket does not serve {name} for this account", "this CredentialServer")
    for account in meant:
        if name in account.scopes:
            return account
    # The socket serves this protocol, so the account must have its own protocols=, and they leave it out.
    return _no_protocol(name, f"the protocols= of this account leave {name} out", "the account")


def _meant(user: str, rules: Rules, signed_in: Callable[[Grant], str]) -> Sequence[Account]:
    """Return the accounts that a request for this user means."""
    if user:
        wanted = _name(user)
        named = rules.named.get(wanted, ())
        # Nearly always there are none.
        if rules.nameless:
            named = (*named, *(each for each in rules.nameless if signed_in(each.grant).lower() == wanted))
        return named or _of_domain(wanted, rules)
    if rules.default:
        return (rules.default,)
    if len(rules.named) > 1:
        return ()
    names = {*rules.named, *(signed_in(each.grant).lower() for each in rules.nameless)}
    # An account for every address is none to fall back to: it opens them all.
    return tuple(each for each in rules.accounts if not each.domain) if len(names) == 1 else ()


def _of_domain(user: str, rules: Rules) -> tuple[Account, ...]:
    """Return the account for every address of this user's domain, with this user's name. There is one at most."""
    account = rules.domains.get(domain_of(user)) if rules.domains else None
    return (account.of(user),) if account else ()


NOT_SIGNED_IN = Deny(
    "sign-in-required",
    "this account is not signed in yet",
    "the user who runs cms signs in: `cms login`",
)

NAMESPACE = (
    "users who are not in this user namespace all have one uid here, and their groups one gid: cms refuses that uid and "
    "ignores that gid, whatever users= and groups= name and whoever runs cms"
)

# The code of a refusal that ends a connection.
DENIED = "denied"
# `cms doctor` looks for this in the answers of both kinds of sockets.
MAY_NOT_ASK = "this user may not ask at this socket"

_DENIED = Deny(
    DENIED,
    MAY_NOT_ASK,
    "the user who runs cms adds the user or a group of it to users= or groups= of this CredentialServer, then `cms reload`",
)


def _no_account(user: str, *, nameless: bool) -> Deny:
    """Return why the request matches no account. The message names no account, because the peer need not know them."""
    if user and nameless:
        # This user may be the one who signs in later, so mail has to wait and not bounce.
        return Deny(
            "sign-in-required",
            "this socket serves an account that is not signed in yet",
            "the user who runs cms signs in: `cms login`",
        )
    if user:
        return Deny(
            "unknown-account",
            "this socket serves no account of that name",
            "check the spelling; or the user who runs cms adds it to accounts= of this CredentialServer, then `cms reload`",
        )
    return Deny(
        "unknown-account",
        "the request names no user, and this socket serves more than one account",
        "name the user: `cms-oauth --user=USER`, or a user after the protocol in the request",
    )


def _no_protocol(protocol: str, message: str, where: str) -> Deny:
    return Deny(
        "unknown-protocol",
        message,
        f'check the spelling; or the user who runs cms adds "{protocol}" to protocols= of {where}, '
        "then `cms reload` and `cms login`",
    )
