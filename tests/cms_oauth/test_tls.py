"""What TLS connections are made with, whom they trust, and which variables say so in vain."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path

import certifi
import pytest
from support.certificates import Made

from cms_oauth import tls
from cms_oauth.tls import SYSTEMS, Authorities, authorities, client_context, misnamed

NAMES = (*tls.BUNDLES, *tls.OPENSSLS, *tls.SETTINGS)


@pytest.mark.parametrize("named", ["", "folder"])
def test_who_answers_is_verified(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its certificate and host name, with TLS 1.2 at least, as Exchange Online demands too; no session's key is written."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no folder" / "keys"))
    context = client_context(Authorities(str(hashed(tmp_path)), "the test") if named else SYSTEMS)

    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)
    assert ssl.TLSVersion.TLSv1_2 <= context.minimum_version
    assert context.keylog_filename is None


def hashed(folder: Path) -> Path:
    """Return a folder with a certificate under its hash, as OpenSSL wants it."""
    made = folder / "hashed"
    made.mkdir()
    Made("CA", is_authority=True).write(made / "ca.pem")
    subprocess.run(["openssl", "rehash", str(made)], check=True, capture_output=True)
    return made


def test_several_folders_are_looked_into(tmp_path: Path) -> None:
    """SSL_CERT_DIR is a list, of which a missing folder does not spoil the others."""
    found = authorities("", {"SSL_CERT_DIR": f"{tmp_path}/missing:{hashed(tmp_path)}"})

    assert "SSL_CERT_DIR" == found.named_by
    client_context(found)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "does not exist"),
        (b"", "has no certificate in PEM form"),
        (b"\x30\x82\x01\x0a", "has no certificate in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n", "has no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n", "a certificate that cannot be read"),
    ],
)
@pytest.mark.parametrize("named_by", ["Tls(ca=...)", "REQUESTS_CA_BUNDLE"])
def test_authorities_that_cannot_be_loaded(tmp_path: Path, named_by: str, content: bytes | None, why: str) -> None:
    """What names them is in the reason, with the file."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(tls.Unusable) as raised:
        client_context(Authorities(str(path), named_by))

    assert f"{named_by} names {path}, which" in str(raised.value)
    assert why in str(raised.value)
    assert named_by == raised.value.named_by


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare.pem").write_bytes(b"no certificate")
    return {
        "good": Made("CA", is_authority=True).write(tmp_path / "good.pem"),
        "hashed": str(hashed(tmp_path)),
        "empty": str(tmp_path / "empty"),
        "bare": str(tmp_path / "bare.pem"),
        "missing": str(tmp_path / "missing"),
    }


@pytest.mark.parametrize(
    ("name", "place", "why"),
    [
        *((name, "missing", "which does not exist") for name in NAMES),
        *((name, "bare", "which has no certificate in PEM form") for name in (*tls.BUNDLES, "SSL_CERT_FILE")),
        *((name, "empty", "which is a folder") for name in ("SSL_CERT_FILE", "OPENSSL_CONF")),
        *((name, "good", "which is no folder") for name in ("SSL_CERT_DIR", "OPENSSL_MODULES")),
        *((name, "empty", "`openssl rehash FOLDER`") for name in (*tls.BUNDLES, "SSL_CERT_DIR")),
        *((name, "good", "") for name in (*tls.BUNDLES, "SSL_CERT_FILE", "OPENSSL_CONF")),
        *((name, "hashed", "") for name in (*tls.BUNDLES, "SSL_CERT_DIR", "OPENSSL_MODULES")),
    ],
)
def test_variables_that_name_nothing_of_use(places: dict[str, str], name: str, place: str, why: str) -> None:
    """Each is named with what is wrong; a good one is not mentioned."""
    said = misnamed({name: places[place]}, NAMES)

    assert (1 if why else 0) == len(said)
    assert all(each.startswith(f"{name} names {places[place]}, ") and why in each for each in said)


@pytest.mark.parametrize(("below", "why"), [("good/ca.pem", "Not a directory"), ("empty/" + "x" * 300, "too long")])
def test_a_file_that_cannot_be_read(places: dict[str, str], below: str, why: str) -> None:
    """The system's reason is said."""
    folder, _, rest = below.partition("/")
    (said,) = misnamed({"SSL_CERT_FILE": f"{places[folder]}/{rest}"}, NAMES)

    assert "which cannot be read: " in said
    assert why in said


def test_a_relative_path_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon has another working directory than a shell: the message says which file was looked for."""
    monkeypatch.chdir(tmp_path)

    assert (f"CURL_CA_BUNDLE names {tmp_path}/ca.pem, which does not exist",) == misnamed(
        {"CURL_CA_BUNDLE": "ca.pem"}, NAMES
    )


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    """`SSL_CERT_FILE=<(...)` of a shell can be read once, by OpenSSL."""
    os.mkfifo(tmp_path / "pipe")

    assert () == misnamed({"SSL_CERT_FILE": str(tmp_path / "pipe")}, NAMES)


def test_an_empty_folder_beside_a_good_file(places: dict[str, str]) -> None:
    """People name one to trust nothing but the file."""
    assert () == misnamed({"SSL_CERT_FILE": places["good"], "SSL_CERT_DIR": places["empty"]}, NAMES)


@pytest.mark.parametrize(
    ("ca", "environ", "expected", "ignored"),
    [
        ("/ca", {"SSL_CERT_FILE": "good", "REQUESTS_CA_BUNDLE": "missing"}, ("/ca", "Tls(ca=...)"), 0),
        ("", {"SSL_CERT_FILE": "good", "SSL_CERT_DIR": "hashed"}, ("good", "SSL_CERT_FILE"), 0),
        ("", {"SSL_CERT_FILE": "missing", "SSL_CERT_DIR": "hashed"}, ("hashed", "SSL_CERT_DIR"), 1),
        ("", {"SSL_CERT_FILE": "bare", "SSL_CERT_DIR": "missing"}, (certifi.where(), "certifi"), 2),
        ("", {"SSL_CERT_FILE": "good", "REQUESTS_CA_BUNDLE": "missing"}, ("missing", "REQUESTS_CA_BUNDLE"), 0),
        ("", {"SSL_CERT_FILE": "missing", "CURL_CA_BUNDLE": "good"}, ("good", "CURL_CA_BUNDLE"), 0),
        ("", {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "good"}, ("good", "CURL_CA_BUNDLE"), 0),
        ("", {}, (certifi.where(), "certifi"), 0),
    ],
)
def test_the_order_of_certificate_authorities(
    places: dict[str, str], ca: str, environ: dict[str, str], expected: tuple[str, str], ignored: int
) -> None:
    """The configuration, requests' variables whatever they name, OpenSSL's where they name something, certifi."""
    found = authorities(ca, {name: places.get(value, value) for name, value in environ.items()})

    assert (places.get(expected[0], expected[0]), expected[1], ignored) == (
        found.path,
        found.named_by,
        len(found.ignored),
    )


def test_openssls_reason() -> None:
    """It is found however deep libraries have wrapped it; what is no failure of TLS has none."""
    inner = ssl.SSLCertVerificationError("x")
    inner.verify_message = "certificate has expired"
    try:
        try:
            raise inner
        except ssl.SSLError as error:
            raise RuntimeError from error
    except RuntimeError as error:
        chained = error

    assert ("certificate has expired", True) == tls.reason_of(chained)
    assert ("certificate has expired", True) == tls.reason_of(OSError(RuntimeError("once", inner)))
    assert ("", False) == tls.reason_of(ConnectionRefusedError())
    assert ("made by hand", False) == tls.reason_of(ssl.SSLError(1, "made by hand"))
    ended = ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF) (_ssl.c:992)")
    assert ("tls/ssl connection has been closed (eof)", False) == tls.reason_of(ended)
