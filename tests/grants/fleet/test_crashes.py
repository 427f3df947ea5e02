"""The crash table: a host that ends, or a connection that breaks, at each point of a redemption, and what is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
from support.cut import Cut
from support.fleet import GRANT, HOUR, SCOPES, Counter, Host, Lab, grant_of, mint_of, together
from support.fleet_host import POINTS
from support.grants import kind
from support.waiting import until

from cms.grants.fleet import connection, held
from cms.grants.fleet.claim import Terms
from cms.grants.stores import Elsewhere

# `make test` takes one case of each kind.
WHOLE = os.environ.get("CMS_FLEET") == "whole"

SHORT = Terms(lease=0.2)
# A token with so much of its life behind it is due, and better than none for some minutes.
DUE = 0.8 * HOUR
# A token that another host's claim may be taken over for.
LATE = 0.1 * HOUR

_TESTS = Path(__file__).parents[2]


class Killed(Lab):
    """Two hosts and a token that is due; one of them is a process that ends at a certain point."""

    def begin(self, folder: Path) -> None:
        self.counter = Counter(self.provider, folder / "provider")
        self.one = self.signed_in("a", terms=SHORT)
        self.other = self.host("b", terms=SHORT)
        self.first = self.one.token()
        assert self.first == self.other.token()
        self.age(DUE)

    def run(self, point: str, how: str = "SIGKILL", terms: Terms = SHORT) -> subprocess.Popen[str]:
        """Start the process that renews the token."""
        self.one.store.close()
        return self.start(self.one, point=point, signal=how, terms=asdict(terms), held=mint_of(self.first))

    def start(self, host: Host, **more: object) -> subprocess.Popen[str]:
        """Start a host as a process."""
        told = {
            "dsn": host.fleet.dsn,
            "schema": host.fleet.schema,
            "keys": [each.value[0] for each in host.fleet.keys],
            "token_keys": [each.value[0] for each in host.fleet.token_keys],
            "folder": str(host.folder),
            "provider": str(self.counter.path),
            "point": "",
            "signal": "SIGKILL",
            "grants": 0,
            **more,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "support.fleet_host", json.dumps(told)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=_TESTS.parent,
            env={**os.environ, "PYTHONPATH": f"{_TESTS}:{_TESTS.parent}"},
        )

    def kill(self, point: str) -> None:
        """Have the process end there, and wait until the provider has answered what was sent."""
        process = self.run(point)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        if POINTS.index(point) >= POINTS.index("after sending"):
            until(lambda: self.provider.asked == 2, "the provider's answer")
        self.one.again()

    @property
    def kept(self) -> set[str]:
        """The refresh tokens that the row and the journals have."""
        found = {self.other.refresh_token()}
        for host in (self.one, self.other):
            journal = host.store.journals.find(GRANT.key)
            if journal:
                found.add(journal.open(host.store.keys).entry.cache)
        return found


@pytest.fixture
def killed(lab: Lab, tmp_path: Path) -> Iterator[Killed]:
    made = Killed(lab.base, tmp_path)
    made.begin(tmp_path)
    yield made
    made.close()
    made.counter.close()


SAFE = ("before the claim", "after the claim", "after the journal", "after the commit")
LOST = ("after sending", "after the answer")


@pytest.mark.parametrize("strict", [True, False] if WHOLE else [True])
@pytest.mark.parametrize("point", SAFE if WHOLE else ["after the journal"])
def test_killed_and_back(killed: Killed, point: str, strict: bool) -> None:
    """Nothing is lost: its next worker goes on at once, and nothing is redeemed twice."""
    killed.provider.strict = strict
    killed.kill(point)

    second = killed.one.token(mint_of(killed.first))

    assert second != killed.first
    assert second == killed.other.token(mint_of(killed.first))
    assert (2, 0) == (killed.provider.asked, killed.provider.replays)
    assert killed.one.renew()
    assert set() == killed.provider.dead


@pytest.mark.parametrize(
    "point", [each for each in SAFE if each != "after the journal"] if WHOLE else ["after the claim"]
)
def test_killed_and_away(killed: Killed, point: str) -> None:
    """The others go on with the token, and take over when it is nearly over; what was stored is not redeemed again."""
    killed.kill(point)
    time.sleep(SHORT.lease)

    meanwhile = killed.other.token(mint_of(killed.first))
    assert (meanwhile == killed.first) == (point == "after the claim")
    killed.age(LATE)
    assert killed.other.token(mint_of(killed.first)) != killed.first
    assert (0, set()) == (killed.provider.replays, killed.provider.dead)


@pytest.mark.parametrize("strict", [True, False] if WHOLE else [True])
@pytest.mark.parametrize("point", [*LOST, "after the journal"] if WHOLE else ["after the journal"])
def test_gone_with_what_the_provider_gave(killed: Killed, point: str, strict: bool) -> None:
    """Another host redeems again when the token is nearly over: that costs a strict sign-in, and the refusal says why."""
    killed.provider.strict = strict
    killed.kill(point)
    time.sleep(SHORT.lease)

    assert killed.first == killed.other.token(mint_of(killed.first))
    killed.age(LATE)
    assert ("reused" if strict else "granted") == kind(killed.other.ask(mint_of(killed.first)))
    assert (1, strict) == (killed.provider.replays, bool(killed.provider.dead))


@pytest.mark.parametrize("strict", [True, False] if WHOLE else [True])
@pytest.mark.parametrize("point", LOST if WHOLE else ["after sending"])
def test_killed_before_the_answer_is_kept(killed: Killed, point: str, strict: bool) -> None:
    """A strict provider ends the sign-in, as it does on a single host, and the refusal says why; a lenient one goes on."""
    killed.provider.strict = strict
    killed.kill(point)
    lost = set(killed.provider.given) - set(killed.provider.used) - killed.kept

    assert 1 == len(lost)
    outcome = killed.one.ask(mint_of(killed.first))
    assert ("reused" if strict else "granted") == kind(outcome)
    assert (1, strict) == (killed.provider.replays, bool(killed.provider.dead))
    if strict:
        assert "refused" == kind(killed.other.ask(mint_of(killed.first)))
        assert 3 == killed.provider.asked


def test_suspended_before_sending(killed: Killed) -> None:
    """A host that was stopped for longer than its claim lasts sends nothing: another one has redeemed meanwhile."""
    process = killed.run("after the claim", "SIGSTOP", Terms(lease=21.0))
    until(lambda: killed.row("holder") != (None,), "the claim")
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T", "the stop")
    killed.age(LATE)
    second = killed.other.token(mint_of(killed.first))
    # Of its claim less than an exchange is left by now.
    time.sleep(1.1)
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=120)[0]

    assert second != killed.first
    assert {"kind": "timeout"} == json.loads(said)
    assert (2, 0) == (killed.provider.asked, killed.provider.replays)


@pytest.mark.parametrize("strict", [True, False] if WHOLE else [False])
def test_suspended_within_a_request(killed: Killed, strict: bool) -> None:
    """Where no token is good any more, another host redeems the same; what the first stores late takes the place of nothing."""
    killed.provider.strict = strict
    process = killed.run("after sending", "SIGSTOP")
    until(lambda: killed.provider.asked == 2, "the provider's answer")
    killed.age(HOUR)
    outcome = killed.other.ask(mint_of(killed.first))
    kept = killed.row("lineage, generation, sealed, refused")
    process.send_signal(signal.SIGCONT)
    said = json.loads(process.communicate(timeout=120)[0])

    assert kept == killed.row("lineage, generation, sealed, refused")
    assert (3, 1, strict) == (killed.provider.asked, killed.provider.replays, bool(killed.provider.dead))
    # Its own clients have the token that it was given, until that ends.
    assert ["secret"] == list(said)
    if strict:
        assert ("reused", "refused") == (kind(outcome), kind(killed.other.ask()))
    else:
        killed.one.again()
        assert killed.other.token() == killed.one.token()
        assert killed.one.renew() == killed.other.token()
        assert 1 == killed.provider.replays


STATEMENTS = {
    "read": b"meta m LEFT JOIN",
    "claim": b"fence = s.fence + 1",
    "store": b"WITH stored AS (\n  UPDATE",
}


@pytest.fixture
def cut(lab: Lab) -> Iterator[Cut]:
    made = Cut(lab.base.cluster)
    yield made
    made.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", STATEMENTS if WHOLE else ["store"])
def test_a_connection_that_is_cut(lab: Lab, cut: Cut, what: str, when: str) -> None:
    """Nothing is lost and nothing is redeemed twice, whether the statement has arrived or not."""
    one = lab.signed_in("a", port=cut.port)
    for number in range(10 if WHOLE else 2):
        getattr(cut, when).append(STATEMENTS[what])
        assert one.renew()
        assert cut.cuts == number + 1
        assert lab.provider.asked == number + 1

    other = lab.host("b")
    assert other.refresh_token() == one.refresh_token()
    assert other.renew()
    assert 0 == lab.provider.replays


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sign_in_that_is_cut(lab: Lab, cut: Cut, when: str) -> None:
    """It is stored all the same, and so is a sign-out done."""
    one = lab.host("a", port=cut.port)
    getattr(cut, when).append(b"WITH stored AS (\n  INSERT")
    one.sign_in(lab.provider.sign_in())
    assert lab.host("b").renew()
    getattr(cut, when).append(b"WITH forgotten AS")

    with one.store.hold(GRANT) as held:
        assert held.delete()

    assert 2 == cut.cuts
    assert (None,) == lab.row("sealed")


@pytest.mark.parametrize("when", ["before", "after"] if WHOLE else ["after"])
def test_a_refusal_that_is_cut(lab: Lab, cut: Cut, when: str) -> None:
    """It is noted all the same."""
    one = lab.signed_in("a", port=cut.port)
    lab.provider.dead.update(lab.provider.given.values())
    getattr(cut, when).append(b"WITH noted AS")

    assert "refused" == kind(one.ask())
    assert "refused" == kind(lab.host("b").ask())
    assert (1, 1) == (cut.cuts, lab.provider.asked)


@pytest.mark.parametrize("when", ["before", "after"] if WHOLE else ["before"])
def test_a_release_that_is_cut(lab: Lab, cut: Cut, when: str) -> None:
    """A claim for which nothing could be sent is given back all the same, and another host redeems at once."""
    one, other = lab.signed_in("a", port=cut.port, exchange=lambda _token: {}), lab.host("b")
    getattr(cut, when).append(b"SET holder = NULL")

    assert "timeout" == kind(one.ask())
    assert (1, (None, False)) == (cut.cuts, lab.row("holder, redeeming"))
    assert other.renew()


@pytest.mark.parametrize("when", ["before", "after"] if WHOLE else ["after"])
def test_a_greeting_that_is_cut(lab: Lab, cut: Cut, when: str) -> None:
    """Another life of the database is noticed all the same, and a lost row is brought back."""
    one = lab.signed_in("a", port=cut.port)
    one.renew()
    lab.base.sql("DELETE FROM cms.signins")
    lab.base.sql("UPDATE cms.meta SET history = 'another'")
    one.again()
    getattr(cut, when).extend([b"SET history =", b"ON CONFLICT DO NOTHING"])

    assert one.refresh_token()
    assert 2 == cut.cuts
    assert [(True, True)] == lab.base.sql(
        "SELECT history = cms.history(), since > now() - interval '1 min' FROM cms.meta"
    )
    assert one.refresh_token() == lab.host("b").refresh_token()


@pytest.mark.parametrize("when", ["before", "after"] if WHOLE else ["after"])
def test_a_wish_that_is_cut(lab: Lab, cut: Cut, when: str) -> None:
    """It is there once."""
    first = lab.signed_in("a").token()
    relay = lab.host("r", relay=True, port=cut.port)
    lab.age(600.0)
    getattr(cut, when).append(b".wish(")

    assert first == relay.token(mint_of(first), wanted=True)
    assert (1, [(mint_of(first),)]) == (cut.cuts, lab.base.sql("SELECT mint FROM cms.wishes"))


def test_ended_by_an_administrator(lab: Lab) -> None:
    """A connection that the server ends is made anew."""
    one = lab.signed_in("a")
    for _ in range(3):
        assert one.renew()
        lab.base.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", lab.base.redeemer)


def test_cut_off_from_the_database_alone(lab: Lab, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is cut off after its journal answers its clients, keeps the others from redeeming, and shares later."""
    monkeypatch.setattr(held, "STORE_SECONDS", 0.3)
    monkeypatch.setattr(connection, "TRY_SECONDS", 0.3)

    def exchange(token: str) -> dict[str, object]:
        cut.refuses = cut.refuses or lab.provider.asked == 1
        if cut.refuses:
            one.store.rest()
        return lab.provider.exchange(token)

    one = lab.signed_in("a", terms=SHORT, port=cut.port, exchange=exchange)
    other = lab.host("b", terms=SHORT)
    first = one.token()
    lab.age(DUE)

    second = one.token(mint_of(first))
    time.sleep(SHORT.lease)
    assert first == other.token(mint_of(first))
    assert second == one.token()
    cut.refuses = False
    assert second == one.token()

    assert second == other.token(mint_of(first))
    assert (2, 0) == (lab.provider.asked, lab.provider.replays)


@pytest.mark.parametrize("strict", [True, False] if WHOLE else [True])
@pytest.mark.parametrize("count", [3, 10] if WHOLE else [3])
def test_one_redemption_a_life(lab: Lab, count: int, strict: bool) -> None:
    """However many hosts there are, each life of a token costs one redemption, and nobody waits for long."""
    lab.provider.strict, lab.provider.pause = strict, 0.05
    lab.signed_in("h0")
    hosts = [lab.host(f"h{number}") for number in range(count)]
    held = {host.token() for host in hosts}
    lives = 20 if WHOLE else 3
    for _ in range(lives):
        (before,) = held
        lab.age(DUE)
        ask = partial(lambda before, number: hosts[number].token(mint_of(before)), before)
        tokens = together(count, ask)
        # A host that came while another one redeemed goes on with the token before, and comes again.
        held = {ask(number) if secret == before else secret for number, secret in enumerate(tokens)}
        assert 1 == len(held)

    assert (lives + 1, 0) == (lab.provider.asked, lab.provider.replays)


@pytest.mark.skipif(not WHOLE, reason="half a minute without a database: make test-fleet")
def test_half_a_minute_without_a_database(killed: Killed) -> None:
    """Hosts go on with what they hold; what was under way is shared later, and nothing is redeemed twice."""
    provider, cluster, terms = killed.provider, killed.base.cluster, Terms(lease=3.0, late=600.0)
    provider.life, provider.pause = 60.0, 0.5
    grants = [grant_of(number) for number in range(12)]
    hosts = [killed.host(f"h{number}", terms=terms) for number in range(3)]
    for grant in grants:
        hosts[0].sign_in(provider.sign_in(), grant)
    before = provider.asked
    running = [killed.start(each, terms=asdict(terms), grants=len(grants), held="") for each in hosts]
    # In the midst of the first redemptions.
    until(lambda: provider.asked > before + 2, "some redemptions")
    cluster.stop()
    time.sleep(30.0)
    cluster.start()
    until(lambda: provider.asked >= before + 2 * len(grants), "two redemptions for each")
    for each in running:
        each.kill()
        each.communicate()
    journals = [journal for host in hosts for grant in grants if (journal := host.store.journals.find(grant.key))]

    assert (0, set()) == (provider.replays, provider.dead)
    assert len(journals) >= len(grants)
    for host in hosts:
        host.again()
    kept = {host.refresh_token(grant) for host in hosts for grant in grants}
    assert len(grants) == len(kept)


@pytest.mark.skipif(not WHOLE, reason="many hosts for half a minute: make test-fleet")
def test_random_kills(killed: Killed, capsys: pytest.CaptureFixture[str]) -> None:
    """Of hosts that are killed at any moment, each strict sign-in that ends has lost an answer of the provider's; no other does."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    # No other host takes over before the killed one is back: on a slow machine a short claim would end first, and what its
    # journal has would be redeemed again. `test_killed_and_away` and `test_gone_with_what_the_provider_gave` are about that.
    provider, terms = killed.provider, Terms()
    provider.life, provider.pause = 8.0, 0.2
    grants = [grant_of(number) for number in range(20)]
    hosts = [killed.host(f"h{number}", terms=terms) for number in range(5)]
    for grant in grants:
        hosts[0].sign_in(provider.sign_in(), grant)

    def start(host: Host) -> subprocess.Popen[str]:
        return killed.start(host, terms=asdict(terms), grants=len(grants), held="")

    running = [start(host) for host in hosts]
    end, kills = time.monotonic() + 40.0, 0
    while time.monotonic() < end:
        time.sleep(dice.uniform(0.3, 1.5))
        number = dice.randrange(len(running))
        running[number].kill()
        running[number].communicate()
        running[number], kills = start(hosts[number]), kills + 1
    for each in running:
        each.kill()
        each.communicate()
    # What is under way at the provider ends.
    time.sleep(1.0)
    used, kept = set(provider.used), set[str]()
    for host in hosts:
        host.again()
        for grant in grants:
            kept.add(host.refresh_token(grant))
            journal = host.store.journals.find(grant.key)
            if journal:
                kept.add(journal.open(host.store.keys).entry.cache)
    lost = {provider.given[token]: token for token in set(provider.given) - used - kept}
    ends = {each: lost.get(each) for each in provider.dead}
    said = f"{kills} kills, {provider.asked} redemptions, {len(provider.dead)} dead, {provider.replays} replays"
    with capsys.disabled():
        # Also of a run that passes.
        print(f"\n{said}\nthe answers that were lost, by the sign-ins that ended: {ends}", file=sys.stderr)

    assert provider.dead <= set(lost)
    assert provider.asked > 2 * len(grants)
    for grant in grants:
        token = hosts[0].refresh_token(grant)
        if provider.given[token] not in lost:
            assert token not in used


def test_nobody_takes_over_a_claim_by_hand(lab: Lab) -> None:
    """A second claim of the same generation is refused while the first is good."""
    one, other = lab.signed_in("a"), lab.host("b")
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()
        with other.store.hold(GRANT, SCOPES) as there:
            there.read()
            there.prepare()
            with pytest.raises(Elsewhere):
                there.claim()
        held.release()
