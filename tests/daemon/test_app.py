from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.app_world import MAIL, World, account, read
from support.ports import free_port, listens
from support.trio_run import FakeClock, in_trio, in_trio_jumps, jump, until
from support.whole_daemon import ANN, on_moving_clock, whole_daemon

from cms.config import child
from cms.config.model import AuditSpec, ConfigError, FileSpec, MetricsSpec
from cms.core.accounts import Fleet, Source
from cms.core.lifecycle import Granted, Life, Refused, SignInFacts
from cms.core.preflight import LONG_TOKEN
from cms.core.words import MEMORY_WARNING
from cms.daemon import app as module
from cms.daemon import children, worker
from cms.daemon.app import App
from cms.daemon.control.answers import Result
from cms.daemon.serving import socketmap, token_files
from cms.daemon.serving.sockets import Sockets
from cms.daemon.signin import page_addresses
from cms.daemon.signin.flow import Flow
from cms.grants.messages import Place, Prompt, Reached
from cms.system import listener, sd_notify, state_lock
from cms.system.clock import SystemClock
from cms.system.listener import ListenError
from cms_oauth import wire
from cms_oauth.moves import cms

GRAPH = ("https://graph.microsoft.com/Mail.Send",)

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def pasted(flow: Flow | Result) -> bool:
    """Sign in as a person does who pastes the address; whether it worked."""
    assert isinstance(flow, Flow)
    with flow.held():
        assert isinstance(await flow.prompt(), Prompt)
        assert await flow.pasted("http://127.0.0.1/?code=c&state=s") == ""
        return isinstance(await flow.outcome(), Granted)


def events(lines: Lines) -> list[str]:
    return [line["event"] for line in lines]


def life(app: App, number: int = 0) -> Life:
    """The life of an account's first scope set."""
    keeper = app.registry.keepers[number]
    return keeper.lives[keeper.grant.scope_sets[0]]


async def until_settled(app: App) -> None:
    for keeper in app.registry.keepers:
        await keeper.settled()


def test_the_daemon_imports_nothing_of_its_children() -> None:
    """Neither MSAL nor keyring nor cryptography nor requests, nor click, nor what runs a configuration, is in its memory."""
    program = "import sys, cms.daemon.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert set() == set(loaded) & {"msal", "keyring", "cryptography", "requests", "click", "secretstorage"}
    modules = ("answer", "child", "model", "rules", "trust")
    assert {"cms.config", *(f"cms.config.{name}" for name in modules)} == {
        name for name in loaded if name.startswith("cms.config")
    }
    assert "trio" in loaded


@in_trio
async def test_it_serves_a_token_and_leaves_nothing_behind(world: World) -> None:
    """Configuration in, a token on the socket; in the end exit code 0, no socket file and no worker."""
    async with world.daemon():
        answer = await world.ask()

    assert answer.startswith("token-")
    left = [Path(path).exists() for path in (world.path(), world.path("run/control.sock"), f"/proc/{world.started[0]}")]
    assert (0, [False] * 3) == (world.code, left)


@in_trio
async def test_one_daemon_for_each_state_folder(world: World) -> None:
    """The second one ends at once with a reason and touches nothing of the first."""
    other = World(world.folder)
    with capture_logs() as lines:
        async with world.daemon():
            await other.run()
            answer = await world.ask()

    assert (os.EX_CANTCREAT, True) == (other.code, answer.startswith("token-"))
    assert 1 == len([line for line in lines if f"another cms (process {os.getpid()})" in line.get("reason", "")])


@in_trio
async def test_a_configuration_that_cannot_be_used_ends_the_start(world: World) -> None:
    """Exit code 78, and the file and the line in the log."""
    world.fault = ConfigError("/etc/cms.cfg", 3, "there is no directive Acount", "Did you mean Account?")
    with capture_logs() as lines:
        await world.run()

    assert os.EX_CONFIG == world.code
    assert ["/etc/cms.cfg:3: there is no directive Acount. Did you mean Account?"] == [each["reason"] for each in lines]


@pytest.mark.parametrize("name", ["users", "groups"])
def test_users_and_groups_are_looked_up(name: str, world: World) -> None:
    """A name that has gone from the machine since the file was checked is a fault of that line."""
    world.sockets = {"cms.sock": {name: ("nobody-of-that-name",)}}
    with capture_logs() as lines:
        in_trio(world.run)()

    assert os.EX_CONFIG == world.code
    assert "cms.cfg:7: users= or groups=:" in lines[0]["reason"]


@in_trio
async def test_a_socket_that_cannot_be_made_ends_the_start(world: World) -> None:
    """Exit code 73, the path in the log, and no control socket left behind."""
    Path(world.path()).write_text("not a socket")
    with capture_logs() as lines:
        await world.run()

    assert (os.EX_CANTCREAT, False) == (world.code, Path(world.path("run/control.sock")).exists())
    assert world.path() in lines[-1]["reason"]


def test_look_ups_that_hang_are_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user database that does not answer costs a deadline and a message, not the daemon."""
    monkeypatch.setattr(module, "LOOK_UP_SECONDS", 0.05)
    hangs = threading.Event()
    monkeypatch.setattr("cms.system.users.user_id", lambda _name: hangs.wait())
    world.sockets = {"cms.sock": {"users": ("alice",)}}
    with capture_logs() as lines:
        in_trio(world.run)()
    hangs.set()

    assert os.EX_CONFIG == world.code
    assert "this machine did not say within 0.05 s who the users and groups are" in lines[0]["reason"]


@in_trio
async def test_a_configuration_that_loops_keeps_nobody_waiting(world: World) -> None:
    """The daemon serves while a reload runs it, says where it was, and nothing of it is left."""
    runs, go = Path(world.path("runs")), Path(world.path("go"))
    # The reload is of the file itself.
    world.options["load"] = lambda path: child.load(path) if Path(path).exists() else world.load(path)
    config = Path(world.path("cms.cfg"))
    text = f"""\
import faulthandler, os, pathlib, sys
pathlib.Path({str(runs)!r}).write_text(str(os.getpid()))
while not os.path.exists({str(go)!r}): pass
faulthandler.dump_traceback_later(0.01, file=int(sys.argv[2]))  # its time is over now
while True: pass
"""
    results = []
    async with world.daemon() as app, trio.open_nursery() as nursery:

        async def reload() -> None:
            results.append(await app.commands.reload())

        config.write_text(text)
        nursery.start_soon(reload)
        await until(lambda: runs.exists() and runs.read_text())
        answer = await world.ask()
        assert not results
        go.touch()

    assert answer.startswith("token-")
    assert [(False, f"{config}:5: it did not end within 10 s")] == [
        (each.ok, each.message.partition(". ")[0]) for each in results
    ]
    assert not Path(f"/proc/{runs.read_text()}").exists()


@in_trio
async def test_metrics_at_a_socket(world: World, tmp_path: Path) -> None:
    """Only its owner gets there, and what comes is what `cms metrics` prints."""
    path = tmp_path / "metrics.sock"
    world.accounts = [account("a@example.test")]
    world.metrics = MetricsSpec(str(path))
    async with world.daemon() as app:
        await until_settled(app)
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
        mode = path.stat().st_mode & 0o777

    assert (0o600, True) == (mode, b'cms_accounts{state="ok"} 1.0\n' in answer)
    assert not path.exists()


@in_trio
async def test_a_lost_socket_of_metrics_is_put_back(world: World, tmp_path: Path) -> None:
    """As every other socket, here by a reload; what is asked there then is answered."""
    path = tmp_path / "metrics.sock"
    world.metrics = MetricsSpec(str(path))
    async with world.daemon() as app:
        path.unlink()
        reloaded = await app.commands.reload()
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])

    assert (True, True) == (reloaded.ok, b"cms_build_info" in answer)
    assert not path.exists()


async def scraped(port: int) -> bytes:
    """Ask a port for the metrics; return the answer."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return b"".join([chunk async for chunk in stream])


@in_trio
async def test_metrics_at_a_port_follow_a_reload(world: World) -> None:
    """Where the configuration says, and no longer where it said; a port that is taken fails the reload and changes nothing."""
    first, second = free_port(), free_port()
    world.metrics = MetricsSpec(host="127.0.0.1", port=first)
    async with world.daemon() as app:
        before = await scraped(first)
        with socket.create_server(("127.0.0.1", second)):
            world.metrics = MetricsSpec(host="127.0.0.1", port=second)
            taken = await app.commands.reload()
        still = await scraped(first)
        moved = await app.commands.reload()
        after = await scraped(second)
        await until(lambda: not listens(first))

    assert (False, True) == (taken.ok, moved.ok)
    assert f"127.0.0.1:{second}" in taken.message
    for each in (before, still, after):
        assert each.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not listens(second)


@in_trio
async def test_status_tells_of_every_account(world: World) -> None:
    """JSON and the exit code for monitoring; the warnings of the configuration and the sockets are in it."""
    world.accounts = [account("a@example.test"), account("unsigned@example.test")]
    world.warnings = ("a warning of the file",)
    async with world.daemon() as app:
        await until_settled(app)
        result = app.commands.status()

    assert (True, 2) == (result.ok, result.extra["exit_code"])
    counters = result.extra["json"]["counters"]
    refreshes = {name: sum(each["counts"]) for name, each in counters["refreshes"]["outcomes"].items()}
    assert {"granted": 1, "transient": 0, "refused": 1} == refreshes
    assert (0, True) == (counters["requests"]["granted"], counters["worker_starts"] >= 1)
    states = {row["user"]: row["state"] for row in result.extra["json"]["accounts"]}
    assert {"a@example.test": "ok", "unsigned@example.test": "sign-in-required"} == states
    daemon = result.extra["json"]["daemon"]
    assert (("a warning of the file",), (world.path(),), os.getpid()) == (
        daemon["warnings"],
        daemon["sockets"],
        daemon["pid"],
    )


@in_trio
async def test_the_status_of_one_account(world: World) -> None:
    """By each of its names; an unknown name has no status."""
    world.accounts.append(account("unsigned@example.test"))
    async with world.daemon() as app:
        await until_settled(app)
        one, none = app.commands.status("Unsigned@example.test"), app.commands.status("b@example.test")

    assert ["unsigned@example.test"] == [row["user"] for row in one.extra["json"]["accounts"]]
    assert (False, "there is no account 'b@example.test'") == (none.ok, none.message)


@in_trio
async def test_the_status_of_accounts_that_match(world: World) -> None:
    """A pattern names several, and one mailbox of a sign-in is not all of them; a pattern without an account says so."""
    world.accounts = [account(name, login="boss@example.test") for name in ("a@x.test", "b@x.test", "c@y.test")]
    async with world.daemon() as app:
        await until_settled(app)
        found = {
            name: [row["user"] for row in app.commands.status(name).extra["json"]["accounts"]]
            for name in ("*@X.test", "?@y.test", "b@x.test", "boss@example.test")
        }
        none = app.commands.status("*@z.test")

    assert {
        "*@X.test": ["a@x.test", "b@x.test"],
        "?@y.test": ["c@y.test"],
        "b@x.test": ["b@x.test"],
        "boss@example.test": ["a@x.test", "b@x.test", "c@y.test"],
    } == found
    assert (False, "there is no account '*@z.test'") == (none.ok, none.message)


@in_trio
async def test_an_account_without_a_user_is_found_by_the_reported_name(world: World) -> None:
    """cms finds and serves an account without a user by the name that the provider reported."""
    world.accounts = [account("", login="")]
    async with world.daemon() as app:
        await until_settled(app)
        before = (await app.commands.refresh("")).message
        keeper = app.registry.keeper_of(world.accounts[0].grant)
        keeper.signed_in(
            MAIL, Granted("fresh", SystemClock().boot(), 3600.0, sign_in=SignInFacts(who="w@example.test"))
        )
        found = await app.commands.logout("W@example.test")

    assert "(not signed in yet): fresh" == before
    assert (True, "w@example.test: signed out, and the stored sign-in deleted") == (found.ok, found.message)


@in_trio
async def test_a_sign_in_serves_at_once(world: World) -> None:
    """`login` asks the worker with the challenge of the last refusal; its token is served, and status shows the wait."""
    world.accounts = [account("unsigned@example.test")]
    async with world.daemon() as app:
        await until_settled(app)
        refused = await world.ask("SMTP,token unsigned@example.test")
        flow = app.commands.login("unsigned@example.test", "paste")
        assert isinstance(flow, Flow)
        with flow.held():
            await flow.prompt()
            waits = app.commands.status().extra["json"]["accounts"][0]["state"]
            worked = await pasted(flow)
        answer = await world.ask("SMTP,token unsigned@example.test")

    assert ("", "signing-in", True) == (refused, waits, worked)
    assert answer.startswith("token-")
    assert '{"a":1}' == (world.folder / "state" / "claims").read_text().strip()


@in_trio
async def test_a_long_token_is_told_once(world: World) -> None:
    """In the log when it comes first, in the status as long as it is held."""
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)
            keeper = app.registry.keeper_of(world.accounts[0].grant)
            for secret in ("x" * (LONG_TOKEN + 1), "y" * (LONG_TOKEN + 2)):
                keeper.signed_in(MAIL, Granted(secret, SystemClock().boot(), 3600.0))
            status = app.commands.status()

    assert 1 == len([event for event in events(lines) if f"the token has {LONG_TOKEN + 1} bytes" in event])
    assert f"the token has {LONG_TOKEN + 2} bytes" in status.extra["json"]["accounts"][0]["warning"]


@in_trio
async def test_a_token_file_follows_its_account(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the account's token, goes with a sign-out, comes and goes with a reload and with the daemon."""
    # The scripted worker's tokens are words.
    monkeypatch.setattr(token_files, "SHORTEST_TOKEN", 1)
    path = tmp_path / "token"
    spec = FileSpec(str(path), world.accounts[0], "SMTP", 0o600, False, 1)
    world.files = [spec]
    async with world.daemon() as app:
        await until(path.exists)
        served, shown = path.read_text(), await world.ask()
        files = app.commands.status().extra["json"]["daemon"]["files"]
        await app.commands.logout("")
        await until(lambda: not path.exists())
        await app.commands.refresh("")
        await until(path.exists)
        world.files = []
        await app.commands.reload()
        await until(lambda: not path.exists())
        world.files = [spec]
        await app.commands.reload()
        await until(path.exists)

    assert (served, False) == (shown, path.exists())
    assert (str(path),) == files


@in_trio
async def test_a_token_file_that_cannot_be_kept_is_in_the_status(world: World, tmp_path: Path) -> None:
    """Beside the configuration's own warnings."""
    (tmp_path / "taken").mkdir()
    world.files = [FileSpec(str(tmp_path / "taken"), world.accounts[0], "SMTP", 0o600, False, 1)]
    async with world.daemon() as app:
        await until(lambda: app.commands.status().extra["json"]["daemon"]["warnings"])
        warnings = app.commands.status().extra["json"]["daemon"]["warnings"]

    assert [True] == [f"the token file {tmp_path}/taken cannot be kept" in each for each in warnings]


@in_trio
async def test_a_variable_that_names_nothing_is_in_the_status(world: World) -> None:
    """Each that the worker would go by, with what is wrong; what the worker never gets is no matter of the daemon's."""
    named = {
        "REQUESTS_CA_BUNDLE": "/nonexistent.pem",
        "SSL_CERT_DIR": "/nonexistent",
        "OPENSSL_CONF": "/nonexistent.cnf",
    }
    world.options = {"environ": named}
    async with world.daemon() as app:
        warnings = app.commands.status().extra["json"]["daemon"]["warnings"]

    assert [
        "the daemon's environment: REQUESTS_CA_BUNDLE names /nonexistent.pem, which does not exist",
        "the daemon's environment: SSL_CERT_DIR names /nonexistent, which does not exist",
    ] == list(warnings)


@in_trio
async def test_the_configurations_authorities_count_before_variables(world: World) -> None:
    """With Tls(ca=...) nothing of the environment matters, so nothing is said of it."""
    world.options = {
        "environ": {"REQUESTS_CA_BUNDLE": "/nonexistent.pem"},
        "load": lambda path: replace(world.load(path), ca="/etc/ssl/certs/ca-certificates.crt"),
    }
    async with world.daemon() as app:
        assert not app.commands.status().extra["json"]["daemon"]["warnings"]


@in_trio
async def test_a_postfix_table_is_a_socket_like_others(world: World) -> None:
    """It is served, and a reload that makes a token socket of it leaves no moment without one."""
    world.sockets = {"cms.sock": {"speaks": "postfix"}}
    async with world.daemon() as app:
        await until_settled(app)
        async with world.client(socketmap.query("cms", "smtp.office365.com")) as stream:
            said = bytes(await stream.receive_some())
        world.sockets = {"cms.sock": {}}
        await app.commands.reload()
        token = await world.ask()

    assert socketmap.found("a@example.test", token) == said


@in_trio
async def test_an_import_serves_at_once(world: World) -> None:
    """What the worker has taken over is a sign-in: its token is served; one that fails changes nothing."""
    world.accounts = [account("unsigned@example.test"), account("refused@example.test")]
    async with world.daemon() as app:
        await until_settled(app)
        imported = await app.commands.bring_in("unsigned@example.test", Place("/f"))
        served = await world.ask("SMTP,token unsigned@example.test")
        before = life(app, 1)
        refused = await app.commands.bring_in("refused@example.test", Place("/f"))
        unknown = await app.commands.bring_in("nobody@example.test", Place("/f"))

        assert before == life(app, 1)
    assert isinstance(imported, Granted)
    assert imported.secret == served
    assert isinstance(refused, Refused)
    assert isinstance(unknown, Result)


@in_trio
async def test_the_page_hears_of_all_who_wait(world: World) -> None:
    """Accounts that need a sign-in by a person, in whatever way: the page signs in some, and names the others."""
    world.accounts = [account("a@example.test"), account("unsigned@example.test")]
    world.accounts.append(account("unsigned@b.test", sign_in="device"))
    async with world.daemon() as app:
        await until_settled(app)
        waiting = [grant.login for grant in app.registry.waiting()]

    assert ["unsigned@example.test", "unsigned@b.test"] == waiting


@in_trio
async def test_the_page_is_up_while_an_account_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the configuration's address, which status shows; a reload moves it; it closes with the last account."""
    monkeypatch.setattr(page_addresses, "LINGER_SECONDS", 0.1)
    first, second = free_port(), free_port()
    world.page = f"http://127.0.0.1:{first}/"
    world.accounts = [account("unsigned@example.test", redirect_uri="http://localhost/")]

    def told(port: int) -> bool:
        return f"http://127.0.0.1:{port}/" == app.registry.where(world.accounts[0].grant)

    async with world.daemon() as app:
        await until(lambda: told(first) and listens(first))
        world.page = f"http://127.0.0.1:{second}/"
        assert (await app.commands.reload()).ok
        await until(lambda: told(second) and listens(second) and not listens(first))
        world.accounts = [account("a@example.test")]
        assert (await app.commands.reload()).ok
        await until(lambda: not listens(second))


@in_trio
async def test_the_status_says_since_when_the_fleets_database_is_away(world: World) -> None:
    """From the first failure on, with the latest reason; without a fleet nothing, and after a change of it nothing of before."""

    def fleet(app: App) -> Any:
        return app.commands.status().extra["json"]["daemon"]["fleet"]

    clock = FakeClock(boot=time.clock_gettime(time.CLOCK_BOOTTIME) - trio.current_time())
    world.options["clock"] = clock
    async with world.daemon() as app:
        assert fleet(app) is None
        world.fleet = Fleet("dbname=cms", ())
        assert (await app.commands.reload()).ok
        assert {"away": 0.0, "why": ""} == fleet(app)
        app.worker.told(Reached("connection refused"))
        clock.asleep += 300.0
        app.worker.told(Reached("no route"))
        assert (300, "no route") == (int(fleet(app)["away"]), fleet(app)["why"])
        app.worker.told(Reached(""))
        assert {"away": 0.0, "why": ""} == fleet(app)
        app.worker.told(Reached("no route"))
        world.fleet = Fleet("dbname=other", ())
        assert (await app.commands.reload()).ok
        assert {"away": 0.0, "why": ""} == fleet(app)


@in_trio
async def test_signing_out_is_heard_at_once(world: World) -> None:
    """The stored sign-in is deleted, and no token of it is served any more."""
    async with world.daemon() as app:
        before = await world.ask()
        result = await app.commands.logout("a@example.test")
        after = await world.ask()

    assert (True, "") == (before.startswith("token-"), after)
    assert (True, "a@example.test: signed out, and the stored sign-in deleted") == (result.ok, result.message)
    assert "the access token that programs have works until" in result.hint
    assert "https://mysignins.microsoft.com" in result.hint


@in_trio
async def test_refresh_waits_for_the_outcome(world: World) -> None:
    """Of one account or of all: fresh tokens, or the reason of those that got none."""
    world.accounts = [account("a@example.test"), account("unsigned@example.test")]
    async with world.daemon() as app:
        await until_settled(app)
        await trio.sleep(max(0.0, 1.0 - SystemClock().boot() + life(app).held.issued))  # type: ignore[union-attr]  # held
        before = await world.ask()
        one = await app.commands.refresh("a@example.test")
        after = await world.ask()
        all_users = await app.commands.refresh("")
        unknown = await app.commands.refresh("nobody@example.test")

    assert (Result(True, "a@example.test: fresh"), True) == (one, before != after)
    assert Result(False, "unsigned@example.test: nobody has signed in", "sign in") == all_users
    assert not unknown.ok


@in_trio_jumps
async def test_refresh_does_not_wait_for_ever(world: World) -> None:
    """A worker that does not answer: the command says that there is no answer yet."""
    world.accounts = [account("hang@example.test")]
    world.options["timeout"] = 1.0
    results = []

    async def refresh(app: App) -> None:
        results.append(await app.commands.refresh(""))

    async with world.daemon() as app, trio.open_nursery() as nursery:
        nursery.start_soon(refresh, app)
        await trio.testing.wait_all_tasks_blocked()
        jump(1.0 + module.REFRESH_MARGIN)

    assert [Result(False, "there is no answer yet", "`cms status` shows it when it comes")] == results


@in_trio
async def test_a_reload_keeps_every_token_whose_grant_is_the_same(world: World) -> None:
    """One account stays, one changes, one comes, one goes: only the changed and the new one ask for tokens."""
    world.accounts = [account(f"{name}@example.test") for name in ("stays", "changes", "goes")]
    async with world.daemon() as app:
        await until_settled(app)
        stays = await world.ask("SMTP,token stays@example.test")
        world.accounts = [account("stays@example.test"), account("comes@example.test")]
        world.accounts.append(account("changes@example.test", refresh_before=60.0))
        result = await app.commands.reload()
        await until_settled(app)
        answers = [await world.ask(f"SMTP,token {name}@example.test") for name in ("stays", "comes", "changes", "goes")]

    assert Result(True, "stays@example.test, comes@example.test, changes@example.test: configured") == result
    assert (stays, "") == (answers[0], answers[3])
    assert [True, True] == [answer.startswith("token-") for answer in answers[1:3]]
    assert 1 == len(world.started)


@in_trio
async def test_a_reload_changes_sockets(world: World) -> None:
    """One goes, one comes, one gets another mode, one other rules: all without a moment in which it is not there."""
    with_users = {"users": ("0", str(os.getuid()))}
    world.sockets = {"goes.sock": {}, "mode.sock": {}, "rules.sock": {}}
    async with world.daemon() as app:
        before = os.stat(world.path("rules.sock")).st_ino  # noqa: PTH116 - a fact about a file
        world.sockets = {"comes.sock": {}, "mode.sock": {"mode": 0o660}, "rules.sock": with_users | {"protocols": ()}}
        result = await app.commands.reload()
        answers = [await world.ask(name=name) for name in ("comes.sock", "mode.sock", "rules.sock")]
        after = os.stat(world.path("rules.sock")).st_ino  # noqa: PTH116 - as above
        mode = stat.S_IMODE(os.stat(world.path("mode.sock")).st_mode)  # noqa: PTH116 - as above
        left = Path(world.path("goes.sock")).exists()

    assert (True, before, 0o660, False) == (result.ok, after, mode, left)
    assert [True, True, False] == [answer.startswith("token-") for answer in answers]


@in_trio
async def test_a_reload_that_fails_changes_nothing(world: World) -> None:
    """Whether the file is wrong, a socket cannot be made or cms has a bug: what ran goes on, and the log says so."""
    Path(world.path("file")).write_text("not a socket")
    faults = [ConfigError("cms.cfg", 3, "no such directive"), None, RuntimeError("a bug")]
    with capture_logs() as lines:
        async with world.daemon() as app:
            before = await world.ask()
            world.vault_key = Source("keyring")
            world.accounts, world.sockets = [], {"new.sock": {}, "cms.sock": {"mode": 0o666}, "file": {}}
            results = []
            for world.fault in faults:
                results.append(await app.commands.reload())
            after = await world.ask()
            mode = stat.S_IMODE(os.stat(world.path()).st_mode)  # noqa: PTH116 - a fact about a file
            left = Path(world.path("new.sock")).exists()

    assert (before, [False] * 3, 0o600, False) == (after, [result.ok for result in results], mode, left)
    assert ["the running configuration stays in use" in result.hint for result in results] == [True] * 3
    assert 3 == events(lines).count("the reload failed: the running configuration stays in use")


@in_trio
async def test_another_key_means_another_worker(world: World) -> None:
    """A reload that changes where the vault's key comes from starts a worker anew, and tries what had failed."""
    world.accounts = [account("a@example.test"), account("unsigned@example.test")]
    async with world.daemon() as app:
        await until_settled(app)
        world.vault_key = Source("keyring")
        await app.commands.reload()
        await until_settled(app)
        workers = len(world.started)
        await app.commands.reload()

    assert (2, 2) == (workers, len(world.started))


@in_trio
async def test_a_question_moves_to_the_new_worker(world: World) -> None:
    """What the old worker had not answered when it was replaced is asked again, without a failure in between."""
    world.accounts = [account("hang-once@example.test")]
    async with world.daemon() as app:
        await world.noted("hung")
        world.vault_key = Source("keyring")
        await app.commands.reload()
        answer = await world.ask("SMTP,token hang-once@example.test")

    assert answer.startswith("token-")


@in_trio
async def test_an_account_that_goes_takes_its_sign_in_along(world: World) -> None:
    """A sign-in under way for an account that a reload removes is given up, and its end changes nothing."""
    world.accounts = [account("a@example.test"), account("unsigned@example.test")]
    async with world.daemon() as app:
        await until_settled(app)
        flow = app.commands.login("unsigned@example.test", "paste")
        assert isinstance(flow, Flow)
        with flow.held():
            await flow.prompt()
            world.accounts.pop()
            await app.commands.reload()
            outcome = await flow.outcome()

    assert isinstance(outcome, Refused)
    assert "cancelled" == outcome.trouble.kind


@in_trio
async def test_memory_only_is_said_loudly(world: World) -> None:
    """Once when it is seen, and at the start when it was chosen."""
    chosen = World(world.folder / "chosen", vault_key=Source("memory"))
    world.accounts = [account("memory@example.test")]
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)
            quiet = events(lines).count(MEMORY_WARNING)
            await pasted(app.commands.login("", "paste"))
            await app.commands.refresh("")
        seen = events(lines).count(MEMORY_WARNING)
        async with chosen.daemon() as app:
            known = app.commands.status().extra["json"]["daemon"]["memory_chosen"]
            await until(lambda: events(lines).count(MEMORY_WARNING) > seen)

    assert (0, 1, 2, True) == (quiet, seen, events(lines).count(MEMORY_WARNING), known)


@in_trio
async def test_a_sign_in_that_was_in_memory_only_is_missed(world: World) -> None:
    """A reload that starts another worker says who has to sign in again: the worker that had the sign-in has ended."""
    world.accounts = [account("memory@example.test")]
    async with world.daemon() as app:
        await until_settled(app)
        await pasted(app.commands.login("", "paste"))
        world.vault_key = Source("keyring")
        with capture_logs() as lines:
            await app.commands.reload()

    (missed,) = [line for line in lines if "kept in memory only has ended" in line["event"]]
    assert ("memory@example.test", "sign in again: `cms login memory@example.test`") == (
        missed["account"],
        missed["do"],
    )


@in_trio_jumps
async def test_a_suspend_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two hours in which only the boot clock went on, the daemon replaces the expired token without a request."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 5.0)
    clock = FakeClock(boot=time.clock_gettime(time.CLOCK_BOOTTIME) - trio.current_time())
    world.options["clock"] = clock
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)
            first = life(app).held
            jump(module.WATCH_SECONDS)
            await trio.testing.wait_all_tasks_blocked()
            clock.asleep += 7200.0
            jump(module.WATCH_SECONDS)
            await until(lambda: life(app).held is not first)

    assert [7200] == [line["seconds"] for line in lines if line["event"] == "back from a suspend"]


@in_trio
async def test_stopping_finishes_what_was_asked(world: World) -> None:
    """A request that is whole is answered, one that is not is dropped, the worker stores."""
    line = b"SMTP a@example.test\n"
    async with world.daemon() as app:
        await until_settled(app)
        world.accounts.append(account("storing@example.test"))
        await app.commands.reload()
        await world.noted("storing")
        async with world.client(line) as asking, world.client(line[:5]) as silent:
            await trio.testing.wait_all_tasks_blocked()
            app.stop()
            answers = [await read(asking), await read(silent)]

    assert (True, b"") == (answers[0].startswith(b"user=a@example.test\x01auth=Bearer token-"), answers[1])
    assert Path(world.path("state/stored")).exists()


def test_stopping_takes_five_seconds_at_most() -> None:
    """All that a stop may wait for, one after the other, and room for the rest."""
    waits = module.STOP_PAUSE + module.DRAIN_SECONDS + worker.GRACE_SECONDS + 2 * children.REAP_SECONDS

    assert waits < 4.7


async def reload(app: App) -> None:
    """Load the configuration anew, and let all tasks hear of it."""
    await app._reload()
    await trio.testing.wait_all_tasks_blocked()


async def reloads(world: World, app: App) -> None:
    """Reload four times, one time by a file that is wrong."""
    for fault in (None, ConfigError("cms.cfg", 3, "no such directive"), None, None):
        world.fault = fault
        with suppress(ConfigError):
            await reload(app)
        jump(0.9)


async def has_other_scopes(world: World, app: App) -> None:
    """Ask for other scopes with each reload."""
    for number in range(3):
        scopes = (*MAIL, f"{MAIL[0]}{number}")
        world.accounts = [account("", login=HANGS, scope_sets=(scopes,))]
        await reload(app)
        jump(1.0)


async def loses_its_account(world: World, app: App) -> None:
    world.accounts = [account("hang@other.test")]
    await reload(app)


async def loses_its_socket(world: World, app: App) -> None:
    world.sockets = {}
    await reload(app)


async def loses_both(world: World, app: App) -> None:
    world.accounts, world.sockets = [account("hang@other.test")], {}
    await reload(app)


async def gets_another_mode(world: World, app: App) -> None:
    world.sockets = {"cms.sock": {**world.sockets["cms.sock"], "mode": 0o660}}
    await reload(app)


async def loses_account_and_mode(world: World, app: App) -> None:
    world.accounts = [account("hang@other.test")]
    await gets_another_mode(world, app)


async def becomes_another_kind(world: World, app: App) -> None:
    speaks = world.sockets["cms.sock"]["speaks"]
    world.sockets = {"cms.sock": {"speaks": "postfix" if speaks == "tokens" else "tokens"}}
    await reload(app)


async def loses_its_worker(world: World, app: App) -> None:
    world.vault_key = Source("keyring")
    await reload(app)


async def sleeps(world: World, _app: App) -> None:
    world.options["clock"].asleep += 7200.0
    jump(module.WATCH_SECONDS)


async def is_stopped(world: World, app: App) -> None:
    app.stop()
    await trio.testing.wait_all_tasks_blocked()
    jump(module.DRAIN_SECONDS)
    await until(lambda: world.code is not None)


async def is_stopped_after_a_reload(world: World, app: App) -> None:
    await loses_its_socket(world, app)
    await is_stopped(world, app)


HANGS = "hang@example.test"
EVENTS = (
    *(reloads, has_other_scopes, loses_its_account, loses_its_socket, loses_both, gets_another_mode),
    *(loses_account_and_mode, becomes_another_kind, loses_its_worker, sleeps, is_stopped, is_stopped_after_a_reload),
)
SPOKEN = {"tokens": b"SMTP,min=900,json\n", "postfix": socketmap.query("cms", "smtp.example.test")}


@pytest.mark.parametrize("speaks", SPOKEN)
@pytest.mark.parametrize("happens", EVENTS)
@in_trio_jumps
async def test_every_whole_request_is_answered_in_time(
    world: World,
    speaks: str,
    happens: Callable[[World, App], Awaitable[None]],
) -> None:
    """Four seconds from its first byte at the latest, and recorded once, whatever happens while it waits."""
    world.options["clock"] = FakeClock(boot=time.clock_gettime(time.CLOCK_BOOTTIME) - trio.current_time())
    world.accounts = [account("", login=HANGS)]
    world.sockets = {"cms.sock": {"speaks": speaks}}
    with capture_logs() as lines:
        async with world.daemon() as app, world.client(SPOKEN[speaks]) as client:
            await world.noted("hung")
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await happens(world, app)
            jump(max(0.0, began + wire.WAIT_SECONDS - trio.current_time()))
            said = bytes(await client.receive_some())

    asked = [each["outcome"] for each in app.commands.status().extra["json"]["requests"]]
    assert ((b'"error"' if speaks == "tokens" else b"TEMP ") in said, 1) == (True, len(asked))
    assert asked[0] in ("unavailable", "unknown-account", "unknown-protocol")
    assert [] == [line for line in lines if line["log_level"] == "error" and "reload failed" not in line["event"]]


@in_trio
async def test_refusals_that_were_only_counted_are_told_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean stop loses none of them."""
    monkeypatch.setattr("cms.daemon.serving.audit.MAX_REFUSALS", 0)
    with capture_logs() as lines:
        async with world.daemon():
            for _ in range(3):
                async with world.client(b"SMTP,json nobody@example.test\n") as client:
                    assert b'"error"' in await read(client)

    told = "requests were counted, not recorded: there were too many"
    assert 3 == sum(line["count"] for line in lines if line["event"] == told)


@in_trio
async def test_the_audit_follows_logrotate_and_the_configuration(world: World) -> None:
    """A reload opens the file anew, even one that fails; another file is another file; and the status names it."""
    first, second = Path(world.path("audit.log")), Path(world.path("second.log"))
    world.audit = AuditSpec(str(first))
    async with world.daemon() as app:
        await until_settled(app)
        places = app.commands.status().extra["json"]["daemon"]["audit"]["places"]
        await world.ask()
        first.rename(world.path("audit.log.1"))
        world.fault = ConfigError("cms.cfg", 3, "no such directive")
        await app.commands.reload()
        await world.ask()
        first.rename(world.path("audit.log.2"))
        world.fault = None
        await app.commands.reload()
        await world.ask()
        world.audit = AuditSpec(str(second))
        await app.commands.reload()
        await world.ask()

    names = ("audit.log.1", "audit.log.2", "audit.log", "second.log")
    assert [1, 1, 1, 1] == [Path(world.path(name)).read_text().count("outcome=granted ") for name in names]
    assert (str(first),) == places


@in_trio
async def test_an_audit_that_cannot_be_written_stops_no_mail(world: World) -> None:
    """What is lost is counted and told, in the log and in the status."""
    Path(world.path("audit.log")).mkdir()
    world.audit = AuditSpec(world.path("audit.log"))
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)
            answer = await world.ask()
            said = app.commands.status().extra["json"]["daemon"]["audit"]

    assert (True, 1) == (answer.startswith("token-"), said["lost"])
    assert f"{world.path('audit.log')}: Is a directory" == said["trouble"]
    assert "a file cannot be written: what belongs into it is lost" in events(lines)


@in_trio
async def test_the_control_socket_stops_it(world: World) -> None:
    """`stop` is answered before the end."""
    async with world.daemon(), world.client(b'{"command": "stop"}\n', "run/control.sock") as client:
        answer = await read(client)

    assert b'"message": "cms is stopping"' in answer
    assert 0 == world.code


@in_trio
async def test_signals_reload_and_stop_it(world: World) -> None:
    """SIGHUP reloads the configuration, SIGTERM ends the daemon."""
    world.options["heed_signals"] = True
    with capture_logs() as lines:
        async with world.daemon():
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: "reloaded" in events(lines))
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: world.code is not None)

    assert 0 == world.code


@in_trio
async def test_systemd_hears_of_everything(world: World) -> None:
    """Ready when requests are taken, status as lives change, reloading and ready again, stopping."""
    heard: list[str] = []
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(world.path("notify"))
        world.options["environ"] = {"NOTIFY_SOCKET": world.path("notify"), "WATCHDOG_USEC": "60000000"}
        async with world.daemon() as app:
            await until_settled(app)
            while not any("1 ok" in each for each in heard):
                heard.append((await sock.recv(1000)).decode())
            await app.commands.reload()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, b"\0" * 16)
        while "STOPPING=1" not in heard:
            heard.append((await sock.recv(1000)).decode())

    words = [each.partition("=")[0] for each in heard]
    assert {"READY", "STATUS", "WATCHDOG", "RELOADING", "STOPPING"} == set(words)
    assert words.index("RELOADING") < len(words) - 1 - words[::-1].index("READY")


@in_trio
async def test_sockets_of_systemd_are_adopted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the configuration names is served and keeps its file; another is closed with a warning."""
    adopted, stray = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
    adopted.bind(world.path())
    stray.bind(world.path("stray.sock"))
    monkeypatch.setattr(listener, "adopt", lambda *_: {world.path(): adopted, world.path("stray.sock"): stray})
    with capture_logs() as lines:
        async with world.daemon() as app:
            world.sockets = {"cms.sock": {"mode": 0o666}}
            await app.commands.reload()
            answer = await world.ask()

    assert (True, True, -1) == (answer.startswith("token-"), Path(world.path()).exists(), stray.fileno())
    assert any("no CredentialServer names" in event for event in events(lines))


@in_trio
async def test_a_socket_that_cannot_be_put_back_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When even undoing a failed reload fails, the log names the socket that is lost; the rest goes on."""
    Path(world.path("file")).write_text("not a socket")
    world.sockets = {"cms.sock": {}, "other.sock": {}}
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)

            async def lost(*_: object) -> None:
                raise ListenError("the folder has gone")

            monkeypatch.setattr(Sockets, "_restore", lost)
            world.sockets = {"cms.sock": {"mode": 0o666}, "other.sock": {}, "file": {}}
            result = await app.commands.reload()
            answer = await world.ask(name="other.sock")

    assert (False, True) == (result.ok, answer.startswith("token-"))
    assert [world.path()] == [line["socket"] for line in lines if line["event"].startswith("a socket is lost")]


DOORS = ("cms.sock", "postfix.sock", "run/control.sock", "adopted.sock")
ASKED = {
    "cms.sock": (b"SMTP,token\n", b"token-"),
    "postfix.sock": (socketmap.query("cms", "smtp.example.test"), b"OK a@example.test:token-"),
    "run/control.sock": (b'{"command": "ping"}\n', b'"here"'),
    "adopted.sock": (b"SMTP,token\n", b"token-"),
}


async def says(world: World, name: str) -> bytes:
    """Return what a socket answers to what it is for."""
    async with world.client(ASKED[name][0], name) as stream:
        return bytes(await stream.receive_some())


@pytest.mark.parametrize("notices", ["the watch", "a reload", "a reload that fails", "SIGHUP"])
@pytest.mark.parametrize("name", DOORS)
@in_trio_jumps
async def test_a_socket_that_is_removed_comes_back(
    world: World, name: str, notices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind, by itself within half a minute, and at once with a reload; meanwhile the status says so."""
    world.options["heed_signals"] = notices == "SIGHUP"
    world.sockets = {"cms.sock": {}, "postfix.sock": {"speaks": "postfix"}, "adopted.sock": {}}
    adopted = socket.socket(socket.AF_UNIX)
    adopted.bind(world.path("adopted.sock"))
    monkeypatch.setattr(listener, "adopt", lambda *_: {world.path("adopted.sock"): adopted})
    async with world.daemon() as app:
        await until_settled(app)
        before = app.commands.status()
        Path(world.path(name)).unlink()
        meanwhile = app.commands.status()
        match notices:
            case "the watch":
                jump(module.WATCH_SECONDS)
            case "SIGHUP":
                os.kill(os.getpid(), signal.SIGHUP)
            case _:
                world.fault = ConfigError("cms.cfg", 3, "no such directive") if "fails" in notices else None
                await app.commands.reload()
        await until(Path(world.path(name)).exists)
        said = await says(world, name)
        after = app.commands.status()
        told = [world.path(name) in each for each in (before.message, meanwhile.message, after.message)]

    assert ASKED[name][1] in said
    assert [False, True, False] == told
    assert [0, 2, 0] == [each.extra["exit_code"] for each in (before, meanwhile, after)]
    (trouble,) = meanwhile.extra["json"]["daemon"]["troubles"]
    assert trouble in meanwhile.extra["json"]["daemon"]["warnings"]
    left = after.extra["json"]["daemon"]["warnings"]
    assert [world.path(name) in each and "systemd" in each for each in left] == [True] * (name == "adopted.sock")


@in_trio_jumps
async def test_a_folder_that_vanishes_with_all_that_is_in_it_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those below /run/user at a logout: sockets, the control socket and token files."""
    monkeypatch.setattr(token_files, "SHORTEST_TOKEN", 1)
    # A busy machine may take longer for a look.
    monkeypatch.setattr(token_files, "LOOK_SECONDS", 200.0)
    token = Path(world.path("run/tokens/token"))
    world.sockets = {"run/cms.sock": {}}
    world.files = [FileSpec(str(token), world.accounts[0], "SMTP", 0o600, False, 1)]
    async with world.daemon() as app:
        await until_settled(app)
        await until(lambda: app._files._files[str(token)].written)
        served = token.read_text()
        shutil.rmtree(world.path("run"))
        await app.commands.look()
        troubles = app.commands.status().extra["json"]["daemon"]["troubles"]
        jump(module.WATCH_SECONDS)
        await until(token.exists)
        answers = [await world.ask(name="run/cms.sock"), (await says(world, "run/control.sock")).decode()]

    assert 3 == len(troubles)
    assert (served, True) == (answers[0], '"here"' in answers[1])


@in_trio_jumps
async def test_a_socket_that_cannot_be_put_back_is_in_the_status_until_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in its way is named: by status, by reload, in systemd's line; then it is put back."""
    heard: list[str] = []
    monkeypatch.setattr(sd_notify.Systemd, "listens", True)
    monkeypatch.setattr(sd_notify.Systemd, "status", lambda _self, text: heard.append(text))
    async with world.daemon() as app:
        await until_settled(app)
        Path(world.path()).unlink()
        Path(world.path()).write_text("precious")
        jump(module.WATCH_SECONDS)
        await until(lambda: "cannot be put back" in app.commands.status().message)
        await until(lambda: any("cannot be put back" in each for each in heard))
        reloaded = await app.commands.reload()
        kept = Path(world.path()).read_text()
        Path(world.path()).unlink()
        jump(module.WATCH_SECONDS)
        await until(lambda: app.commands.status().extra["exit_code"] == 0)
        answer = await world.ask()
        await until(lambda: "put back" not in heard[-1])

    assert ("precious", True, True) == (kept, answer.startswith("token-"), reloaded.ok)
    assert f"warning: the socket {world.path()} is not a socket any more" in reloaded.hint
    assert "remove it" in reloaded.hint


@in_trio
async def test_notices_go_to_the_log(world: World) -> None:
    """An account that needs a person is a warning with its name and the next move."""
    world.accounts = [account("unsigned@example.test")]
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)

    told = [line for line in lines if line.get("notice") == "sign-in-required"]
    assert [("warning", "unsigned@example.test", "sign in")] == [
        (line["log_level"], line["account"], line["do"]) for line in told
    ]


@in_trio
async def test_the_state_folder_is_free_again(world: World) -> None:
    """After the end another daemon can have it."""
    async with world.daemon():
        pass
    with state_lock.claimed(world.path("state")):
        pass
    async with replace(world, code=None).daemon():
        answer = await world.ask()

    assert answer.startswith("token-")


@in_trio
async def test_hooks_hear_of_the_accounts_that_there_are(world: World) -> None:
    """By the name that the configuration gives, with the command that signs in; of one that has gone, nothing."""
    world.accounts = [account("unsigned@example.test"), account("machine@example.test", sign_in="app")]
    async with world.daemon() as app:
        facts = [app.registry.facts(key) for key in (*app.registry.names, "gone")]

    assert [
        ("unsigned@example.test", "cms login unsigned@example.test"),
        ("machine@example.test", ""),
        None,
    ] == [each and (each.account, str(each.how.command or "")) for each in facts]


@pytest.mark.parametrize(
    "user", ["o'connor@example.test", "r&d$x@example.test", "-x@example.test", "`id`@example.test"]
)
@in_trio
async def test_a_name_is_one_word_of_every_command(world: World, user: str) -> None:
    """Whatever is in it: in the status, in what hooks hear, and in what a client is told."""
    world.accounts = [account(user)]
    with capture_logs() as lines:
        async with world.daemon() as app:
            await until_settled(app)
            await app.commands.logout(user)
            row = app.commands.status(user).extra["json"]["accounts"][0]
            facts = [app.registry.facts(key) for key in app.registry.names]
            refused = json.loads(await world.ask(f"SMTP,json {user}"))
            await trio.testing.wait_all_tasks_blocked()

    logged = [line["do"] for line in lines if line.get("notice") == "signed-out" or "cms login" in line.get("do", "")]
    shown = [row["next_move"], refused["error"]["hint"], *logged]
    commands = [str(each and each.how.command) for each in facts]
    commands += [each[each.index("`") + 1 : each.rindex("`")] for each in shown]
    assert len(commands) > 2
    assert [list(cms("login", user).words)] * len(commands) == [shlex.split(each) for each in commands]


@in_trio
async def test_what_no_account_has_is_in_the_status(world: World) -> None:
    """Until it is deleted."""
    stored = world.folder / "state" / "unlisted.vault"
    stored.parent.mkdir(mode=0o700, exist_ok=True)
    stored.touch()
    async with world.daemon() as app:
        await until(lambda: bool(app.commands.status().extra["json"]["orphans"]))
        stored.unlink()
        await app.commands.errand("prune", {"yes": True}, _no_answer)
        left = app.commands.status().extra["json"]["orphans"]

    assert () == left


async def _no_answer(_event: Mapping[str, Any]) -> Mapping[str, Any]:
    return {}


@on_moving_clock
async def test_a_reload_says_what_is_to_be_done(tmp_path: Path) -> None:
    """What the configuration is warned about, and who has to sign in."""
    async with whole_daemon(tmp_path, signed_in=False) as daemon:
        with (tmp_path / "cms.cfg").open("a") as file:
            file.write('MailDir("~/Mail")\n')
        result = await daemon.app.commands.reload()

    assert result.ok
    assert "warning: " in result.hint
    assert "MailDir is ignored" in result.hint
    assert f"cms login {ANN}" in result.hint


@on_moving_clock
async def test_memory_only_is_a_warning_for_programs_too(tmp_path: Path) -> None:
    """`cms status --json` warns as the text does."""
    async with whole_daemon(tmp_path, key='"memory"') as daemon:
        warnings = daemon.app.commands.status().extra["json"]["daemon"]["warnings"]

    assert [MEMORY_WARNING] == warnings
