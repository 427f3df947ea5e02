"""The status of many accounts: a line for each, the worst first, each cause once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.foreign import HOSTILE
from support.status_rows import (
    ACCOUNT,
    DAEMON,
    DOWN,
    EXPIRED,
    GRANT,
    GRAPH,
    MAIL,
    NOW,
    TOKEN,
    WALL,
    entry,
    failing,
)

from cms.core import status_table
from cms.core.accounts import Grant, StoredSignIn
from cms.core.lifecycle import Life, NeedsSignIn, SignInFacts, Trouble
from cms.core.status import AccountFacts, as_json, describe
from cms.core.status_table import MOST_IN_FULL, as_text, problems_only, table
from cms_oauth.moves import cms, fill

REVOKED = "AADSTS50173: the sign-in was revoked"


WELL = Life(TOKEN)


def revoked(user: str) -> Life:
    move = fill("sign in again: {login}", {"login": cms("login", user)})
    return Life(None, NeedsSignIn(NOW - 7200.0, Trouble("refused", "the sign-in was revoked", move, 50173, user)))


def facts(user: str, life: Life = WELL, login: str | None = None, **more: Any) -> AccountFacts:
    grant = replace(GRANT, login=user if login is None else login)
    return entry(life, account=replace(ACCOUNT, user=user, grant=grant), user=user, **more)


def document(entries: Sequence[AccountFacts]) -> dict[str, Any]:
    """Return what comes through the control socket."""
    whole: dict[str, Any] = json.loads(json.dumps(as_json(describe(entries, NOW, WALL), DAEMON)))
    return whole


# Two hundred mailboxes; of three the sign-in was revoked, and of one Entra cannot be reached.
USERS = [f"box{number:03}@example.test" for number in range(200)]
BROKEN = ["box017@example.test", "box100@example.test", "box150@example.test"]
MANY = document(
    [
        facts(user, revoked(user) if user in BROKEN else Life(TOKEN, failing()) if user == USERS[42] else WELL)
        for user in USERS
    ]
)


def test_two_hundred_accounts_have_a_line_each() -> None:
    """And a screenful besides: a broken account is seen."""
    lines = as_text(MANY).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("ACCOUNT"))

    assert len(lines) < len(USERS) + 25
    assert [*BROKEN, USERS[42], *(each for each in USERS if each not in (*BROKEN, USERS[42]))] == [
        line.split()[0] for line in lines[begin + 1 : begin + 201]
    ]
    assert "200 accounts: 3 sign-in-required, 1 failing, 196 ok" in lines
    assert "cms 1.2.3, process 4711, up 1 d 1 h, configuration /etc/cms/cms.cfg" == lines[0]


def test_a_cause_is_told_once() -> None:
    """With the accounts that it concerns, and what to do for each of them; a cause of one account names it."""
    text = as_text(MANY)

    assert (
        "3 accounts: sign-in-required\n"
        f"  last error    {REVOKED}\n"
        "  next move     sign in again: `cms login USER`\n"
        "  or, for all   `cms login --all`\n"
        f"  accounts      {', '.join(BROKEN)}\n"
    ) in text
    assert (
        f"{USERS[42]}: failing\n"
        "  last error    the identity provider answers 503\n"
        "  next move     nothing to do: cms tries again by itself\n"
    ) in text
    assert [1, 1] == [text.count(each) for each in (REVOKED, DOWN.message)]


def test_a_cause_of_many_names_some() -> None:
    """The table has the others."""
    text = as_text(document([facts(user, revoked(user)) for user in USERS]))

    assert "200 accounts: sign-in-required" in text
    assert f"{USERS[7]}, 192 more" in text.replace("\n                ", " ")


def test_a_name_that_a_shell_would_read_is_still_one_cause() -> None:
    """A quoted name in a command is the account's too."""
    users = ["o'connor@example.test", "r&d@example.test", "a@example.test", "b@example.test"]
    found = status_table.causes(document([facts(user, revoked(user)) for user in users])["accounts"])

    assert [4] == [len(group) for _, group in found]


def test_a_shared_sign_in_is_one_cause() -> None:
    """Of the account that signs in and of the others: the command names that one."""
    users = ["boss@example.test", "desk@example.test", "info@example.test", "sales@example.test"]
    entries = [facts(user, revoked("boss@example.test"), "boss@example.test") for user in users]
    ((told, group),) = status_table.causes(document(entries)["accounts"])

    assert ("`cms login boss@example.test`" in told, 4) == (True, len(group))


def test_accounts_of_one_sign_in_stand_together() -> None:
    """Below its name, the worst sign-in first."""
    shared = [
        facts(user, Life(EXPIRED, failing()), "boss@example.test") for user in ("x@example.test", "y@example.test")
    ]
    lines = list(table(document([facts("a@example.test"), *shared, facts("b@example.test")])["accounts"]))

    assert [
        "ACCOUNT           STATE    PROTOCOLS   TOKEN                NEXT REFRESH",
        "one sign-in, boss@example.test: 2 accounts",
        "  x@example.test  failing  SMTP, IMAP  NOT USABLE any more  next try in 2 min",
        "  y@example.test  failing  SMTP, IMAP  NOT USABLE any more  next try in 2 min",
        "a@example.test    ok       SMTP, IMAP  50 min left          in 30 min",
        "b@example.test    ok       SMTP, IMAP  50 min left          in 30 min",
    ] == [line for line, _ in lines]
    assert ["x@example.test", "y@example.test", "a@example.test", "b@example.test"] == [
        account["user"] for _, account in lines if account
    ]


@pytest.mark.parametrize(
    ("grant", "who"),
    [
        (replace(GRANT, login="", sign_in="app"), "application id"),
        (replace(GRANT, login="", sign_in="managed-identity", client_id=""), "the machine's own identity"),
        (replace(GRANT, login=""), "(not signed in yet)"),
    ],
)
def test_a_sign_in_is_called_by_who_signs_in(grant: Grant, who: str) -> None:
    """A person, an application or the machine."""
    accounts = [replace(facts(user), account=replace(ACCOUNT, user=user, grant=grant)) for user in USERS[:4]]

    assert f"one sign-in, {who}: 4 accounts\n" in as_text(document(accounts))


def test_a_few_accounts_are_told_in_full() -> None:
    """As many as fit a screen; `--long` does so for all."""
    few, more = (document([facts(user) for user in USERS[:number]]) for number in (MOST_IN_FULL, MOST_IN_FULL + 1))

    assert MOST_IN_FULL == as_text(few).count("  sign-in  ")
    assert 0 == as_text(more).count("  sign-in  ")
    assert MOST_IN_FULL + 1 == as_text(more, full=True).count("  sign-in  ")


def test_an_account_of_two_tokens_counts_once() -> None:
    """By the worse of the two."""
    account = replace(ACCOUNT, scopes={"SMTP": MAIL, "GRAPH": GRAPH})
    both = replace(facts(USERS[0]), account=account, lives={MAIL: Life(TOKEN), GRAPH: Life(TOKEN, failing())})

    assert "1 account: 1 failing" == status_table.summary(document([both])["accounts"])


def test_problems_are_what_monitoring_would_say() -> None:
    """Accounts that are well are left out; the JSON keeps its form."""
    problems = problems_only(MANY)

    assert {*BROKEN, USERS[42]} == {account["user"] for account in problems["accounts"]}
    assert MANY["daemon"] == problems["daemon"]


def test_sign_ins_in_memory_are_a_problem_unless_chosen() -> None:
    """As for `--check`."""
    rows = describe([facts(USERS[0], sign_in=SignInFacts(persisted=False))], NOW, WALL)

    assert [1, 0] == [
        as_json(rows, replace(DAEMON, memory_chosen=chosen))["accounts"][0]["severity"] for chosen in (False, True)
    ]


def test_a_warning_is_in_the_line() -> None:
    """A token is at hand, and something may go wrong: its cause is told like a failure."""
    ends = [facts(user, sign_in=SignInFacts(credential_expires=WALL + 19 * 86_400.0)) for user in USERS[:5]]
    text = as_text(document(ends))

    assert 5 == text.count("  ok, warning  ")
    assert "5 accounts: ok\n  warning       the application's certificate ends in 19 d" in text


def test_what_belongs_to_no_account_is_told() -> None:
    """Sign-ins in memory, and stored ones without an account, as in full."""
    whole = document([facts(user, sign_in=SignInFacts(persisted=False)) for user in USERS[:4]])
    whole["orphans"] = json.loads(json.dumps([{name: getattr(ORPHAN, name) for name in ORPHAN.__match_args__}]))
    text = as_text(whole)

    assert "  WARNING       sign-ins are kept in MEMORY ONLY" in text
    assert "stored sign-ins without an account:\n" in text


ORPHAN = StoredSignIn("k", "https://login.example/t", "id", "gone@example.test")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_the_table_fits_any_terminal(width: int) -> None:
    """One line an account with its state; what does not fit is left out, the protocols first."""
    accounts = [facts(user, login="boss@example.test") for user in USERS]
    lines = [line for line, _ in table(document(accounts)["accounts"], width)]

    assert len(USERS) + 2 == len(lines)
    assert max(map(len, lines)) <= width
    assert all("  ok" in line for line in lines[2:])
    assert (width >= 60) == ("TOKEN" in lines[0])
    assert (width >= 80) == ("PROTOCOLS" in lines[0])


def test_an_older_daemon_says_less() -> None:
    """Its accounts have no sign-in and no severity: each stands alone, and all may have a problem."""
    old = {**MANY, "accounts": [{name: each[name] for name in each if name not in NEW} for each in MANY["accounts"]]}

    assert "one sign-in" not in as_text(old)
    assert 200 == len(problems_only(old)["accounts"])
    assert BROKEN == [account["user"] for _, account in table(old["accounts"]) if account][:3]


NEW = ("grant", "who", "severity")


def test_a_daemon_forges_no_line() -> None:
    """What it says of an account stays on the line that it is for."""
    whole = document([facts(user, revoked(user)) for user in USERS[:4]])
    for account in whole["accounts"]:
        account |= {"user": f"a\n{HOSTILE}\t", "state": "ok\nb: ok", "warning": "w\tb", "next_move": "m\nb: ok"}
        account["problem"]["message"] = f"x\n{HOSTILE}"
    lines = as_text(whole).splitlines()

    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("b: ok")]
    assert len(USERS[:4]) == len([line for line in lines if "  SMTP, IMAP  " in line])
