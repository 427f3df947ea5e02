"""Hooks are run: with the facts, one at a time, under a deadline, and without harm to anything."""

from __future__ import annotations

import errno
import itertools
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.configuration import loader
from support.contrib import ROOT
from support.fragments import blocks
from support.signals import HOSTILE, dispositions
from support.trio_run import FakeClock, in_trio, in_trio_jumps, jump, until

from cms.core.forecast import Forecast
from cms.core.hooks import EVENTS, REMIND_SECONDS, USUAL_EVENTS, Hook
from cms.core.lifecycle import Life, NeedsSignIn, SignInFacts, Token, Trouble
from cms.core.notices import Facts, HowToSignIn, Notice, Remark
from cms.daemon import hooks as module
from cms.daemon.children import ENVIRONMENT
from cms.daemon.hooks import (
    DESKTOP,
    FACTS,
    HOOK_SECONDS,
    LOOKS_IN_A_ROW,
    MAX_LINES,
    Hooks,
    desktop_bus,
    facts_of,
    hook_environment,
    run_hook,
)

ANN, BOB = "ann@example.test", "bob@example.test"
REVOKED = Trouble("refused", "the password was changed", "sign in again")
NOTICE = Notice("sign-in-required", ANN, "the password was changed", "sign in again", due=1_800_000_000.9, aadsts=50173)

Lines = list[MutableMapping[str, Any]]


def well(issued: float = 1.0) -> Facts:
    return Facts(
        ANN, [Life(Token("secret", issued, issued + 3600.0, issued + 1800.0))], sign_in=SignInFacts(given_at=5.0)
    )


def ended(account: str = ANN) -> Facts:
    return Facts(account, [Life(None, NeedsSignIn(1.0, REVOKED))], sign_in=SignInFacts(given_at=5.0))


def shell(script: str, **options: Any) -> Hook:
    """A hook of a line of shell, for all events."""
    return Hook(("/bin/sh", "-c", script), **{"events": tuple(EVENTS), **options})


@dataclass
class World:
    """Hooks over facts that a test sets. `log` is where the hooks of `noting` write."""

    folder: Path
    facts: dict[str, Facts] = field(default_factory=lambda: {"a": well()})
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": os.environ["PATH"]})

    def __post_init__(self) -> None:
        self.log = self.folder / "log"
        self.clock = FakeClock()
        self.hooks = Hooks(self.facts.get, self.clock, self.environ)

    def noting(self, what: str = '"$CMS_EVENT $CMS_ACCOUNT"', **options: Any) -> Hook:
        """A hook that adds a line to the log."""
        return shell(f"echo {what} >> {shlex.quote(str(self.log))}", **options)

    def apply(self, *hooks: Hook, desktop: bool = False) -> None:
        self.hooks.apply(hooks, self.facts, desktop=desktop)

    def change(self, key: str, facts: Facts) -> None:
        self.facts[key] = facts
        self.hooks.changed(key)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    async def until_lines(self, *expected: str) -> None:
        await until(lambda: len(self.lines()) >= len(expected))

        assert list(expected) == self.lines()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hooks.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def warnings(lines: Lines) -> list[str]:
    return [line["event"] for line in lines if line["log_level"] == "warning"]


def printed(lines: Lines) -> list[str]:
    """What hooks have printed, as the log has it."""
    return [line["line"] for line in lines if line["event"] == "hook"]


async def run(script: str, environment: dict[str, str] | None = None) -> list[str]:
    """Run a hook of a line of shell; return what it printed."""
    return await run_hook(("/bin/sh", "-c", script), {"PATH": os.environ["PATH"], **(environment or {})}, NOTICE)


class TestOneHook:
    @in_trio
    async def test_its_surroundings(self) -> None:
        """An empty standard input, a new session, both outputs, and only the environment that it is given."""
        printed = await run(
            "read x || echo empty; cut -d ' ' -f 6 /proc/$$/stat; echo $$; echo oops >&2; env | grep -c ."
        )

        empty, session, process, err, variables = printed
        assert ("empty", process, "oops") == (empty, session, err)
        # PATH, and what the shell adds: PWD and the like.
        assert int(variables) <= 4

    def test_it_ignores_and_blocks_nothing(self) -> None:
        """Whatever the parent of the daemon did, but for what a job in the background needs. Without `begin` it would."""

        def told(before: str) -> tuple[set[str], set[str]]:
            program = (
                f"{HOSTILE}{before}import trio\nfrom cms.core.notices import Notice\n"
                "from cms.daemon.hooks import run_hook\nnotice = Notice('recovered', '', '', '')\n"
                "print(*trio.run(run_hook, ('/usr/bin/grep', '^Sig', '/proc/self/status'), {}, notice), sep='\\n')\n"
            )
            return dispositions(
                subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
            )

        ignored, blocked = told("from cms.system.start import begin\nbegin()\n")
        assert ({"SIGTTIN", "SIGTTOU"}, set()) == (ignored, blocked)
        assert all({"SIGHUP", "SIGTERM", "SIGUSR1"} <= each for each in told(""))

    @in_trio
    async def test_a_hook_that_fails_is_a_line_of_the_log(self) -> None:
        """Its status is in the log, and what it printed."""
        with capture_logs() as lines:
            printed = await run("echo why; exit 3")

        assert ["why"] == printed
        assert [("a hook failed", 3, "/bin/sh", "sign-in-required", ANN)] == [
            tuple(line[name] for name in ("event", "status", "hook", "notice", "account")) for line in lines
        ]

    @in_trio
    async def test_a_hook_that_is_not_there_is_a_line_of_the_log(self, tmp_path: Path) -> None:
        """So is one that may not be run."""
        (tmp_path / "plain").write_text("no program")
        with capture_logs() as lines:
            for path in ("missing", "plain"):
                assert [] == await run_hook((str(tmp_path / path),), {}, NOTICE)

        assert [
            ("a hook cannot be started", "No such file or directory"),
            ("a hook cannot be started", "Permission denied"),
        ] == [(line["event"], line["error"]) for line in lines]

    @in_trio_jumps
    async def test_a_hook_that_hangs_is_ended_with_all_that_it_started(self, tmp_path: Path) -> None:
        """After ten seconds the whole session is killed, and what was printed until then is kept."""
        with capture_logs() as lines:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hang, tmp_path, nursery)
                await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
                jump(HOOK_SECONDS + 1)
        child = int((tmp_path / "child").read_text())

        await until(lambda: not _is_alive(child))
        assert ["a hook was killed: it took too long"] == warnings(lines)

    @in_trio
    async def test_a_hook_ends_with_the_daemon(self, tmp_path: Path) -> None:
        """Cancelled, it is gone at once."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang, tmp_path, nursery)
            await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
            nursery.cancel_scope.cancel()
        child = int((tmp_path / "child").read_text())

        await until(lambda: not _is_alive(child))

    @in_trio
    async def test_what_it_leaves_behind_lives_on(self, tmp_path: Path) -> None:
        """A browser that a hook has started delays no other hook, although it holds the hook's output open."""
        printed = await run(f"sleep 300 & echo $! > {tmp_path}/left; echo done")
        left = int((tmp_path / "left").read_text())

        assert ["done"] == printed
        assert _is_alive(left)
        os.kill(left, signal.SIGKILL)

    @in_trio
    async def test_the_log_takes_no_report(self) -> None:
        """What a hook prints is cut: so many lines, and each of bearable length."""
        printed = await run("yes | head -c 100000; head -c 100000 /dev/zero | tr '\\0' x")

        assert ["y"] * MAX_LINES == printed[:MAX_LINES]
        assert ["... the rest of what this hook prints is left out"] == printed[MAX_LINES:]


async def _hang(folder: Path, nursery: trio.Nursery) -> None:
    """Run a hook that has started another program and waits for it."""
    assert ["before"] == await run(f"echo before; sleep 300 & echo $! > {folder}/child; wait")
    nursery.cancel_scope.cancel()


def _is_alive(process: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class TestSurroundings:
    def test_every_fact_has_a_variable(self) -> None:
        """All variables are there each time, and none of them is a secret's."""
        said = facts_of(NOTICE)

        assert set(FACTS) == set(said)
        assert ("sign-in-required", ANN, "50173", "1800000000", "", "") == tuple(
            said[name] for name in ("CMS_EVENT", "CMS_ACCOUNT", "CMS_AADSTS", "CMS_DUE", "CMS_URL", "CMS_CODE")
        )
        assert ("microsoft", "google") == (
            said["CMS_PROVIDER"],
            facts_of(replace(NOTICE, provider="google"))["CMS_PROVIDER"],
        )

    def test_a_text_from_elsewhere_stays_in_its_line(self) -> None:
        """Messages have parts that a provider wrote: no control character and no end of the world in them."""
        said = facts_of(replace(NOTICE, message="one\ntwo\x1b[31m\0" + "x" * 100_000))

        assert said["CMS_MESSAGE"].startswith("one two?[31m?xxx")
        assert module.MAX_FACT == len(said["CMS_MESSAGE"])

    def test_no_more_of_the_environment_than_the_worker_has(self) -> None:
        """The allow-list, a display, and nothing that leads to the vault's key."""
        given = dict.fromkeys(("PATH", "HOME", "LC_ALL", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY"), "x")
        others = {
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "PYTHONPATH",
            "LD_PRELOAD",
            "CMS_SOCK",
            "AWS_KEY",
        }

        assert given == hook_environment(given | dict.fromkeys(others, "x"))

    def test_no_secret_of_the_machines_own(self) -> None:
        """What opens an Azure identity is the worker's alone, each variable of it."""
        opening = {name for name in ENVIRONMENT if "a managed identity" in ENVIRONMENT[name]}

        assert {"IDENTITY_HEADER", "MSI_SECRET"} < opening
        assert {} == hook_environment(dict.fromkeys(opening, "x"))

    @pytest.mark.parametrize(
        "name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    )
    @pytest.mark.parametrize(
        ("said", "told"),
        [
            ("http://ann:pa55word@proxy.test:3128/", "http://proxy.test:3128/"),
            ("http://ann:pa55/w@rd@proxy.test:3128", "http://proxy.test:3128"),
            ("ann:pa55word@proxy.test:3128", "proxy.test:3128"),
            ("http://proxy.test:3128", "http://proxy.test:3128"),
            ("proxy.test:3128", "proxy.test:3128"),
            ("", ""),
        ],
    )
    def test_a_proxys_password_is_the_workers(self, name: str, said: str, told: str) -> None:
        """A hook has the proxy's address, so that it can post a message, and must log in by itself."""
        assert {name: told} == hook_environment({name: said})

    def test_a_desktop_is_a_display_and_a_bus(self, tmp_path: Path) -> None:
        """Both are needed; the bus may be where systemd puts it for this user."""
        bus = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/bus"}

        assert "unix:path=/bus" == desktop_bus(bus | {"DISPLAY": ":0"}, 12345)
        assert "unix:path=/bus" == desktop_bus(bus | {"WAYLAND_DISPLAY": "wayland-0"}, 12345)
        assert "" == desktop_bus(bus, 12345)
        assert "" == desktop_bus({"DISPLAY": ":0"}, 12345)
        assert "" == desktop_bus(bus | {"XDG_RUNTIME_DIR": str(tmp_path)}, 12345)

    def test_a_desktop_that_came_after_the_daemon(self, tmp_path: Path) -> None:
        """A daemon that started before its user's desktop has no variable of it: the display's socket tells."""
        (tmp_path / "wayland-1").touch()

        bus = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/bus", "XDG_RUNTIME_DIR": str(tmp_path)}
        assert "unix:path=/bus" == desktop_bus(bus, 12345)

    def test_the_usual_bus(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without an address, the bus that systemd runs for each user."""
        monkeypatch.setattr(module, "USUAL_BUS", f"{tmp_path}/{{uid}}.bus")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "7.bus"))

            assert f"unix:path={tmp_path}/7.bus" == desktop_bus({"DISPLAY": ":0"}, 7)
            assert "" == desktop_bus({"DISPLAY": ":0"}, 8)


class TestHooks:
    @in_trio
    async def test_they_are_told_in_the_order_of_things(self, world: World) -> None:
        """A trouble, its end, and a token, each to every hook that wants it."""
        async with world.running():
            world.apply(world.noting(), world.noting('"2 $CMS_EVENT"', events=("signed-in",)))
            world.change("a", ended())
            await world.until_lines(f"sign-in-required {ANN}")
            world.change("a", well(world.clock.boot()))
            await world.until_lines(f"sign-in-required {ANN}", f"signed-in {ANN}", f"refreshed {ANN}", "2 signed-in")

    @in_trio_jumps
    async def test_a_reminder_comes_by_itself(self, world: World) -> None:
        """It only needs time to pass."""
        async with world.running():
            world.apply(world.noting(remind=60.0))
            world.change("a", ended())
            await world.until_lines(f"sign-in-required {ANN}")
            jump(30)
            await trio.sleep(0.1)
            jump(30)
            await world.until_lines(*[f"sign-in-required {ANN}"] * 2)

    @in_trio
    async def test_a_suspend_is_no_reason_to_forget(self, world: World) -> None:
        """The clock that decides goes on in a suspend: after it a look is enough."""
        async with world.running():
            world.apply(world.noting(remind=60.0))
            world.change("a", ended())
            await world.until_lines(f"sign-in-required {ANN}")
            world.clock.asleep += 60.0
            world.hooks.wake()
            await world.until_lines(*[f"sign-in-required {ANN}"] * 2)

    @in_trio
    async def test_one_runs_at_a_time_and_repeated_notices_become_one(self, world: World) -> None:
        """While a hook runs, what happens again and again to one account waits as one notice, the latest."""
        gate, entered = world.folder / "gate", world.folder / "entered"
        wait = f"touch {entered}; while ! [ -e {gate} ]; do sleep 0.05; done"
        hook = shell(f'{wait}; echo "$CMS_EVENT" >> {world.log}')
        async with world.running():
            world.apply(hook)
            world.change("a", well(2.0))
            await until(entered.exists)
            for issued in range(3, 9):
                world.change("a", well(float(issued)))
                await trio.testing.wait_all_tasks_blocked()
            gate.touch()
            await world.until_lines("refreshed", "refreshed")

    @in_trio
    async def test_the_queue_is_bounded(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """Notices beyond it are left out, which the log says once; when it is empty again all is as before."""
        monkeypatch.setattr(module, "MAX_WAITING", 2)
        for key in "abcde":
            world.facts[key] = well()
        hook = world.noting("x")
        with capture_logs() as lines:
            async with world.running():
                world.apply(hook)
                for key in "abcde":
                    world.change(key, ended())
                await world.until_lines("x", "x")
                await until(lambda: not world.hooks._full)

        full = "hooks are too slow: notices are dropped"
        assert 1 == warnings(lines).count(full)

    @in_trio
    async def test_a_reload_swaps_them(self, world: World) -> None:
        """A hook that comes is told what stands, one that stays is not told twice, one that went is not told at all."""
        staying, going, coming = (world.noting(f'"{name} $CMS_EVENT"') for name in ("stays", "goes", "comes"))
        async with world.running():
            world.apply(staying, going)
            world.change("a", ended())
            await world.until_lines("stays sign-in-required", "goes sign-in-required")
            world.apply(staying, coming)
            await world.until_lines("stays sign-in-required", "goes sign-in-required", "comes sign-in-required")
            world.change("a", well(world.clock.boot()))
            await until(lambda: len(world.lines()) >= 7)

        assert {"stays signed-in", "stays refreshed", "comes signed-in", "comes refreshed"} == set(world.lines()[3:])

    @in_trio
    async def test_the_log_is_told_at_once(self, world: World) -> None:
        """It waits for no other change and no program; trouble that stays is one line, and its end another."""
        with capture_logs() as lines:
            world.apply()
            for facts in (well(), ended(), ended(), well(world.clock.boot() + 1.0)):
                world.change("a", facts)
            world.apply()

        assert [
            ("warning", "sign-in-required", ANN, "the password was changed", "sign in again"),
            ("info", "signed-in", ANN, "the sign-in gave a token", None),
        ] == [(each["log_level"], each["notice"], each["account"], each["event"], each.get("do")) for each in lines]

    @in_trio
    async def test_a_remark_is_in_the_log_once(self, world: World) -> None:
        """However often it is seen, and for whichever account: it is about all of them, or names its own."""
        memory, long = Remark("memory", "in memory only"), Remark("length a", "the token is long", ANN)
        world.facts.update({key: replace(well(), remarks=(memory,)) for key in "ab"})
        with capture_logs() as lines:
            world.apply()
            for _ in range(2):
                world.change("a", replace(well(), remarks=(memory, long)))

        assert [("in memory only", None), ("the token is long", ANN)] == [
            (each["event"], each.get("account")) for each in lines
        ]

    @in_trio
    async def test_what_waits_for_a_hook_that_goes_is_dropped(self, world: World) -> None:
        """cms runs no program that the configuration no longer names, nor for an account that has gone."""
        gone, kept = world.noting("gone"), world.noting('"kept $CMS_ACCOUNT"')
        world.facts["b"] = ended(BOB)
        world.apply()
        world.apply(gone, kept)
        for key in "ab":
            world.hooks._look(key, world.clock.boot())
        world.facts["a"] = ended()
        world.hooks._look("a", world.clock.boot())
        del world.facts["b"]
        world.apply(kept)
        async with world.running():
            await world.until_lines(f"kept {ANN}")

        assert {"a"} == set(world.hooks._heard)

    @in_trio
    async def test_an_account_that_went_is_looked_at_no_more(self, world: World) -> None:
        """A change that comes after its account has gone harms nothing."""
        async with world.running():
            world.apply(world.noting())
            world.hooks.changed("nobody")
            world.change("a", ended())
            await world.until_lines(f"sign-in-required {ANN}")

    @in_trio
    async def test_what_a_hook_prints_is_in_the_log(self, world: World) -> None:
        """Each line, with the event."""
        with capture_logs() as lines:
            async with world.running():
                world.apply(shell("echo one; echo two", events=("sign-in-required",)))
                world.change("a", ended())
                await until(lambda: len(printed(lines)) == 2)

        assert ["one", "two"] == printed(lines)

    @in_trio
    async def test_a_hook_that_cannot_be_run_stops_no_other(self, world: World) -> None:
        """Not even one whose arguments no operating system takes."""
        with capture_logs() as lines:
            async with world.running():
                world.apply(Hook(("/bin/true", "\0")), world.noting())
                world.change("a", ended())
                await world.until_lines(f"sign-in-required {ANN}")

        assert ["a hook could not be run by a bug"] == [line["event"] for line in lines if line["log_level"] == "error"]

    @in_trio
    async def test_the_log_hears_of_the_forecast(self, world: World) -> None:
        """Without any hook, the end that is expected is a line of the log."""
        world.facts["a"] = replace(well(), forecast=Forecast(1e9, "a policy", "likely"), warn_at=-math.inf)
        with capture_logs() as lines:
            async with world.running():
                world.apply()
                await until(lambda: lines)

        assert ["the sign-in is expected to end soon: a policy (likely)"] == warnings(lines)


class TestDesktop:
    @pytest.fixture
    def desktop(self, world: World, monkeypatch: pytest.MonkeyPatch) -> Hook:
        """The desktop's hook, as a program that prints a number and notes what it is told."""
        script = 'echo "$CMS_EVENT $DBUS_SESSION_BUS_ADDRESS replaces:$CMS_REPLACES" >> "$LOG"; echo 17'
        hook = replace(DESKTOP, argv=("/bin/sh", "-c", script.replace("$LOG", str(world.log))))
        monkeypatch.setattr(module, "DESKTOP", hook)
        return hook

    @in_trio
    async def test_one_notification_takes_the_place_of_another(self, world: World, desktop: Hook) -> None:
        """The number that the first one printed is handed to the second, and is no line of the log."""
        world.environ.update(DISPLAY=":0", DBUS_SESSION_BUS_ADDRESS="unix:path=/bus")
        with capture_logs() as lines:
            async with world.running():
                world.apply(desktop=True)
                world.change("a", ended())
                await world.until_lines("sign-in-required unix:path=/bus replaces:")
                world.change("a", well(world.clock.boot()))
                await world.until_lines(
                    "sign-in-required unix:path=/bus replaces:", "signed-in unix:path=/bus replaces:17"
                )

        assert [] == printed(lines)

    @in_trio
    async def test_no_notification_without_a_desktop_or_when_it_is_turned_off(
        self, world: World, desktop: Hook
    ) -> None:
        """On a server, and for a person who has turned them off."""
        async with world.running():
            world.apply(world.noting('"hook"'), desktop=True)
            world.change("a", ended())
            await world.until_lines("hook")
            world.environ.update(DISPLAY=":0", DBUS_SESSION_BUS_ADDRESS="unix:path=/bus")
            world.apply(world.noting('"hook"'), desktop=False)
            world.change("a", well(world.clock.boot()))
            await world.until_lines("hook", "hook", "hook")

    @in_trio
    async def test_a_desktop_that_cannot_be_looked_for_stops_no_hook(
        self, world: World, desktop: Hook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder that may not be entered makes Path.is_socket() raise: the notice is lost, the daemon goes on."""

        def refuse(_environ: Mapping[str, str], _uid: int) -> str:
            raise PermissionError(errno.EACCES, "Permission denied", "/run/user/7/bus")

        monkeypatch.setattr(module, "desktop_bus", refuse)
        with capture_logs() as lines:
            async with world.running():
                world.apply(world.noting('"hook"'), desktop=True)
                world.change("a", ended())
                await world.until_lines("hook")

        assert 1 == [line["event"] for line in lines].count("a hook could not be run by a bug")

    def test_its_program_is_the_installed_one(self) -> None:
        """Whatever lies in the current folder, and whatever PYTHONPATH says."""
        assert (sys.executable, "-I", "-m", "cms.daemon.desktop") == DESKTOP.argv
        assert "refreshed" not in DESKTOP.events


PAGE = (ROOT / "docs" / "operations.md").read_text()
# Stands for each program that the page names: notes its arguments and what it reads.
FAKE = """#!/bin/sh
{ printf '%s|' "${0##*/}" "$@"; echo; cat; } >> "${0%/*}/log"
"""


class TestDocument:
    @pytest.fixture
    def programs(self, tmp_path: Path) -> Path:
        """A folder with the programs of the page."""
        folder = tmp_path / "programs"
        folder.mkdir()
        for name in ("mail", "curl", "notify-send"):
            (folder / name).write_text(FAKE)
            (folder / name).chmod(0o755)
        return folder

    def test_the_examples_say_what_they_promise(self, tmp_path: Path, programs: Path) -> None:
        """Each hook of the page loads without a warning, and hands the facts on, whatever is in them."""
        (text,) = (block.text for block in blocks(PAGE) if block.mark == "test: notices")
        config = loader(tmp_path)(text)
        how = HowToSignIn(page="http://127.0.0.1:8080/")
        notice = replace(NOTICE, message='it\'s "over" `id` $HOME', how=how)

        @in_trio
        async def tell() -> None:
            for hook in config.hooks:
                path = {"PATH": f"{programs}:{os.environ['PATH']}"}
                assert [] == await run_hook(hook.argv, path | facts_of(notice), notice)

        with capture_logs() as lines:
            tell()

        assert ([], ()) == (lines, config.warnings)
        told = 'it\'s "over" `id` $HOME'
        assert [
            f"mail|-s|sign-in-required: {ANN}|root|",
            told,
            "sign in again",
            "http://127.0.0.1:8080/",
            f"curl|-sS|-H|Title: sign-in-required|-d|{ANN}: {told}|https://ntfy.example.com/your-topic|",
            "curl|-sS|smtp://localhost|--mail-from|cms@localhost|--mail-rcpt|root@localhost|-T|-|",
            f"Subject: sign-in-required: {ANN}",
            "",
            f"{told}. sign in again",
            f"notify-send|--app-name=cms|sign-in-required: {ANN}|{told}. sign in again|",
        ] == (programs / "log").read_text().splitlines()

    def test_the_mail_comes_every_six_hours(self, tmp_path: Path) -> None:
        """As the page says of it."""
        (text,) = (block.text for block in blocks(PAGE) if block.mark == "test: notices")
        first, second, _, last = loader(tmp_path)(text).hooks

        assert (6 * 3600.0, REMIND_SECONDS) == (first.remind, second.remind)
        assert (set(first.events), set(USUAL_EVENTS)) == (set(second.events), set(last.events))

    def test_every_variable_and_event_is_documented(self) -> None:
        """In docs/configuration.md, by name."""
        text = (ROOT / "docs" / "configuration.md").read_text().partition("## Notify")[2]

        assert [] == [name for name in FACTS if f"`{name}`" not in text]
        assert [] == [event for event in EVENTS if f'`"{event}"`' not in text]


@in_trio
async def test_a_reload_of_very_many_holds_up_no_request() -> None:
    """No grant is looked at while the daemon changes over, unless a hook is new; then a few at a time, each once."""
    facts, looked = Facts("a@example.test", [Life()]), list[str]()

    def look(key: str) -> Facts:
        looked.append(key)
        return facts

    hooks, keys = Hooks(look, FakeClock(), {}), [str(each) for each in range(20 * LOOKS_IN_A_ROW)]
    hooks.apply((), keys, desktop=False)
    looked.clear()
    hooks.apply((), keys, desktop=False)
    at_once, seen = len(looked), [0]
    async with trio.open_nursery() as nursery:
        await nursery.start(hooks.run)
        while len(looked) < len(keys):
            await trio.lowlevel.checkpoint()
            seen.append(len(looked))
        nursery.cancel_scope.cancel()

    assert at_once == 0
    assert sorted(keys) == sorted(looked)
    assert max(later - sooner for sooner, later in itertools.pairwise(seen)) <= 2 * LOOKS_IN_A_ROW
