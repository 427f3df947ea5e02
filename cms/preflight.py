"""Can this token open the protocol that is asked for? By what it says of itself, where it can be decoded.

A mail server refuses a token for another resource with the same few words as a wrong password, and counts a failed
login. So it is looked at before it is served. What cannot be decoded is served, for a token is the server's to judge,
and so is what nobody can tell from outside.
"""

from __future__ import annotations

from dataclasses import dataclass

from cms.accounts import PERMISSIONS, Scopes, resource
from cms_oauth.claims import Claims

# Exchange Online's application id, which a token may name where another has its address (v2.0 access tokens have the
# id; which of the two, the resource decides). Microsoft Graph's is the one mistaken for it.
EXCHANGE = "00000002-0000-0ff1-ce00-000000000000"
GRAPH = "00000003-0000-0000-c000-000000000000"

# The addresses of one and the same resource, in each of Microsoft's clouds.
EXCHANGE_HOSTS = frozenset(
    (
        "outlook.office.com",
        "outlook.office365.com",
        "outlook.com",
        "ps.outlook.com",
        "outlook.office365.us",
        "outlook-dod.office365.us",
        "partner.outlook.cn",
    )
)
GRAPH_HOSTS = frozenset(
    ("graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us", "microsoftgraph.chinacloudapi.cn")
)

# What an application's token needs for each mail protocol (Microsoft: "Authenticate an IMAP, POP or SMTP connection
# using OAuth", client credentials).
ROLES = {"SMTP": "SMTP.SendAsApp", "IMAP": "IMAP.AccessAsApp", "POP": "POP.AccessAsApp"}


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why a token will not do. `certain` is False where a server may take it all the same: then it is served."""

    message: str
    hint: str
    certain: bool = True


def misfit(claims: Claims | None, protocol: str, scopes: Scopes) -> Misfit | None:
    """Return why a token is not for this protocol, None where it is or nobody can tell.

    `scopes` are what the token was asked for.
    """
    if claims is None:
        return None
    return _wrong_audience(claims, protocol, scopes) or _wrong_roles(claims, protocol)


def _wrong_audience(claims: Claims, protocol: str, scopes: Scopes) -> Misfit | None:
    given, wanted = resource_name(claims.audience), resource_name(resource(scopes))
    mail = protocol in PERMISSIONS
    # Graph has permissions of the same names, and opens no mail server whoever asked for it.
    asked_for = given == wanted and not (mail and given == GRAPH)
    if not given or asked_for or (mail and given == EXCHANGE):
        return None
    # An id that is not known may be any resource's but Exchange's.
    if not _is_known(given) and wanted != EXCHANGE:
        return None
    hint = "name the mail scopes alone, or leave scopes= out, then `cms reload` and `cms login`"
    return Misfit(
        f"the token is for {_in_words(given)}, and {protocol} needs one for {_in_words(EXCHANGE if mail else wanted)}",
        hint if mail else f"check the scopes of {protocol} in the configuration, then `cms reload` and `cms login`",
    )


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


def resource_name(audience: str) -> str:
    """Return one name for the many spellings of a resource: the known ones' ids, else its host, else as it is."""
    name = audience.strip().lower().rstrip("/")
    _, scheme, rest = name.partition("://")
    host = rest.partition("/")[0].partition(":")[0] if scheme else name
    return EXCHANGE if host in EXCHANGE_HOSTS else GRAPH if host in GRAPH_HOSTS else host


def _is_known(name: str) -> bool:
    return name in {EXCHANGE, GRAPH} or "." in name


def _in_words(name: str) -> str:
    return {EXCHANGE: "Exchange Online", GRAPH: "Microsoft Graph"}.get(name, name)
