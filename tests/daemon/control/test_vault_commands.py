"""What concerns the vault as a whole, over a worker that answers what a test says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from support.trio_run import FakeClock, in_trio

from cms.config.load import load
from cms.config.model import Config
from cms.core.accounts import Account, Fleet, Grant, Source, StoredSignIn
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Transient, Trouble
from cms.daemon.control.answers import Result
from cms.daemon.control.vault_commands import KEPT_SECONDS, VaultCommands, described
from cms.daemon.registry import Registry
from cms.daemon.worker import Worker
from cms.grants.messages import (
    Delete,
    Ended,
    Export,
    Exported,
    Housekeeping,
    Listed,
    Peek,
    Place,
    Rekey,
    Rekeyed,
    Survey,
    Unmoved,
)
from cms_oauth.providers import Server

AUTHORITY = "https://login.microsoftonline.com/common"
SCOPES = ("https://outlook.office.com/SMTP.Send",)
NO = Refused(Trouble("unfit", "it is damaged", "copy it again"))
WANTS = Refused(Trouble("password", "it is encrypted with a passphrase"))
THERE = Refused(Trouble("signed-in", "ann@x.test is signed in already"))
GOOD = Granted("token", 0.0, 3600.0)


def grant(login: str, sign_in: str = "paste") -> Grant:
    return Grant(AUTHORITY, "client", login, (SCOPES,), sign_in=sign_in)


def account(login: str, sign_in: str = "paste") -> Account:
    return Account(login, grant(login, sign_in), {"SMTP": SCOPES})


def kept(login: str) -> StoredSignIn:
    return StoredSignIn(grant(login).key, AUTHORITY, "client", login, login, 1_795_000_000.0)


@dataclass
class FakeWorker(Worker):
    """A worker: `ends` are its answers to one kind of question each, in turn; `imports` to imports."""

    ends: dict[type, list[Ended]] = field(default_factory=dict)
    imports: list[Outcome] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    async def housekeeping(self, ask: Callable[[int], Housekeeping]) -> Ended:
        question = ask(1)
        self.asked.append(question)
        return self.ends[type(question)].pop(0)

    async def bring_in(self, grant: Grant, place: Place, *, keep: bool = False) -> Outcome:
        self.asked.append((grant.login, place.password, keep))
        return self.imports.pop(0)


@dataclass
class Person:
    """Answers a daemon's events, and keeps what it was told."""

    answers: list[Mapping[str, Any]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    async def ask(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        self.heard.append(f"{event['event']}: {event['message']}")
        return {} if event["event"] == "told" else self.answers.pop(0)


def configured(*accounts: Account, unserved: frozenset[str] = frozenset()) -> Config:
    return Config("cms.cfg", accounts, (), None, None, (), unserved=unserved)


def commands(
    folder: Path, worker: Worker, accounts: Sequence[Account] = (), *, unserved: frozenset[str] = frozenset()
) -> VaultCommands:
    registry = Registry(configured(*accounts, unserved=unserved), worker.acquire, FakeClock())
    return VaultCommands(worker, registry, str(folder))


def store(folder: Path, login: str = "bob@x.test") -> None:
    """Store a sign-in of this login."""
    (folder / f"{grant(login).key}.vault").touch()


def said(result: Result) -> tuple[bool, str]:
    return result.ok, result.message


# --- without an account ---


@in_trio
async def test_the_worker_is_not_asked_where_every_file_has_its_account(tmp_path: Path) -> None:
    """A daemon that starts costs no question more than before."""
    (tmp_path / f"{grant('ann@x.test').key}.vault").touch()
    worker = FakeWorker()

    assert () == await commands(tmp_path, worker, [account("ann@x.test")]).look()
    assert [] == worker.asked


@in_trio
async def test_sign_ins_without_an_account_are_remembered(tmp_path: Path) -> None:
    """The status reads it without a worker; if the worker cannot tell whose it is, status says that it exists."""
    (tmp_path / "stray.vault").touch()
    found = commands(
        tmp_path, FakeWorker({Survey: [Listed((kept("bob@x.test"),)), Transient(Trouble("worker", "died"))]})
    )

    assert (kept("bob@x.test"),) == await found.look() == found.unlisted
    await found.look()
    assert (StoredSignIn("stray", "", "", ""),) == found.unlisted


@in_trio
async def test_a_user_name_finds_a_stored_sign_in(tmp_path: Path) -> None:
    """By login or by who signed in, in any case; no name finds none."""
    (tmp_path / "stray.vault").touch()
    worker = FakeWorker({Survey: [Listed((kept("bob@x.test"),))] * 2})
    found = commands(tmp_path, worker)

    assert (kept("bob@x.test"),) == await found.named("Bob@X.test")
    assert () == await found.named("ann@x.test")
    assert () == await found.named("")


@pytest.mark.parametrize(
    ("message", "answers", "expected"),
    [
        (
            {"yes": True},
            [],
            (True, "deleted: 1; the key that encrypted them (keyring) is no longer needed and was deleted too"),
        ),
        (
            {},
            [{"yes": True}],
            (True, "deleted: 1; the key that encrypted them (keyring) is no longer needed and was deleted too"),
        ),
        ({}, [{"yes": False}], (False, "nothing was deleted")),
        ({}, [{}], (False, "nothing was deleted")),
    ],
)
@in_trio
async def test_pruning_is_agreed_to(
    tmp_path: Path, message: dict[str, Any], answers: list[dict[str, Any]], expected: tuple[bool, str]
) -> None:
    """--yes agrees, or a person who has seen whose sign-ins they are; a client that leaves has not agreed."""
    store(tmp_path)
    gone = Granted("", 0.0, 0.0, sign_in=SignInFacts(key_from="keyring"))
    worker = FakeWorker({Survey: [Listed((kept("bob@x.test"),))] * 2, Delete: [gone]})
    person = Person(list(answers))

    assert expected == said(await commands(tmp_path, worker).prune(message, person.ask))
    assert "bob@x.test: https://login.microsoftonline.com/common, application client, signed in on" in person.heard[0]


@in_trio
async def test_an_account_that_comes_back_during_the_question_keeps_its_sign_in(tmp_path: Path) -> None:
    """A person takes minutes to agree; a reload does not wait for that. What was deleted is counted, and no more."""
    store(tmp_path, "ann@x.test")
    store(tmp_path, "bob@x.test")
    worker = FakeWorker({Survey: [Listed((kept("ann@x.test"), kept("bob@x.test")))] * 2, Delete: [GOOD]})
    registry = Registry(configured(), worker.acquire, FakeClock())

    async def agree(event: Mapping[str, Any]) -> Mapping[str, Any]:
        registry.apply(configured(account("ann@x.test")))
        return {"yes": event["event"] == "question"}

    assert (True, "deleted: 1") == said(await VaultCommands(worker, registry, str(tmp_path)).prune({}, agree))
    assert [(kept("bob@x.test").key,)] == [each.keys for each in worker.asked if isinstance(each, Delete)]


@in_trio
async def test_an_account_that_nothing_serves_keeps_its_sign_in(tmp_path: Path) -> None:
    """The account is configured and its socket may come back. `cms logout` by name or --all deletes its sign-in."""
    store(tmp_path)
    key, bob = kept("bob@x.test").key, (kept("bob@x.test"),)
    worker = FakeWorker({Survey: [Listed(bob)] * 2, Delete: [GOOD] * 2})
    found = commands(tmp_path, worker, unserved=frozenset({key}))

    assert () == await found.look()
    assert "nothing to prune" in (await found.prune({"yes": True}, Person().ask)).message
    assert [] == worker.asked
    assert bob == await found.named("bob@x.test")
    assert "bob@x.test: signed out" in (await found.sign_out(bob)).message
    assert "deleted: 1" == await found.delete_all(bob)
    assert [(key,)] * 2 == [each.keys for each in worker.asked if isinstance(each, Delete)]


@in_trio
async def test_a_state_folder_that_cannot_be_read_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon looks by itself: a disk that fails is no reason for it to end, and nothing is deleted."""

    def fail(_folder: Path, _pattern: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "glob", fail)
    found = commands(tmp_path, FakeWorker())

    assert () == await found.look()
    assert (False, "the state folder cannot be read: Input/output error") == said(
        await found.sign_out([kept("bob@x.test")])
    )


@in_trio
async def test_what_a_fleet_shares_is_never_pruned(tmp_path: Path) -> None:
    """It may be for the accounts of another host. What ends one is named."""
    config = replace(configured(), fleet=Fleet("dbname=cms", (Source("credential", ("tokens",)),)))
    worker = FakeWorker()
    registry = Registry(config, worker.acquire, FakeClock())
    pruned = await VaultCommands(worker, registry, str(tmp_path)).prune({"yes": True}, Person().ask)

    assert (True, "those of the fleet are left alone: `cms logout USER` ends one") == (pruned.ok, pruned.hint)
    assert [] == worker.asked


@in_trio
async def test_nothing_to_prune(tmp_path: Path) -> None:
    """Then cms asks no question."""
    assert (True, "there is nothing to prune: every stored sign-in has an account") == said(
        await commands(tmp_path, FakeWorker()).prune({}, Person().ask)
    )


@pytest.mark.parametrize("end", [Transient(Trouble("storage", "the disk is read-only", "mount it")), Listed(())])
@in_trio
async def test_what_cannot_be_deleted_is_said(tmp_path: Path, end: Ended) -> None:
    """A worker that answers another question is a bug, and no more than that."""
    store(tmp_path)
    worker = FakeWorker({Survey: [Listed((kept("bob@x.test"),))] * 4, Delete: [end, end]})
    found = commands(tmp_path, worker)

    assert not (await found.prune({"yes": True}, Person().ask)).ok
    assert not (await found.sign_out([kept("bob@x.test")])).ok


@in_trio
async def test_parting_with_what_has_no_account(tmp_path: Path) -> None:
    """As any other sign-out."""
    store(tmp_path)
    worker = FakeWorker({Delete: [Granted("", 0.0, 0.0)], Survey: [Listed(())]})

    assert (True, "bob@x.test: signed out, and the stored sign-in deleted") == said(
        await commands(tmp_path, worker).sign_out([kept("bob@x.test")])
    )


@in_trio
async def test_everything_that_nothing_serves_is_deleted(tmp_path: Path) -> None:
    """It is told how much; what cannot be deleted is said."""
    empty = await commands(tmp_path, FakeWorker()).delete_all(())
    store(tmp_path)
    bob = (kept("bob@x.test"),)
    worker = FakeWorker({Survey: [Listed(bob)] * 4, Delete: [Granted("", 0.0, 0.0), NO]})
    found = commands(tmp_path, worker)

    assert bob == await found.without_keeper()
    assert ("", "deleted: 1") == (empty, await found.delete_all(bob))
    failed = await found.delete_all(bob)
    assert isinstance(failed, Result)
    assert (False, "it is damaged") == said(failed)


# --- to another machine ---


@in_trio
async def test_an_export_has_whom_it_was_asked_for(tmp_path: Path) -> None:
    """Every account that a person signs in for, or the named ones; cms says which are not signed in."""
    accounts = [account("ann@x.test"), account("bob@x.test"), account("machine@x.test", "app")]
    worker = FakeWorker({Export: [Exported("text", (grant("ann@x.test").key,))] * 2})
    found, person = commands(tmp_path, worker, accounts), Person([{"password": "correct horse"}] * 2)

    all_users = await found.export({"users": []}, person.ask)
    ann = await found.export({"users": ["Ann@x.test"]}, person.ask)

    assert (True, "exported: ann@x.test\nnot exported, because not signed in: bob@x.test") == said(all_users)
    assert (True, "exported: ann@x.test", "text") == (*said(ann), ann.extra["export"])
    assert [2, 1] == [len(question.grants) for question in worker.asked]


@in_trio
async def test_what_the_broker_keeps_is_named(tmp_path: Path) -> None:
    """Whose sign-in is not in the file, why, and what to do for them."""
    accounts = [account("ann@x.test"), account("bob@x.test", "broker")]
    worker = FakeWorker({Export: [Exported("text", (accounts[0].grant.key,), (accounts[1].grant.key,))]})

    end = await commands(tmp_path, worker, accounts).export({}, Person([{"password": "correct horse"}]).ask)

    kept = "Microsoft's broker keeps the sign-in, for this device only; `cms login` on the other machine"
    assert (True, f"exported: ann@x.test\ncannot be exported: bob@x.test: {kept}") == said(end)


@pytest.mark.parametrize(("provider", "server"), [("fastmail", Server(rotates=True)), ("oauth2", Server())])
@in_trio
async def test_a_copy_that_would_end_the_sign_in_is_warned_about(tmp_path: Path, provider: str, server: Server) -> None:
    """Where each refresh token is good once, two machines end each other's sign-in; an own server may be such a one."""
    found = account("ann@x.test")
    strict = replace(found, grant=replace(found.grant, provider=provider, server=server))
    worker = FakeWorker({Export: [Exported("text", (found.grant.key,))]})

    end = await commands(tmp_path, worker, [strict]).export({}, Person([{"password": "correct horse"}]).ask)

    assert end.message.startswith("exported: ann@x.test\nused on one machine only: ann@x.test: ")


@in_trio
async def test_the_person_who_signs_in_for_mailboxes_may_be_named(tmp_path: Path) -> None:
    """Hints name the person who signs in: that name means all their mailboxes and their one sign-in."""
    accounts = [replace(account("me@x.test"), user=user) for user in ("sales@x.test", "jobs@x.test")]
    worker = FakeWorker({Export: [Exported("text", (grant("me@x.test").key,))]})
    found = commands(tmp_path, worker, [*accounts, account("bob@x.test")])

    end = await found.export({"users": ["Me@x.test"]}, Person([{"password": "correct horse"}]).ask)

    assert (True, "exported: sales@x.test, jobs@x.test") == said(end)
    assert [(grant("me@x.test"),)] == [question.grants for question in worker.asked]


@pytest.mark.parametrize(
    ("users", "answer", "end", "expected"),
    [
        (["carol@x.test"], {}, NO, "there is no account carol@x.test"),
        (["machine@x.test"], {}, NO, "there is no account that a person signs in for"),
        ([], {}, NO, "an export needs a passphrase"),
        ([], {"password": "correct horse"}, NO, "it is damaged"),
    ],
)
@in_trio
async def test_an_export_that_cannot_be(
    tmp_path: Path, users: list[str], answer: dict[str, Any], end: Ended, expected: str
) -> None:
    """Why, and nothing is asked that is not needed."""
    accounts = [account("ann@x.test"), account("machine@x.test", "app")]
    found = commands(tmp_path, FakeWorker({Export: [end]}), accounts)

    assert (False, expected) == said(await found.export({"users": users}, Person([answer]).ask))


# --- from another machine ---


def bringing(*imports: Outcome, items: tuple[StoredSignIn, ...] = (kept("ann@x.test"),)) -> FakeWorker:
    return FakeWorker({Peek: [WANTS, Listed(items)]}, list(imports))


@in_trio
async def test_an_import_is_made_and_told(tmp_path: Path) -> None:
    """The keeper hears of it, too; what stays true of the other machine is said."""
    worker, person = bringing(GOOD), Person([{"password": "correct horse"}])
    registry = Registry(configured(account("ann@x.test")), worker.acquire, FakeClock())

    result = await VaultCommands(worker, registry, str(tmp_path)).restore({"path": "/f"}, person.ask)
    (held,) = registry.keepers[0].lives.values()

    assert (True, "imported: 1 of 1") == said(result)
    assert "keeps working" in result.hint
    assert held.held is not None
    assert ("token", ("ann@x.test", "correct horse", True)) == (held.held.secret, worker.asked[-1])
    assert "told: ann@x.test: imported and verified" == person.heard[-1]


@in_trio
async def test_an_import_that_moves_a_sign_in(tmp_path: Path) -> None:
    """Where a refresh token works once, the other machine has to stop using it, and to end nothing at the provider."""
    worker, person = bringing(GOOD), Person([{"password": "correct horse"}])
    ann = account("ann@x.test")
    strict = replace(ann, grant=replace(ann.grant, provider="fastmail", server=Server(rotates=True)))
    result = await commands(tmp_path, worker, [strict]).restore({"path": "/f"}, person.ask)

    assert (True, "imported: 1 of 1") == said(result)
    assert "keeps working" not in result.hint
    assert "run `cms logout` on the other machine now, without --revoke" in result.hint
    assert "told: ann@x.test: imported and verified; it is used on one machine only" in person.heard


@pytest.mark.parametrize(
    ("yes", "expected", "told"),
    [(True, "imported: 1 of 1", "imported and verified"), (False, "nothing was imported", "left unchanged")],
)
@in_trio
async def test_one_that_is_there_is_replaced_if_a_person_says_so(
    tmp_path: Path, *, yes: bool, expected: str, told: str
) -> None:
    """And is kept otherwise, which is no failure."""
    person = Person([{"password": "correct horse"}, {"yes": yes}])
    found = commands(tmp_path, bringing(THERE, GOOD), [account("ann@x.test")])

    assert (True, expected) == said(await found.restore({"path": "/f"}, person.ask))
    assert "question: ann@x.test is signed in already. Replace that sign-in?" in person.heard
    assert told in person.heard[-1]


@in_trio
async def test_with_force_there_is_no_question(tmp_path: Path) -> None:
    """--force."""
    worker = bringing(GOOD)
    found = commands(tmp_path, worker, [account("ann@x.test")])

    assert (await found.restore({"path": "/f", "force": True}, Person([{"password": "correct horse"}]).ask)).ok
    assert ("ann@x.test", "correct horse", False) == worker.asked[-1]


@in_trio
async def test_what_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    """One refused, one without an account, one good: each is told, and the end is no success."""
    items = (kept("ann@x.test"), kept("bob@x.test"), kept("carol@x.test"))
    person = Person([{"password": "correct horse"}])
    found = commands(tmp_path, bringing(NO, GOOD, items=items), [account("ann@x.test"), account("carol@x.test")])

    assert (False, "imported: 1 of 3") == said(await found.restore({"path": "/f"}, person.ask))
    assert "told: ann@x.test: not imported: it is damaged; copy it again" in person.heard
    assert any("    user: bob@x.test\n" in each for each in person.heard)


@pytest.mark.parametrize(
    ("ends", "answers", "expected"),
    [
        ([WANTS], [{}], "the import needs the passphrase of the export"),
        ([WANTS, NO], [{"password": "wrong horse"}], "it is damaged"),
        ([NO], [], "it is damaged"),
        ([WANTS, Listed((kept("bob@x.test"),))], [{"password": "x"}], "/f has no sign-in of ann@x.test"),
        ([WANTS, Listed((kept("ann@x.test"),))], [{"password": "x"}], "nothing was imported"),
    ],
)
@in_trio
async def test_an_import_that_cannot_be(
    tmp_path: Path, ends: list[Ended], answers: list[dict[str, Any]], expected: str
) -> None:
    """A wrong passphrase, a file of other people, no account."""
    found = commands(tmp_path, FakeWorker({Peek: list(ends)}))

    assert (False, expected) == said(
        await found.restore({"path": "/f", "user": "ann@x.test"}, Person(list(answers)).ask)
    )


@pytest.mark.parametrize(
    ("authority", "login"),
    [
        ("https://login.microsoftonline.com/common", "ann@x.test"),
        ("https://login.microsoftonline.com/5a5a5a5a-0000-4000-8000-000000000001", ""),
        ("https://login.microsoftonline.us/organizations", "ann@x.test"),
        ("https://login.partner.microsoftonline.cn/organizations", "ann@x.test"),
        ("https://localhost:8443/common", "ann@x.test"),
    ],
)
def test_the_values_that_are_shown_make_the_account(tmp_path: Path, authority: str, login: str) -> None:
    """A person who puts them into a configuration has the very sign-in of the export."""
    client = "11111111-2222-4333-8444-555555555555"
    wanted = Grant(authority, client, login)
    shown = described(StoredSignIn(wanted.key, authority, client, login, provider="microsoft"))
    arguments = ", ".join(
        f"{name}={value!r}" for name, value in (line.strip().split(": ") for line in shown.splitlines())
    )
    path = tmp_path / "cms.cfg"
    path.write_text(
        f'account = Office365_Account({arguments})\nCredentialServer("{tmp_path}/cms.sock", accounts=[account])\n'
    )
    path.chmod(0o600)

    loaded: Config = load(str(path))
    assert [wanted.key] == [each.grant.key for each in loaded.accounts]


def test_the_values_of_another_provider() -> None:
    """Its name takes the place of an authority and a tenant."""
    shown = described(StoredSignIn("key", "https://accounts.google.com", "123.apps", "ann@gmail.com"))

    assert ["    user: ann@gmail.com", "    provider: google", "    client_id: 123.apps"] == shown.splitlines()


@pytest.mark.parametrize("provider", ["", "oauth2"])
def test_the_values_of_a_server_of_ones_own(provider: str) -> None:
    """It is no Microsoft's, also in what an earlier cms has written; an id that cms has got by itself is nobody's to type."""
    own = StoredSignIn("key", "https://sso.x.test/realms/x", "mail", "ann@x.test", provider=provider)
    registered = replace(own, client_id="dynamic")
    lines = ["    user: ann@x.test", "    issuer, or token_endpoint: https://sso.x.test/realms/x"]

    assert [*lines, "    client_id: mail"] == described(own).splitlines()
    assert lines == described(registered).splitlines()


def test_values_from_a_file_are_not_shown_as_code() -> None:
    """Each is plain text on its own line, whatever it contains."""
    hostile = StoredSignIn(
        "key", "https://login.test/x\x1b[2J", '")\nimport os\n(', "a\u202eb\x9b2J@x.test", provider="microsoft"
    )

    assert [
        "    user: a?b?2J@x.test",
        "    tenant: x?[2J",
        '    client_id: ") import os (',
        "    authority: https://login.test",
    ] == described(hostile).splitlines()


# --- another key ---


def rekeyed(moved: int, *unmoved: Unmoved, before: tuple[str, ...] = ("keyring",)) -> Rekeyed:
    return Rekeyed("id", "key file /k", moved, unmoved, before if moved else ())


@in_trio
async def test_another_key(tmp_path: Path) -> None:
    """The worker is asked with the same key until it moves nothing; the person hears of a long work in between."""
    worker, person = FakeWorker({Rekey: [rekeyed(500), rekeyed(1, before=("command",)), rekeyed(0)]}), Person()
    result = await commands(tmp_path, worker).rekey(person.ask)

    assert (True, "501 sign-ins moved to the key from key file /k; each was read back") == said(result)
    assert "cms keeps the old key (command, keyring): delete it yourself" in result.hint
    assert ["", "id", "id"] == [each.key for each in worker.asked]
    assert ["told: 500 sign-ins moved so far", "told: 501 sign-ins moved so far"] == person.heard


@in_trio
async def test_no_other_key(tmp_path: Path) -> None:
    """It is said that all have that key already, or that there is no sign-in."""
    empty = await commands(tmp_path, FakeWorker({Rekey: [rekeyed(0)]})).rekey(Person().ask)
    store(tmp_path)
    done = await commands(tmp_path, FakeWorker({Rekey: [rekeyed(0)]})).rekey(Person().ask)

    assert (True, "there is no stored sign-in; the next one is encrypted with the key from key file /k") == said(empty)
    assert (True, "every sign-in is encrypted with the key from key file /k already") == said(done)
    assert "Vault(key=..., old_key=...)" in done.hint


@in_trio
async def test_a_sign_in_that_keeps_its_key(tmp_path: Path) -> None:
    """Each is named with its reason, and the steps are listed once."""
    stays = [Unmoved("a", "ann@x.test", "it is damaged", "sign in"), Unmoved("b", "", "is busy", "sign in")]
    worker = FakeWorker({Rekey: [rekeyed(1, *stays), rekeyed(0, *stays)]})
    result = await commands(tmp_path, worker).rekey(Person().ask)

    assert (False, "1 sign-in moved; 2 sign-ins not moved: ann@x.test: it is damaged; b: is busy") == said(result)
    assert "sign in" == result.hint


@in_trio
async def test_another_key_that_cannot_be_used(tmp_path: Path) -> None:
    """The worker's reason and step; what was moved before is said."""
    no = Refused(Trouble("new-key", "the new key cannot be used: it is locked", "unlock it"))
    first = await commands(tmp_path, FakeWorker({Rekey: [no]})).rekey(Person().ask)
    later = await commands(tmp_path, FakeWorker({Rekey: [rekeyed(2), no]})).rekey(Person().ask)

    assert ((False, no.trouble.message), "unlock it") == (said(first), first.hint)
    assert (False, f"2 sign-ins moved; {no.trouble.message}") == said(later)


@in_trio
async def test_the_status_names_the_new_key(tmp_path: Path) -> None:
    """Of those that were moved, and are stored at all."""
    users = ["ann@x.test", "bob@x.test", "cyd@x.test"]
    stays = Unmoved(grant(users[1]).key, "", "", "")
    worker = FakeWorker({Rekey: [rekeyed(1, stays), rekeyed(0, stays)]})
    registry = Registry(configured(*map(account, users)), worker.acquire, FakeClock())
    for keeper, persisted in zip(registry.keepers, (True, True, False), strict=True):
        keeper.sign_in = SignInFacts(persisted=persisted, key_from="keyring")
    await VaultCommands(worker, registry, str(tmp_path)).rekey(Person().ask)

    assert ["key file /k", "keyring", "keyring"] == [each.sign_in.key_from for each in registry.keepers]


# --- mailboxes that are opened when they are asked for ---


def closed(folder: Path, *logins: str, age: float = 0.0) -> tuple[StoredSignIn, ...]:
    """Store tokens of such mailboxes, which are not open, and return them as the worker tells of them."""
    found = []
    for login in logins:
        key = EVERY.of(login).grant.key
        file = folder / f"{key}.vault"
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))
        found.append(StoredSignIn(key, AUTHORITY, "client", login))
    return tuple(found)


EVERY = replace(account("*@x.test", "app"), max_mailboxes=10)


@in_trio
async def test_tokens_of_closed_mailboxes_are_no_strays(tmp_path: Path) -> None:
    """They have an account; old ones are deleted unasked, and a stray one is listed as ever."""
    young, old = closed(tmp_path, "young@x.test"), closed(tmp_path, "old@x.test", age=KEPT_SECONDS + 60.0)
    store(tmp_path)
    others = (kept("bob@x.test"), replace(young[0], key="another application's"))
    worker = FakeWorker({Survey: [Listed((*young, *old, *others))], Delete: [GOOD]})
    found = commands(tmp_path, worker, [EVERY])

    assert others == await found.look() == found.unlisted
    assert [(old[0].key,)] == [each.keys for each in worker.asked if isinstance(each, Delete)]


@in_trio
async def test_an_open_mailbox_keeps_its_token(tmp_path: Path) -> None:
    """However old it is: an outage may last."""
    closed(tmp_path, "old@x.test", age=KEPT_SECONDS + 60.0)
    worker = FakeWorker()
    registry = Registry(configured(EVERY), worker.acquire, FakeClock())
    registry.asked_for(EVERY.of("old@x.test").grant, 1000)

    assert () == await VaultCommands(worker, registry, str(tmp_path)).look()
    assert [] == worker.asked


@in_trio
@pytest.mark.parametrize(("end", "expected"), [(GOOD, None), (NO, Result(False, "it is damaged", "copy it again"))])
async def test_all_of_them_are_deleted(tmp_path: Path, end: Outcome, expected: Result | None) -> None:
    """With all sign-ins, and a person is not asked about each; a failure is told."""
    there = closed(tmp_path, "a@x.test", "b@x.test")
    worker = FakeWorker({Survey: [Listed(there)] * 2, Delete: [end]})
    found = commands(tmp_path, worker, [EVERY])

    assert () == await found.without_keeper()
    assert expected == await found.forget_closed()
    assert {each.key for each in there} == {*worker.asked[-1].keys}
