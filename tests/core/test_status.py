"""What the broker says of itself, to people and to monitoring."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from cms.core.accounts import Account, Grant, StoredSignIn
from cms.core.forecast import Forecast
from cms.core.lifecycle import Failing, Life, NeedsSignIn, Refused, Token, Transient, Trouble, absorb
from cms.core.status import (
    CRITICAL,
    JSON_VERSION,
    LONG_TOKEN,
    OK,
    STATES,
    UNKNOWN,
    WARNING,
    WIDTH,
    Daemon,
    Entry,
    Held,
    Problem,
    Row,
    as_json,
    as_systemd,
    as_text,
    describe,
    duration,
    exit_code,
)

# `now` and `wall` of every test here: an hour after boot, and a moment of 2026.
NOW, WALL = 3600.0, 1_795_000_000.0

MAIL = ("https://outlook.office.com/SMTP.Send", "https://outlook.office.com/IMAP.AccessAsUser.All")
GRAPH = ("https://graph.microsoft.com/Mail.Send",)
GRANT = Grant("https://login.example/common", "id", "a@example.test", (MAIL,))
ACCOUNT = Account("a@example.test", GRANT, {"SMTP": MAIL, "IMAP": MAIL})

# Ten minutes old, an hour long, due for renewal in half an hour.
TOKEN = Token("TOP-SECRET", NOW - 600.0, NOW + 3000.0, NOW + 1800.0)
EXPIRED = Token("TOP-SECRET", NOW - 4000.0, NOW - 400.0, NOW - 1000.0)
DOWN = Trouble("server", "the identity provider answers 503", correlation_id="corr-1")
LOCKED = Trouble("locked", "the keyring is locked", "unlock the keyring: log in to the desktop")
REVOKED = Trouble(
    "refused", "the sign-in was revoked", "sign in again: `cms login a@example.test`", 50173, "5e2b7f0a-corr"
)

EXPIRED_SECRET = Trouble("application", "the client secret has expired", "make a new secret, then wait", 7000222)
MACHINE = replace(ACCOUNT, grant=replace(GRANT, login="", sign_in="app"))


def failing(trouble: Trouble = DOWN) -> Failing:
    """Return the phase of five minutes and three tries of trouble; the next try is in two minutes."""
    return Failing(NOW - 300.0, 3, NOW - 60.0, NOW + 120.0, NOW, trouble)


def entry(life: Life, **more: object) -> Entry:
    known = Entry(ACCOUNT, ACCOUNT.user, {MAIL: life}, persisted=True, key_from="keyring")
    return replace(known, **more)  # type: ignore[arg-type]  # fields of a test's table


SIGNING_IN = "https://login.example/common/oauth2/v2.0/authorize?x=1"
ENTRIES = {
    "ok": entry(Life(TOKEN)),
    "starting": entry(Life(), persisted=None, key_from=""),
    "renewing": entry(Life(replace(TOKEN, refresh_at=NOW))),
    "renewing, expired": entry(Life(EXPIRED)),
    "failing": entry(Life(TOKEN, failing())),
    "failing, expired": entry(Life(EXPIRED, failing())),
    "locked": entry(Life(None, failing(LOCKED))),
    "sign-in-required": entry(Life(None, NeedsSignIn(NOW - 7200.0, REVOKED))),
    "sign-in-required, usable": entry(Life(TOKEN, NeedsSignIn(NOW - 60.0, REVOKED))),
    "signing-in": entry(Life(None, NeedsSignIn(NOW - 60.0, REVOKED)), signing_in=SIGNING_IN),
    "refused": entry(Life(None, NeedsSignIn(NOW - 7200.0, EXPIRED_SECRET, NOW + 900.0)), account=MACHINE),
    "refused, usable": entry(Life(TOKEN, NeedsSignIn(NOW - 60.0, EXPIRED_SECRET, NOW + 900.0)), account=MACHINE),
}


def row_of(name: str) -> Row:
    return describe([ENTRIES[name]], NOW, WALL)[0]


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


@pytest.mark.parametrize(("size", "warned"), [(LONG_TOKEN, False), (LONG_TOKEN + 1, True)])
def test_a_long_token_is_warned_about(size: int, warned: bool) -> None:
    """In the text and the JSON, with its size and the programs that fail with it; nothing of it is shown."""
    rows = describe([entry(Life(replace(TOKEN, secret="x" * size)))], NOW, WALL)
    text = " ".join(as_text(rows).split())

    assert warned == (f"the token has {size} bytes, and exim, msmtp and neomutt fail" in text)
    assert warned == bool(as_json(rows)["accounts"][0]["warning"])
    assert ("ok", OK) == (rows[0].state, exit_code(rows))


def test_both_warnings_are_told() -> None:
    """A long token that lacks consent is too long as well."""
    long = replace(TOKEN, secret="x" * (LONG_TOKEN + 1), scopes=MAIL[:1])
    warning = describe([entry(Life(long))], NOW, WALL)[0].warning

    assert [True, True] == [each in warning for each in ("does not cover IMAP,", "; the token has 3001 bytes")]


def test_a_refused_application_is_told_what_to_mend() -> None:
    """Nobody is to sign in: the text says what happened, when it is looked at again, and whose move it is."""
    text = " ".join(as_text([row_of("refused")]).split())

    assert "AADSTS7000222: the client secret has expired" in text
    assert "next try in 15 min; refused for 2 h" in text
    assert "next move make a new secret, then wait" in text
    assert "sign-in none needed: an application, which is asked for anew each time" in text
    assert "cms login" not in text


@pytest.mark.parametrize(
    ("days", "warning"),
    [(31.0, ""), (29.5, "certificate ends in 29 d 12 h: upload a new one"), (-1.0, "certificate has ended: upload")],
)
def test_a_certificate_that_ends_soon(days: float, warning: str) -> None:
    """A month before its end it is warned about, in the text, in JSON and for monitoring, while all is well."""
    ends = WALL + days * 86_400
    row = describe([replace(ENTRIES["ok"], account=MACHINE, credential_expires=ends)], NOW, WALL)[0]

    assert (int(ends), True) == (row.credential_expires_at, warning in row.warning)
    assert (bool(warning), WARNING if warning else OK) == (bool(row.warning), exit_code([row]))


def test_every_word_of_the_table_is_used() -> None:
    """Whoever reads the table reads no state that does not exist."""
    assert set(STATES) == {row_of(name).state for name in ENTRIES}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", OK),
        ("renewing", OK),
        ("starting", WARNING),
        ("failing", WARNING),
        ("sign-in-required, usable", WARNING),
        ("renewing, expired", CRITICAL),
        ("failing, expired", CRITICAL),
        ("locked", CRITICAL),
        ("sign-in-required", CRITICAL),
        ("signing-in", CRITICAL),
        ("refused", CRITICAL),
        ("refused, usable", WARNING),
    ],
)
def test_monitoring_tells_good_from_soon_from_now(name: str, expected: int) -> None:
    """0 while all is well, 1 when someone should look while mail still flows, 2 when it does not."""
    assert expected == exit_code(describe([ENTRIES[name]], NOW, WALL))


def test_the_worst_account_decides() -> None:
    """One account without a token is not hidden by many with one."""
    rows = describe([ENTRIES["ok"], ENTRIES["sign-in-required"], ENTRIES["failing"]], NOW, WALL)

    assert exit_code(rows) == CRITICAL


def test_memory_only_is_a_warning_unless_it_was_chosen() -> None:
    """A vault without a key loses every sign-in at a restart: monitoring says so, but not to who asked for that."""
    rows = describe([replace(ENTRIES["ok"], persisted=False)], NOW, WALL)

    assert (WARNING, OK) == (exit_code(rows), exit_code(rows, memory_chosen=True))


def test_no_account_is_unknown() -> None:
    """A daemon without accounts is neither well nor ill."""
    assert exit_code([]) == UNKNOWN


def test_a_held_token_is_described_in_seconds_and_unix_times() -> None:
    """Age, life left and the next refresh, from the boot clock; moments from the wall clock, for display."""
    expected = Held(age=600, left=3000, expires_at=1_795_003_000, refresh_in=1800, refresh_at=1_795_001_800)

    assert expected == row_of("ok").token


def test_nothing_is_negative() -> None:
    """What is over is 0, not a negative time."""
    token = row_of("renewing, expired").token

    assert token == Held(age=4000, left=0, expires_at=1_794_999_600, refresh_in=0, refresh_at=1_795_000_000)


def test_no_refresh_is_promised_while_the_provider_fails() -> None:
    """Then the next try counts, and a sign-in counts after a refusal."""
    expected = Held(age=600, left=3000, expires_at=1_795_003_000, refresh_in=None, refresh_at=None)

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


def test_a_refusal_is_described_without_a_next_try() -> None:
    """Entra's number and correlation id are there; nothing is tried before a person has acted."""
    expected = Problem("refused", "the sign-in was revoked", 50173, "5e2b7f0a-corr", 7200, 1_794_992_800)

    assert expected == row_of("sign-in-required").problem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", ""),
        ("starting", ""),
        ("failing", "nobody has to do anything: it is tried again by itself"),
        ("locked", "unlock the keyring: log in to the desktop"),
        ("sign-in-required", "sign in again: `cms login a@example.test`"),
        ("signing-in", f"finish the sign-in: {SIGNING_IN}"),
    ],
)
def test_each_row_says_whose_move_it_is(name: str, expected: str) -> None:
    """The next command, the provider's own hint, or that nobody has to do anything."""
    assert expected == row_of(name).next_move


@pytest.mark.parametrize(("user", "expected"), [("a@x", "sign in: `cms login a@x`"), ("", "sign in: `cms login`")])
def test_a_refusal_without_a_hint_gets_the_command(user: str, expected: str) -> None:
    """Nobody is left with sign-in-required and no command."""
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
    rows = describe([Entry(account, "a", lives)], NOW, WALL)

    assert [(("SMTP", "IMAP"), "ok"), (("GRAPH",), "sign-in-required")] == [(row.protocols, row.state) for row in rows]


def test_a_scope_set_without_a_life_is_starting() -> None:
    """Just after a reload the keeper may not have heard of a new scope set yet."""
    assert [row.state for row in describe([Entry(ACCOUNT, "a", {})], NOW, WALL)] == ["starting"]


OK_TEXT = """\
a@example.test: ok
  protocols     SMTP, IMAP
  token         10 min old, 50 min left, next refresh in 30 min
  sign-in       saved, encrypted; key from keyring
"""
FAILING_TEXT = """\
a@example.test: failing
  protocols     SMTP, IMAP
  token         1 h 6 min old, NOT USABLE any more
  last error    the identity provider answers 503
  correlation   corr-1
  next try      in 2 min, after 3 tries in 5 min
  sign-in       saved, encrypted; key from keyring
  next move     nobody has to do anything: it is tried again by itself
"""
REQUIRED_TEXT = """\
a@example.test: sign-in-required
  protocols     SMTP, IMAP
  token         none
  last error    AADSTS50173: the sign-in was revoked
  correlation   5e2b7f0a-corr
  since         2 h ago
  sign-in       saved, encrypted; key from keyring
  next move     sign in again: `cms login a@example.test`
"""
STARTING_TEXT = """\
a@example.test: starting
  protocols     SMTP, IMAP
  token         none
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", OK_TEXT),
        ("failing, expired", FAILING_TEXT),
        ("sign-in-required", REQUIRED_TEXT),
        ("starting", STARTING_TEXT),
    ],
)
def test_the_text_is_a_block_for_each_account(name: str, expected: str) -> None:
    """What a person reads: one fact a line, what went wrong and whose move it is."""
    assert expected == as_text([row_of(name)])


def test_entras_number_is_not_told_twice() -> None:
    """A message that begins with its AADSTS number keeps it, once."""
    told = replace(REVOKED, message="AADSTS50173: the grant was revoked")
    text = as_text(describe([entry(Life(None, NeedsSignIn(NOW, told)))], NOW, WALL))

    assert text.count("AADSTS50173") == 1


def test_one_try_is_not_plural() -> None:
    """A first failure reads as one; a try that is due reads as now."""
    life = absorb(Life(TOKEN), Transient(DOWN), NOW - 60.0, 0.0)

    assert "next try      now, after 1 try in 1 min" in as_text(describe([entry(life)], NOW, WALL))


def test_blocks_are_apart_and_end_in_a_newline() -> None:
    """Accounts are told apart at a glance."""
    text = as_text([row_of("ok"), row_of("starting")])

    assert f"{OK_TEXT}\n{STARTING_TEXT}" == text


def test_memory_only_is_said_loudly() -> None:
    """Before all accounts, and at each that is concerned."""
    text = as_text(describe([replace(ENTRIES["ok"], persisted=False)], NOW, WALL))

    assert text.startswith("  WARNING       sign-ins are kept in MEMORY ONLY")
    assert "  sign-in       MEMORY ONLY: lost when cms or its worker ends\n" in text


def test_a_saved_sign_in_without_a_known_key_is_still_said() -> None:
    """A worker that does not say where its key comes from is taken at its word."""
    assert "saved, encrypted\n" in as_text(describe([replace(ENTRIES["ok"], key_from="")], NOW, WALL))


DAEMON = Daemon("1.2.3", 4711, 90_061.0, "/etc/cms/cms.cfg", ("/run/cms/cms.sock",), ("the socket is open to all",))
DAEMON_TEXT = """\
cms 1.2.3, process 4711, up 1 d 1 h, configuration /etc/cms/cms.cfg
  socket        /run/cms/cms.sock
  warning       the socket is open to all
"""


def test_what_is_stored_without_an_account_comes_last() -> None:
    """Whose it is, or that nobody can tell, and what to do about it; in the JSON beside the accounts."""
    kept = StoredSignIn(
        "key1", "https://login.example.test/common", "client", "bob@example.test", "bob@example.test", 1.0
    )
    daemon = replace(DAEMON, orphans=(kept, StoredSignIn("key2", "", "", "")))
    text = as_text([row_of("ok")], daemon)

    last = text.partition("stored sign-ins without an account:")[2]
    assert "bob@example.test: https://login.example.test/common, application client" in last
    assert "a file that cannot be read now (key2.vault)" in last
    assert "`cms prune` deletes them" in last
    assert [asdict(each) for each in daemon.orphans] == list(as_json([], daemon)["orphans"])


def test_the_daemon_comes_first() -> None:
    """Version, process, uptime, configuration, sockets and warnings, before the accounts."""
    assert f"{DAEMON_TEXT}\n{OK_TEXT}" == as_text([row_of("ok")], DAEMON)


def test_no_account_is_said() -> None:
    """An empty status is a sentence, not an empty screen."""
    assert as_text([]) == "no accounts are configured\n"


def test_an_account_that_nobody_signed_in_to_has_a_name_for_people() -> None:
    """user=None before the first sign-in."""
    assert as_text(describe([entry(Life(), user="")], NOW, WALL)).startswith("(whoever signs in): starting\n")


def test_lines_fit_a_terminal_and_addresses_stay_whole() -> None:
    """Prose is wrapped at 100 columns; a URL that has to be copied is never broken."""
    url = "https://login.example/" + "x" * 150
    told = replace(REVOKED, message="word " * 60, hint="")
    rows = describe([entry(Life(None, NeedsSignIn(NOW, told)), signing_in=url)], NOW, WALL)
    lines = as_text(rows, replace(DAEMON, warnings=("warn " * 50,))).splitlines()

    assert [url] == [line.strip() for line in lines if len(line) > WIDTH]


@pytest.mark.parametrize(("columns", "longest"), [(44, 44), (80, 80), (500, WIDTH), (3, 40)])
def test_lines_fit_a_narrow_terminal(columns: int, longest: int) -> None:
    """As wide as it is, between what is readable and what has room for words."""
    rows = describe([entry(Life(None, NeedsSignIn(NOW, replace(REVOKED, message="word " * 60))))], NOW, WALL)
    lines = [line for line in as_text(rows, width=columns).splitlines() if "word" in line]

    assert longest - len("word ") <= max(map(len, lines)) <= longest


def test_no_message_can_move_the_cursor_or_forge_a_line() -> None:
    """Words of the provider and names of users come from elsewhere: control characters are taken out."""
    evil = "bad\x1b[2Jthing\r\nb@example.test: ok"
    rows = describe([entry(Life(None, failing(replace(DOWN, message=evil))), user="u\x1b[1m")], NOW, WALL)
    text = as_text(rows)

    assert text.replace("\n", "").isprintable()
    assert "\nb@example.test" not in text
    assert as_systemd(rows).isprintable()


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
        "refused": [],
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
    rows = describe([replace(ENTRIES["ok"], persisted=False)], NOW, WALL)

    assert as_systemd(rows) == "1 ok; sign-ins in memory only"


@pytest.mark.parametrize("name", ENTRIES)
def test_no_output_has_a_secret(name: str) -> None:
    """No form of the status shows a token."""
    rows = describe([ENTRIES[name]], NOW, WALL)

    assert "TOP-SECRET" not in as_text(rows) + json.dumps(as_json(rows)) + as_systemd(rows) + repr(rows)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (3660, "1 h 1 min"),
        (86_400, "1 d"),
        (90_061, "1 d 1 h"),
        (86_405, "1 d 5 s"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, expected: str) -> None:
    """The two largest units that are not zero."""
    assert expected == duration(seconds)


DAY = 86_400.0
EXPECTED = Forecast(WALL + 2 * DAY, "sign-in frequency of the organisation, seen twice", "likely")


def given(days: float, **more: object) -> Row:
    """The row of an account that signed in so many days ago."""
    return describe([entry(Life(TOKEN), given_at=WALL - days * DAY, **more)], NOW, WALL)[0]


def test_the_status_says_when_a_sign_in_was_given() -> None:
    """Without a forecast that alone; nothing where it is not known."""
    row = given(12)

    assert (int(WALL - 12 * DAY), int(12 * DAY), None, None) == (
        row.signed_in_at,
        row.signed_in_age,
        row.forecast,
        row.ends_in,
    )
    assert "saved, encrypted; key from keyring; given 12 d ago\n" in as_text([row])
    assert "given" not in as_text([row_of("ok")])


def test_the_status_says_when_a_sign_in_is_expected_to_end() -> None:
    """When, why, and how sure that is; as data too."""
    row = given(12, forecast=EXPECTED)
    text = " ".join(as_text([row]).split())

    assert "given 12 d ago; next expected in 2 d (sign-in frequency of the organisation, seen twice; likely)" in text
    assert {"due": EXPECTED.due, "reason": EXPECTED.reason, "certainty": "likely"} == as_json([row])["accounts"][0][
        "forecast"
    ]
    assert (OK, False, "") == (exit_code([row]), row.sign_in_due, row.next_move)


def test_monitoring_is_warned_before_a_sign_in_ends() -> None:
    """Within a day of it, with the command; and a moment that has passed is told as now."""
    near, past = (given(12, forecast=replace(EXPECTED, due=WALL + left)) for left in (DAY - 1, -60.0))

    assert [WARNING, WARNING] == [exit_code([near]), exit_code([past])]
    assert "sign in before mail has to wait: `cms login a@example.test`" == near.next_move
    assert "next expected now" in as_text([past])
    assert f"1 ok; {near.user}: {near.next_move}" == as_systemd([near])
    assert as_systemd([near, row_of("locked")]).endswith(row_of("locked").next_move)


def test_a_clock_that_went_back_makes_no_negative_age() -> None:
    """A sign-in of the future is one of just now."""
    assert 0 == given(-1).signed_in_age
