"""The daemon of a soak, in a process of its own, and all that it stands on: Entra, a disk, a keyring, a clock, people."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from soak.clients import Clients
from soak.model import ENOUGH, LATE, SIGNED_OUT, Model, Provider, Wrong
from support import moving_clock, proc
from support.desktop import Desktop
from support.evidence import descendants
from support.mounts import SmallDisk, small_disk
from support.moving_clock import MovingClock
from support.reachable import open_folder
from support.waiting import PATIENCE, TooLate

from cms.sandbox.directory import CLIENT_ID

# Those whose mailboxes are served, and the sign-in that each goes by.
LOGINS = {f"user{number}@example.test": f"user{number}@example.test" for number in range(4)}
LOGINS["shared@example.test"] = "user0@example.test"
# The account that some configurations are without.
LAST = "user3@example.test"

_UNMEASURED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}

# In real seconds.
_POLL = 0.01
# Descriptors of this process and of the daemon.
FILES = 8192
# For how long nothing comes or goes when all have left.
_STILL = 1.0


def rights(protocols: tuple[str, ...] = ("SMTP", "IMAP"), without: str = "") -> frozenset[tuple[str, str]]:
    """Return which users may ask for which protocol."""
    return frozenset((user, protocol) for user in LOGINS for protocol in protocols if user != without)


def _name(user: str) -> str:
    return user.partition("@")[0]


def _last_word(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().rstrip("\0").rpartition("\0")[2]
    except OSError:
        return ""  # gone meanwhile


class World:
    """Everything, running. `chance` decides what goes wrong, and nothing else: so a seed repeats it."""

    def __init__(
        self,
        folder: Path,
        entra: Provider,
        clock: MovingClock,
        disk: SmallDisk,
        desktop: Desktop,
        *,
        path: str,
        seed: int,
    ) -> None:
        self.entra = entra
        self.clock = clock
        self.disk = disk
        self.desktop = desktop
        self.chance = random.Random(seed)
        self.model = Model(entra, clock, LOGINS, [rights()])
        self.path = path
        self.clients = Clients(self.path, self.model, random.Random(seed + 1))
        self._config = folder / "cms.cfg"
        self._log = folder / "log"
        self._log.touch()
        # How much of the log has been read.
        self._read = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    def _descriptors(self) -> list[str]:
        found = list[str]()
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            # One that has been closed meanwhile.
            with suppress(FileNotFoundError):
                found.append(str(each.readlink()))
        return sorted(found)

    @property
    def workers(self) -> list[int]:
        """The processes of the daemon's grant workers."""
        return [int(each) for each in descendants(self.pid) if _last_word(each) == str(self.clock.file)]

    @property
    def log(self) -> str:
        """What the daemon has logged."""
        return self._log.read_text(errors="replace")

    def configure(self, served: frozenset[tuple[str, str]]) -> None:
        """Write the configuration that serves this."""
        users = sorted({user for user, _ in served})
        entra = f'authority={self.entra.authority!r}, client_id={CLIENT_ID!r}, redirect_uri="http://localhost/"'
        protocols = sorted({protocol for _, protocol in served})
        may_ask = f"mode=0o666, users=['root'], protocols={protocols}"
        lines = [
            f"Tls(ca={self.entra.ca_file!r})",
            *(f"{_name(user)} = Office365_Account({user!r}, sign_in_as={LOGINS[user]!r}, {entra})" for user in users),
            f"CredentialServer({self.path!r}, [{', '.join(map(_name, users))}], {may_ask})",
        ]
        self.write("\n".join(lines) + "\n")

    def write(self, configuration: str) -> None:
        """Write a configuration, whatever it says."""
        self._config.write_text(configuration)
        self._config.chmod(0o600)

    async def start(self) -> None:
        """Start the daemon, and wait until it is ready."""
        self._launch()
        await self.said("event=ready")

    def _launch(self) -> None:
        self.skip_log()
        command = [sys.executable, "-I", moving_clock.__file__, str(self.clock.file), "run", "-c", str(self._config)]
        environment = {**self.desktop.environment, "XDG_STATE_HOME": str(self.disk.folder), **_UNMEASURED}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def skip_log(self) -> None:
        """Have `said` wait for what is logged from now on."""
        self._read = self._log.stat().st_size

    async def said(self, words: str) -> None:
        """Wait until the daemon has logged these words since the last wait."""
        assert self._process is not None
        with trio.fail_after(PATIENCE), self._log.open("rb") as log:
            log.seek(self._read)
            said = b""
            while words.encode() not in (said := said + log.read()):
                if self._process.poll() is not None:
                    raise Wrong(f"the daemon has ended:\n{self.log[-2000:]}")
                await trio.sleep(_POLL)
            self._read = log.tell()

    def tell(self, number: int) -> None:
        """Send the daemon a signal."""
        os.kill(self.pid, number)

    async def end(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; return its status."""
        assert self._process is not None
        self._process.send_signal(number)
        return await trio.to_thread.run_sync(self._process.wait, PATIENCE)

    def kill(self) -> None:
        """End the daemon, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def reload(self, words: str) -> None:
        """Have the configuration loaded again, and wait until the log says how that went."""
        self.skip_log()
        self.tell(signal.SIGHUP)
        await self.said(words)

    async def sign_in(self, login: str) -> None:
        """Be the person who signs in, as `cms login --paste` asks for it."""

        async def browse(stream: trio.SocketStream, url: str) -> None:
            page = await trio.to_thread.run_sync(partial(self.entra.sign_in, url, login, follow=False))
            await stream.send_all(json.dumps({"pasted": page.url}).encode() + b"\n")

        done = await self._converse({"command": "login", "user": login, "method": "paste"}, browse)
        if not done["ok"]:
            raise Wrong(f"the sign-in of {login}: {done}")
        self.model.revoked.discard(login)

    async def _converse(self, command: Mapping[str, str], prompted: Any) -> dict[str, Any]:
        path = Path(self.desktop.environment["XDG_RUNTIME_DIR"]) / "cms" / "control.sock"
        with trio.fail_after(PATIENCE):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(json.dumps(command).encode() + b"\n")
                received = b""
                async for chunk in stream:
                    received += chunk
                    *lines, received = received.split(b"\n")
                    for line in lines:
                        event: dict[str, Any] = json.loads(line)
                        if event["event"] == "prompt":
                            await prompted(stream, event["url"])
                        if event["event"] == "done":
                            return event
        raise Wrong("the control socket closed before the end of its answer")

    async def collect(self, owed: Mapping[tuple[str, str], float]) -> None:
        """Ask until each of these sign-ins has served a token for its protocol, or it would be too late for that."""
        for (login, protocol), until in owed.items():
            user = next(each for each in LOGINS if (each, protocol) in self.model.served[-1] and LOGINS[each] == login)
            with trio.move_on_after(PATIENCE) as limit:
                # ASYNC110: nothing in this process says when the daemon has it.
                while until > self.clock.truth() + ENOUGH and not (await self.clients.ask(user, protocol))[0]:  # noqa: ASYNC110
                    await trio.sleep(_POLL)
            if limit.cancelled_caught:
                raise Wrong(f"the token of {login} for {protocol} until {until:.0f} is lost")
            self.model.counts["served again"] += 1

    async def recover(self) -> None:
        """Let time pass until every account is served; a person signs in where a sign-in was revoked, and only there."""
        with trio.move_on_after(PATIENCE):
            for user, protocol in sorted(self.model.served[-1]):
                while not (answer := await self.clients.ask(user, protocol))[0]:
                    refusal = json.loads(answer[1])["error"]
                    if refusal["code"] == SIGNED_OUT:
                        await self.sign_in(LOGINS[user])
                    else:
                        self.model.excuse(LATE)
                        self.clock.advance(refusal["retry_after"] + 1.0)
                        await trio.sleep(_POLL)
            self.model.forgive_nothing()
            return
        raise TooLate(f"no recovery: {answer[1]!r}")

    async def rest(self, most: int = FILES) -> tuple[int, int]:
        """Let nobody ask until workers and clients have left; return the daemon's memory and descriptors.

        Raises Wrong if it has more descriptors than `most` in the end.
        """
        await self.clients.pause()
        found, since = list[str](), trio.current_time()
        with trio.move_on_after(PATIENCE):
            while self.workers or len(found) > most or trio.current_time() < since + _STILL:
                if found != (found := self._descriptors()):
                    since = trio.current_time()
                await trio.sleep(_POLL)
        if self.workers or len(found) > most:
            raise Wrong(f"left behind: {self.workers}, {found}")
        self.clients.go_on()
        return proc.memory(self.pid), len(found)


@contextmanager
def world(folder: Path, desktop: Desktop, seed: int) -> Iterator[World]:
    """Make a world for the block. Its daemon has not been started."""
    clock = MovingClock(folder / "clock")
    # Strangers reach the socket, and nothing else.
    with Provider(set(LOGINS.values()), now=clock.truth) as entra, small_disk() as disk, open_folder("soak") as door:
        made = World(folder, entra, clock, disk, desktop, path=str(door / "cms.sock"), seed=seed)
        made.configure(rights())
        try:
            yield made
        finally:
            made.kill()
