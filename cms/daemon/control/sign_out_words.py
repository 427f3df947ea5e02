"""What `cms logout` says: what a sign-out has done, what it cannot do, and what ends with a sign-in at its provider."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from cms.core.accounts import Grant
from cms.core.words import duration
from cms.daemon.control.answers import Result
from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import OPEN_TO_PERSONAL, PERSONAL_SESSIONS, PERSONAL_TENANTS, WORK_SESSIONS
from cms_oauth.moves import cms
from cms_oauth.providers import MICROSOFT, PROVIDERS


@dataclass(frozen=True, slots=True)
class SignedOut:
    """Who has been signed out. `found` is True if anything was stored or held for them.

    `key_from` is where the vault's key was deleted, "" if it was not. `expires` is when the last known access token
    expires (Unix time), 0 if there is none. `heard` says which other hosts of a fleet hear of it, "" if none had the sign-in.
    `revoked`: the sign-ins have ended at their provider too.
    """

    grants: tuple[Grant, ...]
    names: str
    found: bool
    key_from: str = ""
    expires: float = 0.0
    heard: str = ""
    revoked: bool = False


def signed_out(signed: SignedOut, now: float) -> Result:
    """Return the result of a sign-out: what it has done, and what it cannot do. `now` is Unix time."""
    if not signed.found:
        who = f"{signed.names}: " if signed.names else ""
        return Result(True, f"{who}not signed in, so there was nothing to delete")
    everywhere = " on every host of the fleet" if signed.heard else ""
    said = f"{signed.names}: signed out{everywhere}, and the stored sign-in deleted{key_gone(signed.key_from)}"
    heard = [signed.heard] if signed.heard else []
    if signed.revoked:
        titles = ", ".join(dict.fromkeys(_title(each) for each in signed.grants))
        said = f"{said}; it has ended at the provider too ({titles})"
        until = f"until {_clock(signed.expires, now)}" if signed.expires > now else "for an hour or so"
        good = f"An access token that a program has may work {until}: not every server ends it at once."
        return Result(True, said, "\n".join([*heard, good]))
    others = dict.fromkeys(_title(each) for each in signed.grants if each.provider != MICROSOFT)
    microsofts = [each for each in signed.grants if each.provider == MICROSOFT]
    lines = [*heard, _still_good(signed.expires, now, microsofts=bool(microsofts) or not others)]
    lines += _elsewhere(microsofts) if microsofts or not others else ["To end the sign-ins on all machines:"]
    lines += [f"  {each}: the account's own security settings" for each in others]
    return Result(True, said, "\n".join(lines))


def key_gone(key_from: str) -> str:
    """Return the clause that the vault's key was deleted, "" if it was not."""
    return f"; the key that encrypted them ({key_from}) is no longer needed and was deleted too" if key_from else ""


def what_ends(ending: Iterable[tuple[str, Grant]], staying: Iterable[tuple[str, Grant]], others: Sequence[str]) -> str:
    """Return what a person agrees to before sign-ins end at their providers: for each, what else ends with it.

    `ending` and `staying` are names with their grants: those that end there, and those that are only deleted here, as are
    `others`, which are lines.
    """
    lines = ["These sign-ins end at their provider, which cannot be undone:"]
    lines += [
        f"  {name}: {_title(grant)} ends {PROVIDERS[grant.provider].ends or _USUAL_ENDS}" for name, grant in ending
    ]
    here = [*(f"  {name}: {_why_not(grant)}" for name, grant in staying), *others]
    return "\n".join([*lines, *(["These are deleted here only:", *here] if here else [])])


# RFC 7009, 2.1, leaves it to the server.
_USUAL_ENDS = "it, and perhaps other sign-ins of this user with the same application, on other machines too"


def cannot_end(staying: Sequence[tuple[str, Grant]], others: Sequence[str]) -> Result:
    """Return the refusal to end sign-ins of which none can be ended by a program. The arguments are as in `what_ends`."""
    lines = [*(f"  {name}: {_why_not(grant)}" for name, grant in staying), *others]
    microsofts = [grant for _, grant in staying if grant.provider == MICROSOFT]
    hints = _elsewhere(microsofts) if microsofts else []
    user = staying[0][0] if len(staying) == 1 and not others else "USER"
    hints.append(f"`{cms('logout', user)}` deletes a sign-in here only.")
    said = "nothing was changed, because cms can end none of these at the provider:"
    return Result(
        False,
        "\n".join([said, *lines]) if len(lines) > 1 else f"nothing was changed: {lines[0].strip()}",
        "\n".join(hints),
    )


def _why_not(grant: Grant) -> str:
    """Return why a program cannot end a sign-in at its provider."""
    if grant.provider == MICROSOFT:
        return "Microsoft lets no program end a sign-in by its token"
    return f"{_title(grant)} has no known way to end a sign-in: use the account's own security settings"


def _title(grant: Grant) -> str:
    return PROVIDERS[grant.provider].title


def _still_good(expires: float, now: float, *, microsofts: bool) -> str:
    said = "Microsoft has no way to revoke a single token" if microsofts else "A sign-out here revokes no token"
    if expires <= now:
        return f"{said}: one issued in the last hour or so may still work."
    return f"{said}: the access token that programs have works until {_clock(expires, now)}."


def _clock(expires: float, now: float) -> str:
    return f"{time.strftime('%H:%M', time.localtime(expires))}, {duration(expires - now)} from now"


def _elsewhere(grants: Sequence[Grant]) -> list[str]:
    """Return where a person or an administrator can end the sign-ins on all machines."""
    tenants = {urlsplit(each.authority).path.strip("/").lower() for each in grants}
    personal = bool(tenants & OPEN_TO_PERSONAL) or not tenants
    work = bool(tenants - PERSONAL_TENANTS) or not tenants
    lines = ["To end the sign-ins of this account on all machines:"]
    if work:
        lines.append(
            f'  {WORK_SESSIONS} ("Sign out everywhere"), or an administrator: "Revoke sessions" of the user'
            " (revokeSignInSessions in Microsoft Graph)"
        )
    if personal:
        lines.append(f"  {PERSONAL_SESSIONS} (Security, for a personal account)")
    return lines


def expiry_of(held: Sequence[Any], boot: float, wall: float) -> float:
    """Return when the last of these tokens expires, as Unix time; 0 if there are none."""
    return max((wall + token.expires - boot for token in held if token), default=0.0)
