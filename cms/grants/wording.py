"""What the service tells a person of a sign-in that cannot be used, was not made, or was made by another program."""

from __future__ import annotations

from dataclasses import replace

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome, Refused, Trouble
from cms.grants.messages import KEPT_BY_MS_BROKER
from cms.grants.transfer.formats import Found
from cms_oauth.microsoft import takes_the_code
from cms_oauth.moves import fill
from cms_oauth.providers import PROVIDERS

NOWHERE = Trouble(
    "storage",
    "the sign-in could not be saved: there is no key to encrypt it with",
    "set a place for the key with Vault(key=...) in the configuration, or start the daemon first: `cms run`",
)

ELSEWHERE = Trouble(
    "elsewhere",
    "another host of the fleet renews the token, and has not finished",
    fill("{retries}; `cms fleet status` shows which host"),
)

# What a person does whose sign-out has failed: one that was to end the sign-in at the provider too, or one that was not.
SIGN_OUT_AGAIN = {
    True: "try again: {logout --revoke}; or {logout}, which tells the provider nothing",
    False: "try again: {logout}",
}


def heard(hosts: int) -> str:
    """Return how many hosts of a fleet hear of a sign-out at once, and when any other does."""
    if hosts:
        at_once = f"{hosts} hosts are connected and hear" if hosts > 1 else "1 host is connected and hears"
        return f"{at_once} of it at once, any other within a minute once it is connected."
    return "No host listens now: each hears of it within a minute once it is connected."


def for_this_device_only(grant: Grant) -> Trouble:
    """Return the refusal of a sign-in that the other hosts of a fleet could not use."""
    return Trouble(
        "unfit",
        f"{KEPT_BY_MS_BROKER}, and the hosts of a fleet share this account's",
        refusals.hint(
            'sign in without it: {login --browser}; or set sign_in="broker" of the account: this host then has a sign-in '
            "of its own",
            grant,
        ),
    )


def not_here(grant: Grant) -> Trouble:
    """Return the refusal to hand out a sign-in that this host of a fleet cannot read."""
    return Trouble(
        "unfit",
        f"the sign-in of {grant.login or 'this account'} cannot be read here: this host only serves tokens, or the fleet's "
        "database is away",
        "`cms fleet status` says which; try again on a host of the fleet that has Fleet(key=...)",
    )


def another_account(grant: Grant, remembered: str, who: str) -> Trouble:
    """Return the refusal of a sign-in with another account than before. Two accounts can have had the same name."""
    if remembered.casefold() == who.casefold():
        said = (
            f"signed in as {who}, but this is another account than the {remembered} before: the name was given to a new "
            "account, or to another person. Nothing was saved"
        )
    else:
        said = f"signed in as {who or 'a user without a name'}, but this account is {remembered}: nothing was saved"
    hint = "sign in as {remembered}: {login}; to use the other account from now on, run {logout} first"
    return Trouble("wrong-user", said, refusals.hint(hint, grant, remembered=remembered))


def of_another_program(outcome: Outcome, found: Found, grant: Grant) -> Outcome:
    """Explain a refusal of a sign-in that another program made, or what to know before the next sign-in."""
    if isinstance(outcome, Granted) and grant.rotates:
        once = (
            f"do not use {found.program} for this account any more: its refresh token was used here, and "
            f"{PROVIDERS[grant.provider].title} may take a second use for a theft, and end the sign-in"
        )
        return replace(outcome, note="\n".join(filter(None, (outcome.note, once))))
    if isinstance(outcome, Granted) and takes_the_code(found.redirect):
        return replace(
            outcome,
            note=f"{found.program} signed in by {found.redirect}, a page of Microsoft's that since January 2026 takes the "
            "code out of the address. Before the next sign-in, register http://localhost as a redirect address of the "
            "application; or sign in with a code: " + refusals.hint("{login --device}", grant),
        )
    if not isinstance(outcome, Refused):
        return outcome
    trouble = outcome.trouble
    hint = trouble.hint
    if trouble.kind == "wrong-user":
        hint = refusals.hint(
            "import it for the account that it belongs to (--account=USER), or set sign_in_as of this account if that "
            "user signs in for it; or sign in again: {login}",
            grant,
        )
    elif not found.client_id:
        hint += (
            f"; the import does not say which application it belongs to: if {found.program} is configured with another "
            f"client_id than {grant.client_id}, set that for the account and import again"
        )
    return Refused(
        replace(trouble, message=f"{found.program}'s sign-in was not imported: {trouble.message}", hint=hint)
    )


def expired(grant: Grant, *, device: bool = False) -> Trouble:
    """Return the trouble that a person took too long; with `device`, on another device."""
    hint = "start again: {login}"
    if device:
        hint = (
            "start again: {login --device}; organisations often block this way of signing in without saying so: "
            "use {login --browser} or {login --paste} instead"
        )
    return Trouble("expired", "the sign-in was not completed in time", refusals.hint(hint, grant))
