"""What the worker does with the vault as a whole: exports and their import, surveys, deleting, looking around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.grants import ANN, BEN, Broker, dispatched, opened, service
from support.proofs import AppCertificate, write_private

from cms.core.accounts import Grant, Source, StoredSignIn
from cms.core.lifecycle import Granted, Refused, Transient, Trouble
from cms.grants.entra.client import Entra as Provider
from cms.grants.messages import (
    CheckCredentials,
    CredentialEnds,
    Delete,
    Done,
    Ended,
    Explore,
    Explored,
    Export,
    Exported,
    Import,
    Listed,
    Open,
    Peek,
    Place,
    Survey,
)
from cms.grants.transfer import export_file
from cms.sandbox.directory import TENANT
from cms.sandbox.entra import Entra
from cms_oauth.microsoft import CLOUDS

PASSPHRASE = "correct horse"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys at a cost that tests can pay."""
    monkeypatch.setattr(export_file, "COST", {"n": 16, "r": 8, "p": 1})


@pytest.fixture
def first(tmp_path: Path, entra: Entra) -> Open:
    """A state with a person signed in."""
    return opened(tmp_path / "here" / "state", entra)


@pytest.fixture
def second(tmp_path: Path, entra: Entra) -> Open:
    """Another machine."""
    return opened(tmp_path / "there" / "state", entra)


@pytest.fixture
def moved(first: Open, grant: Grant, entra: Entra, tmp_path: Path) -> Path:
    """A file with the sign-in of `grant`."""
    with dispatched(first) as broker:
        assert isinstance(broker.sign_in(grant, entra), Granted)
        end = ask(broker, Export(9, (grant, replace(grant, login="nobody@example.test")), PASSPHRASE))
    assert isinstance(end, Exported)
    assert (grant.key,) == end.keys
    path = tmp_path / "signins"
    path.write_text(end.text)
    return path


def ask(broker: Broker, question: Any) -> Ended:
    """Put a question, return its end."""
    broker.send(question)
    reply = broker.receive()
    assert isinstance(reply, Done), reply
    return reply.outcome


def put(first: Open, question: Any) -> Ended:
    """Ask a new worker this question."""
    with dispatched(first) as broker:
        return ask(broker, question)


def place(path: Path, password: str = PASSPHRASE) -> Place:
    return Place(str(path), export_file.SOURCE, "", password)


def trouble(end: Ended) -> Trouble:
    assert isinstance(end, Refused | Transient), end
    return end.trouble


def test_a_sign_in_is_carried(moved: Path, second: Open, grant: Grant) -> None:
    """It is redeemed at once, keeps when it was given, and works then by itself; the passphrase opens it and no other."""
    listed = put(second, Peek(1, place(moved)))
    end = put(second, Import(1, grant, place(moved), keep=True))

    assert isinstance(listed, Listed)
    assert [(grant.key, ANN, ANN)] == [(each.key, each.login, each.who) for each in listed.items]
    assert isinstance(end, Granted)
    assert (ANN, True, listed.items[0].signed_in) == (end.sign_in.who, end.sign_in.persisted, end.sign_in.given_at)
    with dispatched(second) as broker:
        assert isinstance(broker.acquire(grant), Granted)


def test_the_old_machine_goes_on(moved: Path, first: Open, second: Open, grant: Grant) -> None:
    """Entra ends no sign-in by its use elsewhere."""
    put(second, Import(1, grant, place(moved)))

    assert isinstance(put(first, Import(1, grant, place(moved))), Granted)
    with dispatched(first) as broker:
        assert isinstance(broker.acquire(grant), Granted)


def test_a_sign_in_that_is_there_is_kept_if_told_to(moved: Path, first: Open, grant: Grant, entra: Entra) -> None:
    """And nothing is redeemed for it."""
    before = len(entra.requests)

    assert "signed-in" == trouble(put(first, Import(1, grant, place(moved), keep=True))).kind
    assert not [each for each in entra.requests[before:] if each.endpoint == "token"]


@pytest.mark.parametrize(("password", "expected"), [("", "password"), ("wrong", "unfit")])
def test_what_does_not_open_is_said(moved: Path, second: Open, grant: Grant, password: str, expected: str) -> None:
    """When looking as when importing; and nothing is stored."""
    for question in (Peek(1, place(moved, password)), Import(1, grant, place(moved, password))):
        assert expected == trouble(put(second, question)).kind
    assert not list(Path(second.state_folder).glob("*.vault"))


def test_what_is_not_in_it(moved: Path, second: Open, grant: Grant) -> None:
    """One person's sign-in is not taken for another's."""
    other = replace(grant, login="bob@example.test")

    assert "has no sign-in of bob@example.test" in trouble(put(second, Import(1, other, place(moved)))).message


def test_an_export_is_not_taken_for_another_programs_file(moved: Path, second: Open, grant: Grant) -> None:
    """The command for it is said."""
    end = trouble(put(second, Import(1, grant, Place(str(moved)))))

    assert ("unfit", True) == (end.kind, "--from cms" in end.hint)


def test_a_sign_in_that_has_ended_is_not_stored(moved: Path, second: Open, grant: Grant, entra: Entra) -> None:
    """Why, in the provider's words; the mark of a redemption does not stay."""
    entra.revoke(ANN)

    assert isinstance(put(second, Import(1, grant, place(moved))), Refused)
    assert not [path for path in Path(second.state_folder).iterdir() if path.suffix in (".vault", ".redeeming")]


def test_nothing_to_export(first: Open, grant: Grant) -> None:
    """No person is signed in."""
    assert "no-sign-in" == trouble(put(first, Export(1, (grant,), PASSPHRASE))).kind


def test_a_vault_that_cannot_be_read_is_not_exported(moved: Path, first: Open, grant: Grant) -> None:
    """With its own trouble, as for everything else."""
    assert moved.exists()
    (Path(first.state_folder) / f"{grant.key}.vault").write_bytes(b"nonsense\n")

    assert "vault-damaged" == trouble(put(first, Export(1, (grant,), PASSPHRASE))).kind


def test_too_little_memory_to_export(moved: Path, first: Open, grant: Grant, monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt needs what it needs."""

    def scarce(*_: object) -> str:
        raise MemoryError

    assert moved.exists()
    monkeypatch.setattr(export_file, "encrypt", scarce)

    assert "128 MiB" in trouble(put(first, Export(1, (grant,), PASSPHRASE))).message


def test_a_survey_and_its_end(moved: Path, first: Open, grant: Grant) -> None:
    """Whose file it is, then it is deleted, with the key that nothing needs any more."""
    assert moved.exists()
    listed, gone = put(first, Survey(1, (grant.key, "x"))), put(first, Delete(1, (grant.key, "x")))

    assert isinstance(listed, Listed)
    assert [ANN] == [each.who for each in listed.items]
    assert isinstance(gone, Granted)
    assert (True, True) == (gone.sign_in.persisted, gone.sign_in.key_from.startswith("key file"))
    assert Listed(()) == put(first, Survey(1, (grant.key,)))


def test_forgetting_says_whether_there_was_anything(moved: Path, first: Open, grant: Grant) -> None:
    """And where the key went from."""
    assert moved.exists()
    with dispatched(first) as broker:
        ends = [broker.sign_out(grant), broker.sign_out(grant)]

    told = [(end.sign_in.persisted, bool(end.sign_in.key_from)) for end in ends if isinstance(end, Granted)]
    assert [(True, True), (False, False)] == told


def test_a_key_that_cannot_be_deleted_takes_nothing_from_a_sign_out(
    moved: Path, first: Open, grant: Grant, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stays for the next sign-in, and the log says so."""
    assert moved.exists()
    key = Path(first.state_folder).parent / "vault.key"
    key.chmod(0o644)
    end = service(first).sign_out(grant)

    assert isinstance(end, Granted)
    assert ("", True) == (end.sign_in.key_from, key.exists())
    assert "warning: the vault's key cannot be deleted" in capsys.readouterr().err


class Says(Provider):
    """A provider that names this issuer, or this trouble; `more` is in its document as well."""

    def __init__(self, answer: str | Trouble, **more: str) -> None:
        self._answer = answer if isinstance(answer, Trouble) else {"issuer": answer, **more}

    def discovered(self, authority: str) -> Mapping[str, Any] | Trouble:
        assert authority == "https://login.example.test/x.test"
        return self._answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"https://login.example.test/{TENANT.upper()}/v2.0", (TENANT, "", False)),
        ("https://sts.windows.net/x.test/", ("", "the provider names no tenant", False)),
        (Trouble("refused", "no such tenant", aadsts=90002), ("", "no such tenant", True)),
        (Trouble("network", "no network"), ("", "no network", False)),
    ],
)
def test_looking_around(first: Open, answer: str | Trouble, expected: tuple[str, str, bool]) -> None:
    """The issuer names the tenant; an unknown domain is told from an outage."""
    end = service(first, entra=Says(answer)).answer(Explore(1, "https://login.example.test/x.test"))

    assert isinstance(end, Explored)
    assert expected == (end.tenant, end.why, end.unknown)


@pytest.mark.parametrize(
    ("instance", "scope", "expected"),
    [
        ("microsoftonline.com", "", ""),
        ("microsoftonline.com", "GCC", ""),
        ("microsoftonline.com", "DOD", ""),
        ("microsoftonline.us", "DODCON", "gcc-high"),
        ("microsoftonline.us", "", "gcc-high"),
        ("microsoftonline.us", "DOD", "dod"),
        ("partner.microsoftonline.cn", "", "china"),
        ("", "", ""),
    ],
)
def test_the_cloud_of_a_tenant(first: Open, instance: str, scope: str, expected: str) -> None:
    """The document of any cloud names that of the tenant; GCC is in the global one."""
    provider = Says(
        f"https://login.example.test/{TENANT}/v2.0", cloud_instance_name=instance, tenant_region_sub_scope=scope
    )
    end = service(first, entra=provider).answer(Explore(1, "https://login.example.test/x.test"))

    assert isinstance(end, Explored)
    assert (TENANT, expected) == (end.tenant, end.cloud)
    assert expected in ("", *CLOUDS)


def test_looking_around_for_real(first: Open, grant: Grant, entra: Entra) -> None:
    """Over TLS: a known domain, an unknown one, a host that does not answer, and no question at all."""
    assert grant.login == ANN
    ends = [
        put(first, Explore(1, url))
        for url in (
            f"{entra.authority}/example.test",
            f"{entra.authority}/nowhere.test",
            "https://localhost:1/x.test",
            "",
        )
    ]

    found = [(end.tenant, end.unknown, bool(end.why)) for end in ends if isinstance(end, Explored)]
    assert [(TENANT, False, False), ("", True, True), ("", False, True), ("", False, False)] == found


def test_what_crosses_shows_no_secret() -> None:
    """Neither the passphrase nor the export is in a repr."""
    assert PASSPHRASE not in repr(Export(1, (), PASSPHRASE))
    assert "sealed text" not in repr(Exported("sealed text", ()))
    assert "StoredSignIn" in repr(Listed((StoredSignIn("k", "", "", ""),)))


def test_the_ends_of_certificates(first: Open, grant: Grant, tmp_path: Path) -> None:
    """Each grant has its answer, in the order of the question; no secret is in it, and none crosses."""
    made = AppCertificate()
    path = write_private(tmp_path / "c.pem", made.pem("hunter2"))
    certified = replace(grant, certificate=Source("file", (str(path),)))
    missing = replace(grant, login=BEN, certificate=Source("file", (str(tmp_path / "none"),)))
    with dispatched(first) as broker:
        end = ask(broker, CheckCredentials(1, (certified, grant, missing)))

    assert isinstance(end, CredentialEnds)
    assert [float(int(made.ends)), 0.0, 0.0] == [each.expires for each in end.items]
    assert [certified.key, grant.key, missing.key] == [each.key for each in end.items]
    assert ["", "", f"the certificate cannot be read: file {tmp_path}/none does not exist"] == [
        each.why for each in end.items
    ]
