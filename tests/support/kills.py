"""Workers that are killed on purpose, at an exact system call or at any moment; and what must be left of a vault then.

A system call is hit by strace, which is attached to a worker that waits for its first question and kills it as it
enters the Nth call of one name, so that nothing of that call is carried out. strace counts for each thread, and each
question has a thread: the Nth call is the Nth of this very refresh, as long as no other thread of the refresh makes
calls of that name. `Ward.calls` checks that none does.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome
from cms.grants.messages import Acquire, Open
from cms.grants.oauth2.kept import Kept
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.sandbox.entra import Entra
from cms.sandbox.habits import strict
from cms.sandbox.host import Host
from cms.sandbox.issuer import Issuer
from cms.sandbox.tokens import digest
from cms.sandbox.web import WebReply, WebRequest
from support.evidence import descendants
from support.grants import PATIENCE, Broker, NoRing, Process, grant_for, opened, process
from support.proc import at_work
from support.programs import require_program, require_root
from support.worlds import strict_grant

KILLED = -signal.SIGKILL

# Calls that only look, and change nothing anywhere: a kill there is one at the next call that does.
LOOKS = {
    *("access", "faccessat2", "readlink", "stat", "lstat", "fstat", "newfstatat", "statx", "getdents64", "lseek"),
    *("mmap", "fcntl", "ioctl", "getsockname", "getpeername", "getsockopt", "setsockopt"),
    *("poll", "ppoll", "select", "pselect6"),
}

# A grant without a sign-in: asking for it shows that a worker is up, and leaves no connection behind.
_UNSIGNED = "nobody@example.test"

# Longer than any test: the worker that puts things right stays.
_STAYS = 3600.0

# What is killed reports no coverage, and measuring it would take most of the time.
_UNMEASURED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}

_TRACED = "%file,%desc,%network"

# A worker that has loaded beforehand what it loads for its first refresh: hundreds of calls that have to do with no sign-in.
_LOADED_FIRST = """\
import sys, cms.grants.entra.client, cms.grants.oauth2.client, cms.grants.serve
from cms.grants.__main__ import main
sys.exit(main())
"""
_LOADED = (sys.executable, "-I", "-c", _LOADED_FIRST)

# Seconds: from a request's arrival at Entra to the end of what the worker makes of the answer, and some more.
_HESITATION = 0.02


@dataclass(slots=True)
class Redemption:
    """One refresh token (its digest) at the token endpoint. Times are of the monotonic clock."""

    user: str
    token: str
    began: float
    ended: float = float("inf")


class Witness(Host):
    """A simulated provider that remembers from when to when it dealt with each refresh token.

    `loses` is True if a refresh token works once, so that a successor that nobody has stored costs the sign-in.
    """

    redemptions: list[Redemption]

    @property
    def authority(self) -> str:
        """Where it is. An address: a separate thread would look up a name."""
        return super().authority.replace("localhost", "127.0.0.1")

    @property
    @abstractmethod
    def loses(self) -> bool: ...

    @abstractmethod
    def grant(self, user: str) -> Grant:
        """Return the grant of a user here."""

    @abstractmethod
    def is_used(self, token: str) -> bool:
        """True if a refresh token that was given away has been redeemed."""

    @abstractmethod
    def token_in(self, entry: Entry) -> str:
        """Return the one refresh token in a vault's entry."""

    def answer(self, request: WebRequest) -> WebReply:
        token = request.fields.get("refresh_token")
        if token is None:
            return super().answer(request)
        one = Redemption(self.endpoints.whose(request.fields), digest(token), time.monotonic())
        self.redemptions.append(one)
        try:
            return super().answer(request)
        finally:
            one.ended = time.monotonic()

    def overlapping(self) -> list[tuple[Redemption, Redemption]]:
        """Return the pairs of redemptions that went on at the same time for one user."""
        ordered = sorted(self.redemptions, key=lambda each: (each.user, each.began))
        return [(one, two) for one, two in pairwise(ordered) if one.user == two.user and two.began < one.ended]

    def twice(self) -> list[str]:
        """Return the refresh tokens that came more than once."""
        return [token for token, times in Counter(each.token for each in self.redemptions).items() if times > 1]

    @property
    def redeemed(self) -> int:
        """How many refresh tokens have come."""
        return self.count(grant_type="refresh_token")

    def wait_until_asked(self, number: int) -> None:
        """Return at the moment at which so many refresh tokens have come."""
        assert self.wait_for(number, grant_type="refresh_token", seconds=PATIENCE)

    def wait_until_left(self, alone: int) -> None:
        """Wait until only so many connections are left: what a dead worker had sent is dealt with then."""
        assert self.secure.wait_until_left(alone, PATIENCE)


class EntraWitness(Entra, Witness):
    """Microsoft's."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.redemptions = []
        super().__init__(*given, **named)

    @property
    def loses(self) -> bool:
        return self.refuse_reuse

    def grant(self, user: str) -> Grant:
        return grant_for(self, user)

    def is_used(self, token: str) -> bool:
        return bool(self.redeemer.refreshes[digest(token)].used)

    def token_in(self, entry: Entry) -> str:
        (token,) = json.loads(entry.cache)["RefreshToken"].values()
        return str(token["secret"])


class StrictWitness(Issuer, Witness):
    """A server at which a second use of a refresh token ends the sign-in."""

    loses = True

    def __init__(self) -> None:
        self.redemptions = []
        super().__init__(strict())

    def grant(self, user: str) -> Grant:
        return replace(strict_grant(self), login=user)

    def is_used(self, token: str) -> bool:
        sign_in = self.issued.sign_in_of(token)
        return sign_in is not None and sign_in.refreshes[digest(token)] > 0

    def token_in(self, entry: Entry) -> str:
        return Kept.read(entry.cache).refresh_token


class Ward:
    """A state folder with sign-ins, and a worker that is never killed: it signs in, and redeems after each kill."""

    def __init__(self, folder: Path, entra: Witness, clean: Broker, users: Sequence[str]) -> None:
        self.entra = entra
        self.first = _opening(folder, entra)
        self.grants = [entra.grant(user) for user in users]
        self.unsigned = entra.grant(_UNSIGNED)
        self._folder = folder
        self._clean = clean
        keys = Keys(self.first.key, environ={}, ring=NoRing())
        # A lock that outlives its holder would be waited for in vain.
        self._vault = Vault(self.first.state_folder, keys, patience=5.0)
        for grant in self.grants:
            self.sign_in(grant)

    def sign_in(self, grant: Grant) -> None:
        """Sign this grant's person in."""
        outcome = self._clean.sign_in(grant, self.entra)
        assert isinstance(outcome, Granted), outcome

    def kept(self, grant: Grant) -> Entry:
        """Return what the vault holds of a grant; fails where its file is not whole, or is locked for good."""
        with self._vault.hold(grant) as held:
            entry = held.read()
        assert entry is not None
        return entry

    def raw(self, grant: Grant) -> bytes:
        """Return the vault file."""
        return (self._vault.folder.path / f"{grant.key}.vault").read_bytes()

    def remembered(self, grant: Grant) -> tuple[bytes, str]:
        """Return the vault file and the refresh token in it, to compare with what a kill leaves."""
        return self.raw(grant), self.entra.token_in(self.kept(grant))

    def leftovers(self, grant: Grant) -> set[str]:
        """Return the endings of the grant's files."""
        return {path.suffix for path in Path(self.first.state_folder).glob(f"{grant.key}*")}

    def redeem(self, grant: Grant) -> Outcome:
        """Redeem what a kill has left, in a clean worker."""
        return self._clean.acquire(grant)

    def judge(self, grant: Grant, before: bytes, token_before: str) -> str:
        """Check what a kill has left of a grant: whole, old or new. Redeem it: "granted", or why it was refused.

        Fails where the end is another than what Entra knows of the kept token asks for. A grant that is lost is signed
        in again.
        """
        self.entra.wait_until_left(1)
        token = self.entra.token_in(self.kept(grant))
        used = self.entra.is_used(token)
        assert token != token_before or before == self.raw(grant), "an old file is byte by byte the old one"
        assert token == token_before or not used, "a new file holds the successor"
        assert self.leftovers(grant) <= {".vault", ".lock", ".redeeming"}
        lost = used and self.entra.loses
        end = _end(self.redeem(grant))
        assert ("reused" if lost else "granted") == end
        if lost:
            self.sign_in(grant)
        assert self.leftovers(grant) == {".vault", ".lock"}
        return end

    @contextmanager
    def victim(self) -> Iterator[Process]:
        """Run a worker that is up, and has not yet been asked for anything that exists."""
        with process(self.first, environment=_UNMEASURED, command=_LOADED) as worker:
            assert _end(worker.broker.acquire(self.unsigned)) == "no-sign-in"
            yield worker

    def ask(self, worker: Process, grant: Grant) -> None:
        """Ask a worker, and do not wait for the answer."""
        worker.broker.send(Acquire(worker.broker.number(), grant, grant.scope_sets[0]))

    def calls(self, grant: Grant) -> list[str]:
        """Return the names of the calls by which a refresh touches files, sockets and what else has a descriptor."""
        log = self._folder / "calls"
        with self.victim() as worker, _strace(worker, log, f"--trace={_TRACED}"):
            self.ask(worker, grant)
            assert _answers(worker.broker)
        found: dict[str, set[int]] = {}
        for thread, name in re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE):
            # The main thread only takes the question and passes on the answer.
            if name not in LOOKS:
                found.setdefault(name, set()).update({int(thread)} - {worker.pid})
        assert all(len(threads) <= 1 for threads in found.values()), found
        return sorted(found)

    def killed_at(self, grant: Grant, name: str, number: int) -> str:
        """Refresh in a worker that is killed on entering its Nth call of this name.

        Return what it was about to do, as "write Entra" or "rename .redeeming .vault"; "" if it got through alive.
        """
        log = self._folder / "strike"
        strike = (f"--trace={name}", f"--inject={name}:signal=SIGKILL:when={number}")
        with self.victim() as worker, _strace(worker, log, *strike):
            self.ask(worker, grant)
            answered = _answers(worker.broker)
        if worker.popen.returncode == KILLED:
            return self._point(log)
        assert (0, True) == (worker.popen.returncode, answered)
        return ""

    def killed_at_random(self, jitter: random.Random) -> None:
        """Refresh everything at once in a worker that is killed at some moment."""
        with self.victim() as worker:
            before = self.entra.redeemed
            for grant in self.grants:
                self.ask(worker, grant)
            self.entra.wait_until_asked(before + jitter.randint(0, len(self.grants)))
            hesitate(jitter)
            worker.popen.kill()
            assert worker.popen.wait(PATIENCE) == KILLED

    def _point(self, log: Path) -> str:
        """Return what the last call in a trace was about: Entra, or the endings of files in the state folder."""
        name, arguments = re.findall(r"^\d+ +(\w+)\((.*)$", log.read_text(), re.MULTILINE)[-1]
        port = self.entra.authority.rpartition(":")[2]
        files = re.findall(rf'{re.escape(self.first.state_folder)}(?:/\w+(\.\w+))?[">]', arguments)
        words = [each or "folder" for each in files]
        if f":{port}]" in arguments or f"htons({port})" in arguments:
            words.append("Entra")
        return " ".join([name, *words])


def _opening(folder: Path, entra: Host) -> Open:
    return opened(folder / "state", entra, idle=_STAYS)


@contextmanager
def ward(folder: Path, entra: Witness, *users: str) -> Iterator[Ward]:
    """Look after these users' sign-ins for the block."""
    for user in users:
        entra.add_user(user)
    with process(_opening(folder, entra)) as clean:
        yield Ward(folder, entra, clean.broker, users)


@contextmanager
def _strace(worker: Process, log: Path, *options: str) -> Iterator[None]:
    """Trace a worker for the block, whose end is the worker's as well."""
    require_root()  # the worker keeps every other process of its user from tracing it
    # -s0: strace does not print what is read and written, here as elsewhere.
    command = [require_program("strace", "strace"), "-f", "-yy", "-s0", "-o", str(log), *options]
    with subprocess.Popen([*command, "-p", str(worker.pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        attached = tracer.stderr.readline()
        assert "attached" in attached, attached
        try:
            yield
        finally:
            worker.broker.sock.close()
            worker.popen.wait(PATIENCE)
            tracer.communicate(timeout=PATIENCE)


def _answers(broker: Broker) -> bool:
    """Wait for the answer, or for the end of the worker without one."""
    try:
        return broker.receive() is not None
    except ConnectionResetError:
        return False


def _end(outcome: Outcome) -> str:
    return "granted" if isinstance(outcome, Granted) else outcome.trouble.kind


def hesitate(jitter: random.Random, longest: float = _HESITATION) -> None:
    """Wait for a random moment: the tests show that nothing depends on its length."""
    time.sleep(jitter.uniform(0.0, longest))


def kill(processes: Iterable[int]) -> int:
    """Kill these processes; return how many of them were still there."""
    killed = 0
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
            killed += 1
    return killed


def workers_of(broker: int) -> list[int]:
    """Return the processes that do the work of the grant workers that a daemon has started."""
    return at_work([int(each) for each in descendants(broker) if _is_worker(each)])


def _is_worker(process: str) -> bool:
    try:
        return b"cms.grants" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
