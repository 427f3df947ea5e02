"""Which changes of a life are worth telling a person: pure, from the life before and the life after.

Each is told once, when it begins: a life that stays as it is gives no notice.
"""

from __future__ import annotations

from dataclasses import dataclass

from cms.lifecycle import Life, NeedsSignIn, Phase, Settled

# Networks come and go, and a token lasts through many minutes of that. Nobody is told of an outage shorter than this.
GRACE_SECONDS = 10 * 60.0

EVENTS = {
    "sign-in-required": "only a sign-in helps",
    "locked": "the vault's key cannot be had without a person",
    "failing": "the provider has failed for longer than a passing fault lasts",
    "recovered": "what had been told as locked or failing works again",
    "signed-in": "a sign-in gave a token",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `event` is a word of `EVENTS`; `message` says what happened, `hint` the next move, or ""."""

    event: str
    account: str
    message: str
    hint: str = ""


def notice(before: Life, after: Life, account: str) -> Notice | None:
    """Return what to tell of this change of a life of `account`, a user name."""
    if isinstance(after.phase, Settled):
        return _better(before, after, account)
    event = _told(after.phase)
    if not event or event == _told(before.phase):
        return None
    return Notice(event, account, after.phase.trouble.message, after.phase.trouble.hint)


def _better(before: Life, after: Life, account: str) -> Notice | None:
    told = _told(before.phase)
    if not told or after.held is None or after.held == before.held:
        return None
    if told == "sign-in-required":
        return Notice("signed-in", account, "the sign-in gave a token")
    return Notice("recovered", account, "a new token came, all is well again")


def _told(phase: Phase) -> str:
    """Return the event that a person has been told of this phase, "" for none: of an outage late, of the rest at once."""
    if isinstance(phase, Settled):
        return ""
    if isinstance(phase, NeedsSignIn):
        return "sign-in-required"
    if phase.trouble.kind == "locked":
        return "locked"
    return "failing" if phase.last_try - phase.since >= GRACE_SECONDS else ""
