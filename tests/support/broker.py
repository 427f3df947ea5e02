"""A daemon that is signed in to a simulated Entra, for tests of what comes after that."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cms.sandbox.entra import Entra, Fault
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.reachable import Installation
from support.waiting import PATIENCE


class Broker:
    """One user's daemon with one account, running; `path` is its token socket, for SMTP and IMAP.

    `account` goes into the directive of the account, `more` into the configuration, where `account` is its name; the
    words of `before` are put before the daemon's command.
    """

    def __init__(
        self,
        daemon: Daemon,
        entra: Entra,
        user: str,
        *,
        account: str = "",
        more: str = "",
        before: Sequence[str] = (),
    ) -> None:
        self.daemon = daemon
        self.entra = entra
        self.user = user
        self.path = str(daemon.sockets / "cms.sock")
        entra.add_user(user)
        daemon.configure(
            settings_lines(daemon.home, entra)
            + account_line("account", user, entra, account)
            + f'CredentialServer("{self.path}", accounts=[account], protocols=["SMTP", "IMAP"], mode=0o600)\n'
            + more
        )
        daemon.start(before=before)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self.daemon.process is not None
        return self.daemon.process.pid

    @property
    def control(self) -> str:
        """The control socket's path."""
        return str(next(self.daemon.home.rglob("control.sock")))

    @property
    def fetches(self) -> int:
        """How many tokens Entra was asked for with a refresh token."""
        return self.entra.count(grant_type="refresh_token")

    @contextmanager
    def waiting_for_entra(self, *before: str) -> Iterator[None]:
        """Start the daemon anew, without a token; Entra leaves its request unanswered while the block runs.

        The words of `before` are put before the daemon's command.
        """
        asked = self.fetches
        self.entra.faults.add(Fault("silence"))
        try:
            self.daemon.stop()
            self.daemon.forget_tokens()
            self.daemon.start(before=before)
            assert self.entra.wait_for(asked + 1, seconds=PATIENCE, grant_type="refresh_token")
            yield
        finally:
            self.entra.faults.clear()

    @contextmanager
    def signing_in(self, method: str, user: str = "") -> Iterator[dict[str, Any]]:
        """Start a sign-in as `cms login` does, and yield what the person is told; leaving the block gives it up."""
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rw") as lines:
            client.settimeout(PATIENCE)
            client.connect(self.control)
            lines.write(json.dumps({"command": "login", "user": user or self.user, "method": method}) + "\n")
            lines.flush()
            prompt: dict[str, Any] = json.loads(lines.readline())
            assert prompt["event"] == "prompt", prompt
            yield prompt


@contextmanager
def signed_in(
    installation: Installation,
    uid: int,
    user: str,
    *,
    groups: Sequence[int] = (),
    more: Callable[[Daemon], str] = lambda _: "",
    before: Sequence[str] = (),
) -> Iterator[Broker]:
    """Run a daemon as `uid`, signed in as `user`. `more` returns what else its configuration has."""
    with Entra() as entra, daemons(installation) as make:
        daemon = make(uid, groups)
        broker = Broker(daemon, entra, user, more=more(daemon), before=before)
        broker.daemon.sign_in(user, entra)
        yield broker
