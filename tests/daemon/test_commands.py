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
from cms.core.accounts import Account, Fleet, Grant, Scopes, Source, StoredSignIn
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Transient, Trouble
from cms.core.status import Daemon
from cms.daemon.commands import Commands, Running, moves_of
from cms.daemon.control.answers import Result
from cms.daemon.control.vault_commands import VaultCommands
from cms.daemon.registry import Registry
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import Worker
from cms.grants.messages import Delete, Ended, Housekeeping, Listed, Open, Peek, Place, Rekey, Rekeyed, Survey
from cms_oauth.providers import GOOGLE, OWN, PROVIDERS, Server

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)
ANN, BOB, SALES, MACHINE = "ann@x.test", "bob@x.test", "sales@x.test", "machine@x.test"
NO = Refused(Trouble("no-sign-in", "nobody has signed in yet", "sign in"))
OFFLINE = Transient(Trouble("network", "the provider cannot be reached", "again"))
READ_ONLY = Transient(Trouble("storage", "the disk is read-only", "mount it"))


def account(user: str, login: str | None = None, **more: Any) -> Account:
    grant = Grant("https://login.example.test/t", "client", user if login is None else login, (MAIL,))
    return Account(user, replace(grant, **more), {"SMTP": MAIL})


def at_google(user: str) -> Account:
    """Return an account whose sign-in can be ended at its provider."""
    return account(user, provider=GOOGLE, server=PROVIDERS[GOOGLE].server)


class FakeWorker(Worker):
    """Gives tokens to those of `signed_in`, deletes what it is told to, unless that is `kept`, and ends what it can reach."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(Open(""))
        self.clock = clock
        self.signed_in = {ANN, SALES}
        self.kept: set[str] = set()
        self.unreachable: set[str] = set()
        self.ended: list[str] = []
        self.full = False
        self.rekeyed = 0
        self.deleted: list[str] = []

    def token(self) -> Granted:
        return Granted("token", self.clock.boot(), 3600.0, sign_in=SignInFacts(key_from="keyring"))

    async def acquire(
        self, grant: Grant, scopes: Scopes, held: str | None = None, rejected: str = "", *, wanted: bool = False
    ) -> Outcome:
        await trio.lowlevel.checkpoint()
        return self.token() if grant.login in self.signed_in else NO

    async def sign_out(self, grant: Grant, *, revoke: bool = False) -> Outcome:
        await trio.lowlevel.checkpoint()
        if grant.login in self.kept:
            return READ_ONLY
        if revoke and grant.login in self.unreachable:
            return OFFLINE
        self.ended += [grant.login] if revoke else []
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
            case Peek(place=place):
                return Listed(tuple(StoredSignIn("", "", "", user) for user in place.path.split("/")))
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


class Person:
    """Hears events, and answers each question alike."""

    def __init__(self, answer: bool | None = True) -> None:
        self.answer = answer
        self.told: list[str] = []
        self.questions = 0

    async def __call__(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        if event["event"] == "told":
            self.told.append(event["message"])
            return {}
        self.questions += 1
        return {"yes": self.answer}


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
    async def test_no_codes_where_there_are_none(self, tmp_path: Path, *, daemonless: bool) -> None:
        """A provider without codes for mail is asked for none: the answer says what to do instead."""
        own = account(BOB, provider=OWN, server=Server("", "https://x.test/a", "https://x.test/t"))
        paste = account(SALES, provider="yahoo", server=PROVIDERS["yahoo"].server)
        offers = account(MACHINE, provider=OWN, server=Server("https://x.test"))
        async with commands(tmp_path, at_google(ANN), own, paste, offers, daemonless=daemonless) as world:
            google, closed, yahoo = (said(world.commands.login(user, "device")) for user in (ANN, BOB, SALES))
            flows = [world.commands.login(MACHINE, "device"), world.commands.login(ANN, "paste")]

        assert (
            False,
            "Google signs no mail program in with a code on another device",
            f"use `cms login {ANN} --browser` or `cms login {ANN} --paste`",
        ) == google
        assert closed[1].startswith("a server of your own signs no mail program in")
        assert f"use `cms login {SALES} --paste`" == yahoo[2]
        assert all(isinstance(each, Flow) for each in flows)

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
    @pytest.mark.parametrize(
        ("users", "expected"),
        [
            ([BOB], BOB),
            ([BOB.upper(), BOB, "stranger@x.test", ""], BOB),
            ([ANN, BOB], ""),
            (["stranger@x.test"], ""),
            ([""], ""),
            ([MACHINE], ""),
            ([f"Bob <{BOB}>"], BOB),
            (["*"], ""),
        ],
    )
    @in_trio_clock
    async def test_whose_sign_in_a_file_has(
        self, tmp_path: Path, users: list[str], expected: str, *, daemonless: bool
    ) -> None:
        """The address of exactly one account that a person signs in to; none where there is only one account."""
        accounts = account(ANN), account(BOB), account(MACHINE, sign_in="app")
        async with commands(tmp_path, *accounts, daemonless=daemonless) as world:
            assert expected == await world.commands.named_in(Place("/".join(users)))
        async with commands(tmp_path, account(BOB), daemonless=daemonless) as world:
            assert "" == await world.commands.named_in(Place(BOB))

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
    async def test_a_sign_out_of_all_in_a_fleet_names_every_account(self, tmp_path: Path, *, daemonless: bool) -> None:
        """This host need not have a file or a token of a sign-in that the database has."""
        events = list[Mapping[str, Any]]()

        async def person(event: Mapping[str, Any]) -> Mapping[str, Any]:
            await trio.lowlevel.checkpoint()
            events.append(event)
            return {"yes": True}

        people = account(ANN), account(BOB), account(MACHINE, sign_in="app")
        async with commands(tmp_path, *people, daemonless=daemonless) as world:
            world.registry.config = replace(world.registry.config, fleet=Fleet("dbname=cms", (Source("keyring"),)))
            ok, _, _ = said(await world.commands.errand("leave", {}, person))

        listed = "Sign-ins of these accounts, on every host of the fleet:"
        assert (True, f"{listed}\n  {ANN}\n  {BOB}") == (ok, events[0]["message"])
        assert [ANN, BOB] == world.worker.deleted

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


class TestEndingAtTheProvider:
    """`cms logout --revoke`."""

    @both
    @pytest.mark.parametrize("answer", ["yes", "no", "--yes"])
    @in_trio_clock
    async def test_a_person_sees_what_ends_and_agrees(self, tmp_path: Path, answer: str, *, daemonless: bool) -> None:
        """Every sign-in of the project, at Google. Who says no keeps everything; --yes is not asked."""
        ann, person = at_google(ANN), Person(answer == "yes")
        async with commands(tmp_path, ann, account(BOB), daemonless=daemonless) as world:
            world.store(ann.grant.key)
            message = {"user": ANN, "yes": answer == "--yes"}
            ok, message_, hint = said(await world.commands.errand("revoke", message, person))

        (told,) = person.told
        assert f"{ANN}: Google ends every sign-in of this user to the same Google project" in told
        assert (answer != "--yes") == person.questions
        if answer == "no":
            assert (False, "nothing was changed", []) == (ok, message_, world.worker.deleted)
            assert "`cms logout --revoke --yes`" in hint
        else:
            assert (True, [ANN], [ANN]) == (ok, world.worker.ended, world.worker.deleted)
            assert message_.startswith(f"{ANN}: signed out, and the stored sign-in deleted")

    @both
    @in_trio_clock
    async def test_a_provider_that_cannot_be_reached(self, tmp_path: Path, *, daemonless: bool) -> None:
        """The sign-in stays, with its token, and both are said."""
        ann = at_google(ANN)
        async with commands(tmp_path, ann, daemonless=daemonless) as world:
            world.store(ann.grant.key)
            world.worker.unreachable = {ANN}
            failed = said(await world.commands.errand("revoke", {"yes": True}, Person()))
            held = [bool(life.held) for life in world.registry.keepers[0].lives.values()]

        assert (False, f"{ANN} is still signed in: the provider cannot be reached", "again") == failed
        assert ([not daemonless], []) == (held, world.worker.deleted)

    @both
    @in_trio_clock
    async def test_microsofts_accounts_cannot_be_ended(self, tmp_path: Path, *, daemonless: bool) -> None:
        """Nothing is done by halves: what to do instead is said, and nobody is asked."""
        ann = account(ANN)
        async with commands(tmp_path, ann, daemonless=daemonless) as world:
            world.store(ann.grant.key)
            ok, message, hint = said(await world.commands.errand("revoke", {"user": ANN}, never))

        assert (False, []) == (ok, world.worker.deleted)
        assert f"{ANN}: Microsoft lets no program end a sign-in by its token" in message
        assert "revokeSignInSessions" in hint
        assert f"`cms logout {ANN}` deletes" in hint

    @both
    @in_trio_clock
    async def test_what_is_not_there_is_not_ended(self, tmp_path: Path, *, daemonless: bool) -> None:
        """Neither an application, nor who is unknown."""
        accounts = at_google(BOB), account(MACHINE, sign_in="app")
        async with commands(tmp_path, *accounts, daemonless=daemonless) as world:
            machine, unknown = [
                said(await world.commands.errand("revoke", {"user": user}, never)) for user in (MACHINE, "carol@x.test")
            ]

        assert f"{MACHINE} is not signed in: it gets its tokens by itself" == machine[1]
        assert "deleted at the provider" in machine[2]
        assert "there is no account 'carol@x.test'" == unknown[1]
        assert [] == world.worker.ended

    @both
    @in_trio_clock
    async def test_a_sign_in_without_an_account(self, tmp_path: Path, *, daemonless: bool) -> None:
        """cms does not know the application any more that it would have to name; a plain sign-out works."""
        async with commands(tmp_path, account(ANN), daemonless=daemonless) as world:
            world.store("unlisted")
            ok, message, hint = said(await world.commands.errand("revoke", {"user": "unlisted"}, never))

        assert (False, []) == (ok, world.worker.deleted)
        assert "; cms serves no account of it" in message
        assert "`cms logout USER`" in hint

    @both
    @in_trio_clock
    async def test_all_of_several_providers(self, tmp_path: Path, *, daemonless: bool) -> None:
        """What cannot be ended is deleted here, as was said before; one that fails stays, and keeps none from its turn."""
        people = at_google(ANN), at_google(BOB), account(SALES)
        person = Person()
        async with commands(tmp_path, *people, account(MACHINE, sign_in="app"), daemonless=daemonless) as world:
            world.store(*(each.grant.key for each in people), "unlisted")
            world.worker.unreachable = {ANN}
            ok, message, _ = said(await world.commands.errand("revoke", {"all": True}, person))

        first, rest, failed, ended = person.told
        assert f"These are deleted here only:\n  {SALES}: Microsoft" in first
        assert "  unlisted: " in first
        assert f"{SALES}: signed out" in rest
        assert "mysignins" in rest
        assert f"{ANN} is still signed in: the provider cannot be reached\nagain" == failed
        assert ended.startswith(f"{BOB}: signed out")
        assert (False, "ended at the provider: 1 of 2") == (ok, message)
        assert ([BOB], {"unlisted", SALES, BOB}) == (world.worker.ended, {*world.worker.deleted})

    @both
    @in_trio_clock
    async def test_a_disk_that_deletes_nothing_ends_nothing(self, tmp_path: Path, *, daemonless: bool) -> None:
        """What only has to be deleted comes first."""
        people = at_google(ANN), account(BOB)
        async with commands(tmp_path, *people, daemonless=daemonless) as world:
            world.store(*(each.grant.key for each in people))
            world.worker.kept = {BOB}
            ok, message, _ = said(await world.commands.errand("revoke", {"all": True}, Person()))

        assert (False, []) == (ok, world.worker.ended)
        assert f"{BOB} is still signed in: the disk is read-only" == message

    @both
    @in_trio_clock
    async def test_only_the_store_knows_who_has_signed_in(self, tmp_path: Path, *, daemonless: bool) -> None:
        """An account that is named is never only deleted, and in a fleet none is: its database is asked for each."""
        accounts = at_google(ANN), at_google(BOB)
        fleet = Fleet("dbname=cms", (Source("keyring"),))
        async with commands(tmp_path, *accounts, daemonless=daemonless) as world:
            await world.commands.errand("revoke", {"user": BOB, "yes": True}, Person())
            world.registry.config = replace(world.registry.config, fleet=fleet)
            await world.commands.errand("revoke", {"all": True, "yes": True}, Person())

        assert [BOB, ANN, BOB] == world.worker.ended == world.worker.deleted

    @both
    @in_trio_clock
    async def test_nobody_at_all(self, tmp_path: Path, *, daemonless: bool) -> None:
        """Then nobody is asked."""
        async with commands(tmp_path, at_google(BOB), daemonless=daemonless) as world:
            ok, message, _ = said(await world.commands.errand("revoke", {"all": True}, never))

        assert (True, "not signed in, so there was nothing to delete") == (ok, message.partition(": ")[2] or message)


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
