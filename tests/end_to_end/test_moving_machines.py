"""Sign-ins on their way to another machine: two real daemons, a file between them, real TLS to the simulated Entra."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from support import evidence
from support.daemon import Daemon, account_line, settings_lines
from support.terminal import terminal
from support.waiting import until

from cms.sandbox.entra import Entra

ANN, BOB = "ann@moving.test", "bob@moving.test"
PASSPHRASE = "three words for moving"


@pytest.fixture
def machines(make_daemon: Callable[..., Daemon], entra: Entra) -> tuple[Daemon, Daemon]:
    """Two machines with the same two accounts; at the first one of them is signed in."""
    evidence.keep_secret(PASSPHRASE)
    here, there = make_daemon(os.geteuid()), make_daemon(os.geteuid())
    for user in (ANN, BOB):
        entra.add_user(user)
    for machine in (here, there):
        machine.configure(configuration(machine, entra, ANN, BOB))
        phrase(machine, PASSPHRASE)
    here.start()
    here.sign_in(ANN, entra)
    return here, there


def configuration(machine: Daemon, entra: Entra, *users: str) -> str:
    lines = [account_line(f"account{number}", user, entra) for number, user in enumerate(users)]
    names = ", ".join(f"account{number}" for number in range(len(users)))
    server = f'CredentialServer("{machine.sockets}/cms.sock", accounts=[{names}], protocols=["SMTP"])\n'
    return "".join([settings_lines(machine.home, entra), *lines, server])


def phrase(machine: Daemon, text: str) -> Path:
    """Write a passphrase file; return it."""
    path = machine.home / "phrase"
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def cms(machine: Daemon, *words: str, stdin: str = "") -> tuple[int, str]:
    """Run a command that may do without a daemon; return its status and all that it says."""
    done = machine.run("cms", *words, "-c", str(machine.config), stdin=stdin)
    evidence.keep("output", done.stdout + done.stderr)
    return done.returncode, done.stdout + done.stderr


def export(machine: Daemon, *users: str) -> Path:
    """Export; return the file."""
    path = machine.home / "signins"
    status, said = cms(machine, "export", *users, str(path), f"--passphrase-file={machine.home}/phrase")
    assert (0, True) == (status, "exported: " in said), said
    return path


def bring(machine: Daemon, file: Path, *words: str) -> tuple[int, str]:
    """Import a copy of a file."""
    copy = machine.home / "copied"
    copy.write_bytes(file.read_bytes())
    return cms(machine, "import", str(copy), f"--passphrase-file={machine.home}/phrase", *words)


def socket(machine: Daemon) -> Path:
    """Return where mail programs ask."""
    return machine.sockets / "cms.sock"


def serves(machine: Daemon, user: str) -> bool:
    """Whether a mail program gets a token."""
    return machine.token(socket(machine), user).returncode == 0


def test_sign_ins_move_between_running_daemons(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """The person need not sign in again, the next token comes by itself, and the first machine keeps working.

    Only its owner can read the file. It shows no secret, overwrites no file, and opens with one passphrase.
    """
    here, there = machines
    here.sign_in(BOB, entra)
    there.start()

    file = export(here)
    again = cms(here, "export", str(file), f"--passphrase-file={here.home}/phrase")
    phrase(there, "another passphrase")
    wrong = bring(there, file)
    phrase(there, PASSPHRASE)
    status, said = bring(there, file)

    assert (0o600, False) == (stat.S_IMODE(file.stat().st_mode), b"moving.test" in file.read_bytes())
    assert (1, True) == (again[0], "already exists and was not changed" in again[1])
    assert (1, True) == (wrong[0], "the passphrase does not open" in wrong[1])
    assert 0 == status, said
    assert f"{ANN}: imported and verified" in said
    assert "imported: 2 of 2" in said
    assert "using it here does not end it there" in said
    for machine, user in product(machines, (ANN, BOB)):
        until(partial(serves, machine, user), f"a token of {user}'s")
    there.stop()
    there.resume(socket(there), BOB)


def test_without_daemons_too(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """One account of two, no daemon on either side; the passphrase is a line of the standard input."""
    here, there = machines
    here.stop()
    file = here.home / "one"

    told = cms(here, "export", ANN, str(file), stdin=f"{PASSPHRASE}\n")
    copy = there.home / "copied"
    copy.write_bytes(file.read_bytes())
    status, said = cms(there, "import", str(copy), stdin=f"{PASSPHRASE}\n")

    assert 0 == told[0], told
    assert (0, True, False) == (status, f"{ANN}: imported" in said, BOB in said), said
    there.resume(socket(there), ANN)
    assert not serves(there, BOB)


def test_what_no_account_has_is_named_with_its_values(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """The others are imported. With an account that has these values, it is imported as well."""
    here, there = machines
    here.sign_in(BOB, entra)
    there.configure(configuration(there, entra, ANN))
    file = export(here)

    status, said = bring(there, file)

    assert 1 == status
    assert f"{ANN}: imported" in said
    values = dict(re.findall(r"^ {4}(\w+): (\S+)$", said, re.MULTILINE))
    assert BOB == values["user"]
    with there.config.open("a") as config:
        config.write(
            f'more = Office365_Account(**{values!r})\nCredentialServer("{there.sockets}/more.sock", accounts=[more])\n'
        )
    assert 0 == bring(there, file, f"--account={BOB}")[0]


def test_a_person_types_the_passphrase_twice(machines: tuple[Daemon, Daemon]) -> None:
    """Without an echo; and at the other machine once, and whether to replace what is there."""
    here, there = machines
    file = there.home / "signins"
    with terminal(At(here), here.installation.command("cms"), "export", str(file), "-c", str(here.config)) as window:
        for question in ("A passphrase for the export (8 characters or more):", "Repeat the passphrase:"):
            window.wait_for(question)
            window.press(PASSPHRASE, "Enter")
        shown = window.wait_for("exported: ", "then delete the file")
    bring(there, file)
    words = ("import", str(file), "-c", str(there.config), f"--account={ANN}")
    with terminal(At(there), there.installation.command("cms"), *words) as window:
        window.wait_for("The passphrase of the export:")
        window.press(PASSPHRASE, "Enter")
        window.wait_for(f"{ANN} is signed in already. Replace that sign-in? [y/N]")
        window.press("y", "Enter")
        window.wait_for(f"{ANN}: imported", "imported: 1 of 1")

    assert PASSPHRASE not in shown


@dataclass
class At:
    """A person at a machine's terminal."""

    machine: Daemon

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in environment.items()]
        return self.machine.run("env", "-C", str(self.machine.home), *variables, *command, stdin=stdin)
