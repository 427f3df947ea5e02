"""`git-credential-cms` against a daemon that follows a script: what git is told, and what the daemon is asked."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scripted import HOLD, Answer, Daemon
from support.waiting import until

from cms_oauth import git_credential, main, wire

TOKEN = "eyJ0eXAi.T-o_k~e+n/" + "x" * 40
OTHER = "eyJ0eXAi." + "y" * 40
USER = "user@domain.com"
GRANTED = json.dumps(wire.json_reply(USER, "SMTP", TOKEN, expires_in=3599, expires_at=1_800_000_000)).encode()
REFUSED = json.dumps(wire.json_refusal("sign-in-required", "nobody is signed in", "log in")).encode()
UNKNOWN = json.dumps(wire.json_refusal("unknown-account", "no such account", "check it")).encode()
REJECTED = hashlib.sha256(TOKEN.encode()).hexdigest()[:16]


class Run:
    """One run of the helper in this process."""

    def __init__(self, status: int, out: str, err: str, requests: list[bytes]) -> None:
        self.status = status
        self.out = out
        self.err = err
        self.requests = requests


Helper = Callable[..., Run]


@pytest.fixture
def helper(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Run the helper as git does, against a daemon that gives these answers."""

    def run(action: str, *answers: Answer, options: tuple[str, ...] = (), **description: str) -> Run:
        lines = "".join(f"{name}={value}\n" for name, value in description.items())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode(errors="surrogateescape"))))
        with Daemon(tmp_path / "cms.sock", *(answers or (b"",))) as daemon:
            status = git_credential.answer([f"--cms_sock={daemon.path}", *options, action])
        Path(daemon.path).unlink()
        out, err = capfd.readouterr()
        return Run(status, out, err, daemon.requests)

    return run


def test_a_path_that_means_another_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """git runs a helper without a shell where it can, so the helper reads the path by the rule for all paths."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"protocol=smtp\n")))

    assert 64 == git_credential.answer(["--cms_sock=%t/cms.sock", "get"])
    out, err = capfd.readouterr()
    assert "quit=1\n" == out
    assert "git-credential-cms: --cms_sock: only systemd replaces %t" in err


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_a_person_who_tries_it_is_told_what_it_does(asked: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With an example, in lines that fit 80 columns; nothing is read from the terminal."""
    assert 0 == git_credential.answer([asked])
    said = capfd.readouterr().out

    assert "Example, in git's configuration: helper = cms --user=user@domain.com\n" in said
    assert 80 >= max(map(len, said.splitlines()))


@pytest.mark.parametrize(
    ("scheme", "protocol"),
    [("smtp", "SMTP"), ("smtps", "SMTP"), ("imap", "IMAP"), ("imaps", "IMAP"), ("pop3", "POP"), ("pop3s", "POP")],
)
def test_get_answers_user_and_token(helper: Helper, scheme: str, protocol: str) -> None:
    """For every protocol that mail is sent or read by, with the moment at which the token ends."""
    done = helper("get", GRANTED, protocol=scheme, host="smtp.office365.com:587", username=USER)

    assert (0, "") == (done.status, done.err)
    assert f"username={USER}\npassword={TOKEN}\npassword_expiry_utc=1800000000\n" == done.out
    assert [f"{protocol},json {USER}\n".encode()] == done.requests


def test_the_user_is_gits_or_the_options_or_the_only_one(helper: Helper) -> None:
    """In this order."""
    options = ("--user=option@domain.com",)

    named = helper("get", GRANTED, options=options, protocol="smtp", username=USER)
    option = helper("get", GRANTED, options=options, protocol="smtp", host="h")
    only = helper("get", GRANTED, protocol="smtp", host="h")

    assert [f"SMTP,json {USER}\n".encode()] == named.requests
    assert [b"SMTP,json option@domain.com\n"] == option.requests
    assert [b"SMTP,json\n"] == only.requests
    assert f"username={USER}\n" in only.out


def test_a_grant_without_an_expiry_is_answered_without_one(helper: Helper) -> None:
    """A daemon of another version may leave it out."""
    done = helper("get", json.dumps({"user": USER, "token": TOKEN}).encode(), protocol="smtp")

    assert f"username={USER}\npassword={TOKEN}\n" == done.out


@pytest.mark.parametrize("scheme", ["https", "http", "ssh", "", "SMTP"])
@pytest.mark.parametrize("action", ["get", "store", "erase"])
def test_what_is_no_mail_server_gets_nothing(helper: Helper, action: str, scheme: str) -> None:
    """The daemon is not even asked: a token must never reach a web server."""
    done = helper(action, GRANTED, protocol=scheme, host="github.com", username=USER, password="p")

    assert (0, "", "", []) == (done.status, done.out, done.err, done.requests)


def test_a_description_without_a_protocol_gets_nothing(helper: Helper) -> None:
    """An empty one, that is."""
    done = helper("get", GRANTED)

    assert (0, "", []) == (done.status, done.out, done.requests)


@pytest.mark.parametrize("action", ["store", "of-tomorrow"])
def test_other_actions_do_nothing(helper: Helper, action: str) -> None:
    """A token is never stored; and git says that helpers leave alone what they do not know."""
    done = helper(action, GRANTED, protocol="smtp", host="h", username=USER, password=TOKEN)

    assert (0, "", "", []) == (done.status, done.out, done.err, done.requests)


def test_without_a_token_git_is_told_to_quit(helper: Helper) -> None:
    """Otherwise git would ask at the terminal; the reason is one line."""
    done = helper("get", REFUSED, protocol="smtp", username=USER)

    assert (75, "quit=1\n") == (done.status, done.out)
    assert "git-credential-cms: nobody is signed in (sign-in-required) - log in\n" == done.err


def test_a_user_of_gits_whom_cms_does_not_serve_may_have_a_password(helper: Helper) -> None:
    """git goes on to its other helpers and to the terminal; the reason is one line, for who misspelt a name."""
    done = helper("get", UNKNOWN, protocol="smtp", username="other@domain.com")

    assert (67, "") == (done.status, done.out)
    assert "git-credential-cms: no such account (unknown-account) - check it\n" == done.err


@pytest.mark.parametrize("options", [(), ("--user=other@domain.com",)])
def test_a_helper_that_is_set_up_wrongly_makes_git_quit(helper: Helper, options: tuple[str, ...]) -> None:
    """Where git gave no user, its configuration needs a name or another one: no password would help."""
    done = helper("get", UNKNOWN, options=options, protocol="smtp")

    assert (67, "quit=1\n") == (done.status, done.out)


def test_erase_has_the_token_replaced(helper: Helper) -> None:
    """The daemon is told the hash of the refused one, and what it answers is not shown."""
    fresh = wire.render("xoauth2", USER, OTHER)

    done = helper("erase", fresh, protocol="imaps", username=USER, password=TOKEN)

    assert (0, "", "") == (done.status, done.out, done.err)
    assert [f"IMAP,why,rejected={REJECTED} {USER}\n".encode()] == done.requests


def test_erase_says_when_there_is_no_other_token(helper: Helper) -> None:
    """As after a second refusal within five minutes."""
    done = helper("erase", wire.render("xoauth2", USER, TOKEN), protocol="smtp", username=USER, password=TOKEN)

    assert (75, "") == (done.status, done.out)
    assert done.err.startswith("git-credential-cms: cms has no other token than the refused one")
    assert TOKEN not in done.err


@pytest.mark.parametrize("password", ["", "caf\udce9", "caf\xe9", "two words"])
def test_erase_of_what_is_no_token_does_nothing(helper: Helper, password: str) -> None:
    """git tells every helper of a refusal: of no password, and of one from elsewhere, in whatever bytes."""
    done = helper("erase", GRANTED, protocol="smtp", username=USER, password=password)

    assert (0, "", "", []) == (done.status, done.out, done.err, done.requests)


@pytest.mark.parametrize(
    "arguments",
    [[], ["--user=u"], ["--output=token", "get"], ["--proto=IMAP", "get"], ["--rejected", "get"], ["x", "get"]],
)
def test_wrong_arguments_are_explained(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The usage is one line, and standard output stays empty."""
    status = git_credential.answer(arguments)

    out, err = capfd.readouterr()
    assert (64, "", 1) == (status, out, err.count("\n"))
    assert "helper = cms" in err


def test_a_description_that_is_no_text_is_a_bad_request(helper: Helper) -> None:
    """No traceback, which might show a token."""
    done = helper("get", GRANTED, protocol="smtp", username="\udcff")

    assert (64, "quit=1\n", []) == (done.status, done.out, done.requests)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cms_oauth.git_credential", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command(tmp_path: Path) -> None:
    """The command runs as a process."""
    with Daemon(tmp_path / "cms.sock", GRANTED) as daemon:
        out, err = start(f"--cms_sock={daemon.path}", "get").communicate("protocol=smtp\n\n")

    assert f"password={TOKEN}" in out.splitlines()
    assert "" == err


def test_control_c_is_quiet(tmp_path: Path) -> None:
    """It ends as a shell expects, without a traceback."""
    with Daemon(tmp_path / "cms.sock", HOLD) as daemon, start(f"--cms_sock={daemon.path}", "get") as process:
        assert process.stdin
        process.stdin.write("protocol=smtp\n\n")
        process.stdin.close()
        until(lambda: daemon.requests, "the question")
        process.send_signal(signal.SIGINT)
        assert process.stderr
        said = process.stderr.read()

    assert (main.INTERRUPTED, "") == (process.returncode, said)
