"""What a program that `Notify(...)` names can be told, and when: the part of `notices` that a configuration needs."""

from __future__ import annotations

from dataclasses import field

from cms_oauth.frozen import dataclass

# Networks come and go, and a token outlasts that. Hooks are not told of a shorter outage.
GRACE_SECONDS = 10 * 60.0

# How often a hook is told again that a sign-in is required, because mail waits until then and the person may have been
# away. pizauth's interval.
REMIND_SECONDS = 15 * 60.0

EVENTS = {
    "sign-in-required": "a person has to sign in, or a sign-in waits for its person; repeated until it is done",
    "sign-in-due": "the sign-in is expected to end soon",
    "locked": "a person has to unlock the vault's key",
    "failing": "the provider has failed for longer than a short outage",
    "recovered": "what was reported as locked or failing works again",
    "signed-in": "a sign-in gave a token",
    "refreshed": "there is a new token",
}
# The events of a hook that names none: all that people act on. A new token comes every hour.
USUAL_EVENTS = tuple(event for event in EVENTS if event != "refreshed")


@dataclass(frozen=True, slots=True)
class Hook:
    """One Notify(...) of the configuration: the command to run, and the events that it is run for.

    - `remind`: a required sign-in is told again after this many seconds; 0 for never.
    - `grace`: an outage is told once it has lasted this many seconds.
    - `prompts`: when a person begins a sign-in, tell its link at once.
    - `each_refusal`: tell a refusal again when another try was refused too, as after `cms refresh`.
    """

    argv: tuple[str, ...]
    events: tuple[str, ...] = USUAL_EVENTS
    remind: float = REMIND_SECONDS
    grace: float = GRACE_SECONDS
    prompts: bool = True
    each_refusal: bool = False
    line: int = field(default=0, compare=False)
