"""Checks whether a token can open the protocol that is asked for, by the claims in it, where it can be decoded.

A mail server refuses a token for another resource with the same few words as a wrong password, and counts a failed
login. So cms checks a token before serving it. A token that cannot be decoded is served, since only the mail server can
judge it, and so is one for a resource that cms does not know: that gets a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cms.core.accounts import Scopes, permission_for, resource
from cms.core.lifecycle import Token, covers
from cms_oauth.claims import Claims
from cms_oauth.microsoft import EXCHANGE, GRAPH, OTHERS, PERMISSIONS, ROLES, resource_name


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a token will not do. `certain` is False where a server may take it all the same: then it is served."""

    message: str
    hint: str
    certain: bool = True


def fits(token: Token, protocol: str, scopes: Scopes) -> bool:
    """Whether a token is served for a protocol: its scopes cover it, and it is not certain to be for something else."""
    wrong = misfit(token.claims, protocol, scopes)
    return covers(token, permission_for(protocol, scopes)) and not (wrong and wrong.certain)


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
