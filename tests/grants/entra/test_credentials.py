"""What applications prove themselves with, read anew each time, and what their refusals mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.proofs import AppCertificate, write_private

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.grants.entra import credentials
from cms.grants.entra.credentials import certificate_expiry, credential, explain
from cms.grants.secrets import Unavailable
from cms_oauth.diagnosis.entra import APPLICATION_ROWS

MADE = AppCertificate()
GRANT = Grant("https://login.example/tenant", "id", "", sign_in="app")


def grant(**proof: Source) -> Grant:
    """Return an application's grant with these sources."""
    return replace(GRANT, **proof)  # type: ignore[arg-type]  # fields of a test's table


def file(path: Path) -> Source:
    """Return a file as a source."""
    return Source("file", (str(path),))


def why_not(asked: Grant) -> Trouble:
    """Return why what a grant's application proves itself with cannot be had."""
    with pytest.raises(Unavailable) as caught:
        credential(asked)
    return caught.value.outcome.trouble


def test_public_client() -> None:
    """Most applications have nothing to prove themselves with."""
    assert credentials.NONE == credential(GRANT)


def test_secret(tmp_path: Path) -> None:
    """White space at the ends of a file is no part of a secret, which no repr shows."""
    found = credential(grant(client_secret=file(write_private(tmp_path / "s", " hunter2\r\n"))))

    assert ("hunter2", 0.0) == (found.value, found.expires)
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize("form", ["pem", "pfx"])
def test_certificate(tmp_path: Path, form: str) -> None:
    """Either form becomes what MSAL takes; its password comes from a source of its own, with or without a newline."""
    path = write_private(tmp_path / "c", getattr(MADE, form)("hunter2"))
    password = write_private(tmp_path / "p", "hunter2\n")
    found = credential(grant(certificate=file(path), certificate_password=file(password)))

    assert isinstance(found.value, dict)
    assert (MADE.public, float(int(MADE.ends))) == (found.value["public_certificate"], found.expires)
    assert "PRIVATE" not in repr(found)


def test_assertion(tmp_path: Path) -> None:
    """It may be readable by all, as Kubernetes has it, and is read anew each time."""
    path = write_private(tmp_path / "a", "one\n", 0o644)
    first: Any = credential(grant(client_assertion=file(path))).value
    write_private(path, "two\n", 0o644)
    second: Any = credential(grant(client_assertion=file(path))).value

    assert ("one", "two") == (first["client_assertion"](), second["client_assertion"]())


@pytest.mark.parametrize(
    ("name", "content", "mode", "why"),
    [
        ("client_secret", b"", 0o600, "is empty"),
        ("client_secret", b"\xff", 0o600, "is no text"),
        ("client_secret", b"x", 0o644, "has mode 0644: it must be 0600 or less"),
        ("client_assertion", b"x", 0o666, "has mode 0666: it must be 0644 or less"),
        ("certificate", b"x", 0o600, "is neither PEM nor PKCS #12"),
        ("certificate", MADE.pem(), 0o640, "has mode 0640"),
    ],
)
def test_unavailable(tmp_path: Path, name: str, content: bytes, mode: int, why: str) -> None:
    """What cannot be used is told with its place and the argument to look at, and tried again."""
    path = write_private(tmp_path / "f", content, mode)
    trouble = why_not(grant(**{name: file(path)}))

    assert ("locked", True) == (trouble.kind, f"cannot be had: file {path} {why}" in trouble.message)
    assert f"check {name} of the account" in trouble.hint


def test_absent(tmp_path: Path) -> None:
    """A file that is not there, yet."""
    trouble = why_not(grant(client_assertion=file(tmp_path / "none")))

    assert f"the client assertion cannot be had: file {tmp_path / 'none'} does not exist" == trouble.message


@pytest.mark.parametrize("number", [*APPLICATION_ROWS, 12345, None])
def test_refusals_name_no_sign_in(number: int | None) -> None:
    """Every refusal says whose move it is, none tells anybody to sign in, and each is looked at again."""
    said = Trouble("refused", f"some words (AADSTS{number}, invalid_client)", "sign in: `cms login`", number, "corr")
    found = explain(Refused(said), grant(certificate=file(Path("/c"))))

    assert isinstance(found, Refused)
    assert ("application", number, "corr", 1800.0) == (
        found.trouble.kind,
        found.trouble.aadsts,
        found.trouble.correlation_id,
        found.again_in,
    )
    assert found.trouble.message.endswith(f" (AADSTS{number}, invalid_client)")
    for forbidden in ("sign in", "cms login", "{"):
        assert forbidden not in f"{found.trouble.message} {found.trouble.hint}"
    assert "`cms re" in found.trouble.hint


def test_the_credential_is_named() -> None:
    """The argument that the configuration has."""
    refused = Refused(Trouble("refused", "x (AADSTS7000222)", aadsts=7000222))
    found = [explain(refused, each) for each in (grant(client_secret=file(Path("/s"))), GRANT)]

    assert [True, True] == [
        isinstance(each, Refused) and f"where {named} points" in each.trouble.hint
        for each, named in zip(found, ("client_secret", "the credential"), strict=True)
    ]


def test_what_is_no_refusal_stays() -> None:
    """An outage is an outage."""
    outage = Transient(Trouble("server", "down"))

    assert outage is explain(outage, GRANT)


def test_a_refusal_of_cms_own_stays() -> None:
    """What cms itself has said is not said again in other words."""
    trouble = Trouble("application", "no", "that")

    assert Refused(trouble, 1800.0) == explain(Refused(trouble), GRANT)


def test_expiry_for_a_check(tmp_path: Path) -> None:
    """`cms check` has the end of a certificate that is a file of its reader's; no command is run for it."""
    path = file(write_private(tmp_path / "c.pem", MADE.pem("hunter2")))
    pfx = file(write_private(tmp_path / "c.pfx", MADE.pfx("hunter2")))
    password = file(write_private(tmp_path / "p", "hunter2"))
    command = Source("command", ("false",))

    ends = float(int(MADE.ends))
    assert ends == certificate_expiry(grant(certificate=path))
    assert ends == certificate_expiry(grant(certificate=pfx, certificate_password=password))
    assert 0.0 == certificate_expiry(GRANT)
    assert 0.0 == certificate_expiry(grant(certificate=command))
    assert 0.0 == certificate_expiry(grant(certificate=pfx, certificate_password=command))
    assert 0.0 == certificate_expiry(grant(certificate=file(tmp_path / "none")))
    assert 0.0 == certificate_expiry(grant(certificate=password))
