"""What a configuration says once it is read: the `Config` that the daemon and the commands are given, and its fault."""

from __future__ import annotations

from dataclasses import dataclass

from cms.core.accounts import Account, Grant, Proxy, Source
from cms.core.notices import Hook

# What the caller allows `load`, which runs the configuration's Python in a thread: long enough for a file that asks a password
# manager for a name, short enough that a file that hangs does not hang a reload for long.
LOAD_SECONDS = 10.0


class ConfigError(Exception):
    """The configuration cannot be used. `line` is None when the whole file is meant; `hint` is the next move, or ""."""

    def __init__(self, file: str, line: int | None, message: str, hint: str = "") -> None:
        super().__init__(file, line, message, hint)
        self.file = file
        self.line = line
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}. {self.hint}" if self.hint else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class SocketSpec:
    """One CredentialServer or PostfixTable: where it listens, for whom, and what it serves.

    `path` is absolute. `mode` is the socket file's permission bits, `group` the name of the group that owns it. `users`
    and `groups` are who may ask (names or numbers), None if the permission bits decide. `speaks` is what
    the socket understands: "tokens" (docs/protocol.md) or "postfix" (socketmap); `default` is a PostfixTable's.
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
    """One TokenFile: where it is, whose token for which protocol is in it, and whether a newline ends it."""

    path: str
    account: Account
    protocol: str
    mode: int
    newline: bool
    line: int


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
    # Where the sign-in page is to be, "" for the redirect addresses alone.
    page: str = ""
    # The proxy on the way to Entra, None for what the environment says.
    proxy: Proxy | None = None
    # The programs that are run on events, and whether the desktop is told.
    hooks: tuple[Hook, ...] = ()
    desktop: bool = True
    # The keys of the sign-ins whose accounts are in the file but not served: they have no socket, file or mailbox.
    unserved: frozenset[str] = frozenset()

    @property
    def grants(self) -> tuple[Grant, ...]:
        """The sign-ins that the accounts are over, each once. Accounts that share one hold equal Grants."""
        return tuple({account.grant.key: account.grant for account in self.accounts}.values())
