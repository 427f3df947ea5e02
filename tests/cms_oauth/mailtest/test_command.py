"""Recorded dialogues with mail servers, through the real client: each refusal gets the verdict that explains it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.dialogues import FILE, GOOD, USER, Dialogue, Player, all_dialogues, jwt
from support.ports import closed_port
from support.scripted import PATIENCE, Daemon, MailServer

from cms_oauth import fetch, main, wire
from cms_oauth.diagnosis import mail

DIALOGUES = all_dialogues()
BY_NAME = {each.name: each for each in DIALOGUES}


class World:
    """A daemon that grants tokens and a mail server that holds a dialogue; `arguments` are the client's."""

    def __init__(self, daemon: Daemon, server: MailServer, protocol: str) -> None:
        self.daemon = daemon
        self.server = server
        self.arguments = [f"--cms_sock={daemon.path}", f"--test-{protocol}=localhost:{server.port}", "--output=json"]


@contextmanager
def world(path: Path, dialogue: Dialogue, tls: ssl.SSLContext, *tokens: str) -> Iterator[World]:
    """Open one; the daemon grants these tokens one after another, the last one for ever."""
    granted = [wire.render("xoauth2", dialogue.user, token) for token in tokens or (dialogue.token(),)]
    player = Player(dialogue.lines, tls)
    with Daemon(path / "cms.sock", *granted) as daemon, MailServer(player) as server:
        yield World(daemon, server, dialogue.protocol)
    Path(daemon.path).unlink()

    assert [] == player.surprises


def names(said: dict[str, Any]) -> list[str]:
    return [each["name"] for each in said["verdicts"]]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_verdict(name: str, tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first verdict is the one that explains the reply; a token is nowhere in what is said."""
    dialogue = BY_NAME[name]
    token = dialogue.token()
    with world(tmp_path, dialogue, tls, token) as it:
        status = main.run(it.arguments)
    out, err = capfd.readouterr()
    said = json.loads(out)

    assert dialogue.expect == names(said)[0]
    assert dialogue.status == status
    assert {each for each in dialogue.also if each not in names(said)} == set()
    assert {each for each in dialogue.words if each not in err} == set()
    assert not said["ok"]
    assert token[20:60] not in out + err
    # Once as ever; and where the token itself is at fault once more, for another one.
    assert (dialogue.retries or dialogue.expect == "token-expired") == (len(it.daemon.requests) > 1)


@pytest.mark.parametrize(
    "name",
    [
        "disabled for the tenant",
        "IMAP: authenticated but not connected",
        "POP: refused, and nothing wrong with the token",
    ],
)
def test_the_verdict_of_a_real_process(name: str, tls: ssl.SSLContext, tmp_path: Path) -> None:
    """As a person runs it: the dialogue, then the verdict, then the one line that ends every failure."""
    dialogue = BY_NAME[name]
    with world(tmp_path, dialogue, tls) as it:
        done = subprocess.run(
            [sys.executable, "-m", "cms_oauth.main", *it.arguments[:-1]],
            capture_output=True,
            text=True,
            timeout=6 * PATIENCE,
            env=os.environ,
            check=False,
        )
    lines = done.stderr.splitlines()
    meaning = next(number for number, line in enumerate(lines) if line.startswith("what it "))

    assert (dialogue.status, "") == (done.returncode, done.stdout)
    assert any(line.startswith("reply: ") for line in lines[:meaning])
    assert not any(line.startswith(("reply: ", "send: ")) for line in lines[meaning:])
    assert "who can fix it: your administrator" == lines[meaning + 1]
    assert lines[-1].startswith("cms-oauth: ")
    assert f"Set-CASMailbox -Identity {USER}" in done.stderr


def test_there_are_enough_and_each_has_a_source() -> None:
    """At least 60, no two alike, and every row of the tables that can come in a test is among them."""
    assert 60 <= len(BY_NAME) == len(DIALOGUES) == len(json.loads(FILE.read_text())["dialogues"])
    assert [] == [each.name for each in DIALOGUES if not each.source]


# Rows that no scripted server can bring about: there is no dialogue at all, or it is the client's own refusal. Those
# and the rest of what a server may say are in test_diagnosis.py.
def test_every_protocol_is_there() -> None:
    """Each with a refusal, a limit and trouble of the server's own."""
    for protocol in ("smtp", "imap", "pop"):
        expected = {each.expect for each in DIALOGUES if each.protocol == protocol}

        assert {"throttled", "server-trouble", "token-audience", "token-scope", "token-expired"} <= expected
        assert {"not-exchange", "unknown"} <= expected
    assert mail.ROWS


# --- another token ---

GOOD_IMAP = (
    "S: + ",
    "C: <credential>",
    "S: TAG OK AUTHENTICATE completed.",
    "C: TAG EXAMINE INBOX",
    "S: TAG OK done",
    "C: TAG LOGOUT",
    "S: TAG OK bye",
)
EXPIRED = BY_NAME["IMAP: refused with an expired token"]


UNSAID = BY_NAME["IMAP: refused, and nothing wrong with the token"]


class OnceRefused(Player):
    """Refuses the first login as the dialogue has it; the second one passes."""

    def __init__(self, tls: ssl.SSLContext, dialogue: Dialogue) -> None:
        super().__init__(dialogue.lines, tls)
        opening = dialogue.lines[: dialogue.lines.index("S: + ")]
        self._turns = [dialogue.lines, (*opening, *GOOD_IMAP)]

    def __call__(self, talk: Any) -> None:
        self._lines = self._turns.pop(0)
        super().__call__(talk)


@pytest.mark.parametrize(
    ("dialogue", "why"),
    [
        (EXPIRED, "says that this token is no longer valid"),
        (UNSAID, "does not say why it refuses this token"),
    ],
    ids=["expired", "unsaid"],
)
def test_a_token_that_may_be_stale_is_replaced_once(
    dialogue: Dialogue, why: str, tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """cms is asked for another token than the refused one, which is said; with that the test passes.

    Exchange says of a revoked token no more than of any other that it refuses.
    """
    refused, fresh = dialogue.token(), jwt(GOOD | {"jti": "fresh"})
    player = OnceRefused(tls, dialogue)
    granted = [wire.render("xoauth2", USER, token) for token in (refused, fresh)]
    with Daemon(tmp_path / "cms.sock", *granted) as daemon, MailServer(player) as server:
        status = main.run([f"--cms_sock={daemon.path}", f"--test-imap=localhost:{server.port}", "--output=json"])
    out, err = capfd.readouterr()
    said = json.loads(out)

    assert (0, [], True) == (status, player.surprises, said["ok"])
    assert [
        b"IMAP,why\n",
        b"IMAP,why,rejected=" + hashlib.sha256(refused.encode()).hexdigest()[: wire.HASH_DIGITS].encode() + b"\n",
    ] == daemon.requests
    assert f"the server {why}; asking cms for another one" in err
    assert "refused as well" not in err
    assert 2 == sum("AUTHENTICATE XOAUTH2" in line for line in said["trace"])
    assert [] == said["verdicts"]
    assert "error" not in said


def test_a_fresh_token_that_is_refused_as_well(
    tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """That is said, and cms is not asked a third time."""
    with world(tmp_path, UNSAID, tls, UNSAID.token(), jwt(GOOD | {"jti": "fresh"})) as it:
        status = main.run(it.arguments)
        asked = len(it.daemon.requests)
    out, err = capfd.readouterr()

    assert (77, 2) == (status, asked)
    assert "imap-off" == names(json.loads(out))[0]
    assert 1 == err.count("cms-oauth: the server refused a new token too\n")


def test_where_cms_has_no_other_token_the_first_answer_counts(
    tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """cms-oauth says so, and explains the first answer."""
    with world(tmp_path, EXPIRED, tls) as it:
        status = main.run(it.arguments[:-1])
    out, err = capfd.readouterr()

    assert (77, "") == (status, out)
    assert "cms has no other token than the refused one" in err
    assert re.search(r"what it most likely means: The token expired \d+ (s|minutes) ago\.", err)


# --- what is said ---


def test_without_a_connection_the_verdict_is_said_as_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """There is no dialogue to show above it."""
    granted = wire.render("xoauth2", USER, jwt(GOOD))
    with Daemon(tmp_path / "cms.sock", granted) as daemon, closed_port() as port:
        status = main.run([f"--cms_sock={daemon.path}", f"--test-imap=localhost:{port}"])
    out, err = capfd.readouterr()

    assert (75, "") == (status, out)
    assert err.startswith("what it means: No connection to the server")
    assert f"cms-oauth: no connection with localhost:{port}: Connection refused" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "times"),
    [("a reply that no row knows", 1), ("disabled for the tenant", 1), ("Postfix refuses", 0), ("POP: in use", 0)],
)
def test_what_support_asks_for_is_said_once(
    name: str, times: int, tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the server's answer has it."""
    with world(tmp_path, BY_NAME[name], tls) as it:
        main.run(it.arguments[:-1])
    said = [line for line in capfd.readouterr().err.splitlines() if "support" in line]

    assert times == len(said)
    assert all("08DE2791D54B1C3F" in line for line in said)


# --- the data ---


def test_a_variable_that_openssl_ignores_is_named(
    tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the test passes all the same: other programs may go by it."""
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "none.cnf"))
    with world(tmp_path, BY_NAME["disabled for the tenant"], tls) as it:
        main.run(it.arguments)

    said = f"cms-oauth: OPENSSL_CONF names {tmp_path}/none.cnf, which does not exist; OpenSSL ignores it"
    assert said == capfd.readouterr().err.splitlines()[0]


def test_a_passed_test_as_data(tls: ssl.SSLContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What the server said, what the token says of itself, and the dialogue; CMS's last line stays on stderr."""
    lines = (
        *BY_NAME["unrecognized authentication type"].lines[:-4],
        "C: AUTH XOAUTH2",
        "S: 334 ",
        "C: <credential>",
        "S: 235 2.7.0 Authentication successful",
        "C: rset",
        "S: 250 2.0.0 Resetting",
        "C: quit",
        "S: 221 2.0.0 Bye",
    )
    with world(tmp_path, replace(EXPIRED, protocol="smtp", lines=lines, claims=GOOD), tls) as it:
        status = main.run(it.arguments)
    out, err = capfd.readouterr()
    said = json.loads(out)

    assert 0 == status
    assert "reply: retcode (235); Msg: b'2.7.0 Authentication successful'" == err.splitlines()[-1]
    assert {"ok", "reply", "verdicts", "evidence", "trace"} == set(said)
    assert (True, "235 2.7.0 Authentication successful", []) == (said["ok"], said["reply"], said["verdicts"])
    assert "https://outlook.office.com" == said["evidence"]["claims"]["audience"]
    assert ["LOGIN", "XOAUTH2"] == said["evidence"]["offered"]
    assert said["evidence"]["greeting"].startswith("220 AM0PR04CA0123")
    assert err.splitlines() == said["trace"]


def test_without_a_daemon_the_data_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A program that reads the data reads nothing else."""
    status = main.run([f"--cms_sock={tmp_path}/none", "--test-imap=localhost", "--output=json"])
    out, err = capfd.readouterr()
    said = json.loads(out)

    assert 69 == status
    assert 1 == err.count("\n")
    assert ("no-daemon", ["no-socket"]) == (said["error"]["code"], names(said))


def test_what_the_preflight_refuses_as_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first step is not a sign-in, and the command for that names the account that was asked for."""
    said = "the token is for Microsoft Graph, and IMAP needs one for Exchange Online"
    refusal = json.dumps(wire.json_refusal("sign-in-required", said, "name the mail scopes alone")).encode()
    with Daemon(tmp_path / "cms.sock", b"", refusal) as daemon:
        status = main.run([f"--cms_sock={daemon.path}", f"--user={USER}", "--test-imap=localhost", "--output=json"])
    data = json.loads(capfd.readouterr().out)

    assert (75, ["token-for-another-resource"]) == (status, names(data))
    assert f"`cms login {USER}`" == data["verdicts"][0]["steps"][-1]


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """As for a token."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cms_oauth.main", f"--cms_sock={tmp_path}/none", "--test-pop=x", "--output=json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=6 * PATIENCE,
            check=False,
        )

    assert fetch.EX_IOERR == done.returncode
    assert "the token cannot be written" in done.stderr
