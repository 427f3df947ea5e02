"""What is worth telling a person, and when: pure.

`hear` compares the facts of one sign-in with what a hook has been told so far. The log is a hook too. So a hook that
comes with a reload hears of trouble that is there already, what lasts is told again where that was asked for, and what
was over before it could be told is not told at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cms.core.forecast import Forecast
from cms.core.lifecycle import NOTHING_KNOWN, Failing, Life, NeedsSignIn, Settled, SignInFacts
from cms_oauth.moves import Command, fill

# Networks come and go, and a token lasts through many minutes of that. A shorter outage is not told.
GRACE_SECONDS = 10 * 60.0

# How often a hook is told again that a sign-in is required: pizauth's users have lived well with it. Mail waits all
# the while, and a person who was away the first time sees a later one.
REMIND_SECONDS = 15 * 60.0

EVENTS = {
    "sign-in-required": "only a sign-in helps, or one waits for a person; told again until it is done",
    "sign-in-due": "the sign-in is expected to end soon",
    "locked": "the vault's key cannot be had without a person",
    "failing": "the provider has failed for longer than a passing fault lasts",
    "recovered": "what had been told as locked or failing works again",
    "signed-in": "a sign-in gave a token",
    "refreshed": "there is a new token",
}
# What a hook is told that names no events: all that is for people. A new token comes every hour.
USUAL_EVENTS = tuple(event for event in EVENTS if event != "refreshed")


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `event` is a word of `EVENTS`; `message` says what happened, `hint` the next move, or "".

    `login` is the command that signs in. While a sign-in waits for a person, `url` is where to go and `code` what to
    enter there; `page` is the local page with all accounts that wait. `due` is when the sign-in is expected to end, as
    Unix time, 0 for unknown; `aadsts` is Entra's number.
    """

    event: str
    account: str
    message: str
    hint: str = ""
    login: str = ""
    url: str = ""
    code: str = ""
    page: str = ""
    due: float = 0.0
    aadsts: int | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """One Notify: what is run, and for which events.

    `remind` is after how many seconds a required sign-in is told again, 0 for never; `grace` for how many seconds the
    provider has to have failed. With `prompts` a sign-in that a person has begun is told with its link at once. With
    `each_refusal` a refusal is told again when it was tried again in vain, as after `cms refresh`.
    """

    argv: tuple[str, ...]
    events: tuple[str, ...] = USUAL_EVENTS
    remind: float = REMIND_SECONDS
    grace: float = GRACE_SECONDS
    prompts: bool = True
    each_refusal: bool = False
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that may go wrong although all is well with the token: for the log alone, once for each `which`."""

    which: str
    message: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of one sign-in now. `login` signs in, None where no person does. `prompt_hint`, `url`, `code` and `page` are as in `Notice`, "" while none waits.

    `warn_at` is the boot-clock moment from which `forecast` is to be told.
    """

    account: str
    lives: Sequence[Life]
    login: Command | None = None
    prompt_hint: str = ""
    url: str = ""
    code: str = ""
    page: str = ""
    sign_in: SignInFacts = NOTHING_KNOWN
    forecast: Forecast | None = None
    warn_at: float = math.inf
    remarks: tuple[Remark, ...] = ()

    @property
    def newest(self) -> float:
        """When the newest token was issued, 0 for none."""
        return max((life.held.issued for life in self.lives if life.held), default=0.0)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a hook has been told of one sign-in.

    `event` is the trouble that is not over, "" for none: told first at `since` and last at `at` (boot clock), with `reason`
    as its message. `url` is the link that was told last. `newest` is the newest token that the hook knows, `given_at` the
    sign-in, and `warned` the sign-in whose expected end was told.
    """

    event: str = ""
    since: float = 0.0
    at: float = 0.0
    reason: str = ""
    url: str = ""
    newest: float = 0.0
    given_at: float = 0.0
    warned: float = 0.0


@dataclass(frozen=True, slots=True)
class Hearing:
    """What to tell a hook now, what it has been told then, and the boot-clock moment to look again."""

    notices: tuple[Notice, ...]
    heard: Heard
    again: float


_Standing: TypeAlias = NeedsSignIn | Failing

_RECOVERED = "a new token came, all is well again"
_SIGNED_IN = "the sign-in gave a token"


def first_heard(facts: Facts) -> Heard:
    """Return where a hook begins that has been told nothing: tokens and sign-ins that are there are no news."""
    return Heard(newest=facts.newest, given_at=facts.sign_in.given_at)


def hear(hook: Hook, heard: Heard, facts: Facts, now: float) -> Hearing:
    """Return what a hook is to be told of one sign-in. `now` is CLOCK_BOOTTIME.

    What it did not ask for counts as told: a hook for `signed-in` alone hears of the sign-in that ends a trouble.
    """
    good, known = _good_news(heard, facts), _settled(heard, facts)
    trouble = _standing(hook, facts, now)
    bad = _bad_news(hook, known, facts, trouble, now)
    after = _told_of(known, bad, facts, trouble, now)
    wanted = tuple(each for each in (*good, bad) if each and each.event in hook.events)
    return Hearing(wanted, after, _again(hook, after, facts, now))


def _good_news(heard: Heard, facts: Facts) -> list[Notice]:
    ended = _ended(heard, facts)
    told = []
    if ended and heard.event != "sign-in-required":
        told.append(Notice("recovered", facts.account, _RECOVERED))
    if (ended and heard.event == "sign-in-required") or 0 < heard.given_at < facts.sign_in.given_at:
        told.append(Notice("signed-in", facts.account, _SIGNED_IN))
    if facts.newest > heard.newest:
        told.append(Notice("refreshed", facts.account, "there is a new token"))
    return told


def _ended(heard: Heard, facts: Facts) -> bool:
    """Whether the trouble that was told is over: nothing is wrong, and a token came that is newer than the telling."""
    settled = all(isinstance(life.phase, Settled) for life in facts.lives)
    return bool(heard.event) and settled and facts.newest >= heard.since


def _settled(heard: Heard, facts: Facts) -> Heard:
    """Return what the hook knows once it has heard the good news."""
    known = replace(
        heard,
        newest=max(heard.newest, facts.newest),
        given_at=facts.sign_in.given_at or heard.given_at,
        url=heard.url if facts.url else "",
    )
    return replace(known, event="", since=0.0, at=0.0, reason="") if _ended(heard, facts) else known


def _bad_news(hook: Hook, heard: Heard, facts: Facts, trouble: _Standing | None, now: float) -> Notice | None:
    if trouble and (_is_news(hook, heard, trouble) or now >= _reminder(hook, heard)):
        return _of_trouble(facts, trouble)
    if hook.prompts and facts.url not in ("", heard.url):
        return _prompt(facts, trouble.trouble.message if trouble else "a sign-in waits for a person")
    idle = not trouble and not facts.url
    if idle and facts.forecast and now >= facts.warn_at and heard.warned != facts.sign_in.given_at:
        return _foretold(facts, facts.forecast)
    return None


def _is_news(hook: Hook, heard: Heard, trouble: _Standing) -> bool:
    """Whether this has not been told. A refusal with another message, or tried again, is news; an outage is told once."""
    event = _event(trouble)
    if event != heard.event:
        return True
    tried = hook.each_refusal and trouble.since > heard.at
    return event == "sign-in-required" and (tried or trouble.trouble.message != heard.reason)


def _told_of(heard: Heard, bad: Notice | None, facts: Facts, trouble: _Standing | None, now: float) -> Heard:
    """Return what the hook knows once it has heard the bad news."""
    if bad is None:
        return heard
    if bad.event == "sign-in-due":
        return replace(heard, warned=facts.sign_in.given_at)
    heard = replace(heard, url=facts.url)
    if trouble is None:
        return heard
    event = _event(trouble)
    since = heard.since if event == heard.event else now
    return replace(heard, event=event, since=since, at=now, reason=trouble.trouble.message)


def _again(hook: Hook, heard: Heard, facts: Facts, now: float) -> float:
    """Return when there may be something to tell that no change of the facts announces."""
    lasting = [life.phase.since + hook.grace for life in facts.lives if isinstance(life.phase, Failing)]
    warning = facts.warn_at if facts.forecast and heard.warned != facts.sign_in.given_at else math.inf
    return min((when for when in (*lasting, warning, _reminder(hook, heard)) if when > now), default=math.inf)


def _standing(hook: Hook, facts: Facts, now: float) -> _Standing | None:
    """Return the worst trouble that a hook is told of. A sign-out is none: the user asked for it."""
    phases = [life.phase for life in facts.lives]
    required = [each for each in phases if isinstance(each, NeedsSignIn) and each.trouble.kind != "signed-out"]
    failing = [each for each in phases if isinstance(each, Failing)]
    locked = [each for each in failing if each.trouble.kind == "locked"]
    lasting = [each for each in failing if now >= each.since + hook.grace]
    worst: list[_Standing] = [*required, *locked, *lasting]
    return worst[0] if worst else None


def _event(phase: _Standing) -> str:
    if isinstance(phase, NeedsSignIn):
        return _refused(phase)
    return "locked" if phase.trouble.kind == "locked" else "failing"


def _refused(phase: NeedsSignIn) -> str:
    """Return the event for a refusal. If cms tries again by itself, no person has to sign in."""
    return "sign-in-required" if phase.next_try is None else "failing"


def _reminder(hook: Hook, heard: Heard) -> float:
    """Return when a required sign-in is to be told again."""
    return heard.at + hook.remind if heard.event == "sign-in-required" and hook.remind else math.inf


def _of_trouble(facts: Facts, phase: _Standing) -> Notice:
    trouble = phase.trouble
    if _event(phase) != "sign-in-required":
        return Notice(_event(phase), facts.account, trouble.message, trouble.hint, aadsts=trouble.aadsts)
    asked = _prompt(facts, trouble.message)
    return replace(asked, hint=facts.prompt_hint or trouble.hint, aadsts=trouble.aadsts)


def _prompt(facts: Facts, message: str) -> Notice:
    return Notice(
        "sign-in-required",
        facts.account,
        message,
        facts.prompt_hint,
        login=str(facts.login or ""),
        url=facts.url,
        code=facts.code,
        page=facts.page,
    )


def _foretold(facts: Facts, expected: Forecast) -> Notice:
    message = f"the sign-in is expected to end soon: {expected.reason} ({expected.certainty})"
    hint = fill("sign in before mail has to wait: {login}", {"login": facts.login}) if facts.login else ""
    return Notice("sign-in-due", facts.account, message, hint, login=str(facts.login or ""), due=expected.due)
