"""What the service asks of the places where sign-ins are stored, as protocols.

The vault's files (`cms.grants.vault`) are one store, for this host alone. A fleet's database is another, which its hosts
share. Whatever the service does to a sign-in, it does the same to both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import Granted, Refused, Trouble
from cms.grants.messages import Told
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.store import Stored, Vault


class Elsewhere(Exception):
    """Another host of the fleet redeems this sign-in now."""


class Held(Protocol):
    """One grant in a store, while no other thread or process of this host has it.

    All methods may raise Unavailable, unless they say otherwise.
    """

    @property
    def interrupted(self) -> bool:
        """Whether an earlier redemption was cut off: what it got, if anything, was lost."""

    @property
    def reused(self) -> bool:
        """Whether the provider has refused the refresh token since, because it was used in that redemption."""

    @property
    def damaged(self) -> bool:
        """Whether what is stored cannot be read."""

    @property
    def hearers(self) -> int | None:
        """How many hosts hear of `delete` at once, because they are connected. None if no other host has the sign-in."""

    @property
    def claims(self) -> str:
        """A challenge that the next sign-in has to meet, even before the first one; "" for none."""

    @property
    def stored(self) -> Stored:
        """Where the entry that was read is stored."""

    @property
    def refusal(self) -> Refused | None:
        """Why the provider has refused the sign-in that was read for good, as another host found; None if it has not."""

    @property
    def wished(self) -> bool:
        """Whether a host that cannot renew the token that was read has asked for another."""

    def read(self) -> Entry | None:
        """Return the stored sign-in, None for none. Without `cache` it is known, and cannot be redeemed from here now."""

    def inspect(self) -> Entry | None:
        """Return the sign-in that a new one would replace, None for none, or for a damaged one."""

    def minted(self, held: str, *, wanted: bool = False) -> tuple[Granted, str] | None:
        """Return a stored access token that is still good, unless its hash is `held`; None for none.

        With it comes the fingerprint of what the application proved itself with. `wanted` says that a person or a client
        asked for another token: a store of several hosts may then return the held one, if it is too new to be replaced.
        """

    def withdraw(self, secret_hash: str) -> None:
        """Note that a mail server has refused the stored access token with this hash: no one gets it any more."""

    def prepare(self, *, memory_will_do: bool = False) -> Stored:
        """Decide where a successor goes, and make sure of it: before anything is redeemed."""

    def claim(self) -> float:
        """Claim the sign-in that was read, to redeem it; return the boot-clock moment until which that may take.

        Raises Elsewhere as well.
        """

    def store(self, entry: Entry, granted: Granted | None = None, proof: str = "") -> Stored:
        """Store the entry where `prepare` has decided, and the access token that it gave. It ends a claim.

        Raises Elsewhere as well, if the sign-in that was claimed was signed out or in anew meanwhile.
        """

    def release(self) -> None:
        """Undo `prepare` and `claim`: the provider did not redeem the grant. Raises nothing."""

    def mark_refused(self) -> bool:
        """Have `store` note that the provider refused another token for these scopes; return whether that is news."""

    def refused_for_good(self, trouble: Trouble) -> None:
        """Have `store` or `release` note that the provider will never redeem this sign-in again. Raises nothing."""

    def remember_reuse(self) -> None:
        """Remember that a refusal was explained by a redemption that was cut off. Raises nothing."""

    def delete(self) -> bool:
        """Delete the sign-in; return whether there was one."""


class Store(Protocol):
    """A place where sign-ins are stored."""

    @property
    def stays(self) -> bool:
        """Whether this process must not exit."""

    def hold(self, grant: Grant, scopes: Scopes = ()) -> AbstractContextManager[Held]:
        """Hold a grant against this host's other threads and processes. Raises Unavailable.

        `scopes` are those of the access token that is asked for.
        """


class SharedStore(Store, Protocol):
    """A store that several hosts share."""

    def listen(self, tell: Callable[[Told], None]) -> None:
        """Tell of sign-ins that other hosts change, and whether they can be asked, from now on. Does not wait."""

    def rest(self) -> None:
        """Close connections that nothing uses."""


class Stores:
    """This host's vault and, in a fleet, the store that it shares with other hosts."""

    def __init__(self, vault: Vault, shared: SharedStore | None = None) -> None:
        self.vault = vault
        self.shared = shared

    def of(self, grant: Grant) -> Store:
        """Return the store of a grant. What this host alone can renew, or what needs no sign-in, is not shared."""
        return self.vault if self.shared is None or grant.unattended or grant.sign_in == "broker" else self.shared

    @property
    def stays(self) -> bool:
        """Whether this process must not exit."""
        return self.vault.stays or (self.shared is not None and self.shared.stays)
