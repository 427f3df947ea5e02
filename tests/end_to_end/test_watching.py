"""`cms status --watch` in a real terminal: live, through the daemon's end and back, and gone without a trace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.broker import Broker
from support.daemon import Daemon
from support.terminal import terminal

from cms.sandbox.entra import Entra

USER = "user@example.test"


@dataclass
class Owner:
    """The daemon's owner, at a terminal."""

    daemon: Daemon

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        return self.daemon.run(
            "env", "-C", str(self.daemon.home), program, *arguments, stdin=stdin, uid=None, **environment
        )


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon], entra: Entra) -> Broker:
    """A daemon of ours, signed in."""
    daemon = make_daemon(os.geteuid())
    running = Broker(daemon, entra, USER)
    daemon.sign_in(USER, entra)
    return running


def test_watching(broker: Broker) -> None:
    """Rows, a count-down and the last requests; a daemon that goes and comes back; Ctrl-C leaves the shell as it was."""
    owner = Owner(broker.daemon)
    # Ctrl-C is for the watch alone; the shell stays, since tmux tells of its end in a line that scrolls the first away.
    cms = broker.daemon.installation.command("cms")
    command = f"trap : INT; {cms} status --watch; echo after: $?; stty -a | grep -o ' echo '; cat"
    with terminal(owner, "sh", "-c", command) as window:
        window.wait_for("ACCOUNT", USER, "SMTP, IMAP", "left", "NEXT REFRESH", "LAST REQUESTS", "none yet")
        broker.daemon.token(broker.path, USER)
        window.wait_for("ago", f"(uid {os.geteuid()}, process", "SMTP", "granted")
        broker.daemon.stop()
        window.wait_for("NO ANSWER: no daemon is running", USER)
        broker.daemon.start()
        window.wait_for("none yet", USER, "left")
        window.press("C-c")
        screen = window.wait_for("after: 0", "echo")

    assert "NEXT REFRESH" not in screen


def test_watching_needs_a_terminal(broker: Broker) -> None:
    """Elsewhere it is refused, with the command that prints the same once."""
    done = broker.daemon.cms("status", "--watch")

    assert (2, "") == (done.returncode, done.stdout)
    assert "`cms status` prints the same once" in done.stderr


def test_watching_is_for_people(broker: Broker) -> None:
    """Options for programs are refused together with watching."""
    assert 2 == broker.daemon.cms("status", "--watch", "--json").returncode
