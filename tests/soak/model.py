"""What every answer of the daemon should be, whatever goes wrong around it: the rules that the soak judges by.

The model knows which tokens Entra gave, which configuration is in force, and which faults there are or have been since
all accounts were last served. A fault excuses refusals with some codes, and nothing else: it never excuses a wrong token,
nor a refusal while the daemon holds a token that is good.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support.moving_clock import MovingClock

from cms.sandbox.entra import Entra
from cms.sandbox.web import WebReply, WebRequest
from cms_oauth import sasl, wire

# A token with less time left is not served: the daemon's margin, less what is lost to whole seconds.
SHORTEST = 9.0
# What the daemon may add to a token's life: its own moments are not whole seconds, and Entra's are.
ROUNDED = 1.0
# A token with more time left is served, whatever goes wrong: what a client asks for who asks for nothing, and some more.
ENOUGH = 70.0

# Codes of refusals, as faults excuse them. `GONE` is no code: nobody answers.
LATE = "unavailable"
LOCKED = "locked"
SIGNED_OUT = "sign-in-required"
GONE = "gone"


class Wrong(AssertionError):
    """The daemon has given an answer that is not right."""


class Provider(Entra):
    """A simulated Entra that remembers whose each token is, when it ends, and when it was given."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.tokens: dict[str, tuple[str, float, float]] = {}
        super().__init__(*given, **named)

    def answer(self, request: WebRequest) -> WebReply:
        reply = super().answer(request)
        if b'"access_token"' in reply.body:
            try:
                token = json.loads(reply.body).get("access_token")
            except ValueError:
                # One that was cut off.
                return reply
            told = self.introspect(token) if isinstance(token, str) else {}
            if told.get("active"):
                self.tokens[token] = told["email"], float(told["exp"]), self.directory.now()
        return reply


@dataclass
class Asked:
    """A request under way. `held` is until when the daemon has a token for it; the rest is what may explain a refusal."""

    user: str
    protocol: str
    form: str
    since: float
    held: float
    excuses: set[str]
    served: list[frozenset[tuple[str, str]]] = field(repr=False)
    why: bool = False
    # Whether the daemon may have lost the token that it answers with.
    lost: bool = False


@dataclass
class Model:
    """What is known. `logins` says which sign-in serves a user's mailbox; `served` which users may ask for which protocol."""

    entra: Provider
    clock: MovingClock
    logins: dict[str, str]
    served: list[frozenset[tuple[str, str]]]
    excuses: set[str] = field(default_factory=set)
    # The sign-ins that a person has to renew.
    revoked: set[str] = field(default_factory=set)
    # Until when the daemon holds a token of a sign-in for a protocol, by its own account: it counts a token's life from
    # the moment at which it asked for it, and hours may have passed between that and Entra's answer. And when it was given.
    held: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    # When the wall clock was last set, or a configuration changed what is asked for. A daemon that starts anew has no use
    # for a token from before, or may have none.
    unsettled: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    _under_way: list[Asked] = field(default_factory=list)

    def excuse(self, *codes: str) -> None:
        """Excuse refusals with these codes until `forgive_nothing`, also to requests that are under way."""
        self.excuses.update(codes)
        for each in self._under_way:
            each.excuses.update(codes)

    def revoke(self, login: str) -> None:
        """A sign-in ends: a person has to sign in again."""
        self.revoked.add(login)
        for each in self._under_way:
            each.excuses |= {SIGNED_OUT} if self.logins.get(each.user) == login else set()

    def forgive_nothing(self) -> None:
        """Every account is served: from now on each must be."""
        self.excuses.clear()

    def forget(self, *logins: str) -> None:
        """The daemon may have lost the tokens of these sign-ins, or of all."""
        self.held = {key: each for key, each in self.held.items() if logins and key[0] not in logins}
        for each in self._under_way:
            if not logins or self.logins.get(each.user) in logins:
                each.held, each.lost = 0.0, True

    def unsettle(self) -> None:
        """The wall clock was set, or a configuration has come into force."""
        self.unsettled = self.clock.truth()

    def killed(self) -> dict[tuple[str, str], float]:
        """The daemon was killed. Return what the next one has to serve, without Entra, and until when."""
        owed = {key: until for key, (until, given) in self.held.items() if given > self.unsettled}
        self.forget()
        return owed

    def change(self, served: frozenset[tuple[str, str]]) -> None:
        """The configuration may be this one now, or still the one before."""
        self.served.append(served)
        for each in self._under_way:
            each.served.append(served)

    def changed(self) -> None:
        """The last configuration is the one in force."""
        del self.served[:-1]
        self.unsettle()

    @contextmanager
    def request(self, user: str, protocol: str, form: str, *, why: bool) -> Iterator[Asked]:
        """Watch a request while the block runs."""
        held, _ = self.held.get((self.logins.get(user, ""), protocol), (0.0, 0.0))
        excuses = self.excuses | ({SIGNED_OUT} if self.logins.get(user) in self.revoked else set())
        asked = Asked(user, protocol, form, self.clock.truth(), held, excuses, [*self.served], why)
        self._under_way.append(asked)
        try:
            yield asked
        finally:
            self._under_way.remove(asked)

    def judge(self, asked: Asked, reply: bytes) -> str:
        """Return the token or "", or raise Wrong."""
        code, token, left = _understood(asked, reply)
        self.counts[code or "token"] += 1
        if token:
            self._judge_token(asked, token, left)
        elif code not in self._right_codes(asked):
            raise Wrong(f"{asked}: {reply.decode() or 'nothing'} at {self.clock.truth():.0f}")
        return token

    def _judge_token(self, asked: Asked, token: str, left: float) -> None:
        whose, until, given = self.entra.tokens.get(token, ("", 0.0, 0.0))
        login = self.logins.get(asked.user, "")
        if not login or not any((asked.user, asked.protocol) in each for each in asked.served):
            raise Wrong(f"{asked}: a token for what is not served")
        if whose != login or until < asked.since + SHORTEST:
            raise Wrong(f"{asked}: a token of {whose or 'nobody'} that ends at {until}")
        # It was answered after `since`.
        end = asked.since + left
        if end > until + ROUNDED:
            raise Wrong(f"{asked}: said to last until {end:.0f}, and ends at {until:.0f}")
        if not asked.lost and len(asked.served) == len(self.served) == 1:
            held = login, asked.protocol
            self.held[held] = max((end, given), self.held.get(held, (0.0, 0.0)))

    def _right_codes(self, asked: Asked) -> set[str]:
        codes = {GONE} & asked.excuses
        for served in asked.served:
            if asked.user not in {user for user, _ in served}:
                codes.add("unknown-account")
            elif (asked.user, asked.protocol) not in served:
                codes.add("unknown-protocol")
            elif asked.held < self.clock.truth() + ENOUGH:
                codes |= asked.excuses
        # In a plain form all refusals look alike.
        return codes | {""} if codes - {GONE} and not asked.why and asked.form != "json" else codes


def _understood(asked: Asked, reply: bytes) -> tuple[str, str, float]:
    """Return the code of a refusal and the token of an answer, one of them "", and for how many seconds it is said to last.

    A code of "" is an empty answer. Only JSON says how long a token lasts.
    """
    if asked.form == "json" and reply:
        body = json.loads(reply)
        if "error" in body:
            return str(body["error"]["code"]), "", 0.0
        _check_user(asked, body["user"])
        return "", str(body["token"]), float(body["expires_in"])
    refused = wire.parse_refusal(reply.decode())
    if refused:
        return refused[0], "", 0.0
    if not reply:
        return "", "", 0.0
    if asked.form == "token":
        return "", reply.decode(), 0.0
    user, token = sasl.split(reply.decode())
    _check_user(asked, user)
    return "", token, 0.0


def _check_user(asked: Asked, user: str) -> None:
    if user != asked.user:
        raise Wrong(f"{asked}: the answer is for {user}")
