"""The access tokens that a vault file keeps beside its sign-in, so that a daemon that was restarted need not ask for them.

Such a token is good only if each clock that can tell says so: the wall clock, and the boot clock too while the machine has
not been started anew. A wall clock that was set back makes no expired token good in the same boot; in a later one, a token
that is younger than the boot, by its clock, is not good.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import field
from functools import cache
from pathlib import Path

from cms.core.accounts import Scopes
from cms.core.lifecycle import LONGEST_LIFE, Granted, SignInFacts
from cms_oauth import sasl
from cms_oauth.frozen import dataclass

# A token with less than these seconds left is not worth handing out: a new one is fetched at once.
LEAST_LEFT = 20.0


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time by both clocks. `boot_id` names the boot that `boot` counts from, "" for unknown."""

    wall: float
    boot: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class MintedToken:
    """An access token. `asked` are the scopes that it was asked for, `scopes` those that it is for, `life` its seconds.

    `proof` is the fingerprint of what the application proved itself with, "" for nothing that stays. `refused` is True once
    the provider has refused another one in its place.
    """

    asked: Scopes
    secret: str = field(repr=False)
    scopes: Scopes
    life: float
    minted: Moment
    proof: str = field(default="", repr=False)
    refused: bool = False


def now() -> Moment:
    """Return the present."""
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), _boot_id())


@cache
def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def keep(granted: Granted, asked: Scopes, at: Moment, proof: str = "") -> MintedToken:
    """Return a token that has just come, as it is stored."""
    minted = Moment(at.wall - (at.boot - granted.issued), granted.issued, at.boot_id)
    return MintedToken(asked, granted.secret, granted.scopes, granted.expires_in, minted, proof)


def granted(token: MintedToken, at: Moment) -> Granted | None:
    """Return a stored token as it is handed out, None if it is no longer good. `issued` is by the clock of this boot."""
    ages, least = [at.wall - token.minted.wall], 0.0
    if token.minted.boot_id == at.boot_id != "":
        ages.append(at.boot - token.minted.boot)
    elif token.minted.boot_id and at.boot_id:
        # It is older than this boot.
        least = at.boot
    life = min(token.life, LONGEST_LIFE)
    if not sasl.is_token(token.secret) or not all(least <= age <= life - LEAST_LEFT for age in ages):
        return None
    sign_in = SignInFacts(redeemed_at=token.minted.wall)
    return Granted(token.secret, at.boot - max(ages), life, token.scopes, sign_in, doubtful=token.refused)
