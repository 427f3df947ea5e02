"""The explanation of a refusal by any provider, from what `cms status` knows of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cms_oauth import moves
from cms_oauth.diagnosis import entra, oauth2
from cms_oauth.diagnosis.lookup import of_entra, of_row
from cms_oauth.diagnosis.verdicts import Verdict, fill_in
from cms_oauth.providers import MICROSOFT
from cms_oauth.text import printable

# The kind of a trouble that an application has which signs in by itself, and that of a person's.
_APPLICATION, _REFUSED = "application", "refused"


def of_problem(problem: Mapping[str, Any], provider: str, user: str = "") -> tuple[Verdict, ...]:
    """Return the cause of a problem as `cms status --json` has it, none if it is no refusal that a provider gave a word for.

    `user` is the account, for the commands.
    """
    kind, reason = problem.get("kind"), str(problem.get("reason") or "")
    by_itself = kind == _APPLICATION
    if problem.get("aadsts"):
        return of_entra(int(problem["aadsts"]), user=user, application=by_itself)
    if provider == MICROSOFT or not reason or kind not in (_APPLICATION, _REFUSED):
        return ()
    row = oauth2.row_of_reason(provider, reason, application=by_itself)
    values: dict[str, moves.Value] = {
        "login": moves.cms("login", user),
        "again": entra.WAIT_OR_AGAIN if by_itself else entra.AGAIN,
        "redirect": "the redirect address",
        "credential": "service_account",
    }
    verdict = fill_in(of_row(row), values)
    return (replace(verdict, cause=f"{verdict.cause[:-1]} ({printable(reason)})."),)
