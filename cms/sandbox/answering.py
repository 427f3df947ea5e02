"""Answers each request to a simulated provider as usual, or with the fault that is scripted for it, and records it."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from cms.sandbox import pages
from cms.sandbox.faults import ELSEWHERE, Fault, Faults
from cms.sandbox.tokens import digest
from cms.sandbox.web import Handler, WebReply, WebRequest, as_html, as_json, redirect

_PORTAL = "<html><head><title>Hotel Wi-Fi</title></head><body>Please accept our terms.</body></html>"
# The beginning of an answer of the token endpoint. The fault `truncated` sends it if the request is not carried out.
_HALF = b'{"token_type":"Bearer","scope":"https://outlook.office.com/SMTP.Send","expires_in":3599,"access_to'


class Declined(Exception):
    """A simulated provider does not do what was asked. Each kind of provider has its own class of these."""


@dataclass(slots=True)
class Asked:
    """One request, for counting. No secret is kept: `refresh` is the digest of the refresh token that came.

    `endpoint` is a word of `Fault.endpoint`, or "page" or "device" for what a person sees before answering. `at` is Unix
    time. `status` is 0 until the answer is on its way; `aadsts` and `fault` say what was answered. `claims` is the challenge
    that came.
    """

    endpoint: str
    grant_type: str
    user: str
    client_id: str
    scope: str
    origin: str
    refresh: str
    at: float
    status: int = 0
    aadsts: int = 0
    fault: str = ""
    claims: str = ""


class Answering(ABC):
    """Answers requests, from several threads. `changed` is the lock of everything below, notified at each request."""

    def __init__(self, faults: Faults, now: Callable[[], float]) -> None:
        self.requests: list[Asked] = []
        self.changed = threading.Condition()
        self._faults = faults
        self._now = now

    @abstractmethod
    def route(self, request: WebRequest) -> tuple[str, Handler]:
        """Return the name of the endpoint that a request is for, "" for none, and what answers it."""

    @abstractmethod
    def whose(self, fields: Mapping[str, str]) -> str:
        """Return the user whom a token request is for, "" if it is unknown."""

    @abstractmethod
    def refuse(self, declined: Declined, request: WebRequest, asked: Asked) -> WebReply:
        """Return the provider's answer to what it does not do."""

    @abstractmethod
    def scripted(self, fault: Fault, request: WebRequest, asked: Asked) -> WebReply:
        """Return the provider's own refusal that a fault stands for."""

    def answer(self, request: WebRequest) -> WebReply:
        """Answer one request."""
        endpoint, handler = self.route(request)
        with self.changed:
            # Who sees the request can end its silence: the fault has struck by then.
            asked = self._record(endpoint, request)
            struck = self._faults.take(endpoint, asked.user, asked.grant_type)
        reply = self._with_fault(*struck, handler, request, asked) if struck else self._handle(handler, request, asked)
        asked.status = reply.status
        return reply

    def _record(self, endpoint: str, request: WebRequest) -> Asked:
        told = request.fields.get
        with self.changed:
            user = self.whose(request.fields) if endpoint == "token" else told("user", "")
            refresh = digest(told("refresh_token", "")) if "refresh_token" in request.fields else ""
            origin = request.headers.get("origin", "")
            grant_type, client_id, scope = told("grant_type", ""), told("client_id", ""), told("scope", "")
            now, claims = self._now(), told("claims", "")
            asked = Asked(endpoint, grant_type, user, client_id, scope, origin, refresh, now, claims=claims)
            self.requests.append(asked)
            self.changed.notify_all()
            return asked

    def _handle(self, handler: Handler, request: WebRequest, asked: Asked) -> WebReply:
        try:
            with self.changed:
                return handler(request)
        except Declined as declined:
            return self.refuse(declined, request, asked)

    def _with_fault(self, fault: Fault, released: int, handler: Handler, request: WebRequest, asked: Asked) -> WebReply:
        asked.fault = fault.kind
        if fault.kind == "silence":
            self._faults.silence(fault.seconds, released)
        usual = None
        if fault.after or fault.kind in ("silence", "fields"):
            usual = self._handle(handler, request, asked)
        return self._spoilt(fault, usual, request, asked)

    def _spoilt(self, fault: Fault, usual: WebReply | None, request: WebRequest, asked: Asked) -> WebReply:
        if fault.kind == "reset":
            return WebReply(reset=True)
        if fault.kind == "html":
            return as_html(_PORTAL)
        if fault.kind == "redirect":
            return WebReply(307, headers=(("Location", ELSEWHERE),))
        if fault.kind == "truncated":
            return WebReply(body=usual.body[: len(usual.body) // 2] if usual else _HALF)
        if fault.kind in ("aadsts", "page", "refusal"):
            return self.scripted(fault, request, asked)
        if fault.kind == "status":
            headers = (("Retry-After", fault.retry_after),) if fault.retry_after else ()
            return as_json({"error": "temporarily_unavailable", "error_description": "scripted"}, fault.status, headers)
        assert usual is not None  # silence, fields
        return usual if fault.kind == "silence" else _with_fields(usual, fault.fields)


def _with_fields(reply: WebReply, fields: Mapping[str, Any]) -> WebReply:
    """Return a JSON answer with other values of these fields; `...` removes one."""
    changed = {**json.loads(reply.body), **fields}
    return as_json({name: value for name, value in changed.items() if value is not ...}, reply.status)


def sent_back(fields: Mapping[str, str], answer: Mapping[str, str]) -> WebReply:
    """Return the browser to the application with an answer."""
    answer = {**answer, **({"state": fields["state"]} if "state" in fields else {})}
    target = fields["redirect_uri"]
    if fields.get("response_mode") == "form_post":
        return as_html(pages.post_back(target, answer))
    return redirect(f"{target}{'&' if '?' in target else '?'}{urlencode(answer)}")
