from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.core import refusals
from cms.core.accounts import DEFAULT_REGISTRATION, Grant, Source
from cms.core.lifecycle import KINDS, Refused, Transient, Trouble
from cms_oauth.diagnosis import entra
from cms_oauth.moves import Promise, fill, parts_of
from cms_oauth.providers import PROVIDERS

ALL_ROWS = [*entra.ROWS.values(), *entra.SUBERRORS.values(), *entra.ERRORS.values()]
GRANT = Grant("https://login.example/common", "client", "ann@example.test", redirect_uri="http://localhost/x")
GMAIL = replace(GRANT, authority="https://accounts.google.com", provider="google", server=PROVIDERS["google"].server)


def refusal(number: int, **more: object) -> dict[str, object]:
    return {
        "error": "invalid_grant",
        "error_description": f"AADSTS{number}: prose that is nobody's business. Trace ID: x",
        "error_codes": [number],
        "correlation_id": "11111111-2222-3333-4444-555555555555",
        **more,
    }


@pytest.mark.parametrize("number", [*entra.ROWS, *(each for each in entra.APPLICATION_ROWS if each not in entra.ROWS)])
def test_every_number_says_what_and_who(number: int) -> None:
    """Each known number gives a message in our own words, the number to look up, the next move and a known kind."""
    outcome = refusals.explain(refusal(number), GRANT)
    trouble = outcome.trouble

    assert number == trouble.aadsts
    assert f"AADSTS{number}" in trouble.message
    assert "prose" not in trouble.message + trouble.hint
    assert trouble.hint
    assert not re.search(r"[{}]", trouble.hint)
    assert trouble.kind in KINDS
    assert "11111111-2222-3333-4444-555555555555" == trouble.correlation_id
    assert entra.row_of(number).transient == isinstance(outcome, Transient)


@pytest.mark.parametrize(
    ("grant", "answer", "ends"),
    [
        (GRANT, refusal(50173), True),
        (GRANT, refusal(700082), True),
        (GRANT, refusal(50173, claims='{"access_token": {}}'), False),
        *((GRANT, refusal(number), False) for number in (65001, 50076, 70043, 53003, 50097)),
        (GRANT, {"error": "invalid_client", "error_codes": [7000222]}, False),
        (GMAIL, {"error": "invalid_grant"}, True),
        (GMAIL, {"error": "invalid_grant", "error_subtype": "invalid_rapt"}, True),
        (GMAIL, {"error": "invalid_grant", "suberror": "consent_required"}, False),
        (GMAIL, {"error": "invalid_client"}, False),
    ],
)
def test_a_dead_refresh_token_is_told_from_what_concerns_one_host_or_some_scopes(
    grant: Grant, answer: dict[str, object], *, ends: bool
) -> None:
    """A fleet asks with a dead token once. What a policy, a place or the application causes may end otherwise elsewhere."""
    outcome = refusals.explain(answer, grant)

    assert isinstance(outcome, Refused)
    assert ends == refusals.ends_the_sign_in(outcome, grant)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (50173, "`cms login ann@example.test`"),
        (50076, "`cms login ann@example.test --browser`"),
        (70019, "`cms login ann@example.test --device`"),
        (50011, "register exactly http://localhost/x"),
        (9002327, 'set origin="http://localhost"'),
        (9002327, "the registration of the application client"),
        (9002326, "the registration of the application client"),
        (50011, "the registration of the application client"),
        (700084, "the registration of the application client"),
        (9002326, 'origin=""'),
        (50057, "then `cms refresh`"),
        (7000222, "then `cms refresh`"),
        (700027, "then `cms refresh`"),
        (700025, "then `cms reload`"),
        (700084, "24 hours"),
        (7000218, "client_secret"),
        (65001, "need admin approval"),
        (65001, "`cms admin-consent-url ann@example.test`"),
        (90094, "`cms admin-consent-url ann@example.test`"),
        (90095, "`cms admin-consent-url ann@example.test`"),
        (90008, "`cms admin-consent-url ann@example.test`"),
    ],
)
def test_next_move(number: int, words: str) -> None:
    """The hint names the command or the setting that helps."""
    trouble = refusals.explain(refusal(number), GRANT).trouble

    assert words in trouble.message + trouble.hint


# By location, by device, by risk: Microsoft names them in "Microsoft Entra authentication and authorization error codes".
BY_CONNECTION = {
    *(50072, 50074, 50076, 50079, 50158),
    *(50097, 50155, 50187),
    *(50005, 53000, 53001, 53002, 53003, 530003, 530031, 530032, 530035),
    *(50002, 500021, 500022, 5000211),
    *(50131, 53004, 53010, 53011),
}


@pytest.mark.parametrize("number", entra.ROWS)
def test_what_a_change_of_the_network_may_mend(number: int) -> None:
    """Conditional access by location, device and risk; what only a person mends is none of it."""
    outcome = refusals.explain(refusal(number), GRANT)

    assert (number in BY_CONNECTION) == (isinstance(outcome, Refused) and outcome.by_connection)


def test_a_device_without_a_number() -> None:
    """The suberror says it as well."""
    answer = {"error": "invalid_grant", "suberror": "device_authentication_failed"}
    other = {"error": "invalid_grant", "suberror": "protection_policy_required"}
    outcomes = [refusals.explain(each, GRANT) for each in (answer, other)]

    assert [True, False] == [isinstance(each, Refused) and each.by_connection for each in outcomes]


def test_a_known_registration_is_named() -> None:
    """Where the registration is the reason, people are told whose it is."""
    grant = replace(GRANT, client_id=DEFAULT_REGISTRATION.client_id, redirect_uri=DEFAULT_REGISTRATION.redirect_uri)
    trouble = refusals.explain(refusal(9002327), grant).trouble

    assert "the registration of the application cms" in trouble.message
    assert 'set origin="http://127.0.0.1:8080" for the account' in trouble.hint


@pytest.mark.parametrize("row", ALL_ROWS)
def test_a_refusal_names_the_next_command(row: entra.RefusalRow) -> None:
    """Nothing tries a refused sign-in again by itself: each hint ends in a command that does."""
    assert row.transient or any(field in row.hint for field in ("{login", "{again}", "{reload"))


def at_a_sign_in(answer: dict[str, object]) -> Trouble:
    """Return what the person reads whose sign-in ended with this answer."""
    outcome = refusals.in_person(refusals.explain(answer, GRANT), refusals.hint("start again: {login}", GRANT))
    return outcome.trouble


EVERY_ANSWER: dict[str, tuple[entra.RefusalRow, dict[str, object]]] = {
    **{f"AADSTS{each}": (row, refusal(each)) for each, row in (entra.APPLICATION_ROWS | entra.ROWS).items()},
    **{each: (row, {"error": "invalid_grant", "suberror": each}) for each, row in entra.SUBERRORS.items()},
    **{each: (row, {"error": each}) for each, row in entra.ERRORS.items()},
}


@pytest.mark.parametrize("what", EVERY_ANSWER)
def test_a_sign_in_that_failed_ends_in_a_command_that_can_help(what: str) -> None:
    """Signing in anew, or asking for consent; whose move it is; and no command to a daemon that may not be there."""
    row, answer = EVERY_ANSWER[what]
    text = at_a_sign_in(answer).hint

    assert "`cms login ann@example.test" in text or "`cms admin-consent-url ann@example.test`" in text
    assert {"administrator": "administrator", "wait": "wait ", "you": ""}[row.mover] in text
    assert "cms refresh" not in text
    assert not re.search("by itself|cms tries|nothing to do|wait,", text)
    # Where the configuration has to change, a command follows that helps without a daemon as well.
    assert text.count("`cms reload`") == len(re.findall(r"`cms reload`, if cms runs, and (start|`cms)", text))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (53003, "or sign in on a managed device; then start again: `cms login ann@example.test`"),
        (7000218, "allow public client flows in its registration, then start again: `cms login ann@example.test`;"),
        (7000218, "then `cms reload`, if cms runs, and start again: `cms login ann@example.test`"),
        (50034, "then `cms reload`, if cms runs, and `cms login ann@example.test`"),
        (50011, "register exactly http://localhost/x, then `cms login ann@example.test`; or"),
        (50011, "then `cms reload`, if cms runs, and `cms login ann@example.test`"),
        (50053, "wait 15 minutes, then start again: `cms login ann@example.test`; if it lasts, the administrator"),
        (50196, "wait 15 minutes, then start again: `cms login ann@example.test`; if it lasts, look for a second"),
        (90055, "wait 15 minutes, then start again: `cms login ann@example.test`"),
        (90033, "wait a minute, then start again: `cms login ann@example.test`"),
        (80001, "wait a minute, then start again: `cms login ann@example.test`; tell the administrator"),
        (700024, "check this machine's clock; then start again: `cms login ann@example.test`"),
    ],
)
def test_what_a_person_is_told_at_a_sign_in(number: int, words: str) -> None:
    """The sentence is whole, and in the order in which things are done."""
    assert words in at_a_sign_in(refusal(number)).hint


def test_a_failed_import_is_made_anew() -> None:
    """The command is the one that was given."""
    refused = refusals.explain(refusal(53003), GRANT)

    assert refusals.in_person(refused, "import again").trouble.hint.endswith("; then import again")


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "throttled"), (503, "server"), (408, "server"), (999, "server"), (302, "garbage")]
)
def test_a_status_without_an_error(status: int, kind: str) -> None:
    """Its number is shown, and cms tries again."""
    trouble = refusals.of_status(status)

    assert (kind, True) == (trouble.kind, trouble.message.endswith(f"(HTTP {status})"))
    assert any(isinstance(part, Promise) for part in parts_of(trouble.hint))


@pytest.mark.parametrize("number", [50196, 90055, 50053])
def test_long_pauses(number: int) -> None:
    """A loop, a throttled tenant and a locked account are left alone for a quarter of an hour."""
    outcome = refusals.explain(refusal(number), GRANT)

    assert isinstance(outcome, Transient)
    assert entra.LONG_PAUSE == outcome.retry_after


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"error": "invalid_grant"}, Refused),
        ({"error": "invalid_grant", "error_codes": [123456789]}, Refused),
        ({"error": "interaction_required"}, Refused),
        ({"error": "invalid_client"}, Refused),
        ({"error": "invalid_target"}, Refused),
        ({"error": "unsupported_grant_type"}, Refused),
        ({"error": "temporarily_unavailable"}, Transient),
        ({"error": "temporarily_unavailable", "error_codes": [424242]}, Transient),
        ({"error": "server_error"}, Transient),
        ({"error": "something_new"}, Transient),
        ({"error": None}, Transient),
        ({"error": "invalid_grant", "error_codes": [90033]}, Transient),
        ({"error": "something_new", "suberror": "bad_token"}, Refused),
        ({"error": "invalid_grant", "suberror": "something_new"}, Refused),
    ],
)
def test_unknown_answers(answer: dict[str, object], expected: type) -> None:
    """Without a known number the suberror decides, then the error; what says nothing of the sign-in does not end it."""
    assert expected is type(refusals.explain(answer, GRANT))


@pytest.mark.parametrize("grant", [GMAIL, replace(GMAIL, provider="oauth2")], ids=["google", "described"])
@pytest.mark.parametrize(
    "word", ["admin_policy_enforced", "policy_enforced", "org_internal", "deleted_client", "invalid_target"]
)
def test_googles_own_words(word: str, grant: Grant) -> None:
    """They are refusals, also where the file describes Google as a server of one's own; none is tried again for ever."""
    assert isinstance(refusals.explain({"error": word}, grant), Refused)


@pytest.mark.parametrize("suberror", entra.SUBERRORS)
def test_suberrors(suberror: str) -> None:
    """Each of Microsoft's suberrors has a separate meaning, and is passed on."""
    outcome = refusals.explain({"error": "invalid_grant", "suberror": suberror}, GRANT)

    assert isinstance(outcome, Refused)
    assert suberror == outcome.trouble.suberror
    assert entra.SUBERRORS[suberror].message in outcome.trouble.message


def test_number_from_prose() -> None:
    """An answer of the authorize page has its number in the description only."""
    outcome = refusals.explain({"error": "access_denied", "error_description": "AADSTS65004: declined"}, GRANT)

    assert isinstance(outcome, Refused)
    assert 65004 == outcome.trouble.aadsts


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ('{"access_token": {}}', '{"access_token": {}}'),
        ("[1]", ""),
        ("{", ""),
        (5, ""),
        ('{"x": "' + "y" * 5000 + '"}', ""),
        (None, ""),
    ],
)
def test_claims_challenge(claims: object, expected: str) -> None:
    """A challenge is carried exactly as it came; an invalid one is dropped."""
    outcome = refusals.explain(refusal(50076, claims=claims), GRANT)

    assert isinstance(outcome, Refused)
    assert expected == outcome.trouble.claims


@given(
    st.dictionaries(
        st.sampled_from(["error", "suberror", "error_codes", "error_description", "correlation_id", "claims"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(), lambda deeper: st.lists(deeper, max_size=2)
        ),
    )
)
def test_never_raises_and_never_quotes(answer: dict[str, object]) -> None:
    """Whatever an answer holds, it is explained; only identifiers of it are repeated."""
    trouble = refusals.explain(answer, GRANT).trouble

    for text in (trouble.correlation_id, trouble.suberror):
        assert re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", text)
    assert "\n" not in trouble.message


@pytest.mark.parametrize("row", [row for row in entra.ROWS.values() if row.transient])
def test_a_person_is_not_told_to_wait_for_cms(row: entra.RefusalRow) -> None:
    """Nothing tries again what a person has asked for: the hint names their command instead, and keeps the rest."""
    trouble = Trouble(row.kind, row.message, fill(row.hint))
    told = refusals.in_person(Transient(trouble, 5.0), "start again: `cms login`")

    assert isinstance(told, Transient)
    assert 5.0 == told.retry_after
    assert "start again: `cms login`" in told.trouble.hint
    assert not re.search("by itself|cms tries|nothing to do", told.trouble.hint)


def test_a_hint_that_promises_nothing_gets_the_command_as_well() -> None:
    """And an end that is no fault is left alone."""
    refused = Refused(Trouble("refused", "no", "ask"))
    told = refusals.in_person(Transient(Trouble("worker", "died", "see the log")), "again")

    assert "see the log; again" == told.trouble.hint
    assert refused == refusals.in_person(refused, "again")


def test_a_person_who_was_refused_begins_anew() -> None:
    """Another sign-in shows what the administrator has fixed: before it there is no sign-in to refresh."""
    blocked = refusals.explain({"error_codes": [53003]}, GRANT)
    told = refusals.in_person(blocked, refusals.hint("start again: {login}", GRANT))

    assert isinstance(told, Refused)
    assert told.trouble.hint.endswith("then start again: `cms login ann@example.test`")
    assert "cms refresh" not in told.trouble.hint


def test_login_command() -> None:
    """The command names the user who signs in, or the remembered one, or no user."""
    nameless = Grant("https://login.example/common", "client", "")

    assert "`cms login ann@example.test`" == refusals.hint("{login}", GRANT, "ben@example.test")
    assert "`cms login ben@example.test`" == refusals.hint("{login}", nameless, "ben@example.test")
    assert "`cms login`" == refusals.hint("{login}", nameless)
    assert "`cms login --paste`." == refusals.hint("{login --paste}.", nameless)


@pytest.mark.parametrize("codes", [[True], [-1], [0], ["50173"], 50173, []])
def test_no_number(codes: object) -> None:
    """What is no number is not shown as one."""
    outcome = refusals.explain({"error": "invalid_grant", "error_codes": codes}, GRANT)

    assert isinstance(outcome, Refused)
    assert outcome.trouble.aadsts is None


def test_a_name_is_quoted_for_a_shell() -> None:
    """Whatever is in it, the command in a hint is one that a shell takes, with the name as one word."""
    odd = replace(GRANT, login="o'connor@example.test")
    for outcome in (refusals.explain(refusal(50076), odd), refusals.explain(refusal(90094), odd)):
        (command,) = re.findall(r"`(.*?)`", outcome.trouble.hint)[:1]

        assert "o'connor@example.test" in shlex.split(command)


def test_an_application_is_looked_at_again_by_itself() -> None:
    """Its row says what happened and gives the provider's identifiers; it asks for no sign-in, and waiting may help."""
    trouble = refusals.explain(refusal(7000222, error="invalid_client"), GRANT).trouble
    told = refusals.of_application(trouble, replace(GRANT, sign_in="app"))

    assert "the client secret has expired (AADSTS7000222, invalid_client)" == told.message
    assert told.hint.endswith("then wait, or `cms refresh`")
    assert "cms login" not in told.hint


def test_what_the_provider_did_not_refuse_is_said_whole() -> None:
    """Its own words stay, where there is no identifier to look up."""
    told = refusals.of_application(Trouble("unfit", "it has no (usable) key"), replace(GRANT, sign_in="app"))

    assert told.message.endswith("(it has no (usable) key)")


def test_another_provider_gives_words() -> None:
    """Its own table says what they mean; a number that looks like Entra's is none, and the subtype is the reason."""
    answer = {"error": "invalid_grant", "error_subtype": "invalid_rapt", "error_codes": [50173]}
    outcome = refusals.explain(answer, GMAIL)

    assert isinstance(outcome, Refused)
    assert "session control" in outcome.trouble.message
    assert "(invalid_grant, invalid_rapt)" in outcome.trouble.message
    assert (None, "invalid_rapt") == (outcome.trouble.aadsts, outcome.trouble.reason)
    assert "`cms login ann@example.test`" in outcome.trouble.hint


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("unauthorized_client", "Domain-wide delegation"),
        ("invalid_grant", "check the address"),
        ("invalid_client", "or service_account of the account"),
    ],
)
def test_a_service_account(word: str, words: str) -> None:
    """It is told what its application needs, and to sign in to nothing."""
    grant = replace(GMAIL, sign_in="app", client_secret=Source("file", ("/sa.json",)))
    trouble = refusals.explain({"error": word}, grant).trouble
    told = refusals.of_application(trouble, grant)

    assert words in told.hint
    assert "cms login" not in told.hint


@pytest.mark.parametrize(
    ("answer", "grant", "expected"),
    [
        ({"error": "invalid_grant"}, GMAIL, True),
        ({"error": "invalid_grant", "error_subtype": "invalid_rapt"}, GMAIL, False),
        ({"error": "admin_policy_enforced"}, GMAIL, False),
        ({"error": "invalid_grant"}, GRANT, True),
        (refusal(70008), GRANT, True),
        (refusal(50173), GRANT, False),
    ],
)
def test_what_may_come_of_a_second_use(answer: dict[str, object], grant: Grant, *, expected: bool) -> None:
    """Only what a provider may say of a refresh token that was used before."""
    assert expected == refusals.may_be_of_reuse(refusals.explain(answer, grant).trouble, grant)
