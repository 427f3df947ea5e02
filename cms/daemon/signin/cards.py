"""What the sign-in page says of each account: its state, why, and when a person is needed next. Pure.

The page is for a person in a browser, so it says less than `cms status`, and in whole sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cms.core.status import StatusRow
from cms.core.words import WORST_FIRST, duration
from cms_oauth.frozen import dataclass
from cms_oauth.moves import signs_in
from cms_oauth.providers import MICROSOFT, PROVIDERS

# What a state looks like, and its name on the page.
GOOD, BUSY, WARN, BAD = "good", "busy", "warn", "bad"
_LOOKS = {
    "sign-in-required": (BAD, "Needs you"),
    "refused": (BAD, "Refused"),
    "locked": (BAD, "Locked"),
    "signing-in": (BUSY, "Signing in"),
    "failing": (WARN, "Trying again"),
    "starting": (BUSY, "Starting"),
    "renewing": (GOOD, "Working"),
    "ok": (GOOD, "Working"),
}
_MINUTE = 60

# What a person does with a protocol. The others have only their name.
_USES = {"SMTP": "sending (SMTP)", "IMAP": "reading (IMAP)", "POP": "reading (POP)"}


@dataclass(frozen=True, slots=True)
class Offer:
    """A sign-in that the page can start or continue. `key` is its grant's, `url` continues one under way, "" for none."""

    key: str
    label: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """An account on the page.

    - `level`: what the state looks like: one of `GOOD`, `BUSY`, `WARN`, `BAD`.
    - `state`: the state's name.
    - `lines`: sentences about it. Commands in them stand between backticks.
    - `offer`: the sign-in that its button starts, None for no button.
    """

    label: str
    level: str
    state: str
    lines: tuple[str, ...] = ()
    offer: Offer | None = None


def card(label: str, rows: Sequence[StatusRow], offer: Offer | None = None, instead: str = "") -> Card:
    """Return the card of an account from the rows of its tokens; the worst of them names its state.

    `instead` says what to do if the account waits and the page cannot sign it in, "" if it can.
    """
    worst = min(rows, key=lambda row: WORST_FIRST.index(row.state))
    level, state = _LOOKS[worst.state]
    if offer and worst.state == "signing-in" and not offer.url:
        # A sign-in by another way, in a terminal: the button starts one here in its place.
        instead = "A sign-in is under way in a terminal."
    if level == GOOD and (worst.sign_in_due or worst.credential_due or worst.warning):
        level, state = WARN, "Working, with a warning"
    lines = [line for row in rows for line in _lines(row, named=len(rows) > 1, asked=bool(offer or instead))]
    return Card(label, level, state, (*dict.fromkeys(lines), *filter(None, [instead])), offer)


def _lines(row: StatusRow, *, named: bool, asked: bool) -> Iterator[str]:
    where = "" if row.provider == MICROSOFT else f" at {PROVIDERS[row.provider].title}"
    used = f"Used for {', '.join(_USES.get(each, each) for each in row.protocols)}{where}."
    yield f"{used} {_LOOKS[row.state][1]}." if named else used
    if row.problem:
        yield _sentence(row.problem.message)
        if row.problem.retry_in is not None and row.state not in ("sign-in-required", "signing-in"):
            yield f"cms tries again in {_roughly(row.problem.retry_in)}."
    # A button says it already, and in a terminal the advice is to open this page.
    if row.next_move and not (asked and (signs_in(row.next_move) or row.state == "signing-in")):
        yield _sentence(row.next_move)
    if row.state == "ok" and row.token and row.token.refresh_in is not None:
        yield f"The token is renewed in {_roughly(row.token.refresh_in)}."
    if row.forecast and row.ends_in is not None:
        yield f"Next sign-in expected in {_roughly(row.ends_in)}: {row.forecast.reason}."
    if row.warning:
        yield _sentence(row.warning)


def _roughly(seconds: int) -> str:
    """Return a length of time without its seconds, so that a page that renews itself changes once a minute."""
    return duration(seconds - seconds % _MINUTE) if seconds >= _MINUTE else "less than a minute"


def _sentence(text: str) -> str:
    """Return a message as a sentence: messages begin in lower case and have no full stop."""
    begun = text if text.startswith("`") or "@" in text.split(" ", 1)[0] else text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."
