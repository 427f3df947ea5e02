"""A daemon in this process: the real App over a worker that is faked and a configuration that a test makes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from cms.config.model import AuditSpec, Config, FileSpec, MetricsSpec, SocketSpec
from cms.core.accounts import Account, Fleet, Grant, Scopes, Source
from cms.daemon.app import App, AppOptions, run
from support.trio_run import until

FAKE = str(Path(__file__).parent / "fake_worker.py")
MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)


def account(user: str, *, login: str | None = None, **options: Any) -> Account:
    """An account whose login tells the fake worker what to do; `options` are the Grant's."""
    grant = Grant("https://login.example.test/t", "client", user if login is None else login, (MAIL,))
    return Account(user, replace(grant, **options), {"SMTP": options.get("scope_sets", (MAIL,))[0]})


@dataclass
class World:
    """Where the daemon lives, and what its configuration says: change that, and reload."""

    folder: Path
    accounts: list[Account] = field(default_factory=lambda: [account("a@example.test")])
    sockets: dict[str, dict[str, Any]] = field(default_factory=lambda: {"cms.sock": {}})
    files: list[FileSpec] = field(default_factory=list)
    vault_key: Source | None = None
    page: str = ""
    audit: AuditSpec = field(default_factory=AuditSpec)
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    fleet: Fleet | None = None
    warnings: tuple[str, ...] = ()
    fault: Exception | None = None
    options: dict[str, Any] = field(default_factory=dict)
    code: int | None = None

    def load(self, path: str) -> Config:
        """Load the configuration, as `cms.config.load` does."""
        if self.fault:
            raise self.fault
        sockets = tuple(self.spec(name, **options) for name, options in self.sockets.items())
        files = tuple(self.files)
        return Config(
            path,
            tuple(self.accounts),
            sockets,
            self.vault_key,
            None,
            self.warnings,
            files,
            self.page,
            audit=self.audit,
            metrics=self.metrics,
            fleet=self.fleet,
        )

    def spec(self, name: str, **options: Any) -> SocketSpec:
        spec = SocketSpec(self.path(name), tuple(self.accounts), ("SMTP",), 0o600, None, None, None, 7)
        return replace(spec, **options)

    def path(self, name: str = "cms.sock") -> str:
        return str(self.folder / name)

    @property
    def started(self) -> list[int]:
        """The process ids of all workers so far."""
        path = self.folder / "state" / "started"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def app_options(self) -> AppOptions:
        made = AppOptions(
            self.path("cms.cfg"),
            str(self.folder / "state"),
            str(self.folder / "run"),
            worker_argv=[sys.executable, FAKE],
            environ={},
            load=self.load,
            heed_signals=False,
        )
        return replace(made, **self.options)

    async def run(self, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> None:
        self.code = await run(self.app_options(), task_status=task_status)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[App]:
        """The daemon while the block runs; then it is stopped as SIGTERM stops it."""
        async with trio.open_nursery() as nursery:
            app: App = await nursery.start(self.run)
            yield app
            app.stop()

    async def noted(self, name: str) -> None:
        """Wait until the worker has noted this."""
        await until(Path(self.path(f"state/{name}")).exists)

    @asynccontextmanager
    async def client(self, sent: bytes, name: str = "cms.sock") -> AsyncIterator[trio.SocketStream]:
        """A connection on which this has been sent."""
        async with await trio.open_unix_socket(self.path(name)) as stream:
            await stream.send_all(sent)
            yield stream

    async def ask(self, request: str = "SMTP,token a@example.test", name: str = "cms.sock") -> str:
        """Return what the token socket answers."""
        async with self.client(f"{request}\n".encode(), name) as stream:
            return (await read(stream)).decode()


async def read(stream: trio.SocketStream) -> bytes:
    """Return all that comes."""
    return b"".join([bytes(chunk) async for chunk in stream])
