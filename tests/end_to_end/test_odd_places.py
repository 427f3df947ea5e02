"""Where a user is no ordinary one: user namespaces, umasks, folders that are gone, and no home folder."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.programs import give_up, require_program, require_root
from support.reachable import ALICE, BOB, Installation, become, open_folder
from support.waiting import PATIENCE, until

CONFIG = """\
account = Office365_Account("{user}", authority="https://localhost:1")
CredentialServer("{sockets}/cms.sock", accounts=[account])
Vault(key="memory")
Notify(["sh", "-c", "true"])
"""


@pytest.fixture
def alice(installation: Installation) -> Iterator[Daemon]:
    require_root()
    with open_folder("odd") as folder:
        daemon = Daemon(installation, folder, ALICE)
        os.chown(daemon.sockets, ALICE, ALICE)
        daemon.configure(CONFIG.format(user="a@example.test", sockets=daemon.sockets))
        yield daemon
        if daemon.process:
            daemon.stop()


def test_a_daemon_outlives_the_folder_that_it_was_started_in(alice: Daemon) -> None:
    """It reloads its configuration, and its grant worker and its hooks start, though there is no current folder."""
    gone = alice.home / "gone"
    alice.start(before=("sh", "-c", f'mkdir {gone}; cd {gone}; rmdir {gone}; exec "$@"', "sh"))
    alice.configure(CONFIG.format(user="b@example.test", sockets=alice.sockets))
    reloaded = alice.run("cms", "reload")
    alice.run("cms", "login", "--device")

    assert (0, True) == (reloaded.returncode, reloaded.stdout.startswith("b@example.test: configured")), reloaded.stderr
    assert "b@example.test" in alice.run("cms", "status").stdout
    for words in ("sign-in-required", "cannot be reached"):
        until(lambda words=words: words in alice.log, words)  # type: ignore[misc]  # no lambda has annotations
    assert "hook cannot be started" not in alice.log


def test_a_daemon_without_a_home_folder(alice: Daemon) -> None:
    """A number that the user database does not know, and no HOME: other variables name the folders."""
    without = ("env", "-u", "HOME")
    alice.start(before=without)
    assert 0 == alice.run("env", "-u", "HOME", alice.installation.command("cms"), "status").returncode
    alice.stop()

    alice.launch(before=("env", "-u", "HOME", "-u", "XDG_STATE_HOME"))
    assert alice.process
    assert os.EX_CONFIG == alice.process.wait(PATIENCE)
    assert "this user has no home folder" in alice.log
    assert "XDG_STATE_HOME, to a folder of this user" in alice.log
    assert "Traceback" not in alice.log


def in_namespace(alice: Daemon, uid: int, *options: str, config: str = "") -> subprocess.CompletedProcess[str]:
    """Run `cms check` in a user namespace of this user's."""
    unshare = require_program("unshare", "util-linux")
    command = [
        unshare,
        "--user",
        *options,
        alice.installation.command("cms"),
        "check",
        "-c",
        config or str(alice.config),
    ]
    done = subprocess.run(
        become(uid, command) if uid else command,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=alice.environment,
    )
    if "unshare failed" in done.stderr:
        give_up("this machine allows no user namespaces")
    return done


@pytest.mark.parametrize("option", ["--map-current-user", "--map-root-user"])
def test_ones_own_file_in_a_user_namespace(alice: Daemon, option: str) -> None:
    """/, /var and the programs in /usr belong to nobody there, and are the system's all the same."""
    done = in_namespace(alice, ALICE, option)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("uid", "options", "why"),
    [
        (0, ["--map-root-user"], "who is not in this user namespace"),
        (0, ["--map-current-user"], "who is not in this user namespace"),
        (0, [], "this user namespace has no users"),
        (ALICE, [], "this user namespace has no users"),
        (BOB, ["--map-current-user"], "who is not in this user namespace"),
    ],
)
def test_another_users_file_in_a_user_namespace(alice: Daemon, uid: int, options: list[str], why: str) -> None:
    """What cannot be told from another user's is not run, and nobody is told to take over a folder of the system's."""
    alice.home.chmod(0o755)
    done = in_namespace(alice, uid, *options)

    assert os.EX_CONFIG == done.returncode
    assert why in done.stderr
    assert not re.search(r"\b(chown|sudo) ", done.stderr)


@pytest.mark.parametrize("umask", ["002", "000"])
def test_init_under_an_open_umask(alice: Daemon, umask: str) -> None:
    """What it makes passes; a folder that was there before is named before anything is written."""
    (alice.home / "config").mkdir(mode=0o700)
    (alice.home / "config").chmod(0o777)
    os.chown(alice.home / "config", ALICE, ALICE)
    init = f'umask {umask}; "$0" init --offline --user=a@example.test; echo $?; "$0" check >&2; echo $?'
    cms = alice.installation.command("cms")
    before = alice.run("sh", "-c", init, cms)
    (alice.home / "config").chmod(0o700)
    after = alice.run("sh", "-c", init, cms)

    assert ["1", "78"] == [line for line in before.stdout.split("\n") if line.isdecimal()]
    assert f"`chmod go-w {alice.home}/config`" in before.stderr
    assert ["0", "0"] == [line for line in after.stdout.split("\n") if line.isdecimal()], after.stderr
    made = alice.home / "config" / "cms"
    assert [0o700, 0o600] == [stat.S_IMODE(each.stat().st_mode) for each in (made, made / "cms.cfg")]


def test_a_socket_in_a_folder_that_a_variable_names(alice: Daemon) -> None:
    """The daemon and its clients mean the same place, and no folder is called like the variable."""
    alice.configure(
        'a = Office365_Account("a@example.test")\n'
        'CredentialServer("$XDG_RUNTIME_DIR/my/cms.sock", accounts=[a])\nVault(key="memory")\n'
    )
    alice.start_unknown()
    asked = alice.run("cms-oauth", "--cms_sock=${XDG_RUNTIME_DIR}/my/cms.sock", CMS_SOCK="")

    assert (75, True) == (asked.returncode, "sign-in-required" in asked.stderr), asked.stderr
    assert (alice.home / "run" / "my" / "cms.sock").is_socket()
    assert [] == [each for each in Path(alice.home).rglob("*") if "$" in each.name]
