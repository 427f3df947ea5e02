"""What keeps a program from cms itself: each of the client's own failures, brought about, has its verdict."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.scripted import HANG_UP, HOLD, Answer, Daemon, refuse_to_connect

from cms.core.preflight import misfit
from cms_oauth import dial, fetch, wire
from cms_oauth.diagnosis import local
from cms_oauth.diagnosis.lookup import of_client
from cms_oauth.diagnosis.verdicts import Claims

TOKEN = "eyJ0eXAi.T-o_k~e+n/" + "x" * 40
XOAUTH2 = wire.render("xoauth2", "user@domain.com", TOKEN)

Stage = Callable[[Path, ExitStack], None]


def answering(*answers: Answer) -> Stage:
    def open_daemon(path: Path, stack: ExitStack) -> None:
        stack.enter_context(Daemon(path, *answers))

    return open_daemon


def refusing(code: str) -> Stage:
    return answering(b"", json.dumps(wire.json_refusal(code, "words of the daemon's own", "run: cms status")).encode())


def left_behind(path: Path, stack: ExitStack) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def nothing(path: Path, stack: ExitStack) -> None:
    pass


def file(path: Path, stack: ExitStack) -> None:
    path.touch()


def folder(path: Path, stack: ExitStack) -> None:
    path.mkdir()


STAGES: tuple[tuple[Stage, str], ...] = (
    (nothing, "no-socket"),
    (left_behind, "nobody-listens"),
    (file, "not-a-socket"),
    (folder, "not-a-socket"),
    (answering(HANG_UP), "not-on-the-list"),
    (answering(b""), "empty-reply"),
    (answering(XOAUTH2[:40]), "half-reply"),
    (answering(b"HTTP/1.1 400 Bad Request"), "half-reply"),
    (answering(HOLD), "no-answer-in-time"),
    (refusing("sign-in-required"), "sign-in-required"),
    (refusing("locked"), "locked"),
    (refusing("unknown-account"), "unknown-account"),
    (refusing("unknown-protocol"), "unknown-protocol"),
    (refusing("denied"), "denied"),
    (refusing("unavailable"), "unavailable"),
    (refusing("busy"), "busy"),
    (refusing("bad-request"), "bad-request"),
)


@contextmanager
def stage(path: Path, make: Stage) -> Iterator[None]:
    with ExitStack() as stack:
        make(path, stack)
        yield


@pytest.mark.parametrize(("make", "name"), STAGES, ids=[name for _, name in STAGES])
def test_each_failure_has_its_verdict(make: Stage, name: str, tmp_path: Path) -> None:
    """By the very words that the client says it in."""
    path = tmp_path / "cms.sock"
    with stage(path, make):
        seconds = 0.3 if name == "no-answer-in-time" else 30.0
        answer = fetch.fetch(fetch.Options(socket=str(path)), dial.now() + seconds)

    assert isinstance(answer, dial.Failed)
    assert [name] == [each.name for each in of_client(answer.code, answer.message)]
    assert answer.hint


def test_failures_that_need_another_user_or_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brought about in test_dial.py; here by their words."""
    long = dial.round_trip("/" + "x" * 200, b"", dial.now() + 5, 10)
    refuse_to_connect(monkeypatch)
    closed = dial.round_trip("/root/cms.sock", b"", dial.now() + 5, 10)

    assert isinstance(closed, dial.Failed)
    assert "no-permission" == of_client(closed.code, closed.message)[0].name
    assert isinstance(long, dial.Failed)
    assert "bad-path" == of_client(long.code, long.message)[0].name


@pytest.mark.parametrize(
    "path", ["$NO_SUCH_NAME/s", "$EMPTY/s", "${EMPTY:-x}/s", "%t/s", "$(id -u)/s", "~nobody-at-all/s", "here/s"]
)
def test_a_path_that_means_another(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the rule for paths refuses, and a relative path in a folder that is gone."""
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = fetch.fetch(fetch.Options(socket=path), dial.now() + 1)
    assert isinstance(answer, dial.Failed)

    assert "path-not-read" == of_client(answer.code, answer.message)[0].name


@pytest.mark.parametrize(
    ("claims", "protocol", "name", "mover"),
    [
        (Claims(audience="https://graph.microsoft.com"), "SMTP", "token-for-another-resource", "you"),
        (Claims(audience="https://graph.microsoft.com"), "API", "token-for-another-resource", "you"),
        (Claims(application=True), "IMAP", "token-without-role", "administrator"),
    ],
)
def test_what_the_preflight_refuses(claims: Claims, protocol: str, name: str, mover: str) -> None:
    """The preflight's words say what to do: a sign-in alone would bring the same token again."""
    found = misfit(claims, protocol, ("https://outlook.office.com/SMTP.Send",))

    assert found
    first = of_client("sign-in-required", found.message, "user@domain.com")[0]

    assert (name, mover) == (first.name, first.mover)
    assert "cms login" not in first.steps[0]
    assert not any("{" in step for step in first.steps)


def test_a_sign_in_that_does_not_cover_a_protocol() -> None:
    """Is the one of them that a sign-in mends."""
    said = "the sign-in does not cover POP.AccessAsUser.All: it was given before the configuration asked for that"
    first = of_client("sign-in-required", said, "user@domain.com")[0]

    assert "sign-in-does-not-cover" == first.name
    assert "`cms login user@domain.com`" in first.steps[0]


def test_no_other_token(tmp_path: Path) -> None:
    """What --rejected ends with when cms has nothing else."""
    with Daemon(tmp_path / "cms.sock", XOAUTH2) as daemon:
        answer = fetch.fetch(fetch.Options(socket=daemon.path), dial.now() + 30, TOKEN)

    assert isinstance(answer, dial.Failed)
    assert "no-other-token" == of_client(answer.code, answer.message)[0].name


def test_every_code_has_a_row() -> None:
    """So the page explains each of the daemon's own refusals too."""
    assert set(wire.EXIT_CODES) == {row.code for row in local.ROWS} - {""}


def test_every_verdict_is_whole() -> None:
    """A sentence, something to do, words to find it by; and names that are unique."""
    verdicts = [row.verdict for row in local.ROWS]

    assert len({each.name for each in verdicts}) == len(verdicts)
    assert [] == [each.name for each in verdicts if not (each.cause.endswith(".") and each.steps and each.words)]
