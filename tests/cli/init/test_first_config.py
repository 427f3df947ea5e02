"""A first configuration: whose address it is for, and what is written."""

from __future__ import annotations

import pwd
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.newcomers import GUID, USER, empty_home, wishes

from cms.cli.init import first_config
from cms.cli.init.first_config import (
    Tenant,
    hosted_by,
    known_tenant,
    lacks_client,
    tenant_of,
    text_of,
    uses_default,
    write,
)
from cms.config.load import load
from cms.core.accounts import Source
from cms.grants.messages import Explored
from cms_oauth import documents
from cms_oauth.microsoft import PERSONAL_TENANT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


# --- whose address it is ---


@pytest.mark.parametrize(
    ("user", "more", "expected"),
    [
        (USER, {"tenant": GUID}, Tenant(GUID)),
        ("ann@outlook.com", {}, Tenant(personal=True, said="outlook.com is for personal accounts.")),
        ("ann@hotmail.co.uk", {}, Tenant(personal=True, said="hotmail.co.uk is for personal accounts.")),
        ("ann@windowslive.com", {}, Tenant(personal=True, said="windowslive.com is for personal accounts.")),
        ("ann@live.example.test", {}, None),
        ("ann@msn.de", {}, None),
        (USER, {"offline": True}, Tenant(said="Written without a tenant (--offline).")),
        (USER, {}, None),
        ("ann@nvidia.com", {"client_id": "x"}, None),
    ],
)
def test_what_needs_no_question(home: Path, user: str, more: dict[str, Any], expected: Tenant | None) -> None:
    """The options, Microsoft's domains, domains with a built-in application, and --offline answer it."""
    assert expected == known_tenant(replace(wishes(home, **more), user=user))


def test_a_domain_with_a_built_in_application(home: Path) -> None:
    """That application knows its tenant."""
    found = known_tenant(replace(wishes(home), user="ann@nvidia.com"))

    assert found is not None
    assert ("", "nvidia.com has its own application") == (found.id, found.said.partition(":")[0])


@pytest.mark.parametrize(
    ("explored", "expected"),
    [
        (Explored(GUID, "", unknown=False, no_keyring=""), (GUID, False, "example.test is the tenant")),
        (Explored(PERSONAL_TENANT, "", unknown=False, no_keyring=""), ("", True, "for personal accounts")),
        (
            Explored("", "", unknown=True, no_keyring=""),
            ("", False, "For a mailbox elsewhere, docs/providers.md has the account"),
        ),
        (Explored("", "no network", unknown=False, no_keyring=""), ("", False, "could not be looked up (no network)")),
    ],
)
def test_what_the_provider_says(explored: Explored, expected: tuple[str, bool, str]) -> None:
    """Found, a domain of personal accounts, unknown, or no answer: init says which, and goes on."""
    found = tenant_of(USER, explored)

    assert expected[:2] == (found.id, found.personal)
    assert expected[2] in found.said


@pytest.mark.parametrize(
    ("exchangers", "expected"),
    [
        (("aspmx.l.google.com", "alt1.aspmx.l.google.com"), "google"),
        (("smtp.google.com",), "google"),
        (("mx.example.test", "aspmx.l.google.com"), ""),
        (("example-test.mail.protection.outlook.com",), ""),
        ((), ""),
        ("no answer", ""),
    ],
)
def test_what_the_mail_exchangers_say(exchangers: tuple[str, ...] | str, expected: str) -> None:
    """The host that is preferred says whose mailboxes they are; an unknown one, such as a filter's, says nothing."""
    found = hosted_by("example.test", exchangers)

    assert expected == (found.provider.name if found and found.provider else "")


# --- the file ---


@pytest.mark.parametrize("no_keyring", ["", "keyring is not there"])
@pytest.mark.parametrize("tenant", [Tenant(), Tenant(GUID, note=" Found."), Tenant(personal=True)])
def test_what_is_written_loads(home: Path, tenant: Tenant, no_keyring: str) -> None:
    """Each kind of account, with a keyring and without; its key is in a file where no keyring keeps it."""
    path = home / "my.cfg"
    write(path, text_of(wishes(home), tenant, no_keyring))
    config = load(str(path))

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [USER] == [each.user for each in config.accounts]
    assert bool(no_keyring) == (config.vault_key is not None)
    assert [str(home / "run" / "cms" / "cms.sock")] == [each.path for each in config.sockets]
    assert (tenant.id or "c") in config.accounts[0].grant.authority


def test_the_pages_that_it_names_are_those_of_the_installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the file can open them."""
    monkeypatch.setattr(documents, "_FOLDER", str(home))
    path = home / "my.cfg"
    write(path, text_of(wishes(home), Tenant(), ""))

    assert f"# {home}/configuration.md has all directives" in path.read_text()


@pytest.mark.parametrize(
    ("user", "client_id", "expected"),
    [("ann@fastmail.com", "", ("fastmail", "dynamic")), ("ann@yandex.com", "x", ("yandex", "x"))],
)
def test_another_provider(home: Path, user: str, client_id: str, expected: tuple[str, str]) -> None:
    """One that registers cms needs nothing; another needs the user's client id, and says how to get one."""
    asked = replace(wishes(home, client_id=client_id), user=user)
    tenant = known_tenant(asked)
    assert tenant is not None
    path = home / "my.cfg"
    write(path, text_of(asked, tenant, ""))
    (account,) = load(str(path)).accounts

    assert "" == lacks_client(asked, tenant)
    assert expected == (account.grant.provider, account.grant.client_id)
    assert ("cms init --client-id" in lacks_client(replace(asked, client_id=""), tenant)) == bool(client_id)
    assert not uses_default(asked, tenant.provider)
    assert known_tenant(replace(asked, authority="https://login.test")) is None, "that is one of Microsoft's"


def test_what_was_said_is_in_it(home: Path) -> None:
    """An application of one's own, another login host, and an authority to trust."""
    ca = home / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    more = {"client_id": GUID, "authority": "https://localhost:1", "redirect_uri": "http://localhost/", "ca": str(ca)}
    path = home / "my.cfg"
    write(path, text_of(wishes(home, **more), Tenant(), ""))
    config = load(str(path))

    found = config.accounts[0].grant
    assert ("https://localhost:1/common", GUID, "http://localhost/") == (
        found.authority,
        found.client_id,
        found.redirect_uri,
    )
    assert str(ca) == config.ca


def test_a_folder_with_a_variables_mark_stays_what_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder may have a dollar or a percent sign in its name; a configuration that names it must mean it."""
    odd = home / "a$HOME" / "%t"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(odd).replace("$", "$$").replace("%", "%%"))
    monkeypatch.setenv("XDG_STATE_HOME", str(odd).replace("$", "$$").replace("%", "%%"))
    write(home / "my.cfg", text_of(wishes(home), Tenant(), "no keyring"))
    config = load(str(home / "my.cfg"))

    assert [f"{odd}/cms/cms.sock"] == [each.path for each in config.sockets]
    assert Source("file", (f"{odd}/cms/vault.key",)) == config.vault_key


@pytest.mark.parametrize(("sudo", "expected"), [("", "root"), ("nobody-of-this-name", "root"), ("daemon", "daemon")])
def test_who_asks_the_systems(monkeypatch: pytest.MonkeyPatch, sudo: str, expected: str) -> None:
    """The mail server's user if it exists, else the user who became root, else root."""
    known = {"daemon": pwd.getpwuid(1), "Debian-exim": pwd.getpwuid(1)}
    monkeypatch.setenv("SUDO_USER", sudo)
    assert first_config.mailers() in (["Debian-exim"], [expected])
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"daemon": known["daemon"]}[name])
    assert [expected] == first_config.mailers()
