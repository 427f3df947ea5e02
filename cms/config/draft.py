"""What one run of a configuration file has said so far: the only place where a load leaves anything."""

from __future__ import annotations

import inspect
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

from cms.config import arguments, trust
from cms.config.arguments import Given, Mistake
from cms.config.model import FileSpec, SocketSpec
from cms.core.accounts import Account, Proxy, Scopes, Source
from cms.core.notices import Hook
from cms_oauth.microsoft import Cloud

# What is said of the directives of CMS that download mail.
MOVES_NO_MAIL = "cms serves tokens and moves no mail: mbsync does that, with a token from cms-oauth"


@dataclass(frozen=True, slots=True, eq=False)
class AccountHandle:
    """What Office365_Account returns. Each is itself and equal to no other.

    What the rest of the file decides is missing in `account`: scopes, scope sets and the mailbox. `scopes` are the
    account's own for mail, None where its cloud has them.
    """

    line: int
    account: Account
    cloud: Cloud
    scopes: Scopes | None


@dataclass(frozen=True, slots=True, eq=False)
class IgnoredHandle:
    """What a directive returns that cms has no use for."""

    directive: str


@dataclass(frozen=True, slots=True)
class ProtocolHandle:
    """What Protocol returns: a name that requests may have where a mail protocol stands, and what its tokens are for."""

    name: str
    scopes: Scopes


def identity(account: Account) -> tuple[str, str]:
    """Return what tells one account of a file from the others, finished or not."""
    return account.user.casefold(), account.grant.key


def account_of(name: str, given: Given) -> AccountHandle:
    """Return the account that an argument of this name was given."""
    if isinstance(given, AccountHandle):
        return given
    what = f"what {given.directive} returned" if isinstance(given, IgnoredHandle) else arguments.kind_of(given)
    raise Mistake(f"{name}= takes what Office365_Account(...) returned, not {what}")


class Draft:
    """A configuration in the making. The accounts of `sockets` and `files` lack what `AccountHandle.account` lacks."""

    def __init__(self, file: str, system: trust.System) -> None:
        self.file = file
        self.folder = str(Path(file).absolute().parent)
        self.system = system
        self.accounts: list[AccountHandle] = []
        self.sockets: list[SocketSpec] = []
        self.files: list[FileSpec] = []
        # The protocols with scopes of their own, by name.
        self.protocols: dict[str, ProtocolHandle] = {}
        self.mailboxes: dict[AccountHandle, str] = {}
        self.vault_key: Source | None = None
        self.ca: str | None = None
        self.hooks: list[Hook] = []
        self.desktop = True
        self.page = ""
        self.proxy: Proxy | None = None
        self.warnings: list[str] = []
        # What cms reads, by resolved path: none of it may be where it writes.
        self._reads = {os.path.realpath(file): "the configuration itself"}
        # The directives that a file may have once, with their lines.
        self._once: dict[str, int] = {}

    def line(self) -> int:
        """Return the line of the file that is running: the innermost, if the file defines functions."""
        stack = traceback.walk_stack(inspect.currentframe())
        return next(line for frame, line in stack if frame.f_code.co_filename == self.file)

    def warn(self, line: int, message: str) -> None:
        """Keep a sentence for the log and for `cms check`."""
        self.warnings.append(f"{self.file}:{line}: {message}")

    def once(self, directive: str) -> None:
        """Refuse a directive that the file has had already."""
        if directive in self._once:
            raise Mistake(
                f"a second {directive}; the first is in line {self._once[directive]}",
                "There is one for the whole daemon",
            )
        self._once[directive] = self.line()

    def writes(self, path: str) -> str:
        """Return a path for a socket or a file, unless cms has something else there."""
        real = os.path.realpath(path)
        if real in self._reads:
            raise Mistake(f"{path} is {self._reads[real]}, which cms reads", "One path each")
        if real in self._written():
            raise Mistake(f"line {self._written()[real]} has something at {path} already", "One path each")
        return path

    def reads(self, path: str, what: str) -> str:
        """Return a path, and remember that cms reads it, unless cms writes there."""
        real = os.path.realpath(path)
        if real in self._written():
            raise Mistake(f"line {self._written()[real]} writes to {path}", "One path each")
        self._reads[real] = f"{what} of line {self.line()}"
        return path

    def _written(self) -> dict[str, int]:
        """Return where cms puts sockets and files, resolved, with the line that says so."""
        said: list[SocketSpec | FileSpec] = [*self.sockets, *self.files]
        return {os.path.realpath(each.path): each.line for each in said}
