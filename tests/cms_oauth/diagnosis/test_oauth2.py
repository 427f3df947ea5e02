"""The refusals of other providers: each has a row that says whose move it is, and none sends a person to Microsoft."""

from __future__ import annotations

import re

import pytest

from cms_oauth.diagnosis import entra, oauth2
from cms_oauth.diagnosis.entra import RefusalRow
from cms_oauth.diagnosis.lookup import of_row
from cms_oauth.providers import PROVIDERS

OWN = [
    row
    for row in dict.fromkeys(
        (
            *oauth2.ROWS.values(),
            *oauth2.APPLICATION_ROWS.values(),
            oauth2.REGISTRATION_GONE,
            oauth2.APPLICATION_REFUSED,
        )
    )
    if row not in (entra.THROTTLED, entra.FAILED, *entra.ERRORS.values())
]


def test_every_key_is_of_a_provider() -> None:
    """A row belongs to a provider that there is, or to all."""
    assert {name for name, *_ in (*oauth2.ROWS, *oauth2.APPLICATION_ROWS)} <= {"", *PROVIDERS}


@pytest.mark.parametrize("row", OWN, ids=lambda row: row.name)
def test_every_row_says_whose_move_it_is(row: RefusalRow) -> None:
    """It reads as a sentence, ends in a command, can be searched for, and has no page of Microsoft's."""
    assert re.fullmatch(r"[A-Z][^\n]*\.", of_row(row).cause)
    assert re.search(r"\{(login|again|reload)\b", row.hint)
    assert ("administrator" == row.mover) == ("administrator" in row.hint)
    assert row.words
    assert "microsoft" not in row.link


@pytest.mark.parametrize(
    ("provider", "error", "suberror", "name"),
    [
        ("google", "invalid_grant", "", "ended"),
        ("google", "invalid_grant", "of_tomorrow", "ended"),
        ("google", "invalid_grant", "invalid_rapt", "session-control"),
        ("google", "invalid_grant", "rapt_required", "session-control"),
        ("google", "admin_policy_enforced", "", "client-blocked"),
        ("google", "policy_enforced", "", "application-not-examined"),
        ("google", "org_internal", "", "application-of-others"),
        ("google", "deleted_client", "", "application-deleted"),
        ("google", "access_denied", "", "declined-or-testing"),
        ("google", "unauthorized_client", "", "client-refused"),
        ("google", "rate_limit_exceeded", "", "throttled"),
        ("fastmail", "invalid_grant", "", "refused"),
        ("fastmail", "access_denied", "", "declined"),
        ("fastmail", "invalid_client", "", "registration-gone"),
        ("yandex", "invalid_client", "", "application-refused"),
        ("oauth2", "invalid_target", "", "resource-refused"),
        ("oauth2", "invalid_scope", "", "scope-refused"),
        ("oauth2", "invalid_request", "", "request-refused"),
        ("oauth2", "server_error", "", "provider-trouble"),
        ("oauth2", "of_tomorrow", "", "unknown"),
    ],
)
def test_a_row_is_found(provider: str, error: str, suberror: str, name: str) -> None:
    """The most specific one: the provider's for word and subtype, the provider's for the word, the word's."""
    assert name == oauth2.row_of(provider, error, suberror).name


def test_a_status_without_a_word() -> None:
    """It is a fault for now, as Entra's is."""
    assert entra.FAILED == oauth2.row_of("google", status=502)


@pytest.mark.parametrize(
    ("provider", "error", "name"),
    [
        ("google", "unauthorized_client", "no-delegation"),
        ("google", "invalid_grant", "no-such-mailbox"),
        ("google", "invalid_client", "service-account-refused"),
        ("google", "of_tomorrow", "service-account-refused"),
        ("google", "admin_policy_enforced", "client-blocked"),
        ("oauth2", "invalid_client", "application-refused"),
        ("oauth2", "server_error", "provider-trouble"),
    ],
)
def test_no_application_is_told_to_sign_in(provider: str, error: str, name: str) -> None:
    """No person could."""
    row = oauth2.row_of_application(provider, error)

    assert name == row.name
    assert "{login" not in row.hint
