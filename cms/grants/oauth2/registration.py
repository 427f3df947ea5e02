"""Registers an application at a server that lets anybody do so (RFC 7591): then nobody needs to get a client id."""

from __future__ import annotations

import json
from typing import Any

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Outcome, Refused, Transient, Trouble
from cms.grants.network.http import Endless, HttpReply, fetch, is_fault, object_in
from cms.grants.network.trouble import garbage
from cms.grants.oauth2.exchange import Exchange

# RFC 6750, 3.1: who registers without a token may not do this, or not for these scopes.
_INSUFFICIENT_SCOPE = "insufficient_scope"
_UNAUTHORIZED = (401, 403)


def register(exchange: Exchange) -> str | Outcome:
    """Return a new client id for the exchange's grant, or what happened instead."""
    grant = exchange.grant
    if not exchange.metadata.registration:
        return _refused(grant, "this provider does not register applications by itself")
    asked = {
        "client_name": "cms",
        "redirect_uris": [grant.redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        # OpenID Connect Dynamic Client Registration, 2: a web application may have no address on this machine.
        "application_type": "native",
    }
    reply = _ask(exchange, {**asked, "scope": " ".join(exchange.scopes)})
    if isinstance(reply, HttpReply) and object_in(reply).get("error") == _INSUFFICIENT_SCOPE:
        # Keycloak knows no scope `openid` here, and gives an application that names none all its scopes.
        reply = _ask(exchange, asked)
    if not isinstance(reply, HttpReply):
        return reply
    answer = object_in(reply)
    if "error" in answer or reply.status_code in _UNAUTHORIZED:
        word = refusals.explain(answer, grant).trouble.error
        why = word or f"HTTP {reply.status_code}"
        return _refused(grant, f"this provider does not let cms register itself ({why})", word)
    found = answer.get("client_id")
    # RFC 6749, A.1.
    visible = isinstance(found, str) and found.isascii() and found.isprintable() and found.strip()
    return str(found) if visible else Transient(garbage(grant))


def _ask(exchange: Exchange, asked: dict[str, Any]) -> HttpReply | Transient:
    """Send one request to register. A reply that is returned is no fault of the server's."""
    grant, url = exchange.grant, exchange.metadata.registration
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    try:
        body = json.dumps(asked)
        reply = fetch(exchange.session, "POST", url, exchange.http.deadline, data=body, headers=headers)
    except OSError as error:
        return Transient(exchange.http.trouble(error, grant))
    except Endless:
        return Transient(garbage(grant))
    return Transient(refusals.of_status(reply.status_code)) if is_fault(reply.status_code) else reply


def _refused(grant: Grant, message: str, word: str = "") -> Refused:
    move = "get a client id there, set client_id= of the account to it, then {reload, login}"
    return Refused(Trouble("refused", message, refusals.hint(move, grant), error=word))
