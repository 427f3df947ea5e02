"""The terminal's half of `cms export`, `import` and `prune`: which file is meant, passphrases, the daemon's questions."""

from __future__ import annotations

import errno
import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cms.cli.client import Remote
from cms.grants.messages import Place
from cms.system.files import oddity, place_new, write_private
from cms_oauth.moves import cms

# The one format that may have its sign-in in the keyring, under the mail address.
NAMED = "oama"
# An export of cms's own, by its name as a format and by what its first line says.
OURS = "cms"
_FIRST_WORDS = ("cms-export",)

# Shorter ones are tried out in an afternoon by whoever finds the file.
LEAST_PASSPHRASE = 8

# A passphrase is a line. What is longer is the wrong file.
_MAX_PASSPHRASE = 4096
_MAX_HEADER = 1024


class Unsaid(Exception):
    """No passphrase came that will do. The text says why."""


def whereabouts(place: str, source: str) -> str:
    """Return the absolute path of a file, since the daemon has another current folder; or the name of an entry."""
    if source == NAMED and "/" not in place and not Path(place).exists():
        return place
    # pathlib would resolve links, and the message would name another file.
    return os.path.abspath(place)  # noqa: PTH100 - as above


def plainly_none(path: str) -> str:
    """Say what is at a path that holds no sign-in for anybody, "" for a file, a name, and what only a daemon can see."""
    file = Path(path)
    if not file.is_absolute():
        return ""
    try:
        size = file.stat().st_size
    except PermissionError:
        return ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if what := oddity(file):
        return f"{path} is {what}"
    return "" if size else f"{path} is empty"


def is_ours(place: str, source: str) -> bool:
    """Say whether a file is an export of cms's own: because that was said, or because its first line says so."""
    if source:
        return source == OURS
    # What only the daemon may read is told by --from.
    with suppress(OSError, ValueError, AttributeError), Path(place).open("rb") as file:
        return json.loads(file.readline(_MAX_HEADER)).get("format") in _FIRST_WORDS
    return False


def ask_password(question: str) -> str:
    """Return what is typed without showing it; a line of the standard input where that is no terminal."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{question}: ")
    return sys.stdin.readline().rstrip("\n")


# Anything else is asked again. The end of the input is no answer, and so is a line without one.
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


def confirm(question: str) -> bool:
    """Ask a person at the terminal; nobody there says no."""
    if not sys.stdin.isatty():
        return False
    while True:
        print(f"{question} [y/N] ", end="", flush=True)
        said = sys.stdin.readline().strip().lower()
        if said in _ANSWERS:
            return _ANSWERS[said]


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Where the passphrase of an export is said: a file, else the terminal, else a line of the standard input."""

    file: str = ""
    ask: Callable[[str], str] = ask_password

    def new(self) -> str:
        """Return one for a new file, typed twice at a terminal. Raises Unsaid."""
        first = self._said("A passphrase for the export")
        if not first:
            raise Unsaid("there was no passphrase")
        if len(first) < LEAST_PASSPHRASE:
            raise Unsaid(f"the passphrase is too short: {LEAST_PASSPHRASE} characters at least")
        if not self.file and sys.stdin.isatty() and self.ask("Repeat the passphrase") != first:
            raise Unsaid("the two passphrases differ")
        return first

    def known(self) -> str:
        """Return that of a file that is there. Raises Unsaid."""
        return self._said("The passphrase of the export")

    def _said(self, question: str) -> str:
        if not self.file:
            return self.ask(question)
        try:
            with Path(self.file).open(encoding="utf-8", errors="surrogateescape") as file:
                return file.readline(_MAX_PASSPHRASE).rstrip("\n")
        except OSError as error:
            raise Unsaid(f"{self.file} cannot be read: {error.strerror}") from None


def converse(
    remote: Remote, command: str, answer: Callable[[Mapping[str, Any]], Mapping[str, Any]], **fields: Any
) -> dict[str, Any]:
    """Give a command; answer what the daemon asks until it ends; return the end. What is "told" wants no answer."""
    event = remote.ask(command, **fields)
    while event.get("event") != "done":
        said = answer(event)
        if event.get("event") != "told":
            # A person may have taken their time; from here on the daemon has its own again.
            remote.send(said)
        event = remote.receive()
    return event


def answers(
    password: Callable[[], str], say: Callable[[str], None], *, yes: bool = False
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return what answers a daemon's events; with `yes`, every question is answered so."""

    def answer(event: Mapping[str, Any]) -> Mapping[str, Any]:
        match event.get("event"):
            case "password":
                return {"password": password()}
            case "question":
                return {"yes": yes or confirm(str(event.get("message")))}
        say(str(event.get("message")))
        return {}

    return answer


def export(remote: Remote, users: Sequence[str], passphrase: Passphrase, path: Path, *, force: bool) -> dict[str, Any]:
    """Have sign-ins encrypted, and write them to a file; return how it ended.

    Raises Unsaid, FileExistsError, and other OSErrors.
    """
    ended = converse(remote, "export", answers(passphrase.new, lambda _: None), users=list(users))
    if ended.get("ok"):
        # Typing a passphrase takes a while: something else may have that name now.
        check_target(path, force=force)
        write_private(path, str(ended.get("export")).encode(), place=os.replace if force else place_new)
        command = cms("import", path.name)
        ended["hint"] = f"saved in {path}. On the other machine, run `{command}`; then delete the file"
    return ended


def restore(
    remote: Remote, user: str, path: str, passphrase: Passphrase, *, force: bool, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Import an export of cms's own; return how it ended. Raises Unsaid."""
    return converse(remote, "restore", answers(passphrase.known, say), user=user, path=path, force=force)


def bring_in(remote: Remote, user: str, place: Place, ask: Callable[[str], str] = ask_password) -> dict[str, Any]:
    """Import over a connection to the daemon; return how it ended."""
    event = remote.ask("import", user=user, path=place.path, source=place.source, entry=place.entry)
    if event.get("event") != "password":
        return event
    password = ask(f"{event.get('message')}; its password")
    if not password:
        return {"ok": False, "message": "no password, no import", "hint": "nothing was changed"}
    remote.send({"password": password})
    return remote.receive()


# Where somebody has forgotten the file's name, its place has the last user's: an address.
_ADDRESS = re.compile(r"[^@/]+@[^@/]+")


def no_file_name(word: str) -> str:
    """Say why a word is not taken for the name of an export, "" when it is one."""
    if word == "-":
        return "an export goes to a file and not to the standard output"
    return f"{word} is an account's name: a file called so is ./{word}" if _ADDRESS.fullmatch(word) else ""


def check_target(path: Path, *, force: bool) -> None:
    """Raise FileExistsError for a file that must not be overwritten, OSError for a place that takes none."""
    # A rename puts a file in the place of a device, where it is root's.
    if what := oddity(path):
        raise OSError(errno.EINVAL, f"it is {what}: name a regular file", str(path))
    if not force and os.path.lexists(path):
        raise FileExistsError
    if not path.parent.is_dir():
        raise NotADirectoryError(None, "there is no such folder", str(path.parent))
