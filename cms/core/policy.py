"""Who may have which token: pure decisions over the peer, the request and the rules of one socket.

The kernel says who the peer is (listener.py), the configuration says who may ask (`Rules`), and nothing of either is
decided anywhere else. A stranger learns that it may not ask, and nothing about accounts or protocols.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cms.core.accounts import Account, Scopes
from cms.core.lifecycle import Deny
from cms_oauth.wire import Request

ROOT = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as the kernel knew it at connect(). `groups` are the supplementary ones."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What one socket serves, and to whom. `owner` is the uid that the daemon runs as.

    `users` and `groups` are both None when the socket's permission bits are the policy: whoever could connect may ask.
    `default` is whom a Postfix table means by a host.
    """

    owner: int
    accounts: tuple[Account, ...]
    protocols: tuple[str, ...]
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    default: Account | None = None


@dataclass(frozen=True, slots=True)
class Allow:
    """The peer may have the token of these scopes of this account.

    `account.user` is the name for the SASL string; for an account configured without one it is whoever signed in, and
    "" while nobody has.
    """

    account: Account
    scopes: Scopes


def admits(peer: Peer, rules: Rules) -> bool:
    """Whether this peer may ask at all. Asked before a byte of it is read."""
    if rules.users is None and rules.groups is None:
        return True
    if peer.uid in (rules.owner, ROOT) or peer.uid in (rules.users or ()):
        return True
    return bool(rules.groups and not rules.groups.isdisjoint((peer.gid, *peer.groups)))


def decide(peer: Peer, request: Request, rules: Rules, names: Mapping[str, str]) -> Allow | Deny:
    """Return the account and scopes that a request gets, or why it gets none.

    `names` maps a grant's key to whoever signed in, for accounts that were configured without a user.
    """
    if not admits(peer, rules):
        return _DENIED
    accounts = [_named(account, names) for account in rules.accounts]
    matches = _matches(request.user, accounts)
    if not matches:
        return _no_account(request.user, accounts)
    serving = [account for account in matches if request.protocol in account.scopes]
    if request.protocol not in rules.protocols or not serving:
        return _no_protocol(request.protocol)
    return Allow(serving[0], serving[0].scopes[request.protocol])


def name_of(account: Account, names: Mapping[str, str]) -> str:
    """Return the name for an account's SASL string, "" while nobody has signed in to one without a user."""
    return account.user or names.get(account.grant.key, "")


def _named(account: Account, names: Mapping[str, str]) -> Account:
    return account if account.user else replace(account, user=name_of(account, names))


def _matches(user: str, accounts: list[Account]) -> list[Account]:
    """Return the accounts that a request means. Several may bear one name: each has protocols of its own."""
    if user:
        # lower() and not casefold(), which would take one mailbox for another where it folds ß to ss.
        return [account for account in accounts if account.user.lower() == user.lower()]
    only_one = len({account.user.lower() for account in accounts}) == 1
    return accounts if only_one else []


NOBODY = Deny(
    "sign-in-required",
    "nobody has signed in to this account yet",
    "whoever runs cms signs in: `cms login`",
)

_DENIED = Deny(
    "denied",
    "this user may not ask at this socket",
    "whoever runs cms adds the user or a group of it to users= or groups= of this CredentialServer, then `cms reload`",
)


def _no_account(user: str, accounts: list[Account]) -> Deny:
    """Why no account is meant. Names no account: who may use the socket need not know them all."""
    if user and any(not account.user for account in accounts):
        # It may well be this user who signs in: mail must wait for that, and not bounce.
        return Deny(
            "sign-in-required",
            "this socket serves an account that nobody has signed in to yet",
            "whoever runs cms signs in: `cms login`",
        )
    if user:
        return Deny(
            "unknown-account",
            "this socket serves no account of that name",
            "check the spelling; else whoever runs cms adds it to accounts= of this CredentialServer, then `cms reload`",
        )
    return Deny(
        "unknown-account",
        "the request names no user, and this socket serves more than one account",
        "name the user: `cms-oauth --user=USER`, or a user after the protocol in the request",
    )


def _no_protocol(protocol: str) -> Deny:
    return Deny(
        "unknown-protocol",
        f"this socket does not serve {protocol} for this account",
        f'check the spelling; else whoever runs cms adds "{protocol}" to protocols= of this CredentialServer, '
        "then `cms reload` and `cms login`",
    )
