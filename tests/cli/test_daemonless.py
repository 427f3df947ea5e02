"""Signing in and out without a daemon."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cms.cli.client import Remote
from cms.cli.daemonless import credential_ends, daemonless, explored, fleet_work
from cms.cli.failure import Failure
from cms.config.model import Config
from cms.core.accounts import Account, Fleet, Grant, Source
from cms.core.policy import Unmapped
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import WORKER_ARGV
from cms.grants.messages import FleetWork
from cms.system import users
from cms.system.state_lock import NotOurs, claimed

FAKE = str(Path(__file__).parent.parent / "support" / "fake_worker.py")
SCOPES = ("https://outlook.office.com/SMTP.Send",)


def account(user: str, sign_in: str = "paste") -> Account:
    grant = Grant("https://login.example.test/common", "client", user, (SCOPES,), sign_in=sign_in)
    return Account(user, grant, {"SMTP": SCOPES})


@contextmanager
def alone(folder: Path, *accounts: Account) -> Iterator[Remote]:
    config = Config("cms.cfg", accounts or (account("good@example.test"),), (), None, None, ())
    with daemonless(config, str(folder / "state"), argv=[sys.executable, FAKE]) as remote:
        yield remote


@contextmanager
def keyless(folder: Path) -> Iterator[Remote]:
    """Yield a connection with the real worker behind it, which has no place for a key."""
    config = Config("cms.cfg", (account("good@example.test"),), (), Source("memory"), None, ())
    with daemonless(config, str(folder / "state")) as remote:
        yield remote


def signed_in(remote: Remote, **asked: Any) -> dict[str, Any]:
    """Sign in by pasting; return the end."""
    remote.send({"command": "login", **asked})
    event = remote.receive()
    if event["event"] == "prompt":
        remote.send({"pasted": "http://x.test/?code=good&state=s"})
        event = remote.receive()
    return event


def test_a_sign_in_is_made_and_kept(tmp_path: Path) -> None:
    """The worker is started, asked, and stores; the answer is the daemon's own."""
    with alone(tmp_path) as remote:
        end = signed_in(remote, user="GOOD@example.test", method="paste")

    assert (True, True) == (end["ok"], end["persisted"])
    assert "eyJ" not in json.dumps(end)


def test_the_page_is_nobodys_where_the_users_number_stands_for_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace other users' browsers may have this user's number: the daemon's page refuses them, and so this one."""
    owners = list[int]()

    class Noting(SignIns):
        def __init__(self, *parts: Any, owner: int, **more: Any) -> None:
            owners.append(owner)
            super().__init__(*parts, owner=owner, **more)

    monkeypatch.setattr("cms.cli.daemonless.SignIns", Noting)
    assert signed_in_alone(tmp_path / "usual")
    monkeypatch.setattr(users, "unmapped", lambda: Unmapped(os.geteuid(), None))
    assert signed_in_alone(tmp_path / "namespace")

    assert [os.geteuid(), -1] == owners


def signed_in_alone(folder: Path) -> bool:
    """Sign in without a daemon, in a new state folder; return whether that went well."""
    folder.mkdir()
    with alone(folder) as remote:
        return bool(signed_in(remote)["ok"])


def test_the_accounts_own_way_is_taken_when_none_is_named(tmp_path: Path) -> None:
    """sign_in= of the configuration."""
    with alone(tmp_path) as remote:
        end = signed_in(remote)

    assert end["ok"]


def test_a_sign_in_that_could_not_be_saved_does_not_begin(tmp_path: Path) -> None:
    """A sign-in in memory ends with this command: cms says so before the person signs in, with the next move."""
    with keyless(tmp_path) as remote:
        remote.send({"command": "login"})
        end = remote.receive()

    assert ("done", False) == (end["event"], end["ok"])
    assert "could not be saved" in end["message"]
    assert "Vault(key=" in end["hint"]
    assert "start again: `cms login good@example.test`" in end["hint"]


def test_a_sign_in_that_fails_says_why(tmp_path: Path) -> None:
    """An end before the prompt is the end."""
    with alone(tmp_path, account("refused@example.test")) as remote:
        end = signed_in(remote)

    assert (False, "no") == (end["ok"], end["message"])


def test_an_import_is_made_and_kept(tmp_path: Path) -> None:
    """`cms import` needs no daemon either."""
    with alone(tmp_path) as remote:
        end = remote.ask("import", user="", path="/f")

    assert (True, True) == (end["ok"], end["persisted"])


def test_an_import_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    """cms refuses it, like a sign-in."""
    with keyless(tmp_path) as remote:
        end = remote.ask("import", user="", path="/f")

    assert not end["ok"]
    assert "could not be saved" in end["message"]


def test_a_sign_out_deletes(tmp_path: Path) -> None:
    """`cms logout` needs no daemon either."""
    with alone(tmp_path) as remote:
        end = remote.ask("logout")

    assert end["ok"]
    assert "good@example.test: signed out, and the stored sign-in deleted" == end["message"]
    assert "no way to revoke a single token" in end["hint"]


def mailbox(user: str, login: str, client: str = "client") -> Account:
    """A mailbox for which another person signs in."""
    grant = Grant("https://login.example.test/common", client, login, (SCOPES,), sign_in="paste")
    return Account(user, grant, {"SMTP": SCOPES})


@pytest.mark.parametrize("command", ["status", "refresh", "reload", "stop"])
def test_nothing_else_can_be_done_without_a_daemon(tmp_path: Path, command: str) -> None:
    """Those need the real one."""
    with alone(tmp_path) as remote:
        assert "no daemon is running" == remote.ask(command)["message"]


def test_a_daemon_that_holds_the_state_is_not_bypassed(tmp_path: Path) -> None:
    """Two processes never redeem one grant."""
    with claimed(str(tmp_path / "state")), pytest.raises(NotOurs), alone(tmp_path):
        raise AssertionError("never came so far")


def test_giving_up_ends_everything(tmp_path: Path) -> None:
    """Ctrl-C at the prompt leaves no process and no lock."""
    with alone(tmp_path) as remote:
        remote.send({"command": "login"})
        remote.receive()

    with claimed(str(tmp_path / "state")):
        assert (tmp_path / "state" / "closed").exists()


def conversed(remote: Remote, command: str, answer: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Give a command that asks once; return its end."""
    event = remote.ask(command, **fields)
    while event["event"] != "done":
        if event["event"] != "told":
            remote.send(answer)
        event = remote.receive()
    return event


def test_an_export_needs_no_daemon(tmp_path: Path) -> None:
    """The text comes over the same conversation."""
    with alone(tmp_path) as remote:
        end = conversed(remote, "export", {"password": "correct horse"}, users=[])

    assert (True, "exported: good@example.test", "sealed") == (end["ok"], end["message"], end["export"])


def test_what_a_newer_cms_has_stored_is_left_alone(tmp_path: Path) -> None:
    """No command of an older one replaces, moves or deletes it; each says so, with the way out."""
    ours, state = account("good@example.test"), tmp_path / "state"
    config = Config("cms.cfg", (ours,), (), Source("file", (str(tmp_path / "key"),)), None, ())
    state.mkdir(mode=0o700)
    raw = b'{"format": "cms-vault", "version": 1000, "and": "more"}\nsealed'
    files = [state / f"{grant.key}.vault" for grant in (ours.grant, Grant("https://login.example.test", "gone", "x"))]
    for path in files:
        path.write_bytes(raw)
    (tmp_path / "msalcache").write_text("{}")
    asked: dict[str, dict[str, Any]] = {
        "login": {"method": "paste"},
        "logout": {},
        "leave": {"yes": True},
        "import": {"user": "", "path": str(tmp_path / "msalcache")},
        "export": {"users": []},
        "prune": {"yes": True},
    }
    for command, fields in asked.items():
        with daemonless(config, str(state)) as remote:
            end = conversed(remote, command, {"password": "correct horse"}, **fields)
        said = " was written by a newer cms " in end["message"], "install that cms again, or a later one" in end["hint"]
        assert (command, False, (True, True)) == (command, end["ok"], said), end

    assert [raw, raw] == [path.read_bytes() for path in files]
    assert [] == [*state.glob("*.damaged-*"), *state.glob("*.redeeming")]


@pytest.mark.parametrize(("url", "expected"), [("tenant", ("tenant", "")), ("refused", ("", "no network"))])
def test_looking_around_needs_no_configuration(url: str, expected: tuple[str, str]) -> None:
    """A worker is asked, and leaves."""
    found = explored(url, "", argv=[sys.executable, FAKE])

    assert expected == (found.tenant, found.why)


def test_a_worker_that_cannot_start_has_found_nothing() -> None:
    """Then no keyring can be counted on."""
    found = explored("x", "", argv=["/bin/false"])

    assert ("", True) == (found.tenant, bool(found.no_keyring))


def test_a_database_that_cannot_be_asked_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do, by the real worker; and so is a worker that cannot start."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fleet = Fleet(f"host={tmp_path} dbname=cms", (Source("credential", ("tokens",)),))
    config = Config("cms.cfg", (account("a@example.test"),), (), None, None, (), fleet=fleet)
    found = list[Failure]()
    for argv in (WORKER_ARGV, ["/bin/false"]):
        with pytest.raises(Failure) as caught:
            fleet_work(config, lambda number: FleetWork(number, "status"), argv=argv)
        found.append(caught.value)

    assert "the fleet's database cannot be asked" in found[0].message
    assert all(each.message and each.hint for each in found)


def test_a_worker_that_cannot_start_says_why_no_certificate_was_checked() -> None:
    """In words, and not as if none ended soon."""
    ends = credential_ends([account("app@example.test").grant], argv=["/bin/false"])

    assert isinstance(ends, str)
    assert ends
