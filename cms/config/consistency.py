"""Warns of an account whose cloud, tenant, user, scopes and application do not fit together.

`RULES` is a table of rules about one account; none does I/O. A rule only warns, because it can be wrong: clouds differ,
and tenants have several domains. office365.py refuses what is certainly wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from cms.core.accounts import Grant, Registration, Scopes, registration_of
from cms_oauth.microsoft import (
    ANY_TENANT,
    INITIAL_DOMAINS,
    LOGIN_HOSTS,
    OPEN_TO_PERSONAL,
    PERSONAL_TENANTS,
    RESOURCES,
    Cloud,
    is_personal,
    takes_the_code,
)


# The standard decorator: there is one for each account.
@dataclass(frozen=True, slots=True)
class Case:
    """The account that the rules look at. `user` is its mailbox, `grant.login` who signs in. `scopes` may be empty."""

    grant: Grant
    cloud: Cloud
    user: str
    scopes: Scopes = ()

    @property
    def tenant(self) -> str:
        return self.grant.authority.rpartition("/")[2]

    @property
    def host(self) -> str:
        return urlsplit(self.grant.authority).hostname or ""

    @property
    def person(self) -> str:
        """The user who signs in, or the mailbox if no person signs in."""
        return self.grant.login or self.user

    @property
    def domain(self) -> str:
        return self.person.rpartition("@")[2].lower()

    @property
    def registration(self) -> Registration | None:
        return registration_of(self.grant.client_id)


def warnings(case: Case) -> tuple[str, ...]:
    """Return a sentence for each rule that does not hold, with what to write instead."""
    return tuple(found for rule in RULES if (found := rule(case)))


def foreign(cloud: Cloud, scopes: Scopes) -> str:
    """Return what is wrong if a scope is for a resource of another cloud, "" if none is known to be."""
    for scope in scopes:
        host = urlsplit(scope).netloc.lower()
        clouds = RESOURCES.get(host, (cloud.name,))
        if cloud.name not in clouds:
            return (
                f'{host} is not in cloud="{cloud.name}": its mail is at {cloud.resource} and its Graph at {cloud.graph}.'
                f" Name those, or {_either(clouds)}"
            )
    return ""


def _either(clouds: tuple[str, ...]) -> str:
    return " or ".join(f'cloud="{each}"' for each in clouds)


def _foreign_host(case: Case) -> str:
    clouds = LOGIN_HOSTS.get(case.host, (case.cloud.name,))
    if case.cloud.name in clouds:
        return ""
    return (
        f'{case.host} is not the login host of cloud="{case.cloud.name}", which is {case.cloud.login}: leave authority='
        f" out, or say {_either(clouds)}"
    )


def _foreign_scopes(case: Case) -> str:
    return foreign(case.cloud, case.scopes)


def _foreign_domain(case: Case) -> str:
    """A tenant's accounts are all in one cloud, and its first domain (such as x.onmicrosoft.com) shows which."""
    for domain in (case.tenant, case.domain):
        for ending, clouds in INITIAL_DOMAINS.items():
            if domain.endswith(ending) and case.cloud.name not in clouds:
                return f'{domain} is not a tenant of cloud="{case.cloud.name}": say {_either(clouds)}'
    return ""


def _personal_cloud(case: Case) -> str:
    if case.cloud.name != "personal" or case.tenant in OPEN_TO_PERSONAL:
        return ""
    return (
        f'cloud="personal" is for accounts of Outlook.com, and tenant="{case.tenant}" for an organisation\'s: leave'
        " tenant= out for the one, cloud= for the other"
    )


def _personal_tenant(case: Case) -> str:
    if case.cloud.name == "personal" or case.tenant not in PERSONAL_TENANTS or is_personal(case.domain):
        return ""
    return (
        f'tenant="{case.tenant}" is for personal accounts only, and {case.person or "the account"} may not be one: leave'
        ' tenant= out, or write cloud="personal" instead'
    )


def _personal_user(case: Case) -> str:
    """A guest in a tenant has no mailbox there."""
    at_home = case.tenant in OPEN_TO_PERSONAL and case.cloud.name == "global"
    # For cloud="personal" with a tenant there is a warning already.
    if not is_personal(case.domain) or at_home or case.cloud.name == "personal":
        return ""
    return (
        f"{case.person} is a personal account, and an organisation's tenant has no mailbox for it: write"
        ' cloud="personal", and leave tenant= out'
    )


def _two_tenants(case: Case) -> str:
    """A tenant usually has one name in onmicrosoft.com, and its users have that or another domain."""
    ending = ".onmicrosoft.com"
    if not (case.tenant.endswith(ending) and case.domain.endswith(ending)) or case.tenant == case.domain:
        return ""
    return (
        f"{case.person} is in the tenant {case.domain}, and tenant= names {case.tenant}: write"
        f' tenant="{case.domain}", unless both are one organisation\'s'
    )


def _closed_registration(case: Case) -> str:
    known = case.registration
    if known is None or known.tenant in ANY_TENANT or case.tenant == known.tenant:
        return ""
    return (
        f'the application "{known.name}" is for its own organisation only: leave tenant= and cloud= out, or name'
        " another in client_id="
    )


def _device(case: Case) -> str:
    known = case.registration
    if case.grant.sign_in != "device" or known is None or known.device is not False:
        return ""
    return (
        f'the application "{known.name}" probably does not allow sign_in="device": write sign_in="paste", or register'
        " your own (docs/microsoft-setup.md)"
    )


def _origin(case: Case) -> str:
    """Entra refuses a token request for another platform than the one that the redirect address is registered for."""
    known, grant = case.registration, case.grant
    if known is None or grant.redirect_uri != known.redirect_uri or bool(grant.origin) == bool(known.origin):
        return ""
    if known.origin:
        return (
            f'the application "{known.name}" has its redirect address registered for single-page applications, and'
            " Entra refuses those without an Origin header (AADSTS9002327): leave origin= out"
        )
    return (
        f'the application "{known.name}" is not a single-page application, so Entra refuses an Origin header'
        " (AADSTS9002326): leave origin= out"
    )


def _page_of_microsofts(case: Case) -> str:
    if case.grant.sign_in not in ("browser", "paste") or not takes_the_code(case.grant.redirect_uri):
        return ""
    return (
        f"the redirect address {case.grant.redirect_uri} is a page of Microsoft's, which since January 2026 takes the code"
        ' out of the address: register http://localhost with the application and write redirect_uri="http://localhost",'
        ' or write sign_in="device"'
    )


RULES: tuple[Callable[[Case], str], ...] = (
    _foreign_host,
    _foreign_scopes,
    _foreign_domain,
    _personal_cloud,
    _personal_tenant,
    _personal_user,
    _two_tenants,
    _closed_registration,
    _device,
    _origin,
    _page_of_microsofts,
)
