"""Every way to sign in, as a person does it: the real `cms login` in a terminal, against Entra over real TLS."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from support.daemon import Daemon, account_line, settings_lines
from support.ipv6_machine import Ipv6Machine, ipv6_machine
from support.ports import free_port, listens
from support.programs import require_program, require_root
from support.reachable import ALICE, BOB, Installation, become
from support.terminal import Terminal, terminal
from support.waiting import PATIENCE, TooLate, until

from cms.sandbox.directory import Client
from cms.sandbox.entra import CLIENT_ID, Entra
from cms.sandbox.faults import Fault
from cms.sandbox.person import Stuck

ANN, BEN = "ann@example.test", "ben@example.test"
ROOT = 0

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
NATIVE = "https://login.microsoftonline.com/common/oauth2/nativeclient"


@dataclass
class Person:
    """A person with a terminal, and a daemon or none."""

    daemon: Daemon
    entra: Entra
    # The words before a command of the person's.
    before: Sequence[str] = ()

    def configure(self, redirect_uri: str = "http://localhost/", more: str = "") -> None:
        """Write the configuration of one account."""
        account = account_line("ann", ANN, self.entra).replace("http://localhost/", redirect_uri)
        server = f'CredentialServer("{self.daemon.sockets}/cms.sock", accounts=[ann])\n'
        self.daemon.configure(settings_lines(self.daemon.home, self.entra) + account + server + more)

    def move_to(self, there: Ipv6Machine) -> None:
        """Have the account at another Entra, and the person where that is."""
        moved = self.daemon.config.read_text().replace(self.entra.authority, there.authority)
        self.daemon.configure(moved.replace(self.entra.ca_file, there.ca_file))
        self.before = there.inside

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the person's."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        return self.daemon.run(*self.before, "env", "-C", str(self.daemon.home), *variables, *command, stdin=stdin)

    @contextmanager
    def login(self, *options: str, **environment: str) -> Iterator[Terminal]:
        """Give `cms login` in a terminal."""
        command = (self.daemon.installation.command("cms"), "login", "-c", str(self.daemon.config), *options)
        with terminal(self, *command, **environment) as window:
            yield window

    def signed_in(self) -> bool:
        """Whether a mail program gets a token."""
        return 0 == self.daemon.token(self.daemon.sockets / "cms.sock", ANN).returncode


@pytest.fixture
def person(daemon: Daemon, entra: Entra) -> Person:
    """An account that waits; the daemon is not started yet."""
    entra.add_user(ANN)
    entra.device_interval = 1
    return Person(daemon, entra)


def wait_for(window: Terminal, *words: str) -> str:
    """Return what a terminal shows, its lines whole, once all of these are in it."""

    def shown() -> str:
        text = window.text()
        return text if all(word in text for word in words) else ""

    try:
        return until(shown, f"{words} in the terminal")
    except TooLate as problem:
        problem.add_note(window.text())
        raise


def link(window: Terminal) -> str:
    """Return the link to the provider that a terminal shows."""
    shown = wait_for(window, "/authorize?", "Ctrl-C cancels")
    return next(line for line in shown.split("\n") if "/authorize?" in line)


def paste(window: Terminal, text: str) -> None:
    """Paste a line."""
    window.paste(text)
    window.press("Enter")


def whole(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())


def workers(person: Person) -> set[str]:
    """Return the processes that talk to the provider."""
    ending = f"{person.daemon.installation.python}\0-I\0-m\0cms.grants\0"
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if ending == (process / "cmdline").read_text(errors="replace"):
                found.add(process.name)
    return found


def test_a_device_code_in_a_terminal(person: Person) -> None:
    """Address, code, drawing and what is left of the time; once the person has entered the code, that it worked."""
    person.configure()
    person.daemon.start_unknown()
    with person.login("--device") as window:
        shown = window.wait_for(person.entra.endpoints.device_url, "█▀", "left. Ctrl-C cancels.")
        earlier = re.search(r"Waiting: (\d+:\d\d) left", shown)
        assert earlier
        until(lambda: earlier[0] not in window.screen(), "the next second")
        assert 1 == window.screen().count("Waiting: ")

        code = re.search(r"^ {4}([A-Z0-9-]{6,})\s*$", shown, re.MULTILINE)
        assert code
        person.entra.approve_device(code[1], ANN)
        assert "Waiting" not in window.wait_for(f"{ANN} is signed in")
    assert until(person.signed_in, "a token")


@pytest.mark.parametrize("with_daemon", [True, False])
def test_ctrl_c_leaves_no_poll_behind(person: Person, *, with_daemon: bool) -> None:
    """Ctrl-C ends the sign-in at once: the worker that polled ends with it."""
    person.configure()
    if with_daemon:
        person.daemon.start_unknown()
    others = workers(person)
    with person.login("--device") as window:
        window.wait_for("left. Ctrl-C cancels.")
        assert person.entra.wait_for(1, grant_type=DEVICE_CODE, seconds=PATIENCE)
        polling = workers(person) - others
        assert polling
        window.press("C-c")
        window.wait_for("the sign-in was cancelled")
    until(lambda: not polling & workers(person), "the end of the worker that polled")
    polls = person.entra.count(grant_type=DEVICE_CODE)
    if with_daemon:
        until(lambda: "sign-in ended" in person.daemon.log, "the end in the log")
        assert "signing-in" not in person.daemon.cms("status").stdout

    assert polls == person.entra.count(grant_type=DEVICE_CODE)
    assert not person.signed_in()


def test_a_device_code_that_runs_out_names_the_other_ways(person: Person) -> None:
    """As where a policy blocks the flow: the browser says so, and here nothing comes."""
    person.entra.device_life = 3.0
    person.configure()
    person.daemon.start_unknown()
    with person.login("--device") as window:
        shown = wait_for(window, "was not completed", "Or start again")

    for word in ('"authentication flows"', "AADSTS53003", f"cms login {ANN} --browser", "--paste"):
        assert word in shown


def test_what_is_piped_has_neither_drawing_nor_count(person: Person) -> None:
    """A log or a program that reads gets words, each once."""
    person.entra.device_life = 2.0
    person.configure()
    person.daemon.start_unknown()
    done = person.daemon.cms("login", "-c", str(person.daemon.config), ANN, "--device")

    assert 1 == done.returncode
    assert person.entra.endpoints.device_url in done.stdout
    assert not set("█▀▄\r\x1b") & set(done.stdout)
    assert "Waiting" not in done.stdout


def test_a_browser_on_this_machine(person: Person) -> None:
    """The page's own address is named beside the link; the link leads back to any path of the redirect address."""
    port, page = free_port(), free_port()
    person.configure(f"http://127.0.0.1:{port}/any/path", f'SignInPage("http://localhost:{page}/")\n')
    with person.login() as window:
        window.wait_for(f"The page http://localhost:{page}/ leads there too.")
        back = person.entra.sign_in(link(window), ANN)
        assert f"{ANN} is signed in" in back.text
        assert back.url.startswith(f"http://127.0.0.1:{port}/any/path?")
        assert "no daemon is running" in window.wait_for(f"{ANN} is signed in")
    until(lambda: not listens(port) and not listens(page), "the end of both listeners")


def test_a_browser_in_the_terminal(person: Person) -> None:
    """$BROWSER has the terminal until the person quits it: what they type there is not taken for a pasted address."""
    person.configure()
    person.daemon.start_unknown()
    program, seen = person.daemon.home / "text-browser", person.daemon.home / "seen"
    program.write_text(f'#!/bin/sh\necho "$2" > {seen}\necho "A page."\nread -r line\necho "Quit by $line."\n')
    program.chmod(0o755)
    with person.login(BROWSER=f"missing:{program} --dump %s") as window:
        window.wait_for("A page.")
        assert f"{ANN} is signed in" in person.entra.sign_in(seen.read_text().strip(), ANN).text
        paste(window, "q=1")
        shown = window.wait_for("Quit by q=1.", f"{ANN} is signed in")
        assert "this address" not in shown
    assert until(person.signed_in, "a token")


@pytest.mark.parametrize("redirect", ["http://127.0.0.1:{port}/", "http://localhost/"])
def test_over_ssh_the_line_that_brings_the_browser_here(person: Person, redirect: str) -> None:
    """What is forwarded is the port that the browser comes back to, also where that is any free one."""
    person.configure(redirect.format(port=free_port()))
    person.daemon.start_unknown()
    connection = "198.51.100.9 50000 192.0.2.7 22"
    with person.login(SSH_CONNECTION=connection, USER="ann", DISPLAY="localhost:10.0") as window:
        shown = window.wait_for("machine with your browser", "ann@192.0.2.7")
        line = re.search(r"^ssh -L (\d+):127\.0\.0\.1:(\d+) ann@192\.0\.2\.7\s*$", shown, re.MULTILINE)
        assert line
        assert line[1] == line[2]
        assert listens(int(line[1]))
        assert f"{ANN} is signed in" in person.entra.sign_in(link(window), ANN).text
        window.wait_for(f"{ANN} is signed in")


@pytest.mark.parametrize("redirect", [NATIVE, "https://localhost/"])
def test_a_redirect_that_leads_nowhere_here_is_pasted_by_itself(person: Person, redirect: str) -> None:
    """The configuration says a browser, and cms why it is pasting; a code alone and a stranger's address are refused."""
    if redirect != NATIVE:
        person.entra.register(Client(CLIENT_ID, (redirect,)))
    person.configure(redirect)
    person.daemon.start_unknown()
    with person.login() as window:
        wait_for(window, "so paste its address instead", "Paste the whole address of that page here")
        end = person.entra.sign_in(link(window), ANN, follow=False)
        if redirect == NATIVE:
            paste(window, "<https://login.microsoftonline.com/common/wrongplace>")
            wait_for(window, "has taken the code out of this address", "still waiting")
        paste(window, end.fields["code"])
        window.wait_for("this address has no state")
        paste(window, f"{redirect}?" + urlencode({**end.fields, "state": "stranger"}))
        window.wait_for("belongs to another sign-in")
        # What stands behind the question mark is enough.
        paste(window, urlencode(end.fields))
        window.wait_for(f"{ANN} is signed in")
    assert until(person.signed_in, "a token")


def test_another_person_signs_in(person: Person) -> None:
    """cms names both persons and says what to do; the sign-in is not stored, and the status says why."""
    person.entra.add_user(BEN)
    person.configure()
    person.daemon.start_unknown()
    with person.login() as window:
        assert f"signed in as {BEN}, but this account is {ANN}" in person.entra.sign_in(link(window), BEN).text
        both = f"signed in as {BEN}, but this account is {ANN}: nothing was saved"
        wait_for(window, both, "sign in as the right user", "sign_in_as= of the account has")

    assert f"signed in as {BEN}, but this account is {ANN}" in whole(person.daemon.cms("status").stdout)
    assert not person.signed_in()


def test_a_refused_sign_in_is_remembered_until_one_works(person: Person) -> None:
    """The status has the reason and the log the next move, even before the first successful sign-in."""
    person.configure()
    person.daemon.start_unknown()
    person.entra.faults.add(Fault("aadsts", "authorize", aadsts=53003))
    with person.login("--paste") as window:
        paste(window, person.entra.sign_in(link(window), ANN, follow=False).url)
        wait_for(window, "blocks this sign-in (AADSTS53003", f"then start again: `cms login {ANN}`")
    status = whole(person.daemon.cms("status").stdout)

    assert "blocks this sign-in (AADSTS53003" in status
    assert f"then start again: `cms login {ANN}`" in status
    (ended, *_) = until(
        lambda: [line for line in person.daemon.log.splitlines(keepends=True) if re.search("sign-in ended.*\n", line)],
        "the end in the log",
    )
    assert f"then start again: `cms login {ANN}`" in ended
    person.daemon.sign_in(ANN, person.entra)
    until(person.signed_in, "a token")
    assert "AADSTS53003" not in person.daemon.cms("status").stdout


@pytest.mark.parametrize("with_daemon", [True, False])
def test_a_refusal_that_stays_in_the_browser(person: Person, *, with_daemon: bool) -> None:
    """Its line is pasted and explained, and the sign-in goes on: once the administrator has acted, the link works."""
    person.configure()
    if with_daemon:
        person.daemon.start_unknown()
    person.entra.faults.add(Fault("page", "authorize", aadsts=50105))
    with person.login() as window:
        there = link(window)
        assert "such as AADSTS50105, can be pasted here too" in window.text()
        with pytest.raises(Stuck) as shown:
            person.entra.sign_in(there, ANN)
        paste(window, str(shown.value))
        explained = "the user is not assigned to the application (AADSTS50105)"
        wait_for(window, explained, "ask the administrator to assign the user", "The sign-in is still waiting")
        person.entra.sign_in(there, ANN)
        window.wait_for(f"{ANN} is signed in")


def test_a_pasted_line_may_be_longer_than_a_terminals_own(person: Person) -> None:
    """A terminal cuts lines at 4,095 bytes, and an address with its fields may be longer."""
    person.configure()
    person.daemon.start_unknown()
    with person.login("--paste") as window:
        end = person.entra.sign_in(link(window), ANN, follow=False)
        paste(window, f"{end.url}&filler={'long.' * 1200}")
        window.wait_for(f"{ANN} is signed in")


def test_a_port_in_use_is_told_with_who_has_it(person: Person) -> None:
    """The log and the person hear of it, with the other ways; once the port is free the page comes by itself."""
    port = free_port()
    person.configure(f"http://127.0.0.1:{port}/")
    with socket.create_server(("127.0.0.1", port)):
        person.daemon.start_unknown()
        until(lambda: "the sign-in page cannot be shown" in person.daemon.log, "a word in the log")
        with person.login() as window:
            wait_for(window, f"port {port} is in use by ", f"(pid {os.getpid()})", "--device or --paste")

    assert 1 == person.daemon.log.count("the sign-in page cannot be shown")


@pytest.mark.parametrize(("uid", "status"), [(ALICE, "200"), (ROOT, "200"), (BOB, "403")])
def test_the_page_is_its_owners_and_roots(
    make_daemon: Callable[..., Daemon], entra: Entra, uid: int, status: str
) -> None:
    """The kernel tells whose browser it is: the owner's and root's are served (an sshd is either), others refused."""
    require_root()
    person, port = Person(make_daemon(ALICE), entra), free_port()
    person.configure(f"http://127.0.0.1:{port}/back")
    person.daemon.start_unknown()
    until(lambda: listens(port), "the page")
    asked = ("--silent", "--write-out", "\n%{http_code}", f"http://127.0.0.1:{port}/")
    page, _, answered = person.daemon.run(require_program("curl", "curl"), *asked, uid=uid).stdout.rpartition("\n")

    assert status == answered
    assert (status == "200") == (ANN in page)


# As many connections as a stranger likes, none of which says anything; a word once all are there.
_HORDE = """
import socket, sys
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(100)]
print("here", flush=True)
sys.stdin.read()
"""


def test_idle_connections_of_strangers_do_not_keep_the_owner_out(
    make_daemon: Callable[..., Daemon], entra: Entra
) -> None:
    """Another user's hundred idle connections take no place from the owner's browser."""
    require_root()
    person, port = Person(make_daemon(ALICE), entra), free_port()
    person.configure(f"http://127.0.0.1:{port}/back")
    person.daemon.start_unknown()
    until(lambda: listens(port), "the page")
    horde = become(BOB, [person.daemon.installation.python, "-I", "-c", _HORDE, str(port)])
    with subprocess.Popen(horde, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as strangers:
        assert strangers.stdout
        assert "here\n" == strangers.stdout.readline()
        page = person.daemon.run(require_program("curl", "curl"), "--silent", f"http://127.0.0.1:{port}/").stdout
        strangers.communicate()

    assert ANN in page


def test_a_machine_without_ipv4_is_reached_at_localhost(person: Person, installation: Installation) -> None:
    """Where ::1 is the only address, http://localhost is there, for Entra, the worker, the browser, ssh and cms alike."""
    person.configure()
    with ipv6_machine(installation, person.daemon.folder, ANN) as there:
        person.move_to(there)
        with person.login(SSH_CONNECTION="2001:db8::9 50000 2001:db8::7 22", USER="ann") as window:
            shown = wait_for(window, "ssh -L ", "ann@2001:db8::7")
            assert re.search(r"^ssh -L '(\d+):\[::1\]:\1' ann@2001:db8::7$", shown, re.MULTILINE)
            assert f"{ANN} is signed in" in there.sign_in(link(window), ANN)
            window.wait_for(f"{ANN} is signed in (saved")


def test_a_machine_without_ipv4_is_told_the_ways_around_127_0_0_1(person: Person, installation: Installation) -> None:
    """A redirect address that cannot be here ends the sign-in by browser with the commands that work; and they do."""
    person.configure(f"http://127.0.0.1:{free_port()}/")
    with ipv6_machine(installation, person.daemon.folder, ANN) as there:
        person.move_to(there)
        with person.login() as window:
            wait_for(window, "this machine has no IPv4", "goes to 127.0.0.1", "--device or --paste")
        with person.login("--device") as window:
            window.wait_for("/device", "left. Ctrl-C cancels.")
