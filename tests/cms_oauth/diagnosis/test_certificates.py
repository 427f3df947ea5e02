"""Certificates that are not trusted, at a login host: who has to act there."""

from __future__ import annotations

import pytest

from cms_oauth.diagnosis import certificates
from cms_oauth.diagnosis.certificates import at_login, login_move


@pytest.mark.parametrize(
    ("reason", "name", "move"),
    [
        ("certificate has expired", "certificate-expired", "check this machine's clock"),
        ("certificate is not yet valid", "certificate-not-yet-valid", "check this machine's clock"),
        ("Hostname mismatch, certificate is not valid for 'x'.", "certificate-for-another-name", "captive portal"),
        ("self-signed certificate", "certificate-self-signed", "Tls(ca=...)"),
        ("self-signed certificate in certificate chain", "certificate", "Tls(ca=...)"),
        ("unable to get local issuer certificate", "certificate", "Tls(ca=...)"),
        ("CA certificate key too weak", "certificate-too-weak", "2048 bits"),
        ("path length constraint exceeded", "certificate-invalid", "OpenSSL's reason"),
        ("a reason of tomorrow", "certificate", "Tls(ca=...)"),
        ("x; SSL_CERT_DIR names /x, which does not exist", "certificate-authorities-misnamed", "correct the variable"),
    ],
)
def test_the_move_at_a_login_host(reason: str, name: str, move: str) -> None:
    """It names the host, and what cms does by itself: no administrator of a mail server is asked."""
    verdict, line = at_login(reason, "login.test"), login_move(reason, "login.test")

    assert name == verdict.name
    assert move in line
    assert line.endswith("cms tries again by itself")
    assert "{" not in f"{verdict}{line}"
    assert "s_client" not in line


def test_every_row_is_reached_by_its_own_words() -> None:
    """The words that a person would search for lead to the row that has them."""
    for row in certificates.ROWS:
        for word in row.verdict.words:
            if word not in ("CERTIFICATE_VERIFY_FAILED", "expired certificate", "which does not exist"):
                assert row.verdict.name == at_login(word, "login.test").name, word
