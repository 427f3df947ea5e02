"""A provider that answers without a usable access token: that is transient and changes nothing, whatever was asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_broker import FakeBroker, Person, forget, of_newer_msal
from support.grants import ANN, SCOPES, Broker, dispatched, grant_for, kind, opened, service
from support.metadata import Metadata
from support.peers import mutt_file, sign_in
from support.proofs import write_private

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Granted, Outcome, Transient
from cms.grants.entra.client import Entra as Provider
from cms.grants.messages import Export, Exported, Import, Open, Place, SignIn
from cms.grants.service import Conversation
from cms.grants.transfer import export_file
from cms.sandbox.directory import APP_ID, APP_SECRET
from cms.sandbox.entra import Entra, Fault

BLANK = Fault("fields", fields={"access_token": " "})


@pytest.fixture
def worker(first: Open, entra: Entra) -> Iterator[Broker]:
    """A worker of a provider that takes every refresh token once."""
    entra.refuse_reuse = True
    with dispatched(first) as broker:
        yield broker


def vault(first: Open) -> list[bytes]:
    return [path.read_bytes() for path in Path(first.state_folder).glob("*.vault")]


def unusable(outcome: object) -> Transient:
    assert isinstance(outcome, Transient), outcome
    assert "garbage" == outcome.trouble.kind
    return outcome


@pytest.mark.parametrize(
    "fields",
    [
        {"access_token": ""},
        {"access_token": ...},
        {"expires_in": -1},
        {"token_type": "pop"},
        {"id_token": "a.b.c"},
        {"client_info": "?"},
    ],
)
def test_a_refresh_keeps_the_successor(worker: Broker, entra: Entra, grant: Grant, fields: dict[str, object]) -> None:
    """The next refresh redeems it, and nothing else counts as changed: the sign-in has given no token meanwhile."""
    given = worker.sign_in(grant, entra)
    assert isinstance(given, Granted)
    entra.faults.add(Fault("fields", fields=fields))
    outcome = unusable(worker.acquire(grant))

    assert given.sign_in.given_at == outcome.sign_in.given_at == outcome.sign_in.redeemed_at
    assert "granted" == kind(worker.acquire(grant))


def test_a_token_that_has_expired_already(
    worker: Broker, entra: Entra, grant: Grant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own claims and the provider's clock: this machine's may be hours wrong, and decides nothing."""
    worker.sign_in(grant, entra)
    entra.faults.add(Fault("fields", fields={"access_token": entra.issue(ANN, life=-1.0)}))
    outcome = unusable(worker.acquire(grant))
    now = time.time() + 3 * 60 * 60
    monkeypatch.setattr(time, "time", lambda: now)

    assert "has expired already" in outcome.trouble.message
    assert "granted" == kind(worker.acquire(grant))


def test_a_refresh_with_an_empty_successor(worker: Broker, entra: Entra, grant: Grant, first: Open) -> None:
    """Its token is good, what is stored stays, and a refusal of that is explained then."""
    worker.sign_in(grant, entra)
    before = vault(first)
    entra.faults.add(Fault("fields", fields={"refresh_token": ""}))

    assert "granted" == kind(worker.acquire(grant))
    assert before == vault(first)
    assert "reused" == kind(worker.acquire(grant))


@pytest.mark.parametrize("method", ["browser", "device"])
@pytest.mark.parametrize("fields", [{"access_token": ""}, {"refresh_token": " "}, {"id_token": 5}])
def test_a_sign_in_replaces_none(
    worker: Broker, entra: Entra, first: Open, method: str, fields: dict[str, object]
) -> None:
    """What was stored before it works on; a device's code is used up, so nothing more is asked with it."""
    grant, entra.device_interval = grant_for(entra), 1
    worker.sign_in(grant, entra)
    before = vault(first)
    entra.faults.add(Fault("fields", fields=fields))
    outcome = unusable(worker.sign_in(grant, entra, method=method))

    assert f"start again: `cms login {ANN}`" in outcome.trouble.hint
    assert (before, 2) == (vault(first), entra.count("token"))
    assert "granted" == kind(worker.acquire(grant))


def test_a_first_sign_in_stores_nothing(worker: Broker, entra: Entra, grant: Grant, first: Open) -> None:
    """There is no sign-in then."""
    entra.faults.add(BLANK)
    unusable(worker.sign_in(grant, entra))

    assert [] == vault(first)
    assert "no-sign-in" == kind(worker.acquire(grant))


def test_an_import(worker: Broker, entra: Entra, grant: Grant, first: Open, tmp_path: Path) -> None:
    """Another program's sign-in is not taken over; its file is as it was."""
    entra.refuse_reuse = False
    path = write_private(tmp_path / "mutt", mutt_file(sign_in(entra, ANN)))
    question = Import(9, grant, Place(str(path), "mutt_oauth2"))
    entra.faults.add(BLANK)
    worker.send(question)
    outcome = unusable(worker.done())

    assert ("import again" in outcome.trouble.hint, []) == (True, vault(first))
    worker.send(question)
    assert "granted" == kind(worker.done())


@pytest.mark.parametrize("there", [False, True])
def test_an_import_of_our_own(
    worker: Broker, entra: Entra, grant: Grant, first: Open, tmp_path: Path, *, there: bool
) -> None:
    """Its successor is kept where no other sign-in is; one that is there stays."""
    worker.sign_in(grant, entra)
    worker.send(Export(9, (grant,), "correct horse"))
    exported = worker.receive()
    assert exported is not None
    made = getattr(exported, "outcome", None)
    assert isinstance(made, Exported)
    path = write_private(tmp_path / "export", made.text)
    second = replace(first, state_folder=str(tmp_path / "second"))
    with dispatched(second) as other:
        if there:
            other.sign_in(grant, entra)
        before = vault(second)
        entra.faults.add(BLANK)
        other.send(Import(9, grant, Place(str(path), export_file.SOURCE, "", "correct horse")))
        unusable(other.done())

        assert before == vault(second) or not there
        assert "granted" == kind(other.acquire(grant))


def for_application(entra: Entra, tmp_path: Path) -> Outcome:
    """Ask for an application's token."""
    secret = Source("file", (str(write_private(tmp_path / "secret", APP_SECRET)),))
    scopes = ("https://outlook.office365.com/.default",)
    grant = Grant(f"{entra.authority}/tenant", APP_ID, "", (scopes,), sign_in="app", client_secret=secret)
    return service(opened(tmp_path / "state", entra)).acquire(grant, scopes)


@pytest.mark.parametrize("fields", [{"access_token": ""}, {"access_token": None}, {"expires_in": 0}, {"token_type": 1}])
def test_an_application(entra: Entra, tmp_path: Path, fields: dict[str, object]) -> None:
    """It is not refused: it is asked for again soon."""
    entra.faults.add(Fault("fields", fields=fields))

    unusable(for_application(entra, tmp_path))
    assert "granted" == kind(for_application(entra, tmp_path))


@pytest.mark.parametrize("where", ["vm", "app_service"])
@pytest.mark.parametrize(
    "fields", [{"access_token": ""}, {"access_token": 7}, {"token_type": "pop"}, {"expires_in": "-1"}]
)
def test_a_machine(entra: Entra, monkeypatch: pytest.MonkeyPatch, where: str, fields: dict[str, object]) -> None:
    """What MSAL takes for an error of the identity is none."""
    azure = Metadata(entra, [ANN])
    azure.fields = fields
    for name, value in getattr(azure, where).items():
        monkeypatch.setenv(name, value)
    scopes = ("https://outlook.office365.com/.default",)
    grant = Grant("https://login.example/common", "", "", sign_in="managed-identity")

    unusable(Provider().mint(grant, scopes, ""))
    azure.fields = {}
    assert "granted" == kind(Provider().mint(grant, scopes, ""))


@of_newer_msal
@pytest.mark.parametrize("token", ["", " ", "two words"])
def test_microsofts_broker(
    first: Open, entra: Entra, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, token: str
) -> None:
    """Its answers come by no HTTP, and are judged as well."""
    forget()
    request.addfinalizer(forget)
    broker, grant = FakeBroker(Person(ANN)), grant_for(entra, sign_in="broker")
    broker.install(monkeypatch)
    line = Conversation(lambda _prompt: None)
    assert "granted" == kind(service(first).sign_in(SignIn(1, grant, "broker"), line))
    monkeypatch.setattr("support.fake_broker.Ended.get_access_token", lambda _ended: token)

    unusable(service(first).acquire(grant, SCOPES))
    unusable(service(first).sign_in(SignIn(1, grant, "broker"), line))
    monkeypatch.undo()
    broker.install(monkeypatch)
    assert "granted" == kind(service(first).acquire(grant, SCOPES))
