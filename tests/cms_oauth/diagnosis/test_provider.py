"""What the doctor says of a problem in the status: whose word it is, and what that means."""

from __future__ import annotations

from typing import Any

import pytest

from cms_oauth.diagnosis.provider import of_problem


def problem(kind: str, reason: str = "", aadsts: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "message": "no", "reason": reason, "aadsts": aadsts}


def test_the_further_steps_are_told() -> None:
    """The word that the provider said is in the cause, and the command has the account."""
    (verdict,) = of_problem(problem("refused", "invalid_grant"), "google", "ann@gmail.com")

    assert "The sign-in has been revoked or has expired (invalid_grant)." == verdict.cause
    assert "sign in again: `cms login ann@gmail.com`" == verdict.steps[0]
    assert "every 7 days" in verdict.steps[1]


def test_an_application_is_not_told_to_sign_in() -> None:
    """cms tries it again by itself."""
    (verdict,) = of_problem(problem("application", "invalid_client"), "google")

    assert "service_account of the account" in verdict.steps[0]
    assert "cms login" not in "".join(verdict.steps)


def test_entras_has_a_number() -> None:
    """Its own table knows it."""
    (verdict,) = of_problem(problem("refused", "AADSTS50173", 50173), "microsoft")

    assert "AADSTS50173" in verdict.cause


@pytest.mark.parametrize(
    ("provider", "kind", "reason"),
    [("microsoft", "refused", "invalid_grant"), ("google", "network", ""), ("google", "network", "invalid_grant")],
)
def test_what_no_provider_has_refused_with_a_word(provider: str, kind: str, reason: str) -> None:
    """Faults are no refusals, and Entra's words say less than the daemon."""
    assert () == of_problem(problem(kind, reason), provider)
