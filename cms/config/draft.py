"""Collects what one run of a configuration file says. Directives store their results here and nowhere else."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cms.config import arguments, trust
from cms.config.arguments import Given, Mistake, Place
from cms.config.ignored import Ignored
from cms.config.model import AuditSpec, FileSpec, MetricsSpec, SocketSpec
from cms.core.accounts import Account, Fleet, Proxy, Scopes, Source
from cms.core.hooks import Hook
from cms_oauth.microsoft import PERMISSIONS, Cloud

# The message for cloud_mdir_sync's directives that download mail.
MOVES_NO_MAIL = "cms serves tokens and moves no mail: mbsync does that, with a token from cms-oauth"


# Without slots: with them, a file that sets an attribute gets a message about Python's inside.
@dataclass(frozen=True, eq=False)
class AccountHandle:
    """What Office365_Account, GMail_Account or OAuth2_Account returns. Compared by identity.

    `account` is not complete: the rest of the file decides its scopes, scope sets and mailbox. `scopes` are the
    account's own scopes for mail, None for those of its cloud. `protocols` are the only ones to serve it with, None for
    those of its sockets. An account that is not Microsoft's has no `cloud`: `needs` has the scopes of each mail protocol.
    """

    place: Place
    account: Account
    cloud: Cloud | None
    scopes: Scopes | None
    protocols: tuple[str, ...] | None = None
    needs: Mapping[str, Scopes] = field(default_factory=dict)

    @property
    def line(self) -> int:
        """The line that it is from: the order of accounts in a set."""
        return self.place.line


@dataclass(frozen=True, slots=True)
class ProtocolHandle:
    """What Protocol returns: a protocol name that clients can request besides the mail protocols, and its scopes."""

    name: str
    scopes: Scopes


def identity(account: Account) -> str:
    """Return what identifies an account within a file, complete or not: its user, or its sign-in if it has none."""
    return account.user.casefold() or account.grant.key


def account_of(name: str, given: Given) -> AccountHandle:
    """Check that an argument is what a directive for an account returned, and return it. `name` is the argument's."""
    if isinstance(given, AccountHandle):
        return given
    what = repr(given) if isinstance(given, Ignored) else arguments.kind_of(given)
    raise Mistake(f"{name}= takes what Office365_Account(...) returned, not {what}")


def one_account(name: str, given: Given) -> AccountHandle:
    """Check, as `account_of` does, and that it is an account of one address."""
    found = account_of(name, given)
    if found.account.domain:
        raise Mistake(f"{name}= is one address, not every address of a domain", "Make an account of that address")
    return found


def protocol_of(name: str, given: Given) -> str:
    """Return the name of a mail protocol, or of one that a Protocol directive defines. `name` is the argument's."""
    return given.name if isinstance(given, ProtocolHandle) else arguments.choice(name, given, tuple(PERMISSIONS))


def protocols_of(name: str, given: Given) -> tuple[str, ...]:
    """Return the names in a list of protocols, each once. It must not be empty."""
    found = tuple(dict.fromkeys(protocol_of(name, each) for each in arguments.sequence(name, given)))
    if not found:
        raise Mistake(f"{name}= is an empty list")
    return found


class Draft:
    """A configuration while its file runs. The accounts in `sockets` and `files` are not complete (see AccountHandle)."""

    def __init__(self, file: str, system: trust.System) -> None:
        self.file = file
        self.folder = str(Path(file).absolute().parent)
        self.system = system
        # As the user who runs cms sees it, whom root may look for: `cms check` of a service's configuration.
        runner = system.service_of(file)
        self.runners = replace(system, caller=lambda: runner) if runner else system
        self.accounts: list[AccountHandle] = []
        self._accounts: dict[str, AccountHandle] = {}
        self.sockets: list[SocketSpec] = []
        self.files: list[FileSpec] = []
        # The protocols that the file defines, by name.
        self.protocols: dict[str, ProtocolHandle] = {}
        self.mailboxes: dict[AccountHandle, str] = {}
        self.vault_key: Source | None = None
        self.vault_old_key: Source | None = None
        self.ca: str | None = None
        self.hooks: list[Hook] = []
        self.desktop = True
        self.page = ""
        self.proxy: Proxy | None = None
        self.audit = AuditSpec()
        self.metrics = MetricsSpec()
        self.fleet: Fleet | None = None
        # In the order in which they were found, each once.
        self._warnings: dict[str, None] = {}
        # The files that cms reads, by resolved path: cms must not write to any of them.
        self._reads = {os.path.realpath(file): "the configuration itself"}
        # The resolved paths of the sockets, the token files and the audit's file, with the line of each.
        self._writes: dict[str, int] = {}
        # The directives that may occur only once, with their lines.
        self._once: dict[str, int] = {}
        # The place in another file whose account is being made.
        self._reading: Place | None = None

    def line(self) -> int:
        """Return the line of the file that runs now: the innermost, if the file calls its own functions."""
        stack = traceback.walk_stack(inspect.currentframe())
        # 0: a library calls, in a thread that the file has started.
        return next((line for frame, line in stack if frame.f_code.co_filename == self.file), 0)

    @property
    def place(self) -> Place:
        """Where what runs now is written: a line of the configuration, or of a file that it reads."""
        return self._reading or Place(self.file, self.line())

    @contextmanager
    def reading(self, place: Place) -> Iterator[None]:
        """Within this, the arguments of directives are from another file, and so is each Mistake."""
        self._reading = place
        try:
            yield
        except Mistake as mistake:
            raise Mistake(mistake.message, mistake.hint, place) from None
        finally:
            self._reading = None

    def warn(self, line: int, message: str) -> None:
        """Store a warning for the log and for `cms check`; once, if a line says the same again in a loop."""
        self.warn_at(Place(self.file, line), message)

    def warn_at(self, place: Place, message: str) -> None:
        """Store a warning about a place in the configuration or in a file that it reads."""
        self.warn_of_file(f"{place.file}:{place.line}: {message}")

    def warn_of_file(self, warning: str) -> None:
        """Store a warning that is for the file as a whole."""
        self._warnings[warning] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far, in order."""
        return tuple(self._warnings)

    def add(self, handle: AccountHandle) -> AccountHandle:
        """Store an account, and return it; or return the one that the file has already for the same user."""
        first = self._accounts.setdefault(identity(handle.account), handle)
        if first is handle:
            self.accounts.append(handle)
        return first

    def returned(self, directive: str, why: str) -> Ignored:
        """Return what a directive returns for which cms has no use."""
        what = f"what {directive} returned"
        return Ignored(
            what,
            lambda ignored: self.warn(self.line(), f"{ignored} is ignored: {why}"),
            lambda name: f"{name} of {what}",
        )

    def once(self, directive: str) -> None:
        """Raise Mistake if the file has this directive already."""
        if directive in self._once:
            raise Mistake(
                f"a second {directive}; the first is in line {self._once[directive]}",
                "There is one for the whole daemon",
            )
        self._once[directive] = self.line()

    def writes(self, path: str) -> str:
        """Return a path for a socket or another file. Raises Mistake if cms already reads or writes there."""
        real = os.path.realpath(path)
        if real in self._reads:
            raise Mistake(f"{path} is {self._reads[real]}, which cms reads", "One path each")
        if real in self._writes:
            raise Mistake(f"line {self._writes[real]} has something at {path} already", "One path each")
        return path

    def store(self, spec: SocketSpec | FileSpec) -> None:
        """Store a socket or a token file that is complete."""
        self.occupy(spec.path, spec.line)
        if isinstance(spec, SocketSpec):
            self.sockets.append(spec)
        else:
            self.files.append(spec)

    def occupy(self, path: str, line: int) -> None:
        """Remember that cms writes to a path."""
        self._writes[os.path.realpath(path)] = line

    def reads(self, path: str, what: str) -> str:
        """Return a path, and remember that cms reads it. Raises Mistake if cms writes there."""
        real = os.path.realpath(path)
        if real in self._writes:
            raise Mistake(f"line {self._writes[real]} writes to {path}", "One path each")
        self._reads[real] = f"{what} of line {self.line()}"
        return path


def add_account(draft: Draft, handle: AccountHandle) -> AccountHandle:
    """Store an account, and return it. Raises Mistake if the file has one for the same user already."""
    other = draft.add(handle)
    if other is not handle:
        which = f"for {handle.account.user}" if handle.account.user else "without user="
        where = other.place.seen_from(handle.place)
        raise Mistake(f"a second account {which}; the first is in {where}", "Use the first for both")
    return handle


def name_mailbox(draft: Draft, mailbox: Given, account: Given) -> None:
    """Store the mailbox of an account, for tests that open one."""
    found = one_account("account", account)
    name = arguments.text("mailbox", mailbox)
    if found in draft.mailboxes:
        draft.warn(draft.line(), f"cms tests only the first mailbox of each account; {MOVES_NO_MAIL}")
    draft.mailboxes.setdefault(found, name)
