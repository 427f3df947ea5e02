"""The token sockets and Postfix tables of one configuration, and their change to those of the next at a reload."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import TypeAlias

import trio

from cms.config.model import Config, ConfigError, SocketSpec
from cms.config.rules import bits_of, rules_of
from cms.core.accounts import Account, Grant
from cms.core.lifecycle import Deny
from cms.core.policy import ALL_MAPPED, NAMESPACE, Bits, Rules, shadowed
from cms.daemon.serving.audit import Audit
from cms.daemon.serving.connections import Connections
from cms.daemon.serving.folders import check_folder
from cms.daemon.serving.issue import Issuer, Keeper
from cms.daemon.serving.postfix_table import PostfixTable
from cms.daemon.serving.token_socket import TokenSocket
from cms.system.clock import Clock
from cms.system.listener import Listener, ListenError, open_listener, settle
from cms.system.logs import get_logger
from cms_oauth.frozen import dataclass

Inherited: TypeAlias = MutableMapping[str, socket.socket]

# How long a client may take to read its reply when the daemon stops. It fits into the buffer of nearly every socket.
LAST_REPLY_SECONDS = 0.2

log = get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what of it had to be looked up on this machine: the rules and the file of each socket by its path."""

    config: Config
    rules: Mapping[str, Rules]
    bits: Mapping[str, Bits]


def look_up(config: Config) -> Loaded:
    """Look up the users and groups that may ask. May block: user databases can lie behind a network."""
    rules = {spec.path: _rules(spec, config.file) for spec in config.sockets}
    return Loaded(config, rules, {spec.path: bits_of(spec, os.geteuid()) for spec in config.sockets})


def _rules(spec: SocketSpec, file: str) -> Rules:
    rules, unknown = rules_of(spec, os.geteuid())
    for name in unknown:
        raise ConfigError(file, spec.line, f"users= or groups=: there is no {name} on this machine")
    return rules


class _Served:
    """One socket that is being served, by an issuer whose rules a reload may change."""

    def __init__(self, spec: SocketSpec, issuer: Issuer, listening: Listener) -> None:
        self.spec = spec
        self.issuer = issuer
        self.listener = listening
        self.draining = trio.Event()
        self.ended = trio.Event()

    def fits(self, spec: SocketSpec) -> bool:
        """Whether this speaks as the specification wants, at a file as it wants it. systemd's are as systemd makes them."""
        same_file = not self.listener.ours or (self.spec.mode, self.spec.group) == (spec.mode, spec.group)
        return same_file and self.spec.speaks == spec.speaks


class Sockets:
    """The token sockets. `open` may come before `run`, `apply` may not."""

    def __init__(
        self,
        keeper_of: Callable[[Grant, int], Keeper | Deny],
        clock: Clock,
        audit: Audit,
    ) -> None:
        self._keeper_of = keeper_of
        self._clock = clock
        self._audit = audit
        self._served: dict[str, _Served] = {}
        self._told_of = ALL_MAPPED
        # These, and those that a reload has ended, as long as one of their requests is not answered.
        self._running: set[_Served] = set()
        self._nursery: trio.Nursery | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._served)

    @property
    def listeners(self) -> list[Listener]:
        return [served.listener for served in self._served.values()]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve what `apply` says, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def open(self, specs: Iterable[SocketSpec], inherited: Inherited) -> dict[str, Listener]:
        """Return the sockets that are new or have to change, by path. After a ListenError all is as it was."""
        opened: dict[str, Listener] = {}
        try:
            for spec in specs:
                served = self._served.get(spec.path)
                if served is None or not served.fits(spec):
                    opened[spec.path] = await _open(spec, inherited, served.listener if served else None)
        except ListenError:
            await self.put_back(opened)
            raise
        return opened

    async def put_back(self, opened: Mapping[str, Listener]) -> None:
        """Undo `open`: what is served at a path gets the path back."""
        for path, listening in opened.items():
            try:
                await self._restore(path, listening)
            except ListenError as error:
                log.error("a socket is lost: it cannot be put back", socket=path, reason=str(error))  # noqa: TRY400 - the text says all
            finally:
                listening.close()

    async def _restore(self, path: str, listening: Listener) -> None:
        served = self._served.get(path)
        if served:
            self._serve(_Served(served.spec, served.issuer, await _open(served.spec, {}, listening)))

    def apply(self, loaded: Loaded, opened: Mapping[str, Listener]) -> None:
        """Serve exactly the configured sockets. Those that end finish the requests that they have, by the new rules."""
        for path in self._served.keys() - loaded.rules.keys():
            served = self._served.pop(path)
            served.issuer.rules = _left(served.issuer.rules, loaded.config.accounts)
            served.draining.set()
        for spec in loaded.config.sockets:
            before = self._served.get(spec.path)
            listening = opened.get(spec.path) or (before.listener if before else None)
            rules = loaded.rules[spec.path]
            if listening and (listening.displaced or not listening.ours):
                # Another program has said who can connect.
                rules = replace(rules, held_to=loaded.bits[spec.path])
            issuer = before.issuer if before else Issuer(rules, self._keeper_of)
            issuer.rules = rules
            if spec.path in opened:
                self._serve(_Served(spec, issuer, opened[spec.path]))
            elif before:
                before.spec = spec
        self._tell_of_namespace(loaded)

    def _tell_of_namespace(self, loaded: Loaded) -> None:
        """Log once that numbers admit nobody here, as a warning if the configuration counts on one."""
        unmapped = next((rules.unmapped for rules in loaded.rules.values()), ALL_MAPPED)
        if unmapped == self._told_of:
            return
        self._told_of = unmapped
        tell = log.warning if any(map(shadowed, loaded.rules.values())) else log.info
        tell(NAMESPACE, uid=unmapped.uid, gid=unmapped.gid)

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and wait for those under way: so many seconds for a token, then for a client to read."""
        for served in self._running:
            served.draining.set()
        with trio.move_on_after(seconds):
            await self._ended()
        for served in self._running:
            served.issuer.close()
        await settle()
        with trio.move_on_after(LAST_REPLY_SECONDS):
            await self._ended()

    async def _ended(self) -> None:
        for served in list(self._running):
            await served.ended.wait()

    def _serve(self, served: _Served) -> None:
        assert self._nursery is not None, "sockets are served inside run()"
        before = self._served.get(served.spec.path)
        if before:
            before.draining.set()
        self._served[served.spec.path] = served
        self._running.add(served)
        self._nursery.start_soon(self._run_one, served)

    async def _run_one(self, served: _Served) -> None:
        connections: Connections
        if served.spec.speaks == "postfix":
            connections = PostfixTable(served.listener, served.issuer, self._audit)
        else:
            connections = TokenSocket(served.listener, served.issuer, self._audit, self._clock)
        try:
            await connections.run(served.draining)
        finally:
            self._running.discard(served)
            served.ended.set()


def _left(rules: Rules, accounts: Iterable[Account]) -> Rules:
    """Return the rules without the accounts that the configuration has no more: no keeper has their tokens."""
    known = {account.grant.key for account in accounts}
    default = rules.default if rules.default and rules.default.grant.key in known else None
    return replace(rules, accounts=tuple(each for each in rules.accounts if each.grant.key in known), default=default)


async def _open(spec: SocketSpec, inherited: Inherited, replaces: Listener | None) -> Listener:
    return await open_listener(
        spec.path, spec.mode, group=spec.group, inherited=inherited, replaces=replaces, check_folder=check_folder
    )
