"""The commands, with a daemon and without one: what both promise is proved over both."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from support.status_rows import row_of
from support.trio_run import FakeClock, in_trio_clock

from cms.config.model import Config, ConfigError
from cms.core.accounts import Account, Grant, Scopes, StoredSignIn
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Transient, Trouble
from cms.core.status import Daemon
from cms.daemon.commands import Commands, Running, moves_of
from cms.daemon.control.answers import Result
from cms.daemon.control.vault_commands import VaultCommands
from cms.daemon.registry import Registry
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import Worker
from cms.grants.messages import Delete, Ended, Housekeeping, Listed, Open, Place, Rekey, Rekeyed, Survey

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)
ANN, BOB, SALES, MACHINE = "ann@x.test", "bob@x.test", "sales@x.test", "machine@x.test"
NO = Refused(Trouble("no-sign-in", "nobody has signed in yet", "sign in"))
READ_ONLY = Transient(Trouble("storage", "the disk is read-only", "mount it"))


def account(user: str, login: str | None = None, **more: Any) -> Account:
    grant = Grant("https://login.example.test/t", "client", user if login is None else login, (MAIL,))
    return Account(user, replace(grant, **more), {"SMTP": MAIL})


class FakeWorker(Worker):
    """Gives tokens to those of `signed_in`, deletes what it is told to, unless that is `kept`."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(Open(""))
        self.clock = clock
        self.signed_in = {ANN, SALES}
        self.kept: set[str] = set()
        self.full = False
        self.rekeyed = 0
        self.deleted: list[str] = []

    def token(self) -> Granted:
        return Granted("token", self.clock.boot(), 3600.0, sign_in=SignInFacts(key_from="keyring"))

    async def acquire(self, grant: Grant, scopes: Scopes, held: str | None = None, rejected: str = "") -> Outcome:
        await trio.lowlevel.checkpoint()
        return self.token() if grant.login in self.signed_in else NO

    async def sign_out(self, grant: Grant) -> Outcome:
        await trio.lowlevel.checkpoint()
        if grant.login in self.kept:
            return READ_ONLY
        self.deleted.append(grant.login)
        return Granted("", 0.0, 0.0)

    async def bring_in(self, grant: Grant, place: Place, *, keep: bool = False) -> Outcome:
        await trio.lowlevel.checkpoint()
        return self.token() if place.path == "/good" else NO

    async def housekeeping(self, ask: Callable[[int], Housekeeping]) -> Ended:
        await trio.lowlevel.checkpoint()
        match ask(1):
            case Survey(keys=keys):
                return Listed(tuple(StoredSignIn(key, "https://login.example.test/t", "client", key) for key in keys))
            case Delete() if self.full:
                return READ_ONLY
            case Delete(keys=keys):
                self.deleted += keys
            case Rekey():
                self.rekeyed += 1
                return Rekeyed("id", "keyring", 0)
        return Granted("", 0.0, 0.0)


class FakeSignIns(SignIns):
    """Starts nothing, and notes whose sign-in was to start and whose was given up."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, str]] = []
        self.given_up: list[str] = []

    def start(self, grant: Grant, method: str) -> Flow:
        self.started.append((grant.login, grant.client_id, method))
        return Flow(grant, method)

    def cancel(self, grant: Grant) -> None:
        self.given_up.append(grant.login)


class World:
    def __init__(
        self, folder: Path, *accounts: Account, daemonless: bool, unserved: frozenset[str] = frozenset()
    ) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.worker = FakeWorker(self.clock)
        self.config = Config("cms.cfg", accounts, (), None, None, (), unserved=unserved)
        self.registry = Registry(self.config, self.worker.acquire, self.clock, jitter=lambda: 0.0)
        self.signins = FakeSignIns()
        self.stopped = False
        self.reload_fault: ConfigError | None = None
        running = Running(self.facts, dict, list, self.last_taken, self.look, self.reload, self.stop, 30.0)
        daemon = None if daemonless else running
        vault = VaultCommands(self.worker, self.registry, str(folder))
        self.commands = Commands(self.worker, self.registry, self.signins, vault, clock=self.clock, daemon=daemon)

    def facts(self) -> Daemon:
        return Daemon("1", 1, 0.0, "cms.cfg", warnings=self.registry.config.warnings)

    def last_taken(self, user: str, protocols: Sequence[str]) -> dict[str, Any]:
        return {"user": user, "protocols": list(protocols)}

    async def look(self) -> None:
        await trio.lowlevel.checkpoint()

    async def reload(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.reload_fault:
            raise self.reload_fault

    def stop(self) -> None:
        self.stopped = True

    def store(self, *keys: str) -> None:
        for key in keys:
            (self.folder / f"{key}.vault").touch()


@asynccontextmanager
async def commands(
    folder: Path, *accounts: Account, daemonless: bool, unserved: frozenset[str] = frozenset()
) -> AsyncIterator[World]:
    """The commands of a daemon whose keepers have asked for what they need, or those without one."""
    world = World(folder, *accounts, daemonless=daemonless, unserved=unserved)
    async with trio.open_nursery() as nursery:
        if not daemonless:
            await nursery.start(world.registry.run)
            for keeper in world.registry.keepers:
                await keeper.settled()
        yield world
        nursery.cancel_scope.cancel()


async def agrees(event: Mapping[str, Any]) -> Mapping[str, Any]:
    await trio.lowlevel.checkpoint()
    return {"yes": event["event"] == "question"}


async def never(event: Mapping[str, Any]) -> Mapping[str, Any]:
    raise AssertionError(event)


def said(result: object) -> tuple[bool, str, str]:
    assert isinstance(result, Result)
    return result.ok, result.message, result.hint


both = pytest.mark.parametrize("daemonless", [False, True], ids=["daemon", "daemonless"])


class TestWhoIsMeant:
    @both
    @in_trio_clock
    async def test_an_account_that_is_not_known_is_said(self, tmp_path: Path, *, daemonless: bool) -> None:
        """With those that are, and how one is named to each command."""
        async with commands(tmp_path, account(ANN), account(BOB), daemonless=daemonless) as world:
            unknown = world.commands.login("carol@x.test", "")
            several = await world.commands.logout("")
            place = await world.commands.bring_in("", Place("/good"))

        known = f"{ANN}, {BOB}"
        assert (
            False,
            "there is no account 'carol@x.test'",
            f"name one of these, `cms login USER`: {known}",
        ) == said(unknown)
        assert (False, "there are several accounts", f"name one of these, `cms logout USER`: {known}") == said(several)
        assert f"name one of these, `cms import FILE --account USER`: {known}" == said(place)[2]

    @both
    @in_trio_clock
    async def test_a_configuration_without_accounts_is_said(self, tmp_path: Path, *, daemonless: bool) -> None:
        """The advice names directives that there are."""
        async with commands(tmp_path, daemonless=daemonless) as world:
            ok, message, hint = said(world.commands.login("", ""))

        assert (False, "there is no account") == (ok, message)
        assert "Office365_Account(...)" in hint

    @both
    @pytest.mark.parametrize("name", ["Sales@X.test", "Ann@X.test", ""])
    @in_trio_clock
    async def test_an_account_goes_by_its_user_and_by_who_signs_in(
        self, tmp_path: Path, name: str, *, daemonless: bool
    ) -> None:
        """Hints print the command with the one or the other; no name is the only account's."""
        others = [account(BOB)] if name else []
        async with commands(tmp_path, account(SALES, ANN), *others, daemonless=daemonless) as world:
            flow = world.commands.login(name, "paste")
            out = await world.commands.logout(name)

        assert isinstance(flow, Flow)
        assert ([(ANN, "client", "paste")], [ANN]) == (world.signins.started, world.worker.deleted)
        assert said(out)[1].startswith(f"{SALES}: signed out")

    @both
    @in_trio_clock
    async def test_a_name_of_two_sign_ins_means_the_one_that_was_stored_first(
        self, tmp_path: Path, *, daemonless: bool
    ) -> None:
        """One that was never stored comes before all: the same command, given again, reaches each; a sign-out all."""
        first, second = (account("a@x.test", BOB, client_id=client) for client in ("one", "two"))
        async with commands(tmp_path, first, second, daemonless=daemonless) as world:
            world.store(first.grant.key)
            world.commands.login("a@x.test", "")
            world.store(second.grant.key)
            os.utime(tmp_path / f"{second.grant.key}.vault", (2_000_000_000, 2_000_000_000))
            world.commands.login("a@x.test", "")
            await world.commands.logout("a@x.test")

        assert ["two", "one"] == [client for _, client, _ in world.signins.started]
        assert [BOB, BOB] == world.worker.deleted

    @in_trio_clock
    async def test_of_two_sign_ins_the_one_that_waits_is_meant(self, tmp_path: Path) -> None:
        """The daemon knows which one needs a person."""
        well, waits = account(SALES, ANN), account(SALES, BOB)
        async with commands(tmp_path, well, waits, daemonless=False) as world:
            world.store(waits.grant.key)
            world.commands.login(SALES, "")

        assert [(BOB, "client", "browser")] == world.signins.started

    @both
    @in_trio_clock
    async def test_an_account_of_no_persons_needs_none(self, tmp_path: Path, *, daemonless: bool) -> None:
        """An application signs in by itself: neither a sign-in nor an import is for it, and there is nothing to delete."""
        async with commands(tmp_path, account(MACHINE, sign_in="app"), daemonless=daemonless) as world:
            login = said(world.commands.login("", ""))
            brought = said(await world.commands.bring_in("", Place("/good")))
            logout = said(await world.commands.logout(""))

        assert login == brought
        assert login[1].startswith(f"{MACHINE} needs no sign-in: an application gets its tokens by itself")
        assert ("`cms run`" if daemonless else "`cms refresh`") in login[2]
        assert (False, []) == (logout[0], world.worker.deleted)
        assert f"{MACHINE} is not signed in" in logout[1]


class TestSigningInAndOut:
    @both
    @in_trio_clock
    async def test_an_import_is_taken_over(self, tmp_path: Path, *, daemonless: bool) -> None:
        """The keeper has its token; what cannot be imported changes nothing."""
        async with commands(tmp_path, account(BOB), daemonless=daemonless) as world:
            refused = await world.commands.bring_in("", Place("/bad"))
            before = [life.held for life in world.registry.keepers[0].lives.values()]
            taken = await world.commands.bring_in("", Place("/good"))
            after = [life.held and life.held.secret for life in world.registry.keepers[0].lives.values()]

        assert (NO, [None]) == (refused, before)
        assert isinstance(taken, Granted)
        assert ["token"] == after

    @both
    @in_trio_clock
    async def test_a_sign_out_deletes_what_is_stored(self, tmp_path: Path, *, daemonless: bool) -> None:
        """A sign-in under way is given up, no token is kept, and what cannot be revoked is said."""
        async with commands(tmp_path, account(ANN), daemonless=daemonless) as world:
            ok, message, hint = said(await world.commands.logout(ANN))
            held = [life.held for life in world.registry.keepers[0].lives.values()]

        assert (True, f"{ANN}: signed out, and the stored sign-in deleted") == (ok, message)
        assert ("one issued in the last hour" if daemonless else "that programs have works until") in hint
        assert ([ANN], [ANN], [None]) == (world.signins.given_up, world.worker.deleted, held)

    @both
    @in_trio_clock
    async def test_a_sign_out_that_fails_says_why(self, tmp_path: Path, *, daemonless: bool) -> None:
        """While the stored sign-in is there, the account is signed in, and the answer says what keeps it."""
        async with commands(tmp_path, account(ANN), daemonless=daemonless) as world:
            world.worker.kept = {ANN}
            result = await world.commands.logout("")
            held = [bool(life.held) for life in world.registry.keepers[0].lives.values()]

        assert [not daemonless] == held
        assert (False, f"{ANN} is still signed in: the disk is read-only", "mount it") == said(result)

    @both
    @in_trio_clock
    async def test_what_nothing_serves_can_be_signed_out_of(self, tmp_path: Path, *, daemonless: bool) -> None:
        """Unlisted or unserved, by name and with --all; an application stays."""
        accounts = account(ANN), account(MACHINE, sign_in="app")
        async with commands(tmp_path, *accounts, daemonless=daemonless, unserved=frozenset({"unserved"})) as world:
            world.store("unlisted", "unserved")
            by_name = said(await world.commands.logout("unlisted"))
            deleted = [*world.worker.deleted]
            all_users = said(await world.commands.errand("leave", {}, agrees))

        assert (True, "unlisted: signed out, and the stored sign-in deleted") == by_name[:2]
        assert (["unlisted"], ["unlisted", "unserved", ANN]) == (deleted, sorted({*world.worker.deleted}, key=_order))
        said_of_all = f"{ANN}: signed out, and the stored sign-in deleted\nsign-ins without an account deleted: 2"
        assert (True, said_of_all) == all_users[:2]

    @both
    @pytest.mark.parametrize("answer", ["yes", "no", "--yes"])
    @in_trio_clock
    async def test_a_sign_out_of_all_names_whom(self, tmp_path: Path, answer: str, *, daemonless: bool) -> None:
        """Who has signed in, not who could have; a person who then says no keeps everything, and a script is not asked."""
        people = account(ANN), account(BOB), account(SALES, "boss@x.test")
        events = list[Mapping[str, Any]]()

        async def person(event: Mapping[str, Any]) -> Mapping[str, Any]:
            await trio.lowlevel.checkpoint()
            events.append(event)
            return {"yes": answer == "yes"}

        async with commands(tmp_path, *people, account(MACHINE, sign_in="app"), daemonless=daemonless) as world:
            world.store(people[0].grant.key, "carol")
            ok, message, _ = said(await world.commands.errand("leave", {"yes": answer == "--yes"}, person))

        assert f"Sign-ins on this machine:\n  {ANN}\n  carol" in events[0]["message"]
        assert not [name for name in (BOB, SALES, MACHINE) if name in events[0]["message"]]
        assert (["told"] if answer == "--yes" else ["told", "question"]) == [each["event"] for each in events]
        if answer == "no":
            assert (False, "nothing was deleted", []) == (ok, message, world.worker.deleted)
        else:
            assert (True, f"{ANN}: signed out, and the stored sign-in deleted") == (ok, message.partition("\n")[0])
            assert {"carol", ANN} <= {*world.worker.deleted}

    @both
    @in_trio_clock
    async def test_where_nobody_has_signed_in_nobody_is_asked(self, tmp_path: Path, *, daemonless: bool) -> None:
        """There is nothing to agree to."""
        async with commands(tmp_path, account(BOB), daemonless=daemonless) as world:
            ok, _, _ = said(await world.commands.errand("leave", {}, never))

        assert ok

    @both
    @in_trio_clock
    async def test_a_sign_out_of_all_that_fails_half_way(self, tmp_path: Path, *, daemonless: bool) -> None:
        """Who is still signed in, and who is not."""
        people = account(ANN), account(BOB)
        async with commands(tmp_path, *people, daemonless=daemonless) as world:
            world.store(*(each.grant.key for each in people))
            world.worker.kept = {BOB}
            ok, message, _ = said(await world.commands.errand("leave", {"yes": True}, agrees))

        assert (False, f"{BOB} is still signed in: the disk is read-only\nsigned out: {ANN}") == (ok, message)

    @both
    @in_trio_clock
    async def test_leaving_deletes_an_applications_token(self, tmp_path: Path, *, daemonless: bool) -> None:
        """Where one is stored, and before the sign-ins; if it cannot be deleted, nobody is signed out."""
        accounts = account(ANN), account(MACHINE, sign_in="app")
        async with commands(tmp_path, *accounts, daemonless=daemonless) as world:
            world.store(accounts[1].grant.key)
            world.worker.kept = {MACHINE}
            failed = said(await world.commands.errand("leave", {}, agrees))
            world.worker.kept = set()
            ok, *_ = said(await world.commands.errand("leave", {}, agrees))

        assert (False, f"a token of {MACHINE} is still stored: the disk is read-only", "mount it") == failed
        assert (True, [MACHINE, ANN]) == (ok, world.worker.deleted)

    @both
    @in_trio_clock
    async def test_a_failed_deletion_signs_no_account_out(self, tmp_path: Path, *, daemonless: bool) -> None:
        """What nothing serves is deleted first: if that fails, cms says so and has done nothing else."""
        async with commands(tmp_path, account(ANN), daemonless=daemonless) as world:
            world.store("unlisted")
            world.worker.full = True
            result = await world.commands.errand("leave", {}, agrees)

        assert (False, "the disk is read-only", "mount it") == said(result)
        assert [] == world.worker.deleted

    @both
    @in_trio_clock
    async def test_another_key(self, tmp_path: Path, *, daemonless: bool) -> None:
        """It is the one that the configuration names now, so a daemon reads that first; if it cannot, nothing moves."""
        async with commands(tmp_path, account(ANN), daemonless=daemonless) as world:
            moved = said(await world.commands.errand("rekey", {}, agrees))
            rekeyed, world.reload_fault = world.worker.rekeyed, ConfigError("cms.cfg", 3, "it is wrong", "")
            again = await world.commands.errand("rekey", {}, agrees)

        assert (True, 1) == (moved[0], rekeyed)
        assert (daemonless, 2 if daemonless else 1) == (again.ok, world.worker.rekeyed)
        assert (not daemonless) == ("it is wrong" in again.message)

    @both
    @in_trio_clock
    async def test_an_account_that_nothing_serves_is_not_pruned(self, tmp_path: Path, *, daemonless: bool) -> None:
        """It is in the file, and so its sign-in is wanted; what has no account is deleted."""
        async with commands(tmp_path, account(ANN), daemonless=daemonless, unserved=frozenset({"unserved"})) as world:
            world.store("unserved")
            nothing = said(await world.commands.errand("prune", {}, agrees))
            world.store("unlisted")
            pruned = said(await world.commands.errand("prune", {}, agrees))

        assert (True, "there is nothing to prune: every stored sign-in has an account") == nothing[:2]
        assert ((True, "deleted: 1"), ["unlisted"]) == (pruned[:2], world.worker.deleted)


def _order(key: str) -> int:
    return ["unlisted", "unserved", ANN].index(key)


class TestOnlyADaemon:
    @in_trio_clock
    async def test_without_one_that_is_said(self, tmp_path: Path) -> None:
        """The next move is to start it."""
        async with commands(tmp_path, account(ANN), daemonless=True) as world:
            told = world.commands
            ends = [told.status(), await told.refresh(""), await told.reload(), told.stop()]

        assert [(False, "no daemon is running", "start it with `cms run`")] * 4 == [said(end) for end in ends]

    @in_trio_clock
    async def test_a_reload_of_two_hundred_accounts_is_told_in_a_few_lines(self, tmp_path: Path) -> None:
        """Some are named, with the number of the others."""
        users = [f"box{number:03}@example.test" for number in range(200)]
        async with commands(tmp_path, *map(account, users), daemonless=False) as world:
            result = await world.commands.reload()

        assert (True, f"{', '.join(users[:8])}, 192 more: configured") == said(result)[:2]

    def test_what_all_have_to_do_is_said_once(self) -> None:
        """USER stands for each of several; one account's command has its name, and who has nothing to do has no line."""
        waiting = row_of("sign-in-required")
        rows = [replace(waiting, user=user, next_move=f"sign in: `cms login {user}`") for user in (ANN, BOB)]

        assert ["sign in: `cms login USER`"] == moves_of([*rows, row_of("ok")])
        assert [f"sign in: `cms login {ANN}`"] == moves_of(rows[:1])

    @in_trio_clock
    async def test_refresh_tells_of_those_that_got_no_token(self, tmp_path: Path) -> None:
        """Each by name, and by name once."""
        async with commands(tmp_path, account(ANN), account(BOB), daemonless=False) as world:
            one, all_users = await world.commands.refresh(ANN), await world.commands.refresh("")

        assert (True, f"{ANN}: fresh", "") == said(one)
        assert (False, f"{BOB}: nobody has signed in yet", "sign in") == said(all_users)

    @in_trio_clock
    async def test_a_stop_is_passed_on(self, tmp_path: Path) -> None:
        """Answered at once."""
        async with commands(tmp_path, account(ANN), daemonless=False) as world:
            end = world.commands.stop()

        assert ((True, "cms is stopping", ""), True) == (said(end), world.stopped)
