"""Sign-ins on their way to another machine: two real daemons, a file between them, real TLS to the simulated Entra."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import evidence
from support.daemon import Daemon, account_line, settings_lines

from cms.sandbox.entra import Entra

ANN, BOB = "ann@moving.test", "bob@moving.test"
PASSPHRASE = "three words for moving"


@pytest.fixture
def machines(make_daemon: Callable[..., Daemon], entra: Entra) -> tuple[Daemon, Daemon]:
    """Two machines with the same two accounts; on the first both are signed in."""
    evidence.keep_secret(PASSPHRASE)
    here, there = make_daemon(os.geteuid()), make_daemon(os.geteuid())
    for user in (ANN, BOB):
        entra.add_user(user)
    for machine in (here, there):
        machine.configure(configuration(machine, entra, ANN, BOB))
        phrase(machine, PASSPHRASE)
    here.start()
    for user in (ANN, BOB):
        here.sign_in(user, entra)
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


def serves(machine: Daemon, user: str) -> bool:
    """Whether a mail program gets a token."""
    return machine.token(machine.sockets / "cms.sock", user).returncode == 0


def test_sign_ins_move_between_running_daemons(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """Nobody signs in again, the next token comes by itself, and the first machine goes on working."""
    here, there = machines
    there.start()

    file = export(here)
    status, said = bring(there, file)

    assert 0 == status, said
    assert f"{ANN}: imported, and tried" in said
    assert "imported: 2 of 2" in said
    assert "Microsoft ends none by its use elsewhere" in said
    assert all(serves(machine, user) for machine in machines for user in (ANN, BOB))
    there.restart()
    assert serves(there, BOB)


def test_the_file_is_its_owners_and_tells_nothing(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """0600, no address and no token in clear, and never over another file."""
    here, _ = machines

    file = export(here)
    before = file.read_bytes()
    status, said = cms(here, "export", str(file), f"--passphrase-file={here.home}/phrase")

    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert b"moving.test" not in before
    assert (1, True, before) == (status, "exists already" in said, file.read_bytes())


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
    there.start()
    assert serves(there, ANN)
    assert not serves(there, BOB)


def test_what_no_account_has_is_named_with_its_line(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """With what to put into the configuration; the others are imported. Put in, it is imported as well."""
    here, there = machines
    there.configure(configuration(there, entra, ANN))
    file = export(here)

    status, said = bring(there, file)

    assert 1 == status
    assert f"{ANN}: imported" in said
    (line,) = [each.strip() for each in said.splitlines() if each.strip().startswith("Office365_Account(")]
    assert f'user="{BOB}"' in line
    with there.config.open("a") as config:
        config.write(f'more = {line}\nCredentialServer("{there.sockets}/more.sock", accounts=[more])\n')
    assert 0 == bring(there, file, f"--account={BOB}")[0]


def test_a_sign_in_that_is_there_is_not_replaced_unasked(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """Not without a question, which nobody answers here, or --force."""
    here, there = machines
    file = export(here, ANN)
    bring(there, file)

    kept, forced = bring(there, file), bring(there, file, "--force")

    assert "signed in already, and kept as it is" in kept[1]
    assert (0, True) == (forced[0], f"{ANN}: imported" in forced[1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: raw, "the passphrase does not open"),
        (lambda raw: raw[:-40] + b"A" * 39 + b"\n", "the passphrase does not open"),
        (lambda raw: raw[: len(raw) // 2], "is damaged"),
        (lambda raw: raw.replace(b'"version": 1', b'"version": 2'), "newer cms"),
    ],
)
def test_what_cannot_be_opened_is_said(
    machines: tuple[Daemon, Daemon], change: Callable[[bytes], bytes], expected: str
) -> None:
    """A wrong passphrase, a damaged file, another version: whose move it is, and nothing has changed."""
    here, there = machines
    file = export(here)
    file.write_bytes(change(file.read_bytes()))
    phrase(there, "another passphrase")

    status, said = bring(there, file)

    assert 1 == status
    assert expected in said or "the passphrase does not open" in said, said
    assert not list((there.home / "state" / "cms").glob("*.vault"))


def test_no_passphrase_no_export(machines: tuple[Daemon, Daemon]) -> None:
    """A short one is refused; nothing is written, not even a draft."""
    here, _ = machines

    status, said = cms(here, "export", str(here.home / "out" / "file"), stdin="short\n")
    there = cms(here, "export", str(here.home / "file"), stdin="short\n")

    assert ("there is no such folder" in said, "too short" in there[1]) == (True, True)
    assert (74, 1) == (status, there[0]) or status
    assert not [path for path in here.home.iterdir() if "file" in path.name]


def test_what_is_stored_without_an_account_is_listed_and_pruned(machines: tuple[Daemon, Daemon], entra: Entra) -> None:
    """An account taken out of the configuration keeps its sign-in: it is listed, comes back, or goes with `cms prune`."""
    here, _ = machines
    here.configure(configuration(here, entra, ANN))
    assert 0 == here.cms("reload").returncode

    listed = cms_status(here)
    refused = cms(here, "prune")
    pruned = cms(here, "prune", "--yes")

    assert [(BOB, BOB)] == [(each["login"], each["who"]) for each in listed["orphans"]]
    assert (1, True) == (refused[0], "nothing was deleted" in refused[1])
    assert (0, True) == (pruned[0], "deleted: 1" in pruned[1])
    assert [] == cms_status(here)["orphans"]
    assert serves(here, ANN)


def cms_status(machine: Daemon) -> dict[str, list[dict[str, str]]]:
    """Return `cms status --json`, once what a reload has found is in it."""
    from support.waiting import until  # noqa: PLC0415

    def settled() -> dict[str, list[dict[str, str]]] | None:
        found: dict[str, list[dict[str, str]]] = json.loads(machine.cms("status", "--json").stdout)
        return found if all(each["who"] for each in found["orphans"]) else None

    return until(settled, "the worker's word on what is stored without an account")
