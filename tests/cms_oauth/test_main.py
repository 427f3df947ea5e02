"""The `cms-oauth` command against a daemon that follows a script: what it prints, what it asks, how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scripted import HANG_UP, HOLD, PATIENCE, Answer, Daemon
from support.waiting import until

from cms_oauth import dial, fetch, main, wire

TOKEN = "eyJ0eXAi.T-o_k~e+n/" + "x" * 40
USER = "user@domain.com"
XOAUTH2 = wire.render("xoauth2", USER, TOKEN)
GRANTED = json.dumps(wire.json_reply(USER, "SMTP", TOKEN, expires_in=3599, expires_at=1_800_000_000)).encode()
REFUSED = json.dumps(
    wire.json_refusal("sign-in-required", f"nobody is signed in as {USER}", f"run: cms login {USER}")
).encode()

# All that a plain fetch may import beyond what an interpreter has loaded by itself. Measured against the start of the
# interpreter: re 1.5 times, socket 1.7, json 1.8, typing 2.0, logging 2.4, click 3.8, importlib.metadata 5.
HIT_MAY_IMPORT = frozenset(
    {
        "_socket",
        "atexit",
        "cms_oauth",
        "cms_oauth.dial",
        "cms_oauth.expand",
        "cms_oauth.fetch",
        "cms_oauth.impostor",
        "cms_oauth.main",
        "cms_oauth.paths",
        "cms_oauth.peer",
        "cms_oauth.sasl",
        "cms_oauth.wire",
        "time",
    }
)


class Run:
    """One run of the command in this process."""

    def __init__(self, status: int, out: str, err: str, requests: list[bytes]) -> None:
        self.status = status
        self.out = out
        self.err = err
        self.requests = requests


Client = Callable[..., Run]


@pytest.fixture
def client(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Client:
    """Run the command against a daemon that gives these answers."""

    def run(*answers: Answer, arguments: tuple[str, ...] = (f"--user={USER}",)) -> Run:
        with Daemon(tmp_path / "cms.sock", *answers) as daemon:
            status = main.run([f"--cms_sock={daemon.path}", *arguments])
        Path(daemon.path).unlink()
        out, err = capfd.readouterr()
        return Run(status, out, err, daemon.requests)

    return run


def assert_one_line(run: Run, status: int, *words: str) -> None:
    assert status == run.status
    assert "" == run.out
    assert run.err.startswith("cms-oauth: ")
    assert 1 == run.err.count("\n")
    for word in words:
        assert word in run.err
    assert TOKEN not in run.err


@pytest.mark.parametrize("form", [form for form in wire.FORMS if form != "json"])
def test_every_plain_form_is_made_from_xoauth2(client: Client, form: str) -> None:
    """The daemon is asked one question, and the same, whatever is to be printed."""
    done = client(XOAUTH2, arguments=(f"--user={USER}", f"--output={form}"))

    assert (0, wire.render(form, USER, TOKEN).decode() + "\n", "") == (done.status, done.out, done.err)
    assert [f"SMTP,why {USER}\n".encode()] == done.requests


def test_no_newline_prints_none(client: Client) -> None:
    """For tools that take a newline for a part of the token."""
    assert XOAUTH2.decode() == client(XOAUTH2, arguments=("--no_newline",)).out


def test_the_protocol_and_the_user_are_what_was_named(client: Client) -> None:
    """Any name that the configuration may give to a protocol, and no user for the only account."""
    assert [b"GRAPH,why\n"] == client(XOAUTH2, arguments=("--proto=GRAPH",)).requests


def test_json_is_the_daemons_own_object(client: Client) -> None:
    """With the expiry, which no other form has."""
    done = client(GRANTED, arguments=("--output=json",))

    assert 0 == done.status
    assert json.loads(GRANTED) == json.loads(done.out)
    assert [b"SMTP,json\n"] == done.requests


def test_a_refusal_is_one_answer_and_one_line(client: Client) -> None:
    """The daemon's line has it all: what happened, whose move it is, the next command."""
    done = client(wire.refusal_line("sign-in-required", f"nobody is signed in as {USER}", f"run: cms login {USER}"))

    assert_one_line(done, 75)
    assert f"cms-oauth: nobody is signed in as {USER} (sign-in-required) - run: cms login {USER}\n" == done.err
    assert [f"SMTP,why {USER}\n".encode()] == done.requests


@pytest.mark.parametrize(("code", "status"), wire.EXIT_CODES.items())
def test_each_code_has_its_exit_status(client: Client, code: str, status: int) -> None:
    """Those of sysexits.h, in plain forms and in JSON, of this daemon and of an older one."""
    refusal = json.dumps(wire.json_refusal(code, "what happened", "what to do")).encode()
    line = wire.refusal_line(code, "what happened", "what to do")

    assert_one_line(client(line), status, f"what happened ({code}) - what to do")
    assert_one_line(client(b"", refusal), status, f"what happened ({code}) - what to do")
    assert_one_line(client(refusal, arguments=("--output=json",)), status, f"({code})")


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        (b"!denied 0 no\task\n", 77, "no (denied) - ask"),
        (b"!denied 0 no\task", 77, "no (denied) - ask"),
        (b"!denied 0 no\t\n", 77, "no (denied) - run: cms status"),
        (b"!busy 5 too many\twait\n", 75, "too many (busy) - wait; cms tries again in 5 s"),
        (b"!mercury-retrograde 0 no\task\n", 75, "no (mercury-retrograde) - ask"),
        (b"!denied 0 caf\xe9\task\n", 77, "(denied)"),
        (b"!denied 0 \x1b[2Jno\tand\tmore\n", 77, "?[2Jno (denied) - and more"),
    ],
)
def test_a_refusals_line_is_read_as_it_is_meant(client: Client, line: bytes, status: int, told: str) -> None:
    """With and without a hint or a pause, of a later daemon too, and nothing in it moves the cursor."""
    assert_one_line(client(line), status, told)


@pytest.mark.parametrize(
    "line",
    [
        *(b"!", b"!denied", b"!denied 0", b"!denied 0 ", b"! 0 no\task\n"),
        *(b"!denied soon no\task\n", b"!denied -1 no\task\n", b"!denied " + b"9" * 5000 + b" no\task\n"),
        *(b"!denied 0 no\task\nuser=u", b"!denied 0 two\nlines\task\n"),
    ],
)
def test_half_a_refusal_is_no_refusal_of_cms(client: Client, line: bytes) -> None:
    """Mail waits, and the client says that the reply was cut off."""
    assert_one_line(client(line), 75, "half a reply")


# --- older daemons ---


def refusing(known: tuple[str, ...], refusal: bytes) -> Callable[[bytes], bytes]:
    """Answer as a daemon does that knows these options only: nothing to another one."""

    def answer(request: bytes) -> bytes:
        head, _, _ = request.decode().strip().partition(" ")
        options = head.split(",")[1:]
        if any(option.partition("=")[0] not in known for option in options):
            return b""
        if "json" in options:
            return refusal or GRANTED
        return b"" if refusal else XOAUTH2

    return answer


BEFORE_WHY = (*wire.FORMS, "min", "rejected")


@pytest.mark.parametrize("form", wire.FORMS)
def test_a_daemon_before_why_is_asked_for_json(client: Client, form: str) -> None:
    """It answers nothing to an option that it does not know; the token is in its JSON, and every form is made of it."""
    done = client(refusing(BEFORE_WHY, b""), arguments=(f"--user={USER}", f"--output={form}"))
    expected = json.loads(GRANTED) if form == "json" else wire.render(form, USER, TOKEN).decode()

    assert 0 == done.status
    assert expected == (json.loads(done.out) if form == "json" else done.out.removesuffix("\n"))
    asked = [f"SMTP,why {USER}\n".encode(), f"SMTP,json {USER}\n".encode()]
    assert asked[form == "json" :] == done.requests


@pytest.mark.parametrize("form", wire.FORMS)
def test_a_daemon_before_why_says_why_in_json(client: Client, form: str) -> None:
    """Its refusal is told as ever."""
    done = client(refusing(BEFORE_WHY, REFUSED), arguments=(f"--user={USER}", f"--output={form}"))

    assert_one_line(done, 75, f"nobody is signed in as {USER} (sign-in-required) - run: cms login {USER}")


def test_a_daemon_without_options_is_asked_in_its_own_words(client: Client) -> None:
    """cloud_mdir_sync's knows the protocol and the user only."""
    done = client(refusing((), b""), arguments=("--output=token",))

    assert (0, f"{TOKEN}\n") == (done.status, done.out)
    assert [b"SMTP,why\n", b"SMTP,json\n", b"SMTP\n"] == done.requests


def test_a_code_of_a_later_daemon_makes_mail_wait(client: Client) -> None:
    """Whatever it means, it is no reason to bounce."""
    assert_one_line(client(b"", b'{"error": {"code": "mercury-retrograde"}}'), 75, "(mercury-retrograde)")


def test_a_pause_is_said(client: Client) -> None:
    """How long it takes until cms itself tries again."""
    refusal = json.dumps(wire.json_refusal("unavailable", "it is down", "wait", 42)).encode()

    assert_one_line(client(b"", refusal), 75, "wait; cms tries again in 42 s")


def test_a_reason_cannot_break_the_line_or_move_the_cursor(client: Client) -> None:
    """The reason comes from another process; stderr is a terminal or a log."""
    refusal = json.dumps(wire.json_refusal("denied", "two\nlines \x1b[2J", "h\udcff")).encode()

    assert_one_line(client(b"", refusal), 77, "two lines ?[2J")


def test_a_token_that_came_between_the_two_questions_is_used(client: Client) -> None:
    """The first question ran into a fetch that took too long; by the second the token is there."""
    done = client(b"", GRANTED, arguments=("--output=token",))

    assert (0, TOKEN + "\n") == (done.status, done.out)


def test_no_daemon(client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """EX_UNAVAILABLE, with the path and the command that mends it."""
    status = main.run([f"--cms_sock={tmp_path}/none.sock"])
    out, err = capfd.readouterr()

    assert_one_line(Run(status, out, err, []), 69, f"{tmp_path}/none.sock", "cms run")


def test_a_daemon_that_leaves_between_the_two_questions(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second question has its own ways to fail."""
    replies: list[dial.DaemonReply | dial.Failed] = [
        dial.DaemonReply(b""),
        dial.Failed("no-daemon", "gone", "start it"),
    ]
    monkeypatch.setattr(dial, "round_trip", lambda *_: replies.pop(0))

    assert_one_line(client(b""), 69, "gone")


def test_who_may_not_ask_is_told_so(client: Client) -> None:
    """cms hangs up on them before it reads a byte, and is not asked again: its log has them once."""
    assert_one_line(client(HANG_UP, XOAUTH2), 77, f"hung up on uid {os.geteuid()}", "(denied)", "users=")


def test_silence_without_a_reason(client: Client) -> None:
    """Of a daemon that answers nothing to any question."""
    done = client(b"", arguments=())

    assert_one_line(done, 75, "answered nothing and gave no reason")
    assert [b"SMTP,why\n", b"SMTP,json\n", b"SMTP\n"] == done.requests


@pytest.mark.parametrize("length", [1, 5, 20, len(XOAUTH2) - 1])
def test_half_a_reply_is_no_credential(client: Client, length: int) -> None:
    """Whatever is missing at the end, it is seen, and not printed."""
    words = "half a reply" if length > 4 else "not a reply of cms"

    assert_one_line(client(XOAUTH2[:length]), 75, words, f"({length} bytes)")


@pytest.mark.parametrize(
    "reply",
    [b"ERROR: something " + TOKEN.encode(), b"\xff\xfe\x00", XOAUTH2 + b"\n", b"user=\xff\x01auth=Bearer T\x01\x01"],
)
def test_a_garbage_reply_is_no_credential(client: Client, reply: bytes) -> None:
    """Nor is it quoted: there may be a token in it."""
    assert_one_line(client(reply), 75, f"({len(reply)} bytes)")


@pytest.mark.parametrize(
    "reply",
    [
        GRANTED[:-1],
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"error": "sorry"}',
        b'{"token": 1, "user": "u"}',
        b'{"token": "two words", "user": "u"}',
        b'{"token": "T"}',
        b'{"token": "T", "user": "\\udcff"}',
    ],
)
def test_garbage_for_json_is_no_credential_either(client: Client, reply: bytes) -> None:
    """In answer to either question."""
    assert_one_line(client(reply, arguments=("--output=json",)), 75, "bytes)")
    assert_one_line(client(b"", reply), 75, "bytes)")


def test_a_reply_without_end_is_refused(client: Client) -> None:
    """A peer that sends without end is not cms."""
    assert_one_line(client(b"x" * (wire.MAX_REPLY + 1)), 75, "this is not cms")


def test_a_daemon_that_does_not_answer_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 10 s in all, the second question included; here after a tenth."""
    assert 10.0 == wire.CLIENT_SECONDS
    monkeypatch.setattr(wire, "CLIENT_SECONDS", 0.1)

    assert_one_line(client(HOLD), 75, "no answer in time")
    assert_one_line(client(b"", HOLD), 75, "no answer in time")


@pytest.mark.parametrize("user", [f" {USER} ", f"{USER}\t"])
def test_blanks_around_a_user_are_left_out(client: Client, user: str) -> None:
    """A request has no spaces in it, and the daemon takes off quotes and `<>`."""
    assert [f"SMTP,why {USER}\n".encode()] == client(XOAUTH2, arguments=(f"--user={user}",)).requests


def test_a_blank_user_is_not_the_only_account(client: Client) -> None:
    """It is most likely a mistake in a script."""
    done = client(XOAUTH2, arguments=("--user= ",))

    assert_one_line(done, 64, "no spaces")
    assert [] == done.requests


@pytest.mark.parametrize(
    "arguments", [("--proto=smtp",), ("--user=two words",), ("--user=a\nIMAP b",), ("--user=" + "u" * 2000,)]
)
def test_a_request_that_would_be_bad_is_not_sent(client: Client, arguments: tuple[str, ...]) -> None:
    """Whatever the command line says, no second request is slipped in."""
    done = client(XOAUTH2, arguments=arguments)

    assert_one_line(done, 64, "(bad-request)")
    assert [] == done.requests


def test_a_mistake_in_the_options_is_reported(client: Client) -> None:
    """By argparse, which reads what the fast parser declines."""
    assert_one_line(client(XOAUTH2, arguments=("--bogus",)), 64, "unrecognized arguments: --bogus")


def test_the_usual_places_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without --cms_sock, $CMS_SOCK says where the daemon is."""
    with Daemon(tmp_path / "cms.sock", XOAUTH2) as daemon:
        monkeypatch.setenv("CMS_SOCK", daemon.path)
        status = main.run([])

    assert 0 == status
    assert XOAUTH2.decode() + "\n" == capfd.readouterr().out


def test_where_it_looked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A daemon may run with its socket elsewhere: then a person is told each place, and how another is named."""
    monkeypatch.delenv("CMS_SOCK", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("cms_oauth.paths._USERS_RUNTIME", str(tmp_path / "none"))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_RUNTIME", str(tmp_path / "system"))
    places = f"there is no socket at {tmp_path}/cms/cms.sock: {tmp_path}/cms does not exist, nor at {tmp_path}/system/"

    assert 69 == main.run([])
    said = capfd.readouterr().err
    assert places in said
    assert "; to use another path, set --cms_sock or CMS_SOCK (no-daemon) - start the daemon, run: cms run\n" in said


def test_a_named_place_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And where it was named is said."""
    monkeypatch.setenv("CMS_SOCK", f"{tmp_path}/none")

    assert 69 == main.run([])
    assert f"no socket at {tmp_path}/none, which CMS_SOCK names (no-daemon)" in capfd.readouterr().err
    assert 69 == main.run([f"--cms_sock={tmp_path}/no"])
    assert f"no socket at {tmp_path}/no (no-daemon)" in capfd.readouterr().err


def test_a_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No shell expands it in `--cms_sock=~/cms.sock`, nor in a file of the environment's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with Daemon(tmp_path / "cms.sock", XOAUTH2, XOAUTH2):
        assert 0 == main.run(["--cms_sock=~/cms.sock"])
        monkeypatch.setenv("CMS_SOCK", "~/cms.sock")
        assert 0 == main.run([])

    assert 2 * f"{XOAUTH2.decode()}\n" == capfd.readouterr().out


def test_variables_are_replaced_as_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A crontab, aerc and git's configuration pass `$NAME` on as it is: the client finds the daemon's own path."""
    monkeypatch.setenv("WHERE", str(tmp_path))
    with Daemon(tmp_path / "cms.sock", XOAUTH2, XOAUTH2):
        assert 0 == main.run(["--cms_sock=${WHERE}/cms.sock"])
        monkeypatch.setenv("CMS_SOCK", "$WHERE/cms.sock")
        assert 0 == main.run([])

    assert 2 * f"{XOAUTH2.decode()}\n" == capfd.readouterr().out


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("$NO_SUCH_NAME/cms.sock", "the variable NO_SUCH_NAME is not set in this environment (bad-request) - set it"),
        ("%t/cms.sock", "only systemd replaces %t, in its own files (bad-request) - write $XDG_RUNTIME_DIR"),
        ("/run/$(id -u)/cms.sock", "it has a command in it, and no shell reads a path (bad-request) - write what"),
    ],
)
def test_a_path_that_means_another_is_refused(
    path: str, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the option and from the variable, in one line that names where it stands."""
    monkeypatch.setenv("CMS_SOCK", path)

    assert (64, 64) == (main.run([f"--cms_sock={path}"]), main.run([]))
    out, err = capfd.readouterr()
    assert ("", 2) == (out, err.count("\n"))
    assert f"cms-oauth: --cms_sock: {words}" in err
    assert f"cms-oauth: CMS_SOCK: {words}" in err


def test_a_folder_that_was_removed_is_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A relative path has no meaning there, and other paths have theirs."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with Daemon(tmp_path / "cms.sock", XOAUTH2):
        statuses = main.run(["--cms_sock=cms.sock"]), main.run([f"--cms_sock={tmp_path}/cms.sock"])

    out, err = capfd.readouterr()
    assert ((64, 0), f"{XOAUTH2.decode()}\n") == (statuses, out)
    assert "the current folder no longer exists, and relative paths start there (bad-request) - `cd` to" in err


# --- --rejected ---


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], None]:
    """Put this on standard input."""

    def put(data: bytes) -> None:
        (tmp_path / "stdin").write_bytes(data)
        with (tmp_path / "stdin").open("rb") as file:
            os.dup2(file.fileno(), 0)

    return put


@pytest.fixture(autouse=True)
def own_stdin() -> object:
    """Give standard input back after the test."""
    kept = os.dup(0)
    yield None
    os.dup2(kept, 0)
    os.close(kept)


def test_a_refused_token_is_named_by_its_hash_and_another_one_printed(
    client: Client, refused: Callable[[bytes], None]
) -> None:
    """The token itself does not go back over the socket."""
    refused(b"OLD-token\n")
    done = client(XOAUTH2, arguments=("--rejected", "--output=token"))

    assert (0, TOKEN + "\n") == (done.status, done.out)
    digest = hashlib.sha256(b"OLD-token").hexdigest()[:16]
    assert [f"SMTP,why,rejected={digest}\n".encode()] == done.requests


@pytest.mark.parametrize("arguments", [("--rejected",), ("--rejected", "--output=json")])
def test_the_refused_token_is_not_printed_again(
    client: Client, refused: Callable[[bytes], None], arguments: tuple[str, ...]
) -> None:
    """cms may not ask for a new one too often; the old one would be refused again."""
    refused(TOKEN.encode())
    answer = GRANTED if "--output=json" in arguments else XOAUTH2

    assert_one_line(client(answer, arguments=arguments), 75, "no other token")


@pytest.mark.parametrize("data", [b"", b"\n", b"two words", b"\xff\xfe", b"x" * (wire.MAX_REPLY + 1)])
def test_without_a_token_on_stdin_nothing_is_asked(
    client: Client, refused: Callable[[bytes], None], data: bytes
) -> None:
    """Nothing, several words, other bytes, and an input without end."""
    refused(data)
    done = client(XOAUTH2, arguments=("--rejected",))

    assert_one_line(done, 64, "standard input")
    assert [] == done.requests


def test_a_closed_stdin_is_no_token(client: Client) -> None:
    """As under a daemon that closes what it does not need."""
    os.close(0)
    try:
        assert_one_line(client(XOAUTH2, arguments=("--rejected",)), 64, "standard input")
    finally:
        os.open(os.devnull, os.O_RDONLY)


# --- as a process ---


def start(
    *arguments: str, program: str = "cms_oauth.main", stdout: int | None = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", program, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("answer", "output", "status", "more"),
    [
        (XOAUTH2, "xoauth2", 0, set()),
        (XOAUTH2, "token", 0, set()),
        (XOAUTH2, "oauthbearer-b64", 0, {"binascii"}),
        (wire.refusal_line("sign-in-required", "nobody is signed in", "log in", 60), "xoauth2", 75, {"cms_oauth.text"}),
        (wire.refusal_line("denied", "you may not ask"), "xoauth2-b64", 77, {"cms_oauth.text"}),
    ],
)
def test_a_fetch_imports_no_more_than_it_may(
    tmp_path: Path, answer: bytes, output: str, status: int, more: set[str]
) -> None:
    """What a token, or a refusal, loads on top of the bare interpreter: one more import may double its start."""
    program = (
        "import os, sys; before = set(sys.modules); from cms_oauth import main; status = main.run(sys.argv[1:]); "
        "print('\\n' + ' '.join(set(sys.modules) - before)); sys.exit(status)"
    )
    with Daemon(tmp_path / "cms.sock", answer) as daemon:
        done = subprocess.run(
            # -S: what `site` loads for the environment of the tests is not the client's; `os` it loads everywhere.
            [sys.executable, "-S", "-c", program, f"--cms_sock={daemon.path}", f"--output={output}", "--no_newline"],
            env={"PYTHONPATH": str(Path(main.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
    credential, modules = done.stdout.splitlines()

    assert ("" if status else wire.render(output, USER, TOKEN).decode(), status) == (credential, done.returncode)
    assert HIT_MAY_IMPORT | more >= set(modules.split())
    assert {"_socket", "cms_oauth.dial"} <= set(modules.split())
    assert 1 == len(daemon.requests)


@pytest.mark.parametrize("answers", [(b"", REFUSED), (b"",), (XOAUTH2[:-1],)])
def test_a_failure_is_reported_without_click(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    """A queue of mail that waits for a sign-in runs the client again and again; json is all that it costs more."""
    program = (
        "import sys; from cms_oauth import main; main.run(sys.argv[1:]); "
        "print(sorted({'click', 'platformdirs', 'socket', 'typing', 'dataclasses', 'logging'} & set(sys.modules)))"
    )
    with Daemon(tmp_path / "cms.sock", *answers) as daemon:
        done = subprocess.run(
            [sys.executable, "-S", "-c", program, f"--cms_sock={daemon.path}"],
            env={"PYTHONPATH": str(Path(main.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        )

    assert "[]\n" == done.stdout
    assert done.stderr.startswith("cms-oauth: ")


def test_the_process_ends_with_the_status(tmp_path: Path) -> None:
    """The console script returns what `main` returns."""
    with start(f"--cms_sock={tmp_path}/none.sock") as client:
        out, err = client.communicate(timeout=PATIENCE)

    assert (69, "") == (client.returncode, out)
    assert "Traceback" not in err


def test_a_reader_that_has_gone_is_no_traceback(tmp_path: Path) -> None:
    """`cms-oauth | true`: EX_IOERR and one line, at exit too."""
    reading, writing = os.pipe()
    os.close(reading)
    with Daemon(tmp_path / "cms.sock", XOAUTH2) as daemon, start(f"--cms_sock={daemon.path}", stdout=writing) as client:
        os.close(writing)
        _, err = client.communicate(timeout=PATIENCE)

    assert 74 == client.returncode
    assert "cms-oauth: the token cannot be written: Broken pipe" in err
    assert 1 == err.count("\n")


# Programs that run the command in their own process, and what they print at the end.
_AT_EXIT = "import atexit; atexit.register(print, 'at exit')"
_BUFFERED = "sys.stdout.write('buffered')"
_TORN_DOWN = "type('Last', (), {'__del__': lambda self: print('torn down')})()"


@pytest.mark.parametrize(
    ("before", "printed"),
    [(_AT_EXIT, "at exit\n"), (_BUFFERED, "buffered"), (f"last = {_TORN_DOWN}", "")],
    ids=["atexit", "buffered", "torn down"],
)
@pytest.mark.parametrize("program", ["main", "git_credential"])
def test_the_end_of_the_process_costs_nothing(program: str, before: str, printed: str) -> None:
    """Nothing that is buffered or registered for the exit is lost; the interpreter does not take itself apart."""
    ran = subprocess.run(
        # -S: coverage would be registered for the exit.
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; from cms_oauth import {program}; {before}; sys.exit({program}.main())",
        ],
        env={"PYTHONPATH": str(Path(main.__file__).parent.parent), "CMS_SOCK": "/none/cms.sock"},
        input="protocol=smtp\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert printed == ran.stdout
    assert ran.returncode == (69 if program == "main" else 64)
    assert 1 == ran.stderr.count("\n")


def test_output_that_cannot_be_written_is_the_interpreters_to_report() -> None:
    """As without cms: what a program has printed before, to a disk that is full."""
    program = "import sys; from cms_oauth import main; sys.stdout.write('more'); sys.exit(main.main())"
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-S", "-c", program, "--cms_sock=/none/cms.sock"],
            env={"PYTHONPATH": str(Path(main.__file__).parent.parent)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert 120 == ran.returncode
    assert "No space left on device" in ran.stderr


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stdout_or_stderr_is_no_traceback(tmp_path: Path, closed: str) -> None:
    """And what is meant for stderr never goes to stdout instead."""
    command = f'exec "{sys.executable}" -m cms_oauth.main --cms_sock="$1" {closed}>&-'
    with Daemon(tmp_path / "cms.sock", XOAUTH2, b"", REFUSED) as daemon:
        done, failed = (
            subprocess.run(["sh", "-c", command, "sh", daemon.path], capture_output=True, text=True, check=False)
            for _ in range(2)
        )

    assert (74 if closed == "1" else 0, 75) == (done.returncode, failed.returncode)
    assert "" == failed.stdout
    assert "Traceback" not in done.stderr + failed.stderr


def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    """SIGINT ends it as a shell expects, without a word."""
    with Daemon(tmp_path / "cms.sock", HOLD) as daemon:
        program = "from cms_oauth import main; print('ready', flush=True); raise SystemExit(main.main())"
        with subprocess.Popen(
            [sys.executable, "-c", program, f"--cms_sock={daemon.path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdout is not None
            assert "ready\n" == client.stdout.readline()
            until(lambda: daemon.requests, "the request")
            client.send_signal(signal.SIGINT)
            out, err = client.communicate(timeout=PATIENCE)

    assert (130, "", "") == (client.returncode, out, err)


def test_main_reads_the_processs_own_arguments(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """And Ctrl-C anywhere in it is 130."""
    monkeypatch.setattr(sys, "argv", ["cms-oauth", "--cms_sock=/none/cms.sock"])
    assert 69 == main.main()

    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "run", interrupted)
    assert 130 == main.main()
    assert 1 == capfd.readouterr().err.count("\n")


def test_a_test_gets_the_credential_and_its_failure_is_reported(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test asks for its own protocol; what it finds wrong ends like every failure."""
    from cms_oauth.mailtest import run as mailtest  # noqa: PLC0415 - as the command does

    calls: list[tuple[str, ...]] = []
    outcomes = [None, dial.Failed("denied", "535", "ask an admin")]

    def fake(*arguments: str) -> mailtest.Report:
        calls.append(arguments)
        return mailtest.Report(outcomes.pop(0))

    monkeypatch.setattr(mailtest, "run", fake)
    passed = client(XOAUTH2, arguments=("--test-imap=host",))

    assert (0, "", "") == (passed.status, passed.out, passed.err)
    assert [b"IMAP,why\n"] == passed.requests
    assert_one_line(client(XOAUTH2, arguments=("--test-smtp=host:25",)), 77, "535 (denied) - ask an admin")
    assert [("imap", "host", USER, TOKEN), ("smtp", "host:25", USER, TOKEN)] == calls


def test_a_credential_is_not_printed_by_accident() -> None:
    """Its repr has no token in it."""
    assert TOKEN not in repr(fetch.Credential(USER, TOKEN, TOKEN))
