"""What the service does with a store that several hosts share, shown with files that say what such a store may say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.grants import NoRing, kind
from support.stores import DEAD, GRANT, MAIL, Rotating, sign_in

from cms.core.accounts import Grant, Scopes, Source
from cms.core.lifecycle import Granted, Outcome, Refused, Trouble, token_hash
from cms.grants import service as module
from cms.grants.messages import Acquire, Ended, Export, Exported, Heard, Look, Looked, Told
from cms.grants.providers import Providers
from cms.grants.service import ELSEWHERE_REFRESH, ELSEWHERE_SECONDS, Service
from cms.grants.stores import Elsewhere, Stores
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Held, Stored, Vault

POLICY = Refused(Trouble("refused", "a policy blocks this", "the administrator", aadsts=53003, error="invalid_grant"))


class SharedHeld(Held):
    """A grant in it."""

    shared: Shared

    def read(self) -> Entry | None:
        entry = super().read()
        return replace(entry, cache="") if entry and self.shared.serves_only else entry

    def claim(self) -> float:
        if next(self.shared.elsewhere, False):
            self.release()
            raise Elsewhere
        return super().claim()

    def refused_for_good(self, trouble: Trouble) -> None:
        self.shared.refused.append(trouble)

    def store(self, entry: Entry, granted: Granted | None = None, proof: str = "") -> Stored:
        if self.shared.replaced:
            self.delete()
            raise Elsewhere
        return replace(super().store(entry, granted, proof), refresh_in=1000.0)


class Shared(Vault):
    """A store that several hosts share. `elsewhere` says for each claim in turn whether another host has one."""

    def __init__(self, folder: Path) -> None:
        key = Source("file", (str(folder / "key"),))
        super().__init__(str(folder / "shared"), Keys(key, environ={}, ring=NoRing()))
        self.elsewhere: Iterator[bool] = iter(())
        self.refusal: Refused | None = None
        self.wished = self.replaced = self.serves_only = False
        self.refused: list[Trouble] = []
        self.listening: list[Callable[[Told], None]] = []
        self.rests = 0

    @contextmanager
    def hold(self, grant: Grant, scopes: Scopes = ()) -> Iterator[Held]:
        with super().hold(grant, scopes):
            held = SharedHeld(self, grant, scopes)
            held.shared, held.refusal, held.wished = self, self.refusal, self.wished
            yield held

    def listen(self, tell: Callable[[Told], None]) -> None:
        self.listening.append(tell)

    def rest(self) -> None:
        self.rests += 1


class Host:
    """A host of a fleet."""

    def __init__(self, folder: Path, *, persist: bool = False) -> None:
        self.provider, self.shared = Rotating(), Shared(folder)
        self.vault = Vault(str(folder / "state"), Keys(Source("memory"), environ={}, ring=NoRing()))
        providers = Providers(lambda: self.provider, lambda: self.provider)
        # A second passes from one look at it to the next.
        self.seconds = itertools.count()
        clock = self.seconds.__next__
        self.service = Service(self.vault, providers, clock, shared=self.shared, persist=persist)

    def ask(self, held: str = "", *, rejected: str = "") -> Outcome:
        outcome = self.service.answer(
            Acquire(1, GRANT, MAIL, held and token_hash(held), rejected and token_hash(rejected))
        )
        assert isinstance(outcome, Outcome)
        return outcome

    def look(self, held: str = "") -> Ended:
        return self.service.answer(Look(1, GRANT, MAIL, held and token_hash(held)))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(module, "ELSEWHERE_PAUSE", 0.0)
    return Host(tmp_path)


def granted(outcome: Ended) -> Granted:
    assert isinstance(outcome, Granted), outcome
    return outcome


def test_a_token_that_another_host_renews_is_answered_meanwhile(host: Host) -> None:
    """And asked for again soon; nothing is redeemed here."""
    sign_in(host.service)
    host.shared.elsewhere = itertools.repeat(True)
    outcome = granted(host.ask("token-1"))

    assert ("token-1", ELSEWHERE_REFRESH, 0) == (outcome.secret, outcome.refresh_in, host.provider.redeemed)
    assert outcome.sign_in.given_at


def test_where_there_is_no_token_another_host_is_waited_for(host: Host) -> None:
    """Until it has one, or has given up: then this host redeems. A token that a mail server has refused is none."""
    sign_in(host.service)
    host.shared.elsewhere = iter([True] * 3)
    outcome = granted(host.ask("token-1", rejected="token-1"))

    assert ("token-2", 1) == (outcome.secret, host.provider.redeemed)


def test_another_host_is_not_waited_for_longer_than_a_question_may_take(host: Host) -> None:
    """The outcome says whose move it is, and the daemon tries again."""
    sign_in(host.service)
    host.shared.elsewhere = itertools.repeat(True)
    outcome = host.ask("token-1", rejected="token-1")

    assert ("elsewhere", 0) == (kind(outcome), host.provider.redeemed)
    assert ELSEWHERE_SECONDS < next(host.seconds) < 2 * ELSEWHERE_SECONDS


def test_a_sign_out_on_another_host_during_a_redemption_leaves_no_token(host: Host) -> None:
    """Neither what the provider gave, nor the one before."""
    sign_in(host.service)
    host.shared.replaced = True

    assert "no-sign-in" == kind(host.ask("token-1"))
    assert 1 == host.provider.redeemed


def test_the_store_says_when_a_token_is_renewed(host: Host) -> None:
    """Of a sign-in as of a redemption: one host chooses for all."""
    assert [1000.0, 1000.0] == [granted(each).refresh_in for each in (sign_in(host.service), host.ask("token-1"))]


def test_what_another_host_was_refused_for_good_is_not_sent_again(host: Host) -> None:
    """A token that is still good is served."""
    sign_in(host.service)
    host.shared.refusal = DEAD

    assert ["token-1", DEAD] == [granted(host.ask()).secret, host.ask("token-1")]
    assert (0, 0) == (host.provider.redeemed, host.provider.refused)


@pytest.mark.parametrize(("refusal", "told"), [(DEAD, [DEAD.trouble]), (POLICY, [])])
def test_only_what_ends_a_sign_in_is_told_to_the_other_hosts(host: Host, refusal: Refused, told: list[Trouble]) -> None:
    """A policy may block this host alone, or these scopes."""
    sign_in(host.service)
    host.provider.refusal = refusal

    assert "refused" == kind(host.ask("token-1"))
    assert told == host.shared.refused


def test_a_look_redeems_nothing(host: Host) -> None:
    """It finds no sign-in, another token, the refusal of the sign-in, or that there is nothing else."""
    none = host.look()
    sign_in(host.service)
    token, alike = granted(host.look()), host.look("token-1")
    host.shared.refusal = DEAD

    assert isinstance(none, Refused)
    assert ("no-sign-in", "token-1", DEAD) == (none.trouble.kind, token.secret, host.look("token-1"))
    assert Looked(token.sign_in.given_at) == alike
    host.shared.refusal, host.shared.wished = None, True
    assert Looked(token.sign_in.given_at, wished=True) == host.look("token-1")
    assert (0, 0) == (host.provider.redeemed, host.provider.refused)


def test_what_only_this_host_can_use_is_not_shared(tmp_path: Path) -> None:
    """A sign-in that Microsoft's broker keeps, and what needs no sign-in at all."""
    host = Host(tmp_path)
    stores = Stores(host.vault, host.shared)
    alone = [replace(GRANT, sign_in=each) for each in ("broker", "app", "managed-identity")]

    assert [host.vault] * 3 == [stores.of(each) for each in alone]
    assert host.shared is stores.of(GRANT)
    assert host.vault is Stores(host.vault).of(GRANT)
    assert [Looked(0.0)] * 3 == [host.service.answer(Look(1, each, MAIL, "")) for each in alone]


def test_a_sign_in_for_this_device_only_is_not_shared(host: Host) -> None:
    """The person is told how this host can have one of its own."""
    refused = sign_in(host.service, method="broker")
    alone = sign_in(host.service, replace(GRANT, sign_in="broker"), method="broker")

    assert isinstance(refused, Refused)
    assert ("unfit", "granted") == (refused.trouble.kind, kind(alone))
    assert 'sign_in="broker"' in refused.trouble.hint


def test_sign_out_and_export_are_of_the_shared_sign_in(host: Host) -> None:
    """Nothing of it is in this host's own files."""
    sign_in(host.service)
    exported = host.service.answer(Export(1, (GRANT,), "a passphrase"))

    assert isinstance(exported, Exported)
    assert (GRANT.key,) == exported.keys
    assert granted(host.service.sign_out(GRANT)).sign_in.persisted
    assert "no-sign-in" == kind(host.ask())
    assert not Path(host.vault.folder.path).exists()


def test_what_this_host_cannot_read_is_not_exported(host: Host) -> None:
    """An export without the refresh token would be no sign-in. Its token is served."""
    sign_in(host.service)
    host.shared.serves_only = True
    refused = host.service.answer(Export(1, (GRANT,), "a passphrase"))

    assert isinstance(refused, Refused)
    assert ("unfit", "token-1") == (refused.trouble.kind, granted(host.ask()).secret)


@pytest.mark.parametrize("persist", [False, True])
def test_what_other_hosts_do_is_told_once(tmp_path: Path, *, persist: bool) -> None:
    """A process that is about to exit has nobody to tell, and hears nothing. With nothing to do connections are closed."""
    host, told = Host(tmp_path, persist=persist), list[Told]()
    for _ in range(2):
        host.service.listen(told.append)
    for tell in host.shared.listening:
        tell(Heard((GRANT.key,)))
    host.service.rest()

    assert ([] if persist else [Heard((GRANT.key,))]) == told
    assert 1 == host.shared.rests
