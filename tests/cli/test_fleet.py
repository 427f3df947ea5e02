"""`cms fleet`: what it has the grant worker do, what it prints, and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from support.command_line import GOOD, empty_folders, good_configuration

from cms import main
from cms.cli import daemonless, terminal
from cms.cli.failure import Failure
from cms.config.model import Config
from cms.core.accounts import DEFAULT_REGISTRATION, Grant
from cms.grants.messages import FleetReport, FleetWork, SharedSignIn, Unmoved
from cms.system import logs

OWNER = "host=/run/postgresql dbname=cms user=postgres"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(logs, "setup", lambda *, level: None)
    return empty_folders(tmp_path, monkeypatch)


Answered = Callable[..., list[FleetWork]]


@pytest.fixture
def answered(home: Path, monkeypatch: pytest.MonkeyPatch) -> Answered:
    """Return what configures a fleet whose worker gives these answers in turn; it returns what the worker is asked."""

    def answer(*ends: FleetReport | Failure, more: str = "") -> list[FleetWork]:
        asked, left = list[FleetWork](), list(ends)

        def work(_config: Config, ask: Callable[[int], FleetWork]) -> FleetReport:
            asked.append(ask(7))
            end = left.pop(0)
            if isinstance(end, Failure):
                raise end
            return end

        monkeypatch.setattr(daemonless, "fleet_work", work)
        path = good_configuration(home)
        path.write_text(f"{GOOD.format(folder=home)}Fleet('dbname=cms', token_key=Credential('tokens'){more})\n")
        return asked

    return answer


# The grant of the account in GOOD.
OWN = Grant("https://login.microsoftonline.com/common", DEFAULT_REGISTRATION.client_id, "a@example.test").key
KEY = ", key=Credential('keys')"


def test_the_statements_are_printed_for_psql(answered: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    """As they are and alone on standard output; what was made, and what is to be done, is on the other."""
    statements = "CREATE SCHEMA cms;\n-- `cms` --\n"
    made = FleetReport(0, 1, statements, made=("/v/fleet.key",), no_file=("credential tokens",))
    asked = answered(made, more=KEY)

    assert 0 == main.main(["fleet", "init"])
    out, err = capsys.readouterr()
    assert (statements, [FleetWork(7, "init")]) == (out, asked)
    assert "made the key file /v/fleet.key\n" in err
    assert "no key was made for credential tokens: put 32 random bytes there, as `openssl rand -base64 32`" in err
    assert "Copy both key files to every host that may sign in" in err
    assert "Next, as the database's owner: give psql these statements" in err


@pytest.mark.parametrize("action", ["init", "upgrade"])
def test_the_statements_are_run_as_the_owner(
    answered: Answered, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """Whose connection the command line names."""
    asked = answered(FleetReport(1, 1, "CREATE", ran=True))

    assert 0 == main.main(["fleet", action, "--owner", OWNER])
    assert ("the database has the tables of version 1 in the schema cms\n", "") == capsys.readouterr()
    assert [FleetWork(7, action, OWNER)] == asked


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        (f"{OWNER} password=hunter2", "--owner has a password in it"),
        ("host=db.example.org", "--owner does not make sure that db.example.org is the database's host"),
    ],
)
def test_the_owners_connection_is_as_safe_as_the_hosts(
    answered: Answered, capsys: pytest.CaptureFixture[str], owner: str, said: str
) -> None:
    """The same rules as in the configuration."""
    asked = answered(FleetReport())

    assert 1 == main.main(["fleet", "init", "--owner", owner])
    err = capsys.readouterr().err
    assert said in err
    assert ([], "hunter2" in err) == (asked, False)


def test_status(answered: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each account: whose token it is, who is at work, what is not shared; and how many other hosts' there are."""
    rows = (
        SharedSignIn(OWN, "signed-in", "relay2", 40.0, "relay1", 2880.0, unshared=True),
        SharedSignIn("other", "refused", "relay3", -120.0),
        SharedSignIn("another", "signed-out"),
    )
    asked = answered(FleetReport(1, 1), FleetReport(1, 1, sign_ins=rows))

    assert [0, 0] == [main.main(["fleet", "status"]) for _ in range(2)]
    assert [FleetWork(7, "status")] * 2 == asked
    head = "fleet in the schema cms, tables of version 1; this host serves only\n"
    assert capsys.readouterr().out == (
        f"{head}a@example.test: nobody has signed in\n"
        f"{head}a@example.test: signed-in; newest token from relay1, 48 min left; claimed by relay2, for 40 s more;"
        " this host has a later refresh token, not yet shared\n"
        "sign-ins of other hosts' accounts: 2, of which 1 with a claim that is over\n"
    )


def test_a_status_that_is_longer_than_the_screen(answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes through the pager: a line for each sign-in may be thousands."""
    paged = list[str]()
    monkeypatch.setattr(terminal, "has_pager", lambda: True)
    monkeypatch.setattr(click, "echo_via_pager", lambda text, color: paged.append(text))
    monkeypatch.setenv("LINES", "2")
    answered(FleetReport(1, 1))

    assert 0 == main.main(["fleet", "status"])
    assert [True] == [each.endswith("a@example.test: nobody has signed in\n") for each in paged]


def test_adopt(home: Path, answered: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    """What was moved, and what was not and why; by the accounts' names where there are any. Without a file none is asked."""
    unmoved = Unmoved("other", "b@example.test", "the fleet has a sign-in of it already", "delete the file")
    moved = FleetReport(1, 1, adopted=(OWN,))
    asked = answered(moved, replace(moved, unmoved=(unmoved,)))
    file = home / "state" / "cms" / f"{OWN}.vault"
    file.parent.mkdir(parents=True)

    assert 0 == main.main(["fleet", "adopt"])
    file.touch()
    assert [0, 1] == [main.main(["fleet", "adopt"]) for _ in range(2)]
    out, err = capsys.readouterr()
    assert ["there was nothing to move", *["moved into the fleet: a@example.test"] * 2] == out.splitlines()
    assert err == "cms: b@example.test: not moved: the fleet has a sign-in of it already\ndelete the file\n"
    assert [("adopt", (OWN,))] * 2 == [(each.action, tuple(grant.key for grant in each.grants)) for each in asked]


@pytest.mark.parametrize("action", ["init", "upgrade", "status"])
def test_a_failure_is_told(answered: Answered, capsys: pytest.CaptureFixture[str], action: str) -> None:
    """With the next step, and nothing on standard output that psql could take for a statement."""
    answered(Failure("the database does not answer", "`systemctl status postgresql`"))

    assert 1 == main.main(["fleet", action])
    assert ("", "cms: the database does not answer\n`systemctl status postgresql`\n") == capsys.readouterr()


def test_without_a_fleet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is asked of a database."""
    good_configuration(home)

    assert 1 == main.main(["fleet", "status"])
    assert "cms: the configuration has no Fleet(...), so this host shares no sign-in\n" in capsys.readouterr().err
