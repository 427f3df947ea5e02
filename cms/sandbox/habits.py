"""How the simulated providers other than Entra behave: as Google does, and as a strict server does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A desktop client, which has a secret at Google, although it keeps none; and one without, for other servers.
CLIENT_ID = "0123456789-sandbox.apps.googleusercontent.com"
CLIENT_SECRET = "GOCSPX-of-the-sandbox"  # noqa: S105 - opens nothing but this sandbox
PUBLIC_ID = "sandbox-public"

# Google's scope for IMAP, POP and SMTP (Google: "OAuth 2.0 Mechanism").
GOOGLE_MAIL = "https://mail.google.com/"
# The scope for mail of the profile for mail clients (draft-ietf-mailmaint-oauth-public).
MAIL = "urn:ietf:params:oauth:scope:mail"
OFFLINE_ACCESS = "offline_access"

# Google ends a refresh token after seven days while the project's publishing status is "Testing".
TESTING_LIFE = 7 * 86_400.0


@dataclass(eq=False)
class Habits:
    """How a simulated provider behaves; may be changed at any time. Times are seconds, 0 for no end.

    - `path` is what the issuer's name has after the host; `documents` are where its metadata is, `paths` the endpoints.
    - `spelling` says how the answer spells a scope. Unknown scopes are left out of the answer, or refused if `known_only`.
    - `mail` is the scope whose tokens open a mailbox; `device_scopes` are all that a device may ask for, none for any.
    - `by_scope`: a refresh token is given for the scope offline_access (OpenID Connect Core, 11), else for
      `access_type=offline`. Both want `prompt=consent` of a person who has consented before.
    - `rotates`: a refresh token works once. Who presents a used one `leeway` seconds later or more ends the whole
      sign-in: its refresh tokens and its access tokens.
    - `says_life`: the answer has `expires_in`. `says_who`: the id token has the address, which is else userinfo's only.
    - `registers`: anybody may register a client for loopback addresses (RFC 7591).
    - `resource`: what has to be named as such (RFC 8707), "" for nothing.
    - `named`: what its id tokens call the issuer, "" for its own name.
    - `more`: what else an answer with tokens has.
    - `revokes_all`: revoking one token ends all sign-ins of this person with this client.
    """

    path: str
    documents: tuple[str, ...]
    paths: Mapping[str, str]
    scopes: tuple[str, ...]
    mail: str
    prefix: str
    spelling: Mapping[str, str] = field(default_factory=dict)
    known_only: bool = False
    device_scopes: tuple[str, ...] = ()
    by_scope: bool = True
    rotates: bool = True
    leeway: float = 0.0
    token_life: float = 3600.0
    refresh_life: float = 0.0
    code_life: float = 600.0
    device_life: float = 900.0
    device_interval: int = 5
    says_interval: bool = True
    says_life: bool = True
    says_who: bool = True
    needs_pkce: bool = True
    registers: bool = False
    resource: str = ""
    named: str = ""
    revokes_all: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


def google() -> Habits:
    """Return Google's habits (reference: Google, "OAuth 2.0 for Mobile & Desktop Apps"; "OpenID Connect")."""
    return Habits(
        path="",
        documents=("/.well-known/openid-configuration",),
        paths={
            "authorize": "/o/oauth2/v2/auth",
            "token": "/token",
            "devicecode": "/device/code",
            "userinfo": "/v1/userinfo",
            "revoke": "/revoke",
        },
        scopes=(GOOGLE_MAIL, "openid", "email", "profile"),
        mail=GOOGLE_MAIL,
        prefix="ya29.",
        spelling={"email": "https://www.googleapis.com/auth/userinfo.email"},
        known_only=True,
        device_scopes=("openid", "email", "profile"),
        by_scope=False,
        rotates=False,
        needs_pkce=False,
        revokes_all=True,
    )


def strict() -> Habits:
    """Return the habits of a server that holds to what the RFCs and the profile for mail clients allow."""
    path = "/realms/mail"
    return Habits(
        path=path,
        # RFC 8414, 3.1: the path comes behind.
        documents=(f"/.well-known/oauth-authorization-server{path}",),
        paths={
            "authorize": f"{path}/authorize",
            "token": f"{path}/token",
            "devicecode": f"{path}/device/code",
            "userinfo": f"{path}/userinfo",
            "revoke": f"{path}/revoke",
            "register": f"{path}/register",
        },
        scopes=(MAIL, "openid", "email", OFFLINE_ACCESS),
        mail=MAIL,
        prefix="at_",
        says_interval=False,
        says_who=False,
        registers=True,
    )
