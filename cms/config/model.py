"""The result of loading a configuration: `Config`, or `ConfigError`."""

from __future__ import annotations

from cms.core.accounts import Account, Fleet, Grant, Proxy, Source
from cms.core.hooks import Hook
from cms_oauth.frozen import dataclass
from cms_oauth.text import printable


class ConfigError(Exception):
    """The configuration cannot be used. `line` is None for an error of the whole file; `hint` is the next move, or ""."""

    def __init__(self, file: str, line: int | None, message: str, hint: str = "") -> None:
        super().__init__(file, line, message, hint)
        self.file = file
        self.line = line
        # It may be the text of an exception that the file has raised.
        self.message = printable(message)
        self.hint = hint

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}. {self.hint}" if self.hint else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class SocketSpec:
    """One CredentialServer or PostfixTable: where it listens, who may ask, and what it serves.

    - `path`: absolute.
    - `mode`, `group`: the socket file's permission bits, and the name of the group that owns it.
    - `users`, `groups`: who may ask (names or numbers), None if the permission bits decide.
    - `speaks`: the protocol on the socket, "tokens" (docs/protocol.md) or "postfix" (socketmap).
    - `default`: a PostfixTable's default account.
    """

    path: str
    accounts: tuple[Account, ...]
    protocols: tuple[str, ...]
    mode: int
    users: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    group: str | None
    line: int
    speaks: str = "tokens"
    default: Account | None = None


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One TokenFile: its path and mode, whose token for which protocol it holds, and whether it ends with a newline."""

    path: str
    account: Account
    protocol: str
    mode: int
    newline: bool
    line: int


@dataclass(frozen=True, slots=True)
class AuditSpec:
    """Where a record of each request is written: the path of a file, "" for none, and whether to journald."""

    file: str = ""
    journal: bool = False


@dataclass(frozen=True, slots=True)
class MetricsSpec:
    """Where GET /metrics is answered: a path of a socket, or an IP address and a port. "" and 0 for nowhere."""

    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Config:
    """What a configuration file says. `warnings` are sentences for the log and for `cms check`."""

    file: str
    accounts: tuple[Account, ...]
    sockets: tuple[SocketSpec, ...]
    vault_key: Source | None
    ca: str | None
    warnings: tuple[str, ...]
    files: tuple[FileSpec, ...] = ()
    # The address of the sign-in page, "" for no page beside the redirect addresses.
    page: str = ""
    # The proxy on the way to the providers, None to use the environment's.
    proxy: Proxy | None = None
    # The programs to run on events, and whether to show desktop notifications.
    hooks: tuple[Hook, ...] = ()
    desktop: bool = True
    # Where the key is that stored sign-ins have until `cms vault rekey` has moved them.
    vault_old_key: Source | None = None
    # The keys of sign-ins whose accounts are in the file but not served, because they have no socket, file or mailbox.
    unserved: frozenset[str] = frozenset()
    audit: AuditSpec = AuditSpec()
    metrics: MetricsSpec = MetricsSpec()
    # The database in which hosts share their sign-ins, None for those of this host alone.
    fleet: Fleet | None = None

    @property
    def grants(self) -> tuple[Grant, ...]:
        """The sign-ins of the accounts, each once. Accounts that share a sign-in have equal Grants."""
        return tuple({account.grant.key: account.grant for account in self.accounts}.values())
