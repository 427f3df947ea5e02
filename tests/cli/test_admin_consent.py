"""What an administrator is asked for: the address, the letter, and the accounts that have no administrator."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from support.configuration import loader

from cms.cli import commands
from cms.cli.admin_consent import Petition, as_data, letter, meant, no_administrator, petition
from cms.core.accounts import CMS_REDIRECT, DEFAULT_REGISTRATION, Account
from cms_oauth.providers import Server

MY_ID = "0a1b2c3d-1111-2222-3333-444455556666"
TENANT = "11112222-3333-4444-5555-666677778888"
OFFICE = "https://outlook.office.com"
SIGN_IN = "openid profile offline_access"


def accounts(
    folder: Path, arguments: str, protocols: str = "['SMTP', 'IMAP', 'POP']", more: str = ""
) -> tuple[Account, ...]:
    return loader(folder)(
        f"{more}\na = Office365_Account({arguments})\nCredentialServer('cms.sock', [a], protocols={protocols})"
    ).accounts


def asked(folder: Path, arguments: str, *rest: str) -> Petition:
    return petition(accounts(folder, arguments, *rest))


def fields(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


class TestAddress:
    def test_of_the_default_application(self, tmp_path: Path) -> None:
        """Any organisation's page, with the scopes that a sign-in asks for, and a redirect that is registered."""
        found = asked(tmp_path, "'a@example.com'")
        (url,) = found.urls

        assert url.startswith("https://login.microsoftonline.com/organizations/v2.0/adminconsent?")
        assert {
            "client_id": DEFAULT_REGISTRATION.client_id,
            "scope": f"{OFFICE}/SMTP.Send {OFFICE}/IMAP.AccessAsUser.All {OFFICE}/POP.AccessAsUser.All {SIGN_IN}",
            "redirect_uri": CMS_REDIRECT,
            "state": "cms",
        } == fields(url)

    @pytest.mark.parametrize("tenant", [TENANT, "example.com", "organizations"])
    def test_of_a_tenant(self, tmp_path: Path, tenant: str) -> None:
        """A tenant that the configuration names is the one that is asked."""
        found = asked(tmp_path, f"'a@example.com', '{tenant}', '{MY_ID}'")

        assert found.urls[0].startswith(f"https://login.microsoftonline.com/{tenant}/v2.0/adminconsent?")
        assert ("http://localhost:8080", MY_ID) == (fields(found.urls[0])["redirect_uri"], found.client_id)

    def test_of_a_national_cloud(self, tmp_path: Path) -> None:
        """Each cloud has its login host, scopes and portal."""
        found = asked(tmp_path, f"'a@example.us', client_id='{MY_ID}', cloud='gcc-high'", "['SMTP']")

        assert found.urls[0].startswith("https://login.microsoftonline.us/organizations/v2.0/adminconsent?")
        assert f"https://outlook.office365.us/SMTP.Send {SIGN_IN}" == fields(found.urls[0])["scope"]
        assert "https://portal.azure.us > Enterprise applications" in letter(found)

    def test_of_several_resources(self, tmp_path: Path) -> None:
        """A request is for one resource: with Graph there are two addresses, and mail's is the first."""
        graph = "graph = Protocol('GRAPH', ['https://graph.microsoft.com/Mail.Send'])"
        found = asked(tmp_path, "'a@example.com'", "['SMTP', graph]", graph)

        assert [f"{OFFICE}/SMTP.Send {SIGN_IN}", "https://graph.microsoft.com/Mail.Send"] == [
            fields(url)["scope"] for url in found.urls
        ]
        assert "these, one after the other," in letter(found)

    @pytest.mark.parametrize(
        ("protocols", "scope"),
        [
            ("['IMAP', 'POP']", "https://ps.outlook.com/.default"),
            ("['SMTP']", "https://outlook.office365.com/.default"),
            ("['SMTP', 'IMAP']", "https://outlook.office365.com/.default"),
        ],
    )
    def test_of_an_application_by_itself(self, tmp_path: Path, protocols: str, scope: str) -> None:
        """An application asks for what its registration lists, at the resource that Microsoft's pages name."""
        app = f"'a@example.com', '{TENANT}', '{MY_ID}', sign_in='app', client_secret=Credential('s')"

        assert scope == fields(asked(tmp_path, app, protocols).urls[0])["scope"]

    def test_of_every_address_of_a_domain(self, tmp_path: Path) -> None:
        """The administrator reads that it is every mailbox."""
        app = f"'a@example.com', '{TENANT}', '{MY_ID}', sign_in='app', client_secret=Credential('s')"
        words = " ".join(letter(replace(asked(tmp_path, app), users=("*@example.com",))).split())

        assert "use every mailbox of example.com through cms" in words

    def test_of_an_application_in_a_national_cloud(self, tmp_path: Path) -> None:
        """Elsewhere the one resource is used for all."""
        app = f"'a@example.cn', '{TENANT}', '{MY_ID}', sign_in='app', client_secret=Credential('s'), cloud='china'"

        assert "https://partner.outlook.cn/.default" == fields(asked(tmp_path, app, "['IMAP']").urls[0])["scope"]


class TestLetter:
    def test_a_person(self, tmp_path: Path) -> None:
        """It names the application, each permission with its reason, what is not allowed, and both ways to grant."""
        found = asked(tmp_path, f"'a@example.com', '{TENANT}', '{MY_ID}'")
        text = letter(found)

        assert f"Application (client) ID: {MY_ID}" in text
        assert f"Whose it is:             {MY_ID}, from the configuration" in text
        assert f"Tenant:                  {TENANT}" in text
        assert "    SMTP.Send              send mail from the mailbox over SMTP\n" in text
        assert "    offline_access         stay signed in" in text
        assert "Delegated permissions" in text
        assert "What this does not allow: anything without a person" in text
        assert f"    {found.urls[0]}\n" in text
        assert f"az ad sp create --id {MY_ID}" in text
        assert "https://learn.microsoft.com/entra/identity/enterprise-apps/grant-admin-consent" in text

    def test_a_borrowed_application(self, tmp_path: Path) -> None:
        """An administrator is told whose application it is, with its caveat, and that any tenant of theirs is meant."""
        text = letter(asked(tmp_path, "'a@example.com'"))

        assert "cms (cloud_mdir_sync's own" in text
        assert "yours, whichever you sign in to" in text

    def test_an_application_by_itself(self, tmp_path: Path) -> None:
        """Application permissions are named as such, with Exchange's own bounds."""
        app = f"'a@example.com', '{TENANT}', '{MY_ID}', sign_in='app', client_secret=Credential('s')"
        text = letter(asked(tmp_path, app))

        assert "Application permissions" in text
        assert "    SMTP.SendAsApp    send mail" in text
        assert "offline_access" not in text
        assert "Add-MailboxPermission" in text

    def test_other_permissions(self, tmp_path: Path) -> None:
        """A permission that cms knows nothing of is named as what it is."""
        protocol = "other = Protocol('OTHER', ['api://thing/Do.It'])"
        text = letter(asked(tmp_path, "'a@example.com'", "['SMTP', other]", protocol))

        assert "    Do.It           for one of our programs, which gets its tokens from cms" in text

    def test_lines_are_short(self, tmp_path: Path) -> None:
        """Nothing but an address is longer than a mail program shows."""
        lines = letter(asked(tmp_path, "'a@example.com'")).splitlines()

        assert [] == [line for line in lines if len(line) > 100 and "https://" not in line]

    def test_data(self, tmp_path: Path) -> None:
        """Programs get the same, and the letter as well."""
        found = asked(tmp_path, "'a@example.com'")
        data = json.loads(json.dumps(as_data(found)))

        assert (found.urls[0], letter(found), False) == (data["url"], data["text"], data["unattended"])
        assert {"name": "SMTP.Send", "resource": OFFICE, "reason": "send mail from the mailbox over SMTP"} in data[
            "permissions"
        ]


class TestNoAdministrator:
    @pytest.mark.parametrize(
        "arguments",
        [
            "'a@outlook.com'",
            "'a@outlook.com', tenant='organizations'",
            "'a@example.com', cloud='personal'",
            "'a@example.com', tenant='9188040d-6c67-4c5b-b112-36a304b66dad'",
        ],
    )
    def test_personal(self, tmp_path: Path, arguments: str) -> None:
        """A personal account has no administrator."""
        assert "has no administrator" in no_administrator(accounts(tmp_path, arguments)[0])

    def test_machine(self, tmp_path: Path) -> None:
        """A managed identity has no consent page, and the page with its commands is named."""
        machine = accounts(tmp_path, "'a@example.com', sign_in='managed-identity'")

        assert "docs/microsoft-setup.md" in no_administrator(machine[0])

    def test_another_provider(self, tmp_path: Path) -> None:
        """Only Microsoft has such a page."""
        found = accounts(tmp_path, "'a@example.com'")[0]
        elsewhere = replace(found, grant=replace(found.grant, provider="google", server=Server()))

        assert "this account is of Google" in no_administrator(elsewhere)

    def test_organisation(self, tmp_path: Path) -> None:
        """Every other account has an administrator."""
        assert "" == no_administrator(accounts(tmp_path, "'a@example.com'")[0])


TWO = """\
a = Office365_Account('a@example.com')
b = Office365_Account('b@example.com', sign_in_as='a@example.com')
CredentialServer('a.sock', [a], protocols=['SMTP'])
CredentialServer('b.sock', [b], protocols=['IMAP'])
"""
THREE = f"{TWO}c = Office365_Account('c@example.com', client_id='{MY_ID}')\nCredentialServer('c.sock', [c])\n"


class TestMeant:
    def test_all_of_one_application(self, tmp_path: Path) -> None:
        """Accounts of one application are asked for together."""
        found = meant(loader(tmp_path)(TWO).accounts, "")
        assert isinstance(found, tuple)

        assert ("a@example.com", "b@example.com") == petition(found).users
        assert {"SMTP.Send", "IMAP.AccessAsUser.All"} < {each.name for each in petition(found).permissions}

    def test_several_applications(self, tmp_path: Path) -> None:
        """One of several has to be named, and may be."""
        config = loader(tmp_path)(THREE)
        one = meant(config.accounts, "C@example.com")

        assert "name one of a@example.com, b@example.com, c@example.com" in str(meant(config.accounts, ""))
        assert isinstance(one, tuple)
        assert ["c@example.com"] == [each.user for each in one]

    def test_unknown(self, tmp_path: Path) -> None:
        """The message lists the accounts that exist."""
        assert "there is no account x@example.com" in str(meant(loader(tmp_path)(TWO).accounts, "x@example.com"))


class TestCommand:
    """`cms admin-consent-url`, which needs no daemon."""

    @staticmethod
    def run(folder: Path, text: str, *arguments: str) -> int:
        (folder / "cms.cfg").write_text(text)
        (folder / "cms.cfg").chmod(0o600)
        return commands.main(["admin-consent-url", "-c", str(folder / "cms.cfg"), *arguments])

    def test_prints_address_and_letter(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The first line is the address alone; the letter follows."""
        assert 0 == self.run(tmp_path, TWO)
        first, _, *rest = capsys.readouterr().out.splitlines()

        assert first.startswith("https://login.microsoftonline.com/organizations/v2.0/adminconsent?client_id=")
        assert rest[0].startswith("Subject: ")

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """For programs there is one object."""
        assert 0 == self.run(tmp_path, TWO, "--json")

        assert json.loads(capsys.readouterr().out)["client_id"] == DEFAULT_REGISTRATION.client_id

    def test_which_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """An account that is not clear is a mistake of the command line's."""
        assert os.EX_USAGE == self.run(tmp_path, THREE)

        assert "name one of" in capsys.readouterr().err

    def test_personal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Who has no administrator is told so, and nothing is printed to send."""
        assert 1 == self.run(tmp_path, TWO.replace("example.com", "outlook.com"))
        out, err = capsys.readouterr()

        assert "" == out
        assert "has no administrator" in err
