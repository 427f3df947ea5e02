"""Hosts of a fleet over one database, and a provider whose refresh tokens rotate."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cms.core import refusals
from cms.core.accounts import Fleet, Grant, Source
from cms.core.lifecycle import Granted, Outcome, Transient, Trouble, token_hash
from cms.grants.fleet.claim import Terms
from cms.grants.fleet.store import FleetStore
from cms.grants.providers import ExchangeEnd, Microsoft, Providers, TokenProvider
from cms.grants.service import Service
from cms.grants.vault import minted
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keyring import KEY_BYTES
from cms.grants.vault.keys import Keys
from cms.grants.vault.minted import Moment
from cms.grants.vault.store import Stored, Vault
from support.grants import NoRing
from support.postgres import Base
from support.waiting import PATIENCE

SCOPES = ("https://outlook.office.com/SMTP.Send",)
MORE = ("https://graph.microsoft.com/Mail.Send",)
ANN = "ann@example.test"
GRANT = Grant("https://login.example/common", "client", ANN, (SCOPES,))
HOUR = 3600.0

# What a used refresh token is refused with.
_REFUSED = 70000


def grant_of(number: int) -> Grant:
    """Return one of many grants."""
    return Grant("https://login.example/common", "client", f"user{number}@example.test", (SCOPES,))


@dataclass
class Rotating:
    """A provider. Each refresh token is good once; a used one gives another (lenient), or ends the sign-in (strict).

    `given` are the refresh tokens that it has given, by sign-in; `used` those that were redeemed, in order.
    """

    strict: bool = True
    life: float = HOUR
    pause: float = 0.0
    given: dict[str, str] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    replays: int = 0
    asked: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sign_in(self) -> str:
        """Return the first refresh token of a new sign-in."""
        with self.lock:
            return self._new(secrets.token_hex(4))

    def _new(self, sign_in: str) -> str:
        token = f"refresh-{sign_in}-{secrets.token_hex(16)}"
        self.given[token] = sign_in
        return token

    def exchange(self, token: str) -> dict[str, Any]:
        """Return the answer to a redemption."""
        time.sleep(self.pause)
        with self.lock:
            answer = self._answer(token)
            # Last: who waits for it finds all the rest done.
            self.asked += 1
            return answer

    def _answer(self, token: str) -> dict[str, Any]:
        sign_in = self.given[token]
        if token in self.used:
            self.replays += 1
            if self.strict:
                self.dead.add(sign_in)
        if sign_in in self.dead:
            return {"error": "invalid_grant"}
        self.used.append(token)
        return {"access": f"access-{secrets.token_hex(16)}", "refresh": self._new(sign_in), "life": self.life}


class Client:
    """What a service redeems with. `exchange` asks the provider; no answer means that it was not asked."""

    def __init__(self, exchange: Callable[[str], Mapping[str, Any]]) -> None:
        self._exchange = exchange

    def redeem(
        self, grant: Grant, scopes: tuple[str, ...], cache: str, subject: str, *, who: str = "", secret: object = ""
    ) -> ExchangeEnd:
        asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        answer = self._exchange(cache)
        if not answer:
            return ExchangeEnd(Transient(Trouble("timeout", "there was no time left to ask")))
        if "error" in answer:
            return ExchangeEnd(refusals.explain({**answer, "error_codes": [_REFUSED]}, grant, who))
        return ExchangeEnd(Granted(answer["access"], asked, answer["life"], scopes), answer["refresh"], subject, who)

    def rest(self) -> None:
        """Nothing is open."""


class Host:
    """One host of a fleet, whose worker can be started anew (`again`)."""

    def __init__(
        self,
        fleet: Fleet,
        folder: Path,
        exchange: Callable[[str], Mapping[str, Any]],
        *,
        terms: Terms | None = None,
        now: Callable[[], Moment] = minted.now,
    ) -> None:
        self.fleet, self.folder, self.exchange, self.terms, self.now = fleet, folder, exchange, terms, now
        self.store = self._store()
        self.again()

    def _store(self) -> FleetStore:
        return FleetStore(
            self.fleet, self.folder, now=self.now, terms=self.terms, name=self.folder.name, chance=lambda: 0.5
        )

    def again(self) -> None:
        """Start its worker, in place of one that was killed."""
        self.store.close()
        self.store = self._store()
        client = cast("Any", Client(self.exchange))
        vault = Vault(str(self.folder), Keys(Source("memory"), environ={}, ring=NoRing()))
        providers = Providers(lambda: cast("Microsoft", client), lambda: cast("TokenProvider", client))
        self.service = Service(vault, providers, shared=self.store)

    def ask(self, held: str | None = "", *, grant: Grant = GRANT, rejected: str = "", wanted: bool = False) -> Outcome:
        """Ask for a token, as the daemon does that holds the token with this hash."""
        return self.service.acquire(grant, grant.scope_sets[0], held, rejected, wanted=wanted)

    def token(self, held: str | None = "", **more: Any) -> str:
        """Return a token's secret."""
        outcome = self.ask(held, **more)
        assert isinstance(outcome, Granted), outcome
        return outcome.secret

    def renew(self, grant: Grant = GRANT) -> str:
        """Redeem the grant, whatever token there is."""
        return self.token(None, grant=grant)

    def sign_in(self, refresh: str, grant: Grant = GRANT, access: str = "", life: float = HOUR) -> Stored:
        """Store a new sign-in, as after a person's; `access` is the token that it gave."""
        now, at = time.time(), self.store.now()
        granted = Granted(access, at.boot, life, grant.scope_sets[0]) if access else None
        with self.store.hold(grant, grant.scope_sets[0]) as held:
            held.inspect()
            held.prepare()
            return held.store(Entry(refresh, "subject", grant.login, now, redeemed=now), granted)

    def refresh_token(self, grant: Grant = GRANT) -> str:
        """Return the refresh token that it would redeem, "" for none."""
        with self.store.hold(grant, grant.scope_sets[0]) as held:
            entry = held.read()
        return entry.cache if entry else ""


class Lab:
    """A database, keys, a provider, and hosts by name."""

    def __init__(self, base: Base, folder: Path) -> None:
        self.base = base
        self.folder = folder
        self.provider = Rotating()
        self.hosts: list[Host] = []
        for name in ("fleet.key", "tokens.key"):
            (folder / name).write_bytes(base64.b64encode(secrets.token_bytes(KEY_BYTES)))
            (folder / name).chmod(0o600)

    def host(self, name: str = "a", *, relay: bool = False, port: int = 0, listen: bool = True, **more: Any) -> Host:
        """Return a host; `port` is that of a proxy to the database."""
        fleet = self.base.fleet(self.folder, relay=relay, port=port, listen=listen)
        host = Host(fleet, self.folder / name, more.pop("exchange", self.provider.exchange), **more)
        self.hosts.append(host)
        return host

    def signed_in(self, name: str = "a", grant: Grant = GRANT, access: str = "", **more: Any) -> Host:
        """Return a host at which a person has signed in."""
        host = self.host(name, **more)
        host.sign_in(self.provider.sign_in(), grant, access)
        return host

    def row(self, columns: str, grant: Grant = GRANT) -> tuple[Any, ...]:
        """Return columns of a sign-in's row."""
        return self.base.sql(f"SELECT {columns} FROM cms.signins WHERE grant_key = %s", grant.key)[0]

    def age(self, seconds: float) -> None:
        """Let so much time pass for what the database has: leases end, tokens become older."""
        later = f"- interval '{seconds} seconds'"
        self.base.sql(f"UPDATE cms.signins SET lease_until = lease_until {later}")
        self.base.sql(f"UPDATE cms.tokens SET expires_at = expires_at {later}, refresh_at = refresh_at {later}")

    def close(self) -> None:
        for host in self.hosts:
            host.store.close()


def mint_of(secret: str) -> str:
    """Return the hash that names a token."""
    return token_hash(secret)


def together(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Return the results of calls that run at once."""
    found: list[Any] = [None] * count

    def run(number: int) -> None:
        found[number] = call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    return found


class Counter:
    """The provider behind a Unix socket, for hosts that are processes. `serve` answers a line with a line."""

    def __init__(self, provider: Rotating, path: Path) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    for line in self.rfile:
                        self.wfile.write(json.dumps(provider.exchange(line.decode().strip())).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self.path = path
        self._server = Server(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def ask_counter(path: str, token: str, sent: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Redeem at a `Counter`; `sent` is called when the question is on its way."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(token.encode() + b"\n")
        sent()
        answer: dict[str, Any] = json.loads(sock.makefile().readline())
        return answer
