"""A machine whose mail programs' files are texts, and what a configuration serves."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from cms.cli.doctor.mail_tools.found import Command, Fault, Machine, NotFollowed, Request, Use
from cms.cli.doctor.mail_tools.judge import Served
from cms.config.model import FileSpec, SocketSpec
from cms.core.accounts import Account, Grant

HOME = "/home/u"
SOCKET = "/run/cms/cms.sock"


def machine(
    files: Mapping[str, str], environ: Mapping[str, str] | None = None, *, installed: bool = False, release: int = 0
) -> Machine:
    """Return a machine with these files; a name without a slash at its beginning is in the home folder.

    A file named `closed` may not be read.
    """
    whole = {posixpath.join(HOME, path): text for path, text in files.items()}

    def read(path: str) -> str:
        if path.endswith("/closed"):
            raise PermissionError(13, "Permission denied")
        if path not in whole:
            raise FileNotFoundError(2, "no such file")
        return whole[path]

    def names(folder: str) -> list[str]:
        return sorted(path for path in whole if posixpath.dirname(path) == folder.rstrip("/"))

    return Machine(
        HOME, environ or {}, read, whole.__contains__, names, lambda _program: installed, lambda _program: release
    )


def account(user: str, *protocols: str) -> Account:
    scopes = dict.fromkeys(protocols or ("SMTP", "IMAP"), ("https://outlook.office.com/SMTP.Send",))
    return Account(user, Grant("https://login.example.test/common", "client", user), scopes)


def served(
    *users: str, protocols: tuple[str, ...] = ("SMTP", "IMAP"), usual: str = SOCKET, path: str = SOCKET, table: str = ""
) -> Served:
    """Return a configuration with one socket, a PostfixTable at `table`, and a token file beside it."""
    accounts = tuple(account(user, *protocols) for user in users or ("user@domain.com",))
    sockets = [SocketSpec(path, accounts, protocols, 0o600, None, None, None, 1)]
    if table:
        sockets.append(SocketSpec(table, accounts, ("SMTP",), 0o600, None, None, None, 2, "postfix"))
    file = FileSpec("/run/user/1000/cms/imap-token", accounts[0], "IMAP", 0o600, newline=False, line=3)
    return Served(sockets, [file], usual, HOME)


def commands(found: list[Use]) -> list[tuple[int, str]]:
    """Return the lines of the commands and requests in what was found, and their words."""
    return [
        (each.place.line, " ".join(each.words) if isinstance(each, Command) else each.text)
        for each in found
        if isinstance(each, Command | Request)
    ]


def faults(found: list[Use]) -> list[tuple[int, str]]:
    """Return the lines and causes of what can never log in."""
    return [(each.place.line, each.cause) for each in found if isinstance(each, Fault)]


def unread(found: list[Use]) -> list[str]:
    """Return what was not followed."""
    return [f"{each.place.line}: {each.why}" for each in found if isinstance(each, NotFollowed)]
