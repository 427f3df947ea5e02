"""What commands answer with, and the answers that more than one of them gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `hint` is the next move; `extra` more fields of the answer, as for `status`."""

    ok: bool
    message: str
    hint: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def nobody_signs_in(user: str, grant: Grant, *, daemonless: bool = False) -> Result:
    """Say of an account whose application, or machine, gets its tokens by itself what there is to do instead."""
    who = "this machine" if grant.sign_in == "managed-identity" else "an application"
    said = f'nobody signs in for {user}: {who} gets its tokens by itself (sign_in="{grant.sign_in}")'
    if daemonless:
        return Result(False, said, "start the daemon: `cms run`")
    return Result(False, said, "`cms refresh` asks for one now, and `cms status` says what is wrong if none comes")


def nothing_to_sign_out(user: str) -> Result:
    """Say of such an account how it is given up."""
    said = f"nobody has signed in for {user}, and nothing is stored for it"
    return Result(False, said, "to give it up, take it out of the configuration, then `cms reload`, if cms runs")


# Sends an event to the client that gave the command; returns its answer, {} for none. A "told" event has no answer.
Ask = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

# Commands that converse: moving sign-ins to another machine and from one, deleting those without an account, and all.
ERRANDS = ("export", "restore", "prune", "leave")


_LOST = 'it is lost when cms ends: to keep the next one, put Vault(key=File("...")) into the configuration'


def ended(outcome: Outcome) -> Result:
    """Return a sign-in's end as a command's."""
    if isinstance(outcome, Granted):
        known = outcome.sign_in
        kept = f"saved, key from {known.key_from}" if known.persisted else "kept in memory only"
        said = f"{known.who or 'the account'} is signed in ({kept})"
        return Result(True, said, "" if known.persisted else _LOST, extra={"persisted": known.persisted})
    return Result(False, outcome.trouble.message, outcome.trouble.hint)
