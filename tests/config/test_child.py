"""A configuration in a process of its own: what comes back, and that nothing of it is left, whatever the file does."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support.configuration import Loader
from support.proc import many_files
from support.waiting import PATIENCE, until

from cms.config import __main__, child
from cms.config.child import Loader as Children
from cms.config.child import load
from cms.config.model import Config, ConfigError
from cms.system import threads

GOOD = 'CredentialServer("/run/cms.sock", [Office365_Account("a@example.com")])\n'

# A line with which a file shortens its time, once it has done what it is to do before that is over.
NOW = "import sys, faulthandler; faulthandler.dump_traceback_later(0.01, file=int(sys.argv[2]))\n"

# What a file prints comes out at once.
TELL = "import os; open({path!r}, 'w').write(str(os.getpid()))\n"

Runner = Callable[..., Config]
Refuser = Callable[..., ConfigError]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cms.cfg"


@pytest.fixture
def run(file: Path) -> Runner:
    """Return what loads a text in a process of its own."""

    def run(text: str) -> Config:
        file.write_text(text)
        return load(str(file))

    return run


@pytest.fixture
def refuse(run: Runner) -> Refuser:
    def refuse(text: str) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            run(text)
        return caught.value

    return refuse


def runs(pid: int) -> bool:
    """Whether a process has not ended. Nobody may have waited for one that has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class TestResult:
    def test_as_in_this_process(self, run: Runner, load_text: Loader) -> None:
        """What comes back is what the file says."""
        text = GOOD + "MailDir('x')\n"

        assert load_text(text) == run(text)

    def test_ten_thousand(self, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        """The accounts of a large configuration are shared by its sockets, and so are their scopes."""
        # It takes a second where nothing else runs.
        monkeypatch.setattr(child, "LOAD_SECONDS", PATIENCE)
        config = run(
            """\
each = [Office365_Account(f"u{n}@example.com") for n in range(10_000)]
CredentialServer("/run/one.sock", each)
CredentialServer("/run/two.sock", each)
for n in range(100):
    CredentialServer(f"/run/{n}.sock", [each[n]])
"""
        )

        assert 10_000 == len(config.accounts)
        for socket in config.sockets[:2]:
            assert all(one is other for one, other in zip(config.accounts, socket.accounts, strict=True))
        assert all(config.accounts[n] is config.sockets[n + 2].accounts[0] for n in range(100))
        assert 1 == len({id(each.scopes["SMTP"]) for each in config.accounts})

    def test_error(self, refuse: Refuser, file: Path) -> None:
        """An error has its file, line and hint."""
        assert (
            str(file),
            2,
            "there is no directive Office365_Acount",
            "Did you mean Office365_Account?",
        ) == refuse("\nOffice365_Acount()").args

    def test_trust(self, file: Path, tmp_path: Path) -> None:
        """A file that others can write is refused before any of it runs."""
        file.write_text(TELL.format(path=str(tmp_path / "ran")))
        file.chmod(0o666)

        with pytest.raises(ConfigError, match="can be written by everyone"):
            load(str(file))
        assert not (tmp_path / "ran").exists()

    def test_odd_name(self, tmp_path: Path) -> None:
        """A path that is no text in any encoding, and has quotes in it, comes through, and so does its line."""
        file = os.fsencode(tmp_path) + b'/n\xe4\xff "me", line 7.cfg'
        Path(os.fsdecode(file)).write_text(f"\n{NOW}while True: pass")

        with pytest.raises(ConfigError) as caught:
            load(os.fsdecode(file))
        assert (os.fsdecode(file), 3) == (caught.value.file, caught.value.line)

    def test_surroundings(self, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file has the environment, the folder and the mask of this process, and nothing of it is in an argument."""
        monkeypatch.setenv("CMS_TEST_VARIABLE", "value")
        monkeypatch.chdir(tmp_path)
        before = os.umask(0o027)
        try:
            run(
                GOOD
                + f"""\
import json, os, sys
umask = os.umask(0)
seen = [dict(os.environ), os.getcwd(), umask, sys.orig_argv]
open({str(tmp_path / "seen")!r}, "w").write(json.dumps(seen))
os.environ["CMS_TEST_VARIABLE"] = "other"
os.chdir("/")
"""
            )
        finally:
            os.umask(before)
        environ, folder, umask, arguments = json.loads((tmp_path / "seen").read_text())

        # A library may have set more, past Python.
        assert os.environ.items() <= environ.items()
        assert (str(tmp_path), 0o027) == (folder, umask)
        assert [] == [each for each in arguments if "cms.cfg" in each or "example" in each]
        assert ("value", str(tmp_path)) == (os.environ["CMS_TEST_VARIABLE"], str(Path.cwd()))

    def test_signals(self, run: Runner, tmp_path: Path) -> None:
        """Signals do to the file what they do to any Python program, and no descriptor of cms goes to what it starts."""
        run(
            GOOD
            + f"""\
import json, os, signal, subprocess
handlers = [signal.getsignal(each) is signal.SIG_DFL for each in (signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)]
handlers.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
held = subprocess.run(["ls", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout.split()
open({str(tmp_path / "seen")!r}, "w").write(json.dumps([handlers, held]))
"""
        )

        # The fourth is that of the folder that `ls` reads.
        assert [[True] * 4, ["0", "1", "2", "3"]] == json.loads((tmp_path / "seen").read_text())

    def test_output(self, run: Runner, capfd: pytest.CaptureFixture[str]) -> None:
        """What a file prints comes out where this process prints, in any way, and does not disturb the answer."""
        run(
            'import os, sys\nprint("{}")\nprint("[]", file=sys.stderr)\nos.write(1, b"raw\\n"); os.system("echo sub")\n'
            + GOOD
        )

        assert ("{}\nraw\nsub\n", "[]\n") == capfd.readouterr()

    def test_closed_output(self, run: Runner) -> None:
        """A file may close its standard streams."""
        assert run(f"import sys\nsys.stdout.close(); sys.stderr.close()\n{GOOD}").accounts

    def test_copies(self, run: Runner) -> None:
        """A file that forks has one result; the copies end."""
        assert run(f"import os\nos.fork(); os.fork()\n{GOOD}").accounts

    def test_leftovers(self, run: Runner) -> None:
        """Threads and exit handlers that the file leaves keep nobody waiting."""
        text = "import atexit, threading, time\nwait = threading.Event().wait\natexit.register(wait)\n"

        assert run(f"{text}threading.Thread(target=wait).start()\n{GOOD}").accounts


class TestEnds:
    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("import os\nos._exit(0)", None, "its process ended with status 0 before the file did"),
            ("import os\nos._exit(3)", None, "its process ended with status 3 before the file did"),
            ("import os\nif os.fork(): os._exit(1)", None, "its process ended with status 1 before the file did"),
            ("import os\nos.kill(os.getpid(), 9)", None, "its process was killed by SIGKILL"),
            ("import ctypes\nctypes.string_at(0)", None, "its process was killed by SIGSEGV"),
            ("import os\nos.kill(os.getpid(), 40)", None, "its process was killed by signal 40"),
            ("import signal\nsignal.raise_signal(2)", 2, "it was interrupted here"),
            ("raise SystemExit", 1, "it ends the program here, which a configuration may not do"),
            ("x = 'a' * 10 ** 15", 1, "MemoryError"),
            ("def f(): f()\nf()", 1, "RecursionError: maximum recursion depth exceeded"),
        ],
    )
    def test_its_process(self, refuse: Refuser, text: str, line: int | None, message: str) -> None:
        """The end of its process is an error of the file's, whatever ends it."""
        refusal = refuse(f"{text}\n{GOOD}")

        assert (line, message) == (refusal.line, refusal.message)

    @pytest.mark.parametrize(
        "text",
        [
            "import os\nos.closerange(3, 1000)",
            # Something else has the number then.
            "import os\nos.closerange(3, 1000)\nkept = [open('/dev/null') for n in range(20)]",
            "import os\nos.closerange(3, 1000)\nwhile True: pass",
            "import os\nos.execvp('sleep', ['sleep', '600'])",
        ],
    )
    def test_closed_descriptors(self, refuse: Refuser, text: str) -> None:
        """Without a way to answer there is an error, and at once."""
        assert ("it has replaced its process, or closed the descriptor through which cms gets its result") == refuse(
            f"{text}\n{GOOD}"
        ).message

    def test_written_descriptors(self, refuse: Refuser) -> None:
        """What a file writes where its answer goes is bounded, and not taken for one."""
        text = "import os, sys\nwhile True: os.write(int(sys.argv[1]), b'[]\\n' * 1000)\n"

        assert "its process sent a line that is not a JSON object" == refuse(text).message

    def test_no_process(self, refuse: Refuser, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where none can be started, it is said."""
        monkeypatch.setattr(sys, "executable", "/none/python")

        assert "no process can be started for it: No such file or directory" == refuse(GOOD).message


class TestTime:
    @pytest.mark.parametrize(
        "loop",
        [
            "while True: pass",
            "import time; time.sleep(600)",
            # A library's loop, in which Python runs no signal handler and no other thread.
            "import re; re.match('(a+)+$', 'a' * 64 + 'b')",
            "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); signal.pause()",
            "while True: print('x' * 1000, file=open('/dev/null', 'w'))",
        ],
    )
    def test_line(self, refuse: Refuser, loop: str) -> None:
        """A file that does not come to its end is given up, with the line that it is in."""
        refusal = refuse(f"def wait():\n    {loop}\n{NOW}\nwait()\n")

        assert (2, "it did not end within 10 s") == (refusal.line, refusal.message)

    def test_limit(self, refuse: Refuser, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its time is the one that is set here."""
        monkeypatch.setattr(child, "LOAD_SECONDS", 0.05)

        assert "it did not end within 0.05 s" == refuse("while True: pass").message

    def test_silence(self, refuse: Refuser, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that keeps its process from saying where it is is killed a little later."""
        # Less than nothing: its time is not over before the file has kept it from saying so.
        monkeypatch.setattr(child, "MARGIN_SECONDS", 0.5 - child.LOAD_SECONDS)
        text = "import faulthandler\nfaulthandler.cancel_dump_traceback_later()\nwhile True: pass"

        assert (None, "it did not end within 10 s") == refuse(text).args[1:3]

    def test_closed_pipe(self, run: Runner) -> None:
        """A file that closes what that would be said through is loaded."""
        assert run(f"import os, sys\nos.close(int(sys.argv[2]))\n{GOOD}").accounts

    def test_nothing_is_left(self, refuse: Refuser, tmp_path: Path) -> None:
        """The process is killed with all that it has started: in other groups and sessions, and with other parents."""
        folder = tmp_path / "pids"
        folder.mkdir()
        tell = f"echo $$ > {folder}/$0.new; mv {folder}/$0.new {folder}/$0; exec sleep 600"
        text = f"""\
import os, subprocess, time
tell = {tell!r}
subprocess.Popen(["sh", "-c", tell, "child"])
subprocess.Popen(["sh", "-c", tell, "session"], start_new_session=True)
subprocess.run(["sh", "-c", 'setsid sh -c "$0" orphan & exit', tell])
while len(os.listdir({str(folder)!r})) < 3 or any(each.endswith(".new") for each in os.listdir({str(folder)!r})):
    time.sleep(0.01)
{TELL.format(path=str(folder / "itself"))}
{NOW}
while True: pass
"""
        refusal = refuse(text)
        pids = [int(each.read_text()) for each in folder.iterdir()]

        assert ("it did not end within 10 s", 4) == (refusal.message, len(pids))
        until(lambda: not any(map(runs, pids)), "the end of all")

    def test_what_it_leaves_on_purpose(self, run: Runner, tmp_path: Path) -> None:
        """A program that a file starts in the background, such as gpg-agent, goes on when the file has come to its end."""
        pid = tmp_path / "pid"
        run(f"import subprocess\nopen({str(pid)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n{GOOD}")
        left = int(pid.read_text())

        assert runs(left)
        os.kill(left, signal.SIGKILL)


_LOAD = """
import os, sys
from cms.config.child import Loader
{first}
loader = Loader()
{then}
loader.load(sys.argv[1])
"""


def start(file: Path, first: str = "", then: str = "", **options: object) -> subprocess.Popen[str]:
    """Start a program that loads this file: what it does first, and what when the file's process has been started."""
    program = [sys.executable, "-c", _LOAD.format(first=first, then=then), str(file)]
    return subprocess.Popen(program, text=True, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return] # what a test needs


class TestParent:
    def test_it_does_not_outlive_its_parent(self, file: Path, tmp_path: Path) -> None:
        """A process that is killed leaves no configuration behind, whatever that does."""
        pid = tmp_path / "pid"
        file.write_text(TELL.format(path=str(pid)) + "while True: pass")
        with start(file) as parent:
            until(lambda: pid.exists() and pid.read_text(), "the file runs")
            parent.kill()

        until(lambda: not runs(int(pid.read_text())), "its end")

    def test_one_that_was_not_needed(self, file: Path) -> None:
        """A process that was started ahead runs nothing before it is asked, and ends with its parent."""
        file.write_text("raise SystemExit")
        with start(file, then="print(loader._ready._process.pid); sys.exit()", stdout=subprocess.PIPE) as parent:
            assert parent.stdout
            pid = int(parent.stdout.read())

        assert 0 == parent.returncode
        until(lambda: not runs(pid), "its end")

    def test_ctrl_c(self, file: Path, tmp_path: Path) -> None:
        """Ctrl-C at a terminal ends both, and the file has no say in it."""
        pid = tmp_path / "pid"
        ignore = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        file.write_text(ignore + TELL.format(path=str(pid)) + "while True: pass")
        with start(file, stderr=subprocess.PIPE) as parent:
            until(lambda: pid.exists() and pid.read_text(), "the file runs")
            os.killpg(parent.pid, signal.SIGINT)
            assert parent.stderr
            said = parent.stderr.read()

        assert not runs(int(pid.read_text()))
        assert (-signal.SIGINT, 1) == (parent.returncode, said.count("KeyboardInterrupt"))

    def test_terminal(self, file: Path) -> None:
        """A file may ask a person at the terminal, by its name as well as by the standard input."""
        file.write_text(f"assert [open('/dev/tty').readline(), input('Who? ')] == ['you\\n', 'me']\n{GOOD}")
        ours, theirs = pty.openpty()
        os.write(ours, b"you\nme\n")
        # The terminal that a leader of a session opens first becomes its own.
        opened = f"os.open({os.ttyname(theirs)!r}, os.O_RDWR)"
        with start(file, opened, stdin=theirs, stdout=theirs, stderr=theirs) as parent:
            status = parent.wait()
        os.close(theirs)
        said = b""
        # Linux reports the end of a pseudoterminal as an error (EIO).
        with suppress(OSError):
            while True:
                said += os.read(ours, 1000)
        os.close(ours)

        assert (0, True) == (status, b"Who? " in said), said


def test_many_descriptors(file: Path) -> None:
    """A daemon with thousands of connections loads as any other does, and says where a file is that does not end."""
    file.write_text(f"{NOW}while True: pass")
    with many_files(2048), ExitStack() as stack:
        for _ in range(1100):
            stack.callback(os.close, os.dup(0))

        with pytest.raises(ConfigError, match=r":2: it did not end within 10 s"):
            load(str(file))


def test_ctrl_c_after_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that comes while cms makes a configuration of what the file has said is no traceback either."""

    def interrupted(_path: str) -> Config:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "load", interrupted)
    said = __main__.run("/x/cms.cfg")

    assert isinstance(said, ConfigError)
    assert ("/x/cms.cfg", None, "it was interrupted", "") == said.args


class TestAhead:
    def test_each_load_has_its_own(self, file: Path, tmp_path: Path) -> None:
        """The first load takes the process that waits, and each further one a new process."""
        file.write_text(f"import os\nopen({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n')\n{GOOD}")
        children = Children()
        for _ in range(2):
            assert children.load(str(file)).accounts

        assert 2 == len(set((tmp_path / "pids").read_text().split()))

    def test_it_is_not_needed(self) -> None:
        """Whoever runs no file ends it."""
        with Children() as children:
            assert children._ready
            process = children._ready._process

        assert process.returncode is not None

    def test_it_has_ended(self, file: Path) -> None:
        """A process that was killed while it waited is an error of this load, and the next one has another."""
        file.write_text(GOOD)
        children = Children()
        assert children._ready
        os.kill(children._ready._process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, children._ready._process.pid, os.WEXITED | os.WNOWAIT)

        with pytest.raises(ConfigError, match="its process was killed by SIGKILL"):
            children.load(str(file))
        assert children.load(str(file)).accounts

    def test_it_ends_before_it_reads(self, file: Path) -> None:
        """Also when it has been told already what to do."""
        children = Children()
        ready = children._ready
        assert ready
        os.kill(ready._process.pid, signal.SIGSTOP)
        load = threads.start(lambda: children.load(str(file)))
        # What the other end has not read (unix(7), SIOCOUTQ).
        until(lambda: any(fcntl.ioctl(ready._sock, termios.TIOCOUTQ, bytes(4))), "the request")
        os.kill(ready._process.pid, signal.SIGKILL)

        with pytest.raises(ConfigError, match="its process was killed by SIGKILL"):
            load.result()


def test_it_is_light() -> None:
    """It starts with each load, so it has none of the daemon's or the worker's libraries, and no lifecycle."""
    program = "import sys, cms.config.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert set() == set(loaded) & {
        "trio",
        "structlog",
        "msal",
        "requests",
        "cryptography",
        "asyncio",
        "cms.core.lifecycle",
    }
    assert "cms.config.load" in loaded
