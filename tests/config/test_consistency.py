"""What cannot work together, by rule; and what must not be warned of, because it works."""

from __future__ import annotations

import pytest

from cms.config.consistency import Case, foreign, warnings
from cms.core.accounts import (
    CMS_ORIGIN,
    DEFAULT_REGISTRATION,
    REGISTRATIONS,
    Grant,
    Registration,
    app_scopes,
    mail_scopes,
)
from cms_oauth.microsoft import CLOUDS, NATIVE_CLIENT, PERSONAL_TENANT, Cloud

MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
TENANT = "11112222-3333-4444-5555-666677778888"
GOOD = "https://login.microsoftonline.com"
US = "https://login.microsoftonline.us"
CN = "https://login.partner.microsoftonline.cn"
NVIDIA, THUNDERBIRD = REGISTRATIONS[1], REGISTRATIONS[2]
OUTLOOK = ("https://outlook.office.com/SMTP.Send",)


def case(
    user: str = "a@example.com",
    tenant: str = "common",
    cloud: str = "global",
    *,
    host: str = "",
    client_id: str = MY_ID,
    sign_in: str = "browser",
    scopes: tuple[str, ...] = (),
    origin: str | None = None,
    redirect_uri: str = "http://localhost:8080",
    login: str | None = None,
) -> Case:
    authority = f"{host or CLOUDS[cloud].login}/{tenant}"
    who = user if login is None else login
    grant = Grant(authority, client_id, who, sign_in=sign_in, origin=origin, redirect_uri=redirect_uri)
    return Case(grant, CLOUDS[cloud], user, scopes)


WRONG = {
    "another cloud's login host": (case(cloud="gcc-high", host=GOOD), 'cloud="gcc-high"', US),
    "the global cloud at a national host": (case(host=CN), 'cloud="china"', "leave authority= out"),
    "an older name of a host": (case(host="https://login.windows.net", cloud="dod"), "login.windows.net", US),
    "another cloud's scopes": (case(cloud="dod", scopes=OUTLOOK), "outlook.office.com", "outlook-dod.office365.us"),
    "a national cloud's scopes": (case(scopes=("https://partner.outlook.cn/.default",)), "", 'cloud="china"'),
    "a government's tenant": (case("a@x.onmicrosoft.us"), "", 'cloud="gcc-high" or cloud="dod"'),
    "a government's tenant, named": (case("a@x.mil", "x.onmicrosoft.us"), "", 'cloud="gcc-high" or cloud="dod"'),
    "a tenant in China": (case("a@x.partner.onmschina.cn"), "", 'cloud="china"'),
    "a tenant in China, in America": (case("a@x.partner.onmschina.cn", cloud="dod"), "", 'cloud="china"'),
    "personal, and a tenant's GUID": (case(tenant=TENANT, cloud="personal"), TENANT, "leave tenant= out"),
    "personal, and a tenant's domain": (
        case(tenant="example.com", cloud="personal"),
        "example.com",
        "leave tenant= out",
    ),
    "personal, and an organisation for a person": (
        case("a@outlook.com", TENANT, "personal"),
        TENANT,
        "leave tenant= out",
    ),
    "personal, and any organisation": (case(tenant="organizations", cloud="personal"), "", "leave tenant= out"),
    "an organisation's user among persons": (case(tenant="consumers"), "a@example.com", 'cloud="personal"'),
    "the same, by its GUID": (case(tenant=PERSONAL_TENANT), "a@example.com", 'cloud="personal"'),
    "whoever signs in among persons": (case("", tenant="consumers"), "the account", 'cloud="personal"'),
    "a person at a tenant": (case("a@outlook.com", TENANT), "a@outlook.com", 'cloud="personal"'),
    "a person at organisations": (case("a@hotmail.co.uk", "organizations"), "a@hotmail.co.uk", 'cloud="personal"'),
    "a person in a national cloud": (case("a@live.de", cloud="china"), "a@live.de", 'cloud="personal"'),
    "a person for a shared mailbox": (case("a@example.com", TENANT, login="a@msn.com"), "a@msn.com", ""),
    "an application for a person": (case("a@msn.com", TENANT, login="", sign_in="app"), "a@msn.com", ""),
    "two tenants": (case("a@x.onmicrosoft.com", "y.onmicrosoft.com"), "", 'tenant="x.onmicrosoft.com"'),
    "an organisation's application elsewhere": (case(client_id=NVIDIA.client_id), '"nvidia"', "client_id="),
    "a device code that is not allowed": (
        case(client_id=DEFAULT_REGISTRATION.client_id, sign_in="device", origin=CMS_ORIGIN),
        '"cms"',
        'sign_in="paste"',
    ),
    "a single-page application without Origin": (
        case(client_id=DEFAULT_REGISTRATION.client_id, redirect_uri=DEFAULT_REGISTRATION.redirect_uri),
        "9002327",
        "leave origin= out",
    ),
    "a page of Microsoft's to return to": (case(redirect_uri=NATIVE_CLIENT), NATIVE_CLIENT, 'sign_in="device"'),
    "a page of Microsoft's to paste from": (
        case(redirect_uri=f"{US}/{TENANT}/oauth2/nativeclient", cloud="dod", sign_in="paste"),
        "since January 2026",
        'redirect_uri="http://localhost"',
    ),
    "a page of Microsoft's for persons": (
        case("a@outlook.com", redirect_uri="https://login.live.com/oauth20_desktop.srf"),
        "oauth20_desktop.srf",
        "register http://localhost",
    ),
    "an Origin for a native application": (
        case(client_id=THUNDERBIRD.client_id, redirect_uri=THUNDERBIRD.redirect_uri, origin=CMS_ORIGIN),
        "9002326",
        "leave origin= out",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work(name: str) -> None:
    """One warning, which says what is wrong and what to write instead."""
    wrong, says, instead = WRONG[name]

    (said,) = warnings(wrong)

    assert (True, True) == (says in said, instead in said), said


RIGHT = {
    "the plain case": case(),
    "a user's own domain as the tenant": case(tenant="example.com"),
    # Tenants have many domains.
    "another domain as the tenant": case(tenant="example.org"),
    "a tenant's first domain": case("a@x.onmicrosoft.com", "x.onmicrosoft.com"),
    "an own domain at a tenant's first one": case(tenant="x.onmicrosoft.com"),
    "an own sandbox": case(host="https://localhost:8443", cloud="dod"),
    "whoever signs in": case(""),
    "a person": case("a@outlook.com", "consumers", "personal"),
    "a person by the GUID": case("a@outlook.com", PERSONAL_TENANT, "personal"),
    "a person at common": case("a@outlook.com"),
    "a person at common, named personal": case("a@outlook.com", cloud="personal"),
    "a person at consumers, in the global cloud": case("a@outlook.com", "consumers"),
    "a personal account with an address of its own": case("a@example.com", "consumers", "personal"),
    "a government's tenant": case("a@x.onmicrosoft.us", cloud="gcc-high"),
    "a government's tenant at DoD": case("a@x.onmicrosoft.us", cloud="dod"),
    # Some of the American government's have it.
    "a .com tenant of a government": case("a@x.onmicrosoft.com", cloud="gcc-high"),
    "a tenant in China": case("a@x.partner.onmschina.cn", cloud="china"),
    "an older name of the login host": case(host="https://login.windows.net"),
    "the other name of mail": case(scopes=("https://outlook.office365.com/IMAP.AccessAsUser.All",)),
    "an application of one's own": case(scopes=("api://0a1b2c3d/Read",)),
    "an organisation's application at home": case("a@nvidia.com", NVIDIA.tenant, client_id=NVIDIA.client_id),
    "an own application with a device code": case(sign_in="device"),
    "Thunderbird's with a device code": case(client_id=THUNDERBIRD.client_id, sign_in="device"),
    "an application's own redirect": case(client_id=DEFAULT_REGISTRATION.client_id, redirect_uri="http://localhost"),
    "an Origin for an own application": case(origin=CMS_ORIGIN),
    "Microsoft's broker": case(sign_in="broker", redirect_uri=NATIVE_CLIENT),
    "a code, where no browser returns": case(sign_in="device", redirect_uri=NATIVE_CLIENT),
    "another's page with such a name": case(redirect_uri="https://login.example.com/common/oauth2/nativeclient"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_may_work(name: str) -> None:
    """What could be meant is not warned of."""
    assert () == warnings(RIGHT[name])


@pytest.mark.parametrize("known", REGISTRATIONS, ids=lambda each: each.name)
def test_known_applications_as_they_are(known: Registration) -> None:
    """A known application with its own tenant, redirect address and Origin is never warned of."""
    own = case(tenant=known.tenant, client_id=known.client_id, origin=known.origin, redirect_uri=known.redirect_uri)

    assert () == warnings(own)


@pytest.mark.parametrize("known", CLOUDS.values(), ids=lambda each: each.name)
def test_each_cloud_agrees_with_itself(known: Cloud) -> None:
    """Every host and resource that a cloud's row names belongs to that cloud, for people and for applications."""
    scopes = (*mail_scopes(known.resource, ["SMTP", "IMAP", "POP"]), *app_scopes(known), f"{known.graph}/User.Read")

    assert "" == foreign(known, scopes)
    assert () == warnings(case("", "consumers" if known.name == "personal" else "common", known.name, scopes=scopes))
