"""What the daemon knows, as facts: for people, for programs and for monitoring."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, replace

import pytest
from support.status_rows import (
    ACCOUNT,
    DAEMON,
    DAY,
    ENTRIES,
    EXPECTED,
    GRANT,
    GRAPH,
    LOCKED,
    MACHINE,
    MAIL,
    NOW,
    REVOKED,
    SIGNING_IN,
    TOKEN,
    WALL,
    entry,
    failing,
    given,
    row_of,
)

from cms.core.accounts import StoredSignIn
from cms.core.lifecycle import Life, NeedsSignIn, Phase, Refused, Settled, Trouble, absorb
from cms.core.monitoring import check_line
from cms.core.preflight import LONG_TOKEN
from cms.core.status import (
    JSON_VERSION,
    STATES,
    AccountFacts,
    Problem,
    TokenFacts,
    as_json,
    as_systemd,
    describe,
    exit_code,
)
from cms.core.status_text import as_text
from cms.core.words import CRITICAL, OK, UNKNOWN, WARNING
from cms_oauth.moves import cms, fill


@pytest.mark.parametrize("name", ENTRIES)
def test_each_state_has_its_word(name: str) -> None:
    """The state is one word of the table, from what is held and what is being tried."""
    assert name.partition(",")[0] == row_of(name).state


def test_a_protocol_that_the_token_does_not_cover_is_warned_about() -> None:
    """The state is that of the token, which others use; the warning names the protocol and the command."""
    row = describe([entry(Life(replace(TOKEN, scopes=MAIL[:1])))], NOW, WALL)[0]

    assert ("ok", True) == (row.state, "does not cover IMAP," in row.warning)
    assert "cms login a@example.test" in row.warning


def test_a_protocol_that_the_configuration_does_not_name_is_mended_there() -> None:
    """Signing in again would not help."""
    own = replace(ACCOUNT, scopes={"SMTP": MAIL[:1], "IMAP": MAIL[:1]})
    lives = {MAIL[:1]: Life(replace(TOKEN, scopes=MAIL[:1]))}
    row = describe([entry(Life(), account=own, lives=lives)], NOW, WALL)[0]

    assert "does not cover IMAP, which the configuration asks for: add it to scopes= of the account" in row.warning


@pytest.mark.parametrize(
    ("scopes", "preflight", "refused", "expected"),
    [
        (MAIL, True, (), OK),
        (MAIL[:1], True, ("IMAP",), WARNING),
        (("https://outlook.office.com/POP.AccessAsUser.All",), True, ("SMTP", "IMAP"), CRITICAL),
        (("https://outlook.office.com/POP.AccessAsUser.All",), False, (), OK),
    ],
)
def test_monitoring_hears_of_requests_that_are_refused(
    scopes: tuple[str, ...], preflight: bool, refused: tuple[str, ...], expected: int
) -> None:
    """A token that is there and served for nothing is as good as none; the line says what to do."""
    account = replace(ACCOUNT, preflight=preflight)
    rows = describe([entry(Life(replace(TOKEN, scopes=scopes)), account=account)], NOW, WALL)

    assert ("ok", refused, expected) == (rows[0].state, rows[0].refused, exit_code(rows))
    assert bool(refused) == ("does not cover" in as_systemd(rows))


@pytest.mark.parametrize("phase", [failing(), Settled(), NeedsSignIn(NOW - 60.0, REVOKED)])
def test_nobody_is_sent_to_sign_in_for_what_nobody_refused(phase: Phase) -> None:
    """A token from before a reload covers less: until the provider has said no, the next move is not a person's."""
    refused = isinstance(phase, NeedsSignIn)
    borrowed = replace(TOKEN, scopes=MAIL[:1], borrowed=True, refresh_at=NOW)
    row = describe([entry(Life(borrowed, phase))], NOW, WALL)[0]

    assert ("does not cover" in row.warning, ("IMAP",)) == (False, row.refused)
    assert refused != ("requested before the configuration asked for IMAP" in row.warning)
    assert refused == ("cms login" in f"{row.next_move} {row.warning} {as_systemd([row])}")
    assert WARNING == exit_code([row])


@pytest.mark.parametrize(("size", "warned"), [(LONG_TOKEN, False), (LONG_TOKEN + 1, True)])
def test_a_long_token_is_warned_about(size: int, warned: bool) -> None:
    """With its size and the programs that fail with it. It needs attention: cms does not know which programs use it."""
    rows = describe([entry(Life(replace(TOKEN, secret="x" * size)))], NOW, WALL)

    assert warned == (f"the token has {size} bytes, and exim, msmtp and neomutt fail" in rows[0].warning)
    assert (warned, "ok", WARNING if warned else OK) == (bool(rows[0].warning), rows[0].state, exit_code(rows))
    assert warned == ("group claims make tokens long" in check_line(rows))


def test_both_warnings_are_told() -> None:
    """A long token that lacks consent is too long as well."""
    long = replace(TOKEN, secret="x" * (LONG_TOKEN + 1), scopes=MAIL[:1])
    warning = describe([entry(Life(long))], NOW, WALL)[0].warning

    assert [True, True] == [each in warning for each in ("does not cover IMAP,", "; the token has 3001 bytes")]


@pytest.mark.parametrize(
    ("days", "warning"),
    [(31.0, ""), (29.5, "certificate ends in 29 d 12 h: upload a new one"), (-1.0, "certificate has ended: upload")],
)
def test_a_certificate_that_ends_soon(days: float, warning: str) -> None:
    """A month before its end it is warned about, as data and for monitoring, while all is well."""
    ends = WALL + days * 86_400
    row = describe(
        [replace(ENTRIES["ok"], account=MACHINE, sign_in=replace(ENTRIES["ok"].sign_in, credential_expires=ends))],
        NOW,
        WALL,
    )[0]

    assert (int(ends), True) == (row.credential_expires_at, warning in row.warning)
    assert (bool(warning), WARNING if warning else OK) == (bool(row.warning), exit_code([row]))


def test_every_word_of_the_table_is_used() -> None:
    """The table documents only states that exist."""
    assert set(STATES) == {row_of(name).state for name in ENTRIES}


def test_a_held_token_is_described_in_seconds_and_unix_times() -> None:
    """Age, life left and the next refresh, from the boot clock; moments from the wall clock, for display."""
    expected = TokenFacts(age=600, left=3000, expires_at=1_795_003_000, refresh_in=1800, refresh_at=1_795_001_800)

    assert expected == row_of("ok").token


def test_nothing_is_negative() -> None:
    """What is over is 0, not a negative time."""
    token = row_of("renewing, expired").token

    assert token == TokenFacts(age=4000, left=0, expires_at=1_794_999_600, refresh_in=0, refresh_at=1_795_000_000)


def test_no_refresh_is_promised_while_the_provider_fails() -> None:
    """Then the next try counts, and a sign-in counts after a refusal."""
    expected = TokenFacts(age=600, left=3000, expires_at=1_795_003_000, refresh_in=None, refresh_at=None)

    assert [expected] * 2 == [row_of(name).token for name in ("failing", "sign-in-required, usable")]


def test_a_failure_is_described_with_its_next_try() -> None:
    """What failed, since when, how often, the correlation id for the provider's support, and when it is tried again."""
    expected = Problem(
        "server",
        "the identity provider answers 503",
        None,
        "corr-1",
        lasts=300,
        since=1_794_999_700,
        tries=3,
        retry_in=120,
        retry_at=1_795_000_120,
    )

    assert expected == row_of("failing").problem


def test_a_refusal_that_is_looked_at_again_says_when() -> None:
    """A person can still sign in; the time is told in seconds and as Unix time, and what brings it forward."""
    blocked = Refused(
        Trouble("refused", "a policy", fill("sign in: {login}", {"login": cms("login", "a@x")})), 0.0, True
    )
    row = describe([entry(absorb(Life(), blocked, NOW - 600.0, 0.5), page="http://127.0.0.1:8080/")], NOW, WALL)[0]
    text = " ".join(as_text(as_json([row])).split())

    assert row.problem
    assert ("sign-in-required", 1200, int(WALL) + 1200) == (row.state, row.problem.retry_in, row.problem.retry_at)
    assert "next try in 20 min; refused for 10 min" in text
    assert (
        "or wait: cms asks again by itself, and a minute after the network has changed; or open http://"
        in row.next_move
    )
    assert CRITICAL == exit_code([row])


def test_a_refusal_is_described_without_a_next_try() -> None:
    """Entra's number and correlation id are there; nothing is tried before a person has acted."""
    expected = Problem(
        "refused", "the sign-in was revoked", 50173, "5e2b7f0a-corr", 7200, 1_794_992_800, reason="AADSTS50173"
    )

    assert expected == row_of("sign-in-required").problem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", ""),
        ("starting", ""),
        ("failing", "nothing to do: cms tries again by itself"),
        ("locked", "unlock the keyring: log in to the desktop"),
        ("sign-in-required", "sign in again: `cms login a@example.test`"),
        ("signing-in", f"finish the sign-in: {SIGNING_IN}"),
    ],
)
def test_each_row_says_whose_move_it_is(name: str, expected: str) -> None:
    """The next command, the provider's hint, or that there is nothing to do."""
    assert expected == row_of(name).next_move


@pytest.mark.parametrize(("user", "expected"), [("a@x", "sign in: `cms login a@x`"), ("", "sign in: `cms login`")])
def test_a_refusal_without_a_hint_gets_the_command(user: str, expected: str) -> None:
    """A person who reads sign-in-required also reads the command."""
    refused = entry(absorb(Life(), Refused(Trouble("refused", "no")), NOW, 0.5), user=user)

    assert expected == describe([refused], NOW, WALL)[0].next_move


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("", "sign in: `cms login a@x`; or open http://127.0.0.1:8080/ in a browser on this machine"),
        ("ask your administrator", "ask your administrator"),
    ],
)
def test_the_page_is_named_where_signing_in_helps(hint: str, expected: str) -> None:
    """Beside the command there is the page, if it is up."""
    refused = entry(absorb(Life(), Refused(Trouble("refused", "no", hint)), NOW, 0.5), user="a@x")

    assert expected == describe([replace(refused, page="http://127.0.0.1:8080/")], NOW, WALL)[0].next_move


def test_an_account_has_a_row_for_each_token_it_needs() -> None:
    """Mail protocols share one token and one row; another resource has its own state."""
    account = replace(ACCOUNT, scopes={"SMTP": MAIL, "GRAPH": GRAPH, "IMAP": MAIL})
    lives = {GRAPH: Life(None, NeedsSignIn(NOW, REVOKED)), MAIL: Life(TOKEN), ("elsewhere",): Life()}
    rows = describe([AccountFacts(account, "a", lives)], NOW, WALL)

    assert [(("SMTP", "IMAP"), "ok"), (("GRAPH",), "sign-in-required")] == [(row.protocols, row.state) for row in rows]


def test_a_scope_set_without_a_life_is_starting() -> None:
    """Just after a reload the keeper may not have heard of a new scope set yet."""
    assert [row.state for row in describe([AccountFacts(ACCOUNT, "a", {})], NOW, WALL)] == ["starting"]


def test_no_message_can_move_the_cursor_of_a_log() -> None:
    """systemd shows its line as it is."""
    evil = "bad\x1b[2Jthing\r\nb@example.test: ok"
    rows = describe([entry(Life(None, failing(replace(LOCKED, hint=evil))), user="u\x1b[1m")], NOW, WALL)

    assert as_systemd(rows).isprintable()


def test_orphans_are_beside_the_accounts_in_json() -> None:
    """Every field of what is stored without an account."""
    daemon = replace(
        DAEMON, orphans=(StoredSignIn("key", "https://login.example.test/common", "client", "bob@x.test"),)
    )

    assert [asdict(each) for each in daemon.orphans] == list(as_json([], daemon)["orphans"])


def test_json_is_versioned_and_complete() -> None:
    """The JSON is plain data with every field of the rows and of the daemon."""
    document = json.loads(json.dumps(as_json([row_of("ok")], DAEMON)))

    assert {"version", "daemon", "accounts", "orphans"} == set(document)
    assert (JSON_VERSION, "1.2.3", ["/run/cms/cms.sock"]) == (
        document["version"],
        document["daemon"]["version"],
        document["daemon"]["sockets"],
    )
    assert {
        "user": "a@example.test",
        "state": "ok",
        "protocols": ["SMTP", "IMAP"],
        "usable": True,
        "token": {
            "age": 600,
            "left": 3000,
            "expires_at": 1_795_003_000,
            "refresh_in": 1800,
            "refresh_at": 1_795_001_800,
        },
        "problem": None,
        "next_move": "",
        "persisted": True,
        "key_from": "keyring",
        "signing_in": "",
        "warning": "",
        "signed_in_at": None,
        "signed_in_age": None,
        "forecast": None,
        "ends_in": None,
        "sign_in_due": False,
        "sign_in": "browser",
        "credential_expires_at": None,
        "credential_due": False,
        "credential_ends_in": None,
        "refused": [],
        "grant": GRANT.key,
        "who": "a@example.test",
        "provider": "microsoft",
        "shared": None,
        "minted_by": "",
        "who_checked": True,
        "mailboxes": None,
        "max_mailboxes": None,
        "crowded": False,
        "part_of": "",
        "too_long": "",
        "severity": 0,
    } == document["accounts"][0]


def test_json_without_a_daemon_has_only_accounts() -> None:
    """What is not known is not there."""
    assert {"version": JSON_VERSION, "accounts": []} == as_json([])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "no accounts"),
        (["ok", "ok"], "2 ok"),
        (["failing", "ok"], "1 ok, 1 failing"),
        (
            ["ok", "sign-in-required", "locked"],
            "1 ok, 1 locked, 1 sign-in-required; a@example.test: sign in again: `cms login a@example.test`",
        ),
    ],
)
def test_systemd_gets_one_line(names: list[str], expected: str) -> None:
    """`systemctl status` shows the counts, and what a person has to do first."""
    assert expected == as_systemd([row_of(name) for name in names])


def test_systemd_hears_of_memory_only() -> None:
    """Said loudly here too."""
    rows = describe([replace(ENTRIES["ok"], sign_in=replace(ENTRIES["ok"].sign_in, persisted=False))], NOW, WALL)

    assert as_systemd(rows) == "1 ok; sign-ins in memory only"


@pytest.mark.parametrize("name", ENTRIES)
def test_no_output_has_a_secret(name: str) -> None:
    """No form of the status shows a token."""
    rows = describe([ENTRIES[name]], NOW, WALL)

    assert "TOP-SECRET" not in json.dumps(as_json(rows)) + as_systemd(rows) + repr(rows)


def test_the_status_says_when_a_sign_in_was_given() -> None:
    """Without a forecast that alone; nothing where it is not known."""
    row = given(12)

    assert (int(WALL - 12 * DAY), int(12 * DAY), None, None) == (
        row.signed_in_at,
        row.signed_in_age,
        row.forecast,
        row.ends_in,
    )


def test_the_status_says_when_a_sign_in_is_expected_to_end() -> None:
    """When, why, and how sure that is; as data too."""
    row = given(12, forecast=EXPECTED)

    assert {"due": EXPECTED.due, "reason": EXPECTED.reason, "certainty": "likely"} == as_json([row])["accounts"][0][
        "forecast"
    ]
    assert (OK, False, "") == (exit_code([row]), row.sign_in_due, row.next_move)


def test_monitoring_is_warned_before_a_sign_in_ends() -> None:
    """Within a day of it, with the command; and a moment that has passed is told as now."""
    near, past = (given(12, forecast=replace(EXPECTED, due=WALL + left)) for left in (DAY - 1, -60.0))

    assert [WARNING, WARNING] == [exit_code([near]), exit_code([past])]
    assert "sign in before mail has to wait: `cms login a@example.test`" == near.next_move
    assert f"1 ok; {near.user}: {near.next_move}" == as_systemd([near])
    assert as_systemd([near, row_of("locked")]).endswith(row_of("locked").next_move)


def test_a_clock_that_went_back_makes_no_negative_age() -> None:
    """A sign-in of the future is one of just now."""
    assert 0 == given(-1).signed_in_age


def test_a_name_is_one_word_of_the_command() -> None:
    """Whatever is in it, and where the page is named only beside a sign-in."""
    user = "o'connor@example.test"
    refresh = Trouble("refused", "no", fill("mend it, then {refresh}"))
    login = Trouble("refused", "no", fill("sign in: {login}", {"login": cms("login", user)}))
    account = replace(ACCOUNT, user=user)
    moves = [
        describe(
            [AccountFacts(account, user, {MAIL: Life(None, NeedsSignIn(0.0, each))}, page="http://p/")], NOW, WALL
        )[0].next_move
        for each in (Trouble("refused", "no"), login, refresh)
    ]

    assert [["cms", "login", user]] * 2 == [shlex.split(each.split("`")[1]) for each in moves[:2]]
    assert [True, True, False] == ["; or open http://p/ in a browser" in each for each in moves]


@pytest.mark.parametrize("name", ["ok", "starting", "failing"])
def test_a_socket_that_nobody_can_use_is_critical(name: str) -> None:
    """However good the tokens are: no program gets one there. Monitoring and systemd are told why."""
    rows, trouble = [row_of(name)], "the socket /run/cms/cms.sock is gone"

    assert CRITICAL == exit_code(rows, troubles=(trouble,))
    assert f"{as_systemd(rows)}; {trouble}" == as_systemd(rows, (trouble,))
    assert UNKNOWN == exit_code([], troubles=(trouble,))


EVERY = replace(MACHINE, user="*@example.com", max_mailboxes=2)


def test_every_mailbox_of_a_domain() -> None:
    """All is well before one is asked for; then it is as the mailbox does, and says how many are open."""
    none, one, more, full = (
        describe([entry(Life(), account=EVERY, lives=lives, mailboxes=count, crowded=crowded)], NOW, WALL)[0]
        for lives, count, crowded in (
            ({}, 0, False),
            ({MAIL: Life(TOKEN)}, 1, False),
            ({}, 2, False),
            ({MAIL: Life(TOKEN)}, 2, True),
        )
    )

    assert [("ok", True, OK), ("ok", True, OK), ("starting", False, WARNING), ("ok", True, WARNING)] == [
        (each.state, each.usable, exit_code([each])) for each in (none, one, more, full)
    ]
    assert [(0, 2), (1, 2), (2, 2)] == [(each.mailboxes, each.max_mailboxes) for each in (none, one, more)]
    assert ["", "", ""] == [each.warning for each in (none, one, more)]
    assert "max_mailboxes= allows no more" in full.warning
    assert "then `cms reload`" in check_line([full])
    assert "mailboxes     1 open, 2 at most" in as_text(as_json([one]))
    assert "mailboxes" not in as_text(as_json([row_of("ok")]))
