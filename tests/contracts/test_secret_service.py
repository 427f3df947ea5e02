"""The desktop's keyring, proved against a real Secret Service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.desktop import Desktop
from support.grants import ANN, grant_for, process
from support.waiting import until

from cms.core.lifecycle import Granted, Transient
from cms.grants.messages import Open
from cms.grants.secret_sources import Absent, Locked
from cms.grants.vault.keyring import Keyring, Patience, key_id
from cms.grants.vault.keys import Keys
from cms.sandbox.entra import Entra


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    folder = tmp_path / "desktop"
    folder.mkdir()
    session = Desktop(folder)
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)
    yield session
    session.stop()


def ring() -> Keyring:
    return Keyring(patience=Patience(20.0))


def test_unlocked(desktop: Desktop) -> None:
    """A key made in an unlocked keyring is found by the next process."""
    desktop.start_keyring()
    secret = ring().make()

    assert secret == ring().find(key_id(secret))


def test_locked(desktop: Desktop) -> None:
    """A locked keyring is said to be locked: no prompt appears, which would be waited for."""
    desktop.start_keyring()
    secret = ring().make()
    desktop.lock()

    for call in (ring().make, lambda: ring().find(key_id(secret))):
        with pytest.raises(Locked, match=r"^is locked$"):
            call()


def test_never_unlocked(desktop: Desktop) -> None:
    """A keyring that has no collection yet would ask a person for a password: that is locked as well."""
    desktop.start_keyring(password=None)

    with pytest.raises(Locked, match="no default collection"):
        ring().make()


def test_restarted(desktop: Desktop) -> None:
    """A key outlives the service that keeps it, and one `Keyring` sees the service go and come back."""
    desktop.start_keyring()
    seen = ring()
    secret = seen.make()
    desktop.stop_keyring()
    with pytest.raises(Absent, match="is not there"):
        seen.find(key_id(secret))
    desktop.start_keyring()

    assert secret == seen.find(key_id(secret))


def test_late(desktop: Desktop) -> None:
    """A service that starts after the first look is seen: keyring's own detection would miss it for ever."""
    seen = ring()
    with pytest.raises(Absent):
        seen.make()
    desktop.start_keyring()

    assert seen.make()


def test_hanging(desktop: Desktop) -> None:
    """A service that does not answer is given up on, and asked again once it answers."""
    desktop.start_keyring()
    secret = ring().make()
    hasty = Keyring(patience=Patience(0.3))
    desktop.freeze(frozen=True)
    with pytest.raises(Locked, match="it may be waiting for a person"):
        hasty.find(key_id(secret))
    desktop.freeze(frozen=False)

    def found() -> bytes:
        with suppress(Locked):
            return hasty.find(key_id(secret))
        return b""

    assert secret == until(found, "an answer of the keyring")


def test_two_state_folders(desktop: Desktop) -> None:
    """Two vaults that share a keyring do not overwrite each other's key."""
    desktop.start_keyring()
    first, second = Keys(None, environ={}).make(), Keys(None, environ={}).make()

    assert first is not None
    assert second is not None
    assert [first, second] == [Keys(None, environ={}).find(key.id) for key in (first, second)]


class TestWorker:
    """The worker process on that desktop."""

    @pytest.fixture
    def entra(self) -> Iterator[Entra]:
        with Entra([ANN]) as running:
            yield running

    def opened(self, tmp_path: Path, entra: Entra) -> Open:
        return Open(str(tmp_path / "state"), ca=entra.ca_file)

    def test_locked_and_unlocked(self, desktop: Desktop, tmp_path: Path, entra: Entra) -> None:
        """While the keyring is locked nothing is lost, and the same process goes on when it is unlocked again."""
        grant, first = grant_for(entra), self.opened(tmp_path, entra)
        desktop.start_keyring()
        with process(first, environment=desktop.environment) as worker:
            signed_in = worker.broker.sign_in(grant, entra)
            assert isinstance(signed_in, Granted)
            assert signed_in.sign_in.persisted
            assert "keyring" == signed_in.sign_in.key_from
        desktop.lock()

        # Any other worker would be gone between two questions.
        with process(replace(first, idle=0.001), environment=desktop.environment) as worker:
            refused = worker.broker.acquire(grant)
            assert isinstance(refused, Transient)
            assert "locked" == refused.trouble.kind
            assert "keyring is locked" in refused.trouble.message
            desktop.stop_keyring()
            desktop.start_keyring()
            until(lambda: isinstance(worker.broker.acquire(grant), Granted), "the keyring unlocked")
            assert worker.popen.poll() is None

    def test_gone(self, desktop: Desktop, tmp_path: Path, entra: Entra) -> None:
        """With the keyring gone, the vault counts as locked; no second key is made and nothing is kept in memory."""
        grant, first = grant_for(entra), self.opened(tmp_path, entra)
        desktop.start_keyring()
        with process(first, environment=desktop.environment) as worker:
            assert isinstance(worker.broker.sign_in(grant, entra), Granted)
        desktop.stop_keyring()
        before = {path.name: path.read_bytes() for path in (tmp_path / "state").glob("*.vault")}

        for question in ("acquire", "sign_in"):
            with process(first, environment=desktop.environment) as worker:
                outcome = worker.broker.acquire(grant) if question == "acquire" else worker.broker.sign_in(grant, entra)
                assert isinstance(outcome, Transient)
                assert "locked" == outcome.trouble.kind
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "state").glob("*.vault")}
        assert 0 == entra.count("token", grant_type="refresh_token")
