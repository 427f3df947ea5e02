"""What lies in the memory of the running processes, and who may look: the daemon never has what outlives a token."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import proc
from support.broker import Broker
from support.daemon import ask, daemons
from support.evidence import SECRET_FIELDS, keep_secret
from support.programs import require_root
from support.reachable import ALICE, Installation, bare_environment, become
from support.waiting import PATIENCE, until

from cms.sandbox.directory import CLIENT_ID, Client
from cms.sandbox.entra import Entra, Fault
from cms.sandbox.web import WebReply, WebRequest

USER = "memory@example.test"
CLIENT_SECRET = "Kq8Q~client-secret-of-the-memory-test.4711"

# What of a sign-in may pass through the daemon: the access token, and the code that the browser brings, which is
# worth nothing without the verifier.
BROKERS_OWN = frozenset({"access_token", "code"})

# Prints which of a process's files it can read.
READER = """
import sys
for name in ("environ", "maps", "mem"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            print(name)
    except PermissionError:
        pass
"""


class Watched(Entra):
    """An Entra that remembers the secrets it has seen and given, by the names under which they travel."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: dict[str, set[bytes]] = {name: set() for name in SECRET_FIELDS}

    def answer(self, request: WebRequest) -> WebReply:
        reply = super().answer(request)
        fields: dict[str, Any] = {**request.fields, **_answered(reply)}
        for name in SECRET_FIELDS & fields.keys():
            self.secrets[name].add(str(fields[name]).encode())
        return reply


def _answered(reply: WebReply) -> dict[str, Any]:
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


@pytest.fixture(scope="module")
def entra() -> Iterator[Watched]:
    with Watched() as running:
        yield running


@pytest.fixture(scope="module")
def broker(installation: Installation, entra: Watched) -> Iterator[Broker]:
    """A daemon over an application with a secret, signed in with a browser."""
    require_root()
    keep_secret(CLIENT_SECRET)
    usual = entra.directory.clients[CLIENT_ID]
    entra.register(Client(CLIENT_ID, usual.redirects, secret=CLIENT_SECRET))
    with daemons(installation) as make:
        daemon = make(ALICE)
        secret = daemon.home / "client-secret"
        secret.write_text(CLIENT_SECRET)
        secret.chmod(0o600)
        os.chown(secret, ALICE, ALICE)
        yield Broker(daemon, entra, USER, account=f', client_secret=File("{secret}")')


@dataclass(frozen=True)
class Story:
    """Images of the processes' memory by the moment at which they were taken, and the secrets to look for by name."""

    broker: Mapping[str, bytes] = field(repr=False)
    workers: Mapping[str, bytes] = field(repr=False)
    secrets: Mapping[str, set[bytes]] = field(repr=False)

    def told(self, images: Mapping[str, bytes], names: Iterable[str]) -> set[tuple[str, str]]:
        """Return which secrets are in which images."""
        return {
            (moment, name)
            for moment, image in images.items()
            for name in names
            if any(proc.found(image, secret) for secret in self.secrets[name])
        }


@pytest.fixture(scope="module")
def story(broker: Broker, entra: Watched) -> Story:
    """What is in memory during a sign-in, during `cms refresh`, and after clients have been answered."""
    brokers, workers = {}, {}
    for moment, grant_type, act in (
        ("sign-in", "authorization_code", lambda: sign_in_with_a_browser(broker)),
        ("refresh", "refresh_token", lambda: refresh(broker)),
    ):
        with unanswered(entra, grant_type, act):
            brokers[moment] = proc.contents(broker.pid)
            workers[moment] = b"\0".join(map(contents_of_worker, proc.workers(broker.pid)))
    tokens = {ask(broker.path, f"IMAP,token {USER}".encode()) for _ in range(20)}
    brokers["afterwards"] = proc.contents(broker.pid)
    key = base64.b64decode((broker.daemon.home / "vault-key").read_bytes())
    keys = {key, base64.b64encode(key), base64.urlsafe_b64encode(key), key.hex().encode()}
    return Story(brokers, workers, {**entra.secrets, "vault key": keys, "access_token": tokens})


def contents_of_worker(pid: int) -> bytes:
    """Return what is in a worker's memory, nothing of one that leaves just now."""
    try:
        return proc.contents(pid)
    except OSError:
        return b""


def sign_in_with_a_browser(broker: Broker) -> None:
    """Be `cms login --browser` and the browser."""
    with broker.signing_in("browser") as prompt:
        assert "Signed in" in broker.entra.sign_in(prompt["url"], USER).text


def refresh(broker: Broker) -> None:
    """Ask for a new token as the owner does."""
    done = broker.daemon.cms("refresh")
    assert done.returncode == 0, done.stderr


@contextmanager
def unanswered(entra: Entra, grant_type: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something in a thread; yield while Entra has the request that comes of it, and does not answer."""
    entra.faults.add(Fault("silence", grant_type=grant_type))
    asked = entra.count(grant_type=grant_type)
    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(act)
        try:
            assert entra.wait_for(asked + 1, seconds=PATIENCE, grant_type=grant_type)
            yield
        finally:
            entra.faults.clear()
        acted.result(PATIENCE)


def test_the_broker_holds_nothing_that_outlives_a_token(story: Story) -> None:
    """No refresh token, client secret, verifier, identity token or key of the vault is in its memory, at any moment."""
    assert set() == story.told(story.broker, story.secrets.keys() - BROKERS_OWN)


def test_the_search_finds_what_is_there(story: Story) -> None:
    """The token that clients are answered is in the daemon, and what the worker works with is in the worker."""
    assert ("afterwards", "access_token") in story.told(story.broker, ["access_token"])
    assert {
        ("sign-in", "code_verifier"),
        ("sign-in", "client_secret"),
        ("refresh", "client_secret"),
        ("refresh", "refresh_token"),
        ("refresh", "vault key"),
    } <= story.told(story.workers, ["code_verifier", "client_secret", "refresh_token", "vault key"])


@pytest.fixture
def processes(broker: Broker) -> Iterator[dict[str, int]]:
    """The daemon and a worker that is at work."""
    with broker.signing_in("paste"):
        # One that was at work before may still be leaving.
        until(lambda: len(proc.workers(broker.pid)) == 1, "the worker")
        yield {"broker": broker.pid, "worker": proc.workers(broker.pid)[0]}


def readable(pid: int) -> list[str]:
    """Return which files of a process another program of ALICE's can read."""
    command = become(ALICE, ["/usr/bin/python3", "-c", READER, str(pid)])
    return subprocess.run(command, capture_output=True, text=True, check=True, env=bare_environment()).stdout.split()


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_no_program_of_the_same_user_looks_in(processes: dict[str, int], name: str) -> None:
    """Memory, its map and the environment can be read by root alone; an ordinary program's by its own user."""
    with subprocess.Popen(become(ALICE, ["sleep", "60"])) as ordinary:
        until(lambda: Path(f"/proc/{ordinary.pid}").stat().st_uid == ALICE, "the ordinary program")
        twin = readable(ordinary.pid)
        ordinary.kill()

    assert [] == readable(processes[name])
    assert ["environ", "maps"] == twin[:2]


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_no_core_is_dumped(processes: dict[str, int], name: str) -> None:
    """The limit is 0 and cannot be raised again."""
    assert ("0", "0") == proc.core_limits(processes[name])


def test_no_secret_is_among_arguments_or_in_an_environment(story: Story, processes: dict[str, int]) -> None:
    """Neither process has a secret, not even an access token, among its arguments or in its environment."""
    shown = {
        f"{name} {file}": Path(f"/proc/{pid}/{file}").read_bytes()
        for name, pid in processes.items()
        for file in ("cmdline", "environ")
    }

    assert all(shown.values())
    assert set() == story.told(shown, story.secrets)


# What belongs to the daemon alone, or would open its child to others.
HOSTILE = {
    "SSLKEYLOGFILE": "/nonexistent/keys",
    "PYTHONPATH": "/nonexistent",
    "PYTHONSTARTUP": "/nonexistent/startup.py",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "1",
    "LISTEN_FDNAMES": "cms",
    "WATCHDOG_USEC": "60000000",
    "LD_LIBRARY_PATH": "/nonexistent",
    "A_PASSWORD": "hunter2",
}
WANTED = {"CREDENTIALS_DIRECTORY": "/nonexistent", "NO_PROXY": "localhost", "LC_TIME": "C"}


def test_the_worker_gets_what_it_needs(broker: Broker, tmp_path: Path) -> None:
    """Of the daemon's environment the worker has exactly what the table allows."""
    broker.daemon.stop()
    broker.daemon.start(**HOSTILE, **WANTED)
    with broker.signing_in("paste"):
        theirs = proc.environment(until(lambda: proc.workers(broker.pid), "a worker")[0])
        ours = proc.environment(broker.pid)

    assert {*HOSTILE, *WANTED, "NOTIFY_SOCKET"} <= ours.keys()
    assert {**broker.daemon.environment, **WANTED} == theirs


@pytest.mark.usefixtures("story")  # in which the account is signed in
def test_nothing_is_imported_from_the_current_folder(broker: Broker) -> None:
    """A keyring.py that lies where cms is started is not run by daemon, worker or client; it would be by plain Python."""
    trap = broker.daemon.folder / "trap"
    trap.mkdir()
    trap.chmod(0o777)
    for name in ("keyring", "msal", "json", "cms", "sitecustomize"):
        (trap / f"{name}.py").write_text(f"open({str(trap / 'sprung')!r}, 'a').close()\n")
    there = ("env", f"--chdir={trap}")
    broker.daemon.stop()
    broker.daemon.start(before=there)
    until(lambda: ask(broker.path, b"SMTP"), "a token")
    with broker.signing_in("paste"):
        assert trap == Path(f"/proc/{proc.workers(broker.pid)[0]}/cwd").readlink()
    fetched = broker.daemon.run(*there, broker.daemon.installation.command("cms-oauth"), f"--cms_sock={broker.path}")
    listed = broker.daemon.run(*there, broker.daemon.installation.command("cms"), "status")

    assert (0, 0) == (fetched.returncode, listed.returncode)
    assert not (trap / "sprung").exists()
    broker.daemon.run(*there, "/usr/bin/python3", "-c", "import keyring")
    assert (trap / "sprung").exists()
