"""The commands of `cms`: what each tells a daemon, what it prints, its exit code, and no traceback for a mistake."""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click
import pytest
from support.command_line import conversing, daemon, done, empty_folders, good_configuration
from support.status_rows import DAEMON, row_of
from support.waiting import PATIENCE

from cms import main
from cms.cli import commands, connect, daemonless
from cms.cli.init import wizard
from cms.cli.run_line import INTERRUPTED, Run
from cms.core.status import as_json
from cms.system import logs, state_lock
from cms_oauth import paths

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the log and the limits of the process that runs the tests as they are."""
    monkeypatch.setattr(logs, "setup", lambda *, level: None)
    monkeypatch.setattr(daemonless, "harden", lambda: None)


@pytest.fixture
def configured(home: Path) -> Path:
    return good_configuration(home)


STATUS = done(message="1 ok", json={"version": 1, "accounts": []}, exit_code=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["refresh"], {"command": "refresh", "user": ""}),
        (["refresh", "a"], {"command": "refresh", "user": "a"}),
        (["logout", "a"], {"command": "logout", "user": "a"}),
        (["reload"], {"command": "reload"}),
    ],
)
@pytest.mark.parametrize("ok", [True, False])
def test_a_command_is_told_and_its_end_said(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: dict[str, str], *, ok: bool
) -> None:
    """Success on standard output, failure on standard error, message and hint."""
    with daemon(home, done(ok=ok, message="said", hint="next")) as asked:
        code = main.main(arguments)
    out, err = capsys.readouterr()

    assert [expected] == asked
    assert ((0, "said\nnext\n", "") if ok else (1, "", "cms: said\nnext\n")) == (code, out, err)


@pytest.mark.parametrize(
    ("options", "code", "out"),
    [
        ([], 0, "no accounts are configured\n"),
        (["--json"], 0, '{\n  "version": 1,\n  "accounts": []\n}\n'),
        (["--check"], 1, "1 ok\n"),
        (["--check", "--json"], 1, '{\n  "version": 1,\n  "accounts": []\n}\n'),
    ],
)
def test_status_in_every_form(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, out: str
) -> None:
    """Text or JSON; the one line and the exit code of monitoring plugins only when that is asked for."""
    with daemon(home, STATUS):
        assert code == main.main(["status", *options])

    assert out == capsys.readouterr().out


def test_a_status_is_for_whom_it_is_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One account's, and as wide as the terminal."""
    warning = "the daemon's socket can be reached by everybody on this machine"
    facts = {"version": "1", "pid": 7, "uptime": 1, "config": "c", "sockets": [], "files": [], "warnings": [warning]}

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "44")
    with daemon(home, done(json={"version": 1, "daemon": facts, "accounts": []}, exit_code=0)) as asked:
        assert 0 == main.main(["status", "a@example.test"])

    assert [{"command": "status", "user": "a@example.test"}] == asked
    assert 40 < max(map(len, click.unstyle(terminal.getvalue()).splitlines())) <= 44


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {"a": True, "b": True, "everything": False}),
        (["--long"], {"a": True, "b": True, "everything": True}),
        (["--problems"], {"a": False, "b": True, "everything": True}),
        (["--problems", "--json"], {"a": False, "b": True, "everything": False}),
    ],
)
def test_many_accounts_are_a_table(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str], shown: dict[str, bool]
) -> None:
    """One line an account unless `--long` asks for everything, or few accounts are left; `--problems` leaves the rest out."""
    well, ill = (asdict(row_of(state)) for state in ("ok", "failing"))
    accounts = [{**well, "user": f"a{number}@example.test", "severity": 0} for number in range(200)]
    answer = {"version": 1, "accounts": [*accounts, {**ill, "user": "b@example.test", "severity": 1}]}
    with daemon(home, done(json=answer, exit_code=0)):
        assert 0 == main.main(["status", *options])
    out = capsys.readouterr().out

    assert shown == {
        "a": "a199@example.test" in out,
        "b": "b@example.test" in out,
        "everything": "\n  sign-in  " in out,
    }


def test_no_problem_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not that there is no account."""
    with daemon(home, STATUS):
        assert 0 == main.main(["status", "--problems"])

    assert "no account has a problem\n" == capsys.readouterr().out


def test_a_terminal_that_cannot_draw_is_not_watched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emacs' shell would show control sequences."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")

    assert 2 == main.main(["status", "--watch"])
    assert "--watch needs a terminal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "code", "out"),
    [
        (done(ok=False, message="no such user: x", hint="see `cms status`"), 3, "no such user: x; see `cms status`"),
        (done(json=[]), 2, "the daemon's answer makes no sense; "),
        *((done(exit_code=each), 2, "the daemon's answer makes no sense; ") for each in (-1, 4, 256, "0")),
    ],
)
def test_a_plugin_ends_as_plugins_do(
    home: Path, capsys: pytest.CaptureFixture[str], answer: dict[str, object], code: int, out: str
) -> None:
    """A command's own exit status 1 would be a warning to monitoring, and it shows the standard output only."""
    with daemon(home, answer):
        assert code == main.main(["status", "--check", "x"])

    assert capsys.readouterr().out.startswith(f"CMS {('UNKNOWN', 'CRITICAL')[code == 2]} - {out}")


def test_metrics_are_printed_as_the_daemon_counts_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole text and nothing else, for a file that node_exporter reads; a refusal is one."""
    answer = done(json={**as_json([row_of("ok")], DAEMON), "counters": {"requests": {"granted": 7}}})
    with daemon(home, answer, done(ok=False, message="no")) as asked:
        assert [0, 1] == [main.main(["metrics"]) for _ in range(2)]
    out, err = capsys.readouterr()

    assert [{"command": "status"}] * 2 == asked
    assert ('cms_requests_total{outcome="granted"} 7.0\n' in out, "# EOF") == (True, out.splitlines()[-1])
    assert "cms: no\n" == err


NOT_A_STATUS = (
    done(),
    done(json=[], exit_code=0),
    done(json={"accounts": [{"user": 1}]}, exit_code=0),
    done(json={"accounts": None, "daemon": {}}, exit_code="x"),
    done(json={"accounts": [], "daemon": {"uptime": "long"}}, exit_code=0),
)


@pytest.mark.parametrize("answer", NOT_A_STATUS)
def test_what_is_no_status_is_one_error(
    home: Path, capsys: pytest.CaptureFixture[str], answer: dict[str, object]
) -> None:
    """A daemon of another version, or of another user who is asked by root, may answer anything: no traceback."""
    with daemon(home, answer):
        assert os.EX_UNAVAILABLE == main.main(["status"])

    assert "cms: the daemon's answer makes no sense\n" in capsys.readouterr().err


def test_a_status_that_fails_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As from a daemon of another version."""
    with daemon(home, done(ok=False, message="what?")):
        assert 1 == main.main(["status"])

    assert "what?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status"], os.EX_UNAVAILABLE),
        (["refresh"], os.EX_UNAVAILABLE),
        (["reload"], os.EX_UNAVAILABLE),
    ],
)
@pytest.mark.usefixtures("configured")
def test_no_daemon_is_said_with_the_next_command(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    """69 and nothing on standard output."""
    assert code == main.main(arguments)
    out, err = capsys.readouterr()
    assert "" == out
    assert "no daemon is running" in err
    assert "cms run" in err


@pytest.mark.usefixtures("home")
def test_nothing_configured_is_unknown_to_monitoring(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that was given no configuration has nothing to watch; a person is told how to begin."""
    assert 3 == main.main(["status", "--check"])
    assert "`cms init`" in capsys.readouterr().out
    assert os.EX_UNAVAILABLE == main.main(["status"])
    assert "cms: no daemon is running\nnothing is configured yet: `cms init` does" in capsys.readouterr().err


@pytest.mark.parametrize("booted", [True, False])
@pytest.mark.usefixtures("configured")
def test_systemd_is_named_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, booted: bool
) -> None:
    """A container has none, most of the time."""
    monkeypatch.setattr(connect, "_SYSTEMD", str(tmp_path if booted else tmp_path / "none"))

    assert os.EX_UNAVAILABLE == main.main(["refresh"])
    assert booted == ("systemctl --user start cms" in capsys.readouterr().err)


@pytest.mark.usefixtures("configured")
def test_the_machines_service_is_started_by_systemd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the machine's own: neither root's `cms run` nor a user's unit is the service."""
    monkeypatch.setattr(connect, "_SYSTEMD", str(tmp_path))
    service = paths.config_file()
    monkeypatch.setattr(paths, "system_config_file", lambda: service)

    assert os.EX_UNAVAILABLE == main.main(["refresh"])
    assert "start it with `sudo systemctl start cms`\n" in capsys.readouterr().err


@pytest.mark.usefixtures("configured")
def test_no_daemon_is_critical_to_monitoring(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line on standard output, which is what it shows."""
    assert 2 == main.main(["status", "--check"])
    out, err = capsys.readouterr()
    assert out.startswith("CMS CRITICAL - no daemon is running; start it with `cms run`")
    assert (1, "") == (out.count("\n"), err)


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No terminal and no desktop."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with open(os.devnull) as no_terminal:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stdin", no_terminal)
        yield


def test_an_import_is_the_daemons(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From where, for whom, what it is, and which; a refusal is a failure."""
    file = home / "f"
    file.write_text("{}")
    with daemon(home, done(ok=False, message="no", hint="why")) as asked:
        code = main.main(["import", str(file), "--from=pizauth", "--account", "a", "--entry=e"])

    question = {"command": "import", "user": "a", "path": str(file), "source": "pizauth", "entry": "e"}
    assert (1, [question]) == (code, asked)
    assert "cms: no\nwhy\n" == capsys.readouterr().err


def test_an_import_of_a_missing_file_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cms refuses it before it asks whose sign-in it is."""
    assert 1 == main.main(["import", str(home / "none")])

    assert f"cms: {home}/none cannot be read: No such file or directory\nname the file" in capsys.readouterr().err


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize("way", ["", "browser", "device", "paste"])
def test_a_login_is_the_daemons(home: Path, capsys: pytest.CaptureFixture[str], way: str) -> None:
    """User and way are told, and its end is the command's."""
    with daemon(home, done(message="a is signed in")) as asked:
        code = main.main(["login", "a", *([f"--{way}"] if way else [])])

    assert (0, [{"command": "login", "user": "a", "method": way}]) == (code, asked)
    assert "a is signed in" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--all"], ["*@example.test"], ["--all", "--device"]])
def test_a_login_of_several_asks_who_needs_it(
    home: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """By the option or by a pattern; the daemon knows."""
    with daemon(home, STATUS) as asked:
        assert 0 == main.main(["login", *options])

    assert [{"command": "status", **({} if "--all" in options else {"user": options[0]})}] == asked
    assert "no account needs a sign-in\n" == capsys.readouterr().out


def test_a_login_is_of_one_or_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Not of both."""
    assert 2 == main.main(["login", "a@example.test", "--all"])
    assert "Give USER or --all, not both." in capsys.readouterr().err


@pytest.mark.parametrize("command", [["login"], ["init", "--user=a@example.test"]])
@pytest.mark.parametrize(("first", "second"), [("device", "paste"), ("paste", "device"), ("browser", "device")])
def test_there_is_one_way_to_sign_in_at_a_time(
    capsys: pytest.CaptureFixture[str], command: list[str], first: str, second: str
) -> None:
    """A person need not know which of two options would win."""
    assert 2 == main.main([*command, f"--{first}", f"--{second}"])
    assert f"--{first} and --{second} are two ways to sign in: name one." in capsys.readouterr().err


@pytest.mark.usefixtures("no_terminal")
def test_a_way_that_is_named_twice_is_one(home: Path) -> None:
    """As with any option."""
    with daemon(home, done()) as asked:
        main.main(["login", "a", "--device", "--device"])

    assert "device" == asked[0]["method"]


@pytest.mark.usefixtures("no_terminal", "configured")
def test_a_login_without_a_daemon_is_done_without_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so first; here nothing is there to sign in with, and that is said last."""
    assert 1 == main.main(["login", "b@example.test"])
    out, err = capsys.readouterr()
    assert "no daemon is running; continuing without one" in err
    assert "there is no account 'b@example.test'" in out


@pytest.mark.usefixtures("configured")
def test_a_state_folder_in_use_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon whose socket is not found still has its state to itself."""
    monkeypatch.setattr(daemonless, "STARTING_SECONDS", 0.1)
    with state_lock.claimed(str(home / "state" / "cms")):
        assert os.EX_CANTCREAT == main.main(["login"])

    assert "another cms" in capsys.readouterr().err


@pytest.mark.usefixtures("configured", "no_terminal")
def test_a_daemon_that_is_just_starting_is_waited_for(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has claimed its state and does not listen yet: the sign-in is its own, once it does."""
    with ExitStack() as started, state_lock.claimed(str(home / "state" / "cms")):

        def start(_seconds: float) -> None:
            asked.append(started.enter_context(daemon(home, done(message="a is signed in"))))

        asked: list[list[dict[str, Any]]] = []
        monkeypatch.setattr(time, "sleep", start)
        code = main.main(["login"])

    out, err = capsys.readouterr()
    assert (0, [[{"command": "login", "user": "", "method": ""}]]) == (code, asked)
    assert "a is signed in" in out
    assert "" == err


def test_another_users_daemon_is_not_gone_around(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign-in beside it would not help that daemon."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr("cms.cli.client.ROOT", 4243)
    folder = home / "run" / "cms"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(folder / "control.sock"))
        theirs.listen()

        assert os.EX_UNAVAILABLE == main.main(["login"])
    assert "belongs to" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_giving_up_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with what a shell expects."""

    def interrupt(_paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cms.cli.client.connect", interrupt)

    assert INTERRUPTED == main.main(["login"])
    assert INTERRUPTED == main.main(["refresh"])
    err = capsys.readouterr().err
    assert "\ncms: the sign-in was cancelled\n" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["check"]])
def test_an_output_that_is_full_is_said(configured: Path, arguments: list[str]) -> None:
    """In one line, with the exit status that cms-oauth has for it."""
    command = [sys.executable, "-m", "cms.main", *arguments]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)

    assert "cms: cannot write the output: No space left on device\n" == ran.stderr
    assert os.EX_IOERR == ran.returncode


def test_the_demonstration_offers_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """It takes none."""
    assert 0 == main.main(["demo", "--help"])

    assert "ARGUMENTS" not in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(commands.cms.commands))
def test_the_list_of_commands_is_true(name: str) -> None:
    """Each command has its name, and its line is the beginning of its own help, which fits a terminal of 80 columns."""
    command, listed = commands.command(name), commands.cms.commands[name]
    room = 78 - len("  ") - max(map(len, commands.cms.commands)) - len("  ")

    assert name == command.name
    assert command.get_short_help_str(room) == listed.get_short_help_str(room) == listed.help


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["status", "refresh", "reload", "demo"])
def test_no_other_command_takes_a_configuration(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Which daemon is asked does not depend on it: what would be ignored is refused."""
    assert 2 == main.main(["-c", "/x", command])
    assert "-c is for the commands that read a configuration" in capsys.readouterr().err


def test_a_faulty_configuration_is_named_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """78, file and line, no traceback."""
    path = tmp_path / "bad.cfg"
    path.write_text("\nOffice365_Acount()\n")

    assert os.EX_CONFIG == main.main(["check", "-c", str(path)])
    err = capsys.readouterr().err
    assert f"{path}:2" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["check", "login"])
def test_a_configuration_that_hangs_is_given_up(tmp_path: Path, command: str) -> None:
    """78, the line that it is in, and the process ends although the configuration does not."""
    path = tmp_path / "endless.cfg"
    # Its time is over at once: what its process was given to say so is told.
    now = "import sys, faulthandler; faulthandler.dump_traceback_later(0.01, file=int(sys.argv[2]))"
    path.write_text(f"import time\n{now}\nwhile True: time.sleep(0.01)\n")

    ran = subprocess.run(
        [sys.executable, "-m", "cms.main", command, "-c", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=PATIENCE,
    )

    assert os.EX_CONFIG == ran.returncode
    assert f"cms: {path}:3: it did not end within 10 s" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.usefixtures("home")
def test_a_wrong_command_line_is_clicks_to_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """With its own exit code."""
    assert 2 == main.main(["fly"])
    assert 2 == main.main(["run", "--log-level=loud"])
    assert "Error" in capsys.readouterr().err


def test_demo_is_the_sandboxs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code is the command's, and its arguments are its own."""
    monkeypatch.setattr("cms.sandbox.stage.main", len)

    assert 2 == main.main(["demo", "--one", "two"])


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("signins", "cms import signins"),
        ("my sign-ins", "cms import 'my sign-ins'"),
        ("-x", "cms import ./-x"),
        ("a&b", "cms import 'a&b'"),
        ("50%% $$", "cms import '50%% $$'"),
    ],
)
def test_an_export_is_written_for_its_owner(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, imported: str
) -> None:
    """What the daemon says goes into the file; where it is, and what to do with it, is said."""
    file = home / name.replace("%%", "%").replace("$$", "$")
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    with conversing(
        home, {"event": "password", "message": "p"}, done(message="exported: a", export="sealed\n")
    ) as heard:
        assert 0 == main.main(["export", "a@example.test", str(home / name)])

    assert ("sealed\n", 0o600) == (file.read_text(), stat.S_IMODE(file.stat().st_mode))
    assert [["a@example.test"], "correct horse"] == [heard[0]["users"], heard[1]["password"]]
    assert f"saved in {file}. On the other machine, run `{imported}`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a@example.test"], "a@example.test is an account's name: a file called so is ./a@example.test"),
        (["a@example.test", "b@example.test"], "b@example.test is an account's name"),
        (["<a'b@x>"], "<a'b@x> is an account's name: a file called so is './<a'\"'\"'b@x>'"),
        (["-"], "not to the standard output"),
    ],
)
def test_a_forgotten_file_is_missed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], why: str
) -> None:
    """A USER's name in place of FILE would export every account into a file of that name."""
    monkeypatch.chdir(home)

    assert 2 == main.main(["export", *words])
    said = capsys.readouterr().err
    assert "FILE is missing" in said
    assert why in said
    assert "`cms export USER FILE`" in said
    assert [] == list(home.iterdir())


def test_a_file_may_be_named_like_an_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a folder before it there is no mistaking it."""
    monkeypatch.chdir(home)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with conversing(home, done(ok=False, message="no")) as heard:
        main.main(["export", "./a@example.test"])

    assert [{"command": "export", "users": []}] == heard


def test_an_export_that_fails_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one over a file that is there is not begun."""
    file = home / "signins"
    with conversing(home, done(ok=False, message="nobody is signed in")):
        assert 1 == main.main(["export", str(file)])
    assert not file.exists()
    file.touch()

    assert 1 == main.main(["export", str(file)])
    assert "already exists and was not changed" in capsys.readouterr().err


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_device_is_no_place_for_an_export(home: Path, capsys: pytest.CaptureFixture[str], force: list[str]) -> None:
    """The message says what it is, and cms asks for no passphrase."""
    assert os.EX_OSERR == main.main(["export", os.devnull, *force])

    assert "cms: /dev/null: it is a device: name a regular file\n" == capsys.readouterr().err
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_passphrase_that_will_not_do_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, no traceback."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    with conversing(home, {"event": "password", "message": "p"}):
        assert 1 == main.main(["export", str(home / "signins")])

    assert "cms: the passphrase is too short" in capsys.readouterr().err


def test_all_or_named_users_sign_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--all is a separate command for the daemon, and takes no user. A script is not asked."""
    with daemon(home, done(message="all gone")) as asked:
        assert 0 == main.main(["logout", "--all"])

    assert [{"command": "leave", "yes": True}] == asked
    assert 2 == main.main(["logout", "a@example.test", "--all"])
    assert "Give USER or --all, not both" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "options"), [("n\n", []), ("y\n", []), ("", ["--yes"])])
def test_a_person_is_asked_before_all_sign_out(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    options: list[str],
) -> None:
    """After they have seen who: all sign-ins are gone quickly and take long to make again."""
    stdin = io.StringIO(typed)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    asking = [] if options else [{"event": "question", "message": "Delete all of them?"}]
    with conversing(home, {"event": "told", "message": "  ann@x.test"}, *asking, done(ok=typed != "n\n")) as heard:
        assert (typed == "n\n") == main.main(["logout", "--all", *options])

    assert {"command": "leave", "yes": bool(options)} == heard[0]
    assert [{"yes": typed == "y\n"}] * len(asking) == heard[1:]
    assert capsys.readouterr().out.startswith("  ann@x.test\n")


@pytest.mark.parametrize(("typed", "options"), [("n\n", []), ("y\n", []), ("", ["--yes"])])
def test_a_person_is_asked_before_a_sign_in_ends_at_its_provider(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, options: list[str]
) -> None:
    """After they have seen what else ends. For an older daemon, which would only delete it, the command has another name."""
    stdin = io.StringIO(typed)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    asking = [] if options else [{"event": "question", "message": "End them there?"}]
    with conversing(home, {"event": "told", "message": "  all of Google"}, *asking, done(ok=typed != "n\n")) as heard:
        assert (typed == "n\n") == main.main(["logout", "--revoke", "ann@x.test", *options])

    assert {"command": "revoke", "user": "ann@x.test", "all": False, "yes": bool(options)} == heard[0]
    assert [{"yes": typed == "y\n"}] * len(asking) == heard[1:]
    assert capsys.readouterr().out.startswith("  all of Google\n")


def test_a_script_has_to_say_that_it_means_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the answer is no: what ends at a provider may be more than a script knows of."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with conversing(home, {"event": "question", "message": "End them there?"}, done(ok=False)) as heard:
        assert 1 == main.main(["logout", "--revoke", "--all"])

    assert [{"command": "revoke", "user": "", "all": True, "yes": False}, {"yes": False}] == heard


def test_pruning_shows_and_asks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is told is shown; --yes goes along."""
    with conversing(home, {"event": "told", "message": "bob"}, done(message="deleted: 1")) as heard:
        assert 0 == main.main(["prune", "--yes"])

    assert [True] == [each["yes"] for each in heard]
    assert "bob\ndeleted: 1\n" == capsys.readouterr().out


def _options_with_paths() -> list[tuple[str, str]]:
    """Return each option of each command whose value is a path, by what its help says."""
    return [
        (name, option.opts[-1])
        for name in commands.cms.commands
        for option in commands.command(name).params
        if isinstance(option, click.Option) and option.metavar in ("FILE", "PATH")
    ]


@pytest.mark.parametrize(("name", "option"), _options_with_paths())
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("$NO_SUCH_NAME/x", "the variable NO_SUCH_NAME is not set"),
        ("%t/x", "only systemd replaces %t"),
        ("/run/`id -u`/x", "it has a command in it"),
    ],
)
def test_an_option_follows_the_rule_for_paths(
    name: str, option: str, path: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would mean another file is refused, with the option's name."""
    assert 2 == main.main([name, option, path, *(["x"] if name in ("import", "export") else [])])
    err = capsys.readouterr().err
    assert f"{option}': {why}" in err


def test_options_name_the_same_file_as_the_configuration_would(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No shell replaces `~` in `--config=~/x`, nor a variable in quotes: cms does, before the command and after it."""
    monkeypatch.setenv("HOME", str(configured.parent))
    monkeypatch.setenv("HERE", str(configured.parent))

    for arguments in (["--config=~/cms.cfg", "check"], ["check", "-c", "${HERE}/cms.cfg"]):
        assert 0 == main.main(arguments)
        assert f"{configured}: good" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["import", "$NO_SUCH_NAME/x"], ["export", "%t/x"], ["import", "--from=cms", "~nobody-at-all/x"]]
)
def test_files_follow_the_rule_for_paths(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The file of an import or an export is a path like any other."""
    assert os.EX_CONFIG == main.main(arguments)
    assert "Traceback" not in capsys.readouterr().err


def test_paths_are_handed_on_as_they_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon reads its command line by the same rule, and `cms init` writes what the daemon finds from anywhere."""
    ran: list[Run] = []
    monkeypatch.setattr("cms.cli.commands.daemon.run_anew", ran.append)
    monkeypatch.setattr(wizard, "begin", lambda wishes, *_: ran.append(Run(wishes.config, wishes.ca)))
    monkeypatch.chdir(home)

    main.main(["run", "-c", "/a$$b/50%%.cfg", "--log-level", "info"])
    main.main(["init", "-c", "my.cfg", "--ca", "ca$$.pem"])
    assert [Run("/a$$b/50%%.cfg", "info", "auto"), Run(f"{home}/my.cfg", f"{home}/ca$.pem")] == ran


# Each command that looks for a configuration or a daemon, with what it takes.
EVERY = {
    "login": ["a@example.test"],
    "import": ["/etc/hostname"],
    "export": ["/none/x.cms"],
    "logout": ["a@example.test"],
    "prune": [],
    "metrics": [],
    "refresh": [],
    "reload": [],
    "show": ["msmtp"],
    "status": [],
    "check": [],
    "admin-consent-url": [],
    "doctor": ["--json"],
    "vault": ["rekey"],
    "fleet": ["status"],
    "init": ["--user", "a@example.test", "--offline"],
}


# How a fault of cms's own is told: in a sentence, and by the verdict's name.
TOLD_AS_BUG = re.compile('a bug|"bug"')


def test_every_command_is_tried() -> None:
    """A new one is tried without a home folder, too. `explain` reads no configuration, and has tests of its own."""
    assert set(commands.cms.commands) == {*EVERY, "run", "demo", "explain"}


PARTS = [["vault", "rekey"], *(["fleet", part] for part in ("init", "upgrade", "status", "adopt"))]


@pytest.mark.parametrize("words", [[], *PARTS, *([name] for name in commands.cms.commands)], ids=" ".join)
def test_a_help_text_has_examples_and_fits_80_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end, not wrapped, each a command that cms takes; and says what each option does."""
    monkeypatch.setenv("COLUMNS", "80")
    assert 0 == main.main([*words, "-h"])
    lines = capsys.readouterr().out.splitlines()
    (heading,) = (line for line in lines if line in ("  Example:", "  Examples:"))
    examples = [line.strip() for line in lines[lines.index(heading) + 1 :]]

    assert 80 >= max(map(len, lines))
    assert not [line for line in lines if line.endswith("-")], "no name is broken at its hyphen"
    assert (heading == "  Examples:") == (len(examples) > 1)
    named: click.Command = commands.command(words[0]) if words else commands.cms
    for word in words[1:]:
        named = cast("click.Group", named).commands[word]
    assert [] == [each.name for each in named.params if isinstance(each, click.Option) and not each.help]
    for example in examples:
        typed = shlex.split(re.split(r" [<>|&]", example)[0].removeprefix("sudo "))
        assert ["cms", *words] == typed[: len(words) + 1]
        group, name, *rest = commands.cms, *typed[1:]
        # A UsageError for what it does not take. A command keeps the names that --help has in the first context.
        commands.command(name).make_context(name, rest, click.Context(group, **group.context_settings))


@pytest.fixture
def homeless(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whom the database does not know, as in a container, without HOME."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "CMS_SOCK", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("_SYSTEM_STATE", "_USERS_RUNTIME"):
        monkeypatch.setattr(f"cms_oauth.paths.{name}", str(home / "none"))
    monkeypatch.setattr("cms_oauth.paths._last_runtime", lambda: str(home / "tmp"))
    monkeypatch.setattr(os, "getuid", lambda: 3_000_000_000)
    return home


@pytest.mark.parametrize("told", [None, "", "relative"])
@pytest.mark.parametrize("command", EVERY)
def test_a_user_without_a_home_gets_a_sentence(
    homeless: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    told: str | None,
) -> None:
    """From every command: what is missing, and what to set. Those that need no home folder do without."""
    if told is not None:
        monkeypatch.setenv("HOME", told)
    code = main.main([command, *EVERY[command]])
    out, err = capsys.readouterr()

    assert 0 != code
    assert not TOLD_AS_BUG.search(out + err)
    if command in ("metrics", "refresh", "reload", "status"):
        assert "cms: no daemon is running\n" in err
    elif command == "export":
        assert "there is no such folder" in err
    else:
        assert "this user has no home folder: HOME is not" in out + err
        assert "set HOME, or XDG_" in out + err


@pytest.mark.parametrize("command", ["check", "admin-consent-url", "init", "login"])
def test_a_user_without_a_home_can_name_all_folders(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """With -c and XDG_STATE_HOME a home folder is not needed; with -c alone, what is missing is a warning."""
    config = good_configuration(homeless)
    path = config.with_name("new.cfg") if command == "init" else config
    if command in ("check", "admin-consent-url"):
        main.main([command, "-c", str(path), *EVERY[command]])
        said = "".join(capsys.readouterr())
        assert ("there is no place for sign-ins" in said) == (command != "admin-consent-url")
    monkeypatch.setenv("XDG_STATE_HOME", str(homeless / "state"))
    monkeypatch.setattr("cms.cli.commands.sign_ins.sign_in_here", lambda *_: 7)

    assert main.main([command, "-c", str(path), *EVERY[command]]) == (7 if command == "login" else 0)
    assert "home folder" not in "".join(capsys.readouterr())


RELATIVE = {
    "check": ["check", "-c", "x.cfg"],
    "before the command": ["-c", "x.cfg", "login", "a"],
    "import": ["import", "x.json"],
    "import by format": ["import", "--from=oama", "./x"],
    "export": ["export", "x.cms"],
    "passphrase": ["export", "--passphrase-file", "x", "/x.cms"],
    "bundle": ["doctor", "--bundle", "x"],
    "init": ["init", "-c", "x.cfg"],
    "authorities": ["init", "--ca", "x.pem"],
}


@pytest.mark.parametrize("arguments", RELATIVE.values(), ids=RELATIVE)
def test_a_folder_that_was_removed_is_the_cause(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No file is said to be missing: the folder is."""
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()

    assert main.main(arguments) in (2, os.EX_CONFIG)
    assert "the current folder no longer exists, and relative paths start there" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "admin-consent-url", "init", "status"])
def test_a_folder_that_was_removed_is_no_obstacle_to_other_paths(
    configured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """The usual paths are absolute, and so are those that begin with ~."""
    home = configured.parents[2]
    monkeypatch.setenv("HOME", str(home))
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    code = main.main([command, *EVERY[command], *(["-c", "~/new.cfg"] if command == "init" else [])])
    out, err = capsys.readouterr()

    assert (69 if command == "status" else 0) == code
    assert not TOLD_AS_BUG.search(out + err)
    assert "no longer exists" not in out + err
