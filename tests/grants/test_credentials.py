"""What applications prove themselves with, read anew each time, and what their refusals mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from support.proofs import AppCertificate, write_private

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.grants.credentials import (
    NONE,
    Assertion,
    Certificate,
    Unusable,
    certificate_end,
    credential,
    expiry,
    explain,
    parse,
)
from cms.grants.secret_sources import Unavailable
from cms_oauth.diagnosis.entra import APPLICATION_ROWS

MADE = AppCertificate()
OTHER = AppCertificate()
# X.509 counts in whole seconds.
ENDS = float(int(MADE.ends))
CURVE = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
KEY, _, CERTIFICATE = MADE.pem().partition(b"-----BEGIN CERTIFICATE")
GRANT = Grant("https://login.example/tenant", "id", "", sign_in="app")


def grant(**proof: Source) -> Grant:
    """Return an application's grant with these sources."""
    return replace(GRANT, **proof)  # type: ignore[arg-type]  # fields of a test's table


def file(path: Path) -> Source:
    """Return a file as a source."""
    return Source("file", (str(path),))


def why_not(asked: Grant) -> Trouble:
    """Return why what a grant's application proves itself with cannot be read."""
    with pytest.raises(Unavailable) as caught:
        credential(asked)
    return caught.value.outcome.trouble


def test_public_client() -> None:
    """Most applications have nothing to prove themselves with."""
    assert NONE == credential(GRANT)


def test_secret(tmp_path: Path) -> None:
    """White space at the ends of a file is no part of a secret, which no repr shows."""
    found = credential(grant(client_secret=file(write_private(tmp_path / "s", " hunter2\r\n"))))

    assert ("hunter2", 0.0) == (found.value, found.expires)
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize("form", ["pem", "pfx"])
def test_certificate(tmp_path: Path, form: str) -> None:
    """Both forms are read; the password has a separate source, with or without a newline."""
    path = write_private(tmp_path / "c", getattr(MADE, form)("hunter2"))
    password = write_private(tmp_path / "p", "hunter2\n")
    found = credential(grant(certificate=file(path), certificate_password=file(password)))

    assert isinstance(found.value, Certificate)
    assert (MADE.public, float(int(MADE.ends))) == (found.value.public, found.expires)
    assert "PRIVATE" not in repr(found)


def test_assertion(tmp_path: Path) -> None:
    """It may be readable by all, as Kubernetes has it, and is read anew each time."""
    path = write_private(tmp_path / "a", "one\n", 0o644)
    first = credential(grant(client_assertion=file(path))).value
    write_private(path, "two\n", 0o644)
    second = credential(grant(client_assertion=file(path))).value

    assert (Assertion("one"), Assertion("two")) == (first, second)
    assert "one" not in repr(first)


def test_a_fingerprint_tells_what_was_replaced(tmp_path: Path) -> None:
    """A secret, or a certificate in any form; an assertion is replaced all the time. It quotes nothing."""

    def fingerprint(content: bytes | str, **named: str) -> str:
        (name,) = named
        return credential(grant(**{name: file(write_private(tmp_path / named[name], content))})).fingerprint

    secrets = [fingerprint(each, client_secret="s") for each in ("hunter2", "hunter2\n", "hunter3")]
    certificates = [fingerprint(each, certificate="c") for each in (MADE.pem(), MADE.pfx(), OTHER.pem())]
    assertions = [fingerprint(each, client_assertion="a") for each in ("one", "two")]

    for same, again, other in (secrets, certificates):
        assert same == again != other
    assert ["", "", ""] == [*assertions, credential(GRANT).fingerprint]
    assert 4 == len({*secrets, *certificates})
    assert "hunter" not in "".join(secrets)


@pytest.mark.parametrize(
    ("name", "content", "mode", "why"),
    [
        ("client_secret", b"", 0o600, "is empty"),
        ("client_secret", b"\xff", 0o600, "is not text"),
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

    assert ("locked", True) == (trouble.kind, f"cannot be read: file {path} {why}" in trouble.message)
    assert f"check {name} of the account" in trouble.hint


def test_absent(tmp_path: Path) -> None:
    """A file that is not there, yet."""
    trouble = why_not(grant(client_assertion=file(tmp_path / "none")))

    assert f"the client assertion cannot be read: file {tmp_path / 'none'} does not exist" == trouble.message


@pytest.mark.parametrize("number", [*APPLICATION_ROWS, 12345, None])
def test_refusals_name_no_sign_in(number: int | None) -> None:
    """Every refusal says who can fix it, none asks for a sign-in, and cms looks at each again."""
    said = Trouble("refused", "some (other) words", "sign in: `cms login`", number, "corr", error="invalid_client")
    found = explain(Refused(said), grant(certificate=file(Path("/c"))))

    assert isinstance(found, Refused)
    assert ("application", number, "corr", 1800.0) == (
        found.trouble.kind,
        found.trouble.aadsts,
        found.trouble.correlation_id,
        found.again_in,
    )
    assert found.trouble.message.endswith(f" (AADSTS{number}, invalid_client)" if number else " (invalid_client)")
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


def test_the_end_of_a_certificate(tmp_path: Path) -> None:
    """It is read without a PEM key's password and without running a command; else there is a reason, and no secret."""
    path = file(write_private(tmp_path / "c.pem", MADE.pem("hunter2")))
    pfx = file(write_private(tmp_path / "c.pfx", MADE.pfx("hunter2")))
    password = file(write_private(tmp_path / "p", "hunter2"))
    command = Source("command", ("touch", str(tmp_path / "run")))

    def end(**sources: Source) -> tuple[float, str]:
        asked = grant(**sources)
        found = certificate_end(asked)
        assert asked.key == found.key
        return found.expires, found.why

    ends = float(int(MADE.ends))
    assert (ends, "") == end(certificate=path) == end(certificate=pfx, certificate_password=password)
    assert (0.0, "") == end()
    not_run = f"command touch {tmp_path}/run is not run to look at a certificate"
    assert (0.0, not_run) == end(certificate=command) == end(certificate=pfx, certificate_password=command)
    assert not (tmp_path / "run").exists()
    none = file(tmp_path / "none")
    assert (0.0, f"the certificate cannot be read: {none} does not exist") == end(certificate=none)
    assert end(certificate=password)[1].startswith(
        f"the certificate cannot be read: {password} is neither PEM nor PKCS"
    )
    assert "hunter2" not in end(certificate=password)[1]


@pytest.mark.parametrize(
    ("raw", "password"),
    [
        (MADE.pem(), b""),
        (MADE.public.encode() + KEY, b""),
        (MADE.pem() + OTHER.public.encode(), b""),
        (MADE.pem("hunter2"), b"hunter2"),
        (MADE.pem(), b"not needed"),
        (MADE.pfx(), b""),
        (MADE.pfx("hunter2"), b"hunter2"),
    ],
    ids=[
        "PEM",
        "certificate first",
        "with an issuer's",
        "encrypted",
        "password of nothing",
        "PFX",
        "PFX with password",
    ],
)
def test_forms_of_a_certificate(raw: bytes, password: bytes) -> None:
    """Each gives the key in clear, the application's own certificate, and its end."""
    found = parse(raw, password)

    assert (MADE.public, ENDS) == (found.public, found.expires)
    assert parse(found.private_key.encode() + found.public.encode()) == found
    assert ENDS == expiry(raw, password)
    assert "PRIVATE" not in repr(found)


@pytest.mark.parametrize(
    ("raw", "password", "why"),
    [
        (MADE.public.encode(), b"", "has no private key in it: the key and the certificate belong into one file"),
        (KEY, b"", "has no certificate in it: the key and the certificate belong into one file"),
        (MADE.pem("x"), b"", "has an encrypted key: certificate_password= says where its password is"),
        (MADE.pem("x"), b"y", "has a key that cannot be read: the password is wrong"),
        (KEY.replace(b"MII", b"!!!") + MADE.public.encode(), b"", "has a key that cannot be read"),
        (KEY + MADE.public.replace("MII", "!!!").encode(), b"", "has a certificate that cannot be read"),
        (KEY + OTHER.public.encode(), b"", "has a key that is not the certificate's"),
        (CURVE + MADE.public.encode(), b"", "has no RSA key, and cms signs with no other"),
        (MADE.pfx("x"), b"", "is neither PEM nor PKCS #12, or is encrypted: certificate_password= says where"),
        (MADE.pfx("x"), b"y", "is neither PEM nor PKCS #12, or certificate_password= does not open it"),
        (b"", b"", "is neither PEM nor PKCS #12"),
        (
            pkcs12.serialize_key_and_certificates(b"x", None, MADE.certificate, None, NoEncryption()),
            b"",
            "has not both a key and its certificate in it",
        ),
    ],
)
def test_unusable_certificate(raw: bytes, password: bytes, why: str) -> None:
    """What will not do is told in words that mend it, and quoted nowhere."""
    with pytest.raises(Unusable) as caught:
        parse(raw, password)

    assert str(caught.value).startswith(why)
    assert "PRIVATE" not in str(caught.value)
