"""What an application proves itself with, as MSAL takes it. Exchanges themselves are in test_client.py."""

from __future__ import annotations

import pytest

from cms.grants.credentials import Assertion, Certificate
from cms.grants.entra import exchange


def test_a_secret_or_nothing() -> None:
    """A secret is passed on as it is; without one MSAL gets None."""
    assert ("hunter2", None) == (exchange.proof("hunter2"), exchange.proof(""))


def test_an_assertion() -> None:
    """MSAL calls for it."""
    found = exchange.proof(Assertion("signed"))

    assert isinstance(found, dict)
    assert "signed" == found["client_assertion"]()


@pytest.mark.parametrize("older", [True, False])
def test_the_thumbprint_of_a_certificate(monkeypatch: pytest.MonkeyPatch, *, older: bool) -> None:
    """MSAL before 1.35 wants to be told; later ones take a stronger one by themselves if they are not."""
    monkeypatch.setattr(exchange, "NEEDS_THUMBPRINT", older)
    found = exchange.proof(Certificate("key", "public", 0.0, "ab12"))

    assert ("ab12" if older else None) == (found.get("thumbprint") if isinstance(found, dict) else found)
