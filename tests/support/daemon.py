"""A real `cms run` under a given user, with private folders, and the commands that talk to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cms.grants.vault.entry_file import StateFolder, decrypt, encrypt, grant_of
from cms.grants.vault.keyring import Key, parse_key
from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.entra import Entra
from cms.sandbox.host import Host
from support import evidence
from support.reachable import COMMANDS, Installation, bare_environment, become, open_folder
from support.waiting import PATIENCE, until

# What `cms login` shows: the provider's link; or, for another device, the link and the code.
_LINK = re.compile(r"(https://\S*client_id=\S*)\s")
_CODE = re.compile(r"Open (https://\S+) in .*^    (\S+)$", re.DOTALL | re.MULTILINE)


class Daemon:
    """One user's cms. `folder` is made by the caller and enterable by all; `uid` runs everything, 0 for root."""

    def __init__(self, installation: Installation, folder: Path, uid: int = 0, groups: Sequence[int] = ()) -> None:
        self.installation = installation
        self.folder = folder
        self.uid = uid
        self.groups = groups
        self.home = folder / "home"
        # For sockets that other users are to reach; the daemon's owner puts them there.
        self.sockets = folder / "sockets"
        self.config = self.home / "cms.cfg"
        # Where the vault's key is, if the configuration says so (`settings_lines`).
        self.key = self.home / "vault-key"
        self.process: subprocess.Popen[bytes] | None = None
        # What the daemon has told systemd, one datagram each, since its start.
        self.notices: list[str] = []
        self._is_traced = False
        self._listener: socket.socket | None = None
        self._log = folder / "daemon.log"
        for path, mode in ((self.home, 0o700), (self.sockets, 0o755), (self.home / "run", 0o700)):
            path.mkdir(mode=mode)
            os.chown(path, uid, uid)

    @property
    def environment(self) -> Mapping[str, str]:
        """What the daemon and its owner's commands run with."""
        return bare_environment(
            HOME=str(self.home),
            XDG_RUNTIME_DIR=str(self.home / "run"),
            XDG_STATE_HOME=str(self.home / "state"),
            XDG_CONFIG_HOME=str(self.home / "config"),
        )

    def configure(self, text: str) -> None:
        """Write the configuration file."""
        self.config.write_text(text)
        os.chown(self.config, self.uid, self.uid)

    def start(self, *, before: Sequence[str] = (), tracer: Sequence[str] = (), **environment: str) -> None:
        """Start the daemon as `launch` does, and wait until it says that it is ready."""
        self.launch(before=before, tracer=tracer, **environment)
        until(self._ready, "the daemon's READY=1")

    def start_unknown(self) -> None:
        """Start the daemon of users who have yet to sign in, and wait until it knows that.

        Its first look into the vault would redeem a sign-in that is faster.
        """
        self.start()
        until(lambda: {"sign-in-required"} == set(self._states()), "the first look into the vault")

    def _states(self) -> list[str]:
        return [row["state"] for row in json.loads(self.cms("status", "--json").stdout)["accounts"]]

    def resume(self, sock: Path | str, user: str) -> None:
        """Start the daemon of a user who is signed in, and wait until there is a token.

        A client waits for seconds only, and on a busy machine the first token takes longer.
        """
        self.start()
        until(lambda: ask(sock, f"SMTP,token {user}".encode()), "a token")

    def outlive_pause(self, sock: Path | str, user: str, life: float, protocol: str = "SMTP") -> None:
        """Wait until cms gets another token as soon as a client says that this one, which lives so long, was refused.

        After a new one it fetches no other for a second; and the client waits for seconds only, so the worker is at work.
        """
        done = self.cms("refresh", user)
        assert done.returncode == 0, done.stderr
        asked = f"{protocol},json {user}\n".encode()
        until(lambda: json.loads(ask(sock, asked)).get("expires_in", life) <= life - 2, "the token to age")

    def launch(self, *, before: Sequence[str] = (), tracer: Sequence[str] = (), **environment: str) -> None:
        """Start the daemon.

        The words of `before` come before its command, and run as its user; those of `tracer` before all, as the tests' user.
        """
        self.notices.clear()
        self._is_traced = bool(tracer)
        self._listener = _listener(self.folder / "notify", self.uid)
        environment = {**self.environment, "NOTIFY_SOCKET": str(self.folder / "notify"), **environment}
        # At its most talkative: the log is evidence, and the search for secrets wants all of it.
        run = ("run", "-c", str(self.config), "--log-level=debug")
        command = [*tracer, *self._as_owner(*before, self.installation.command("cms"), *run)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; return its exit status."""
        assert self.process is not None
        assert self._listener is not None
        if self.process.poll() is None:
            # A tracer keeps what ends others.
            traced = list(evidence.children(self.process.pid)) if self._is_traced else []
            os.kill(int(traced[0]) if traced else self.process.pid, number)
        status = self._wait()
        self.process = None
        self.notices += _received(self._listener)
        self._listener.close()
        return status

    def _keep_key(self) -> None:
        """Have the vault's key searched for in all evidence, as the file has it and in hex."""
        if self.key.exists():
            text = self.key.read_text().strip()
            evidence.keep_secret(text, b64decode(text).hex())

    def _wait(self) -> int:
        assert self.process is not None
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def told(self, word: str) -> bool:
        """Whether the daemon has told systemd this: `READY=1`, or what a line begins with."""
        assert self._listener is not None
        self.notices += _received(self._listener)
        return any(line.startswith(word) for notice in self.notices for line in notice.splitlines())

    def restart(self, number: int = signal.SIGTERM) -> None:
        """Stop and start."""
        self.stop(number)
        self.start()

    def forget_tokens(self) -> None:
        """Delete the stored access tokens, so that the next start has to ask for new ones."""
        key = Key(parse_key(self.key.read_bytes()), "")
        for path in (self.home / "state").rglob("*.vault"):
            # A worker may have outlived its daemon.
            with StateFolder(path.parent, PATIENCE).lock(path.stem):
                raw = path.read_bytes()
                # In its place: it stays its owner's.
                path.write_bytes(encrypt(grant_of(raw), decrypt(raw, key), key))

    @property
    def log(self) -> str:
        """What the daemon has logged so far."""
        return self._log.read_text(errors="replace")

    def run(
        self, name: str, *arguments: str, stdin: str = "", uid: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `cms`, `cms-oauth` or another program, as the owner or as another user."""
        return subprocess.run(
            self._as_owner(name, *arguments, uid=uid),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={**self.environment, **environment},
        )

    def cms(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `cms` as the owner."""
        return self.run("cms", *arguments)

    def token(
        self, sock: Path | str, user: str, *more: str, uid: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `cms-oauth` for a user's token."""
        return self.run("cms-oauth", f"--user={user}", f"--cms_sock={sock}", *more, uid=uid)

    def sign_in(self, user: str, provider: Host, *, as_user: str = "") -> str:
        """Run `cms login --paste` and be the person in front of it. Return what the command said."""
        return self.log_in(user, lambda url: provider.sign_in(url, as_user or user, follow=False).url)

    def log_in(self, user: str, browse: Callable[..., str], way: str = "--paste") -> str:
        """Run `cms login`; `browse` turns the link that it shows, and the code beside it if any, into what to paste."""
        command = self._as_owner("cms", "login", "-c", str(self.config), user, way)
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        ) as process:
            assert process.stdin
            assert process.stdout
            said, shown = _read_link(process.stdout, _CODE if way == "--device" else _LINK)
            if pasted := browse(*shown):
                process.stdin.write(f"{pasted}\n")
            process.stdin.close()
            said += process.stdout.read()
        evidence.keep("output", said)
        assert process.returncode == 0, said
        return said

    def _as_owner(self, name: str, *arguments: str, uid: int | None = None) -> list[str]:
        command = [self.installation.command(name) if name in COMMANDS else name, *arguments]
        uid = self.uid if uid is None else uid
        return become(uid, command, groups=self.groups) if uid else command

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended by itself:\n{self.log}"
        return self.told("READY=1")


@contextmanager
def daemons(installation: Installation) -> Iterator[Callable[..., Daemon]]:
    """Yield what makes daemons, not started yet; all are stopped at the end."""
    made: list[Daemon] = []
    with open_folder("daemon") as folder:

        def make(uid: int = 0, groups: Sequence[int] = ()) -> Daemon:
            place = folder / str(len(made))
            place.mkdir()
            made.append(Daemon(installation, place, uid, groups))
            return made[-1]

        try:
            yield make
        finally:
            for daemon in made:
                if daemon.process is not None:
                    daemon.stop()


def account_line(name: str, user: str, entra: Entra, more: str = "") -> str:
    """Return the directive for an account at the sandbox."""
    return (
        f'{name} = Office365_Account(user="{user}", authority="{entra.authority}", client_id="{CLIENT_ID}",'
        f' redirect_uri="http://localhost/"{more})\n'
    )


def settings_lines(home: Path, entra: Entra) -> str:
    """Return the directives that a daemon needs to keep its vault and to trust the sandbox."""
    return f'Vault(key=File("{home / "vault-key"}"))\nTls(ca="{entra.ca_file}")\n'


def ask(path: Path | str, request: bytes, *, half_close: bool = True) -> bytes:
    """Be a client of the original protocol: write, close the writing side, read to the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(request)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def _read_link(output: IO[str], expected: re.Pattern[str]) -> tuple[str, Sequence[str]]:
    """Return what a command says up to what is expected, and what that is."""
    said = ""
    for line in output:
        said += line
        if found := expected.search(said):
            return said, found.groups()
    raise AssertionError(f"no link in: {said}")


def _listener(path: Path, uid: int) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    os.chown(path, uid, uid)
    listener.setblocking(False)
    return listener


def _received(listener: socket.socket) -> list[str]:
    notices = []
    while True:
        try:
            notices.append(listener.recv(65536).decode())
        except BlockingIOError:
            return notices
