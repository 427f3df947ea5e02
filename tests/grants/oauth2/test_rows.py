"""Each row of a provider, at a simulated provider that knows what the row asks for: whether its facts go together."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from support.grants import ANN
from support.worlds import REDIRECT, issuer_world

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Refused, Transient
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, OFFLINE_ACCESS, PUBLIC_ID, strict
from cms.sandbox.issuer import Issuer
from cms_oauth.providers import DYNAMIC, OWN, PROVIDERS, Provider, Server, can_revoke

# What the simulated provider wants for a refresh token, if there is no scope for it.
ASKED = ("access_type", "offline")

ROWS = [(row, row.server) for row in PROVIDERS.values() if row.server and row.name != OWN]


def served_by(server: Server, simulated: Issuer) -> Server:
    """Return a row's server with the addresses of the simulated one, where the row has any."""
    base, paths = simulated.authority, simulated.habits.paths
    ours: dict[str, Any] = {
        "issuer": simulated.issuer,
        "authorization_endpoint": base + paths["authorize"],
        "token_endpoint": base + paths["token"],
        "device_endpoint": base + paths["devicecode"],
        "registration_endpoint": base + paths["register"],
        "userinfo_endpoint": base + paths["userinfo"],
        "revocation_endpoint": base + paths["revoke"],
    }
    return replace(server, **{name: address for name, address in ours.items() if getattr(server, name)})


def why(outcome: Transient | Refused) -> str:
    """Return what cms would say, for whoever has written the row."""
    return f"{outcome.trouble.message}; {outcome.trouble.hint}"


@pytest.mark.parametrize(("row", "server"), ROWS, ids=[row.name for row, _ in ROWS])
def test_a_row_signs_in_is_renewed_and_ends(row: Provider, server: Server) -> None:
    """With the row's scopes, parameters and client authentication; where the row can end a sign-in, its tokens are dead."""
    scopes = tuple(dict.fromkeys(itertools.chain(*row.scopes.values())))
    habits = strict()
    habits.scopes = (*scopes, *server.identity)
    habits.mail, habits.resource, habits.rotates = scopes[0], server.resource, server.rotates
    # A server whose userinfo is not known has to say in the id token who signed in.
    habits.says_who = not (server.issuer or server.userinfo_endpoint)
    habits.by_scope = OFFLINE_ACCESS in habits.scopes
    with Issuer(habits, [ANN]) as simulated:
        ours = served_by(server, simulated)
        if not habits.by_scope and ASKED not in ours.parameters:
            # Such providers give a refresh token without being asked.
            ours = replace(ours, parameters=(*ours.parameters, ASKED))
        public = DYNAMIC if row.registers else PUBLIC_ID
        secret = CLIENT_SECRET if server.client_auth in ("post", "basic") else ""
        grant = Grant(
            ours.issuer or ours.token_endpoint,
            CLIENT_ID if secret else public,
            ANN,
            (scopes,),
            redirect_uri=REDIRECT,
            provider=row.name,
            server=ours,
        )
        world = issuer_world(simulated, grant, secret)
        signed_in = world.sign_in()
        assert isinstance(signed_in.outcome, Granted), why(signed_in.outcome)
        renewed = world.redeem(signed_in)

        assert isinstance(renewed.outcome, Granted), why(renewed.outcome)
        assert simulated.introspect(renewed.outcome.secret)["active"]
        if can_revoke(ours):
            assert world.end(renewed) is None
            assert not simulated.introspect(renewed.outcome.secret)["active"]
