"""A store with several hosts, and a provider that rotates refresh tokens strictly, for the suite that every store passes."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from cms.core.accounts import Grant, Scopes, Source
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Trouble
from cms.grants.credentials import Secret
from cms.grants.fleet.store import FleetStore
from cms.grants.messages import Prompt, SignIn
from cms.grants.providers import ExchangeEnd, Flow, Providers
from cms.grants.service import Conversation, Service
from cms.grants.stores import SharedStore
from cms.grants.vault import minted
from cms.grants.vault.keyring import KEY_BYTES
from cms.grants.vault.keys import Keys
from cms.grants.vault.minted import Moment
from cms.grants.vault.store import Vault
from support.grants import NoRing
from support.postgres import Base

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)
GRAPH: Scopes = ("https://graph.microsoft.com/Mail.Send",)
GRANT = Grant("https://login.example/common", "client", "ann@example.test", (MAIL, GRAPH))
OTHER = Grant("https://login.example/common", "client", "ben@example.test", (MAIL,))
DEAD = Refused(Trouble("refused", "the sign-in was revoked", "sign in again", aadsts=50173, error="invalid_grant"))


class Lab(Protocol):
    """One store, and the hosts that share it. With `waits`, a change of a sign-in waits for a redemption by another host."""

    waits: bool

    def hosts(self, provider: Rotating, number: int) -> list[Service]:
        """Return what so many hosts ask, each as after a start."""

    def age(self, seconds: float) -> None:
        """Let so much time pass for what is stored."""

    def lose_keys(self) -> None:
        """Take the keys away from the hosts that start later."""

    def read(self, grant: Grant) -> bytes:
        """Return what is stored of a sign-in, sealed."""

    def write(self, grant: Grant, sealed: bytes) -> None:
        """Put bytes in the place of what is stored of a sign-in."""


class Files:
    """The vault's files: hosts are as many vaults over one folder."""

    waits = True

    def __init__(self, folder: Path) -> None:
        self._state = folder / "state"
        self._key = folder / "vault.key"
        self._passed = 0.0

    def hosts(self, provider: Rotating, number: int) -> list[Service]:
        return [service(self._vault(), provider) for _ in range(number)]

    def _vault(self) -> Vault:
        keys = Keys(Source("file", (str(self._key),)), environ={}, ring=NoRing())
        return Vault(str(self._state), keys, now=self._now)

    def _now(self) -> Moment:
        now = minted.now()
        return replace(now, wall=now.wall + self._passed, boot=now.boot + self._passed)

    def age(self, seconds: float) -> None:
        self._passed += seconds

    def lose_keys(self) -> None:
        self._key.unlink()

    def read(self, grant: Grant) -> bytes:
        return (self._state / f"{grant.key}.vault").read_bytes()

    def write(self, grant: Grant, sealed: bytes) -> None:
        (self._state / f"{grant.key}.vault").write_bytes(sealed)


class Database:
    """A fleet's database. Each host has a state folder of its own."""

    waits = False

    def __init__(self, base: Base, folder: Path) -> None:
        self._base = base
        self._folder = folder
        self._stores: list[FleetStore] = []
        for name in ("fleet.key", "tokens.key"):
            (folder / name).write_bytes(base64.b64encode(secrets.token_bytes(KEY_BYTES)))
            (folder / name).chmod(0o600)

    def hosts(self, provider: Rotating, number: int) -> list[Service]:
        return [self._host(provider, self._folder / f"host{each}") for each in range(number)]

    def _host(self, provider: Rotating, state: Path) -> Service:
        store = FleetStore(self._base.fleet(self._folder), state, name=state.name)
        self._stores.append(store)
        vault = Vault(str(state), Keys(Source("memory"), environ={}, ring=NoRing()))
        return service(vault, provider, store)

    def age(self, seconds: float) -> None:
        columns = ", ".join(
            f"{each} = {each} - make_interval(secs => {seconds})" for each in ("expires_at", "refresh_at")
        )
        self._base.sql(f"UPDATE cms.tokens SET {columns} RETURNING 1")

    def lose_keys(self) -> None:
        (self._folder / "fleet.key").unlink()

    def read(self, grant: Grant) -> bytes:
        ((sealed,),) = self._base.sql("SELECT sealed FROM cms.signins WHERE grant_key = %s", grant.key)
        return bytes(sealed)

    def write(self, grant: Grant, sealed: bytes) -> None:
        self._base.sql("UPDATE cms.signins SET sealed = %s WHERE grant_key = %s RETURNING 1", sealed, grant.key)

    def close(self) -> None:
        """End the hosts' connections."""
        for each in self._stores:
            each.close()


def service(vault: Vault, provider: Rotating, shared: SharedStore | None = None) -> Service:
    """Return what a host asks."""
    return Service(vault, Providers(lambda: provider, lambda: provider), shared=shared)


@dataclass
class Rotating:
    """A provider in which a refresh token works once: a second use ends the sign-in.

    `during` is called while a refresh token is being redeemed. `overlaps` counts redemptions of a grant while another one
    was under way.
    """

    during: Callable[[], None] = lambda: None
    # Why it redeems nothing, None if it does.
    refusal: Refused | None = None
    redeemed: int = 0
    refused: int = 0
    overlaps: int = 0
    revoked: str = ""
    # The sign-ins that have ended, by number.
    dead: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        # The sign-in of each refresh token, and the one that it redeems.
        self._sign_ins: dict[str, int] = {}
        self._good: dict[int, str] = {}
        self._under_way: list[str] = []
        self._given = 0

    def begin(
        self, grant: Grant, _method: str, _claims: str = "", _secret: Secret = "", _known: str = ""
    ) -> Flow | Outcome:
        return _Flow(lambda: self._answer(grant, grant.scope_sets[0], len(self._good)))

    def redeem(
        self, grant: Grant, scopes: Scopes, cache: str, _subject: str, *, who: str = "", secret: Secret = ""
    ) -> ExchangeEnd:
        assert (grant.login, "") == (who, secret)
        with self._lock:
            self.overlaps += grant.login in self._under_way
            self._under_way.append(grant.login)
        try:
            self.during()
            return self._redeemed(grant, scopes, cache)
        finally:
            with self._lock:
                self._under_way.remove(grant.login)

    def _redeemed(self, grant: Grant, scopes: Scopes, cache: str) -> ExchangeEnd:
        if self.refusal:
            return ExchangeEnd(self.refusal)
        with self._lock:
            sign_in = self._sign_ins[cache]
            if self._good[sign_in] != cache:
                self.dead.add(sign_in)
            if sign_in in self.dead:
                self.refused += 1
                return ExchangeEnd(DEAD)
            self.redeemed += 1
        return self._answer(grant, scopes, sign_in)

    def _answer(self, grant: Grant, scopes: Scopes, sign_in: int) -> ExchangeEnd:
        with self._lock:
            self._given += 1
            cache = self._good[sign_in] = json.dumps({"token": f"refresh-{self._given}"})
            self._sign_ins[cache] = sign_in
            facts = SignInFacts(who=grant.login)
            token = Granted(f"token-{self._given}", time.clock_gettime(time.CLOCK_BOOTTIME), 3600.0, scopes, facts)
        return ExchangeEnd(token, cache, f"home of {grant.login}", grant.login)

    def adopt(self, grant: Grant, refresh_token: str, secret: Secret = "", known: str = "") -> ExchangeEnd:
        raise NotImplementedError

    def mint(self, grant: Grant, scopes: Scopes, secret: Secret) -> Outcome:
        raise NotImplementedError

    def revoke(self, _grant: Grant, cache: str, _secret: Secret = "") -> None:
        with self._lock:
            self.revoked = cache
            self.dead.add(self._sign_ins[cache])

    def discovered(self, authority: str) -> Mapping[str, str] | Trouble:
        raise NotImplementedError

    def exportable(self, _cache: str) -> bool:
        return True

    def rest(self) -> None:
        pass


@dataclass
class _Flow:
    """A sign-in whose person has agreed already."""

    end: Callable[[], ExchangeEnd]
    url: str = "https://login.example/authorize"
    user_code: str = ""
    expires_in: float = 600.0
    redirect_uri: str = "http://localhost"
    state: str = "state"
    complete_url: str = ""

    def finish(self, _fields: Mapping[str, str]) -> ExchangeEnd:
        return self.end()


class _Person(Conversation):
    def __init__(self) -> None:
        super().__init__(lambda _prompt: None)

    def prompt(self, _prompt: Prompt) -> None:
        self.redirected({"code": "code"})


def sign_in(host: Service, grant: Grant = GRANT, method: str = "browser") -> Outcome:
    """Sign in on a host."""
    return host.sign_in(SignIn(1, grant, method), _Person())
