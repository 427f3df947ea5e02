"""The status in words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.foreign import HOSTILE
from support.status_rows import (
    DAEMON,
    DOWN,
    ENTRIES,
    EXPECTED,
    NOW,
    REVOKED,
    TOKEN,
    WALL,
    entry,
    failing,
    given,
    row_of,
)

from cms.core.accounts import FleetFacts, StoredSignIn
from cms.core.lifecycle import Life, NeedsSignIn, Transient, absorb
from cms.core.status import AuditFacts, Daemon, StatusRow, as_json, describe, exit_code
from cms.core.status_text import WIDTH, as_text, error_text
from cms_oauth.moves import cms, fill


def text_of(rows: Sequence[StatusRow], daemon: Daemon | None = None, width: int = WIDTH) -> str:
    """Return the text that a client makes of what comes through the control socket."""
    return as_text(json.loads(json.dumps(as_json(rows, daemon))), width)


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
  next move     nothing to do: cms tries again by itself
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
    assert expected == text_of([row_of(name)])


def test_an_account_that_is_not_microsofts_says_whose_it_is() -> None:
    """As `cms check` does. A daemon from before an upgrade sends no provider."""
    document = as_json([replace(row_of("ok"), provider="google"), replace(row_of("ok"), user="b@example.test")])
    del document["accounts"][1]["provider"]

    assert ["a@example.test (Google): ok", "b@example.test: ok"] == re.findall(
        r"^\S.*", as_text(document), re.MULTILINE
    )


@pytest.mark.parametrize("user", ["o'connor@example.test", "r&d@example.test", "-x@example.test"])
def test_a_command_is_on_one_line(user: str) -> None:
    """Whatever the width: a shell would run the first half of it."""
    document = as_json(describe([replace(entry(Life(None, NeedsSignIn(NOW, REVOKED))), user=user)], NOW, WALL))
    move = "open https://login.example.test/ anywhere and give {login --paste} the address that the browser ends at"
    document["accounts"][0]["next_move"] = fill(move, {"login": cms("login", user)})

    lines = [re.findall("`([^`]*)`", as_text(document, width)) for width in range(40, 101)]
    assert [[str(cms("login", user, "--paste"))]] * 61 == lines


def test_a_daemon_forges_no_line() -> None:
    """What it says of itself and of an account stays on the line that it is for: it may be another user's."""
    document = json.loads(json.dumps(as_json([row_of("ok")], DAEMON)))
    lines = as_text(document).count("\n")
    document["daemon"] |= {"version": "1\n2", "config": f"/etc\n{HOSTILE}"}
    document["accounts"][0] |= {"user": f"a\n{HOSTILE}", "state": "ok\nb@example.test: ok"}
    text = as_text(document)

    assert lines == text.count("\n")
    assert all(line.isprintable() for line in text.splitlines())


def test_entras_number_is_not_told_twice() -> None:
    """A message that begins with its AADSTS number keeps it, once."""
    told = replace(REVOKED, message="AADSTS50173: the grant was revoked")
    text = text_of(describe([entry(Life(None, NeedsSignIn(NOW, told)))], NOW, WALL))

    assert text.count("AADSTS50173") == 1


def test_a_daemon_from_before_an_upgrade_has_no_word_for_the_reason() -> None:
    """Its error is shown as it has it."""
    assert "the grant was revoked" == error_text({"kind": "refused", "message": "the grant was revoked"})


@pytest.mark.parametrize(
    ("kind", "message"),
    [("no-sign-in", "a@example.test has not signed in yet"), ("signed-out", "signed out with `cms logout`")],
)
def test_what_a_person_has_done_is_no_error(kind: str, message: str) -> None:
    """Nothing went wrong before a first sign-in, nor after a sign-out."""
    trouble = replace(REVOKED, kind=kind, message=message, aadsts=None)
    text = text_of(describe([entry(Life(None, NeedsSignIn(NOW, trouble)))], NOW, WALL))

    assert f"  reason        {message}\n" in text
    assert "last error" not in text


def test_one_try_is_not_plural() -> None:
    """A first failure reads as one; a try that is due reads as now."""
    life = absorb(Life(TOKEN), Transient(DOWN), NOW - 60.0, 0.0)

    assert "next try      now, after 1 try in 1 min" in text_of(describe([entry(life)], NOW, WALL))


def test_blocks_are_apart_and_end_in_a_newline() -> None:
    """Accounts are told apart at a glance."""
    text = text_of([row_of("ok"), row_of("starting")])

    assert f"{OK_TEXT}\n{STARTING_TEXT}" == text


def test_memory_only_is_said_loudly() -> None:
    """Before all accounts, and at each that is concerned."""
    text = text_of(
        describe([replace(ENTRIES["ok"], sign_in=replace(ENTRIES["ok"].sign_in, persisted=False))], NOW, WALL)
    )

    assert text.startswith("  WARNING       sign-ins are kept in MEMORY ONLY")
    assert "  sign-in       MEMORY ONLY: lost when cms or its worker ends\n" in text


@pytest.mark.parametrize("away", [True, False])
def test_a_database_that_is_away(away: bool) -> None:
    """Since when, and what that means for tokens; nothing is said of one that answers, or where there is none."""
    facts = FleetFacts(300.0, "connection refused") if away else FleetFacts()
    text = text_of([], replace(DAEMON, fleet=facts))

    said = "fleet         the database could not be asked for 5 min: connection refused; held tokens are"
    assert away == (said in text)
    assert "fleet" not in text_of([], DAEMON)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"shared": True, "minted_by": "relay2"}, "shared by the fleet; token fetched by relay2"),
        ({"shared": True}, "shared by the fleet; token fetched by this host"),
        ({"shared": False, "minted_by": "relay2"}, "NOT YET SHARED with the fleet, because the database could not be"),
    ],
)
def test_a_shared_sign_in_says_whose_token_it_is(facts: dict[str, Any], said: str) -> None:
    """And loudly, with a warning for monitoring, that this host alone has its newest refresh token."""
    sign_in = replace(ENTRIES["ok"].sign_in, **facts)
    rows = describe([replace(ENTRIES["ok"], sign_in=sign_in)], NOW, WALL)

    assert f"  sign-in       {said}" in text_of(rows)
    assert (0 if facts["shared"] else 1) == exit_code(rows)


def test_a_saved_sign_in_without_a_known_key_is_still_said() -> None:
    """A worker that does not say where its key comes from is taken at its word."""
    assert "saved, encrypted\n" in text_of(
        describe([replace(ENTRIES["ok"], sign_in=replace(ENTRIES["ok"].sign_in, key_from=""))], NOW, WALL)
    )


DAEMON_TEXT = """\
cms 1.2.3, process 4711, up 1 d 1 h, configuration /etc/cms/cms.cfg
  socket        /run/cms/cms.sock
  warning       the socket is open to all
"""


def test_what_is_stored_without_an_account_comes_last() -> None:
    """Status says whose it is, or that this is unknown, and what to do about it."""
    kept = StoredSignIn(
        "key1", "https://login.example.test/common", "client", "bob@example.test", "bob@example.test", 1.0
    )
    daemon = replace(DAEMON, orphans=(kept, StoredSignIn("key2", "", "", "")))
    text = text_of([row_of("ok")], daemon)

    last = text.partition("stored sign-ins without an account:")[2]
    assert "bob@example.test: https://login.example.test/common, application client" in last
    assert "a file that cannot be read now (key2.vault)" in last
    assert "`cms prune` deletes them" in last


def test_the_daemon_comes_first() -> None:
    """Version, process, uptime, configuration, sockets and warnings, before the accounts."""
    assert f"{DAEMON_TEXT}\n{OK_TEXT}" == text_of([row_of("ok")], DAEMON)


@pytest.mark.parametrize(
    ("audit", "told"),
    [
        (AuditFacts(), ""),
        (AuditFacts(("/a.log", "the journal")), "  audit         /a.log\n  audit         the journal\n"),
        (AuditFacts((), 7), "  audit         7 requests were only counted: there were too many\n"),
        (AuditFacts((), 0, 2), "  audit         2 records are lost\n"),
        (AuditFacts((), 0, 2, "/a.log: full"), "  audit         2 records are lost: /a.log: full\n"),
        (AuditFacts((), 0, 0, "/a.log: full"), "  audit         NOT WRITTEN: /a.log: full\n"),
    ],
    ids=str,
)
def test_the_audit_and_what_is_not_in_it(audit: AuditFacts, told: str) -> None:
    """Where it is, what was only counted, what is lost and why."""
    text = text_of([], replace(DAEMON, audit=audit))

    assert told == "".join(line for line in text.splitlines(keepends=True) if line.startswith("  audit "))


@pytest.mark.parametrize(
    ("program", "told"), [("exim4", "by exim4, uid 104, process 77"), ("-", "by uid 104, process 77")]
)
def test_who_took_a_token_last(program: str, told: str) -> None:
    """Protocol, when, and who: the program's name only if it is known."""
    taken = {"age": 180, "protocol": "SMTP", "uid": 104, "program": program, "pid": 77}
    document = as_json([row_of("ok")])
    document["accounts"][0]["last_taken"] = taken

    assert f"\n  last taken    SMTP, 3 min ago, {told}\n" in as_text(json.loads(json.dumps(document)))


def test_what_the_log_left_out_is_said() -> None:
    """How many lines; and nothing where there are none."""
    some, none = (text_of([], replace(DAEMON, log_left_out=count)) for count in (12, 0))

    assert "\n  log           12 lines were left out: " in some
    assert "left out" not in none


def test_no_account_is_said() -> None:
    """An empty status is a sentence, not an empty screen."""
    assert text_of([]) == "no accounts are configured\n"


def test_an_account_before_its_first_sign_in_has_a_name_for_people() -> None:
    """user=None before the first sign-in."""
    assert text_of(describe([entry(Life(), user="")], NOW, WALL)).startswith("(not signed in yet): starting\n")


def test_lines_fit_a_terminal_and_addresses_stay_whole() -> None:
    """Prose is wrapped at 100 columns; a URL that has to be copied is never broken."""
    url = "https://login.example/" + "x" * 150
    told = replace(REVOKED, message="word " * 60, hint="")
    rows = describe([entry(Life(None, NeedsSignIn(NOW, told)), signing_in=url)], NOW, WALL)
    lines = text_of(rows, replace(DAEMON, warnings=("warn " * 50,))).splitlines()

    assert [url] == [line.strip() for line in lines if len(line) > WIDTH]


@pytest.mark.parametrize(("columns", "longest"), [(44, 44), (80, 80), (500, WIDTH), (3, 40)])
def test_lines_fit_a_narrow_terminal(columns: int, longest: int) -> None:
    """As wide as it is, between what is readable and what has room for words."""
    rows = describe([entry(Life(None, NeedsSignIn(NOW, replace(REVOKED, message="word " * 60))))], NOW, WALL)
    lines = [line for line in text_of(rows, width=columns).splitlines() if "word" in line]

    assert longest - len("word ") <= max(map(len, lines)) <= longest


def test_no_message_can_move_the_cursor_or_forge_a_line() -> None:
    """Words of the provider and names of users come from elsewhere: control characters are taken out."""
    evil = "bad\x1b[2Jthing\r\nb@example.test: ok"
    rows = describe([entry(Life(None, failing(replace(DOWN, message=evil))), user="u\x1b[1m")], NOW, WALL)
    text = text_of(rows)

    assert text.replace("\n", "").isprintable()
    assert "\nb@example.test" not in text


def test_a_refused_application_is_told_what_to_mend() -> None:
    """The text asks for no sign-in: it says what happened, when cms looks again, and who can fix it."""
    text = " ".join(text_of([row_of("refused")]).split())

    assert "AADSTS7000222: the client secret has expired" in text
    assert "next try in 15 min; refused for 2 h" in text
    assert "next move make a new secret, then wait" in text
    assert "sign-in none needed: an application requests each token itself" in text
    assert "cms login" not in text


def test_a_warning_is_told() -> None:
    """Although all is well with the token."""
    assert "\n  warning       it is long\n" in text_of([replace(row_of("ok"), warning="it is long")])


@pytest.mark.parametrize("name", ENTRIES)
def test_the_text_has_no_secret(name: str) -> None:
    """It shows no token."""
    assert "TOP-SECRET" not in text_of([row_of(name)], DAEMON)


def test_the_text_says_when_a_sign_in_was_given_and_is_expected_to_end() -> None:
    """When, why, and how sure that is; without a forecast the first alone; nothing where it is not known."""
    foretold = " ".join(text_of([given(12, forecast=EXPECTED)]).split())
    past = text_of([given(12, forecast=replace(EXPECTED, due=WALL - 60.0))])

    assert (
        "given 12 d ago; next expected in 2 d (sign-in frequency of the organisation, seen twice; likely)" in foretold
    )
    assert "next expected now" in past
    assert "saved, encrypted; key from keyring; given 12 d ago\n" in text_of([given(12)])
    assert "given" not in text_of([row_of("ok")])
    unchecked = " ".join(text_of([replace(given(12), who_checked=False)]).split())
    assert "given 12 d ago, by whom the provider does not say" in unchecked
