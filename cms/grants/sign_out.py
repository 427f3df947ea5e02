"""Signs out of a grant: on this host or in its fleet, and at the provider where that is asked for."""

from __future__ import annotations

from dataclasses import replace

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Outcome, Transient
from cms.grants import housekeeping, wording
from cms.grants.credentials import credential
from cms.grants.network.deadline import within
from cms.grants.providers import Providers
from cms.grants.secret_sources import Unavailable
from cms.grants.stores import Elsewhere, Held, Stores


def sign_out(stores: Stores, providers: Providers, grant: Grant, *, revoke: bool) -> Outcome:
    """Delete the stored sign-in, and the key with this host's last one. With `revoke` it ends at the provider first, or stays."""
    again = refusals.hint(wording.SIGN_OUT_AGAIN[revoke], grant)
    try:
        store = stores.of(grant)
        with store.hold(grant) as held:
            if revoke:
                _end(held, providers, grant)
            found, hearers = held.delete(), held.hearers
    except Elsewhere:
        return refusals.in_person(Transient(wording.ELSEWHERE), again)
    except Unavailable as unavailable:
        return refusals.in_person(unavailable.outcome, again)
    gone = housekeeping.deleted(stores.vault if store is stores.vault else None, found=found)
    return gone if hearers is None else replace(gone, note=wording.heard(hearers))


def _end(held: Held, providers: Providers, grant: Grant) -> None:
    """End a stored sign-in at the provider. Raises Unavailable if it has not ended, Elsewhere if another host redeems it.

    It is claimed, as for a redemption: what another host redeems meanwhile would outlive the end of its refresh token.
    """
    entry = held.read()
    # A host that only serves tokens has no refresh token. If the provider refuses the sign-in for good, it has ended already.
    if entry is None or not entry.cache or held.refusal:
        return
    proof = credential(grant).value
    held.prepare()
    with within(held.claim()):
        failed = providers.of(grant).revoke(grant, entry.cache, proof)
    if failed:
        held.release()
        raise Unavailable(failed)
