"""The token socket: one request and one reply, in the form that was asked for, and nothing for nonsense."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import trio
from support.keeper import SCOPES, SECRET
from support.sockets import CLOSED, STRANGER, TOKENS, Kind, connections_are_from, read_all, serving
from support.trio_run import in_trio, until

from cms.core.lifecycle import Deny, Need
from cms_oauth import wire

PLAIN = {
    "xoauth2": b"user=A@example.test\x01auth=Bearer eyJ.access.token\x01\x01",
    "token": SECRET.encode(),
    "oauthbearer": b"n,a=A@example.test,\x01auth=Bearer eyJ.access.token\x01\x01",
}


@pytest.fixture(params=TOKENS, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """A token socket whose clients write all at once, and one whose clients do not."""
    kind: Kind = request.param
    return kind


@in_trio
async def test_a_request_ends_with_a_newline_or_a_half_close(tmp_path: Path, kind: Kind) -> None:
    """Both the original protocol's half-close and a newline get the bytes, nothing else, and the end."""
    async with serving(tmp_path, kind) as served:
        by_line = await read_all(await served.connect(b"SMTP a@example.test\n"))
        by_half_close = await served.ask(b"SMTP a@example.test")

    assert (PLAIN["xoauth2"], PLAIN["xoauth2"]) == (by_line, by_half_close)


@pytest.mark.parametrize("form", sorted(PLAIN))
@in_trio
async def test_each_form_is_given_with_the_configured_spelling(tmp_path: Path, kind: Kind, form: str) -> None:
    """Whatever the letters of the request, the SASL user is the account's own."""
    async with serving(tmp_path, kind) as served:
        said = await served.ask(f"SMTP,{form} a@EXAMPLE.test\n".encode())

    assert PLAIN[form] == said


@in_trio
async def test_json_has_the_token_and_its_time(tmp_path: Path, kind: Kind) -> None:
    """The json form gives the life that is left by the boot clock, and its end by the wall clock of now."""
    async with serving(tmp_path, kind) as served:
        said = json.loads(await served.ask(b"SMTP,json a@example.test\n"))

    assert (1, SECRET, 1_700_003_600) == (said["version"], said["token"], said["expires_at"])
    assert 3_000 == said["expires_in"]


@in_trio
async def test_options_reach_the_keeper(tmp_path: Path, kind: Kind) -> None:
    """min= and rejected= are the keeper's to weigh."""
    async with serving(tmp_path, kind) as served:
        await served.ask(b"SMTP,min=900,rejected=0123456789abcdef a@example.test\n")

    assert [(SCOPES, Need("SMTP.Send", 900, "0123456789abcdef"))] == served.keeper.asked


@pytest.mark.parametrize("request_", [b"SMTP b@example.test\n", b"POP a@example.test\n", b"no request\n", b"\n"])
@in_trio
async def test_a_plain_refusal_is_nothing(tmp_path: Path, kind: Kind, request_: bytes) -> None:
    """No tool may ever send an error text as a credential."""
    async with serving(tmp_path, kind) as served:
        assert b"" == await served.ask(request_)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"SMTP,json b@example.test\n", "unknown-account"),
        (b"POP,json a@example.test\n", "unknown-protocol"),
        (b"smtp,json a@example.test\n", "bad-request"),
        (b"SMTP,json,token a@example.test\n", "bad-request"),
        (b"SMTP,json " + b"x" * wire.MAX_REQUEST, "bad-request"),
    ],
)
@in_trio
async def test_a_refusal_as_json_says_why(tmp_path: Path, kind: Kind, request_: bytes, code: str) -> None:
    """Who asks for JSON is told what is wrong, of a bad request too."""
    async with serving(tmp_path, kind) as served:
        said = json.loads(await served.ask(request_))

    assert code == said["error"]["code"]
    assert said["error"]["message"]
    assert said["error"]["hint"]


@in_trio
async def test_a_keepers_refusal_is_passed_on(tmp_path: Path, kind: Kind) -> None:
    """What the keeper cannot give is explained in its words, and plainly it is nothing."""
    async with serving(tmp_path, kind) as served:
        served.keeper.reply = Deny("sign-in-required", "nobody has signed in", "cms login", 0.0)
        plain = await served.ask(b"SMTP a@example.test\n")
        said = json.loads(await served.ask(b"SMTP,json a@example.test\n"))

    assert b"" == plain
    assert "sign-in-required" == said["error"]["code"]


# --- why ---


@pytest.mark.parametrize("form", [*sorted(PLAIN), ""])
@in_trio
async def test_with_why_a_refusal_is_one_line(tmp_path: Path, kind: Kind, form: str) -> None:
    """In every plain form; a token is the same bytes as without."""
    request = ",".join(filter(None, ("SMTP", form, "why")))
    async with serving(tmp_path, kind) as served:
        token = await served.ask(f"{request} a@example.test\n".encode())
        served.keeper.reply = Deny("unavailable", "it is\ndown", "wait", 42.5)
        refused = await served.ask(f"{request} a@example.test\n".encode())

    assert (PLAIN[form or "xoauth2"], b"!unavailable 42 it is down\twait\n") == (token, refused)
    assert ["granted", "unavailable"] == served.outcomes


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"SMTP,why b@example.test\n", "unknown-account"),
        (b"POP,why,min=60 a@example.test\n", "unknown-protocol"),
        (b"smtp,why a@example.test\n", "bad-request"),
        (b"SMTP,why,why a@example.test\n", "bad-request"),
        (b"SMTP,why " + b"x" * wire.MAX_REQUEST, "bad-request"),
    ],
)
@in_trio
async def test_with_why_every_refusal_has_its_line(tmp_path: Path, kind: Kind, request_: bytes, code: str) -> None:
    """Of a bad request too."""
    async with serving(tmp_path, kind) as served:
        said = wire.parse_refusal((await served.ask(request_)).decode())

    assert said
    assert (code, True, True) == (said[0], bool(said[1]), bool(said[2]))


@in_trio
async def test_json_says_why_anyway(tmp_path: Path, kind: Kind) -> None:
    """Its refusal is an object, with `why` and without."""
    async with serving(tmp_path, kind) as served:
        said = [await served.ask(f"{request} b@example.test\n".encode()) for request in ("SMTP,json", "SMTP,why,json")]

    assert said[0] == said[1]
    assert b'{"version"' == said[0][:10]


@pytest.mark.parametrize("request_", [b"SMTP,json a@example.test\n", b"NONE,json\n", b"SMTP,json,what\n"])
@in_trio
async def test_who_may_not_ask_is_told_only_that(
    tmp_path: Path, kind: Kind, request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a code, whatever the request is, and how wrong."""
    async with serving(tmp_path, kind, CLOSED) as served:
        connections_are_from(monkeypatch, STRANGER)
        said = json.loads(await served.ask(request_))

    assert ("denied", "this user may not ask at this socket") == (said["error"]["code"], said["error"]["message"])


# What each way to ask is run with, but for the socket's path.
CLIENTS = {
    **{f"cms-oauth as {form}": ("cms_oauth.main", "--user=a@example.test", f"--output={form}") for form in wire.FORMS},
    "cms-oauth in a test": ("cms_oauth.main", "--user=a@example.test", "--test-smtp=127.0.0.1:1"),
    "a test as JSON": ("cms_oauth.main", "--user=a@example.test", "--test-smtp=127.0.0.1:1", "--output=json"),
    "cms-oauth --rejected": ("cms_oauth.main", "--user=a@example.test", "--rejected"),
    "git get": ("cms_oauth.git_credential", "--user=a@example.test", "get"),
    "git erase": ("cms_oauth.git_credential", "--user=a@example.test", "erase"),
}
# What git and --rejected read.
STDIN = {"cms_oauth.git_credential": b"protocol=smtp\nhost=x\npassword=T\n\n", "cms_oauth.main": b"T\n"}
PROGRAM = "import cms_oauth, sys; cms_oauth.token('a@example.test', socket=sys.argv[1])"


@pytest.mark.parametrize("denied", [False, True], ids=["refused", "denied"])
@pytest.mark.parametrize("name", [*CLIENTS, "a program"])
@in_trio
async def test_each_client_asks_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, *, denied: bool
) -> None:
    """One request, one line in the log, and the client says why it got nothing."""
    module, *arguments = CLIENTS.get(name, ("",))
    run = (
        ["-m", module, f"--cms_sock={tmp_path}/cms.sock", *arguments]
        if module
        else ["-c", PROGRAM, f"{tmp_path}/cms.sock"]
    )
    async with serving(tmp_path) as served:
        served.keeper.reply = Deny("locked", "the keyring is locked", "unlock it")
        if denied:
            served.issuer.rules = CLOSED
            connections_are_from(monkeypatch, STRANGER)
        done = await trio.run_process(
            [sys.executable, *run], stdin=STDIN.get(module, b""), capture_stdout=True, capture_stderr=True, check=False
        )

    assert ["denied" if denied else "locked"] == served.outcomes
    why = (
        b"this user may not ask at this socket (denied) - " if denied else b"the keyring is locked (locked) - unlock it"
    )
    assert why in done.stderr


# --- nonsense ---


def nonsense(jitter: random.Random) -> bytes:
    """Return random bytes, half of them near to a request."""
    raw = jitter.randbytes(jitter.randrange(1, 80))
    if jitter.random() < 0.5:
        return raw
    words = [b"SMTP", b"IMAP", b",json", b",token", b",min=", b" ", b"a@example.test", b"\n", b"\r", b"=", raw[:5]]
    return b"".join(jitter.choice(words) for _ in range(jitter.randrange(1, 8)))


@in_trio
async def test_thousands_of_strings_of_nonsense_do_no_harm(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, no credential for what is no request, no descriptor lost. Half of them are written at once."""
    jitter = random.Random(2)
    async with serving(tmp_path, kind) as served:
        await served.ask(b"x\n")
        before = open_files()
        for _ in range(2_000):
            request = nonsense(jitter)
            said = await served.ask(request)
            # In pieces, a whole line may be answered before more comes that would have spoilt it.
            asked = request if kind.at_once else request.partition(b"\n")[0]
            assert SECRET.encode() not in said or is_good(asked), request
            assert said == b"" or said == PLAIN["xoauth2"] or SECRET.encode() == said or b"{" == said[:1]
        # The last connection may close a moment after its answer.
        await until(lambda: open_files() <= before)

    assert "failed" not in capsys.readouterr().out


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_good(request: bytes) -> bool:
    try:
        return wire.parse_request(request).protocol == "SMTP"
    except wire.BadRequest:
        return False
