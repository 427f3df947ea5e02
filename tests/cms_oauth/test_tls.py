"""What TLS connections are made with."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from cms_oauth.tls import client_context


@pytest.mark.parametrize("named", ["", "folder"])
def test_who_answers_is_verified(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its certificate and host name, with TLS 1.2 at least, as Exchange Online demands too; no session's key is written."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = client_context(str(tmp_path) if named else "")

    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)
    assert ssl.TLSVersion.TLSv1_2 <= context.minimum_version
    assert context.keylog_filename is None
