"""docs/moving.md: the command of each section is run as it stands there, by a real `cms`, and serves tokens then."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import secretstorage
from support import evidence
from support import peers as made
from support.contrib import ROOT
from support.daemon import Daemon, account_line, ask, settings_lines
from support.desktop import Desktop
from support.peers import SignedIn
from support.programs import require_program

from cms.sandbox.entra import Entra

USER = "user@domain.com"
PASSWORD = "the proxy's password"
PAGE = (ROOT / "docs" / "moving.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n,]*)[^\n]*\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))

# Section -> what the program's file is called there, below the home folder or the runtime folder, and what is in it.
FILES: dict[str, tuple[str, Callable[[SignedIn], bytes]]] = {
    "mutt_oauth2.py": ("user@domain.com.tokens", made.mutt_file),
    "oauth2ms": (".local/share/oauth2ms/credentials.bin", made.oauth2ms_file),
    "sasl-xoauth2": ("spool/user@domain.com", made.sasl_file),
    "email-oauth2-proxy": ("emailproxy.config", lambda signed_in: made.proxy_file(signed_in, PASSWORD)),
    "pizauth": (
        "run/pizauth.dump",
        lambda signed_in: made.pizauth_dump([made.pizauth_account("work", signed_in.refresh_token)]),
    ),
}


def command(section: str) -> str:
    """Return the first `cms import` line of a section. A test puts Postfix's folder elsewhere."""
    (line, *_) = re.findall(r"^cms import .*$", SECTIONS[section], re.MULTILINE)
    return str(line).replace("/var/spool/postfix/etc/tokens", "~/spool")


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """Configured, not started."""
    entra.add_user(USER)
    daemon = make_daemon()
    daemon.configure(
        settings_lines(daemon.home, entra)
        + account_line("account", USER, entra)
        + f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[account], protocols=["SMTP", "IMAP"])\n'
    )
    # Where the commands of the page look for it.
    usual = daemon.home / "config" / "cms"
    usual.mkdir(parents=True)
    (usual / "cms.cfg").symlink_to(daemon.config)
    return daemon


@pytest.fixture
def signed_in(daemon: Daemon, entra: Entra) -> SignedIn:
    """What the other program has."""
    assert daemon.config.exists()
    evidence.keep_secret(PASSWORD)
    found = made.sign_in(entra, USER)
    evidence.keep_secret(found.refresh_token)
    return found


def run(daemon: Daemon, line: str, stdin: str = "", bus: str = "") -> subprocess.CompletedProcess[str]:
    """Run a line of the page in a shell that finds `cms`."""
    folder = str(Path(daemon.installation.command("cms")).parent)
    path = f"{folder}:{os.environ['PATH']}"
    return daemon.run("/bin/sh", "-c", line, stdin=stdin, PATH=path, DBUS_SESSION_BUS_ADDRESS=bus)


def put(daemon: Daemon, section: str, signed_in: SignedIn) -> None:
    name, make = FILES[section]
    path = daemon.home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make(signed_in))


def served(daemon: Daemon, entra: Entra) -> object:
    """Return whose token the socket answers with."""
    token = ask(daemon.sockets / "cms.sock", f"SMTP,token {USER}".encode()).decode()
    return entra.introspect(token).get("email")


@pytest.mark.parametrize("section", FILES)
def test_the_pages_command_takes_a_sign_in_over(
    daemon: Daemon, entra: Entra, signed_in: SignedIn, section: str
) -> None:
    """With a running daemon: its very next answer is a token."""
    put(daemon, section, signed_in)
    daemon.start()
    ended = run(daemon, command(section), stdin=f"{PASSWORD}\n")

    assert 0 == ended.returncode, ended.stderr
    assert f"{USER} is signed in (saved, key from key file" in ended.stdout
    assert ("takes the code out of the address" in ended.stdout) == (section == "mutt_oauth2.py")
    assert USER == served(daemon, entra)
    for secret in (signed_in.refresh_token, PASSWORD):
        assert secret not in ended.stdout + ended.stderr + daemon.log


@pytest.mark.parametrize("section", ["mutt_oauth2.py", "email-oauth2-proxy"])
def test_it_needs_no_daemon(daemon: Daemon, entra: Entra, signed_in: SignedIn, section: str) -> None:
    """One that is started afterwards finds the sign-in."""
    put(daemon, section, signed_in)
    ended = run(daemon, command(section), stdin=f"{PASSWORD}\n")
    (daemon.home / FILES[section][0]).unlink()
    daemon.resume(daemon.sockets / "cms.sock", USER)

    assert 0 == ended.returncode, ended.stderr
    assert "no daemon is running; continuing without one" in ended.stderr
    assert USER == served(daemon, entra)


def test_an_entry_of_the_keyring_is_named(
    daemon: Daemon, entra: Entra, signed_in: SignedIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oama's section."""
    desktop = Desktop(tmp_path)
    try:
        bus = desktop.environment["DBUS_SESSION_BUS_ADDRESS"]
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
        desktop.start_keyring()
        connection = secretstorage.dbus_init()
        secretstorage.get_default_collection(connection).create_item(
            f"oama - {USER}", {"oama": USER}, made.oama_record(signed_in)
        )
        connection.close()
        ended = run(daemon, command("oama"), bus=bus)
    finally:
        desktop.stop()
    daemon.resume(daemon.sockets / "cms.sock", USER)

    assert 0 == ended.returncode, ended.stderr
    assert USER == served(daemon, entra)


def test_a_refusal_says_what_to_do(daemon: Daemon, signed_in: SignedIn) -> None:
    """Another application: both are named, and what to write; nothing is stored."""
    path = daemon.home / "user@domain.com.tokens"
    path.write_bytes(made.mutt_file(signed_in, client_id="another"))
    ended = run(daemon, command("mutt_oauth2.py"))

    assert (1, "") == (ended.returncode, ended.stdout)
    assert "was signed in with the application another, and the account uses" in ended.stderr
    assert "name it in client_id= of the account" in ended.stderr
    assert not list((daemon.home / "state").rglob("*.vault"))


def test_no_process_is_told_the_password(daemon: Daemon, signed_in: SignedIn, tmp_path: Path) -> None:
    """Neither as an argument nor in an environment: the command reads it itself."""
    put(daemon, "email-oauth2-proxy", signed_in)
    trace = tmp_path / "trace"
    strace = require_program("strace", "strace")
    line = f"{strace} -f -v -s 4096 -e trace=execve -o {trace} {command('email-oauth2-proxy')}"
    ended = run(daemon, line, stdin=f"{PASSWORD}\n")

    assert 0 == ended.returncode, ended.stderr
    assert "cms.grants" in trace.read_text()
    assert PASSWORD not in trace.read_text()


def test_what_the_page_lists_as_said_is_said() -> None:
    """The table of troubles quotes the program, not a memory of it."""
    source = "".join(path.read_text() for path in (ROOT / "cms" / "grants").rglob("*.py"))
    for said in (
        "holds no refresh token",
        "holds several sign-ins, and",
        "is encrypted, and gpg",
        "was not imported",
    ):
        assert said in PAGE
        assert said in source
