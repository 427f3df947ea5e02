"""Who gets to a socket: every folder's bits, the socket's bits, its rules, and what a real connection shows."""

from __future__ import annotations

import ast
import re
import stat

import pytest

from cms.cli.doctor.access import Identity, SocketPath, Step, Tried, assess, barrier, by_trial, confirm
from cms.cli.doctor.findings import failed, passed
from cms.core.accounts import Account, Grant
from cms.core.policy import Rules

OWNER, ALICE, EXIM = Identity("cms", 100, 100), Identity("alice", 1000, 1000, (50,)), Identity("Debian-exim", 101, 105)
ROOT = Identity("root", 0, 0)
PATH = "/run/cms/cms.sock"
ACCOUNT = Account("a@example.test", Grant("https://login.example.test/common", "client", "a@example.test"), {})


def step(path: str, mode: int, kind: int = stat.S_IFDIR, uid: int = 100, gid: int = 100) -> Step:
    return Step(path, kind | mode, uid, gid, "cms", "cms")


def path_with(folder: int = 0o755, sock: int = 0o666, gid: int = 100) -> SocketPath:
    folders = (step("/", 0o755, uid=0, gid=0), step("/run/cms", folder, gid=gid))
    return SocketPath((*folders, step(PATH, sock, stat.S_IFSOCK, gid=gid)))


def rules(users: frozenset[int] | None = None, groups: frozenset[int] | None = None) -> Rules:
    return Rules(100, (ACCOUNT,), ("SMTP",), users, groups)


@pytest.mark.parametrize(
    ("folder", "sock", "who", "expected"),
    [
        (0o755, 0o666, ALICE, None),
        (0o700, 0o666, ALICE, "/run/cms"),
        (0o700, 0o666, OWNER, None),
        (0o700, 0o000, ROOT, None),
        (0o755, 0o600, ALICE, PATH),
        (0o755, 0o600, OWNER, None),
        (0o755, 0o066, OWNER, PATH),
        (0o711, 0o662, ALICE, None),
    ],
)
def test_the_kernel_decides_by_owner_group_and_others(
    folder: int, sock: int, who: Identity, expected: str | None
) -> None:
    """The first step that stops the user, as owner, as group member or as another user; nothing stops root."""
    barred = barrier(path_with(folder, sock), who)

    assert expected == (barred.path if barred else None)


def test_a_group_counts_whether_primary_or_not() -> None:
    """Supplementary groups open what the group may; others' bits do not count for a member."""
    assert barrier(path_with(0o750, 0o660, gid=50), ALICE) is None
    assert barrier(path_with(0o750, 0o660, gid=105), EXIM) is None
    assert barrier(path_with(0o705, 0o666, gid=50), ALICE) == step("/run/cms", 0o705, gid=50)


def test_who_may_ask() -> None:
    """A path that is open, and rules that name the user or leave it to the bits."""
    assert passed("socket", f"alice may ask at {PATH}") == assess(PATH, path_with(), rules(), ALICE)
    assert "pass" == assess(PATH, path_with(), rules(frozenset({101})), EXIM).level


@pytest.mark.parametrize(
    ("folder", "uid"),
    [("/", 0), ("/home", 0), ("/root", 100), ("/srv/mail", 0), ("/run/user/100", 100), ("/run/user", 100)],
)
def test_a_folder_of_the_systems_is_not_opened(folder: str, uid: int) -> None:
    """Nor one that logind makes anew at each login: the socket belongs elsewhere."""
    there = SocketPath((step(folder, 0o700, uid=uid, gid=0), step(f"{folder}/cms.sock", 0o666, stat.S_IFSOCK)))
    found = assess(f"{folder}/cms.sock", there, rules(), ALICE)

    assert ["folder-closed"] == [each.name for each in found.verdicts]
    assert ("put the socket into a folder that alice can reach, such as one below /run",) == found.verdicts[0].steps


@pytest.mark.parametrize(
    ("there", "limits", "name", "words"),
    [
        (path_with(folder=0o700), rules(), "folder-closed", "chmod o+x /run/cms"),
        (path_with(sock=0o600), rules(), "socket-mode", 'users=["Debian-exim"]'),
        (path_with(sock=0o600), rules(frozenset()), "socket-mode", "mode=0o666"),
        (path_with(), rules(frozenset({1})), "policy", 'add "Debian-exim" to users='),
        (SocketPath((), missing="/run/cms"), rules(), "no-socket", "cms run"),
        (SocketPath((), error="/run/cms: Permission denied"), rules(), "socket-unknown", "sudo cms doctor"),
    ],
)
def test_who_may_not_ask_is_told_why(there: SocketPath, limits: Rules, name: str, words: str) -> None:
    """The very folder, the socket's mode, or the rules; and what to do about it."""
    found = assess(PATH, there, limits, EXIM)

    assert ("fail", name) == (found.level, found.verdicts[0].name)
    assert words in " ".join(found.verdicts[0].steps)


@pytest.mark.parametrize(
    ("there", "tried"),
    [
        (SocketPath((), missing="/run/cms"), None),
        (SocketPath((), missing=PATH), None),
        (path_with(), Tried(reached=False, error="Connection refused")),
    ],
)
def test_a_lost_socket_is_the_daemons_to_put_back(there: SocketPath, tried: Tried | None) -> None:
    """While it runs, `cms run` would be refused; without a daemon that is the move."""
    moves = []
    for runs in (True, False):
        found = assess(PATH, there, rules(), EXIM, runs=runs)
        found = confirm(found, PATH, EXIM, tried, runs=runs)
        moves.append(found.verdicts[0].steps[0])

    assert ["`cms reload`" in moves[0], "`cms run`" in moves[0]] == [True, False]
    assert "`cms run`" in moves[1]


@pytest.mark.parametrize("name", ["CORP\\ann", 'a"b', "o'neil", "jörg"])
def test_a_users_name_is_a_word_of_the_configuration(name: str) -> None:
    """As Python reads it: a user of a domain has a backslash in its name."""
    who = Identity(name, 101, 105)
    found = assess(PATH, path_with(sock=0o600), rules(), who)
    (written,) = re.findall(r"users=(\[.*?\])", found.verdicts[0].steps[0])

    assert [name] == ast.literal_eval(written)


def test_a_supplementary_group_is_not_enough_for_exim() -> None:
    """Its transports drop those: what they alone open is warned about."""
    found = assess(PATH, path_with(), rules(groups=frozenset({50})), ALICE)

    assert ("warn", "supplementary-group") == (found.level, found.verdicts[0].name)


GOOD, BAD = passed("socket", "may"), failed("socket", "may not")


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        (Tried(reached=True, answered=True), ""),
        (Tried(reached=True), "policy"),
        (Tried(reached=False, hangs=True), "daemon-hangs"),
        (None, ""),
    ],
)
def test_without_rules_a_connection_decides(tried: Tried | None, expected: str) -> None:
    """Root sees what the daemon's own rules come to, without reading them."""
    found = by_trial(
        "/s/cms.sock", SocketPath((Step("/s/cms.sock", 0o140666, 1, 1, "a", "a"),)), Identity("u", 7, 7), tried
    )

    assert expected == (found.verdicts[0].name if found.verdicts else "")


@pytest.mark.parametrize(
    ("found", "tried", "expected"),
    [
        (GOOD, None, "may"),
        (GOOD, Tried(reached=True, answered=True), "may"),
        (GOOD, Tried(reached=True), "got no answer at"),
        (GOOD, Tried(reached=False, error="Connection refused"), "cannot connect to"),
        (BAD, None, "may not"),
        (GOOD, Tried(reached=False, hangs=True), "no answer in time"),
        (BAD, Tried(reached=False, hangs=True), "may not"),
        (BAD, Tried(reached=True, answered=True), "was answered"),
        (BAD, Tried(reached=True), "may not"),
        (BAD, Tried(reached=False, error="Permission denied"), "may not"),
    ],
)
def test_a_real_connection_is_right(found: object, tried: Tried | None, expected: str) -> None:
    """Where modes and rules tell one story and the kernel or the daemon another, theirs is told."""
    assert isinstance(found, type(GOOD))
    confirmed = confirm(found, PATH, EXIM, tried)

    assert expected in confirmed.message
    assert ("pass" if expected in {"may", "was answered"} else "fail") == confirmed.level
