"""What goes wrong between cms and Entra: over real TLS, with the whole daemon, for as many hours as it takes."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
import trustme
from support.whole_daemon import ANN, BOB, HOUR, WholeDaemon, on_moving_clock, slow_clock, until, whole_daemon

from cms.core.lifecycle import SHORTEST_PAUSE, Granted, Refused
from cms.grants.messages import QUESTION_SECONDS
from cms.sandbox.entra import Entra
from cms.sandbox.faults import CLAIMS, Fault
from cms_oauth.wire import WAIT_SECONDS

# Entra's longest: after an hour of outage it is still good, after two it is not.
LONG_LIFE = 1.5 * HOUR


Strike = Callable[[Entra], AbstractContextManager[None]]


@dataclass(frozen=True)
class Outage:
    """Something that keeps Entra from answering well for a block. `kind` and `says` are what the status tells of it."""

    strike: Strike
    kind: str
    says: str


def always(kind: str, endpoint: str = "token", **more: Any) -> Strike:
    """Return what makes this fault strike at every request."""

    @contextmanager
    def strike(entra: Entra) -> Iterator[None]:
        entra.faults.add(Fault(kind, endpoint, times=None, **more))
        yield
        entra.faults.clear()

    return strike


@contextmanager
def down(entra: Entra) -> Iterator[None]:
    """Refuse connections."""
    entra.go_down()
    yield
    entra.come_up()


@contextmanager
def intercepted(entra: Entra) -> Iterator[None]:
    """Answer with another server's certificate, as a proxy that intercepts TLS does."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(theirs)
    ours = _answer_with(theirs, entra)
    yield
    _answer_with(ours, entra)


def _answer_with(context: ssl.SSLContext | None, entra: Entra) -> ssl.SSLContext | None:
    """Change the certificate; return what showed the one before."""
    entra.go_down()
    before, entra.secure.context = entra.secure.context, context
    entra.come_up()
    return before


OUTAGES = {
    "down": Outage(down, "network", "cannot be reached"),
    "intercepted": Outage(intercepted, "network", "no trusted TLS connection"),
    "reset": Outage(always("reset"), "network", "the connection broke"),
    "unavailable": Outage(always("status", status=503), "server", "HTTP 503"),
    "throttled": Outage(always("status", status=429, retry_after="30"), "throttled", "HTTP 429"),
    "portal": Outage(always("html"), "garbage", "not an identity provider"),
    "portal-everywhere": Outage(always("html", "discovery"), "garbage", "not an identity provider"),
    "truncated": Outage(always("truncated"), "garbage", "not an identity provider"),
    "answer-lost": Outage(always("reset", after=True), "network", "the connection broke"),
    "answer-truncated": Outage(always("truncated", after=True), "garbage", "not an identity provider"),
    "temporary": Outage(always("aadsts", aadsts=90033), "server", "AADSTS90033"),
}


def gaps(daemon: WholeDaemon) -> list[float]:
    """Return the seconds between each request for a refresh and the next."""
    moments = [asked.at for asked in daemon.entra.asked("token", grant_type="refresh_token")]
    return [later - earlier for earlier, later in pairwise(moments)]


@pytest.mark.parametrize("name", OUTAGES)
@on_moving_clock
async def test_outage(tmp_path: Path, name: str) -> None:
    """An outage of an hour costs no valid token; a longer one ends when Entra is back. cms reports both."""
    outage = OUTAGES[name]
    async with whole_daemon(tmp_path, life=LONG_LIFE) as daemon:
        first = await daemon.token(ANN)
        with outage.strike(daemon.entra):
            await daemon.pass_time(HOUR)

            assert first == await daemon.token(ANN)
            row = daemon.row(ANN)
            assert ("failing", True, outage.kind) == (row["state"], row["usable"], row["problem"]["kind"])
            assert outage.says in daemon.text()
            assert row["problem"]["tries"] > 1
            assert 1 == daemon.exit_code()

            await daemon.pass_time(HOUR)
            refusal = await daemon.refusal(ANN)
            assert "unavailable" == refusal["code"]
            assert outage.says in refusal["message"]
            assert refusal["hint"]
            # A request brings the next try forward.
            assert refusal["retry_after"] <= SHORTEST_PAUSE
            assert 2 == daemon.exit_code()

        await daemon.pass_time(refusal["retry_after"] + 1)
        assert first != await daemon.token(ANN)
        assert ("ok", None) == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"])
        assert 0 == daemon.exit_code()
        assert min(gaps(daemon), default=SHORTEST_PAUSE) >= SHORTEST_PAUSE


@on_moving_clock
async def test_retry_after(tmp_path: Path) -> None:
    """cms keeps to Retry-After to the second, whatever clients ask meanwhile and whatever its usual pause is."""
    async with whole_daemon(tmp_path, jitter=0.0) as daemon:
        daemon.entra.faults.add(Fault("status", status=429, retry_after="600", times=None))
        await daemon.suspend(HOUR)
        first = await daemon.refusal(ANN)

        # On a busy machine some of it may have passed.
        assert 540 <= first["retry_after"] <= 600
        for _ in range(5):
            await daemon.pass_time(100)
            await daemon.refusal(ANN)
        assert 1 == daemon.entra.count("token", grant_type="refresh_token")
        assert "throttled" == daemon.row(ANN)["problem"]["kind"]
        assert "asked for a pause" in daemon.text()

        daemon.entra.faults.clear()
        await daemon.pass_time(101)
        await daemon.token(ANN)
        assert all(gap >= 600 for gap in gaps(daemon))


@on_moving_clock
async def test_silence(tmp_path: Path) -> None:
    """A server that says nothing for 20 s is given up on; what it says later is stored, and taken at the next try."""
    # The worker that waits for the late answer stays.
    async with whole_daemon(tmp_path, idle=HOUR) as daemon:
        daemon.allow(1.0)
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        daemon.entra.faults.add(Fault("silence", seconds=20.0))
        await daemon.pass_time(0.64 * HOUR)

        assert first == await daemon.token(ANN)
        assert ("failing", "timeout") == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"]["kind"])
        assert "could not be renewed within 1 s" in daemon.text()
        assert vault == daemon.vault(ANN).read_bytes()

        await until(lambda: daemon.entra.count("token", fault="silence"), "the silence")
        daemon.entra.faults.release()
        await until(lambda: vault != daemon.vault(ANN).read_bytes(), "the late answer in the vault")
        daemon.allow(QUESTION_SECONDS)
        await daemon.pass_time(2 * SHORTEST_PAUSE)
        assert first != await daemon.token(ANN)
        assert "ok" == daemon.row(ANN)["state"]
        assert 1 == daemon.entra.count("token", grant_type="refresh_token"), "the token that came late"
        await daemon.pass_time(0.7 * HOUR)
        late, after = (asked.refresh for asked in daemon.entra.asked("token", grant_type="refresh_token"))
        assert late != after, "the successor that came late was redeemed"


@on_moving_clock
async def test_one_silent_account_delays_no_other(tmp_path: Path) -> None:
    """While one account's token does not come, another's is fetched and served; the one is refused after 4 s."""
    async with whole_daemon(tmp_path, (ANN, BOB)) as daemon:
        daemon.entra.faults.add(Fault("silence", user=ANN, times=None))
        await daemon.suspend(2 * HOUR)
        refusals: list[str] = []

        async def ask() -> None:
            refusals.append((await daemon.told(ANN))["error"]["code"])

        async with trio.open_nursery() as nursery:
            with slow_clock():
                nursery.start_soon(ask)
                await until(lambda: daemon.entra.count("token", user=ANN, fault="silence"), "ann's silence")
                await daemon.token(BOB)

            assert ([], "ok") == (refusals, daemon.row(BOB)["state"])
            daemon.awake(WAIT_SECONDS)

        assert ["unavailable"] == refusals
        daemon.entra.faults.clear()
        await daemon.settled()
        await daemon.token(ANN)


@on_moving_clock
async def test_one_refused_account_troubles_no_other(tmp_path: Path) -> None:
    """A revoked sign-in is told as one account's; the other's token is renewed as ever."""
    async with whole_daemon(tmp_path, (ANN, BOB)) as daemon:
        daemon.entra.revoke(ANN)
        bobs = await daemon.token(BOB)
        await daemon.pass_time(2 * HOUR)

        assert "sign-in-required" == (await daemon.refusal(ANN))["code"]
        assert bobs != await daemon.token(BOB)
        assert ["sign-in-required", "ok"] == [daemon.row(user)["state"] for user in (ANN, BOB)]


@dataclass(frozen=True)
class Ended:
    """Something that ends a sign-in. `says` is what the status tells of it; `looks` how often it is looked at again."""

    begin: Callable[[Entra], None]
    aadsts: int
    says: str
    looks: int = 0


ENDS = {
    "revoked": Ended(lambda entra: entra.revoke(ANN), 50173, "was revoked"),
    "mfa": Ended(lambda entra: entra.challenge(ANN), 50076, "multi-factor authentication is now required", looks=1),
    "consent": Ended(lambda entra: entra.withdraw_consent(ANN), 65001, "has consented to these permissions"),
    "unused": Ended(lambda entra: entra.revoke(ANN, 700082), 700082, "was unused for too long"),
    "policy": Ended(lambda entra: entra.revoke(ANN, 70043), 70043, "sign-in frequency policy"),
}


@pytest.mark.parametrize("name", ENDS)
@on_moving_clock
async def test_end_of_a_sign_in(tmp_path: Path, name: str) -> None:
    """A sign-in that Entra ends leaves the token its life, is told with number and command, and is made anew."""
    end = ENDS[name]
    async with whole_daemon(tmp_path) as daemon:
        first = await daemon.token(ANN)
        end.begin(daemon.entra)
        await daemon.pass_time(0.7 * HOUR)

        assert first == await daemon.token(ANN)
        row = daemon.row(ANN)
        assert ("sign-in-required", True, end.aadsts) == (row["state"], row["usable"], row["problem"]["aadsts"])
        assert row["problem"]["correlation_id"]
        assert f"`cms login {ANN}" in row["next_move"]
        for words in (end.says, f"AADSTS{end.aadsts}", row["problem"]["correlation_id"]):
            assert words in daemon.text()
        assert 1 == daemon.exit_code()

        await daemon.pass_time(HOUR)
        refusal = await daemon.refusal(ANN)
        assert ("sign-in-required", row["next_move"]) == (refusal["code"], refusal["hint"])
        assert end.says in refusal["message"]
        assert 2 == daemon.exit_code()
        asked = daemon.entra.count("token", grant_type="refresh_token")
        assert 1 + end.looks == asked, "Entra is not asked again in vain"

        assert isinstance(await daemon.sign_in(ANN), Granted)
        second = await daemon.token(ANN)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())
        await daemon.pass_time(0.7 * HOUR)
        assert second != await daemon.token(ANN), "the new sign-in is renewed as the old one was"


@on_moving_clock
async def test_a_scope_less_is_one_protocol_less(tmp_path: Path) -> None:
    """By the `scope` of Entra's answer: that protocol is refused with a code, the other has its token."""
    async with whole_daemon(tmp_path, signed_in=False) as daemon:
        daemon.entra.directory.user(ANN).withheld.add("https://outlook.office.com/IMAP.AccessAsUser.All")
        await daemon.sign_in(ANN)
        refused = json.loads(await daemon.raw(f"IMAP,json {ANN}\n".encode()))["error"]

        assert await daemon.token(ANN)
        assert b"" == await daemon.raw(f"IMAP {ANN}\n".encode())
        assert ("sign-in-required", True) == (refused["code"], "IMAP.AccessAsUser.All" in refused["message"])
        assert "does not cover IMAP, which the configuration asks for" in daemon.text()
        assert isinstance(await daemon.token(ANN), str), "the other still goes on"


@on_moving_clock
async def test_a_protocol_that_comes_back_while_entra_is_down(tmp_path: Path) -> None:
    """Nobody has refused it: it has Entra's trouble and pause, status asks no person for anything; then it has its token."""
    async with whole_daemon(tmp_path) as daemon:
        config = tmp_path / "cms.cfg"
        whole = config.read_text()
        for text in (whole.replace('"SMTP", "IMAP"', '"SMTP"'), whole):
            config.write_text(text)
            assert (await daemon.app.commands.reload()).ok
            await daemon.pass_time(5)
            daemon.entra.faults.add(Fault("status", status=503, retry_after="1200", times=None))
        refused = json.loads(await daemon.raw(f"IMAP,json {ANN}\n".encode()))["error"]

        assert await daemon.token(ANN)
        assert ("unavailable", True) == (refused["code"], "HTTP 503" in refused["message"])
        assert 1100 < refused["retry_after"] <= 1200
        assert ("failing", False) == (daemon.row(ANN)["state"], "cms login" in daemon.text())
        daemon.entra.faults.clear()
        await daemon.pass_time(1201)
        assert "token" in json.loads(await daemon.raw(f"IMAP,json {ANN}\n".encode()))


@pytest.mark.parametrize("number", [50076, 50097, 53003, 53011])
@on_moving_clock
async def test_a_refusal_by_location_device_or_risk(tmp_path: Path, number: int) -> None:
    """It ends by itself: half an hour later, or a minute after the network has changed; never more often than six a day."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.faults.add(Fault("aadsts", aadsts=number, times=None))
        await daemon.pass_time(1.1 * HOUR)
        refusal, asked = await daemon.refusal(ANN), daemon.entra.count("token")
        assert ("sign-in-required", f"AADSTS{number}" in refusal["message"]) == (refusal["code"], True)
        assert 0 < refusal["retry_after"] <= HOUR
        assert "or wait: cms asks again by itself" in daemon.text()

        for _ in range(10):
            daemon.app.registry.wake()
            await daemon.pass_time(61.0)
        looks = daemon.entra.count("token") - asked
        await daemon.pass_time(12 * HOUR)
        assert looks == daemon.entra.count("token") - asked <= 6
        planned = daemon.row(ANN)["problem"]["retry_in"]
        assert HOUR < planned <= 24 * HOUR

        daemon.entra.faults.clear()
        await daemon.pass_time(planned + 5.0)
        assert ("ok", True) == (daemon.row(ANN)["state"], bool(await daemon.token(ANN)))


@on_moving_clock
async def test_claims_are_carried_into_the_next_sign_in(tmp_path: Path) -> None:
    """The challenge that came with AADSTS50076 is in the next authorize request, and in no later one."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.challenge(ANN)
        await daemon.pass_time(0.7 * HOUR)
        await daemon.sign_in(ANN)
        await daemon.sign_in(ANN)
        asked = [parse_qs(urlsplit(link).query).get("claims", ["{}"])[0] for link in daemon.links]

        assert [{}, json.loads(CLAIMS), {}] == [json.loads(claims) for claims in asked]
        assert "" == daemon.entra.directory.user(ANN).challenge, "the sandbox has seen it"


@on_moving_clock
async def test_a_refused_account_is_tried_once_when_its_owner_says_so(tmp_path: Path) -> None:
    """`cms refresh` recovers from a refusal that its cause has left: here a challenge that was withdrawn."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.challenge(ANN)
        await daemon.pass_time(0.7 * HOUR)
        still = await daemon.app.commands.refresh(ANN)
        daemon.entra.directory.user(ANN).challenge = ""
        mended = await daemon.app.commands.refresh(ANN)

        assert (False, True) == (still.ok, mended.ok)
        assert "AADSTS50076" in still.message
        assert "ok" == daemon.row(ANN)["state"]


@on_moving_clock
async def test_the_wrong_person_signs_in(tmp_path: Path) -> None:
    """A sign-in by the wrong person is refused with both names, and the right person's sign-in stays."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.add_user(BOB)
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        outcome = await daemon.sign_in(ANN, as_user=BOB)

        assert isinstance(outcome, Refused)
        assert "wrong-user" == outcome.trouble.kind
        assert all(name in outcome.trouble.message for name in (ANN, BOB))
        assert (first, vault) == (await daemon.token(ANN), daemon.vault(ANN).read_bytes())
        assert "ok" == daemon.row(ANN)["state"]


@on_moving_clock
async def test_every_rotated_token_is_stored_before_it_is_served(tmp_path: Path) -> None:
    """Each refresh redeems the last one's successor, which is in the vault by the time the access token is served."""
    async with whole_daemon(tmp_path) as daemon:
        vaults, tokens = [daemon.vault(ANN).read_bytes()], [await daemon.token(ANN)]
        for _ in range(3):
            await daemon.pass_time(0.64 * HOUR)
            vaults.append(daemon.vault(ANN).read_bytes())
            tokens.append(await daemon.token(ANN))
        redeemed = [asked.refresh for asked in daemon.entra.asked("token", grant_type="refresh_token")]

        assert (4, 4, 3) == (len(set(vaults)), len(set(tokens)), len(set(redeemed)))


@on_moving_clock
async def test_a_refresh_token_that_stays_is_kept(tmp_path: Path) -> None:
    """A provider that rotates nothing is redeemed with the same refresh token again and again."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.rotate = False
        await daemon.pass_time(2 * HOUR)
        await daemon.token(ANN)
        redeemed = [asked.refresh for asked in daemon.entra.asked("token", grant_type="refresh_token")]

        assert len(redeemed) > 1
        assert 1 == len(set(redeemed))


@on_moving_clock
async def test_an_answer_that_is_lost_costs_nothing_where_reuse_works(tmp_path: Path) -> None:
    """When the answer with the successor never arrives, the old refresh token works again, as Entra documents."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.faults.add(Fault("reset", after=True))
        await daemon.pass_time(0.7 * HOUR)
        await daemon.token(ANN)
        lost, again = (asked.refresh for asked in daemon.entra.asked("token", grant_type="refresh_token"))

        assert lost == again
        assert "ok" == daemon.row(ANN)["state"]


@on_moving_clock
async def test_an_answer_that_is_lost_where_reuse_is_refused(tmp_path: Path) -> None:
    """Where a refresh token works once, a lost answer ends in sign-in-required with that reason, and no worse."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.refuse_reuse = True
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        daemon.entra.faults.add(Fault("reset", after=True))
        await daemon.pass_time(0.7 * HOUR)

        assert first == await daemon.token(ANN)
        assert ("sign-in-required", "reused") == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"]["kind"])
        assert "most likely because it was used before" in daemon.text()
        assert vault == daemon.vault(ANN).read_bytes(), "the vault file is whole: the old one"
        assert isinstance(await daemon.sign_in(ANN), Granted)
        await daemon.pass_time(HOUR)
        assert first != await daemon.token(ANN)
