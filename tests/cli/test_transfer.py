"""The terminal's half of `cms import`."""

from __future__ import annotations

import getpass
import io
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cms.cli import transfer
from cms.cli.client import Remote
from cms.system.files import write_private

DONE = {"event": "done", "ok": True, "message": "signed in"}
WANTED = {"event": "password", "message": "/f is encrypted with a password"}


@contextmanager
def daemon(*answers: dict[str, Any]) -> Iterator[tuple[Remote, list[dict[str, Any]]]]:
    """Be a daemon that answers each line with the next of these."""
    ours, theirs = socket.socketpair()
    heard: list[dict[str, Any]] = []

    def play() -> None:
        with theirs, theirs.makefile("rb") as lines:
            for answer, line in zip(answers, lines, strict=False):
                heard.append(json.loads(line))
                theirs.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=play)
    thread.start()
    with Remote(ours) as remote:
        yield remote, heard
    thread.join()


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def no_question(_question: str) -> str:
    raise AssertionError("no password is needed")


def test_what_is_meant_is_told() -> None:
    """cms says what it will do and returns how it ended; it asks for nothing that it does not need."""
    with daemon(DONE) as (remote, heard):
        end = transfer.bring_in(remote, "a", "/f", source="oama", entry="e", ask=no_question)

    assert DONE == end
    assert [{"command": "import", "user": "a", "path": "/f", "source": "oama", "entry": "e"}] == heard


def test_a_password_is_asked_for_when_the_daemon_wants_one() -> None:
    """It goes over the socket, and nowhere else."""
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "secret"

    with daemon(WANTED, DONE) as (remote, heard):
        end = transfer.bring_in(remote, "", "/f", ask=ask)

    assert DONE == end
    assert {"password": "secret"} == heard[-1]
    assert ["/f is encrypted with a password; its password"] == asked


def test_without_a_password_there_is_no_import() -> None:
    """An empty line gives up."""
    with daemon(WANTED) as (remote, heard):
        end = transfer.bring_in(remote, "", "/f", ask=lambda _question: "")

    assert (False, 1) == (end["ok"], len(heard))


@pytest.mark.parametrize(
    ("place", "source", "expected"),
    [
        ("tokens", "", "{here}/tokens"),
        ("/f/../tokens", "pizauth", "/tokens"),
        ("ann@example.test", "oama", "ann@example.test"),
        ("./ann@example.test", "oama", "{here}/ann@example.test"),
        ("there", "oama", "{here}/there"),
        ("ann@example.test", "", "{here}/ann@example.test"),
    ],
)
def test_a_path_is_absolute_and_a_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, source: str, expected: str
) -> None:
    """The daemon's current folder is another one; only oama has names, and a file goes before a name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()

    assert expected.format(here=tmp_path) == transfer.absolute_place(place, source)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _path: None, "cannot be read: No such file or directory"),
        (Path.mkdir, "is a folder"),
        (bind, "is a socket"),
        (Path.touch, "is empty"),
        (lambda path: path.write_text("{}"), ""),
    ],
)
def test_what_holds_no_sign_in_is_said_first(tmp_path: Path, make: Callable[[Path], Any], why: str) -> None:
    """Whose sign-in it is, is the next question."""
    path = tmp_path / "f"
    make(path)

    assert (f"{path} {why}" if why else "") == transfer.why_no_sign_in(str(path))


def test_what_only_a_daemon_can_see_is_its_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root's daemon opens more than who asks it; and a name is no file."""

    def closed(_path: Path) -> os.stat_result:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", closed)

    assert "" == transfer.why_no_sign_in(str(tmp_path / "f"))
    assert "" == transfer.why_no_sign_in("a@example.test")


def test_a_password_is_typed_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("seen\n"))
    monkeypatch.setattr(getpass, "getpass", lambda question: f"unseen after {question}")

    assert "unseen after what: " == transfer.ask_password("what")


def test_a_password_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a password manager; its first line."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(" pass word \nnext\n"))

    assert " pass word " == transfer.ask_password("what")


# --- cms's own exports ---


class Spoken:
    """A person who types these, one after the other."""

    def __init__(self, *words: str) -> None:
        self._words = list(words)
        self.asked: list[str] = []

    def __call__(self, question: str) -> str:
        self.asked.append(question)
        return self._words.pop(0)


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard input is a terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ('{"format": "cms-export"}\n', "", True),
        ('{"format": "cms-export"}\n', "msal", False),
        ("nonsense", "cms", True),
        ("nonsense", "", False),
        ('{"format": "cms-vault"}\n', "", False),
        ("[]\n", "", False),
        ("", "", False),
    ],
)
def test_an_export_says_what_it_is(tmp_path: Path, text: str, source: str, *, expected: bool) -> None:
    """In its first line; --from decides otherwise."""
    (tmp_path / "f").write_text(text)

    assert expected == transfer.is_ours(str(tmp_path / "f"), source)
    assert not transfer.is_ours(str(tmp_path / "none"), "")


@pytest.mark.usefixtures("at_terminal")
def test_a_new_passphrase_is_typed_twice() -> None:
    """And twice the same, of some length."""
    typed = Spoken("correct horse", "correct horse")

    assert "correct horse" == transfer.Passphrase(ask=typed).new()
    assert ["A passphrase for the export (8 characters or more)", "Repeat the passphrase"] == typed.asked
    typed = Spoken("short", "correct horse", "correct horse")
    assert "correct horse" == transfer.Passphrase(ask=typed).new()
    assert typed.asked[1].startswith("That is too short. A passphrase for")
    for words, said in (
        (("correct horse", "correct hors"), "the two passphrases differ"),
        (("short", ""), "there was no passphrase"),
        (("",), "there was no passphrase"),
    ):
        with pytest.raises(transfer.Unsaid, match=said):
            transfer.Passphrase(ask=Spoken(*words)).new()


def test_scripts_say_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the standard input, or the first of a file, which cannot be asked again."""
    file = tmp_path / "phrase"
    file.write_text("short\n")
    with pytest.raises(transfer.Unsaid, match="the passphrase is too short: 8 characters at least"):
        transfer.Passphrase(str(file)).new()
    file.write_text("correct horse\nmore\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("battery staple\n"))

    assert "battery staple" == transfer.Passphrase().new()
    assert ["correct horse"] * 2 == [transfer.Passphrase(str(file)).new(), transfer.Passphrase(str(file)).known()]
    with pytest.raises(transfer.Unsaid, match="cannot be read"):
        transfer.Passphrase(str(tmp_path / "none")).known()


def test_without_a_terminal_there_is_no_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """cms does not take the standard input for a yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))

    assert not transfer.confirm("Replace it?")


@pytest.mark.parametrize(
    ("typed", "expected"), [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False)]
)
def test_a_person_agrees_or_not(monkeypatch: pytest.MonkeyPatch, typed: str, *, expected: bool) -> None:
    """No is what Enter means."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    assert expected == transfer.confirm("Replace it?")


def test_what_is_no_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is decided by a slip; the end of the input says no."""
    spoken = io.StringIO("maybe\nyes\n")
    monkeypatch.setattr(spoken, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", spoken)

    assert transfer.confirm("Replace it?")
    assert 2 == capsys.readouterr().out.count("Replace it?")
    assert not transfer.confirm("Replace it?")


def test_no_passphrase_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under cron there is no input: nothing was too short."""
    monkeypatch.setattr("sys.stdin", io.StringIO())

    with pytest.raises(transfer.Unsaid, match="there was no passphrase"):
        transfer.Passphrase().new()


def exported(path: Path, text: str = "text", *, force: bool = False) -> list[dict[str, Any]]:
    """Export `a` to a file, with a daemon that answers with this text; return what the daemon heard."""
    asks = {"event": "password", "message": "the export"}
    with daemon(asks, {**DONE, "export": text}) as (remote, heard):
        phrase = transfer.Passphrase(ask=Spoken("correct horse"))
        assert transfer.export(remote, ("a",), phrase, path, force=force)["ok"]
    return heard


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    """Before anything is written, and not by a draft's name."""
    path = tmp_path / "file" / "signins"
    path.parent.touch()

    with pytest.raises(NotADirectoryError) as raised:
        exported(path)

    assert str(path.parent) == raised.value.filename


def test_an_export_is_asked_for_and_written(tmp_path: Path) -> None:
    """Once the daemon knows whose, the passphrase is; what the daemon says goes into the file."""
    heard = exported(tmp_path / "f", "sealed")

    assert [{"command": "export", "users": ["a"]}, {"password": "correct horse"}] == heard
    assert "sealed" == (tmp_path / "f").read_text()


def test_an_import_answers_what_it_is_asked() -> None:
    """The passphrase, and whether to replace; what is told is shown and wants no answer."""
    told: list[str] = []
    ours, theirs = socket.socketpair()

    def play() -> None:
        with theirs, theirs.makefile("rb") as lines:
            assert "restore" == json.loads(lines.readline())["command"]
            theirs.sendall(b'{"event": "password", "message": "p"}\n')
            assert {"password": "correct horse"} == json.loads(lines.readline())
            theirs.sendall(b'{"event": "told", "message": "hello"}\n{"event": "question", "message": "Replace?"}\n')
            assert {"yes": False} == json.loads(lines.readline())
            theirs.sendall(json.dumps(DONE).encode() + b"\n")

    thread = threading.Thread(target=play)
    thread.start()
    with Remote(ours) as remote:
        phrase = transfer.Passphrase(ask=Spoken("correct horse"))
        assert DONE == transfer.restore(remote, "", "/f", phrase, force=False, say=told.append)
    thread.join()
    assert ["hello"] == told


def test_yes_answers_every_question() -> None:
    """For `cms prune --yes`."""
    answer = transfer.answers(lambda: "", print, yes=True)

    assert {"yes": True} == answer({"event": "question", "message": "Delete?"})


def test_an_export_replaces_a_file_only_with_force(tmp_path: Path) -> None:
    """0600, and never over another one unless told to, even one that came while the passphrase was typed."""
    path = tmp_path / "file"
    exported(path, "first")

    assert ("first", 0o600) == (path.read_text(), stat.S_IMODE(path.stat().st_mode))
    with pytest.raises(FileExistsError):
        exported(path, "second")
    exported(path, "third", force=True)
    assert ("third", [path]) == (path.read_text(), list(tmp_path.iterdir()))


def test_a_file_that_comes_after_the_last_check_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may write it at the very moment: without --force an export never takes its place."""
    path = tmp_path / "file"

    def write_later(path: Path, *arguments: Any, **options: Any) -> None:
        path.write_text("other")
        write_private(path, *arguments, **options)

    monkeypatch.setattr(transfer, "write_private", write_later)
    with pytest.raises(FileExistsError):
        exported(path, "late")
    assert ("other", [path]) == (path.read_text(), list(tmp_path.iterdir()))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "a pipe"), (Path.mkdir, "a folder"), (bind, "a socket")])
def test_only_a_file_is_overwritten(tmp_path: Path, make: Callable[[Path], None], what: str, *, force: bool) -> None:
    """As root a rename would put a file in the place of /dev/null; --force means files, at a link's end too."""
    path, link = tmp_path / "odd", tmp_path / "link"
    make(path)
    link.symlink_to(path)
    before = path.stat().st_mode

    for each in (path, link):
        with pytest.raises(OSError, match=f"it is {what}: name a regular file") as raised:
            transfer.check_target(each, force=force)
        assert str(each) == raised.value.filename
    assert before == path.stat().st_mode


def test_what_has_become_a_pipe_meanwhile_stays(tmp_path: Path) -> None:
    """The path became a pipe while the person typed a passphrase: cms leaves it."""
    os.mkfifo(tmp_path / "odd")

    with pytest.raises(OSError, match="it is a pipe"):
        exported(tmp_path / "odd", force=True)
    assert [tmp_path / "odd"] == list(tmp_path.iterdir())


def test_where_it_goes_is_looked_at_before_a_passphrase_is_typed(tmp_path: Path) -> None:
    """A person should not type a passphrase in vain."""
    (tmp_path / "there").symlink_to("nowhere")

    transfer.check_target(tmp_path / "new", force=False)
    transfer.check_target(tmp_path / "there", force=True)
    with pytest.raises(FileExistsError):
        transfer.check_target(tmp_path / "there", force=False)
    with pytest.raises(NotADirectoryError):
        transfer.check_target(tmp_path / "none" / "new", force=False)
