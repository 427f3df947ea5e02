"""Two hundred SIGKILLs and more: of the worker at every call of a refresh and at any moment, and of the daemon.

With Entra's documented behaviour, under which a redeemed refresh token stays valid, none of them loses a sign-in. With
reuse refused, one loss cannot be prevented (the worker is killed after Entra has redeemed and before it stores the
successor); cms then says what happened. An interruption by the daemon's death alone loses nothing even then.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.daemon import Daemon, account_line, ask, settings_lines
from support.kills import KILLED, EntraWitness, StrictWitness, Ward, Witness, hesitate, kill, ward, workers_of
from support.waiting import PATIENCE, until

from cms.cli.client import Remote, connect
from cms.sandbox.faults import Fault

# How many processes each test kills at least. The tests count, and this is their sum.
KILLS = {
    "every call": 3 * 60,
    "any moment": 3 * 20,
    "worker of a broker": 10,
    "broker": 50,
    "broker and worker": 2 * 10,
    "orphan": 2,
    "loss": 2,
}

# What a refresh does to the disk and to Entra, in this order. A refresh that does more is killed there as well.
WRITE_POINTS = (
    "openat .lock",
    "flock .lock",
    "openat .vault",
    "openat .redeeming",
    "fallocate .redeeming",
    "connect Entra",
    "write Entra",
    "read Entra",
    "openat .redeeming",
    "write .redeeming",
    "ftruncate .redeeming",
    "fsync .redeeming",
    "rename .redeeming .vault",
    "openat folder",
    "fsync folder",
    "close .lock",
    # To the thread that answers, and what that one reads.
    "sendto",
    "recvfrom",
)

# Where the successor is known to the worker, and nowhere else: every kill there costs the sign-in if reuse is refused.
LOST_AT = {"write .redeeming", "ftruncate .redeeming", "fsync .redeeming", "rename .redeeming .vault"}

NAMING_TRIES = 3

USERS = tuple(f"user{number}@example.test" for number in range(8))

# Seconds in which a handful of clients are served.
SERVING = 0.005

# Entra as it is documented, and as it refuses reuse; and a provider that is not Microsoft, and strict.
PROVIDERS = pytest.mark.parametrize(
    "provider",
    [EntraWitness, partial(EntraWitness, refuse_reuse=True), StrictWitness],
    ids=["documented", "reuse-refused", "strict"],
)


@PROVIDERS
def test_worker_killed_at_every_call(tmp_path: Path, provider: Callable[[], Witness]) -> None:
    """Wherever in a refresh the worker is killed, its vault file is whole, and the sign-in good as far as it can be.

    Lost is exactly what the provider has redeemed and the vault does not know of, and only where reuse is refused.
    """
    with provider() as entra, ward(tmp_path, entra, USERS[0]) as kept:
        (grant,) = kept.grants
        ends: dict[str, set[str]] = {}
        hits = Counter[str]()
        names = kept.calls(grant)
        # strace cannot always read a path out of a process that it kills: a write point it has not named is hit again.
        for _ in range(NAMING_TRIES):
            for hit, end in itertools.chain.from_iterable(killed_in_turn(kept, name) for name in names):
                hits[hit] += 1
                ends.setdefault(hit, set()).add(end)
            names = sorted({point.partition(" ")[0] for point in Counter(WRITE_POINTS) - hits})

    assert Counter(WRITE_POINTS) <= hits
    assert (LOST_AT if entra.loses else set()) == {hit for hit, found in ends.items() if "granted" not in found}
    assert KILLS["every call"] // 3 <= hits.total()


def killed_in_turn(kept: Ward, name: str) -> list[tuple[str, str]]:
    """Kill a worker at the first, the second, ... call of this name, until one gets through. Return where, and the end."""
    (grant,) = kept.grants
    found: list[tuple[str, str]] = []
    for number in itertools.count(1):
        before, token = kept.remembered(grant)
        hit = kept.killed_at(grant, name, number)
        if not hit:
            return found
        found.append((hit, kept.judge(grant, before, token)))
    raise AssertionError


@PROVIDERS
def test_worker_killed_at_any_moment(tmp_path: Path, provider: Callable[[], Witness]) -> None:
    """The same with eight refreshes under way at once."""
    jitter = random.Random(2)
    ends = Counter[str]()
    with provider() as entra, ward(tmp_path, entra, *USERS) as kept:
        for _ in range(KILLS["any moment"] // 3):
            before = {grant: kept.remembered(grant) for grant in kept.grants}
            kept.killed_at_random(jitter)
            ends.update(kept.judge(grant, *before[grant]) for grant in kept.grants)

    assert ({"granted", "reused"} if entra.loses else {"granted"}) == set(ends)


class Broker:
    """A daemon with three people signed in, and its Entra."""

    def __init__(self, daemon: Daemon, entra: EntraWitness) -> None:
        self.daemon = daemon
        self.entra = entra
        self.users = USERS[:3]
        self.socket = daemon.sockets / "cms.sock"
        accounts = [account_line(f"account{number}", user, entra) for number, user in enumerate(self.users)]
        names = ", ".join(f"account{number}" for number in range(len(accounts)))
        daemon.configure(
            settings_lines(daemon.home, entra) + "".join(accounts) + f'CredentialServer("{self.socket}", [{names}])\n'
        )
        begun = time.monotonic()
        daemon.start()
        self.start_seconds = time.monotonic() - begun
        for user in self.users:
            entra.add_user(user)
            daemon.sign_in(user, entra)

    @property
    def workers(self) -> list[int]:
        """The processes of the daemon's grant workers."""
        assert self.daemon.process is not None
        return workers_of(self.daemon.process.pid)

    def token(self, user: str) -> bytes:
        """Return a user's token from the socket; wait for it."""
        return until(lambda: ask(self.socket, f"SMTP,token {user}".encode()), f"a token of {user}'s")

    def all_served(self) -> bool:
        """True if every client gets a token that Entra accepts."""
        return all(self.entra.introspect(self.token(user).decode())["active"] for user in self.users)

    @contextmanager
    def refresh(self, user: str = "") -> Iterator[Remote]:
        """Refresh a user's token, or all, during the block; the answer can be received from what it is given."""
        with connect([str(self.daemon.home / "run" / "cms" / "control.sock")]) as remote:
            remote.send({"command": "refresh", "user": user})
            yield remote

    def kill(self) -> None:
        """Kill the daemon alone, and check that its claim on the state folder goes with it."""
        assert KILLED == self.daemon.stop(signal.SIGKILL)
        (lock,) = self.daemon.home.rglob("daemon.lock")
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def kill_all(self) -> int:
        """Kill the daemon and its workers at one moment; return how many there were."""
        assert self.daemon.process is not None
        killed = kill([self.daemon.process.pid, *self.workers])
        self.kill()
        return killed

    def under_way(self, user: str) -> bool:
        """Whether Entra is dealing with a refresh token of this user's."""
        return any(each.user == user and each.ended == math.inf for each in self.entra.redemptions)

    def silence(self, user: str) -> None:
        """Let Entra take its time with the next refresh token of this user's, and wait until it has come."""
        self.entra.faults.add(Fault("silence", user=user, grant_type="refresh_token", seconds=PATIENCE))
        with self.refresh(user):
            until(lambda: self.under_way(user), "a refresh token at Entra")

    def reason(self, user: str) -> str:
        """Return why there is no token, as a client is told."""
        answer = json.loads(ask(self.socket, f"SMTP,json {user}".encode()))
        return str(answer.get("error", {}).get("code", ""))


@pytest.fixture
def make_broker(daemon: Daemon) -> Iterator[Callable[..., Broker]]:
    """Make a daemon whose Entra has these settings."""
    with EntraWitness() as entra:

        def make(*, refuse_reuse: bool) -> Broker:
            entra.refuse_reuse = refuse_reuse
            return Broker(daemon, entra)

        yield make


def test_worker_killed_under_its_broker(make_broker: Callable[..., Broker]) -> None:
    """The daemon repeats the question: no client notices, and no daemon restart or sign-in is needed."""
    broker, jitter = make_broker(refuse_reuse=False), random.Random(3)
    killed = 0
    while killed < KILLS["worker of a broker"]:
        before = broker.entra.redeemed
        with broker.refresh() as answer:
            broker.entra.wait_until_asked(before + jitter.randint(1, len(broker.users)))
            hesitate(jitter)
            killed += kill(broker.workers)

            assert answer.receive()["ok"]
        assert broker.all_served()


def test_broker_killed(make_broker: Callable[..., Broker]) -> None:
    """A daemon that starts serves what one that was killed had, at whatever moment: here even where reuse is refused.

    Its worker ends what it has begun, so that no refresh token is ever redeemed twice. What clients are told while it
    dies is a credential in full, or nothing.
    """
    broker, jitter = make_broker(refuse_reuse=True), random.Random(4)
    broker.kill()
    killed = 1
    while killed < KILLS["broker"]:
        killed += killed_while_starting(broker, jitter)
        broker.daemon.start()
        assert broker.all_served()
        before = broker.entra.redeemed
        if jitter.random() < 0.5:
            with broker.refresh():
                broker.entra.wait_until_asked(before + jitter.randint(0, len(broker.users)))
                hesitate(jitter)
                broker.kill()
        else:
            assert all(map(is_whole, killed_while_serving(broker, jitter)))
        killed += 1
        assert broker.socket.is_socket()
        with pytest.raises(ConnectionRefusedError):
            ask(broker.socket, b"SMTP")
    broker.daemon.start()

    assert broker.all_served()
    assert [] == broker.entra.overlapping()
    assert [] == broker.entra.twice()
    assert {"cms.sock"} == {path.name for path in broker.daemon.sockets.iterdir()}


def killed_while_starting(broker: Broker, jitter: random.Random) -> int:
    """Start the daemon and kill it before it can be ready, or about then."""
    broker.daemon.launch()
    time.sleep(jitter.uniform(0.0, broker.start_seconds))
    assert KILLED == broker.daemon.stop(signal.SIGKILL)
    return 1


def killed_while_serving(broker: Broker, jitter: random.Random) -> list[bytes]:
    """Kill the daemon while clients ask it; return what they got."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(9)]
        for client, user in zip(clients, itertools.cycle(broker.users), strict=False):
            client.connect(str(broker.socket))
            client.sendall(f"SMTP {user}\n".encode())
        hesitate(jitter, SERVING)
        broker.kill()
        return [read(client) for client in clients]


def read(client: socket.socket) -> bytes:
    """Return what a client got before its server died."""
    try:
        return b"".join(iter(lambda: client.recv(65536), b""))
    except ConnectionResetError:
        return b""


def is_whole(answer: bytes) -> bool:
    """Whether an answer is a credential in full, or none."""
    return answer == b"" or (answer.startswith(b"user=") and answer.endswith(b"\x01\x01"))


def test_broker_and_worker_killed(make_broker: Callable[..., Broker]) -> None:
    """What kills both, as a container's end does, costs nothing as long as Entra does what it documents."""
    broker, jitter = make_broker(refuse_reuse=False), random.Random(5)
    killed = 0
    while killed < KILLS["broker and worker"]:
        before = broker.entra.redeemed
        with broker.refresh():
            broker.entra.wait_until_asked(before + jitter.randint(1, len(broker.users)))
            hesitate(jitter)
            killed += broker.kill_all()
        broker.daemon.start()

        assert broker.all_served()


def test_orphan_and_successor_take_turns(make_broker: Callable[..., Broker]) -> None:
    """While the worker of a killed daemon waits for Entra, the next daemon's leaves that grant alone, and only that."""
    broker = make_broker(refuse_reuse=True)
    slow, *others = broker.users
    for _ in range(KILLS["orphan"]):
        broker.silence(slow)
        broker.kill()
        broker.daemon.start()
        before = broker.entra.redeemed

        assert all(broker.token(user) for user in others)
        until(lambda: any(map(holds_lock, broker.workers)), "a worker that waits for its turn")
        assert broker.under_way(slow)
        assert before + len(others) >= broker.entra.redeemed
        broker.entra.faults.release()
        assert broker.all_served()

    assert [] == broker.entra.overlapping()
    assert [] == broker.entra.twice()


def holds_lock(process: int) -> bool:
    """Whether a process has a grant's lock file open."""
    try:
        return any(str(each.readlink()).endswith(".lock") for each in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def test_the_one_loss(make_broker: Callable[..., Broker]) -> None:
    """Killed after Entra has redeemed, where reuse is refused: status says at once what to do, and why.

    The token that was held is served until it expires, and then a client is told to sign in.
    """
    broker = make_broker(refuse_reuse=True)
    lost, *others = broker.users
    broker.silence(lost)
    killed = broker.kill_all()
    broker.entra.faults.release()
    broker.entra.wait_until_left(0)
    broker.daemon.start()

    assert KILLS["loss"] <= killed
    said = "interrupted after redeeming it and before storing its successor"
    until(lambda: said in broker.daemon.cms("status").stdout, "the refusal")
    assert broker.all_served()
    broker.daemon.stop()
    broker.daemon.forget_tokens()
    broker.daemon.start()
    until(lambda: broker.reason(lost) == "sign-in-required", "the refusal for a client")
    assert all(broker.token(user) for user in others)
    broker.daemon.sign_in(lost, broker.entra)
    assert broker.all_served()


def test_enough() -> None:
    """The least that the tests above count is as much as it should be, and every kind of process has its share."""
    assert 200 <= sum(KILLS.values())
    assert 60 <= KILLS["broker"] + KILLS["broker and worker"] // 2
