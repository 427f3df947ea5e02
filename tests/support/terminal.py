"""A user with a login name and a terminal: what mutt, aerc and others need beside a mail account.

The login is a line in an /etc/passwd that only the person's own programs see. The terminal is tmux, which the tests
read and type into.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from support import evidence
from support.person import Person, person
from support.programs import require_program
from support.reachable import Installation, become
from support.servers import MailServers
from support.waiting import TooLate, until

_NAME = "alice"
_SIZE = ("-x", "150", "-y", "40")

_MOUNT = 'mount --bind "$0" /etc/passwd && exec "$@"'

# What Dovecot says of a login whose credential never came.
BEGUN = ("client didn't finish SASL auth", "failed: Connection closed: user=<>")

_numbers = count()


@dataclass
class Login(Person):
    """A person whose uid has a name."""

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program as the person, at home."""
        variables = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        inside = become(self.broker.uid, ["env", "-C", self.home, f"LOGNAME={_NAME}", *variables, *command])
        unshare = [require_program("unshare", "util-linux"), "--mount", "--propagation", "private"]
        done = self.broker.run(*unshare, "sh", "-c", _MOUNT, str(self.passwd), *inside, stdin=stdin, uid=0)
        evidence.keep("output", done.stderr)
        return done

    @property
    def passwd(self) -> Path:
        """The person's /etc/passwd."""
        return self.broker.folder / "passwd"

    def attempts(self) -> int:
        """Return how many logins the servers have seen: successful, failed or empty. Begun is not enough."""
        words = ("method=", "A=xoauth2:", "A=oauthbearer:", "authenticator failed", "501 ")
        lines = (line for line in self.servers.log().splitlines() if not any(each in line for each in BEGUN))
        return sum(line.count(word) for line in lines for word in words)


@contextmanager
def login(
    installation: Installation, servers: MailServers, more: str = "", *, configuration: str = ""
) -> Iterator[Login]:
    """Set up what docs/clients/README.md takes for granted, as `person` does, for a uid with a user name."""
    with person(installation, servers, more, configuration=configuration) as owner:
        named = Login(owner.broker, servers)
        line = f"{_NAME}:x:{owner.broker.uid}:{owner.broker.uid}:User Name:{owner.home}:/bin/sh\n"
        named.passwd.write_text(Path("/etc/passwd").read_text() + line)
        named.passwd.chmod(0o644)
        yield named


class Inhabitant(Protocol):
    """A user who can sit at a terminal: runs a program to its end."""

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]: ...


class Terminal:
    """A program in a terminal; `keys` are tmux's names of keys, or text."""

    def __init__(self, user: Inhabitant, *command: str, **environment: str) -> None:
        self._user = user
        self._socket = f"terminal-{next(_numbers)}"
        variables = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        # The pane stays after the program's end, so that its last words can be read. tmux's own word about the end
        # would push the first line off the screen.
        stays = ("set-option", "-g", "remain-on-exit", "on", ";", "set-option", "-g", "remain-on-exit-format", "", ";")
        started = self._tmux("-f", "/dev/null", *stays, "new-session", "-d", *_SIZE, *variables, *command)
        assert started.returncode == 0, started.stderr

    def screen(self) -> str:
        """Return what the screen shows."""
        shown = self._tmux("capture-pane", "-p").stdout
        evidence.keep("output", shown)
        return shown

    def text(self) -> str:
        """Return what the screen shows, with lines whole that were too long for it."""
        shown = self._tmux("capture-pane", "-p", "-J").stdout
        evidence.keep("output", shown)
        return "\n".join(line.rstrip() for line in shown.split("\n"))

    def wait_for(self, *words: str) -> str:
        """Return the screen once it shows all of these."""
        try:
            return until(lambda: self._showing(words), f"{words} on the screen")
        except TooLate as problem:
            problem.add_note(self.screen())
            raise

    def press(self, *keys: str) -> None:
        """Press keys: names of tmux's, `Enter` for example, or text."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste a text, which may be a secret: it is in no command line."""
        self._tmux("load-buffer", "-", stdin=text)
        self._tmux("paste-buffer", "-d", "-r")

    def close(self) -> None:
        """End what runs in the terminal."""
        self._tmux("kill-server")

    def _showing(self, words: tuple[str, ...]) -> str:
        screen = self.screen()
        return screen if all(word in screen for word in words) else ""

    def _tmux(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self._user.run(require_program("tmux", "tmux"), "-u", "-S", self._socket, *words, stdin=stdin)


@contextmanager
def terminal(user: Inhabitant, *command: str, **environment: str) -> Iterator[Terminal]:
    """Run a program in a terminal; it is ended with the block."""
    window = Terminal(user, *command, **environment)
    try:
        yield window
    finally:
        window.close()
