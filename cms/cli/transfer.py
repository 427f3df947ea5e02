"""`cms export`, `import` and `prune` in the terminal: file names, passphrases, and answers to the daemon's questions."""

from __future__ import annotations

import errno
import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cms.cli.client import Remote
from cms.cli.failure import Failure
from cms.cli.terminal import working
from cms.system.files import oddity, open_regular, place_new, write_private
from cms_oauth import expand
from cms_oauth.addresses import bare, is_address
from cms_oauth.expand import literal
from cms_oauth.json_object import read_object
from cms_oauth.moves import Command, cms
from cms_oauth.text import shown

# The one format whose sign-in may be in the keyring, under the mail address.
NAMED = "oama"
# cms's own export format: its name, and the word in its first line.
OURS = "cms"
_FIRST_WORDS = ("cms-export",)

# A person who finds the file can try all shorter ones in an afternoon.
LEAST_PASSPHRASE = 8

# A passphrase is one line. A file with a longer line is probably the wrong file.
_MAX_PASSPHRASE = 4096
_MAX_HEADER = 1024


class Unsaid(Failure):
    """No usable passphrase was given. The message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "nothing was written or changed")


def absolute_place(place: str, source: str) -> str:
    """Return a file's absolute path, because the daemon's current folder is another; or the name of a keyring entry.

    Raises Unusable.
    """
    if source == NAMED and "/" not in place and not Path(place).exists():
        return bare(place)
    # pathlib would resolve links, and the message would name another file.
    return os.path.abspath(expand.named(place))  # noqa: PTH100 - as above


def why_no_sign_in(path: str) -> str:
    """Return why there can be no sign-in at a path: nothing, a folder, an empty file. "" if there may be one."""
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
    """True if a file is cms's own export: --from says so, or the file's first line does."""
    if source:
        return source == OURS
    # For a file that only the daemon can read, the user gives --from.
    with suppress(OSError, ValueError), open_regular(place) as file:
        return read_object(file.readline(_MAX_HEADER)).get("format") in _FIRST_WORDS
    return False


def ask_password(question: str) -> str:
    """Read a password from the terminal without showing it, or a line from the standard input if that is not a terminal."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{shown(question)}: ")
    return sys.stdin.readline().rstrip("\n")


# After any other answer the question is repeated. The end of the input and an empty line mean no.
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


def confirm(question: str) -> bool:
    """Ask a yes/no question at the terminal; without a terminal the answer is no."""
    if not sys.stdin.isatty():
        return False
    while True:
        print(f"{shown(question)} [y/N] ", end="", flush=True)
        said = sys.stdin.readline().strip().lower()
        if said in _ANSWERS:
            return _ANSWERS[said]


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Reads the passphrase of an export: from a file, else from the terminal, else from the standard input."""

    file: str = ""
    ask: Callable[[str], str] = ask_password

    def new(self) -> str:
        """Read the passphrase for a new export, twice at a terminal. Raises Unsaid."""
        typed = not self.file and sys.stdin.isatty()
        question = f"A passphrase for the export ({LEAST_PASSPHRASE} characters or more)"
        first = self._said(question)
        while typed and 0 < len(first) < LEAST_PASSPHRASE:
            first = self._said(f"That is too short. {question}")
        if not first:
            raise Unsaid("there was no passphrase")
        if len(first) < LEAST_PASSPHRASE:
            raise Unsaid(f"the passphrase is too short: {LEAST_PASSPHRASE} characters at least")
        if typed and self.ask("Repeat the passphrase") != first:
            raise Unsaid("the two passphrases differ")
        return first

    def known(self) -> str:
        """Read the passphrase of an existing export. Raises Unsaid."""
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
    """Send a command, answer the daemon's questions, and return its last event. A "told" event needs no answer."""
    with working("waiting for cms"):
        event = remote.ask(command, **fields)
    while event.get("event") != "done":
        said = answer(event)
        if event.get("event") != "told":
            # The time limit of `receive` starts again here: a person may have taken long to answer.
            remote.send(said)
        with working("waiting for cms"):
            event = remote.receive()
    return event


def answers(
    password: Callable[[], str], say: Callable[[str], None], *, yes: bool = False
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Return a function that answers the daemon's events; with `yes`, it answers every question with yes."""

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
    """Write encrypted sign-ins from the daemon to a file; return the daemon's last event.

    Raises Unsaid, FileExistsError, and other OSErrors.
    """
    ended = converse(remote, "export", answers(passphrase.new, lambda _: None), users=list(users))
    if ended.get("ok"):
        # Checked again: typing a passphrase takes a while, and a file may have that name now.
        check_target(path, force=force)
        write_private(path, str(ended.get("export")).encode(), place=os.replace if force else place_new)
        # It could be read as an option.
        name = literal(path.name)
        command = cms("import", f"./{name}" if name.startswith("-") else name)
        ended["hint"] = f"saved in {path}. On the other machine, run `{command}`; then delete the file"
    return ended


def restore(
    remote: Remote, user: str, path: str, passphrase: Passphrase, *, force: bool, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Import one of cms's own exports; return the daemon's last event. Raises Unsaid."""
    return converse(remote, "restore", answers(passphrase.known, say), user=user, path=path, force=force)


def bring_in(
    remote: Remote, user: str, path: str, *, source: str = "", entry: str = "", ask: Callable[[str], str] = ask_password
) -> dict[str, Any]:
    """Import another program's sign-in; return the daemon's last event.

    `source` is the format and `entry` names one of several sign-ins, "" where the person gave none.
    """
    event = remote.ask("import", user=user, path=path, source=source, entry=entry)
    if event.get("event") != "password":
        return event
    password = ask(f"{event.get('message')}; its password")
    if not password:
        return {"ok": False, "message": "no password, no import", "hint": "nothing was changed"}
    remote.send({"password": password})
    return remote.receive()


def no_file_name(word: str) -> str:
    """Return why a word is not accepted as the name of an export file, "" if it is."""
    if word == "-":
        return "an export goes to a file and not to the standard output"
    # If a person forgets FILE, the last USER is taken for it.
    if "/" in word or not is_address(bare(word)):
        return ""
    return f"{word} is an account's name: a file called so is {Command((f'./{literal(word)}',))}"


def check_target(path: Path, *, force: bool) -> None:
    """Raise FileExistsError for a file that must not be overwritten, OSError if no file can be written there."""
    # As root, a rename would replace even a device by a file.
    if what := oddity(path):
        raise OSError(errno.EINVAL, f"it is {what}: name a regular file", str(path))
    if not force and os.path.lexists(path):
        raise FileExistsError
    if not path.parent.is_dir():
        raise NotADirectoryError(None, "there is no such folder", str(path.parent))
