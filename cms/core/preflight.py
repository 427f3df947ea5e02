"""Checks whether a token can open the protocol that is asked for: by the scopes it was granted, and by its claims.

A mail server refuses a token for another resource with the same few words as a wrong password, and counts a failed
login. So cms checks a token before serving it. A token that cannot be decoded is served, since only the mail server can
judge it, and so is one for a resource that cms does not know: that gets a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cms.core.accounts import ALL_CONSENTED, Scopes, resource
from cms.core.lifecycle import Token
from cms_oauth.claims import Claims
from cms_oauth.microsoft import EXCHANGE, GRAPH, OTHERS, PERMISSIONS, ROLES, resource_name
from cms_oauth.moves import cms, fill


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a token will not do. `certain` is False where a server may take it all the same: then it is served."""

    message: str
    hint: str
    certain: bool = True


@lru_cache(maxsize=1024)
def permission_for(protocol: str, scopes: Scopes) -> str:
    """Return what a token of these scopes must grant to be good for a protocol, "" if that cannot be known.

    Scopes that name a mail permission are Exchange's, and each mail protocol needs its own of them. Other scopes are
    known by the first: other mail servers name their permissions as they like. `.default` stands for all that was
    consented to. Remembered, as each request asks it of the same few accounts.
    """
    names = [each.rpartition("/")[2] for each in scopes]
    own = names[0] if names else ""
    exchange = {each.lower() for each in PERMISSIONS.values()} & {each.lower() for each in names}
    wanted = PERMISSIONS.get(protocol) if exchange else None
    return wanted or ("" if own == ALL_CONSENTED else own)


def covers(token: Token, permission: str) -> bool:
    """Whether a token grants a permission such as SMTP.Send, by the scopes that the provider named.

    Only the last part of a scope counts: Entra spells resources in more than one way. A token without known scopes, or
    for all that was consented to (`.default`), is taken at its word.
    """
    granted = [scope.rpartition("/")[2].lower() for scope in token.scopes]
    return not permission or not granted or ".default" in granted or permission.lower() in granted


def fits(token: Token, protocol: str, scopes: Scopes) -> bool:
    """Whether a token is served for a protocol: its scopes cover it, and it is not certain to be for something else."""
    wrong = misfit(token.claims, protocol, scopes)
    return covers(token, permission_for(protocol, scopes)) and not (wrong and wrong.certain)


def uncovered(permission: str, scopes: Scopes, who: str) -> tuple[str, str]:
    """Say why a token for these scopes lacks a permission, and what to do; `who` signs in, "" if not known."""
    login = {"login": cms("login", who)}
    if permission.lower() in {each.rpartition("/")[2].lower() for each in scopes}:
        said = f"the sign-in does not cover {permission}: it was given before the configuration asked for that"
        return said, fill("sign in again and consent: {login}", login)
    hint = fill("add it to scopes= of the account, or leave scopes= out, then {reload, login}", login)
    return f"scopes= in the configuration names no {permission}", hint


@lru_cache(maxsize=1024)
def misfit(claims: Claims | None, protocol: str, scopes: Scopes) -> Misfit | None:
    """Return why a token is not for this protocol, None if it is or if that cannot be known.

    `scopes` are what the token was asked for. Remembered, as each request asks it of the same few tokens.
    """
    if claims is None:
        return None
    return _wrong_audience(claims, protocol, scopes) or _wrong_roles(claims, protocol)


def _wrong_audience(claims: Claims, protocol: str, scopes: Scopes) -> Misfit | None:
    given, wanted = resource_name(claims.audience), resource_name(resource(scopes))
    mail = protocol in PERMISSIONS
    # Some resources go by several names: a token that was asked for by one may have another.
    same = given == wanted or (given in OTHERS and OTHERS[given] == OTHERS.get(wanted))
    # Graph has permissions of the same names, and opens no mail server, whatever was asked for.
    asked_for = same and not (mail and given == GRAPH)
    # An id that is not known may be any resource's but Exchange's.
    unknown_id = "." not in given and given not in {EXCHANGE, *OTHERS} and wanted != EXCHANGE
    if not given or asked_for or (mail and given == EXCHANGE) or unknown_id:
        return None
    return Misfit(
        f"the token is for {_in_words(given)}, and {protocol} needs one for {_in_words(EXCHANGE if mail else wanted)}",
        _mend(claims, protocol),
        certain=given in OTHERS or given == EXCHANGE,
    )


def _mend(claims: Claims, protocol: str) -> str:
    """Say how to get a token for the right resource: by a sign-in, or for an application by asking again."""
    right = "name the mail scopes alone, or leave scopes= out"
    if protocol not in PERMISSIONS:
        right = f"check the scopes of {protocol} in the configuration"
    elif claims.application:
        right = "name the .default of the mail resource alone, or leave scopes= out"
    return f"{right}, then `cms reload` and `cms {'refresh' if claims.application else 'login'}`"


def _wrong_roles(claims: Claims, protocol: str) -> Misfit | None:
    """Return what is missing of an application's token, which has roles where a person's has scopes."""
    role = ROLES.get(protocol)
    if role is None or not claims.application or role in claims.roles:
        return None
    return Misfit(
        f"the application's token has no role {role}, which {protocol} needs",
        f"an administrator adds {role} to the application's permissions (APIs my organization uses: Office 365 Exchange"
        " Online) and grants admin consent, then `cms refresh`",
        # RBAC for Applications gives SMTP to an application that has no such role in its token.
        certain=protocol != "SMTP",
    )


def _in_words(name: str) -> str:
    return {EXCHANGE: "Exchange Online", **OTHERS}.get(name, name)
