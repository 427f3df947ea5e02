"""One suite that every store of sign-ins passes, with one host and with three: what the service relies on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support.grants import PATIENCE, kind
from support.postgres import Base, Cluster, new_cluster
from support.stores import GRANT, GRAPH, MAIL, OTHER, Database, Files, Lab, Rotating, sign_in

from cms.core.accounts import Scopes
from cms.core.lifecycle import Granted, Outcome, token_hash
from cms.grants.messages import Acquire, Export, Exported, Import, Place
from cms.grants.service import ELSEWHERE_REFRESH, Service
from cms.grants.transfer import export_file

HOSTS = (1, 3)

# Seconds after which a token may be replaced because a client wants that.
AGE = 600.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with new_cluster() as running:
        yield running


@pytest.fixture(params=["files", "PostgreSQL"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    if request.param == "files":
        yield Files(tmp_path)
        return
    database = Database(Base(request.getfixturevalue("cluster")), tmp_path)
    yield database
    database.close()


@pytest.fixture
def provider() -> Rotating:
    return Rotating()


def granted(outcome: Outcome) -> Granted:
    assert isinstance(outcome, Granted), outcome
    return outcome


def ask(
    host: Service, held: str | None = None, scopes: Scopes = MAIL, rejected: str = "", *, wanted: bool = False
) -> Outcome:
    """Ask for a token as a keeper does that holds this one; None asks for a redemption."""
    known = None if held is None else held and token_hash(held)
    outcome = host.answer(Acquire(1, GRANT, scopes, known, rejected and token_hash(rejected), wanted))
    assert isinstance(outcome, Outcome)
    return outcome


def at_once(calls: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
    """Return what these calls end with, all made at the same time."""
    start = threading.Barrier(len(calls))

    def after_start(call: Callable[[], Outcome]) -> Outcome:
        start.wait(PATIENCE)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(after_start, calls))


def during(waits: bool, provider: Rotating, change: Callable[[], Outcome], redeem: Callable[[], Outcome]) -> None:
    """Make a change while the provider redeems; where it `waits` for that, begin it then."""
    began, ended = threading.Event(), threading.Event()

    def changing() -> None:
        began.set()
        change()
        ended.set()

    def meanwhile() -> None:
        provider.during = lambda: None
        thread.submit(changing)
        assert (began if waits else ended).wait(PATIENCE)

    with ThreadPoolExecutor(1) as thread:
        provider.during = meanwhile
        redeem()
    assert ended.is_set()


@pytest.mark.parametrize("number", HOSTS)
class TestStores:
    """A store that so many hosts share."""

    def test_every_host_redeems_the_successor_of_the_last_one(self, lab: Lab, provider: Rotating, number: int) -> None:
        """Whoever stored it, and after a start as well."""
        hosts = lab.hosts(provider, number)
        sign_in(hosts[0])
        outcomes = [kind(ask(host)) for host in [*hosts, *hosts, *lab.hosts(provider, number)]]

        assert (["granted"] * 3 * number, 3 * number) == (outcomes, provider.redeemed)

    def test_all_hosts_at_once_redeem_once_and_get_the_same_token(
        self, lab: Lab, provider: Rotating, number: int
    ) -> None:
        """Each holds the token of the sign-in, and asks because that is due; a host may have to ask for it a little later."""
        hosts = lab.hosts(provider, number)
        first = granted(sign_in(hosts[0])).secret
        outcomes = [granted(each) for each in at_once([partial(ask, host, first) for host in hosts])]
        later = [each.refresh_in for each in outcomes if each.secret == first]

        assert "token-2" in {each.secret for each in outcomes}
        assert [ELSEWHERE_REFRESH] * len(later) == later
        assert {"token-2"} == {granted(ask(host, first)).secret for host in hosts}
        assert 1 == provider.redeemed

    def test_what_is_held_is_replaced_and_another_token_is_taken(
        self, lab: Lab, provider: Rotating, number: int
    ) -> None:
        """A token that a host holds is not its answer. One that it does not hold is, with what is known of the sign-in."""
        hosts = lab.hosts(provider, number)
        given_at = granted(sign_in(hosts[0])).sign_in.given_at
        taken = granted(ask(hosts[-1], ""))
        renewed = granted(ask(hosts[-1], taken.secret))

        assert ("token-1", "token-2", 1) == (taken.secret, renewed.secret, provider.redeemed)
        assert (GRANT.login, given_at, True) == (taken.sign_in.who, taken.sign_in.given_at, taken.sign_in.persisted)
        assert taken.sign_in.redeemed_at

    def test_a_token_that_was_refused_is_replaced_once(self, lab: Lab, provider: Rotating, number: int) -> None:
        """Every host is told of the same refusal by a mail server: there is one new token, and all get that."""
        hosts = lab.hosts(provider, number)
        first = granted(sign_in(hosts[0])).secret
        lab.age(AGE)
        secrets = {granted(ask(host, first, rejected=first, wanted=True)).secret for host in hosts}

        assert ({"token-2"}, 1) == (secrets, provider.redeemed)

    def test_a_token_that_all_want_replaced_is_replaced_once(self, lab: Lab, provider: Rotating, number: int) -> None:
        """As when clients of each host ask for more life."""
        hosts = lab.hosts(provider, number)
        first = granted(sign_in(hosts[0])).secret
        lab.age(AGE)
        at_once([partial(ask, host, first, wanted=True) for host in hosts])

        assert {"token-2"} == {granted(ask(host, first)).secret for host in hosts}
        assert 1 == provider.redeemed

    def test_two_scope_sets_never_overlap(self, lab: Lab, provider: Rotating, number: int) -> None:
        """They share a refresh token, and each host asks for both."""
        hosts = lab.hosts(provider, number)
        sign_in(hosts[0])
        outcomes = at_once([partial(ask, host, None, scopes) for host in hosts for scopes in (MAIL, GRAPH)])

        assert {"granted"} == {kind(each) for each in outcomes}
        assert (0, 0) == (provider.overlaps, provider.refused)

    def test_a_full_disk_is_noticed_before_anything_is_redeemed(
        self, lab: Lab, provider: Rotating, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is sent; and with room again, all is as before."""
        hosts = lab.hosts(provider, number)
        sign_in(hosts[0])

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            kinds = {kind(ask(host)) for host in hosts}

        assert ({"storage"}, 0) == (kinds, provider.redeemed)
        assert ["granted"] * number == [kind(ask(host)) for host in hosts]

    @pytest.mark.parametrize("what", ["half of it", "a flipped bit", "another sign-in's", "nothing of it"])
    def test_bytes_that_are_not_this_sign_ins_are_refused(
        self, lab: Lab, provider: Rotating, number: int, what: str
    ) -> None:
        """They are said to be damaged, nothing is redeemed, and the right ones are good again."""
        hosts = lab.hosts(provider, number)
        for grant in (GRANT, OTHER):
            sign_in(hosts[0], grant)
        good = lab.read(GRANT)
        bad = {
            "half of it": good[: len(good) // 2],
            "a flipped bit": good[:-1] + bytes([good[-1] ^ 1]),
            "another sign-in's": lab.read(OTHER),
            "nothing of it": b"\n",
        }
        lab.write(GRANT, bad[what])
        kinds = {kind(ask(host)) for host in hosts}
        lab.write(GRANT, good)

        assert ({"vault-damaged"}, 0) == (kinds, provider.redeemed)
        assert "granted" == kind(ask(hosts[-1]))

    def test_a_missing_key_is_locked(self, lab: Lab, provider: Rotating, number: int) -> None:
        """The sign-in is there, and only a person can help; nothing is made anew."""
        sign_in(lab.hosts(provider, number)[0])
        lab.lose_keys()
        kinds = {kind(ask(host)) for host in lab.hosts(provider, number)}

        assert ({"locked"}, 0) == (kinds, provider.redeemed)

    def test_a_sign_out_is_for_every_host_and_for_good(self, lab: Lab, provider: Rotating, number: int) -> None:
        """Also for hosts that start later, and for one that had the sign-in redeemed last."""
        hosts = lab.hosts(provider, number)
        sign_in(hosts[0])
        ask(hosts[-1])
        found = granted(hosts[0].sign_out(GRANT)).sign_in.persisted
        kinds = {kind(ask(host, "")) for host in [*hosts, *lab.hosts(provider, number)]}

        assert (True, {"no-sign-in"}) == (found, kinds)
        assert not granted(hosts[-1].sign_out(GRANT)).sign_in.persisted

    def test_a_sign_out_during_a_redemption_stays(self, lab: Lab, provider: Rotating, number: int) -> None:
        """What the redemption brings does not bring the sign-in back."""
        hosts = lab.hosts(provider, number)
        sign_in(hosts[0])
        during(lab.waits or number == 1, provider, lambda: hosts[-1].sign_out(GRANT), lambda: ask(hosts[0]))

        assert {"no-sign-in"} == {kind(ask(host, "")) for host in [*hosts, *lab.hosts(provider, 1)]}

    def test_a_sign_in_that_ends_at_its_provider(self, lab: Lab, provider: Rotating, number: int) -> None:
        """Whichever host has redeemed it last, its newest refresh token is the one that ends."""
        hosts = lab.hosts(provider, number)
        sign_in(hosts[0])
        ask(hosts[-1])
        found = granted(hosts[0].sign_out(GRANT, revoke=True)).sign_in.persisted
        kinds = {kind(ask(host, "")) for host in [*hosts, *lab.hosts(provider, number)]}

        assert (True, {"no-sign-in"}) == (found, kinds)
        assert {0} == provider.dead
        assert "refresh-2" in provider.revoked

    def test_a_sign_in_that_was_exported_takes_the_place_of_another(
        self, lab: Lab, provider: Rotating, number: int, tmp_path: Path
    ) -> None:
        """An import redeems it, every host has its successor, and that is what they redeem next."""
        hosts, path = lab.hosts(provider, number), tmp_path / "exported"
        exported = granted(sign_in(hosts[0])).sign_in.given_at
        end = hosts[0].answer(Export(1, (GRANT,), "correct horse"))
        assert isinstance(end, Exported)
        path.write_text(end.text)
        sign_in(hosts[0])
        outcome = hosts[-1].answer(Import(1, GRANT, Place(str(path), export_file.SOURCE, "", "correct horse")))

        assert isinstance(outcome, Granted), outcome
        assert [exported] * number == [granted(ask(host)).sign_in.given_at for host in hosts]
        assert (set[int](), 0) == (provider.dead, provider.refused)

    def test_what_is_redeemed_meanwhile_does_not_outlive_its_end(
        self, lab: Lab, provider: Rotating, number: int
    ) -> None:
        """The end waits for the redemption; or it does not come about, is asked for again, and ends the successor."""
        hosts, ends = lab.hosts(provider, number), list[Outcome]()
        sign_in(hosts[0])

        def end() -> Outcome:
            ends.append(hosts[-1].sign_out(GRANT, revoke=True))
            return ends[-1]

        during(lab.waits or number == 1, provider, end, lambda: ask(hosts[0]))
        if "elsewhere" == kind(ends[0]):
            assert "granted" == kind(ask(hosts[0], ""))
            end()

        assert "granted" == kind(ends[-1])
        assert "refresh-2" in provider.revoked
        assert {"no-sign-in"} == {kind(ask(host, "")) for host in hosts}

    def test_a_sign_in_during_a_redemption_stays(self, lab: Lab, provider: Rotating, number: int) -> None:
        """What the redemption of the one before brings does not take its place."""
        hosts = lab.hosts(provider, number)
        before = granted(sign_in(hosts[0])).sign_in.given_at
        during(lab.waits or number == 1, provider, lambda: sign_in(hosts[-1]), lambda: ask(hosts[0]))
        after = [granted(ask(host, "")).sign_in.given_at for host in hosts]

        assert [True] * number == [each > before for each in after]
        assert 1 == len(set(after))
