"""What a reader gets (the `Machine` with its files) and what it returns (`Use`s). Pure, but for what `Machine` calls.

A reader is a function from a Machine to the uses that one program's files contain. It follows the files that the program
includes, and returns a `NotFollowed` for what it cannot follow. It runs nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

# Stands in a word for the part that is only known when the program runs: a variable, or a command's output.
UNKNOWN = "…"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a program's file. `line` is 0 for the whole file."""

    tool: str
    path: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of a setting, and the line that sets it."""

    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class Login:
    """What is known of the login that a token is for.

    - `protocol`: SMTP, IMAP or POP.
    - `form`: the form (of `wire.FORMS`) that the program takes, "" for any. Most take "token", and build the rest.
    - `bare`: True if a newline after the token would be sent too.
    """

    protocol: str = ""
    form: str = ""
    bare: bool = False


# A script of a person's own: it may do anything with the output.
ANY_LOGIN = Login()


@dataclass(frozen=True, slots=True)
class Command:
    """A run of `cms-oauth` or `git-credential-cms`.

    `words` are its arguments, `socket` the $CMS_SOCK that it gets, "" for the usual one, and `path` where the program is,
    "" if it is looked for.
    """

    place: Place
    words: tuple[str, ...]
    socket: str = ""
    login: Login = ANY_LOGIN
    program: str = "cms-oauth"
    path: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that keeps a program from logging in with a token of cms. `certain` is False if it may work all the same.

    `message` completes "PROGRAM (PLACE) ...".
    """

    place: Place
    message: str
    cause: str
    step: str
    certain: bool = True


# The next three may be about another program's socket or file, and not about cms: the judge decides that. Their `faults`
# count only if they are about cms.


@dataclass(frozen=True, slots=True)
class Request:
    """A program writes a request to a socket itself, as exim does.

    `login` is the protocol of the login that it sends the answer for, "" if it is not known to be one.
    """

    place: Place
    socket: str
    text: str
    faults: tuple[Fault, ...] = ()
    login: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Postfix looks up logins at this socket. `inside` is the same for a program that sees its queue's folder alone."""

    place: Place
    socket: str
    faults: tuple[Fault, ...] = ()
    inside: Table | None = None


@dataclass(frozen=True, slots=True)
class TokenPath:
    """A program reads a token from this file, to log in with this protocol."""

    place: Place
    path: str
    protocol: str
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """CMS_SOCK is set to this path for all programs that are started from there."""

    place: Place
    socket: str


@dataclass(frozen=True, slots=True)
class NotFollowed:
    """A file, or an inclusion in it, that was not read, and why."""

    place: Place
    why: str


Use: TypeAlias = Command | Request | Table | TokenPath | Variable | Fault | NotFollowed

# A file includes others, which may include it again.
MOST_FILES = 100


@dataclass(frozen=True, slots=True)
class Machine:
    """The files that the readers look at.

    - `environ` is the environment of the mail programs, as far as it is known.
    - `read` returns a regular file's text and raises OSError; `is_file` says whether there is one.
    - `names` returns the paths of the regular files in a folder, sorted.
    - `installed` says whether there is a program; `release` returns the major number of its release, 0 if it is not known.
    """

    home: str
    environ: Mapping[str, str]
    read: Callable[[str], str]
    is_file: Callable[[str], bool]
    names: Callable[[str], Sequence[str]]
    installed: Callable[[str], bool] = lambda _program: True
    release: Callable[[str], int] = lambda _program: 0

    @property
    def config_home(self) -> str:
        return self.environ.get("XDG_CONFIG_HOME") or f"{self.home}/.config"

    def expand(self, path: str, folder: str = "") -> str:
        """Return a path with `~` expanded, and joined to `folder` if it is relative and there is one."""
        if path == "~" or path.startswith("~/"):
            return self.home + path[1:]
        return posixpath.normpath(posixpath.join(folder, path)) if folder else path

    def first(self, *paths: str) -> list[str]:
        """Return the first of these files that exists, in a list that is empty if none does."""
        return next(([path] for path in map(self.expand, paths) if self.is_file(path)), [])

    def matching(self, folder: str, pattern: str = "*") -> list[str]:
        """Return the files in a folder whose name fits a pattern."""
        return [path for path in self.names(self.expand(folder)) if fnmatchcase(posixpath.basename(path), pattern)]


class Files:
    """Reads the files of one program, each once, and remembers what could not be read."""

    def __init__(self, machine: Machine, tool: str) -> None:
        self.machine = machine
        self.tool = tool
        self._read: set[str] = set()
        # The first place for each file and reason.
        self._unread: dict[tuple[str, str], NotFollowed] = {}

    @property
    def unread(self) -> list[NotFollowed]:
        return list(self._unread.values())

    def text(self, path: str, included: Place | None = None) -> str:
        """Return a file's text: "" if there is none, if it cannot be read, or if it was read before (in a circle)."""
        if path in self._read or len(self._read) >= MOST_FILES:
            return ""
        self._read.add(path)
        try:
            return self.machine.read(path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            why = error.strerror or str(error)
            self.not_followed(included or Place(self.tool, path), f"{path}: {why}" if included else why)
            return ""

    def not_followed(self, place: Place, why: str) -> None:
        self._unread.setdefault((place.path, why), NotFollowed(place, why))


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers. Only a line feed ends a line, as in the programs themselves."""
    yield from enumerate(text.split("\n"), 1)
