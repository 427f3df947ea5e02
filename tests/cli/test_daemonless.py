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
from cms.cli.daemonless import credential_ends, daemonless, explored
from cms.config.model import Config
from cms.core.accounts import Account, Grant, Source
from cms.system.process import NotOurs, claimed

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


def test_the_accounts_own_way_is_taken_when_none_is_named(tmp_path: Path) -> None:
    """sign_in= of the configuration."""
    with alone(tmp_path) as remote:
        end = signed_in(remote)

    assert end["ok"]


def test_a_sign_in_that_could_not_be_saved_does_not_begin(tmp_path: Path) -> None:
    """Memory ends with this command: that is said before anybody takes the trouble, and whose move it is."""
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


def test_an_import_that_cannot_be_saved_is_none(tmp_path: Path) -> None:
    """As for a sign-in."""
    with keyless(tmp_path) as remote:
        end = remote.ask("import", user="", path="/f")

    assert not end["ok"]
    assert "could not be saved" in end["message"]


@pytest.mark.parametrize("command", ["login", "import"])
def test_an_account_of_no_persons_is_left_alone(tmp_path: Path, command: str) -> None:
    """An application signs in by itself, once the daemon runs."""
    with alone(tmp_path, account("machine@example.test", "app")) as remote:
        end = remote.ask(command, user="", path="/f")

    assert not end["ok"]
    assert end["message"].startswith("nobody signs in for machine@example.test: an application")


def test_an_import_for_nobody_is_said(tmp_path: Path) -> None:
    """With the accounts that there are."""
    with alone(tmp_path) as remote:
        end = remote.ask("import", user="c@x.test", path="/f")

    assert (False, "there is no account 'c@x.test'") == (end["ok"], end["message"])


def test_a_sign_out_deletes(tmp_path: Path) -> None:
    """`cms logout` needs no daemon either."""
    with alone(tmp_path) as remote:
        end = remote.ask("logout")

    assert end["ok"]
    assert "good@example.test: signed out, and the stored sign-in deleted" == end["message"]
    assert "no way to revoke a single token" in end["hint"]


def test_a_sign_out_that_fails_says_why(tmp_path: Path) -> None:
    """What the worker cannot delete stays, and that is said."""
    config = Config("cms.cfg", (account("good@example.test"),), (), None, None, ())
    with daemonless(config, str(tmp_path), argv=["/bin/false"]) as remote:
        end = remote.ask("logout")

    assert not end["ok"]


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("login", "`cms login USER`"),
        ("logout", "`cms logout USER`"),
        ("import", "`cms import FILE --account USER`"),
    ],
)
def test_an_account_that_is_not_clear_is_asked_for(tmp_path: Path, command: str, usage: str) -> None:
    """The accounts that there are are named, and how one is told to the command."""
    with alone(tmp_path, account("a@x.test"), account("b@x.test")) as remote:
        end = remote.ask(command, path="/f")

    assert (False, "there are several accounts") == (end["ok"], end["message"])
    assert f"name one of these, {usage}: a@x.test, b@x.test" == end["hint"]


def mailbox(user: str, login: str, client: str = "client") -> Account:
    """A mailbox that somebody else signs in for."""
    grant = Grant("https://login.example.test/common", client, login, (SCOPES,), sign_in="paste")
    return Account(user, grant, {"SMTP": SCOPES})


@pytest.mark.parametrize("name", ["sales@x.test", "Good@Example.test"])
def test_whoever_signs_in_for_a_mailbox_may_be_named(tmp_path: Path, name: str) -> None:
    """Hints print the command with the one or the other: both are accepted, for every command."""
    sales, other = mailbox("sales@x.test", "good@example.test"), account("other@x.test")
    with alone(tmp_path, sales, other) as remote:
        end = signed_in(remote, user=name)
    with alone(tmp_path, sales, other) as remote:
        out = remote.ask("logout", user=name)

    assert (True, True) == (end["ok"], out["ok"])
    assert out["message"].startswith("sales@x.test: signed out")


def test_a_name_of_two_sign_ins_means_the_one_that_was_stored_first(tmp_path: Path) -> None:
    """One that was never stored comes before all: the same command, given again, reaches each; a sign-out all."""
    first, second = (mailbox("a@x.test", "good@example.test", client) for client in ("one", "two"))
    state, asked = tmp_path / "state", []
    state.mkdir()
    (state / f"{first.grant.key}.vault").touch()
    for _ in range(2):
        with alone(tmp_path, first, second) as remote:
            remote.send({"command": "login", "user": "a@x.test"})
            remote.receive()
        asked.append((state / "clients").read_text().split()[-1])
        # The fake worker stores nothing: this is what the real one leaves.
        stored = state / f"{second.grant.key}.vault"
        stored.touch()
        os.utime(stored, (2_000_000_000, 2_000_000_000))
    with alone(tmp_path, first, second) as remote:
        out = remote.ask("logout", user="a@x.test")

    assert ["two", "one"] == asked
    assert out["message"].startswith("a@x.test: signed out")


@pytest.mark.parametrize("command", ["login", "logout"])
def test_an_account_that_nobody_knows_is_said(tmp_path: Path, command: str) -> None:
    """With those that are known."""
    with alone(tmp_path) as remote:
        end = remote.ask(command, user="c@x.test")

    assert (False, "there is no account 'c@x.test'") == (end["ok"], end["message"])
    assert "good@example.test" in end["hint"]


def test_a_configuration_without_accounts_is_said(tmp_path: Path) -> None:
    """There is nobody to sign in."""
    with daemonless(Config("cms.cfg", (), (), None, None, ()), str(tmp_path)) as remote:
        assert "there is no account" == remote.ask("login")["message"]


def test_an_account_that_signs_in_by_itself_needs_no_person(tmp_path: Path) -> None:
    """Application accounts have no prompt."""
    with alone(tmp_path, account("good@example.test", "app")) as remote:
        end = remote.ask("login")

    assert "nobody signs in for good@example.test" in end["message"]


def test_an_application_is_not_signed_out(tmp_path: Path) -> None:
    """There is nothing to forget, and what gives the account up is said."""
    with alone(tmp_path, account("good@example.test", "app")) as remote:
        end = remote.ask("logout")

    assert "nobody has signed in for good@example.test" in end["message"]


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


def test_what_no_account_has_can_leave(tmp_path: Path) -> None:
    """By its name, by pruning, or with everybody."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "stray.vault").touch()
    with alone(tmp_path) as remote:
        gone = remote.ask("logout", user="stray")
    with alone(tmp_path) as remote:
        pruned = conversed(remote, "prune", {"yes": True})
    with alone(tmp_path) as remote:
        left = conversed(remote, "leave", {})

    assert "stray: signed out, and the stored sign-in deleted" == gone["message"]
    assert "deleted: 1" == pruned["message"]
    said = "good@example.test: signed out, and the stored sign-in deleted\nwithout an account, and deleted: 1"
    assert said == left["message"]


def test_an_account_that_nothing_serves_is_not_pruned(tmp_path: Path) -> None:
    """It is in the file, and so its sign-in is wanted."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "unserved.vault").touch()
    config = Config("cms.cfg", (account("good@example.test"),), (), None, None, (), unserved=frozenset({"unserved"}))
    with daemonless(config, str(tmp_path / "state"), argv=[sys.executable, FAKE]) as remote:
        end = conversed(remote, "prune", {"yes": True})

    assert "every stored sign-in has its account: there is nothing to prune" == end["message"]


@pytest.mark.parametrize(("url", "expected"), [("tenant", ("tenant", "")), ("refused", ("", "no network"))])
def test_looking_around_needs_no_configuration(url: str, expected: tuple[str, str]) -> None:
    """A worker is asked, and leaves."""
    found = explored(url, "", argv=[sys.executable, FAKE])

    assert expected == (found.tenant, found.why)


def test_a_worker_that_cannot_start_has_found_nothing() -> None:
    """Then no keyring can be counted on."""
    found = explored("x", "", argv=["/bin/false"])

    assert ("", True) == (found.tenant, bool(found.no_keyring))


def test_a_worker_that_cannot_start_says_why_no_certificate_was_checked() -> None:
    """In words, and not as if none ended soon."""
    ends = credential_ends([account("app@example.test").grant], argv=["/bin/false"])

    assert isinstance(ends, str)
    assert ends
