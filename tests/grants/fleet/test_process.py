"""Workers of a fleet as processes, as the daemon starts them, against the sandbox's Entra."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from support.fleet import Lab, mint_of
from support.grants import SCOPES, Process, grant_for, kind, opened, process

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted
from cms.grants.messages import Acquire, Open
from cms.sandbox.entra import Entra


def ask(worker: Process, grant: Grant, held: str = "") -> Granted:
    """Return a token, as a daemon asks for one that holds this one."""
    broker = worker.broker
    broker.send(Acquire(broker.number(), grant, SCOPES, held and mint_of(held)))
    outcome = broker.done()
    assert isinstance(outcome, Granted), outcome
    return outcome


@pytest.fixture
def first(lab: Lab, entra: Entra, tmp_path: Path) -> Open:
    return opened(tmp_path / "one" / "state", entra, fleet=lab.base.fleet(tmp_path))


def test_two_hosts_and_a_relay(lab: Lab, entra: Entra, first: Open, tmp_path: Path) -> None:
    """A sign-in at one serves all, a renewal at one is the token of all, and all hear of a sign-out."""
    grant = grant_for(entra)
    relay = opened(tmp_path / "relay" / "state", entra, fleet=lab.base.fleet(tmp_path, relay=True))
    other = opened(tmp_path / "other" / "state", entra, fleet=lab.base.fleet(tmp_path))
    with ExitStack() as stack:
        here, there, serving = (stack.enter_context(process(each)) for each in (first, other, relay))
        for each, expected in ((here, "no-sign-in"), (there, "no-sign-in"), (serving, "relay")):
            assert expected == kind(each.broker.acquire(grant))

        assert "granted" == kind(here.broker.sign_in(grant, entra))
        assert [(grant.key,)] * 2 == [each.broker.heard() for each in (there, serving)]
        token = ask(there, grant)
        assert token.secret == ask(serving, grant).secret == ask(here, grant).secret
        newer = ask(there, grant, token.secret)
        assert token.secret != newer.secret == ask(serving, grant, token.secret).secret
        assert newer.secret == ask(here, grant, token.secret).secret
        assert newer.sign_in.shared
        assert "granted" == kind(there.broker.sign_out(grant))
        assert [(grant.key,)] * 2 == [each.broker.heard() for each in (there, serving)]

        for each, expected in ((there, "no-sign-in"), (serving, "relay")):
            assert expected == kind(each.broker.acquire(grant))
        assert "" == serving.end()[1]


def test_without_a_fleet_its_library_is_not_loaded(first: Open, entra: Entra) -> None:
    """A worker of one host pays nothing for it."""

    def maps(worker: Process) -> str:
        worker.broker.acquire(grant_for(entra))
        return Path(f"/proc/{worker.pid}/maps").read_text()

    alone = opened(Path(first.state_folder).parent / "alone", entra)
    with process(alone) as one, process(first) as member:
        found = [("psycopg" in maps(each), "libpq" in maps(each)) for each in (one, member)]

    assert [(False, False), (True, True)] == found
