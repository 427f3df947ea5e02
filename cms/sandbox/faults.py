"""Scripted faults: what goes wrong, for which requests and how often. A test can end a silence.

entra.faults.add(Fault("status", status=503, times=2))
entra.faults.add(Fault("aadsts", aadsts=50076, user="a@example.test"))
entra.faults.clear()
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "status": "an HTTP status with a JSON error of no particular kind, e.g. 503, or 429 with Retry-After",
    "reset": "the connection is reset (RST)",
    "silence": "nothing for `seconds`, then the usual answer",
    "html": "another server's page with status 200, as from a captive portal",
    "truncated": "the first half of the answer, well-formed as far as HTTP is concerned",
    "fields": "the usual answer with the fields of `fields` in place of its own; `...` removes one",
    "redirect": "HTTP 307 to another address of the same server, `ELSEWHERE`",
    "refusal": "an OAuth refusal with the word `error` and the fields of `fields`, by providers other than Entra",
    "aadsts": "Microsoft's refusal with the number `aadsts`, with `claims` where given",
    "page": "at authorize: the same refusal on a page that does not lead back to the application, as most of Microsoft's",
}

# Where the fault `redirect` leads: there is no endpoint.
ELSEWHERE = "/elsewhere"

# A challenge as conditional access sends it with AADSTS50076.
CLAIMS = '{"access_token":{"capolids":{"essential":true,"values":["11111111-2222-3333-4444-555555555555"]}}}'


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. It strikes at requests that match `endpoint`, `user` and `grant_type`, where these are not "".

    `endpoint` is "token", "devicecode", "authorize", "discovery", "sendMail", "register", "userinfo" or "revoke"; `times`
    is how often it strikes, None until cleared. With `after` the request is carried out first and only its answer is lost:
    a refresh token has been used, and its successor never arrives.
    """

    kind: str
    endpoint: str = "token"
    times: int | None = 1
    user: str = ""
    grant_type: str = ""
    after: bool = False
    status: int = 503
    retry_after: str = ""
    seconds: float = 20.0
    aadsts: int = 50173
    claims: str = ""
    error: str = "invalid_grant"
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.kind!r}; there are {', '.join(KINDS)}")

    def matches(self, endpoint: str, user: str, grant_type: str) -> bool:
        """True if the fault applies to this request."""
        return (
            self.endpoint == endpoint
            and self.user.lower() in ("", user.lower())
            and self.grant_type in ("", grant_type)
        )


class Faults:
    """The queue of faults that wait for a request, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Fault, int | None]] = []
        self._changed = threading.Condition()
        self._round = 0

    def add(self, fault: Fault) -> None:
        """Queue a fault."""
        with self._changed:
            self._waiting.append((fault, fault.times))

    def clear(self) -> None:
        """Drop every fault, and end every silence that is under way."""
        with self._changed:
            self._waiting.clear()
        self.release()

    def release(self) -> None:
        """End every silence that is under way; what waits for later requests still does."""
        with self._changed:
            self._round += 1
            self._changed.notify_all()

    def take(self, endpoint: str, user: str, grant_type: str) -> tuple[Fault, int] | None:
        """Return the first fault that matches, and count it; with it, how often `release` has been called before."""
        with self._changed:
            for place, (fault, left) in enumerate(self._waiting):
                if fault.matches(endpoint, user, grant_type):
                    self._count(place, fault, left)
                    return fault, self._round
        return None

    def silence(self, seconds: float, released: int) -> None:
        """Wait, unless `release` or `clear` has been called since `take`, which returned `released`."""
        with self._changed:
            self._changed.wait_for(lambda: self._round != released, seconds)

    def _count(self, place: int, fault: Fault, left: int | None) -> None:
        if left == 1:
            del self._waiting[place]
        elif left is not None:
            self._waiting[place] = (fault, left - 1)
