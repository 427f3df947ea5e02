"""What a provider answers (cms/grants/entra, cms/grants/network/http.py): from the bytes of a response to an outcome."""

from __future__ import annotations

import base64
import json
from contextlib import redirect_stderr
from io import BytesIO, StringIO

import requests
import urllib3
from requests.adapters import BaseAdapter

from cms.core.lifecycle import Granted, Outcome, Transient
from cms.grants import bugs, token_answer
from cms.grants.entra.client import places, silence
from cms.grants.entra.exchange import Call
from cms.grants.messages import Done, pack, unpack_reply
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import MAX_RETRY_AFTER, Discovery, Http, is_fault
from cms.grants.network.session import HttpSession
from cms.sandbox.directory import MAIL_SCOPES
from cms_oauth import sasl
from fuzz.targets.vault import GRANT

_DOCUMENT = json.dumps(
    {
        name: f"{GRANT.authority}/oauth2/v2.0/{place}"
        for name, place in (("authorization_endpoint", "authorize"), ("token_endpoint", "token"))
    }
    | {"issuer": f"{GRANT.authority}/v2.0"}
)
_HOST = "login.microsoftonline.com"
_HOME = "oid.tenant"
_OLD = "the-refresh-token-that-is-redeemed"

silence()


class Canned(BaseAdapter):
    """Answers every request with one response: a status, headers and a body, as they come over the wire."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        head, _, self._body = data.partition(b"\n\n")
        self.text = self._body.decode(errors="replace")
        line, _, fields = head.partition(b"\n")
        # Three digits that are 100 or more are a status, and nothing else gets past the HTTP library.
        self.status = int(line) if line.isdigit() and len(line) == len("200") and not line.startswith(b"0") else 200
        # Their values are text of Latin-1, as http.client has them.
        pairs = (each.partition(":") for each in fields.decode("latin-1").split("\n"))
        self._headers = {name: value.strip() for name, _, value in pairs if name}

    def send(self, request: requests.PreparedRequest, *_args: object, **_kwargs: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url = self.status, request.url or ""
        response.headers.update(self._headers)
        response.raw = urllib3.HTTPResponse(BytesIO(self._body), self._headers, preload_content=False)
        return response

    def close(self) -> None:
        pass


def _sign_in() -> str:
    """Return what the vault keeps of a sign-in."""
    client_info = base64.urlsafe_b64encode(b'{"uid": "oid", "utid": "tenant"}').decode()
    answer = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "client_info": client_info}
    with HttpSession() as session:
        session.adapters["https"] = Canned(b"200\n\n" + json.dumps(answer | {"refresh_token": _OLD}).encode())
        call = Call(GRANT, "", "", _http(session))
        call.ask(lambda: call.app.acquire_token_by_refresh_token("first", list(MAIL_SCOPES)))
        return call.kept()


def check(data: bytes) -> None:
    """An answer is an outcome that crosses to the daemon, and no bug; a token of it can be used; no successor is lost."""
    with HttpSession() as session, redirect_stderr(StringIO()) as log:
        session.adapters["https"] = answers = Canned(data)
        _check_discovery(session)
        redeemed, renewed = Call(GRANT, "", _CACHE, _http(session)), Call(GRANT, "", "", _http(session))
        account = {"home_account_id": _HOME, "environment": _HOST}
        end = redeemed.ask(
            lambda: redeemed.app.acquire_token_silent_with_error(list(MAIL_SCOPES), account, force_refresh=True)
        )
        check_outcome(redeemed.granted(end, MAIL_SCOPES, "") if isinstance(end, dict) else end)
        _check_kept(redeemed, answers)

        adopted = renewed.ask(lambda: renewed.app.acquire_token_by_refresh_token(_OLD, list(MAIL_SCOPES)))
        if isinstance(adopted, dict):
            renewed.keep_unrotated(_OLD)
        check_outcome(renewed.signed_in(adopted, MAIL_SCOPES).outcome)
    assert all(line.startswith("warning: ") and line.isprintable() for line in log.getvalue().split("\n")[:-1])


def _http(session: HttpSession) -> Http:
    return Http(session, _DOCUMENT, None, Deadline())


def _check_discovery(session: HttpSession) -> None:
    found = Discovery(session, places).document(GRANT, Deadline())
    if isinstance(found, str):
        assert json.loads(found)["token_endpoint"].startswith("https://")
    else:
        check_outcome(found)


def check_outcome(outcome: Outcome) -> None:
    """Fail unless an outcome crosses to the daemon as it is, and a token of it can be used."""
    if isinstance(outcome, Granted):
        assert sasl.is_token(outcome.secret)
        assert 0 < outcome.expires_in <= token_answer.MAX_LIFE
    else:
        assert outcome.trouble.kind != bugs.KIND
        assert outcome.trouble.message.isprintable()
        assert outcome.trouble.hint.isprintable()
    if isinstance(outcome, Transient):
        assert 0 <= outcome.retry_after <= MAX_RETRY_AFTER
    packed = pack(Done(1, outcome))
    assert pack(unpack_reply(packed.removesuffix(b"\n"))) == packed


def _check_kept(call: Call, answers: Canned) -> None:
    """Fail unless the vault would get the refresh token that came, and the one before it where none came."""
    secrets = [each["secret"] for each in json.loads(call.kept())["RefreshToken"].values()]
    came = token_answer.read(answers.text).get("refresh_token") if not is_fault(answers.status) else None
    assert secrets == [came if token_answer.is_refresh_token(came) else _OLD]


_CACHE = _sign_in()
