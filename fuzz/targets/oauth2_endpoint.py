"""What a provider that is not Microsoft answers (cms/grants/oauth2): from the bytes of a response to an outcome."""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO

from cms.core.lifecycle import Granted
from cms.grants import token_answer
from cms.grants.exchange import is_code
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import OK, Discovery, is_fault
from cms.grants.network.session import HttpSession
from cms.grants.oauth2 import flows, metadata
from cms.grants.oauth2.exchange import Application, Exchange
from cms.grants.oauth2.kept import Kept
from cms.grants.oauth2.registration import register
from cms.sandbox.habits import MAIL
from cms_oauth.json_object import read_object
from cms_oauth.providers import OWN, Server
from cms_oauth.text import is_link
from fuzz.targets.token_endpoint import Canned, check_outcome
from fuzz.targets.vault import GRANT

_SERVER = Server(
    "https://sso.example",
    "https://sso.example/authorize",
    "https://sso.example/token",
    "https://sso.example/device",
    "https://sso.example/register",
    userinfo_endpoint="https://sso.example/userinfo",
    revocation_endpoint="https://sso.example/revoke",
    identity=("openid", "email"),
)
_GRANT = replace(GRANT, authority="https://sso.example", provider=OWN, server=_SERVER, scope_sets=((MAIL,),))
_OLD = "the-refresh-token-that-is-redeemed"


def check(data: bytes) -> None:
    """An answer is an outcome that crosses to the daemon, and no bug; no successor is lost; nobody is sent astray."""
    with HttpSession() as session, redirect_stderr(StringIO()) as log:
        session.adapters["https"] = answers = Canned(data)
        _check_discovery(session)
        _check_redemption(_exchange(session), answers)
        _check_sign_in(_exchange(session))
        _check_begin(session)
        _check_sign_out(_exchange(session), answers)
    assert all(line.startswith("warning: ") and line.isprintable() for line in log.getvalue().split("\n")[:-1])


def _exchange(session: HttpSession) -> Exchange:
    return Exchange(_GRANT, session, Deadline(), metadata.metadata(_SERVER, {}), Application("me", "a secret"))


def _check_discovery(session: HttpSession) -> None:
    found = Discovery(session, metadata.places).document(_GRANT, Deadline())
    if not isinstance(found, str):
        check_outcome(found)
        return
    document = read_object(found)
    assert metadata.foreign(_SERVER, document).isprintable()
    known = metadata.metadata(Server(_SERVER.issuer), document)
    places = known.authorization, known.token, known.device, known.registration, known.userinfo, known.revocation
    assert all(not url or url.startswith("https://") for url in places)


def _check_redemption(exchange: Exchange, answers: Canned) -> None:
    end = exchange.ask({"grant_type": "refresh_token", "refresh_token": _OLD})
    check_outcome(exchange.granted(end, (MAIL,), "") if isinstance(end, dict) else end)
    came = token_answer.read(answers.text).get("refresh_token") if not is_fault(answers.status) else None
    assert exchange.successor == (came if token_answer.is_refresh_token(came) else "")


def _check_sign_in(exchange: Exchange) -> None:
    end = exchange.signed_in(exchange.ask({"grant_type": "authorization_code", "code": "x"}), "nonce")
    check_outcome(end.outcome)
    if isinstance(end.outcome, Granted):
        kept = Kept.read(end.cache)
        assert kept.text() == end.cache
        assert token_answer.is_refresh_token(kept.refresh_token)
        assert end.subject


def _check_begin(session: HttpSession) -> None:
    flow = flows.begin(_exchange(session), "device")
    if isinstance(flow, flows.DeviceFlow):
        assert is_link(flow.url)
        assert flow.complete_url == "" or is_link(flow.complete_url)
        assert is_code(flow.user_code)
        assert flow.interval > 0
        assert 0 < flow.expires_in <= token_answer.MAX_LIFE
    else:
        assert not isinstance(flow, flows.CodeFlow)
        check_outcome(flow)
    client_id = register(_exchange(session))
    if not isinstance(client_id, str):
        check_outcome(client_id)


def _check_sign_out(exchange: Exchange, answers: Canned) -> None:
    """Fail if a sign-in counts as ended that the server has not ended (RFC 7009)."""
    end = exchange.revoke(_OLD)
    if end is not None:
        check_outcome(end)
    elif answers.status != OK:
        assert read_object(answers.text)["error"] == "invalid_token"
