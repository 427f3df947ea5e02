"""Who gets a token at a socket, and what that token opens: what `cms check` says of each socket."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.programs import require_root
from support.reachable import open_folder

from cms.cli import reach
from cms.config.model import Config, FileSpec, SocketSpec
from cms.core.accounts import Account, Grant, mail_scopes
from cms.core.policy import NAMESPACE, Unmapped
from cms.system import users

RESOURCE = "https://outlook.office.com"
BOTH = mail_scopes(RESOURCE, ["SMTP", "IMAP"])
GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (BOTH,))
A = Account("a@example.test", GRANT, {"SMTP": BOTH, "IMAP": BOTH})
SHARED = Account("shared@example.test", GRANT, {"SMTP": BOTH})

# root, the daemon's owner, another user, and one in whose supplementary groups is MAIL.
OWNER, OTHER, MEMBER, MAIL = 64001, 64002, 64003, 64100
PEOPLE = [
    pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))
    for name, uid in (("root", 0), ("ann", OWNER), ("bob", OTHER), ("carl", MEMBER))
]
GROUPS = [grp.struct_group(("mail", "x", MAIL, ["carl"]))]
ANN, BOB, CARL = f"ann (uid {OWNER})", f"bob (uid {OTHER})", f"carl (uid {MEMBER})"


@pytest.fixture(autouse=True)
def _people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play the user databases."""
    require_root()
    monkeypatch.setattr(pwd, "getpwall", lambda: PEOPLE)
    monkeypatch.setattr(grp, "getgrall", lambda: GROUPS)


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket's path in a folder of ANN's, which everybody can enter."""
    with open_folder("reach") as folder:
        os.chown(folder, OWNER, OWNER)
        yield folder / "cms.sock"


def spec(path: Path, mode: int = 0o666, **changes: object) -> SocketSpec:
    fields = {"users": None, "groups": None, "group": None} | changes
    return SocketSpec(str(path), (A,), ("SMTP",), mode, **fields, line=1)  # type: ignore[arg-type]


def config(*specs: SocketSpec, accounts: tuple[Account, ...] = (A,)) -> Config:
    return Config("cms.cfg", accounts, specs, None, None, ())


def made(path: Path, mode: int, uid: int = OWNER, gid: int = OWNER) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.chmod(mode)
    os.chown(path, uid, gid)


def who(specification: SocketSpec) -> str:
    found = reach.lines(config(specification))[specification.path]
    (line,) = [line.removeprefix("can ask there: ") for line in found if "can ask there" in line]
    return line


@pytest.mark.parametrize(
    ("mode", "changes", "expected"),
    [
        (0o600, {}, ["root (uid 0)", ANN]),
        (0o666, {}, ["every user of this machine"]),
        (0o666, {"users": (str(OTHER),)}, ["root (uid 0)", ANN, BOB]),
        (0o666, {"groups": (str(MAIL),)}, ["root (uid 0)", ANN, CARL]),
        (0o666, {"users": ("64999",)}, ["root (uid 0)", ANN, "#64999 (uid 64999)"]),
        # The bits come first.
        (0o600, {"users": (str(OTHER),)}, ["root (uid 0)", ANN]),
    ],
)
def test_each_user_who_can_ask_is_named(path: Path, mode: int, changes: dict[str, object], expected: list[str]) -> None:
    """By the folders, the socket's bits, and users= and groups=."""
    made(path, mode)

    assert ", ".join(expected) == who(spec(path, mode, **changes))


def test_a_group_of_the_file(path: Path) -> None:
    """Its members can ask."""
    made(path, 0o660, gid=MAIL)

    assert f"root (uid 0), {ANN}, {CARL}" == who(spec(path, 0o660, group=str(MAIL)))


def test_a_folder_keeps_others_out(path: Path) -> None:
    """Whatever the socket's own mode is."""
    made(path, 0o666)
    path.parent.chmod(0o700)

    assert f"root (uid 0), {ANN}" == who(spec(path))


def test_a_folder_to_come_is_its_owners(path: Path) -> None:
    """cms makes it for itself alone."""
    assert "root (uid 0)" == who(spec(path.parent / "new" / "cms.sock"))


def test_a_path_that_cannot_be_read(path: Path) -> None:
    """Is said."""
    path.parent.joinpath("loop").symlink_to("loop")

    assert who(spec(path.parent / "loop" / "cms.sock")).startswith("unknown, because the path cannot be read")


def test_of_very_many_some_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are counted."""
    monkeypatch.setattr(reach, "MOST_NAMED", 1)
    made(path, 0o600)

    assert "root (uid 0), 1 more" == who(spec(path, 0o600))


def test_where_other_users_clients_take_no_token(path: Path) -> None:
    """Below a folder that is not root's alone, such as one's home or /tmp; nothing is said of a socket for oneself."""
    own = path.parent / "own"
    own.mkdir()
    os.chown(own, OWNER, OWNER)
    deep = own / "cms.sock"
    made(deep, 0o666)

    def notes(mode: int = 0o666) -> list[str]:
        return [line for line in reach.lines(config(spec(deep, mode)))[str(deep)] if "takes no token" in line]

    (note,) = notes()
    assert f"others than root can change {path.parent}: " in note
    assert [] == notes(0o600)
    os.chown(path.parent, 0, 0)
    assert [] == notes()
    path.parent.chmod(0o1777)
    assert 1 == len(notes())
    # Root's daemon is believed anywhere.
    os.chown(deep, 0, 0)
    assert [] == notes()


def test_what_is_really_there_is_said(path: Path) -> None:
    """systemd's socket is not as configured: its facts, and that the configured bits hold. Its twin is not worth a line."""
    made(path, 0o666, uid=0, gid=0)
    lines = reach.lines(config(spec(path, 0o600)))[str(path)]

    assert lines[0].startswith("is there with mode 0666, owner root, group root")
    assert lines[1] == "can ask there: root (uid 0)"
    assert "can ask there" in reach.lines(config(spec(path, 0o666)))[str(path)][0]


def beyond_of(configuration: Config, path: Path) -> list[str]:
    return [line for line in reach.lines(configuration)[str(path)] if "also opens" in line]


def test_what_a_token_opens_beyond_is_said(path: Path) -> None:
    """Other protocols and mailboxes of its sign-in; a socket that serves them all, or a sign-in for less, has no such line."""
    beyond = config(replace(spec(path), accounts=(A,)), accounts=(A, SHARED))
    (line,) = beyond_of(beyond, path)
    assert line.startswith(
        "a token of a@example.test also opens IMAP.AccessAsUser.All, the mailbox of shared@example.test: "
    )

    everything = replace(spec(path), accounts=(A, SHARED), protocols=("SMTP", "IMAP"))
    assert [] == beyond_of(config(everything, accounts=(A, SHARED)), path)
    less = Account("a@example.test", GRANT, {"SMTP": mail_scopes(RESOURCE, ["SMTP"])})
    assert [] == beyond_of(config(replace(spec(path), accounts=(less,)), accounts=(less,)), path)
    yandex = Account("a@example.test", GRANT, dict.fromkeys(("SMTP", "IMAP"), ("mail:imap", "mail:smtp")))
    yandex = replace(yandex, needs={"SMTP": "mail:smtp", "IMAP": "mail:imap"})
    (line,) = beyond_of(config(replace(spec(path), accounts=(yandex,)), accounts=(yandex,)), path)
    assert line.startswith("a token of a@example.test also opens mail:imap: ")
    own = Account("a@example.test", GRANT, {"SMTP": ("openid", "email")}, needs={"SMTP": ""})
    assert [] == beyond_of(config(replace(spec(path), accounts=(own,)), accounts=(own,)), path)
    application = Account("", GRANT, {"SMTP": (f"{RESOURCE}/.default",)})
    (line,) = beyond_of(config(replace(spec(path), accounts=(application,)), accounts=(application,)), path)
    assert "also opens all that its application has consent for" in line


def test_who_may_ask_for_every_mailbox_is_said(path: Path) -> None:
    """For an account of a whole domain, on a line of its own; and where its application is that of another account."""
    every = Account("*@example.test", GRANT, {"SMTP": BOTH})
    served = replace(spec(path, users=("64002",)), accounts=(every,), protocols=("SMTP", "IMAP"))
    found = reach.lines(config(served, accounts=(every,)))[str(path)]

    assert f"can ask for every mailbox of example.test: root (uid 0), {BOB}" in found
    (line,) = beyond_of(config(replace(spec(path), protocols=("SMTP", "IMAP")), accounts=(A, every)), path)
    assert line.startswith("a token of a@example.test also opens every mailbox of example.test: ")


def test_an_example_whose_number_was_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """/run/user/1000 of the pages is another user's: cms would not start. Root may look at anybody's configuration."""
    ones = config(spec(Path("/run/user/1000/cms/cms.sock")))

    def said(uid: int) -> list[str]:
        monkeypatch.setattr("os.geteuid", lambda: uid)
        return list(reach.folders(ones))

    (line,) = said(1001)
    assert "/run/user/1000 is the folder of uid 1000, and you are 1001: write /run/user/1001" in line
    assert [[], []] == [said(uid) for uid in (1000, 0)]


def test_folders_that_others_can_write_are_named(path: Path) -> None:
    """Of sockets and token files: cms would not start."""
    os.chown(path.parent, 0, 0)
    path.parent.chmod(0o777)
    file = FileSpec(str(path.parent / "token"), A, "SMTP", 0o600, newline=False, line=1)
    found = list(reach.folders(replace(config(spec(path)), files=(file,))))
    path.parent.chmod(0o711)
    path.parent.joinpath("loop").symlink_to("loop")
    looped = list(reach.folders(config(spec(path), spec(path.parent / "loop" / "cms.sock"))))

    assert [str(path), file.path] == [each.partition(": cms does not start, because the folder ")[0] for each in found]
    assert [f"the folder of {path.parent}/loop/cms.sock cannot be looked at"] == [
        each.partition(":")[0] for each in looped
    ]


def test_a_number_that_stands_for_many_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which; as a warning where the configuration counts on it. Outside of a namespace nothing is said."""
    named = config(spec(path, users=("65534",)))
    assert ("", "") == (reach.namespace(named), reach.namespace_note())
    monkeypatch.setattr(users, "unmapped", lambda: Unmapped(65534, None))

    assert f"{NAMESPACE}: uid 65534" == reach.namespace(named)
    assert "" == reach.namespace(config(spec(path)))
    assert f"note: {NAMESPACE}: uid 65534" == reach.namespace_note()
