"""The `cms` command: the daemon's plain form without click, the other commands with it, mistakes without tracebacks."""

from __future__ import annotations

import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.proofs import DAY, AppCertificate, write_private

from cms import main
from cms.cli import commands, connect
from cms.cli.run_line import INTERRUPTED, VALUES, Run, read_plainly
from cms.daemon import app
from cms.system import logs, process
from cms.version import VERSION

ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = """
account = Office365_Account(user="a@example.test")
CredentialServer("{folder}/cms.sock", accounts=[account], protocols=["SMTP"])
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of our own, and no daemon."""
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_RUNTIME", str(tmp_path / "system"))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_CONFIG", str(tmp_path / "etc"))
    return tmp_path


@pytest.fixture
def configured(home: Path) -> Path:
    """The path of a good configuration, where it is looked for."""
    path = home / "config" / "cms" / "cms.cfg"
    path.parent.mkdir(parents=True)
    path.write_text(GOOD.format(folder=home))
    return path


@contextmanager
def daemon(home: Path, *answers: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Be a daemon that gives one answer to each command; yields what it was asked."""
    asked: list[dict[str, Any]] = []
    folder = home / "run" / "cms"
    folder.mkdir(parents=True)

    def play() -> None:
        for answer in answers:
            client, _ = listening.accept()
            with client, client.makefile("rb") as lines:
                asked.append(json.loads(lines.readline()))
                client.sendall(json.dumps(answer).encode() + b"\n")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "control.sock"))
        listening.listen()
        # A command that asks less often than it was to is a failure, and no test that hangs.
        listening.settimeout(60)
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        yield asked
        thread.join()


def done(*, ok: bool = True, message: str = "", hint: str = "", **more: Any) -> dict[str, Any]:
    return {"event": "done", "ok": ok, "message": message, "hint": hint, **more}


STATUS = done(message="1 ok", text="all is well\n", json={"version": 1}, exit_code=1)


# --- the plain form ---


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], Run()),
        (["run", "-c", "/x"], Run("/x")),
        (["run", "--config=/x", "--log-level=debug"], Run("/x", "debug")),
        (["run", "--log-form=json"], Run("", "", "json")),
        ([], None),
        (["status"], None),
        (["-c", "/x", "run"], None),
        (["run", "-c"], None),
        (["run", "-c", "-c"], Run("-c")),
        (["run", "--config", "/x"], None),
        (["run", "--config="], None),
        (["run", "--config=/x", "-c", "/y"], None),
        (["run", "--log-level=loud"], None),
        (["run", "--help"], None),
        (["run", "now"], None),
        (["run", "--unknown=1"], None),
    ],
)
def test_the_plain_form_is_read_and_no_other(arguments: list[str], expected: Run | None) -> None:
    """What is unusual is left to click, errors included."""
    assert expected == read_plainly(arguments)


@given(
    st.builds(
        Run,
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        st.sampled_from(["", *VALUES["--log-level"]]),
        st.sampled_from(["", *VALUES["--log-form"]]),
    )
)
def test_what_is_executed_anew_is_always_plain(run: Run) -> None:
    """So it is never executed twice."""
    assert run == read_plainly(run.plain())


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--config", "/x", "--log-level", "debug"],
        ["-c", "/x", "run", "--log-level=debug"],
        ["--config=/y", "run", "-c/x", "--log-level=debug"],
    ],
)
def test_other_forms_of_run_are_executed_in_the_plain_one(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """click leaves the process with its image."""
    executed: list[tuple[str, list[str]]] = []

    class Gone(Exception):
        pass

    def execute(program: str, argv: list[str]) -> None:
        executed.append((program, argv))
        raise Gone

    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(Gone):
        main.main(arguments)

    program, argv = executed[0]
    assert (sys.executable, [sys.executable, "-P", "-m", "cms.main"]) == (program, argv[:4])
    assert Run("/x", "debug", "auto") == read_plainly(argv[4:])


def test_the_daemon_is_made_of_what_the_command_line_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration, folders and log, and a process that nobody looks into."""
    seen: list[object] = []

    def run(entry: object, options: app.AppOptions) -> int:
        assert entry is app.run
        seen.append((options.config_path, options.state_folder, options.runtime_folder, options.version))
        return 7

    monkeypatch.setattr(trio, "run", run)
    monkeypatch.setattr(logs, "setup", lambda *, level, form: seen.append((level, form)))
    for name in ("harden", "allow_many_files", "log_bugs"):
        monkeypatch.setattr(process, name, lambda name=name: seen.append(name))
    monkeypatch.chdir(home)

    assert 7 == main.main(["run", "-c", "my.cfg", "--log-level=debug"])
    assert [
        ("debug", "auto"),
        "harden",
        "allow_many_files",
        "log_bugs",
        (str(home / "my.cfg"), str(home / "state" / "cms"), str(home / "run" / "cms"), VERSION),
    ] == seen


def test_a_daemon_without_a_folder_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is one line in the log."""

    def refuse() -> str:
        raise PermissionError("/tmp/runtime-1 is somebody else's")

    monkeypatch.setattr("cms_oauth.paths.state_folder", refuse)
    monkeypatch.setattr(logs, "setup", lambda *, level, form: None)
    for name in ("harden", "allow_many_files", "log_bugs"):
        monkeypatch.setattr(process, name, lambda: None)

    assert os.EX_CANTCREAT == main.main(["run"])
    assert "somebody else's" in capsys.readouterr().out


_LOOK = """
import sys
from cms import main
main.run_daemon = lambda run: print(sorted({name.partition(".")[0] for name in sys.modules} & {"click", "msal"}))
sys.exit(main.main(["run", "-c", "/x"]))
"""


def test_the_daemon_never_imports_click() -> None:
    """Reading its command line costs nothing that stays."""
    seen = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, cwd=ROOT)

    assert "[]\n" == seen.stdout


def test_the_version_is_the_projects() -> None:
    """One number in two places."""
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_module_is_the_command() -> None:
    """`python -m cms.main` is `cms`."""
    ran = subprocess.run(
        [sys.executable, "-m", "cms.main", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert f"cms, version {VERSION}\n" == ran.stdout


# --- commands to a daemon ---


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
        ([], 0, "all is well\n"),
        (["--json"], 0, '{\n  "version": 1\n}\n'),
        (["--check"], 1, "1 ok\n"),
        (["--check", "--json"], 1, '{\n  "version": 1\n}\n'),
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

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "44")
    with daemon(home, STATUS) as asked:
        assert 0 == main.main(["status", "a@example.test"])

    assert [{"command": "status", "user": "a@example.test", "columns": 44}] == asked


def test_a_terminal_that_cannot_draw_is_not_watched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emacs' shell would show control sequences."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")

    assert 2 == main.main(["status", "--watch"])
    assert "--watch needs a terminal" in capsys.readouterr().err


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
def test_no_daemon_is_critical_to_monitoring(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line on standard output, which is what it shows."""
    assert 2 == main.main(["status", "--check"])
    out, err = capsys.readouterr()
    assert out.startswith("no daemon is running; start it with `cms run`")
    assert (1, "") == (out.count("\n"), err)


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody types, and there is no desktop."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with open(os.devnull) as nobody:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stdin", nobody)
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


def test_an_import_of_nothing_is_none(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anybody is asked for whom it is."""
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


@pytest.mark.parametrize("command", [["login"], ["init", "--user=a@example.test"]])
@pytest.mark.parametrize(("first", "second"), [("device", "paste"), ("paste", "device"), ("browser", "device")])
def test_there_is_one_way_to_sign_in_at_a_time(
    capsys: pytest.CaptureFixture[str], command: list[str], first: str, second: str
) -> None:
    """Nobody has to know which of two would win."""
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
    monkeypatch.setattr(logs, "setup", lambda *, level: None)
    monkeypatch.setattr(process, "harden", lambda: None)

    assert 1 == main.main(["login", "b@example.test"])
    out, err = capsys.readouterr()
    assert "no daemon is running: this is done without one" in err
    assert "there is no account 'b@example.test'" in out


@pytest.mark.usefixtures("configured")
def test_a_state_folder_in_use_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon whose socket is not found still has its state to itself."""
    monkeypatch.setattr(connect, "STARTING_SECONDS", 0.1)
    monkeypatch.setattr(logs, "setup", lambda *, level: None)
    monkeypatch.setattr(process, "harden", lambda: None)
    with process.claimed(str(home / "state" / "cms")):
        assert os.EX_CANTCREAT == main.main(["login"])

    assert "another cms" in capsys.readouterr().err


@pytest.mark.usefixtures("configured", "no_terminal")
def test_a_daemon_that_is_just_starting_is_waited_for(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has claimed its state and does not listen yet: the sign-in is its own, once it does."""
    monkeypatch.setattr(logs, "setup", lambda *, level: None)
    monkeypatch.setattr(process, "harden", lambda: None)
    with ExitStack() as started, process.claimed(str(home / "state" / "cms")):

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
    """Signing in beside it would help nobody."""
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
    assert "\ncms: the sign-in was given up\n" in err
    assert "Traceback" not in err


_INTERRUPTED_IMPORT = """
import sys
from cms import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name in ("click", "trio"):
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["run", "login", "status"])
def test_giving_up_at_once_is_no_traceback(command: str) -> None:
    """Ctrl-C may come while libraries are still being loaded, the daemon's as well."""
    ran = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, command], capture_output=True, text=True, check=False, cwd=ROOT
    )

    assert (INTERRUPTED, "", "cms: given up\n") == (ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["check"]])
def test_an_output_that_is_full_is_said(configured: Path, arguments: list[str]) -> None:
    """In one line, with the exit status that cms-oauth has for it."""
    command = [sys.executable, "-m", "cms.main", *arguments]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)

    assert "cms: nobody takes the output: No space left on device\n" == ran.stderr
    assert os.EX_IOERR == ran.returncode


def test_the_demonstration_offers_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """It takes none."""
    assert 0 == main.main(["demo", "--help"])

    assert "ARGUMENTS" not in capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(commands.cms.commands))
def test_the_list_of_commands_fits_a_terminal(command: str) -> None:
    """80 columns: what is cut off in the middle misleads."""
    room = 78 - len("  ") - max(map(len, commands.cms.commands)) - len("  ")
    short = commands.cms.commands[command].get_short_help_str(room)

    assert short
    assert not short.endswith("...")


# --- commands without a daemon ---


def test_check_says_what_a_configuration_means(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts with whose application they use, sockets with who may ask, the key, and warnings."""
    path = home / "my.cfg"
    path.write_text(
        f"""
own = Office365_Account(user="b@example.test", client_id="11111111-2222-3333-4444-555555555555", tenant="t.test")
account = Office365_Account(user="a@example.test")
CredentialServer("{home}/open.sock", accounts=[account, own], protocols=["SMTP", "IMAP"], mode=0o666)
CredentialServer("{home}/users.sock", accounts=[account], users=["root"], groups=["root"], group="root")
PostfixTable("{home}/postfix.sock", accounts=[account], default=account)
TokenFile("{home}/token", account, "IMAP", mode=0o640, newline=True)
MailDir("x")
Vault(key=File("{home}/key"))
Proxy("http://ann@proxy.test:3128", no_proxy=["localhost"])
"""
    )

    assert 0 == main.main(["check", "-c", str(path)])
    out, err = capsys.readouterr()
    assert f"{path}: good" in out
    assert "proxy http://proxy.test:3128, as ann: the way to Entra; without it: localhost" in out
    assert "account a@example.test: SMTP, IMAP; signs in by browser; application: cms (" in out
    assert "application: 11111111-" in out
    assert "mode 0666; for whoever its mode lets in; serves a@example.test, b@example.test with SMTP, IMAP" in out
    assert "group root; for its owner, root, user root, group root" in out
    assert f"vault key: file {home}/key" in out
    table = f"Postfix table {home}/postfix.sock: mode 0600; for whoever its mode lets in; serves a@example.test"
    assert f"{table} with SMTP, by host a@example.test" in out
    assert f"token file {home}/token: mode 0640; the IMAP token of a@example.test and a newline" in out
    assert "warning:" in err


@pytest.mark.parametrize(
    ("place", "noted"),
    [("{home}/elsewhere.sock", True), ("{home}/run/cms/cms.sock", False), ("{home}/system/cms.sock", False)],
)
def test_check_says_when_clients_do_not_look_there(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, noted: bool
) -> None:
    """The session's folder and the service's are looked at; any other has to be named, and that is no fault."""
    monkeypatch.delenv("CMS_SOCK", raising=False)
    path, sock = home / "my.cfg", place.format(home=home)
    path.write_text(f'CredentialServer("{sock}", accounts=[Office365_Account(user="a@example.test")])')

    assert 0 == main.main(["check", "-c", str(path)])
    out = capsys.readouterr().out
    assert noted == (f"programs need --cms_sock={sock} or CMS_SOCK={sock}\n" in out)
    assert noted == ("note:" in out)


@pytest.mark.parametrize(("config", "told"), [("cms.cfg", True), ("other.cfg", False)])
def test_check_says_what_the_running_daemon_warns_of(
    home: Path, configured: Path, capsys: pytest.CaptureFixture[str], config: str, told: bool
) -> None:
    """Of the tokens that it holds now, if it runs with the very file that is checked."""
    rows = [{"user": "a@example.test", "warning": "the token is long"}, {"user": "", "warning": ""}]
    status = done(json={"daemon": {"config": str(configured.parent / config)}, "accounts": rows})
    with daemon(home, status) as asked:
        code = main.main(["check"])

    assert (0, [{"command": "status"}]) == (code, asked)
    assert told == ("warning: a@example.test: the token is long" in capsys.readouterr().err)


@pytest.mark.parametrize(("days", "warned"), [(10.5, True), (100.0, False)])
def test_check_reads_an_applications_certificate(
    home: Path, capsys: pytest.CaptureFixture[str], days: float, warned: bool
) -> None:
    """Its end is told a month ahead, with its place; nothing is asked of Entra."""
    certificate = write_private(home / "app.pem", AppCertificate(time.time() + days * DAY).pem())
    path = home / "my.cfg"
    path.write_text(
        f"""
app = Office365_Account("a@example.test", tenant="t.test", sign_in="app",
    client_id="11111111-2222-3333-4444-555555555555", certificate=File("{certificate}"))
CredentialServer("{home}/my.sock", accounts=[app])
"""
    )

    assert 0 == main.main(["check", "-c", str(path)])
    out, err = capsys.readouterr()
    assert warned == (f"warning: file {certificate}: the application's certificate ends in 10 d" in err)
    assert "signs in by app" in out


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (None, "{path} cannot be read: No such file or directory"),
        (0o644, "{path} can be read by everybody on this machine: `chmod o-rwx {path}`"),
        (0o640, ""),
    ],
)
def test_check_looks_at_the_files_of_secrets(
    home: Path, capsys: pytest.CaptureFixture[str], mode: int | None, why: str
) -> None:
    """One that is missing, or open to everybody, is found before it is needed. Nothing of it is shown."""
    secret, config = home / "secret", home / "my.cfg"
    config.write_text(
        f"""
account = Office365_Account(
    user="a@example.test", tenant="t.test", client_id="11111111-2222-3333-4444-555555555555", sign_in="app",
    client_secret=File("{secret}"),
)
Vault(key=File("{home}/key"))
CredentialServer("{home}/cms.sock", accounts=[account])
Proxy("http://ann@proxy.test:3128", password=File("{home}/none"))
"""
    )
    if mode is not None:
        secret.write_text("s3cret")
        secret.chmod(mode)

    assert 0 == main.main(["check", "-c", str(config)])
    out, err = capsys.readouterr()
    assert bool(why) == ("warning: client_secret: " in err)
    assert why.format(path=secret) in err
    assert f"warning: the proxy's password: {home}/none cannot be read" in err
    assert "s3cret" not in out + err


def test_check_finds_the_configuration_before_the_command_too(configured: Path, tmp_path: Path) -> None:
    """`cms -c FILE check` is `cms check -c FILE`, whose own option wins."""
    other = tmp_path / "bad.cfg"
    other.write_text("nonsense(")

    assert 0 == main.main(["check"])
    assert os.EX_CONFIG == main.main(["-c", str(other), "check"])
    assert 0 == main.main(["-c", str(other), "check", "-c", str(configured)])


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


_HASTY = """
import sys
from cms import main
from cms.cli import connect
connect.LOAD_SECONDS = 0.2
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["check", "login"])
def test_a_configuration_that_hangs_is_given_up(tmp_path: Path, command: str) -> None:
    """78, the line that it is in, and the process ends although the configuration does not."""
    path = tmp_path / "endless.cfg"
    path.write_text("import time\n\nwhile True: time.sleep(0.01)\n")

    ran = subprocess.run(
        [sys.executable, "-c", _HASTY, command, "-c", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=30,
    )

    assert os.EX_CONFIG == ran.returncode
    assert f"cms: {path}:3: it did not end within 0.2 s" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_configuration_that_cannot_be_opened_keeps_no_one_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mount whose server is gone: there is no line then."""
    gone = threading.Event()
    monkeypatch.setattr(connect, "LOAD_SECONDS", 0.05)
    monkeypatch.setattr(commands, "load", lambda _path: gone.wait())

    assert os.EX_CONFIG == main.main(["check", "-c", str(tmp_path / "cms.cfg")])
    gone.set()
    assert f"cms: {tmp_path}/cms.cfg: it did not end within 0.05 s" in capsys.readouterr().err


def test_init_writes_a_configuration_that_is_good(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is for its owner alone, loads as it is, and the next two commands are said."""
    assert 0 == main.main(["init", "--offline", "--user", "a@example.test"])
    out = capsys.readouterr().out
    path = home / "config" / "cms" / "cms.cfg"

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert "    cms run\n" in out
    assert "    cms login\n" in out
    assert 0 == main.main(["check"])
    assert "account a@example.test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [("a@example.test\n", 0, "cms login"), ("", os.EX_USAGE, "no mail address\n`cms init --user=ADDRESS`")],
)
def test_init_takes_the_address_from_a_pipe(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, typed: str, code: int, said: str
) -> None:
    """One that has none is told how to name it; it is nobody who gave up."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))

    assert code == main.main(["init", "--offline"])
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert (code == 0) == (home / "config" / "cms" / "cms.cfg").exists()


def test_init_elsewhere_names_the_file_in_the_next_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-c has to be given again."""
    path = home / "my.cfg"

    assert 0 == main.main(["init", "--offline", "-c", str(path), "--user", "a@example.test"])
    assert f"cms run -c {path}" in capsys.readouterr().out


def test_init_never_touches_what_exists(configured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration is somebody's work."""
    before = configured.read_text()

    assert 1 == main.main(["init", "--offline", "--user", "a@example.test"])
    assert before == configured.read_text()
    assert "stays as it is" in capsys.readouterr().err


@pytest.mark.parametrize("user", ["nobody", "a b@example.test", "a@example.test\n", '"@x', "@x", "a@b@c"])
def test_init_takes_only_an_address(home: Path, user: str) -> None:
    """What is no address is refused, and nothing is written."""
    assert os.EX_USAGE == main.main(["init", "--offline", "--user", user])
    assert [] == list(home.iterdir())


def test_a_folder_that_cannot_be_made_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the machine refuses is one line."""
    (home / "config").write_text("a file")

    assert os.EX_OSERR == main.main(["init", "--offline", "--user", "a@example.test"])
    err = capsys.readouterr().err
    assert "cms: " in err
    assert "Traceback" not in err


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


@pytest.mark.usefixtures("home")
def test_the_arguments_are_the_processs_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the installed command is called."""
    monkeypatch.setattr(sys, "argv", ["cms", "--version"])

    assert 0 == main.main()
    assert VERSION in capsys.readouterr().out


@pytest.mark.parametrize("words", [["init", "--system", "-c", "my.cfg"], ["-c", "my.cfg", "init", "--system"]])
def test_the_systems_file_has_its_name(home: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """--system and -c are two files: neither is written."""
    assert 2 == main.main([*words, "--user=a@example.test", "--offline"])

    assert "--system names the file already: leave -c out." in capsys.readouterr().err


# --- moving and leaving ---


def test_an_export_is_written_for_its_owner(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the daemon says goes into the file; where it is, and what to do with it, is said."""
    file = home / "signins"
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\n"))
    with conversing(
        home, {"event": "password", "message": "p"}, done(message="exported: a", export="sealed\n")
    ) as heard:
        assert 0 == main.main(["export", "a@example.test", str(file)])

    assert ("sealed\n", 0o600) == (file.read_text(), stat.S_IMODE(file.stat().st_mode))
    assert [["a@example.test"], "correct horse"] == [heard[0]["users"], heard[1]["password"]]
    assert f"to {file}. On the other machine: `cms import signins`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a@example.test"], "a@example.test is an account's name: a file called so is ./a@example.test"),
        (["a@example.test", "b@example.test"], "b@example.test is an account's name"),
        (["-"], "not to the standard output"),
    ],
)
def test_a_forgotten_file_is_missed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], why: str
) -> None:
    """A USER's name in the place of FILE would export everybody, into a file of that name."""
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
    assert "exists already and stays as it is" in capsys.readouterr().err


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_device_is_no_place_for_an_export(home: Path, capsys: pytest.CaptureFixture[str], force: list[str]) -> None:
    """It is named for what it is, and nobody is asked for a passphrase."""
    assert os.EX_OSERR == main.main(["export", os.devnull, *force])

    assert "cms: /dev/null: it is a device and stays as it is: name a file\n" == capsys.readouterr().err
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_passphrase_that_will_not_do_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, no traceback."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    with conversing(home, {"event": "password", "message": "p"}):
        assert 1 == main.main(["export", str(home / "signins")])

    assert "cms: the passphrase is too short" in capsys.readouterr().err


def test_everybody_or_somebody_leaves(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--all is a command of its own for the daemon, and takes no user."""
    with daemon(home, done(message="all gone")) as asked:
        assert 0 == main.main(["logout", "--all"])

    assert [{"command": "leave"}] == asked
    assert 2 == main.main(["logout", "a@example.test", "--all"])
    assert "--all leaves nobody out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "options", "asked"),
    [("n\n", [], []), ("y\n", [], [{"command": "leave"}]), ("", ["--yes"], [{"command": "leave"}])],
)
def test_a_person_is_asked_before_everybody_leaves(
    home: Path, monkeypatch: pytest.MonkeyPatch, typed: str, options: list[str], asked: list[dict[str, Any]]
) -> None:
    """All sign-ins are quickly gone, and slowly had again."""
    stdin = io.StringIO(typed)
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    with daemon(home, *[done()] * len(asked)) as told:
        assert (not asked) == main.main(["logout", "--all", *options])

    assert asked == told


def test_pruning_shows_and_asks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is told is shown; --yes goes along."""
    with conversing(home, {"event": "told", "message": "bob"}, done(message="deleted: 1")) as heard:
        assert 0 == main.main(["prune", "--yes"])

    assert [True] == [each["yes"] for each in heard]
    assert "bob\ndeleted: 1\n" == capsys.readouterr().out


@contextmanager
def conversing(home: Path, *events: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Be a daemon that goes through these events in one conversation; what is told wants no answer."""
    heard: list[dict[str, Any]] = []
    folder = home / "run" / "cms"
    folder.mkdir(parents=True, exist_ok=True)

    def play() -> None:
        client, _ = listening.accept()
        with client, client.makefile("rb") as lines:
            heard.append(json.loads(lines.readline()))
            for event in events:
                client.sendall(json.dumps(event).encode() + b"\n")
                if event["event"] in ("password", "question") and (line := lines.readline()):
                    heard.append(json.loads(line))

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "control.sock"))
        listening.listen()
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        yield heard
        thread.join()
    (folder / "control.sock").unlink()
