"""Asks which application signs in, before the configuration is written: the application's id is part of it."""

from __future__ import annotations

import json
from dataclasses import replace

from cms.cli.init.first_config import Tenant, Wishes
from cms.cli.terminal import Terminal
from cms.config import arguments
from cms.config.arguments import Mistake
from cms_oauth.moves import Command

OWN, THUNDERBIRD, DEFAULT = "own", "thunderbird", "cloud_mdir_sync"

# docs/microsoft-setup.md has the same in full.
_QUESTION = """
Which application signs in? Microsoft shows its name, and your organisation may have to allow it.
  own              one of your own: ten minutes, once; sign-ins last as long as they are used
  thunderbird      Thunderbird's: its authors ask other programs not to use it, and may withdraw it
  cloud_mdir_sync  cloud_mdir_sync's: to try cms; each sign-in ends after 24 hours"""

# Microsoft Graph, and in it SMTP.Send, IMAP.AccessAsUser.All, POP.AccessAsUser.All and offline_access: a test compares
# them with docs/microsoft-setup.md.
_PERMISSIONS = [
    {
        "resourceAppId": "00000003-0000-0000-c000-000000000000",
        "resourceAccess": [
            {"id": each, "type": "Scope"}
            for each in (
                "258f6531-6087-4cc4-bb90-092c5fb3ed3f",
                "652390e4-393a-48de-9484-05f9b1212954",
                "d7b7f2d9-0f45-4ea1-9d42-e50810c06991",
                "7427e0e9-2fba-42fe-b0c0-848c9e6a8182",
            )
        ],
    }
]

_STEPS = """
By clicks:
  1. https://entra.microsoft.com > Entra ID > App registrations > New registration. Account types: {kinds}.
  2. Redirect URI: the platform "Public client/native", the address http://localhost. Register.
  3. Authentication > Settings > "Allow public client flows": Enabled, and save.
  4. API permissions > Add a permission > Microsoft Graph > Delegated permissions: offline_access, SMTP.Send,
     IMAP.AccessAsUser.All and POP.AccessAsUser.All.
  5. The Overview shows the Application (client) ID.
Or by az, which prints the id:
    az login --allow-no-subscriptions
    {az}
docs/microsoft-setup.md explains each step."""
_ONE_TENANT = ('"Accounts in this organizational directory only"', "AzureADMyOrg")
_PERSONAL = ('the one with "and personal Microsoft accounts"', "AzureADandPersonalMicrosoftAccount")


def chosen(wishes: Wishes, tenant: Tenant, person: Terminal) -> Wishes:
    """Ask which application signs in, and return the wishes with its id; the steps to register one are shown."""
    person.say(_QUESTION)
    choice = person.choose("Application?", (OWN, THUNDERBIRD, DEFAULT), DEFAULT)
    if choice == DEFAULT:
        return wishes
    if choice == THUNDERBIRD:
        return replace(wishes, client_id=THUNDERBIRD)
    person.say(steps(tenant))
    while said := person.ask("Application (client) ID"):
        try:
            return replace(wishes, client_id=arguments.guid("client_id", said, ()))
        except Mistake:
            person.complain("that is no application id: it looks like 00001111-aaaa-2222-bbbb-3333cccc4444")
    # The end of the input.
    raise KeyboardInterrupt


def steps(tenant: Tenant) -> str:
    """Return the steps to register your own application."""
    kinds, audience = _PERSONAL if tenant.personal else _ONE_TENANT
    words = (
        *("az", "ad", "app", "create", "--display-name", "Mail programs (cms)", "--sign-in-audience", audience),
        *("--public-client-redirect-uris", "http://localhost", "--is-fallback-public-client", "true"),
        *("--required-resource-accesses", json.dumps(_PERMISSIONS), "--query", "appId", "--output", "tsv"),
    )
    return _STEPS.format(kinds=kinds, az=Command(words))
