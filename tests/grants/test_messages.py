from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cms.core.accounts import METHODS, Fleet, Grant, Proxy, Source, StoredSignIn
from cms.core.json_lines import Garbled
from cms.core.lifecycle import Ending, Granted, Refused, SignInFacts, Transient, Trouble
from cms.grants import messages
from cms.grants.messages import (
    Acquire,
    Cancel,
    CheckCredentials,
    CredentialEnd,
    CredentialEnds,
    Delete,
    Done,
    Explore,
    Explored,
    Export,
    Exported,
    FleetReport,
    FleetWork,
    Heard,
    Import,
    Listed,
    Look,
    Looked,
    Open,
    Peek,
    Place,
    Prompt,
    Question,
    Reached,
    Redirected,
    Rekey,
    Rekeyed,
    SharedSignIn,
    SignIn,
    SignOut,
    Survey,
    Unmoved,
    WorkerReply,
)
from cms_oauth.moves import Move, cms, fill

GRANT = Grant(
    "https://login.example/common",
    "client",
    "ann@example.test",
    (("https://outlook.office.com/SMTP.Send",), ("https://graph.microsoft.com/Mail.Send",)),
    client_secret=Source("file", ("/etc/secret",)),
    origin="http://127.0.0.1:8080/",
)
FLEET = Fleet(
    "dbname=cms", (Source("credential", ("tokens",)),), (Source("file", ("/k",)),), Source("file", ("/p",)), "mail"
)

QUESTIONS: list[Question] = [
    Open("/state", Source("command", ("pass", "show", "cms")), "/ca.pem", 3.0, 0.5),
    Open("/state"),
    Acquire(1, GRANT, GRANT.scope_sets[0]),
    Acquire(1, GRANT, GRANT.scope_sets[0], "held", "rejected", wanted=True),
    Look(12, GRANT, GRANT.scope_sets[0], "held"),
    SignIn(2, GRANT, "browser", '{"access_token":{}}'),
    Redirected(2, {"code": "secret-code", "state": "s"}),
    Cancel(2),
    SignOut(3, GRANT),
    SignOut(3, GRANT, revoke=True),
    Export(5, (GRANT, GRANT), "secret-passphrase"),
    Peek(6, Place("/home/ann/signins", "cms", "", "secret-password")),
    Survey(7, ("a", "b")),
    Delete(8, ()),
    Rekey(11, "key"),
    Explore(9, "https://login.example/x.test"),
    CheckCredentials(10, (GRANT,)),
    Open("/state", proxy=Proxy("http://proxy:3128", ("localhost",), "ann", Source("credential", ("proxy",)))),
    Open("/state", old_key=Source("keyring")),
    Open("/state", fleet=FLEET),
    FleetWork(12, "init", "dbname=cms user=postgres"),
    FleetWork(13, "adopt", grants=(GRANT,)),
    Import(4, GRANT, Place("/home/ann/tokens", "pizauth", "work", "secret-password")),
]
UNMOVED = Unmoved("key", "login", "message", "hint")
SHARED = SharedSignIn("key", "refused", "relay1", -3.5, "relay2", 1800.0, unshared=True)
TROUBLE = Trouble("refused", "no", "sign in", 50173, "correlation", "basic_action", "{}")
MOVE = fill("{login}; {retries}", {"login": cms("login", "o'connor@example.test")}, mover="administrator")
REPLIES: list[WorkerReply] = [
    Prompt(
        2, "device", "https://login.example/device", "CODE", 900.0, "http://localhost/", "state", "https://x.example"
    ),
    Done(
        1,
        Granted(
            "secret-token",
            5.0,
            3600.0,
            ("a", "b"),
            sign_in=SignInFacts(persisted=False, key_from="memory only", who="ann"),
        ),
    ),
    Done(1, Transient(TROUBLE, 120.0, SignInFacts(given_at=1.0, redeemed_at=2.0, endings=(Ending(1.0, 2.0, 700082),)))),
    Done(1, Refused(TROUBLE)),
    Done(1, Refused(replace(TROUBLE, hint=MOVE))),
    Done(12, Looked(7.5, wished=True)),
    Heard(("a", "b")),
    Heard(()),
    Reached("no route"),
    Done(5, Exported("secret-text", ("a", "b"), ("c",))),
    Done(6, Listed((StoredSignIn("key", "authority", "client", "login", "who", 7.5), StoredSignIn("key", "", "", "")))),
    Done(7, Listed(())),
    Done(11, Rekeyed("key", "keyring", 2, (Unmoved("key", "login", "message", "hint"),), ("key file /k",))),
    Done(10, CredentialEnds((CredentialEnd("key", 7.5), CredentialEnd("key", why="cannot be read")))),
    Done(12, FleetReport(1, 1, "CREATE", True, ("/key",), ("credential x",), (SHARED,), ("a",), (UNMOVED,))),
    Done(9, Explored("tenant", "why", unknown=True, no_keyring="no keyring", cloud="dod")),
    Done(
        1,
        Granted(
            "secret-token",
            5.0,
            3600.0,
            sign_in=SignInFacts(given_at=7.5, endings=(Ending(1.0, 2.0, 70043), Ending(3.0, 4.0))),
        ),
    ),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: type(each).__name__)
def test_question_survives_the_way(question: Question) -> None:
    """What the daemon asks is what the worker reads, in one line."""
    line = messages.pack(question)

    assert 1 == line.count(b"\n")
    assert question == messages.unpack_question(line)


@pytest.mark.parametrize("reply", REPLIES, ids=repr)
def test_reply_survives_the_way(reply: WorkerReply) -> None:
    """What the worker answers is what the daemon reads, in one line."""
    line = messages.pack(reply)

    assert 1 == line.count(b"\n")
    assert reply == messages.unpack_reply(line)


def _broken_questions() -> list[bytes]:
    acquire = json.loads(messages.pack(QUESTIONS[2]))
    opened = json.loads(messages.pack(QUESTIONS[0]))
    redirected = json.loads(messages.pack(QUESTIONS[6]))
    imported = json.loads(messages.pack(QUESTIONS[-1]))

    def without(body: dict[str, Any], name: str) -> dict[str, Any]:
        return {key: value for key, value in body.items() if key != name}

    broken: list[Any] = [
        [],
        "Acquire",
        {},
        {"is": "Done"},
        {"is": []},
        without(acquire, "grant"),
        without(acquire, "number"),
        without(opened, "key"),
        {**acquire, "number": "1"},
        {**acquire, "number": True},
        {**acquire, "scopes": [1]},
        {**acquire, "scopes": None},
        {**acquire, "grant": "ann"},
        {**acquire, "grant": {**acquire["grant"], "scope_sets": [[1]]}},
        {**acquire, "grant": {**acquire["grant"], "surprise": 1}},
        {**acquire, "surprise": 1},
        {**opened, "key": {"is": "Source", "kind": "file"}},
        {**opened, "timeout": "long"},
        {**opened, "persist": 1},
        {**redirected, "fields": {"code": 1}},
        {**redirected, "fields": "code"},
        {**imported, "place": "/home/ann/tokens"},
        {**imported, "place": {**imported["place"], "path": None}},
        {**imported, "place": {**imported["place"], "surprise": ""}},
    ]
    return [b"", b"\xff", b"nonsense", *(json.dumps(each).encode() for each in broken)]


@pytest.mark.parametrize("line", _broken_questions())
def test_no_question(line: bytes) -> None:
    """A line that is no question is Garbled, and nothing else is raised."""
    with pytest.raises(Garbled):
        messages.unpack_question(line)


def _lies() -> list[dict[str, Any]]:
    """Return replies in which one field is not what it is declared as."""
    prompt, granted, transient = (json.loads(messages.pack(each)) for each in REPLIES[:3])
    ending = transient["outcome"]["sign_in"]["endings"][0]
    assert {"is": "Ending", "given_at": 1.0, "ended_at": 2.0, "aadsts": 700082, "reason": ""} == ending

    def done(reply: dict[str, Any], **wrong: Any) -> dict[str, Any]:
        return {**reply, "outcome": {**reply["outcome"], **wrong}}

    def known(**wrong: Any) -> dict[str, Any]:
        return done(granted, sign_in={**granted["outcome"]["sign_in"], **wrong})

    return [
        {**prompt, "url": 1},
        {**prompt, "number": True},
        {**prompt, "expires_in": "soon"},
        {**granted, "number": "1"},
        done(granted, secret=5),
        done(granted, issued=None),
        done(granted, expires_in="an hour"),
        done(granted, expires_in=True),
        done(granted, scopes=7),
        done(granted, scopes=[7]),
        known(persisted="yes"),
        known(given_at="yesterday"),
        known(endings=[7]),
        known(endings=[{**ending, "ended_at": "now"}]),
        known(endings=[{**ending, "aadsts": "70043"}]),
        known(endings=[{**ending, "why": 1}]),
        known(endings=[{**ending, "is": "Trouble"}]),
        known(endings={"0": ending}),
        done(transient, retry_after="120"),
        done(transient, trouble={**transient["outcome"]["trouble"], "aadsts": "50173"}),
        done(transient, trouble={**transient["outcome"]["trouble"], "claims": {}}),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"is": "Open"},
        {"is": "Prompt", "number": 1},
        {"is": "Done", "number": 1, "outcome": {"is": "Granted"}},
        {"is": "Done", "number": 1, "outcome": {"is": "Nonsense"}},
        {"is": "Done", "number": 1, "outcome": {"is": "Refused", "trouble": 1}},
        {"is": "Done", "number": 1, "outcome": None},
        {"is": "Done"},
        {},
        *_lies(),
    ],
)
def test_no_reply(body: dict[str, Any]) -> None:
    """An invalid reply is Garbled, and nothing else is raised."""
    with pytest.raises(Garbled):
        messages.unpack_reply(json.dumps(body).encode())


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_sign_in_is_documented(method: str) -> None:
    """`SignIn` names each method that people can choose."""
    assert f'"{method}"' in str(SignIn.__doc__)


def test_garbage_never_quotes() -> None:
    """The text of Garbled has nothing of the line, which could hold a token."""
    for unpack in (messages.unpack_question, messages.unpack_reply):
        with pytest.raises(Garbled) as caught:
            unpack(b'{"is": "Done", "outcome": {"is": "Granted", "secret": "eyJ-the-token"}}')

        assert "eyJ" not in str(caught.value)
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("message", [QUESTIONS[6], QUESTIONS[-1], REPLIES[1]], ids=["Redirected", "Import", "Done"])
def test_secrets_do_not_print(message: Question | WorkerReply) -> None:
    """Neither a code nor a password nor a token is in the repr of what carries it."""
    assert "secret-" not in repr(message)


def test_a_move_arrives_with_its_parts() -> None:
    """The daemon knows what the worker meant: its commands, its promises, and whose move it is."""
    done = messages.unpack_reply(messages.pack(Done(1, Refused(replace(TROUBLE, hint=MOVE)))))

    assert isinstance(done, Done)
    assert isinstance(done.outcome, Refused)
    move = done.outcome.trouble.hint
    assert isinstance(move, Move)
    assert (MOVE.parts, MOVE.mover) == (move.parts, move.mover)
