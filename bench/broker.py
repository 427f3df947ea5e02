"""A running cms of one installation: its configuration, its sign-ins, its log, and what is asked of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.entra import Sandbox, first_refresh_token, user
from bench.ground import INSIDE, Ground, Installation, environment
from bench.measure import Failed
from bench.programs import PATIENCE, Command, ask, is_answered, output, until
from cms.sandbox.directory import CLIENT_ID
from cms.system.descendants import descendants

# Needs no token to be answered.
NOBODY = "SMTP,why nobody@bench.example\n"

_CONFIG = """\
accounts = [
    Office365_Account(f"user{{number}}@bench.example", authority={authority!r}, client_id={client_id!r},
                      redirect_uri="http://localhost/", refresh_before={early} if number == {accounts} - 1 else None)
    for number in range({accounts})
]
CredentialServer({sock!r}, accounts=accounts, protocols=["SMTP", "IMAP"], mode=0o600)
# All may connect, and only root may ask.
CredentialServer({root_sock!r}, accounts=accounts, users=[0])
Vault(key={key})
Tls(ca={ca!r})
# A cms that is older has each request in its log.
if "Audit" in globals():
    Audit({audit!r})
"""


class Broker:
    """One daemon's folder, not started yet. `before` are words before the daemon's command."""

    def __init__(
        self, place: Path, cms: Installation, entra: Sandbox, accounts: int = 1, *, hurried: bool = False
    ) -> None:
        self.cms = cms
        self.accounts = accounts
        self._hurried = hurried
        self.home = place / "home"
        self.sock, self.root_sock = (str(place / "sockets" / name) for name in ("cms.sock", "root.sock"))
        self.process: subprocess.Popen[bytes] | None = None
        self.before: Command = ()
        self.environment = environment(self.home)
        self._entra = entra
        self._log = place / "log"
        self._audit = self.home / "audit.log"
        self._key = self.home / "key"
        self._config = self.home / "cms.cfg"
        for folder, mode in ((self.home, 0o700), (self.home / "run", 0o700), (place / "sockets", 0o755)):
            folder.mkdir(mode=mode)
        self.configure()

    def configure(self, *, early: int | None = None, key: str = "") -> None:
        """Write the configuration. The last account is refreshed so many seconds `early`."""
        sockets = {"sock": self.sock, "root_sock": self.root_sock}
        places = {**sockets, "audit": str(self._audit), "key": key or f"File({str(self._key)!r})"}
        entra = {"authority": self._entra.authority, "client_id": CLIENT_ID, "ca": self._entra.ca_file}
        self._config.write_text(_CONFIG.format(accounts=self.accounts, early=early, **places, **entra))

    def sign_in(self) -> None:
        """Sign the first user in, as a person does."""
        command: Command = [self.cms.command("cms"), "login", "-c", self._config, user(0), "--paste"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # The overloads of Popen do not see what is in `pipes`.
        with subprocess.Popen(command, text=True, env=self.environment, **pipes) as login:  # type: ignore[call-overload]
            link = next(word for line in login.stdout for word in line.split() if "/authorize?" in word)
            login.communicate(f"{self._entra.sign_in(link)}\n")
        if login.returncode:
            raise Failed(f"cms login ended with status {login.returncode}")

    def sign_all_in(self) -> None:
        """Write the sign-ins of all other users, and delete the access tokens that are stored."""
        names = [user(number) for number in range(self.accounts)]
        rows = [(name, str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), first_refresh_token(name)) for name in names]
        command: Command = [self.cms.python, "-I", INSIDE / "seed.py", self.home / "state" / "cms", self._key]
        output(command, self.environment, json.dumps(rows))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start the daemon; it is not ready yet."""
        command: Command = [*self.before, self.cms.command("cms"), "run", "-c", self._config]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def start(self, request: str = f"SMTP {user(0)}\n") -> None:
        """Start the daemon, and wait until it has an answer to this request."""
        self.launch()
        until(lambda: self._lives() and is_answered(self.sock, request), "an answer of the daemon")

    def _lives(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise Failed(f"the daemon has ended: {self._log.read_text()[-500:]}")
        return True

    def stop(self) -> None:
        """End the daemon as systemd does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE)
            self.process = None

    def rest(self) -> None:
        """Wait until the grant worker has left. In a hurry, end it once all is fresh: it would stay for five seconds."""
        if self._hurried:
            until(lambda: set(self._states()) == {"ok"}, "a token of every account")
            for worker in descendants(self.pid):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
        until(lambda: not descendants(self.pid), "the grant worker's end")

    def tell(self, command: str, **more: object) -> dict[str, Any]:
        """Give the daemon a command, as `cms` does, and return its answer. Raises Failed unless it is well."""
        question = json.dumps({"command": command, **more}) + "\n"
        said: dict[str, Any] = json.loads(ask(self.home / "run" / "cms" / "control.sock", question))
        if not said.get("ok"):
            raise Failed(f"cms {command}: {said.get('message')}")
        return said

    def check_all_fresh(self) -> None:
        """Raise Failed unless a token of every account is held."""
        states = self._states()
        if states != ["ok"] * self.accounts:
            raise Failed(f"{len(states)} accounts are {', '.join(sorted(set(states)))}")

    def _states(self) -> list[str]:
        return [row["state"] for row in self.tell("status")["json"]["accounts"]]

    def lines(self, word: str = " outcome=") -> tuple[int, int]:
        """Return how many requests on record have this word, and how many lines of the log are no request.

        A line is late by a few milliseconds. The record is the audit's file, or the log of a cms that has no audit.
        """
        with (self._audit if self._audit.exists() else self._log).open("rb") as record:
            found = sum(word.encode() in line for line in record)
        with self._log.open("rb") as log:
            return found, sum(b" outcome=" not in line for line in log)

    def forget_log(self) -> None:
        """Empty the log and the record."""
        for each in (self._log, self._audit):
            if each.exists():
                each.write_bytes(b"")


@contextmanager
def broker(ground: Ground, cms: Installation, accounts: int = 1, entra: Sandbox | None = None) -> Iterator[Broker]:
    """Make a broker that so many users have signed in to, and stop it in the end. Nothing is held yet."""
    entra = entra or ground.entra
    made = Broker(ground.place(), cms, entra, accounts, hurried=ground.short)
    try:
        _sign_in(ground, made, (cms.who, entra.authority))
        if accounts > 1:
            entra.have(accounts)
        made.sign_all_in()
        yield made
    finally:
        made.stop()


def _sign_in(ground: Ground, made: Broker, by: tuple[str, str]) -> None:
    """Sign the first user in: really once for each installation and sandbox, and with copies of that for later brokers."""
    if by not in ground.signed_in:
        made.sign_in()
        ground.signed_in[by] = ground.place() / "home"
        shutil.copytree(made.home, ground.signed_in[by], ignore=_MADE_FOR_EACH)
    else:
        shutil.copytree(ground.signed_in[by], made.home, dirs_exist_ok=True)


# A broker's own configuration, and its control socket.
_MADE_FOR_EACH = shutil.ignore_patterns("cms.cfg", "run")
