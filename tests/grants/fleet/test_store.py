from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.fleet import ANN, GRANT, HOUR, MORE, SCOPES, Lab, grant_of, mint_of, together
from support.grants import kind

from cms.core.lifecycle import Granted, Refused, Trouble
from cms.grants.fleet import held as fleet_held
from cms.grants.fleet import statements
from cms.grants.fleet.claim import Terms
from cms.grants.fleet.connection import MAX_HOST
from cms.grants.fleet.sealing import scopes_key
from cms.grants.secret_sources import Unavailable
from cms.grants.stores import Elsewhere
from cms.grants.vault import minted
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.minted import Moment

# A lease that ends while a test looks, and one that takes over at once.
SHORT = Terms(lease=0.2)
AT_ONCE = Terms(lease=0.0, late=0.0)


def trouble(call: Callable[[], object]) -> str:
    """Return the kind of trouble that a call ends with."""
    with pytest.raises(Unavailable) as caught:
        call()
    return caught.value.outcome.trouble.kind


def test_a_sign_in_serves_every_host(lab: Lab) -> None:
    """What is stored at one host is what each reads next, and so is each successor."""
    one, other = lab.signed_in("a"), lab.host("b")

    assert one.refresh_token() == other.refresh_token() != ""
    other.renew()
    assert one.refresh_token() == other.refresh_token()
    assert 1 == lab.provider.asked


@pytest.mark.parametrize("strict", [True, False])
def test_one_redemption_for_all(lab: Lab, strict: bool) -> None:
    """Hosts that ask at once redeem once, and all get that token."""
    lab.provider.strict, lab.provider.pause = strict, 0.1
    lab.signed_in("a")
    hosts = [lab.host(f"h{number}") for number in range(5)]

    tokens = together(len(hosts), lambda number: hosts[number].token())

    assert 1 == len(set(tokens))
    assert (1, 0) == (lab.provider.asked, lab.provider.replays)


def test_a_published_token_is_taken(lab: Lab) -> None:
    """By a host that holds another one, or none; the one that holds it redeems."""
    one, other = lab.signed_in("a"), lab.host("b")
    first = one.token()

    assert first == other.token() == other.token(mint_of("another"))
    second = other.token(mint_of(first))
    assert first != second == one.token(mint_of(first))
    assert 2 == lab.provider.asked


def test_how_a_taken_token_is_said(lab: Lab) -> None:
    """With its life from when it was asked for, the facts of the sign-in, and when to come again: after the minter."""
    one, other = lab.signed_in("a"), lab.host("b")
    minter, taker = one.ask(), other.ask()
    assert isinstance(minter, Granted)
    assert isinstance(taker, Granted)

    assert (minter.secret, minter.expires_in, minter.scopes) == (taker.secret, taker.expires_in, taker.scopes)
    assert taker.issued == pytest.approx(minter.issued, abs=2.0)
    assert minter.refresh_in is not None
    assert taker.refresh_in == pytest.approx(minter.refresh_in + 60.0, abs=3.0)
    assert (ANN, minter.sign_in.given_at) == (taker.sign_in.who, taker.sign_in.given_at)
    assert not taker.doubtful
    assert (True, True, "a") == (minter.sign_in.shared, taker.sign_in.shared, taker.sign_in.minted_by)


def test_the_minter_comes_first(lab: Lab) -> None:
    """Also after its worker was started anew."""
    one = lab.signed_in("a")
    minter = one.ask()
    one.again()
    again = one.ask()
    assert isinstance(minter, Granted)
    assert isinstance(again, Granted)

    assert minter.refresh_in is not None
    assert again.refresh_in == pytest.approx(minter.refresh_in, abs=3.0)


def test_one_that_is_due(lab: Lab) -> None:
    """It is not taken but renewed."""
    one, other = lab.signed_in("a"), lab.host("b")
    first = one.token()
    lab.age(0.8 * HOUR)

    assert first != other.token()
    assert 2 == lab.provider.asked


def test_a_claim_keeps_others_away(lab: Lab) -> None:
    """And the published token is served meanwhile."""
    one, other = lab.signed_in("a"), lab.host("b")
    first = one.token()
    lab.age(0.8 * HOUR)
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()

        outcome = other.ask(mint_of(first))

        assert isinstance(outcome, Granted)
        assert (first, 30.0) == (outcome.secret, outcome.refresh_in)
        held.release()
    assert first != other.token(mint_of(first))


def test_a_claim_of_a_host_that_is_gone(lab: Lab) -> None:
    """It is taken over when its lease has ended and the token is nearly over, and not before."""
    one, other = lab.signed_in("a", terms=SHORT), lab.host("b", terms=SHORT)
    first = one.token()
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()
        lab.age(0.8 * HOUR)
        assert first == other.token(mint_of(first))
        lab.age(0.1 * HOUR)

        assert first != other.token(mint_of(first))


def test_a_claim_of_an_earlier_worker(lab: Lab) -> None:
    """It is this host's own, and taken over at once: what came of it is not known."""
    one = lab.signed_in("a")
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()
        # As if it was killed.
        held._fence = None
    one.again()

    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()
        assert held.interrupted
        held.release()
    assert (True,) == lab.row("redeeming")
    one.renew()
    assert (False, None) == lab.row("redeeming, holder")


def test_what_nobody_has_ended(lab: Lab) -> None:
    """A claim that is left without an answer is free again, and the next refusal can be explained."""
    one = lab.signed_in("a")
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()

    assert (None, True) == lab.row("holder, redeeming")


def test_a_late_successor(lab: Lab) -> None:
    """Of two hosts that store a successor of the same generation, one does; the other takes what there is."""
    one, other = lab.signed_in("a", terms=AT_ONCE), lab.host("b", terms=AT_ONCE)
    lab.provider.strict = False
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()
        other.renew()
        before = lab.row("generation, sealed")
        held.store(replace(entry, cache="late"))

    assert before == lab.row("generation, sealed")


def test_a_late_release(lab: Lab) -> None:
    """A claim that is given back after another host took it over, or this host's next worker, ends neither's."""
    one, other = lab.signed_in("a", terms=AT_ONCE), lab.host("b", terms=AT_ONCE)
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()
        late = held._fence
        for host in (other.store.host, one.store.host):
            lab.base.sql("UPDATE cms.signins SET holder = %s::uuid, fence = fence + 1", host)
            held._fence = late
            held.release()

            assert (host,) == lab.row("holder::text")


def test_a_statement_of_another_lineage(lab: Lab) -> None:
    """However late its generation is: as after a failover that lost renewals, and a new sign-in since."""
    one = lab.signed_in("a")
    one.renew()
    one.renew()
    journal = one.store.journals.find(GRANT.key)
    lab.base.sql("UPDATE cms.signins SET lineage = gen_random_uuid(), generation = 1")
    before = lab.row("lineage, generation, sealed")
    assert journal

    with contextlib.closing(one.store.open_wire()) as wire:
        one.store._bring(wire, journal, statements.STORE)
    assert before == lab.row("lineage, generation, sealed")
    one.again()
    one.store.database.run(statements.META)
    assert (before, []) == (lab.row("lineage, generation, sealed"), one.store.journals.names())


def test_a_journal_of_another_process(lab: Lab) -> None:
    """What a command on this host was given and could not store, its daemon shares, though it was connected all the time."""
    daemon, command = lab.signed_in("a"), lab.host("a")
    daemon.renew()
    before = lab.row("generation, sealed")
    command.renew()
    lab.base.sql("UPDATE cms.signins SET generation = %s, sealed = %s", *before)

    assert daemon.renew()
    assert (4,) == lab.row("generation")
    assert (3, 0) == (lab.provider.asked, lab.provider.replays)


@pytest.mark.parametrize("anew", [True, False])
def test_a_sign_out_during_a_redemption(lab: Lab, anew: bool) -> None:
    """What the redemption gave is dropped, with its journal; a host that is started anew changes nothing."""
    one, other = lab.signed_in("a"), lab.host("b")
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()
        with other.store.hold(GRANT) as there:
            assert there.delete()
        if anew:
            other.sign_in(lab.provider.sign_in())
        with pytest.raises(Elsewhere):
            held.store(replace(entry, cache="late"))
    before = lab.row("lineage, generation, sealed")
    one.again()

    assert ("granted" if anew else "no-sign-in") == kind(one.ask())
    assert anew == (before != lab.row("lineage, generation, sealed"))


def test_a_sign_out_is_everywhere(lab: Lab) -> None:
    """No host has a sign-in then, nor a token, and a journal brings none back."""
    one, other = lab.signed_in("a"), lab.host("b")
    one.token()

    with other.store.hold(GRANT) as held:
        assert held.delete()
        assert not held.delete()
    one.again()

    assert "no-sign-in" == kind(one.ask())
    assert [] == lab.base.sql("SELECT * FROM cms.tokens")
    assert [] == one.store.journals.names()
    assert (None,) == lab.row("sealed")


def test_a_new_sign_in(lab: Lab) -> None:
    """It takes the place of the one before, with a later generation, and of its tokens."""
    one, other = lab.signed_in("a"), lab.host("b")
    one.token()
    lineage, generation = lab.row("lineage, generation")

    other.sign_in(lab.provider.sign_in())

    found = lab.row("lineage, generation")
    assert lineage != found[0]
    assert generation < found[1]
    assert [] == lab.base.sql("SELECT * FROM cms.tokens")
    assert one.renew()


def test_two_sign_ins_at_once(lab: Lab) -> None:
    """The last one counts, and its generation comes after all that was stored meanwhile."""
    one, other = lab.signed_in("a"), lab.host("b")
    with one.store.hold(GRANT, SCOPES) as held:
        assert held.inspect()
        held.prepare()
        other.sign_in(lab.provider.sign_in())
        other.renew()
        (meanwhile,) = lab.row("generation")
        last = lab.provider.sign_in()
        held.store(minted_entry(last))

    assert meanwhile < lab.row("generation")[0]
    assert last == other.refresh_token()
    assert other.renew()


def test_a_challenge(lab: Lab) -> None:
    """What the next sign-in has to meet is known to all, and touches no claim."""
    one, other = lab.signed_in("a"), lab.host("b")
    with one.store.hold(GRANT) as held:
        entry = held.inspect()
        assert entry
        held.prepare()
        held.store(replace(entry, claims="challenge"))
        held.release()
    with other.store.hold(GRANT) as held:
        held.inspect()
        assert "challenge" == held.claims
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()
        with other.store.hold(GRANT) as there:
            there.inspect()
            there.prepare()
            there.store(replace(entry, claims="another"))
            there.release()
        held.release()
    assert (None,) == lab.row("holder")
    with one.store.hold(GRANT) as held:
        held.inspect()
        assert "challenge" == held.claims


def test_a_challenge_before_the_first_sign_in(lab: Lab) -> None:
    """There is no sign-in then, and the challenge is known."""
    one = lab.host("a")
    with one.store.hold(GRANT) as held:
        assert held.inspect() is None
        held.prepare()
        one_entry = minted_entry()
        held.store(replace(one_entry, claims="challenge"))
        held.release()

    with lab.host("b").store.hold(GRANT) as held:
        assert held.inspect() is None
        assert "challenge" == held.claims
    assert "no-sign-in" == kind(one.ask())


def minted_entry(refresh: str = "") -> Entry:
    return Entry(refresh, "", "", 0.0)


def test_refused_for_good(lab: Lab) -> None:
    """A dead token is sent once by the whole fleet, and everybody gets the same refusal."""
    one, other = lab.signed_in("a"), lab.host("b")
    lab.provider.dead.update(lab.provider.given.values())

    outcomes = [one.ask(), other.ask(), one.ask(), lab.host("c").ask()]

    assert 1 == lab.provider.asked
    assert all(isinstance(each, Refused) for each in outcomes)
    assert 1 == len({each.trouble.message for each in outcomes[1:] if isinstance(each, Refused)})
    other.sign_in(lab.provider.sign_in())
    assert one.token()


def test_refused_for_good_by_all_at_once(lab: Lab) -> None:
    """Also if they ask at the same moment."""
    lab.signed_in("a")
    lab.provider.dead.update(lab.provider.given.values())
    lab.provider.pause = 0.1
    hosts = [lab.host(f"h{number}") for number in range(5)]

    outcomes = together(len(hosts), lambda number: hosts[number].ask())

    assert 1 == lab.provider.asked
    assert all(isinstance(each, Refused) for each in outcomes)


def test_the_token_of_a_refused_sign_in(lab: Lab) -> None:
    """It is good until it ends, and whoever takes it asks at once."""
    one, other = lab.signed_in("a"), lab.host("b")
    first = one.token()
    lab.provider.dead.update(lab.provider.given.values())
    assert "refused" == kind(one.ask(mint_of(first)))

    outcome = other.ask()
    assert isinstance(outcome, Granted)
    assert (first, True) == (outcome.secret, outcome.doubtful)
    assert "refused" == kind(other.ask(mint_of(first)))


def test_wanted_by_all(lab: Lab) -> None:
    """A token that a mail server has refused is replaced once, however many hosts say so, and not again at once."""
    lab.signed_in("a")
    hosts = [lab.host(f"h{number}") for number in range(3)]
    first = hosts[0].token()
    assert [first, first] == [each.token() for each in hosts[1:]]
    lab.age(600.0)

    second = {each.token(mint_of(first), rejected=mint_of(first), wanted=True) for each in hosts}

    assert 1 == len(second)
    assert first not in second
    (mint,) = second
    assert second == {each.token(mint_of(mint), rejected=mint_of(mint), wanted=True) for each in hosts}
    assert 2 == lab.provider.asked


def test_two_scopes(lab: Lab) -> None:
    """Tokens of two scope sets are published side by side, and redeemed one after the other."""
    wide = replace(GRANT, scope_sets=(SCOPES, MORE))
    one, other = lab.signed_in("a", wide), lab.host("b")

    found = [one.service.acquire(wide, scopes, "") for scopes in (SCOPES, MORE)]
    again = [other.service.acquire(wide, scopes, "") for scopes in (SCOPES, MORE)]

    assert [each.secret for each in found if isinstance(each, Granted)] == [
        each.secret for each in again if isinstance(each, Granted)
    ]
    assert 2 == lab.provider.asked
    assert {(scopes_key(SCOPES),), (scopes_key(MORE),)} == set(lab.base.sql("SELECT scopes_key FROM cms.tokens"))


def test_a_full_disk(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed before anything is redeemed, and before the sign-in is claimed."""
    one = lab.signed_in("a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    assert "storage" == kind(one.ask())
    assert (0, None) == (lab.provider.asked, *lab.row("holder"))


def test_a_disk_that_fails_later(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database has the successor all the same."""
    one = lab.signed_in("a")
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()

        def failing(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(held._file, "write", failing)
        held.store(replace(entry, cache="successor"))

    assert "successor" == lab.host("b").refresh_token()


@pytest.mark.parametrize("how", ["cut short", "of another grant", "of an earlier generation", "of another key"])
def test_damaged_bytes(lab: Lab, how: str) -> None:
    """They are refused, whatever they are, and a new sign-in takes their place."""
    one, ben = lab.signed_in("a"), grant_of(2)
    earlier = lab.row("sealed")[0]
    one.renew()
    one.sign_in(lab.provider.sign_in(), ben)
    set_sealed = "UPDATE cms.signins SET sealed = %s WHERE grant_key = %s"
    match how:
        case "cut short":
            lab.base.sql(set_sealed, lab.row("sealed")[0][:-1], GRANT.key)
        case "of another grant":
            lab.base.sql(set_sealed, lab.row("sealed", ben)[0], GRANT.key)
        case "of an earlier generation":
            lab.base.sql(set_sealed, earlier, GRANT.key)
        case _:
            lab.base.sql(set_sealed, lab.row("sealed")[0].replace(b'"key": "', b'"key": "0'), GRANT.key)
    asked = lab.provider.asked

    assert kind(one.ask(None)) in ("vault-damaged", "locked")
    assert asked == lab.provider.asked
    if how != "of another key":
        one.sign_in(lab.provider.sign_in())
        assert one.renew()


def test_a_token_of_another_row(lab: Lab) -> None:
    """It is not handed out."""
    one, ben = lab.signed_in("a"), grant_of(2)
    one.sign_in(lab.provider.sign_in(), ben)
    first = one.token()
    one.token(grant=ben)
    lab.base.sql(
        "UPDATE cms.tokens t SET sealed = o.sealed, mint = o.mint FROM cms.tokens o "
        "WHERE t.grant_key = %s AND o.grant_key = %s",
        *(ben.key, GRANT.key),
    )

    assert first != lab.host("b").token(grant=ben)


def test_a_missing_key(lab: Lab) -> None:
    """Nothing is redeemed, and the trouble says which key."""
    lab.signed_in("a")
    (lab.folder / "fleet.key").rename(lab.folder / "away")
    outcome = lab.host("b").ask()

    assert "locked" == kind(outcome)
    assert "Fleet(key=...)" in outcome.trouble.hint if not isinstance(outcome, Granted) else False
    assert 0 == lab.provider.asked


def test_a_second_key(lab: Lab) -> None:
    """Both open what they have sealed, and the first seals what comes next."""
    one = lab.signed_in("a")
    (lab.folder / "old.key").write_bytes((lab.folder / "fleet.key").read_bytes())
    (lab.folder / "old.key").chmod(0o600)
    (lab.folder / "fleet.key").write_bytes(b"k" * 32)
    old = replace(one.fleet.keys[0], value=(str(lab.folder / "old.key"),))
    both = replace(one.fleet, keys=(*one.fleet.keys, old))
    one.fleet = both
    one.again()
    other = lab.host("b")
    other.fleet = replace(both, keys=(old,))
    other.again()

    assert one.renew()
    assert "locked" == kind(other.ask())


def test_the_same_key_twice(lab: Lab) -> None:
    """A relay could open sign-ins with the tokens' key, so that is refused."""
    host = lab.host("a")
    host.fleet = replace(host.fleet, token_keys=host.fleet.keys)
    host.again()

    assert "fleet" == kind(host.ask())


def test_no_tables(lab: Lab) -> None:
    """The trouble names the command that makes them."""
    host = lab.host("a")
    host.fleet = replace(host.fleet, schema="nowhere")
    host.again()
    outcome = host.ask()

    assert not isinstance(outcome, Granted)
    assert "fleet" == outcome.trouble.kind
    assert "cms fleet init" in outcome.trouble.hint


@pytest.mark.parametrize(("columns", "word"), [("oldest = 99", "upgrade cms"), ("version = 0", "cms fleet upgrade")])
def test_tables_of_another_version(lab: Lab, columns: str, word: str) -> None:
    """Newer ones that this cms cannot use, and older ones, are refused with what to do."""
    host = lab.signed_in("a")
    lab.base.sql(f"UPDATE cms.meta SET {columns}")
    host.again()
    outcome = host.ask()

    assert not isinstance(outcome, Granted)
    assert word in outcome.trouble.hint


def test_newer_tables_that_this_one_may_use(lab: Lab) -> None:
    """What was only added to does no harm."""
    host = lab.signed_in("a")
    lab.base.sql("UPDATE cms.meta SET version = 2")
    lab.base.sql("ALTER TABLE cms.signins ADD more text")
    host.again()

    assert host.renew()


def test_a_clock_of_the_database_that_went_back(lab: Lab) -> None:
    """As after a failover to another server: no token has more left than its whole life."""
    lab.signed_in("a").token()
    lab.age(-600.0)
    taken = lab.host("b").ask()
    assert isinstance(taken, Granted)

    assert taken.issued <= minted.now().boot


@pytest.mark.parametrize("offset", [120.0, -120.0])
def test_wrong_clocks(lab: Lab, offset: float) -> None:
    """What hosts believe of the time decides nothing: only the database's clock counts."""

    def wrong() -> Moment:
        at = minted.now()
        return replace(at, wall=at.wall + offset, boot=at.boot + 1000.0 + offset, boot_id="another")

    one, other = lab.signed_in("a"), lab.host("b", now=wrong)
    first, taken = one.ask(), other.ask()
    assert isinstance(first, Granted)
    assert isinstance(taken, Granted)

    assert first.secret == taken.secret
    assert taken.issued - wrong().boot == pytest.approx(first.issued - minted.now().boot, abs=2.0)
    assert 1 == lab.provider.asked


@pytest.mark.parametrize("offset", [120.0, -120.0])
def test_a_wrong_wall_clock_of_the_host_that_redeems(lab: Lab, offset: float) -> None:
    """The others see what is left of its token as it is, and none redeems before that is due."""

    def wrong() -> Moment:
        at = minted.now()
        return replace(at, wall=at.wall + offset)

    one, other = lab.signed_in("a", now=wrong), lab.host("b")
    first, taken = one.ask(), other.ask()
    assert isinstance(first, Granted)
    assert isinstance(taken, Granted)

    assert (first.secret, HOUR) == (taken.secret, taken.expires_in)
    assert taken.issued == pytest.approx(first.issued, abs=2.0)
    assert taken.secret == one.token()
    lab.age(0.8 * HOUR)
    assert other.token(mint_of(first.secret)) == one.token(mint_of(first.secret)) != first.secret
    assert (2, 0) == (lab.provider.asked, lab.provider.replays)


def test_a_relay(lab: Lab) -> None:
    """It serves tokens, and neither signs in nor out; when one is due, it says so and serves it on."""
    one, relay = lab.signed_in("a"), lab.host("r", relay=True)
    first = one.token()
    lab.age(600.0)

    assert first == relay.token()
    assert trouble(lambda: relay.sign_in("token")) == "relay"
    with relay.store.hold(GRANT) as held:
        assert trouble(held.delete) == "relay"
    for revoke in (False, True):
        refused = relay.service.sign_out(GRANT, revoke=revoke)
        assert isinstance(refused, Refused)
        assert ("relay", True) == (refused.trouble.kind, "has Fleet(key=...): `cms logout" in str(refused.trouble.hint))
    outcome = relay.ask(mint_of(first))
    assert isinstance(outcome, Granted)
    assert (first, 30.0) == (outcome.secret, outcome.refresh_in)
    second = one.token("")
    assert first != second == relay.token(mint_of(first))


def test_a_relay_without_a_token(lab: Lab) -> None:
    """It says that another host has to have one."""
    lab.signed_in("a")

    assert "relay" == kind(lab.host("r", relay=True).ask())


def test_the_tokens_key_opens_no_sign_in(lab: Lab) -> None:
    """A relay that gets hold of the bytes of a sign-in cannot read them."""
    lab.signed_in("a")
    host = lab.host("r")
    host.fleet = replace(host.fleet, keys=host.fleet.token_keys)
    host.again()
    with pytest.raises(Unavailable):
        host.refresh_token()


def test_a_journal_tells_of_its_grant(lab: Lab) -> None:
    """And of the generation; its file is as private as a vault's, and not among the vault's."""
    one = lab.signed_in("a")
    one.renew()
    journal = one.store.journals.find(GRANT.key)
    assert journal
    path: Path = lab.folder / "a" / "fleet" / f"{GRANT.key}.vault"

    assert (journal.lineage, journal.generation) == tuple(map(str, lab.row("lineage"))) + lab.row("generation")
    assert 0o600 == path.stat().st_mode & 0o777
    assert [] == list((lab.folder / "a").glob("*.vault"))


def test_a_state_folder_that_was_copied(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine it is another host: neither takes the other's claim for its own."""
    one = lab.signed_in("a")
    before = one.store.host
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    one.again()

    assert before != one.store.host


def test_a_reason_that_is_not_known(lab: Lab) -> None:
    """A provider without numbers: the refusal says what is known."""
    one = lab.signed_in("a")
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        held.claim()
        held.refused_for_good(Trouble("refused", "it said no", error="invalid_grant"))
        held.release()

    assert "refused" == kind(lab.host("b").ask())
    assert (None,) == lab.row("refused_number")


def test_a_row_that_says_anything(lab: Lab) -> None:
    """Who may write the database makes no token good for longer than its host has sealed, and no host's name endless."""
    one = lab.signed_in("a", access="first")
    forever = "clock_timestamp() + interval '100 years'"
    lab.base.sql(f"UPDATE cms.tokens SET life = '100 years', expires_at = {forever}, refresh_at = {forever}")
    lab.base.sql("UPDATE cms.tokens SET host = repeat(E'\\x1b\\n', 10000000)")

    for host in (one, lab.host("b", relay=True)):
        granted = host.ask()
        assert isinstance(granted, Granted)
        assert HOUR == granted.expires_in
        assert granted.refresh_in is not None
        assert granted.refresh_in <= HOUR + fleet_held._LATER[1]
        assert len(granted.sign_in.minted_by) <= MAX_HOST
        assert granted.sign_in.minted_by.isprintable()


def test_a_journal_that_the_database_refuses(lab: Lab) -> None:
    """One sign-in that cannot be brought keeps no other away, and is tried again with each new connection."""
    one, ben = lab.signed_in("a"), grant_of(2)
    one.sign_in(lab.provider.sign_in(), ben)
    lab.base.sql("ALTER TABLE cms.signins ADD CONSTRAINT small CHECK (generation < 3)")
    one.renew()
    # It is in the journal.
    one.renew()
    one.again()

    assert one.renew(ben)
    lab.base.sql("ALTER TABLE cms.signins DROP CONSTRAINT small")
    one.store.rest()
    assert one.renew(ben)
    assert (3,) == lab.row("generation")


def test_a_sign_in_that_the_database_refuses(lab: Lab) -> None:
    """A sign-in of which the person was told that it failed is not brought later."""
    one = lab.host("a")
    lab.base.sql("ALTER TABLE cms.signins ADD CONSTRAINT none CHECK (false)")
    with pytest.raises(Unavailable):
        one.sign_in(lab.provider.sign_in())
    lab.base.sql("ALTER TABLE cms.signins DROP CONSTRAINT none")
    one.again()

    assert "" == one.refresh_token()
