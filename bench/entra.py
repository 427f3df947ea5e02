"""The sandbox's Entra in a process of its own, so that what it costs is not counted as anybody else's.

It is also the OpenID provider that oidc-agent and pizauth are signed in to, on plain HTTP.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection

from bench.measure import Failed
from cms.sandbox import person
from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.entra import Entra
from cms.sandbox.redeem import Refresh
from cms.sandbox.tokens import digest
from cms.sandbox.web import WebReply, WebRequest, as_json

_TOKEN_SIZE = 800
_OK = 200


def user(number: int) -> str:
    """Return the name of one of the sandbox's users."""
    return f"user{number}@bench.example"


def first_refresh_token(name: str) -> str:
    """Return the refresh token that a user begins with: made of the name, so that a vault file needs no sign-in.

    Entra's have no character that a form has to escape.
    """
    return (f"1.{name.replace('@', '_')}." * _TOKEN_SIZE)[:_TOKEN_SIZE]


class _Counting(Entra):
    """Counts the redemptions that it has answered."""

    def __init__(self) -> None:
        super().__init__([user(0)])
        self.redeemed = 0
        self.more = threading.Condition()
        self.plain.paths |= {"/.well-known/openid-configuration": self._provider, "/token": self._token}

    def answer(self, request: WebRequest) -> WebReply:
        reply = super().answer(request)
        if request.fields.get("grant_type") == "refresh_token" and reply.status == _OK:
            with self.more:
                self.redeemed += 1
                self.more.notify_all()
            # Nobody asks for them here, and there will be very many.
            self.requests.clear()
        return reply

    def has_redeemed(self, number: int) -> bool:
        return self.redeemed >= number

    def sign_in_all(self, first: int, end: int) -> None:
        """Make users who are signed in, with their first refresh tokens."""
        for name in map(user, range(first, end)):
            made = self.add_user(name)
            made.consents = set(self.directory.user(user(0)).consents)
            expires = self.directory.now() + self.refresh_life
            self.redeemer.refreshes[digest(first_refresh_token(name))] = Refresh(made, CLIENT_ID, expires, spa=False)

    def _provider(self, _: WebRequest) -> WebReply:
        url = self.plain.url
        told = {"issuer": f"{url}/", "authorization_endpoint": f"{url}/none", "token_endpoint": f"{url}/token"}
        told["registration_endpoint"] = f"{url}/none"
        lists = {
            "scopes_supported": ["openid"],
            "grant_types_supported": ["refresh_token"],
            "response_types_supported": ["code"],
        }
        return as_json(told | lists)

    def _token(self, _: WebRequest) -> WebReply:
        told = {"refresh_token": "next", "token_type": "Bearer", "expires_in": 3600}
        return as_json({"access_token": self.issue(user(0)), **told})


def _serve(pipe: Connection, elsewhere: bool) -> None:
    """Be the process: answer questions until the other end has gone."""
    if elsewhere:
        # Not only by niceness: what wakes would still wait for a slice of this one's.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with _Counting() as entra, suppress(EOFError):
        pipe.send((entra.authority, entra.ca_file, entra.plain.url))
        while True:
            match pipe.recv():
                case ("users", first, end):
                    entra.sign_in_all(first, end)
                case ("forget",):
                    entra.redeemed = 0
                case ("wait", number, seconds):
                    with entra.more:
                        entra.more.wait_for(partial(entra.has_redeemed, number), seconds)
            pipe.send((entra.redeemed, time.monotonic()))


@dataclass
class Sandbox:
    """The simulated Entra, as the rest of bench sees it. `plain` is the address of its OpenID provider."""

    authority: str
    ca_file: str
    plain: str
    _pipe: Connection
    _users: int = 1

    def have(self, users: int) -> None:
        """Have so many users."""
        if users > self._users:
            self._ask("users", self._users, users)
            self._users = users

    def forget(self) -> None:
        """Count redemptions from here on."""
        self._ask("forget")

    def wait_for(self, number: int, seconds: float = 600.0) -> float:
        """Wait until there have been so many redemptions, and return when, by the monotonic clock. Raises Failed."""
        redeemed, now = self._ask("wait", number, seconds)
        if redeemed < number:
            raise Failed(f"{redeemed} of {number} sign-ins were redeemed within {seconds:g} s")
        return now

    def sign_in(self, url: str) -> str:
        """Be the person at the link of a sign-in; return the address to paste."""
        return person.sign_in(url, user(0), ca_file=self.ca_file, follow=False).url

    def _ask(self, *question: object) -> tuple[int, float]:
        self._pipe.send(question)
        redeemed, now = self._pipe.recv()
        return redeemed, now


@contextmanager
def sandbox(*, elsewhere: bool = False) -> Iterator[Sandbox]:
    """Run a sandbox. `elsewhere`: it gives way to everything that is measured, as Microsoft's machines take no CPU here."""
    processes = get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_serve, args=(theirs, elsewhere))
    process.start()
    theirs.close()
    try:
        authority, ca_file, plain = ours.recv()
        yield Sandbox(authority, ca_file, plain, ours)
    finally:
        ours.close()
        process.join()
