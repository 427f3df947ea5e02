"""Decides which peer may have which token: pure functions of the peer, the request and the rules of one socket.

The kernel says who the peer is (cms/system/listener.py), the configuration says who may ask (`Rules`), and only this
file decides. A peer that may not ask learns that, and nothing about accounts or protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cms.core.accounts import Account, Grant, Scopes
from cms.core.lifecycle import Deny
from cms_oauth.wire import TokenRequest

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

    `users` and `groups` are both None when the socket's permission bits are the policy: every peer that can connect may ask.
    `default` is the account that a request without a user gets, where there are several: a Postfix table has one.
    """

    owner: int
    accounts: tuple[Account, ...]
    protocols: tuple[str, ...]
    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None
    default: Account | None = None


@dataclass(frozen=True, slots=True)
class Allow:
    """The peer may have the token of these scopes of this account."""

    account: Account
    scopes: Scopes


def admits(peer: Peer, rules: Rules) -> bool:
    """Return whether this peer may ask at all. Called before a byte of it is read."""
    if rules.users is None and rules.groups is None:
        return True
    if peer.uid in (rules.owner, ROOT) or peer.uid in (rules.users or ()):
        return True
    return bool(rules.groups and not rules.groups.isdisjoint((peer.gid, *peer.groups)))


def decide(peer: Peer, request: TokenRequest, rules: Rules, signed_in: Callable[[Grant], str]) -> Allow | Deny:
    """Return the account and scopes that a request gets, or why it gets none.

    `signed_in` returns the user who has signed in to a grant, "" for none yet: the name of an account that is
    configured without one. Several accounts may have one name, each with its own protocols.
    """
    if not admits(peer, rules):
        return _DENIED
    # lower() and not casefold(), which would take one mailbox for another where it folds ß to ss.
    users = [(account.user or signed_in(account.grant)).lower() for account in rules.accounts]
    meant: Sequence[Account] = ()
    if request.user:
        wanted = request.user.lower()
        meant = [account for account, user in zip(rules.accounts, users, strict=True) if user == wanted]
    elif rules.default:
        meant = (rules.default,)
    elif len(set(users)) == 1:
        meant = rules.accounts
    if not meant:
        return _no_account(request.user, nameless="" in users)
    if request.protocol in rules.protocols:
        for account in meant:
            if request.protocol in account.scopes:
                return Allow(account, account.scopes[request.protocol])
    return _no_protocol(request.protocol)


NOBODY = Deny(
    "sign-in-required",
    "nobody has signed in to this account yet",
    "the user who runs cms signs in: `cms login`",
)

_DENIED = Deny(
    "denied",
    "this user may not ask at this socket",
    "the user who runs cms adds the user or a group of it to users= or groups= of this CredentialServer, then `cms reload`",
)


def _no_account(user: str, *, nameless: bool) -> Deny:
    """Return why no account is meant. It names none: a peer need not know them all."""
    if user and nameless:
        # It may well be this user who signs in: mail must wait for that, and not bounce.
        return Deny(
            "sign-in-required",
            "this socket serves an account that nobody has signed in to yet",
            "the user who runs cms signs in: `cms login`",
        )
    if user:
        return Deny(
            "unknown-account",
            "this socket serves no account of that name",
            "check the spelling; else the user who runs cms adds it to accounts= of this CredentialServer, then `cms reload`",
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
        f'check the spelling; else the user who runs cms adds "{protocol}" to protocols= of this CredentialServer, '
        "then `cms reload` and `cms login`",
    )
