"""Decides what to tell people about a sign-in, and when. Pure.

`hear` compares the facts of one sign-in with what a hook has been told so far; the log is a hook too. As a result:

- a hook that a reload adds is told of trouble that began before it;
- trouble that lasts is repeated, if the hook asks for reminders;
- trouble that ends before a hook was told of it is never told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from cms.core.accounts import Scopes
from cms.core.forecast import Forecast
from cms.core.hooks import Hook
from cms.core.lifecycle import NOTHING_KNOWN, Failing, Life, NeedsSignIn, Settled, SignInFacts
from cms.core.preflight import LENGTHENS, too_long
from cms.core.status import expiry_warning
from cms.core.words import MEMORY_WARNING, duration
from cms_oauth.frozen import dataclass
from cms_oauth.moves import Command, fill
from cms_oauth.providers import MICROSOFT


@dataclass(frozen=True, slots=True)
class HowToSignIn:
    """How a person signs in to one account.

    `command` does it, None if no person signs in. While a sign-in waits for a person, `url` is the link to open and
    `code` what to enter there. `page` is the local page with all accounts that wait.
    """

    command: Command | None = None
    url: str = ""
    code: str = ""
    page: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `event` is a key of `EVENTS`; `message` says what happened, `hint` the next move, or "".

    `due` is when the sign-in is expected to end, 0 for unknown, and `retry_at` when cms looks at the refusal again, 0 for
    never: both as Unix times. `aadsts` is Entra's number, `reason` any provider's word for why. `provider` is whose account
    it is: the name of a row of `cms_oauth.providers`.
    """

    event: str
    account: str
    message: str
    hint: str = ""
    how: HowToSignIn = HowToSignIn()
    due: float = 0.0
    aadsts: int | None = None
    retry_at: float = 0.0
    reason: str = ""
    provider: str = MICROSOFT


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning that is not about the current token, for the log only. Each `which` is logged once."""

    which: str
    message: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of one sign-in now.

    `prompt_hint` says how to finish a sign-in that waits for a person, "" if none waits. `warn_at` is the boot-clock
    moment from which `forecast` is told. `wall_ahead` is what Unix time is ahead of the boot clock. `provider` is as in
    `Notice`.
    """

    account: str
    lives: Sequence[Life]
    how: HowToSignIn = HowToSignIn()
    prompt_hint: str = ""
    sign_in: SignInFacts = NOTHING_KNOWN
    forecast: Forecast | None = None
    warn_at: float = math.inf
    remarks: tuple[Remark, ...] = ()
    wall_ahead: float = 0.0
    provider: str = MICROSOFT

    @property
    def newest(self) -> float:
        """When the newest token was issued, 0 for none."""
        return max((life.held.issued for life in self.lives if life.held), default=0.0)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a hook has been told of one sign-in.

    - `event`: the trouble that is not over, "" for none. It was told first at `since` and last at `at` (boot clock),
      with the message `reason`.
    - `url`: the link that was told last.
    - `newest`: when the newest token that the hook knows of was issued.
    - `given_at`: when the sign-in that the hook knows of was given.
    - `warned`: `given_at` of the sign-in whose expected end was told.
    """

    event: str = ""
    since: float = 0.0
    at: float = 0.0
    reason: str = ""
    url: str = ""
    newest: float = 0.0
    given_at: float = 0.0
    warned: float = 0.0


# Before a sign-in has given its first token.
NOTHING_HEARD = Heard()


@dataclass(frozen=True, slots=True)
class Hearing:
    """What to tell a hook now, what it has been told after that, and the boot-clock moment to look again."""

    notices: tuple[Notice, ...]
    heard: Heard
    again: float


_Standing: TypeAlias = NeedsSignIn | Failing

_RECOVERED = "a new token came, all is well again"
_SIGNED_IN = "the sign-in gave a token"


def remarks(
    name: str, key: str, lives: Mapping[Scopes, Life], sign_in: SignInFacts, wall: float, *, in_memory: bool
) -> Iterator[Remark]:
    """Yield the warnings about the grant with this key. `in_memory`: the configuration wants sign-ins there."""
    if in_memory or sign_in.persisted is False:
        yield Remark("memory", MEMORY_WARNING)
    for scopes, life in lives.items():
        if long := too_long(life.held):
            yield Remark(f"length {key} {scopes}", f"{long}: {LENGTHENS}", name)
    ends = sign_in.credential_expires
    if warning := expiry_warning(ends, wall):
        yield Remark(f"expiry {key} {ends}", warning, name)


def first_heard(facts: Facts) -> Heard:
    """Return what a new hook counts as told: the tokens and sign-ins that already exist are not news."""
    return Heard(newest=facts.newest, given_at=facts.sign_in.given_at)


def hear(hook: Hook, heard: Heard, facts: Facts, now: float) -> Hearing:
    """Return what to tell a hook about one sign-in. `now` is CLOCK_BOOTTIME.

    Events that the hook did not ask for count as told. So a hook for `signed-in` alone is told of the sign-in that ends
    a `sign-in-required`.
    """
    good, known = _good_news(heard, facts), _settled(heard, facts)
    trouble = _standing(hook, facts, now)
    bad = _bad_news(hook, known, facts, trouble, now)
    after = _told_of(known, bad, facts, trouble, now)
    told = (each for each in (*good, bad) if each and each.event in hook.events)
    wanted = tuple(replace(each, provider=facts.provider) for each in told)
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
    """True if the trouble that was told is over: nothing is wrong now, and a newer token has come since."""
    settled = all(isinstance(life.phase, Settled) for life in facts.lives)
    return bool(heard.event) and settled and facts.newest >= heard.since


def _settled(heard: Heard, facts: Facts) -> Heard:
    """Return what the hook has been told, with the good news."""
    known = replace(
        heard,
        newest=max(heard.newest, facts.newest),
        given_at=facts.sign_in.given_at or heard.given_at,
        url=heard.url if facts.how.url else "",
    )
    return replace(known, event="", since=0.0, at=0.0, reason="") if _ended(heard, facts) else known


def _bad_news(hook: Hook, heard: Heard, facts: Facts, trouble: _Standing | None, now: float) -> Notice | None:
    if trouble and (_is_news(hook, heard, trouble) or now >= _reminder(hook, heard)):
        return _of_trouble(facts, trouble, now)
    if hook.prompts and facts.how.url not in ("", heard.url):
        return _prompt(facts, trouble.trouble.message if trouble else "a sign-in waits for a person")
    idle = not trouble and not facts.how.url
    if idle and facts.forecast and now >= facts.warn_at and heard.warned != facts.sign_in.given_at:
        return _foretold(facts, facts.forecast)
    return None


def _is_news(hook: Hook, heard: Heard, trouble: _Standing) -> bool:
    """True if the hook has not been told of this. An outage is news once; a refusal also with each new message."""
    event = _event(trouble)
    if event != heard.event:
        return True
    tried = hook.each_refusal and trouble.since > heard.at
    return event == "sign-in-required" and (tried or trouble.trouble.message != heard.reason)


def _told_of(heard: Heard, bad: Notice | None, facts: Facts, trouble: _Standing | None, now: float) -> Heard:
    """Return what the hook has been told, with the bad news."""
    if bad is None:
        return heard
    if bad.event == "sign-in-due":
        return replace(heard, warned=facts.sign_in.given_at)
    heard = replace(heard, url=facts.how.url)
    if trouble is None:
        return heard
    event = _event(trouble)
    since = heard.since if event == heard.event else now
    return replace(heard, event=event, since=since, at=now, reason=trouble.trouble.message)


def _again(hook: Hook, heard: Heard, facts: Facts, now: float) -> float:
    """Return the boot-clock moment at which there may be something to tell although no fact changes."""
    lasting = [life.phase.since + hook.grace for life in facts.lives if isinstance(life.phase, Failing)]
    warning = facts.warn_at if facts.forecast and heard.warned != facts.sign_in.given_at else math.inf
    return min((when for when in (*lasting, warning, _reminder(hook, heard)) if when > now), default=math.inf)


def _standing(hook: Hook, facts: Facts, now: float) -> _Standing | None:
    """Return the worst trouble that this hook is told of. A sign-out does not count: the user asked for it."""
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
    """Return the event for a refusal: that of an application asks no person to sign in."""
    return "sign-in-required" if phase.calls_for_sign_in else "failing"


def _reminder(hook: Hook, heard: Heard) -> float:
    """Return when to repeat that a sign-in is required."""
    return heard.at + hook.remind if heard.event == "sign-in-required" and hook.remind else math.inf


def _of_trouble(facts: Facts, phase: _Standing, now: float) -> Notice:
    trouble, event = phase.trouble, _event(phase)
    told = Notice(event, facts.account, trouble.message, trouble.hint, aadsts=trouble.aadsts, reason=trouble.reason)
    if event != "sign-in-required":
        return told
    asked = replace(told, hint=facts.prompt_hint or trouble.hint, how=facts.how)
    if not isinstance(phase, NeedsSignIn) or not phase.look or phase.next_try is None:
        return asked
    hint = facts.prompt_hint or f"{phase.hint}; the next time in {duration(phase.next_try - now)}"
    return replace(asked, hint=hint, retry_at=phase.next_try + facts.wall_ahead)


def _prompt(facts: Facts, message: str) -> Notice:
    return Notice("sign-in-required", facts.account, message, facts.prompt_hint, facts.how)


def _foretold(facts: Facts, expected: Forecast) -> Notice:
    message = f"the sign-in is expected to end soon: {expected.reason} ({expected.certainty})"
    command = facts.how.command
    hint = fill("sign in before mail has to wait: {login}", {"login": command}) if command else ""
    return Notice("sign-in-due", facts.account, message, hint, HowToSignIn(command), expected.due)
