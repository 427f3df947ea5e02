"""`cms init` in a terminal, run by a person who has only read docs/install.md: real TLS to Entra and to mail servers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from support import evidence
from support.contrib import ROOT
from support.daemon import Daemon
from support.reachable import ALICE
from support.servers import MailServers
from support.terminal import Terminal, terminal
from support.waiting import until

from cms.sandbox.directory import CLIENT_ID, TENANT

_numbers = count()

_OWN = f"--client-id={CLIENT_ID}"

# A systemd of one user's, as far as `cms init` uses it: it keeps what it is told, and starts what a unit says.
_SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$HOME/systemctl.log"
case "$*" in
*enable*)
    command=$(sed -n 's/^ExecStart=//p' "$HOME/config/systemd/user/cms.service")
    setsid $command > "$HOME/unit.log" 2>&1 < /dev/null &
    echo $! > "$HOME/unit.pid"
    until [ -S "$XDG_RUNTIME_DIR/cms/control.sock" ]; do sleep 0.1; done ;;
esac
"""


@dataclass
class Newcomer:
    """A person with an empty home folder. `user` is their address."""

    daemon: Daemon
    servers: MailServers
    user: str

    @property
    def home(self) -> Path:
        return self.daemon.home

    @property
    def config(self) -> Path:
        return self.home / "config" / "cms" / "cms.cfg"

    @property
    def environment(self) -> dict[str, str]:
        """A PATH with cms and a few tools, and the test's authority for the mail servers."""
        path = f"{self.home}/bin:{self.daemon.installation.folder}/bin:/usr/bin:/bin"
        return {"PATH": path, "SSL_CERT_FILE": self.servers.ca_file}

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program at home."""
        variables = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        done = self.daemon.run("env", "-C", str(self.home), *variables, *command, stdin=stdin)
        evidence.keep("output", done.stderr)
        return done

    def program(self, name: str, text: str) -> None:
        """Put a program into the PATH."""
        path = self.home / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        os.chown(path.parent, self.daemon.uid, self.daemon.uid)

    def words(self, *more: str) -> list[str]:
        """Return the command, told of the sandbox in the place of Microsoft."""
        entra = self.servers.entra
        there = [f"--authority={entra.authority}", f"--ca={entra.ca_file}"]
        tried = [f"--try-smtp=localhost:{self.servers.submission}", f"--try-imap=localhost:{self.servers.imap}"]
        init = [self.daemon.installation.command("cms"), "init", *there, *tried]
        return [*init, "--redirect-uri=http://localhost/", *more]

    @contextmanager
    def init(self, *more: str, **environment: str) -> Iterator[Terminal]:
        """Give the command in a terminal."""
        with terminal(self, *self.words(*more), **self.environment, **environment) as window:
            yield window

    def paste(self, window: Terminal, since: int = 0) -> None:
        """Be the person with a browser: open the link, paste the address that it ends at."""

        def link() -> str:
            shown = window.text()
            lines = [line.strip() for line in shown.split("\n") if "/authorize?" in line]
            return lines[-1] if lines and "Ctrl-C cancels" in shown else ""

        url = until(link, "a link in the terminal")
        page = self.servers.entra.sign_in(url, self.user, follow=False).url
        window.paste(page)
        window.press("Enter")


@pytest.fixture
def newcomer(make_daemon: Callable[..., Daemon], servers: MailServers) -> Iterator[Newcomer]:
    """A user of a domain that the sandbox's Entra knows."""
    daemon = make_daemon(ALICE)
    user = f"newcomer{next(_numbers)}@domain.com"
    servers.add_user(user)
    owner = Newcomer(daemon, servers, user)
    yield owner
    started = daemon.home / "unit.pid"
    if started.exists():
        process = int(started.read_text())
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{process}").exists(), "the end of the service")


# What differs from one first run to the next: whose it is, where, with which servers and programs.
_DIFFERS = {
    "user@domain.com": r"\S+@domain\.com",
    "00001111-aaaa-2222-bbbb-3333cccc4444": TENANT,
    "/home/user/.config": r"\S+",
    "smtp.office365.com": r"localhost:\d+",
    "outlook.office365.com": r"localhost:\d+",
    "[browser]": r"\[paste\]",
    "here: msmtp.": "here: msmtp.+",
}


def the_pages_dialogue() -> list[str]:
    """Return what docs/install.md shows of a first run: a pattern for each line."""
    (shown,) = re.findall(
        r"^```\n(Mail address: .*?)^```$", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE | re.DOTALL
    )
    known = "|".join(map(re.escape, _DIFFERS))

    def pattern(line: str) -> str:
        return "".join(_DIFFERS.get(part) or re.escape(part) for part in re.split(f"({known})", line))

    return [pattern(line) for line in str(shown).splitlines()]


def _decline(window: Terminal, question: str, first: int = 0) -> None:
    """Say no to the settings of each mail program of this machine, from this one on."""
    named = re.search(r"Mail programs here: (.*?)\.\s+" + question, window.wait_for(question), re.DOTALL)
    assert named
    for _ in named[1].split(",")[first:]:
        window.press("n", "Enter")


def test_from_an_address_to_a_first_token(newcomer: Newcomer) -> None:
    """Address, sign-in, both mail servers, and the lines for a mail program: nothing else is typed than Enter, and which application.

    It goes as docs/install.md shows it.
    """
    newcomer.program("msmtp", "#!/bin/sh\n")
    newcomer.program("systemctl", _SYSTEMCTL)
    seen: list[str] = []

    with newcomer.init() as window:
        window.wait_for("Mail address:")
        window.press(newcomer.user, "Enter")
        seen.append(window.wait_for(f"domain.com is the tenant {TENANT}", "Application?"))
        window.press("own", "Enter")
        window.wait_for("az ad app create", "Application (client) ID:")
        window.press(CLIENT_ID, "Enter")
        window.wait_for(f"Wrote {newcomer.config}", "Install the systemd unit")
        seen.append(window.text())
        window.press("Enter")
        window.wait_for("cms is running now", f"Sign in as {newcomer.user} now?")
        window.press("Enter")
        window.wait_for("With a browser here", "[paste]")
        seen.append(window.text())
        window.press("Enter")
        newcomer.paste(window)
        # No more whole lines: the address that was pasted has a code in it.
        seen.append(window.wait_for("is signed in", "Test the mail servers"))
        window.press("Enter")
        asked = (
            "SMTP: localhost",
            "IMAP: localhost",
            "accepts the token",
            "Mail programs here: msmtp",
            "Show the settings",
        )
        seen.append(window.wait_for(*asked))
        window.press("Enter")
        _decline(window, "Show the settings for", first=1)
        shown = window.wait_for("passwordeval", "All is set up")
        seen.append(shown)

    assert [] == [line for line in the_pages_dialogue() if not any(re.search(line, each) for each in seen)]
    assert f"--user={newcomer.user} --proto=SMTP --output=token" in shown
    assert "shared@domain.com" not in shown
    told = (newcomer.home / "systemctl.log").read_text().split("\n")
    assert "--user enable --now cms.socket cms.service" in told
    token = newcomer.run("cms-oauth", "--proto=IMAP", "--output=token").stdout
    evidence.keep_secret(token.strip())
    assert newcomer.servers.entra.introspect(token.strip())["active"]


def test_without_systemd_a_daemon_runs_for_as_long_as_it_is_needed(newcomer: Newcomer) -> None:
    """The sign-in and the tests need one; after it the commands that remain are said, and the sign-in is kept."""
    newcomer.program("systemctl", "#!/bin/sh\nexit 1\n")

    with newcomer.init(_OWN, f"--user={newcomer.user}", "--yes", "--no-show") as window:
        newcomer.paste(window)
        shown = window.wait_for("IMAP: localhost", "accepts the token", "Next (", "cms run")

    assert "cms login" not in shown
    assert "Install the systemd unit" not in shown
    assert 69 == newcomer.run("cms", "status").returncode
    assert "Vault(key=File(" in newcomer.config.read_text()
    assert list((newcomer.home / "state" / "cms").glob("*.vault"))


def test_on_a_desktop_the_browser_opens_by_itself(newcomer: Newcomer) -> None:
    """Where there is one; nothing is typed at all."""
    newcomer.program("systemctl", "#!/bin/sh\nexit 1\n")
    newcomer.program("xdg-open", '#!/bin/sh\necho "$1" > "$HOME/opened.new"; mv "$HOME/opened.new" "$HOME/opened"\n')
    opened = newcomer.home / "opened"

    with newcomer.init(_OWN, f"--user={newcomer.user}", "--yes", "--no-show", "--no-test", DISPLAY=":0") as window:
        until(opened.exists, "the browser")
        newcomer.servers.entra.sign_in(opened.read_text().strip(), newcomer.user)
        window.wait_for("is signed in", "Next (")


def test_with_a_code(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another device."""
    newcomer.program("systemctl", "#!/bin/sh\nexit 1\n")
    monkeypatch.setattr(newcomer.servers.entra, "device_interval", 1)

    with newcomer.init(_OWN, f"--user={newcomer.user}", "--yes", "--no-show", "--no-test", "--device") as window:
        shown = window.wait_for("and enter the code", "left. Ctrl-C cancels.")
        code = re.search(r"^    ([A-Z0-9-]{6,})$", shown, re.MULTILINE)
        assert code
        newcomer.servers.entra.approve_device(code[1], newcomer.user)
        window.wait_for("is signed in", "Next (")


def test_each_step_can_be_declined(newcomer: Newcomer) -> None:
    """What is left is said as commands; the configuration is written, and is good."""
    newcomer.program("systemctl", _SYSTEMCTL)
    newcomer.program("msmtp", "#!/bin/sh\n")

    with newcomer.init(_OWN, f"--user={newcomer.user}") as window:
        window.wait_for("Install the systemd unit")
        window.press("n", "Enter")
        window.wait_for("Sign in as")
        window.press("n", "Enter")
        window.wait_for("Mail programs here: msmtp")
        _decline(window, "Show the settings for")
        window.wait_for("Next (", "cms run", "cms login")

    assert 0 == newcomer.run("cms", "check").returncode
    assert not (newcomer.home / "config" / "systemd").exists()


def test_giving_up_leaves_what_is_done(newcomer: Newcomer) -> None:
    """Ctrl-C while the browser is waited for: no daemon stays, and how to go on is said. A second time touches nothing."""
    newcomer.program("systemctl", "#!/bin/sh\nexit 1\n")

    with newcomer.init(_OWN, f"--user={newcomer.user}", "--paste") as window:
        window.wait_for("Sign in as")
        window.press("Enter")
        window.wait_for("Ctrl-C cancels")
        window.press("C-c")
        window.wait_for("Stopped here", "Next (", "cms run", "cms login")

    before = newcomer.config.read_bytes()
    again = newcomer.run(*newcomer.words(_OWN, f"--user={newcomer.user}"))
    assert (0, True) == (again.returncode, "already exists and is not changed" in again.stdout)
    assert "cms login" in again.stdout
    assert before == newcomer.config.read_bytes()
    assert 69 == newcomer.run("cms", "status").returncode


def test_without_yes_only_the_file_is_written(newcomer: Newcomer) -> None:
    """Without --yes init only writes the file; it says that Microsoft does not know the domain, or was not asked."""
    unknown = newcomer.run(*newcomer.words(_OWN, "--user=somebody@nowhere.test"))
    newcomer.config.unlink()
    offline = newcomer.run(*newcomer.words(_OWN, f"--user={newcomer.user}", "--offline"))

    assert "Microsoft knows no organisation called nowhere.test" in unknown.stdout
    assert (0, True) == (offline.returncode, "Written without a tenant" in offline.stdout)
    assert "tenant=" not in newcomer.config.read_text()
