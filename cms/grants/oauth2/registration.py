"""Registers an application at a server that lets anybody do so (RFC 7591): then nobody needs to get a client id."""

from __future__ import annotations

import json

from cms.core import refusals
from cms.core.lifecycle import Outcome, Refused, Transient, Trouble
from cms.grants.network.http import Endless, fetch, is_fault, object_in
from cms.grants.network.trouble import garbage
from cms.grants.oauth2.exchange import Exchange


def register(exchange: Exchange) -> str | Outcome:
    """Return a new client id for the exchange's grant, or what happened instead."""
    grant, url = exchange.grant, exchange.metadata.registration
    if not url:
        return Refused(
            Trouble(
                "refused",
                "this provider does not register applications by itself",
                refusals.hint(
                    "get a client id there, set client_id= of the account to it, then {reload, login}", grant
                ),
            )
        )
    asked = {
        "client_name": "cms",
        "redirect_uris": [grant.redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        # OpenID Connect Dynamic Client Registration, 2: a web application may have no address on this machine.
        "application_type": "native",
        "scope": " ".join(exchange.scopes),
    }
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        body = json.dumps(asked)
        reply = fetch(exchange.session, "POST", url, exchange.http.deadline, data=body, headers=headers)
    except OSError as error:
        return Transient(exchange.http.trouble(error, grant))
    except Endless:
        return Transient(garbage(grant))
    if is_fault(reply.status_code):
        return Transient(refusals.of_status(reply.status_code))
    answer = object_in(reply)
    if "error" in answer:
        return refusals.explain(answer, grant)
    found = answer.get("client_id")
    # RFC 6749, A.1.
    visible = isinstance(found, str) and found.isascii() and found.isprintable() and found.strip()
    return str(found) if visible else Transient(garbage(grant))
