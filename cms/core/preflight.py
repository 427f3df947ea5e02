"""Checks that a token can open the protocol that the client asked for, by its scopes and its claims.

A mail server refuses a token for another resource with the same words as a wrong password, and counts a failed login.
So cms checks a token before it serves it. A token that cannot be decoded is served, because only the mail server can
judge it. A token for a resource that cms does not know is served too, with a warning.
"""

from __future__ import annotations

from functools import lru_cache

from cms.core.accounts import ALL_CONSENTED, Account, Scopes, resource
from cms.core.lifecycle import Token
from cms_oauth.claims import Claims
from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import EXCHANGE, GRAPH, OTHERS, PERMISSIONS, ROLES, resource_name
from cms_oauth.moves import cms, fill

# exim accepts 4,090 characters of base64 as a credential, and msmtp and neomutt about as many. With the user's name that
# leaves this many bytes for the token.
LONG_TOKEN = 3000
LENGTHENS = "permissions of the application and group claims make tokens long (docs/configuration.md, Long tokens)"


def too_long(token: Token | None) -> str:
    """Return why some mail programs have no room for a token, "" if all have."""
    size = len(token.secret) if token else 0
    if size <= LONG_TOKEN:
        return ""
    return f"the token has {size} bytes, and exim, msmtp and neomutt fail with more than about {LONG_TOKEN}"


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a token does not fit a protocol. If `certain` is False a server may still accept it, so cms serves it."""

    message: str
    hint: str
    certain: bool = True


@lru_cache(maxsize=1024)
def permission_for(protocol: str, scopes: Scopes) -> str:
    """Return the permission that a token for these scopes needs to open a protocol, "" if it is not known.

    If a scope is one of Exchange's mail permissions, each mail protocol needs its own permission. Other mail servers
    name their permissions as they like: for those it is the first scope. `.default` stands for everything that was
    consented to. Cached, because each request asks this about the same few accounts.
    """
    names = [each.rpartition("/")[2] for each in scopes]
    own = names[0] if names else ""
    exchange = {each.lower() for each in PERMISSIONS.values()} & {each.lower() for each in names}
    wanted = PERMISSIONS.get(protocol) if exchange else None
    return wanted or ("" if own == ALL_CONSENTED else own)


def covers(token: Token, permission: str) -> bool:
    """True if a token grants a permission such as SMTP.Send, by the scopes that the provider named.

    Only the last part of a scope counts, because Entra spells resources in more than one way. A token without known
    scopes, or for `.default` (everything that was consented to), is assumed to grant it.
    """
    return _names(permission, token.scopes)


@lru_cache(maxsize=1024)
def _names(permission: str, scopes: tuple[str, ...]) -> bool:
    """True if scopes name a permission, or may stand for it. Cached, because each request asks this of the same tokens."""
    granted = [scope.rpartition("/")[2].lower() for scope in scopes]
    return not permission or not granted or ".default" in granted or permission.lower() in granted


def permission_of(account: Account, protocol: str) -> str:
    """Return the permission that an account's token needs to open a protocol, "" if it is not known."""
    if account.needs is not None:
        return account.needs.get(protocol, "").rpartition("/")[2]
    return permission_for(protocol, account.scopes.get(protocol, ()))


def misfit_of(account: Account, claims: Claims | None, protocol: str) -> Misfit | None:
    """Return why an account's token is not for this protocol, None if it is or if that cannot be known.

    Only of Microsoft's tokens is it known what they say.
    """
    return None if account.grant.server else misfit(claims, protocol, account.scopes.get(protocol, ()))


def fits(token: Token, account: Account, protocol: str) -> bool:
    """True if cms serves this token for a protocol: its scopes cover the protocol, and no misfit is certain."""
    wrong = misfit_of(account, token.claims, protocol)
    return covers(token, permission_of(account, protocol)) and not (wrong and wrong.certain)


def uncovered(permission: str, scopes: Scopes, who: str) -> tuple[str, str]:
    """Return why a token for these scopes lacks a permission, and what to do. `who` signs in, "" if not known."""
    login = {"login": cms("login", who)}
    if permission.lower() in {each.rpartition("/")[2].lower() for each in scopes}:
        said = f"the sign-in does not cover {permission}: it was given before the configuration asked for that"
        return said, fill("sign in again and consent: {login}", login)
    hint = fill("add it to scopes= of the account, or leave scopes= out, then {reload, login}", login)
    return f"scopes= in the configuration names no {permission}", hint


@lru_cache(maxsize=1024)
def misfit(claims: Claims | None, protocol: str, scopes: Scopes) -> Misfit | None:
    """Return why a token is not for this protocol, None if it is or if that cannot be known.

    `scopes` are what the token was requested for. Cached, because each request asks this about the same few tokens.
    """
    if claims is None:
        return None
    return _wrong_audience(claims, protocol, scopes) or _wrong_roles(claims, protocol)


def _wrong_audience(claims: Claims, protocol: str, scopes: Scopes) -> Misfit | None:
    given, wanted = resource_name(claims.audience), resource_name(resource(scopes))
    mail = protocol in PERMISSIONS
    # Some resources have several names, and Entra may put another one in the token than was asked for.
    same = given == wanted or (given in OTHERS and OTHERS[given] == OTHERS.get(wanted))
    # Graph has permissions with the same names, but its tokens open no mail server.
    asked_for = same and not (mail and given == GRAPH)
    # An unknown id may belong to any resource except Exchange.
    unknown_id = "." not in given and given not in {EXCHANGE, *OTHERS} and wanted != EXCHANGE
    if not given or asked_for or (mail and given == EXCHANGE) or unknown_id:
        return None
    return Misfit(
        f"the token is for {_in_words(given)}, and {protocol} needs one for {_in_words(EXCHANGE if mail else wanted)}",
        _mend(claims, protocol),
        certain=given in OTHERS or given == EXCHANGE,
    )


def _mend(claims: Claims, protocol: str) -> str:
    """Return how to get a token for the right resource: with a new sign-in, or for an application with a refresh."""
    right = "name the mail scopes alone, or leave scopes= out"
    if protocol not in PERMISSIONS:
        right = f"check the scopes of {protocol} in the configuration"
    elif claims.application:
        right = "name the .default of the mail resource alone, or leave scopes= out"
    return f"{right}, then `cms reload` and `cms {'refresh' if claims.application else 'login'}`"


def _wrong_roles(claims: Claims, protocol: str) -> Misfit | None:
    """Return which role an application's token lacks. It has roles instead of a person's scopes."""
    role = ROLES.get(protocol)
    if role is None or not claims.application or role in claims.roles:
        return None
    return Misfit(
        f"the application's token has no role {role}, which {protocol} needs",
        f"an administrator adds {role} to the application's permissions (APIs my organization uses: Office 365 Exchange"
        " Online) and grants admin consent, then `cms refresh`",
        # With RBAC for Applications, an application can use SMTP without this role in its token.
        certain=protocol != "SMTP",
    )


def _in_words(name: str) -> str:
    return {EXCHANGE: "Exchange Online", **OTHERS}.get(name, name)
