"""When a host may claim a sign-in, to redeem it. Pure.

The database decides, by the SQL of `statements.CLAIM`. `may_claim` says the same for readers, and a property test compares
the two.

All times are the database's, in seconds.
"""

from __future__ import annotations

from cms_oauth.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """How long claims last.

    - `lease`: how long a claim keeps others away by itself. Two exchanges with a provider and some room: the claiming host
      sends nothing when less than one exchange of it is left.
    - `late`: while a published token has more left than this, and more than `late_share` of its life, no host takes over
      another's claim. A host that is started anew has until then to bring its journal, and clients go on with the token.
    """

    lease: float = 60.0
    late: float = 600.0
    late_share: float = 1 / 6


@dataclass(frozen=True, slots=True)
class Published:
    """A published token: its life, and when it expires."""

    life: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim: which host has it, and when it ends by itself."""

    holder: str
    lease_until: float


@dataclass(frozen=True, slots=True)
class Row:
    """What the database has of a sign-in.

    - `generation` counts what was stored. `refused` is True if the provider refuses this generation for good.
    - `published` is the token with the scopes that the host asks for.
    - `known_history`: the database is the one that the hosts have greeted, not an older state of it. `since` is when they
      greeted it, and `started` when the server was started.
    """

    generation: int
    refused: bool
    claimed: Claimed | None
    published: Published | None
    known_history: bool
    since: float
    started: float


def may_claim(
    row: Row, host: str, generation: int, now: float, *, urgent: bool = False, terms: Terms | None = None
) -> bool:
    """Return whether a host that has read this generation may claim the sign-in.

    `urgent` is True if a mail server has refused the published token, so that clients cannot go on with it.
    """
    terms = terms or Terms()
    if row.generation != generation or row.refused:
        return False
    # After a failover or a restored backup, every host first has the time to bring its journal.
    if not row.known_history or now <= row.since + terms.lease:
        return False
    # The host's lock proves that its worker with that claim is dead.
    if row.claimed is None or row.claimed.holder == host:
        return True
    # While the server was down, the claiming host could not store what it was given.
    if now <= max(row.claimed.lease_until, row.started + terms.lease):
        return False
    return urgent or row.published is None or row.published.expires_at - now <= late(row.published.life, terms)


def late(life: float, terms: Terms) -> float:
    """Return what a token with this life has left when another host's claim may be taken over."""
    return min(terms.late, life * terms.late_share)
