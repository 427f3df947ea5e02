"""Opens and closes the mailboxes of a domain, if each mailbox needs its own grant. Pure.

`*@domain.com` with a service account of Google's is such a domain. cms has no list of the addresses: it opens a mailbox when a
program first asks for it, and closes it when no program has asked for a long time. A program can ask for any address,
so there are limits:

- an account has so many mailboxes open, and the next one gets no token;
- those for which the provider has given no token yet are rationed, because each costs a question to the provider;
- a mailbox that was refused stays for minutes, so that it is not asked for again at once, and makes room for any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from cms.core.accounts import Account, Scopes
from cms.core.lifecycle import Deny, Life, NeedsSignIn, Settled, usable
from cms.core.ration import DAY, Rations
from cms_oauth.moves import fill

# A mailbox that no program has asked for during this time is closed. What is used daily keeps its token, also in an outage.
UNUSED_SECONDS = DAY
# At the limit a mailbox makes room after this time: its token has come to an end, and a new one takes a moment.
SPARED_SECONDS = 60 * 60.0
# One that never had a token is closed sooner, before a refused one is tried again by itself (after 15 minutes).
UNPROVEN_SECONDS = 10 * 60.0

# How many mailboxes a user may ask about for the first time, at once and in a day. Those that get a token are not counted: a
# relay that starts serves thousands of mailboxes, and misspelt addresses are few. The provider answers in a second.
NEW_AT_ONCE = 100
NEW_EACH_DAY = 24 * 60
# All users together, so that one of them who makes addresses up leaves something for the others.
USERS_WORTH = 4
# About when there is one more, in seconds.
_NEXT_NEW = DAY / NEW_EACH_DAY


# Not frozen: each request sets `asked`.
@dataclass(slots=True, eq=False)
class Place:
    """One mailbox that is open, among those of its `home`. `account` is its own. Times are on the boot clock.

    - `uid`: the user who asked for it first.
    - `asked`: when a program asked for it last.
    - `proven`: whether the provider has given a token for it.
    - `refused`: since when the provider refuses one, None if it does not.
    """

    home: Mailboxes
    account: Account
    uid: int
    asked: float
    proven: bool = False
    refused: float | None = None

    def learn(self, life: Life) -> None:
        """Take over what became of a question to the provider."""
        if life.held and not self.proven:
            self.proven = True
            self.home.rations.give_back(self.uid, 1.0)
        self.refused = life.phase.since if isinstance(life.phase, NeedsSignIn) else None
        self.home.heard(life)

    def is_unused(self, now: float) -> bool:
        if self.proven:
            return now - self.asked >= UNUSED_SECONDS
        return now - (self.asked if self.refused is None else self.refused) >= UNPROVEN_SECONDS

    def makes_room(self, now: float) -> bool:
        """True if it is closed when another needs a place."""
        return now - self.asked >= SPARED_SECONDS or (self.refused is not None and not self.proven)


class Mailboxes:
    """The mailboxes of one account for every address of a domain that are open, by their grants' keys."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.places: dict[str, Place] = {}
        each = (NEW_AT_ONCE, NEW_EACH_DAY)
        self.rations = Rations(each, (USERS_WORTH * NEW_AT_ONCE, USERS_WORTH * NEW_EACH_DAY))
        # When a mailbox was refused a place last, None for never.
        self._refused_at: float | None = None
        # What the provider has said last of any mailbox, if that was a refusal.
        self._refusal: Life | None = None

    def heard(self, life: Life) -> None:
        """Take over what the provider has said of a mailbox: one that works shows that a refusal was of the other alone."""
        if isinstance(life.phase, NeedsSignIn):
            self._refusal = life
        elif life.held and isinstance(life.phase, Settled):
            self._refusal = None

    def are_crowded(self, now: float) -> bool:
        """True if a mailbox was refused a place in the last hour."""
        return self._refused_at is not None and now - self._refused_at < SPARED_SECONDS

    def apply(self, account: Account, known: Collection[str]) -> None:
        """Use other settings of the account from now on. Only mailboxes whose keys are `known` stay open."""
        self.account, self._refused_at, self._refusal = account, None, None
        self.places = {key: place for key, place in self.places.items() if key in known}
        for place in self.places.values():
            place.account = account.of(place.account.user)

    def enter(self, address: str, uid: int, now: float) -> list[str] | Deny:
        """Open a mailbox for a user. Returns the keys of those that were closed to make room, or why it cannot be opened."""
        if not self.rations.take(uid, 1.0, now):
            return _too_many_new(self.account)
        closed = list[str]()
        if len(self.places) >= self.account.max_mailboxes:
            spare = [key for key, place in self.places.items() if place.makes_room(now)]
            closed = sorted(spare, key=lambda key: (self.places[key].proven, self.places[key].asked))[:1]
            if not closed:
                self.rations.give_back(uid, 1.0)
                self._refused_at = now
                return _full(self.account)
            self._close(closed[0])
        account = self.account.of(address)
        self.places[account.grant.key] = Place(self, account, uid, now)
        return closed

    def leave(self, now: float) -> list[str]:
        """Close the mailboxes that are not used; return their keys."""
        unused = [key for key, place in self.places.items() if place.is_unused(now)]
        for key in unused:
            self._close(key)
        return unused

    def _close(self, key: str) -> None:
        place = self.places.pop(key)
        if not place.proven and place.refused is None:
            # The provider has said nothing of it, as in an outage.
            self.rations.give_back(place.uid, 1.0)

    def shown(self, lives: Callable[[str], Mapping[Scopes, Life]], now: float) -> Mapping[Scopes, Life]:
        """Return the lives of the mailbox that shows best whether the account works.

        It is the one that was asked for last, if possible one with a token. If no mailbox is open, there are no lives; or
        there is the provider's last refusal, so that monitoring sees it until some mailbox works again.
        """
        if not self.places:
            return dict.fromkeys(self.account.scopes.values(), self._refusal) if self._refusal else {}
        found = ((key, place.asked, _any_usable(lives(key).values(), now)) for key, place in self.places.items())
        key, _, _ = max(found, key=lambda each: (each[2], each[1]))
        return lives(key)


def _any_usable(lives: Iterable[Life], now: float) -> bool:
    return any(usable(each, now) for each in lives)


def _full(account: Account) -> Deny:
    most = account.max_mailboxes
    return Deny(
        "unavailable",
        f"cms serves {most} mailboxes of {account.domain} already, and no more at a time",
        fill("the user who runs cms sets a greater max_mailboxes= of this account, then {reload}"),
        SPARED_SECONDS,
    )


def _too_many_new(account: Account) -> Deny:
    return Deny(
        "unavailable",
        f"too many mailboxes of {account.domain} that get no token were asked for: cms asks for others later",
        "check which addresses programs ask for: the audit has them",
        _NEXT_NEW,
    )
