"""Two daemons with one account, a user's and the system's. With one vault, the second one does not start (test_permissions)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from support.daemon import Daemon, account_line, ask, settings_lines
from support.reachable import ALICE
from support.waiting import until

from cms.sandbox.entra import Entra

ANN = "ann@both.test"


def test_each_has_its_own_sign_in(make_daemon: Callable[..., Daemon], entra: Entra) -> None:
    """Entra gives each its own refresh token: they serve at the same time, and one goes on when the other signs out."""
    entra.add_user(ANN)
    entra.refuse_reuse = True
    users, system = make_daemon(ALICE), make_daemon(os.geteuid())
    for daemon in (users, system):
        server = f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[account], protocols=["SMTP"])\n'
        daemon.configure(settings_lines(daemon.home, entra) + account_line("account", ANN, entra) + server)
        daemon.start()
        daemon.sign_in(ANN, entra)
    for daemon in (users, system):
        assert (token(daemon), 0) == (token(daemon), daemon.cms("refresh").returncode)
    users.cms("logout")

    assert 0 == system.cms("refresh").returncode
    assert token(system)
    assert b"" == ask(users.sockets / "cms.sock", f"SMTP,token {ANN}".encode())


def token(daemon: Daemon) -> bytes:
    """Return the account's token; wait for it."""
    path = Path(daemon.sockets / "cms.sock")
    return until(lambda: ask(path, f"SMTP,token {ANN}".encode()), "a token")
