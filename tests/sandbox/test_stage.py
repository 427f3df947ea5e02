"""What `cms demo` shows: with the real programs once, and with programs that fail in every way."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.programs import require_program
from support.terminal import terminal

from cms.sandbox import stage
from cms.sandbox.directory import MAIL_SCOPES
from cms.sandbox.show import masked
from cms.sandbox.stage import GOOGLE, USER, Failed, Stage, inside, run_demo

# A daemon that does nothing but listen where cms does; argv[1] is what it does with SIGTERM.
DAEMON = """\
import os, signal, socket, sys
if "{deaf}":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = os.environ["XDG_RUNTIME_DIR"] + "/cms"
os.makedirs(folder, exist_ok=True)
sock = socket.socket(socket.AF_UNIX)
path = folder + "/control.sock"
if os.path.exists(path):
    os.unlink(path)
sock.bind(path)
sock.listen()
print("listening", flush=True)
while True:
    sock.accept()
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace both programs by a script."""

    def replace(script: str) -> None:
        path = tmp_path / "program.py"
        path.write_text(script)
        monkeypatch.setattr(stage, "_PROGRAMS", dict.fromkeys(("cms", "cms-oauth"), (sys.executable, str(path))))

    return replace


def played(steps: Callable[[Stage], None]) -> tuple[int, str]:
    """Return the exit status and what was shown."""
    out = io.StringIO()
    status = run_demo(out, steps)
    return status, out.getvalue()


def test_the_whole_demonstration() -> None:
    """It ends with the line of a passed test, after a sign-in, a refresh and a restart, and shows no token."""
    status, shown = played(stage.play)

    assert (0, stage.PASSED) == (status, shown.splitlines()[-1]), shown
    assert 2 == shown.count("$ cms run -c ")
    assert ["$ cms login", "$ cms refresh", "$ cms status"] == [
        word for word in ("$ cms login", "$ cms refresh", "$ cms status") if word in shown
    ]
    assert [] == [word for word in shown.split() if len(word) > 500]


@dataclass
class Visitor:
    """A person in another terminal, who has read the file that the demonstration names."""

    environment: str

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        words = ["/bin/sh", "-c", f'{self.environment}; exec "$@"', "sh", *command]
        return subprocess.run(
            words,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=stage.STEP_SECONDS,
        )


def test_a_sandbox_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed commands work in another shell, with three accounts, until Ctrl-C; after it nothing is left.

    mutt reads what msmtp has sent, sends another one, and mbsync has both.
    """
    for program, package in (("msmtp", "msmtp"), ("mbsync", "isync"), ("mutt", "mutt"), ("tmux", "tmux")):
        require_program(program, package)
    out, said, folders, senders = io.StringIO(), list[str](), list[Path](), list[str]()

    def wait() -> None:
        shown = [line.strip() for line in out.getvalue().split("\n") if line.startswith("    ")]
        # The configuration's lines come before.
        first, *lines = shown[next(number for number, line in enumerate(shown) if line.startswith(". ")) :]
        folders.append(Path(first.removeprefix(". ")).parent)
        visitor = Visitor(first)
        # Each that needs no person.
        script = "\n".join(["set -e", *lines[: lines.index("mutt")]])
        done = visitor.run("/bin/sh", "-c", script)
        said.append(done.stdout + done.stderr)
        assert 0 == done.returncode, said
        with terminal(visitor, "mutt") as mutt:
            mutt.wait_for("Welcome to the sandbox of cms", "hello")
            mutt.press("*", "Enter")
            mutt.wait_for("Subject: hello", stage.TEAM, "It works.")
        sent = visitor.run("mutt", "-s", "from mutt", USER, stdin="by SMTP\n")
        assert 0 == sent.returncode, sent
        assert 0 == visitor.run("mbsync", "work").returncode
        mail = [each.read_text() for each in (folders[0] / "home" / "Mail" / "INBOX").glob("[cn]*/*")]
        said.extend(re.findall("(?m)^Subject: (.*)$", "\n".join(mail)))
        raise KeyboardInterrupt

    def keep(the_stage: Stage) -> None:
        stage.keep(the_stage)
        senders.extend(login.user for login in the_stage.submission.logins if login.accepted)

    monkeypatch.setattr(stage, "_wait", wait)

    assert 0 == run_demo(out, keep), out.getvalue()
    assert [stage.TEAM, USER] == senders[-2:], "msmtp's login, and mutt's"
    assert ["Welcome to the sandbox of cms", "from mutt", "hello"] == sorted(said[1:])
    accounts = (stage.USER, f"{stage.GOOGLE} (a server of your own)", stage.TEAM)
    assert [] == [each for each in accounts if f"{each}: ok" not in said[0]]
    assert stage.PASSED in said[0]
    assert "\nfail " not in said[0], "what cms doctor looks at is here: nothing leaves this machine"
    assert not folders[0].exists()


def test_everything_is_cleared_up(programs: Callable[[str], None]) -> None:
    """Folder and processes are gone at the end, after a failure too."""
    programs(DAEMON.format(deaf=""))
    folders = []

    def steps(the_stage: Stage) -> None:
        folders.append(the_stage.folder)
        with the_stage.daemon():
            raise Failed("on purpose")

    status, shown = played(steps)

    pid = int(shown.partition("(runs as process ")[2].partition(")")[0])
    assert (1, False) == (status, folders[0].exists())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "The demonstration failed: on purpose" in shown
    assert "  listening" in shown


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("print('no idea'); raise SystemExit(3)", "the daemon ended with status 3"),
        ("import time; print('no idea', flush=True); time.sleep(600)", "the daemon does not listen"),
        (DAEMON.format(deaf="yes").replace("listening", "no idea"), "the daemon did not end after SIGTERM"),
    ],
    ids=["ends", "never listens", "never ends"],
)
def test_a_daemon_that_fails(
    programs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, script: str, complaint: str
) -> None:
    """A daemon that ends at once, never listens, or does not end is a failure; the end of its log is shown."""
    programs(script)

    def steps(the_stage: Stage) -> None:
        if "listen" in complaint:
            # Its time is over when it has begun.
            log, late = the_stage.log, 2 * stage.STEP_SECONDS
            monkeypatch.setattr(stage, "_now", lambda: late if "no idea" in log.read_text() else 0.0)
        with the_stage.daemon():
            monkeypatch.setattr(stage, "STEP_SECONDS", 0.2)

    status, shown = played(steps)

    assert (1, True, True) == (status, complaint in shown, "  no idea" in shown), shown


def status_of_the_daemon(the_stage: Stage) -> None:
    the_stage.run("cms", "status")


@pytest.mark.parametrize(
    ("script", "step", "complaint"),
    [
        ("import sys; print('why', file=sys.stderr); sys.exit(75)", status_of_the_daemon, "cms ended with status 75"),
        ("print('why', flush=True); import time; time.sleep(600)", status_of_the_daemon, "cms did not end within 1 s"),
        ("print('why'); raise SystemExit(75)", Stage.sign_in, "cms login ended with status 75"),
        ("print('why {url}/nothing', flush=True); import time; time.sleep(600)", Stage.sign_in, "404:"),
        ("print('user=why\\x01auth=Bearer eyJabc\\x01\\x01')", Stage.fetch, "this is not a valid token"),
    ],
    ids=["fails", "hangs", "no link", "useless link", "worthless token"],
)
def test_a_command_that_fails(
    programs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    step: Callable[[Stage], object],
    complaint: str,
) -> None:
    """A command that fails, hangs, or gives something useless ends the demonstration; what it said is shown."""
    if "did not end" in complaint:
        monkeypatch.setattr(stage, "STEP_SECONDS", 1.0)

    def steps(the_stage: Stage) -> None:
        programs(script.replace("{url}", the_stage.entra.authority))
        step(the_stage)

    status, shown = played(steps)

    assert (1, True) == (status, f"The demonstration failed: {complaint}" in shown), shown
    assert ("did not end" in complaint) or "why" in shown


# A client without a token at its first call, as a loaded machine has it after a restart.
LATE = """\
import os, sys
asked = os.environ["HOME"] + "/asked"
if not os.path.exists(asked):
    open(asked, "w")
    print("not yet", file=sys.stderr)
    sys.exit(75)
print("user={user}\\x01auth=Bearer {token}\\x01\\x01")
"""


@pytest.mark.parametrize(("now", "expected"), [(0.0, 0), (stage.STEP_SECONDS * 2, 1)], ids=["in time", "too late"])
def test_a_token_that_is_not_there_yet(
    programs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, now: float, expected: int
) -> None:
    """Is asked for again, as a mail program does that is told to try later; one that never comes is a failure."""
    monkeypatch.setattr(stage, "AGAIN_SECONDS", 0.0)

    def steps(the_stage: Stage) -> None:
        programs(LATE.format(user=USER, token=the_stage.entra.issue(USER, MAIL_SCOPES[:1])))
        monkeypatch.setattr(stage, "_now", iter([0.0, now]).__next__)
        the_stage.fetch()

    status, shown = played(steps)

    assert expected == status, shown
    assert "not yet" in shown
    assert ("The demonstration failed: cms-oauth ended with status 75" in shown) == bool(expected)


# Both programs in one: a daemon that only listens, and a client that has another token after a refresh if it is told
# to. As `cms-oauth` does it, a test of a login prints no token.
PROGRAMS = """\
import os, sys
before, after, google = "{before}", "{after}", "{google}"
refreshed = os.environ["HOME"] + "/refreshed"
if "run" in sys.argv:
    exec({daemon!r})
elif "refresh" in sys.argv:
    open(refreshed, "w")
elif "--test" not in str(sys.argv):
    token = google if "{of_google}" in str(sys.argv) else after if os.path.exists(refreshed) else before
    print("user={user}\\x01auth=Bearer " + token + "\\x01\\x01")
"""


@pytest.mark.parametrize("changes", [False, True])
def test_what_the_steps_prove(programs: Callable[[str], None], *, changes: bool) -> None:
    """A refresh that changes nothing is seen, and a login that never reached the server."""

    def steps(the_stage: Stage) -> None:
        before, after = (the_stage.entra.issue(USER, MAIL_SCOPES[:1]) for _ in range(2))
        daemon = DAEMON.format(deaf="")
        tokens = {"before": before, "after": after if changes else before, "google": the_stage.issuer.issue(GOOGLE)}
        programs(PROGRAMS.format(**tokens, daemon=daemon, user=USER, of_google=GOOGLE))
        stage.play(the_stage)

    status, shown = played(steps)

    reason = "has seen no login" if changes else "the same as before the refresh"
    assert (1, True) == (status, reason in shown), shown


def test_tokens_are_masked() -> None:
    """A token is shortened to its first letters and its length, ^A is visible, and all else is as it was."""
    token = "eyJ0eXAi" + "a.B_-" * 20

    assert "user=x^Aauth=Bearer eyJ0eXAi...(108 characters)^A^A" == masked(f"user=x\x01auth=Bearer {token}\x01\x01")
    assert "Bearer ya29.abcde...(110 characters)" == masked(f"Bearer ya29.abcde{'x' * 100}")
    assert "nothing to hide" == masked("nothing to hide")


def test_environment_stays_inside(tmp_path: Path) -> None:
    """Nothing leads to this person's own folders, sockets, keyring, browser or proxy."""
    own = {
        "HOME": "/home/me",
        "XDG_RUNTIME_DIR": "/run/user/1",
        "XDG_DATA_DIRS": "/usr/share",
        "CMS_SOCK": "/run/cms.sock",
        "STATE_DIRECTORY": "/var/lib/cms",
        "NOTIFY_SOCKET": "@n",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/bus",
        "BROWSER": "firefox",
        "https_proxy": "http://proxy:3128",
        "REQUESTS_CA_BUNDLE": "/ca",
        "SSLKEYLOGFILE": "/keys",
    }

    environment = inside(tmp_path, {**own, "PATH": "/bin", "LANG": "C"})

    assert {"PATH": "/bin", "LANG": "C", "NO_PROXY": "localhost,127.0.0.1", "PYTHONUNBUFFERED": "1"} == {
        name: value for name, value in environment.items() if not value.startswith(str(tmp_path))
    }
    assert ["HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"] == sorted(
        name for name, value in environment.items() if Path(value).is_dir() and value.startswith(str(tmp_path))
    )


def test_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """`cms demo` takes one."""
    assert os.EX_USAGE == stage.main(["--fast"])
    assert "takes no arguments but --keep" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trustme", "aiosmtpd"])
def test_missing_library(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the extra's libraries the command says how to install them."""
    # The package is imported anew, which makes it another attribute of `cms`: that is undone as well.
    monkeypatch.setattr("cms.sandbox", sys.modules["cms.sandbox"])
    for module in [module for module in sys.modules if module.startswith(("cms.sandbox", name))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # cannot be imported

    assert os.EX_UNAVAILABLE == stage.main()
    err = capsys.readouterr().err
    assert f"cms demo needs a library that is not installed: {name}." in err
    assert "`make demo`" in err
    assert f"{sys.prefix}/bin/pip install '.[sandbox]'" in err


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, 0),
        (signal.SIGINT, stage.INTERRUPTED),
        (signal.SIGTERM, stage.INTERRUPTED),
        (signal.SIGHUP, stage.INTERRUPTED),
    ],
)
def test_interrupted(monkeypatch: pytest.MonkeyPatch, end: signal.Signals | None, status: int) -> None:
    """Ctrl-C and its like end it in order, without a traceback; afterwards signals do what they did before."""
    folders = []
    before = signal.getsignal(signal.SIGTERM)

    def play(the_stage: Stage) -> None:
        folders.append(the_stage.folder)
        if end:
            signal.raise_signal(end)

    monkeypatch.setattr(stage, "play", play)
    monkeypatch.setattr(stage, "keep", play)

    assert (status, False) == (stage.main(), folders[0].exists())
    assert (status, False) == (stage.main(["--keep"]), folders[1].exists())
    assert before is signal.getsignal(signal.SIGTERM)
