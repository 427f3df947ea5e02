"""`cms admin-consent-url`: the address of Entra's admin-consent page, and a letter to the administrator.

Pure: accounts in, text out (Microsoft: "Admin consent on the Microsoft identity platform").
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlencode

from cms.core.accounts import (
    ALL_CONSENTED,
    Account,
    Grant,
    Scopes,
    accounts_meant,
    application,
    mailboxes,
    users_to_type,
)
from cms_oauth.microsoft import ANY_TENANT, CLOUDS, COMMON, ORGANIZATIONS, PERSONAL_TENANTS, ROLES, is_personal, portal
from cms_oauth.providers import PROVIDERS

# Entra sends it back with the browser, but no program listens there to compare it.
STATE = "cms"

# What every sign-in asks for beside its scopes. If the administrator does not consent to these, Entra asks each user.
SIGN_IN_SCOPES = ("openid", "profile", "offline_access")

# The scope with which consent is given to an application that uses only IMAP and POP (Microsoft: "Authenticate an IMAP,
# POP or SMTP connection using OAuth"). With SMTP, it is the scope of its tokens.
IMAP_POP_CONSENT = ("https://ps.outlook.com/.default",)

GUIDE = "https://learn.microsoft.com/entra/identity/enterprise-apps/grant-admin-consent"

_REASONS = {
    "SMTP.Send": "send mail from the mailbox over SMTP",
    "IMAP.AccessAsUser.All": "read and file the mail of the mailbox over IMAP",
    "POP.AccessAsUser.All": "fetch the mail of the mailbox over POP",
    "openid": "know which user has signed in, and refuse any other",
    "profile": "know the name of that user, for the same reason",
    "offline_access": "stay signed in, instead of asking for a sign-in every hour",
    "SMTP.SendAsApp": "send mail from the mailboxes that Exchange lets the application use, over SMTP",
    "IMAP.AccessAsApp": "read and file mail in the mailboxes that Exchange lets the application use, over IMAP",
    "POP.AccessAsApp": "fetch mail from the mailboxes that Exchange lets the application use, over POP",
    "Mail.Send": "send mail through Microsoft Graph",
    "Mail.Read": "read mail through Microsoft Graph",
    "Mail.ReadWrite": "read and file mail through Microsoft Graph",
    ALL_CONSENTED: "what its registration lists, and nothing else",
}
_OTHER_REASON = "for one of our programs, which gets its tokens from cms"

# Mail programs show lines of this width without wrapping them again.
LETTER_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission, the resource that it is for ("" for a sign-in's own), and what it is needed for."""

    name: str
    resource: str
    reason: str


@dataclass(frozen=True, slots=True)
class Petition:
    """Everything that an administrator needs to know. `urls` are to be opened one after the other; usually it is one.

    `unattended` is True if no person signs in: then the permissions are the application's own.
    """

    client_id: str
    application: str
    tenant: str
    users: tuple[str, ...]
    urls: tuple[str, ...]
    redirect_uri: str
    permissions: tuple[Permission, ...]
    unattended: bool
    portal: str


def no_administrator(account: Account) -> str:
    """Return why an account has no administrator who could consent, "" if it has one."""
    grant = account.grant
    if grant.server:
        title = PROVIDERS[grant.provider].title
        return f"only Microsoft has a page for an administrator's consent, and this account is of {title}"
    if grant.sign_in == "managed-identity":
        return (
            "a managed identity has no consent page: an administrator assigns its permissions, with the commands in"
            " docs/microsoft-setup.md"
        )
    tenant = _tenant(grant)
    domain = (grant.login or account.user).rpartition("@")[2].lower()
    if tenant in PERSONAL_TENANTS or (tenant in ANY_TENANT and is_personal(domain)):
        return (
            "this is a personal account, which has no administrator: its owner consents when signing in,"
            " with `cms login`"
        )
    return ""


def meant(accounts: Sequence[Account], user: str) -> tuple[Account, ...] | str:
    """Return the accounts with this name, "" for all. Return an error message if there are none, or several applications."""
    found, names = accounts_meant(accounts, user), users_to_type(accounts)
    if not found:
        return f"there is no account {user}: the configuration has {names}"
    if len({(each.grant.authority, each.grant.client_id, each.grant.sign_in) for each in found}) > 1:
        return f"the accounts have different applications or tenants: name one of {names}"
    return found


def petition(accounts: Sequence[Account]) -> Petition:
    """Return what to ask the administrator for these accounts, which have the same application and tenant."""
    grant = accounts[0].grant
    asked = _asked(accounts)
    return Petition(
        client_id=grant.client_id,
        application=application(grant),
        tenant=_tenant(grant),
        users=tuple(dict.fromkeys(account.user for account in accounts if account.user)),
        urls=tuple(_url(grant, scopes) for scopes in asked),
        redirect_uri=grant.redirect_uri,
        permissions=_own(accounts)
        if grant.unattended
        else tuple(_permission(*scope.rpartition("/")[::2]) for scopes in asked for scope in scopes),
        unattended=grant.unattended,
        portal=portal(grant.authority),
    )


def _tenant(grant: Grant) -> str:
    """Return an organisation's tenant: the page refuses `common`, which includes personal accounts."""
    tenant = grant.authority.rpartition("/")[2]
    return ORGANIZATIONS if tenant == COMMON else tenant


def _asked(accounts: Sequence[Account]) -> list[Scopes]:
    """Return the scopes of each consent request: one for each resource. The first has the sign-in's own scopes too."""
    grant = accounts[0].grant
    if grant.unattended:
        return [_application_scopes(accounts)]
    by_resource: dict[str, dict[str, None]] = {}
    for account in accounts:
        for scopes in account.grant.scope_sets:
            for scope in scopes:
                by_resource.setdefault(scope.rpartition("/")[0], {})[scope] = None
    first, *others = (tuple(scopes) for scopes in by_resource.values())
    return [(*first, *SIGN_IN_SCOPES), *others]


def _application_scopes(accounts: Sequence[Account]) -> Scopes:
    scopes = accounts[0].grant.scope_sets[0]
    protocols = {name for account in accounts for name in account.scopes}
    worldwide = scopes[0] == f"{CLOUDS['global'].app_resource}/{ALL_CONSENTED}"
    return IMAP_POP_CONSENT if worldwide and protocols <= {"IMAP", "POP"} else scopes


def _url(grant: Grant, scopes: Scopes) -> str:
    host = grant.authority.rpartition("/")[0]
    fields = {
        "client_id": grant.client_id,
        "scope": " ".join(scopes),
        "redirect_uri": grant.redirect_uri,
        "state": STATE,
    }
    return f"{host}/{_tenant(grant)}/v2.0/adminconsent?{urlencode(fields, quote_via=quote)}"


def _permission(resource: str, name: str) -> Permission:
    return Permission(name, resource, _REASONS.get(name, _OTHER_REASON))


def _own(accounts: Sequence[Account]) -> tuple[Permission, ...]:
    """Return an application's permissions. Its request names none: consent is to what its registration lists."""
    protocols = dict.fromkeys(name for account in accounts for name in account.scopes)
    names = [ROLES[each] for each in protocols if each in ROLES]
    return tuple(_permission("Office 365 Exchange Online", name) for name in names)


def as_data(asked: Petition) -> dict[str, Any]:
    """Return a petition for programs."""
    return {**asdict(asked), "url": asked.urls[0], "text": letter(asked)}


def letter(asked: Petition) -> str:
    """Return a letter to an administrator, ready to send."""
    parts = (
        "Subject: admin consent to an application for mail",
        _filled(_opening(asked)),
        _what(asked),
        _permissions(asked),
        _filled(_bounds(asked)),
        _how(asked),
        _otherwise(asked),
        f"Microsoft's own description: {GUIDE}",
    )
    return "\n\n".join(parts)


def _filled(text: str, indent: str = "") -> str:
    """Return a paragraph in lines for a letter. Addresses and names stay whole."""
    return textwrap.fill(text, LETTER_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _opening(asked: Petition) -> str:
    whose = " and ".join(map(mailboxes, asked.users)) or "my mailbox"
    return (
        f"Mail programs on one of our machines use {whose} through cms, which fetches the access tokens that Exchange"
        " Online asks for. Please grant admin consent to its application:"
    )


def _what(asked: Petition) -> str:
    tenant = "yours, whichever you sign in to" if asked.tenant == ORGANIZATIONS else asked.tenant
    rows = (("Application (client) ID", asked.client_id), ("Whose it is", asked.application), ("Tenant", tenant))
    return "\n".join(_filled(f"    {f'{name}:':<25}{value}", " " * 29) for name, value in rows)


def _permissions(asked: Petition) -> str:
    kind = "Application permissions" if asked.unattended else "Delegated permissions"
    width = max((len(each.name) for each in asked.permissions), default=0)
    rows = (f"    {each.name:<{width}}  {each.reason}" for each in asked.permissions)
    return "\n".join([f"{kind}, and what each is for:", "", *rows])


def _bounds(asked: Petition) -> str:
    if asked.unattended:
        return (
            "What this does not allow: a mailbox that Exchange has not opened to the application by name"
            " (Add-MailboxPermission, or a role assignment with a scope); anything that is not listed above; signing in"
            " as any user."
        )
    return (
        "What this does not allow: anything without a person who has signed in, or in a mailbox that this person may"
        " not open anyway; anything that is not listed above. The sign-in itself stays Microsoft's, with your policies"
        " and multi-factor authentication, and the application sees no password."
    )


def _how(asked: Petition) -> str:
    links = "\n\n".join(f"    {url}" for url in asked.urls)
    these = "these, one after the other," if len(asked.urls) > 1 else "this"
    end = f"The browser ends at {asked.redirect_uri}, where no page may load. If its address says admin_consent=True, it is done."
    return f"To grant it, open {these} as a Cloud Application Administrator, and accept:\n\n{links}\n\n{_filled(end)}"


def _otherwise(asked: Petition) -> str:
    there = _filled(
        f"If the link does not work: {asked.portal} > Enterprise applications > the application with the ID above >"
        " Permissions > Grant admin consent. It is listed there after a user of the organisation has tried to sign in"
        " with it, or after"
    )
    limits = _filled(
        "Who may use it can be limited there too: Properties > Assignment required, then Users and groups."
    )
    return f"{there}\n\n    az ad sp create --id {asked.client_id}\n\n{limits}"
