"""Entra's table: every refusal that Microsoft documents or people have met has a row that says whose move it is."""

from __future__ import annotations

import re

import pytest

from cms_oauth.diagnosis import entra
from cms_oauth.diagnosis.lookup import of_entra, of_row
from cms_oauth.diagnosis.verdicts import MOVERS

# Numbers that mean the same to a person, and whose move it is.
NUMBERS = (
    ("you", (50076, 50074, 50079, 50072)),
    ("you", (50078,)),
    ("you", (50158,)),
    ("you", (50173,)),
    ("you", (50132, 50133, 50089)),
    ("you", (70008, 700082)),
    ("you", (70043,)),
    ("you", (700084,)),
    ("you", (70000,)),
    ("you", (50126,)),
    ("wait", (50053,)),
    ("you", (50055, 50144, 50056)),
    ("administrator", (50057,)),
    ("you", (50034, 51004, 50020, 90072, 16000, 50014)),
    ("you", (500208,)),
    ("administrator", (50105,)),
    ("administrator", (50097, 50155, 50187)),
    ("administrator", (53000, 53001, 53002, 53003)),
    ("administrator", (530031, 530032, 530035)),
    ("administrator", (50002, 50005, 500021, 500022)),
    ("you", (53004, 53010, 53011, 50131)),
    ("you", (65001,)),
    ("you", (65004,)),
    ("you", (65002,)),
    ("you", (65005, 650056, 650057)),
    ("you", (65006,)),
    ("administrator", (650052, 500011, 50001)),
    ("administrator", (90094, 90095, 90008)),
    ("you", (700016, 700011, 70001, 7000112)),
    ("you", (7000218,)),
    ("you", (700025,)),
    ("you", (7000215, 7000222, 70002)),
    ("you", (700027, 50012, 700030)),
    ("you", (50011, 500113, 900971, 500119)),
    ("you", (9002327, 9002326)),
    ("you", (50194, 90130, 9002332)),
    ("you", (90002, 90038, 50059)),
    ("you", (70011, 28002, 700022, 700023, 9001023)),
    ("you", (90014, 900144, 9002313, 90023, 90100)),
    ("you", (54005, 501481, 700005)),
    ("wait", (70016,)),
    ("you", (70018,)),
    ("you", (70019,)),
    ("you", (90119,)),
    ("you", (90120,)),
    ("you", (50134,)),
    ("administrator", (135010, 135011)),
    ("wait", (50196,)),
    ("wait", (90033, 90006, 90012, 90024, 90090, 50033, 50087, 70012)),
    ("wait", (90055,)),
    ("wait", (80001, 80002, 80005, 80014)),
    ("wait", tuple(range(40008, 40016))),
    ("wait", tuple(range(20001, 20034))),
)
ERRORS = (
    *("temporarily_unavailable", "interaction_required", "invalid_grant", "consent_required", "invalid_client"),
    *("unauthorized_client", "invalid_scope", "invalid_request", "unsupported_grant_type", "invalid_resource"),
    *("authorization_pending", "slow_down", "authorization_declined", "expired_token", "bad_verification_code"),
    *("access_denied", "server_error", "login_required"),
    "invalid_target",
)
SUBERRORS = (
    *("basic_action", "additional_action", "message_only", "consent_required", "user_password_expired", "bad_token"),
    *("token_expired", "client_mismatch", "protection_policy_required", "device_authentication_failed"),
)
ALL = [
    *dict.fromkeys((*entra.ROWS.values(), *entra.SUBERRORS.values(), *entra.ERRORS.values())),
    *(entra.THROTTLED, entra.FAILED, entra.NOT_THE_PROVIDER, entra.UNKNOWN),
]

# What a hint has in it where a command of cms's would be no help, or as well as one.
TELLS_WHOSE_MOVE = {
    "you": re.compile(r"\{(login|again|reload)\b"),
    "administrator": re.compile(r"administrator"),
    "wait": re.compile(r"\{(wait_for_cms|wait_for_person|nothing_to_do|nothing_for_now|retries)\}"),
}


@pytest.mark.parametrize(("mover", "number"), [(mover, number) for mover, numbers in NUMBERS for number in numbers])
def test_every_number(mover: str, number: int) -> None:
    """Each has a verdict whose mover is the right one."""
    verdict = of_entra(number, "invalid_grant")[0]

    assert mover == verdict.mover
    assert verdict.name not in {"unknown", "refused"}
    assert f"AADSTS{number}" in verdict.cause


def test_each_trouble_with_a_device_code_is_named() -> None:
    """Wrong, expired, missing, used, or from another data centre: five causes."""
    said = {number: of_entra(number)[0].cause for number in (70018, 70019, 90119, 90120, 50134)}

    assert len(said) == len(set(said.values()))
    assert "wrong" in said[70018]
    assert "expired" in said[70019]
    assert "No device code" in said[90119]
    assert "already" in said[90120]
    assert "data centre" in said[50134]


def test_no_number_is_in_the_table_alone() -> None:
    """What the table has beyond the reference is known: a scope error that comes with others, and two of other pages.

    530003: "Known issues" of Azure IoT Operations; 5000211: "Set up tenant restrictions v2".
    """
    assert {28000, 530003, 5000211} == set(entra.ROWS) - {number for _, numbers in NUMBERS for number in numbers}


@pytest.mark.parametrize("number", entra.APPLICATION_ROWS)
def test_what_applications_alone_meet_is_known(number: int) -> None:
    """A number that people meet as well has people's row, unless it is asked for an application."""
    verdict = of_entra(number, "invalid_client")[0]

    asked = of_entra(number, "invalid_client", application=True)[0]

    assert "unknown" != verdict.name
    assert entra.APPLICATION_ROWS[number].name == asked.name
    assert not any("{" in step for step in verdict.steps + asked.steps)
    assert "application-not-accepted" == of_entra(None, "invalid_client", application=True)[0].name


@pytest.mark.parametrize(
    "row",
    list(dict.fromkeys((*entra.APPLICATION_ROWS.values(), entra.APPLICATION_REFUSED, entra.NO_IDENTITY))),
    ids=lambda row: row.name,
)
def test_no_application_is_told_to_sign_in(row: entra.RefusalRow) -> None:
    """No person could sign in: the hint ends in another command."""
    assert "{login" not in row.hint
    assert re.search(r"\{(again|reload)|client_id", row.hint)
    assert row.words


@pytest.mark.parametrize(
    ("number", "error", "status", "name", "mover"),
    [
        (90033, "temporarily_unavailable", 503, "provider-trouble", "wait"),
        (None, "temporarily_unavailable", 400, "provider-trouble", "wait"),
        (None, "", 429, "throttled", "wait"),
        (None, "", 500, "provider-failed", "wait"),
        (None, "invalid_client", 401, "application-not-accepted", "you"),
        (424242, "of_tomorrow", 400, "application-not-accepted", "you"),
        (None, "", None, "application-not-accepted", "you"),
        (7000222, "invalid_client", 503, "application-secret-expired", "you"),
    ],
)
def test_the_providers_own_trouble_is_no_refusal_of_an_application(
    number: int | None, error: str, status: int | None, name: str, mover: str
) -> None:
    """cms does not blame a registration while Entra has a fault or asks for a pause."""
    verdict = of_entra(number, error, status=status, application=True)[0]

    assert (name, mover) == (verdict.name, verdict.mover)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_word(error: str) -> None:
    """For what comes without a number."""
    assert "unknown" != of_entra(None, error)[0].name


@pytest.mark.parametrize("suberror", SUBERRORS)
def test_every_suberror(suberror: str) -> None:
    """It decides before the error word."""
    assert of_entra(None, "invalid_grant", suberror)[0].name not in {"unknown", "refused"}


@pytest.mark.parametrize(
    ("status", "name", "mover"),
    [
        (429, "throttled", "wait"),
        (408, "provider-failed", "wait"),
        (500, "provider-failed", "wait"),
        (503, "provider-failed", "wait"),
        (401, "application-refused", "you"),
        (200, "not-the-provider", "wait"),
        (404, "not-the-provider", "wait"),
        (None, "unknown", "wait"),
    ],
)
def test_http_statuses(status: int | None, name: str, mover: str) -> None:
    """Where nothing else is known."""
    verdict = of_entra(None, status=status)[0]

    assert (name, mover) == (verdict.name, verdict.mover)


def test_a_word_decides_before_the_status() -> None:
    """Entra answers its refusals with 400 and 401."""
    assert "consent-declined" == of_entra(65004, "access_denied", status=400)[0].name
    assert "refused" == of_entra(None, "invalid_grant", status=400)[0].name


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_every_row_says_whose_move_it_is(row: entra.RefusalRow) -> None:
    """In the one line that the terminal, the log and `cms status` show; and what is Microsoft's is tried again."""
    assert row.mover in MOVERS
    assert TELLS_WHOSE_MOVE[row.mover].search(row.hint)
    assert row.transient == (row.mover == "wait")
    assert row.transient or not row.pause


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_every_row_reads_as_a_sentence(row: entra.RefusalRow) -> None:
    """Half of one in a log, a whole one as a verdict; and it can be searched for."""
    verdict = of_row(row)

    assert re.fullmatch(r"[a-z][^\n]*[^.\s]", row.message)
    assert re.fullmatch(r"[A-Z][^\n]*\.", verdict.cause)
    assert row.hint == verdict.steps[0]
    assert row.takes
    assert row.words or row is entra.UNKNOWN


def test_names_are_unique() -> None:
    """A program can tell the rows apart."""
    names = [row.name for row in ALL]

    assert sorted(set(names)) == sorted(names)
