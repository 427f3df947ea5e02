"""The worker remembers when sign-ins were given and how they ended, and tells the daemon with each token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.grants import ANN, Broker, dispatched, opened

from cms.core.accounts import Grant, Source
from cms.core.forecast import REMEMBERED
from cms.core.lifecycle import Ending, Granted, Outcome, Refused, Transient
from cms.grants.vault.entry_file import NONCE_BYTES, Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.sandbox.entra import Entra
from cms.sandbox.faults import Fault

FREQUENCY, IDLE, NO_CONSENT = 70043, 700082, 65001


@pytest.fixture(params=["file", "memory"])
def worker(request: pytest.FixtureRequest, entra: Entra, tmp_path: Path) -> Iterator[Broker]:
    """A worker that keeps sign-ins in files, and one that keeps them in memory."""
    key = Source("memory") if request.param == "memory" else Source("file", (str(tmp_path / "vault.key"),))
    with dispatched(opened(tmp_path / "state", entra, key=key)) as broker:
        yield broker


def granted(outcome: Outcome) -> Granted:
    assert isinstance(outcome, Granted), outcome
    return outcome


def test_a_token_says_when_its_sign_in_was_given(worker: Broker, entra: Entra, grant: Grant) -> None:
    """The same moment with every renewal: what is renewed is the token, not the sign-in."""
    before = time.time()
    first = granted(worker.sign_in(grant, entra))
    renewed = granted(worker.acquire(grant))

    assert before <= first.sign_in.given_at <= time.time()
    assert (first.sign_in.given_at, ()) == (renewed.sign_in.given_at, renewed.sign_in.endings)


def test_an_ending_is_carried_into_the_next_sign_in(worker: Broker, entra: Entra, grant: Grant) -> None:
    """However often its refusal is repeated, a sign-in ends once, when that was first noticed."""
    first = granted(worker.sign_in(grant, entra))
    entra.revoke(ANN, FREQUENCY)
    ended = time.time()
    assert [True] * 3 == [isinstance(worker.acquire(grant), Refused) for _ in range(3)]
    second = granted(worker.sign_in(grant, entra))

    (ending,) = second.sign_in.endings
    assert (first.sign_in.given_at, FREQUENCY) == (ending.given_at, ending.aadsts)
    assert ended <= ending.ended_at <= second.sign_in.given_at
    assert second.sign_in.endings == granted(worker.acquire(grant)).sign_in.endings


def test_memory_has_an_end(worker: Broker, entra: Entra, grant: Grant) -> None:
    """A year of weekly sign-ins leaves the last few."""
    for _ in range(REMEMBERED + 2):
        last = granted(worker.sign_in(grant, entra))
        entra.revoke(ANN, FREQUENCY)
        worker.acquire(grant)

    assert REMEMBERED == len(last.sign_in.endings)


def test_a_refusal_that_is_no_ending_is_not_remembered(worker: Broker, entra: Entra, grant: Grant) -> None:
    """What the sign-in's age has nothing to do with says nothing of the next."""
    worker.sign_in(grant, entra)
    entra.revoke(ANN, NO_CONSENT)
    assert isinstance(worker.acquire(grant), Refused)

    assert () == granted(worker.sign_in(grant, entra)).sign_in.endings


def test_a_sign_in_that_was_idle_for_too_long_is_remembered(worker: Broker, entra: Entra, grant: Grant) -> None:
    """An ending by 90 days of idleness, too."""
    worker.sign_in(grant, entra)
    entra.revoke(ANN, IDLE)
    worker.acquire(grant)

    assert [IDLE] == [each.aadsts for each in granted(worker.sign_in(grant, entra)).sign_in.endings]


def test_a_failure_says_what_is_known_of_the_sign_in(worker: Broker, entra: Entra, grant: Grant) -> None:
    """When it was given and last redeemed, and how those before it ended: a daemon that has just started has no more."""
    worker.sign_in(grant, entra)
    entra.revoke(ANN, FREQUENCY)
    worker.acquire(grant)
    given = granted(worker.sign_in(grant, entra))
    before = time.time()
    worker.acquire(grant)
    renewed = time.time()
    entra.faults.add(Fault("status"))
    failed = worker.acquire(grant)

    assert isinstance(failed, Transient), failed
    assert (given.sign_in.given_at, given.sign_in.endings) == (failed.sign_in.given_at, failed.sign_in.endings)
    assert before <= failed.sign_in.redeemed_at <= renewed


def test_a_new_sign_in_counts_as_redeemed(worker: Broker, entra: Entra, grant: Grant) -> None:
    """It has given a token."""
    given = granted(worker.sign_in(grant, entra)).sign_in.given_at
    entra.faults.add(Fault("status"))
    failed = worker.acquire(grant)

    assert isinstance(failed, Transient), failed
    assert given == failed.sign_in.redeemed_at


@pytest.mark.parametrize("method", ["browser", "device"])
def test_a_challenge_is_met_by_the_next_sign_in_of_any_process(
    worker: Broker, entra: Entra, grant: Grant, method: str
) -> None:
    """`cms login` without a daemon has not heard the refusal; the sign-in that meets it ends it."""
    entra.device_interval = 1
    worker.sign_in(grant, entra)
    entra.challenge(ANN)
    refused = worker.acquire(grant)
    assert isinstance(refused, Refused), refused
    assert refused.trouble.claims

    granted(worker.sign_in(grant, entra, method=method))
    granted(worker.acquire(grant))


def test_a_challenge_of_a_sign_in_is_kept_as_well(worker: Broker, entra: Entra, grant: Grant) -> None:
    """What a sign-in was refused with, the next one carries, even if others of the person's were refused meanwhile."""
    worker.sign_in(grant, entra)
    entra.challenge(ANN)
    refused = worker.sign_in(grant, entra)
    assert isinstance(refused, Refused), refused
    entra.faults.add(Fault("aadsts", aadsts=53003))
    again = worker.sign_in(grant, entra)
    assert isinstance(again, Refused), again
    assert "" == again.trouble.claims
    # The sandbox took it for met with that; for a policy it is not.
    entra.challenge(ANN)

    granted(worker.sign_in(grant, entra))


def test_the_very_first_sign_in_meets_its_challenge(tmp_path: Path, entra: Entra, grant: Grant) -> None:
    """Before the first sign-in too, the next worker knows what was demanded."""
    for end in (Refused, Granted):
        entra.challenge(ANN)
        with dispatched(opened(tmp_path / "state", entra)) as worker:
            assert isinstance(worker.sign_in(grant, entra), end)
            if end is Refused:
                missing = worker.acquire(grant)

    assert isinstance(missing, Refused), missing
    assert "no-sign-in" == missing.trouble.kind


def test_a_damaged_file_is_not_replaced_by_a_challenge(
    worker: Broker, entra: Entra, grant: Grant, tmp_path: Path
) -> None:
    """Only a sign-in replaces it."""
    worker.sign_in(grant, entra)
    for path in (tmp_path / "state").glob("*.vault"):
        path.write_bytes(path.read_bytes()[:-1])
    before = [(path.name, path.read_bytes()) for path in (tmp_path / "state").glob("*.vault*")]
    entra.challenge(ANN)

    assert isinstance(worker.sign_in(grant, entra), Refused)
    assert before == [(path.name, path.read_bytes()) for path in (tmp_path / "state").glob("*.vault*")]


def test_a_logout_forgets(worker: Broker, entra: Entra, grant: Grant) -> None:
    """A logout leaves nothing behind, not even how long sign-ins lived."""
    worker.sign_in(grant, entra)
    entra.revoke(ANN, FREQUENCY)
    worker.acquire(grant)
    worker.sign_out(grant)

    assert () == granted(worker.sign_in(grant, entra)).sign_in.endings


class TestFiles:
    @pytest.fixture
    def first(self, tmp_path: Path, entra: Entra) -> Iterator[Broker]:
        with dispatched(opened(tmp_path / "state", entra)) as broker:
            yield broker

    def test_a_worker_that_comes_later_knows_it(
        self, first: Broker, entra: Entra, grant: Grant, tmp_path: Path
    ) -> None:
        """It is in the vault file."""
        first.sign_in(grant, entra)
        entra.revoke(ANN, FREQUENCY)
        first.acquire(grant)
        with dispatched(opened(tmp_path / "state", entra)) as second:
            last = granted(second.sign_in(grant, entra))

        assert [FREQUENCY] == [each.aadsts for each in last.sign_in.endings]

    def test_what_was_cut_off_has_no_ending(self, first: Broker, entra: Entra, grant: Grant, tmp_path: Path) -> None:
        """A refusal after a redemption that was cut off may be the price of that."""
        first.sign_in(grant, entra)
        mark = tmp_path / "state" / f"{grant.key}.redeeming"
        mark.touch()
        entra.revoke(ANN, FREQUENCY)
        assert isinstance(first.acquire(grant), Refused)
        mark.unlink()

        assert () == granted(first.sign_in(grant, entra)).sign_in.endings

    def test_a_disk_that_takes_nothing_loses_a_forecast(
        self, first: Broker, entra: Entra, grant: Grant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The refusal is told all the same."""

        def full(*_args: object, **_more: object) -> None:
            raise OSError(28, "No space left on device")

        first.sign_in(grant, entra)
        entra.revoke(ANN, FREQUENCY)
        with monkeypatch.context() as patched:
            patched.setattr("cms.grants.vault.entry_file.EntryFile.write", full)
            refused = first.acquire(grant)

        assert isinstance(refused, Refused)
        assert FREQUENCY == refused.trouble.aadsts
        assert () == granted(first.sign_in(grant, entra)).sign_in.endings

    def test_a_disk_that_takes_nothing_loses_a_challenge(
        self, first: Broker, entra: Entra, grant: Grant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """The refusal is told all the same, nothing is left behind, and what was stored is whole."""

        def full(*_args: object, **_more: object) -> None:
            raise OSError(28, "No space left on device")

        first.sign_in(grant, entra)
        entra.challenge(ANN)
        with monkeypatch.context() as patched:
            patched.setattr("cms.grants.vault.entry_file.EntryFile.write", full)
            refused = first.sign_in(grant, entra)

        assert isinstance(refused, Refused), refused
        assert refused.trouble.claims
        assert [] == list((tmp_path / "state").glob("*.redeeming"))
        entra.directory.user(ANN).challenge = ""
        granted(first.acquire(grant))

    def test_what_was_cut_off_stays_known(self, first: Broker, entra: Entra, grant: Grant, tmp_path: Path) -> None:
        """A challenge is not worth the mark that explains a refusal later."""
        first.sign_in(grant, entra)
        mark = tmp_path / "state" / f"{grant.key}.redeeming"
        mark.touch()
        entra.challenge(ANN)
        refused = first.sign_in(grant, entra)

        assert isinstance(refused, Refused), refused
        assert mark.exists()

    def test_a_provider_that_rotates_nothing_is_written_of_too(
        self, first: Broker, entra: Entra, grant: Grant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its token is kept, and when it was last redeemed."""
        entra.rotate = False
        first.sign_in(grant, entra)
        path = tmp_path / "state" / f"{grant.key}.vault"
        granted(first.acquire(grant))
        now = time.time() + 25 * 60 * 60
        with monkeypatch.context() as patched:
            patched.setattr("cms.grants.service.time.time", lambda: now)
            granted(first.acquire(grant))
        marked = path.with_suffix(".redeeming").exists()
        entra.faults.add(Fault("status"))
        failed = first.acquire(grant)

        assert isinstance(failed, Transient), failed
        assert not marked
        assert now == failed.sign_in.redeemed_at


KEPT = Entry("{}", "oid.tid", ANN, 1_700_000_000.0)


def rewrite(vault: Vault, kept: dict[str, object]) -> None:
    """Put other contents into the vault file, under its own header and key."""
    path = vault.folder.path / f"{GRANT.key}.vault"
    head = path.read_bytes().partition(b"\n")[0] + b"\n"
    key = vault.key.keys.need(json.loads(head)["key"])
    nonce = bytes(NONCE_BYTES)
    clear = json.dumps({"entry": kept, "tokens": []}).encode()
    path.write_bytes(head + nonce + AESGCM(key.secret).encrypt(nonce, clear, head))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A vault that holds one sign-in."""
    made = Vault(str(tmp_path / "state"), Keys(Source("file", (str(tmp_path / "key"),)), environ={}))
    with made.hold(GRANT) as held:
        held.prepare()
        held.store(KEPT)
    return made


GRANT = Grant("https://login.test/common", "client", ANN)


def test_files_of_earlier_versions_load(vault: Vault) -> None:
    """A file that says nothing of endings is as good as ever."""
    old = {name: value for name, value in asdict(KEPT).items() if name != "endings"}
    rewrite(vault, old)

    with vault.hold(GRANT) as held:
        assert KEPT == held.read()


def test_endings_come_back_as_they_were(vault: Vault) -> None:
    """What JSON makes of them is made good."""
    endings = (Ending(1.0, 2.0, FREQUENCY), Ending(3.0, 4.0))
    rewrite(vault, {**asdict(KEPT), "endings": [asdict(each) for each in endings]})

    with vault.hold(GRANT) as held:
        entry = held.read()
    assert entry
    assert endings == entry.endings
