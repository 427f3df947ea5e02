"""`Result`, the outcome of a command, and the results that several commands share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome
from cms_oauth.frozen import dataclass
from cms_oauth.providers import PROVIDERS, has_codes


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a command. `hint` is the next move; `extra` has more fields of the answer, as for `status`."""

    ok: bool
    message: str
    hint: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def nobody_signs_in(user: str, grant: Grant, *, daemonless: bool = False) -> Result:
    """Return the refusal to sign in to an account whose application, or machine, gets its tokens by itself."""
    who = "this machine" if grant.sign_in == "managed-identity" else "an application"
    argument = f'sign_in="{grant.sign_in}"'
    if grant.server:
        who, argument = "a service account", "service_account="
    said = f"{user} needs no sign-in: {who} gets its tokens by itself ({argument})"
    if daemonless:
        return Result(False, said, "start the daemon: `cms run`")
    return Result(False, said, "`cms refresh` asks for one now, and `cms status` says what is wrong if none comes")


def no_codes(grant: Grant) -> Result | None:
    """Return the refusal to sign in with a code where the provider has none for mail, None if it may have them."""
    if has_codes(grant.provider, grant.server):
        return None
    row = PROVIDERS[grant.provider]
    ways = [f"{{login --{each}}}" for each in ("browser", "paste") if each in row.ways]
    said = f"{row.title} signs no mail program in with a code on another device"
    return Result(False, said, refusals.hint(f"use {' or '.join(ways)}", grant))


def nothing_to_sign_out(user: str, *, revoke: bool = False) -> Result:
    """Return the refusal to sign out of such an account; with `revoke`, to end what it may do at the provider."""
    said = f"{user} is not signed in: it gets its tokens by itself"
    move = "to stop using it, remove it from the configuration, then `cms reload` if cms is running"
    if revoke:
        move = f"{move}; what it may do ends when its key, certificate or consent is deleted at the provider"
    return Result(False, said, move)


# Sends an event to the client that gave the command and returns its answer, {} if there is none. "told" has no answer.
Ask = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


def told(message: str) -> dict[str, Any]:
    return {"event": "told", "message": message}


def question(message: str) -> dict[str, Any]:
    return {"event": "question", "message": message}


# Commands that ask questions or report in between: export, its import, deleting the sign-ins without an account,
# deleting all, ending them at their providers; another key for all.
ERRANDS = ("export", "restore", "prune", "leave", "revoke", "rekey")


_LOST = 'it is lost when cms stops: to keep the next one, add Vault(key=File("...")) to the configuration'


def ended(outcome: Outcome) -> Result:
    """Return the outcome of a sign-in as the result of a command."""
    if isinstance(outcome, Granted):
        known = outcome.sign_in
        kept = f"saved, key from {known.key_from}" if known.persisted else "kept in memory only"
        said = f"{known.who or 'the account'} is signed in ({kept})"
        hint = "\n".join(filter(None, ["" if known.persisted else _LOST, outcome.note]))
        return Result(True, said, hint, extra={"persisted": known.persisted})
    return Result(False, outcome.trouble.message, outcome.trouble.hint)
