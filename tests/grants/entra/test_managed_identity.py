"""Managed identities: what Azure's metadata services answer, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import msal
import pytest
import requests
from support.metadata import ASSIGNED_ID, OWN_ID, Metadata
from support.waiting import PATIENCE

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome, Refused, Transient
from cms.grants.credentials import explain
from cms.grants.entra.client import Entra as Provider
from cms.sandbox.entra import Entra
from cms.sandbox.web import WebReply, WebRequest

SCOPES = ("https://outlook.office365.com/.default",)
GRANT = Grant("https://login.example/common", "", "", sign_in="managed-identity")

# What leads to a metadata service: none of the machine's own may lead a test anywhere.
NAMES = (
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "HTTP_PROXY",
    "http_proxy",
)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def azure(entra: Entra, monkeypatch: pytest.MonkeyPatch) -> Metadata:
    """A virtual machine's metadata service."""
    made = Metadata(entra, ["sales@domain.com"])
    for name, value in made.vm.items():
        monkeypatch.setenv(name, value)
    return made


def asked(client_id: str = "") -> Outcome:
    """Ask as the grant worker does."""
    grant = Grant(GRANT.authority, client_id, "", sign_in="managed-identity")
    return Provider().mint(grant, SCOPES, "")


@pytest.mark.parametrize(("client_id", "expected"), [("", OWN_ID), (ASSIGNED_ID, ASSIGNED_ID)])
def test_a_token(azure: Metadata, entra: Entra, client_id: str, expected: str) -> None:
    """The machine's own identity, or the assigned one that is named; for the bare resource, and for its whole life."""
    outcome = asked(client_id)

    assert isinstance(outcome, Granted)
    assert (SCOPES, 3600.0, expected) == (
        outcome.scopes,
        outcome.expires_in,
        entra.introspect(outcome.secret)["appid"],
    )
    assert ["https://outlook.office365.com"] == azure.asked


def test_every_question_is_asked(azure: Metadata) -> None:
    """MSAL's own cache answers none of them."""
    asked()
    asked()

    assert 2 == len(azure.asked)


@pytest.mark.parametrize("status", [404, 410, 429, 500, 503])
def test_a_service_that_is_busy(azure: Metadata, status: int) -> None:
    """As Microsoft says: while it starts, is updated or is asked too often, it is asked again later."""
    azure.status = status

    assert isinstance(asked(), Transient)


def test_no_such_identity(azure: Metadata) -> None:
    """A person has to assign it; it is looked at again by itself."""
    outcome = explain(asked("11111111-2222-3333-4444-555555555555"), GRANT)

    assert isinstance(outcome, Refused)
    assert "this machine has no such managed identity" in outcome.trouble.message
    assert 0 < outcome.again_in


def test_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine outside Azure has no identity: cms can only tell that it is a network fault."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
    outcome = asked()

    assert isinstance(outcome, Transient)
    assert "azure-metadata cannot be reached" in outcome.trouble.message


def test_no_proxy_is_asked(azure: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads there is this machine's own: a proxy must neither be needed nor see the token."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert isinstance(asked(), Granted)


def test_app_service(azure: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its own address and header."""
    for name, value in azure.app_service.items():
        monkeypatch.setenv(name, value)
    assert isinstance(asked(), Granted)

    monkeypatch.setenv("IDENTITY_HEADER", "another")
    assert isinstance(asked(), Refused)


def test_azure_arc_without_its_key_file(azure: Metadata, entra: Entra, monkeypatch: pytest.MonkeyPatch) -> None:
    """It proves who asks by a file that its group may read: who is not in it is told so."""
    challenge = (("WWW-Authenticate", "Basic realm=/var/opt/azcmagent/tokens/none.key"),)

    def arc(_request: WebRequest) -> WebReply:
        return WebReply(401, headers=challenge)

    entra.plain.paths["/arc"] = arc
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{entra.plain.url}/arc")
    monkeypatch.setenv("IMDS_ENDPOINT", entra.plain.url)
    assert not Path("/var/opt/azcmagent/tokens/none.key").exists()
    outcome = asked()

    assert isinstance(outcome, Transient)
    assert ("locked", True) == (outcome.trouble.kind, "group himds" in outcome.trouble.hint)


def test_azure_arc_that_knows_no_assigned_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older versions of MSAL, and of Arc's agent, know the machine's own identity only: the one that is named is not there."""

    def refuse(_client: object, **_kwargs: object) -> None:
        raise msal.ManagedIdentityError("Azure Arc supports only system-assigned identities")

    monkeypatch.setattr(msal.ManagedIdentityClient, "acquire_token_for_client", refuse)
    named, own = explain(asked(ASSIGNED_ID), GRANT), asked()

    assert isinstance(named, Refused)
    assert "this machine has no such managed identity" in named.trouble.message
    assert isinstance(own, Transient)
    assert "worker" == own.trouble.kind


@pytest.mark.parametrize(
    ("headers", "params", "error"),
    [
        ({}, {"resource": "https://x", "api-version": "2018-02-01"}, "bad_request_102"),
        ({"Metadata": "true"}, {"resource": "https://x", "api-version": "1"}, "invalid_request"),
        ({"Metadata": "true"}, {"api-version": "2018-02-01"}, "invalid_request"),
    ],
)
def test_the_stand_in_is_as_strict(
    azure: Metadata, headers: dict[str, str], params: dict[str, str], error: str
) -> None:
    """What Azure refuses, so does what stands for it here: a program cannot pass with half a request."""
    url = f"{azure.vm['AZURE_POD_IDENTITY_AUTHORITY_HOST']}/metadata/identity/oauth2/token"
    answer = requests.get(url, headers=headers, params=params, timeout=PATIENCE)

    assert (400, error) == (answer.status_code, answer.json()["error"])


def test_service_fabric(azure: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wants a pinned certificate, which is untested: cms refuses it and says what works."""
    monkeypatch.setenv("IDENTITY_SERVER_THUMBPRINT", "00")
    outcome = explain(asked(), GRANT)

    assert isinstance(outcome, Refused)
    assert 'sign_in="app"' in outcome.trouble.hint
    assert [] == azure.asked
