"""Accounts in each of their states, as the daemon hands them to the status."""

from __future__ import annotations

from dataclasses import replace

from cms.core.accounts import Account, Grant
from cms.core.forecast import Forecast
from cms.core.lifecycle import NOTHING_KNOWN, Failing, Life, NeedsSignIn, SignInFacts, Token, Trouble
from cms.core.status import AccountFacts, Daemon, StatusRow, describe
from cms_oauth.moves import cms, fill

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
    "refused",
    "the sign-in was revoked",
    fill("sign in again: {login}", {"login": cms("login", "a@example.test")}),
    50173,
    "5e2b7f0a-corr",
)

EXPIRED_SECRET = Trouble("application", "the client secret has expired", "make a new secret, then wait", 7000222)
MACHINE = replace(ACCOUNT, grant=replace(GRANT, login="", sign_in="app"))


def failing(trouble: Trouble = DOWN) -> Failing:
    """Return the phase of five minutes and three tries of trouble; the next try is in two minutes."""
    return Failing(NOW - 300.0, 3, NOW - 60.0, NOW + 120.0, NOW, trouble)


def entry(life: Life, **more: object) -> AccountFacts:
    known = AccountFacts(ACCOUNT, ACCOUNT.user, {MAIL: life}, sign_in=SignInFacts(persisted=True, key_from="keyring"))
    return replace(known, **more)  # type: ignore[arg-type]  # fields of a test's table


SIGNING_IN = "https://login.example/common/oauth2/v2.0/authorize?x=1"
ENTRIES = {
    "ok": entry(Life(TOKEN)),
    "starting": entry(Life(), sign_in=NOTHING_KNOWN),
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


def row_of(name: str) -> StatusRow:
    return describe([ENTRIES[name]], NOW, WALL)[0]


DAY = 86_400.0
EXPECTED = Forecast(WALL + 2 * DAY, "sign-in frequency of the organisation, seen twice", "likely")


def given(days: float, **more: object) -> StatusRow:
    """The row of an account that signed in so many days ago."""
    return describe(
        [entry(Life(TOKEN), sign_in=SignInFacts(given_at=WALL - days * DAY, key_from="keyring"), **more)], NOW, WALL
    )[0]


DAEMON = Daemon("1.2.3", 4711, 90_061.0, "/etc/cms/cms.cfg", ("/run/cms/cms.sock",), ("the socket is open to all",))
