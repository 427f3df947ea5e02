"""Gathers facts about this machine for `cms doctor` and `cms check`: versions, folders, keys, sockets, users, files.

Other modules say what the facts mean, so that tests of that need no real machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from cms.cli.doctor.access import Identity, SocketPath, Step, Tried
from cms.cli.doctor.assess import Folder, KeyFacts, Library
from cms.cli.doctor.mail_tools.found import Machine
from cms.cli.init import mail_programs
from cms.config.model import Config, SocketSpec
from cms.core.accounts import Source
from cms.core.policy import MAY_NOT_ASK
from cms.system import users
from cms.system.files import open_regular
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT

# A requirement such as `trio>=0.35`; those with a marker after `;` are for something else.
_REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9.]+)$")

# A mail program's configuration has a few kilobytes. Of a longer file only this much is read.
_MOST = 256 * 1024

# The home folder of users that have none (Debian's policy manual, 9.2.3).
_NO_HOME = "/nonexistent"

# A group may have a thousand members, and each one costs a line of the report.
_MOST_MEMBERS = 8

# The range of uids for people (login.defs(5), UID_MIN and UID_MAX of Debian).
_FIRST_PERSON, _LAST_PERSON = 1000, 60_000

# A daemon answers a stranger or a bad request at once.
CONNECT_SECONDS = 5.0


def libraries(distribution: str = "cms-oauth") -> list[Library]:
    """Return the libraries that cms needs, each with the version that is installed."""
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        # Run from a source tree, without package metadata.
        return []
    named = filter(None, map(_REQUIREMENT.fullmatch, required))
    return [Library(each[1], _version(each[1]), each[2]) for each in named]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def state_folder(path: str) -> Folder:
    """Return the facts about the state folder."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - as the other calls here
        disk = os.statvfs(path)
        vaults = len(list(Path(path).glob("*.vault")))
    except FileNotFoundError:
        return Folder(path, exists=False)
    except OSError as error:
        return Folder(path, error=error.strerror or str(error))
    owner, mode = users.user_name(facts.st_uid), stat.S_IMODE(facts.st_mode)
    return Folder(path, True, facts.st_uid, owner, mode, disk.f_bavail * disk.f_frsize, vaults)


def key(source: Source | None, vaults: int, old: Source | None = None) -> KeyFacts:
    """Return the facts about the vault's key, without reading it. `vaults` is the number of sign-ins that need it.

    If `old` names another one, the sign-ins may need that, and the new key need not exist.
    """
    if source is None:
        return KeyFacts("")
    if old and vaults and (found := key(old, vaults)).problem:
        return found
    vaults = 0 if old else vaults
    # Only the program of a command is shown: its arguments may be private.
    where = source.value[0] if source.value else ""
    look = _LOOKS.get(source.kind)
    problem, step = look(where, vaults) if look else ("", "")
    return KeyFacts(source.kind, where, problem, step)


_RESTORE = (
    "restore it; if it is a new one, name the old one too, Vault(key=..., old_key=...), and `cms vault rekey`; or "
    "`cms logout` and sign in again"
)


def _key_file(path: str, vaults: int) -> tuple[str, str]:
    try:
        facts = os.stat(path)  # noqa: PTH116 - as above
    except FileNotFoundError:
        return ("it does not exist", _RESTORE) if vaults else ("", "")
    except OSError as error:
        return error.strerror or str(error), f"let cms read it: `{Command(('ls', '-l', path))}`"
    if not stat.S_ISREG(facts.st_mode):
        return "it is not a regular file", "name a file in Vault(key=File(...))"
    if stat.S_IMODE(facts.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        return (
            f"its mode is {stat.S_IMODE(facts.st_mode):04o}: other users may read it",
            f"`{Command(('chmod', '600', path))}`",
        )
    return "", ""


def _key_command(program: str, _vaults: int) -> tuple[str, str]:
    return ("", "") if shutil.which(program) else ("there is no such program", "install it, or name its whole path")


def _key_in_keyring(_where: str, _vaults: int) -> tuple[str, str]:
    uid = os.geteuid()
    if os.environ.get("DBUS_SESSION_BUS_ADDRESS") or Path(f"/run/user/{uid}/bus").exists():
        return "", ""
    return "there is no desktop session to ask", 'log in to the desktop, or use Vault(key=File("..."))'


_LOOKS: dict[str, Callable[[str, int], tuple[str, str]]] = {
    "file": _key_file,
    "command": _key_command,
    "keyring": _key_in_keyring,
}


# Sockets, and who has to reach them.


def socket_path(path: str) -> SocketPath:
    """Return each folder on the path to a socket, and the socket."""
    steps: list[Step] = []
    for part in [*reversed(Path(path).parents), Path(path)]:
        try:
            facts = part.stat()
        except FileNotFoundError:
            return SocketPath(tuple(steps), missing=str(part))
        except OSError as error:
            return SocketPath(tuple(steps), error=f"{part}: {error.strerror}")
        steps.append(_step(str(part), facts))
    return SocketPath(tuple(steps))


def planned(spec: SocketSpec, owner: int) -> SocketPath:
    """Return the path of a socket as it is, or as it will be after a daemon of this owner has created the socket."""
    found = socket_path(spec.path)
    if found.missing != spec.path:
        return found
    group = users.group_id(spec.group) if spec.group else None
    if group is None:
        known = users.user(owner)
        group = known.pw_gid if known else owner
    made = Step(spec.path, stat.S_IFSOCK | spec.mode, owner, group, users.user_name(owner), spec.group or f"#{group}")
    return SocketPath((*found.steps, made))


def may_give_to(group: str) -> bool:
    """True if this process can make a group the owner of a socket: it is root, or in that group."""
    number = users.group_id(group)
    return os.geteuid() == ROOT or number in (os.getegid(), *os.getgroups())


def _step(path: str, facts: os.stat_result) -> Step:
    owner, group = users.user_name(facts.st_uid), users.group_name(facts.st_gid)
    return Step(path, facts.st_mode, facts.st_uid, facts.st_gid, owner, group)


def identity(name: str) -> Identity | None:
    """Return a user of this machine by name or number, None if there is no such name."""
    uid = users.user_id(name)
    if uid is None:
        return None
    known = users.user(uid)
    if known is None:
        # A uid without a name, such as a container's user.
        return Identity(f"#{uid}", uid, uid)
    groups = {group for group in os.getgrouplist(known.pw_name, known.pw_gid) if group != known.pw_gid}
    return Identity(known.pw_name, uid, known.pw_gid, tuple(sorted(groups)))


# Whom Postfix's programs run as, unless its main.cf names another (mail_owner).
_POSTFIX = "postfix"


def expected(spec: SocketSpec, owner: int) -> list[Identity]:
    """Return the users who need a socket: those that its users= and groups= name, else Postfix's for a table of its.

    Else it is the daemon's own user.
    """
    names = [
        *(spec.users or ()),
        *(each for group in spec.groups or () for each in users.members(group)[:_MOST_MEMBERS]),
    ]
    if not names and spec.speaks == "postfix":
        names = [_POSTFIX]
    found = [identity(name) for name in dict.fromkeys(names)]
    return [each for each in found if each] or [identity(str(owner)) or Identity(f"#{owner}", owner, owner)]


# What a child process does as another user. It imports nothing after the change, because that user may not be able to
# read cms. The daemon tells a user who may not ask so, and answers others with another error: no token is sent.
_CHILD = """
import os, socket, sys
path, uid, gid, seconds, *groups = sys.argv[1:]
os.setgroups([int(each) for each in groups])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
client = socket.socket(socket.AF_UNIX)
client.settimeout(float(seconds))
try:
    client.connect(path)
except OSError as error:
    print("error", error.strerror or error)
    sys.exit()
try:
    client.sendall({request!r})
    client.shutdown(socket.SHUT_WR)
    answer = client.recv({most!r})
except TimeoutError:
    print("hangs")
except OSError:
    print("silent")
else:
    print("answered" if answer and {refusal!r} not in answer else "silent")
"""

# An error is one short line.
_LONGEST_ANSWER = 4096

# Requests for a protocol and a table key that do not exist: a socket answers them with an error.
_QUESTIONS = {"tokens": b"-,json\n", "postfix": b"12:cms nobody@x,"}


def try_socket(spec: SocketSpec, who: Identity, seconds: float = CONNECT_SECONDS) -> Tried | None:
    """Connect to a socket as a user and see whether it answers. None if this process may not become that user."""
    if os.geteuid() not in (ROOT, who.uid):
        return None
    if os.geteuid() == ROOT:
        return _tried(_as_user(spec, who, seconds))
    return _tried(_as_self(spec, seconds))


def try_path(path: str, who: Identity) -> Tried | None:
    """Connect to a socket of which only the path is known, with each protocol that cms's sockets use."""
    tried = None
    for speaks in _QUESTIONS:
        tried = try_socket(SocketSpec(path, (), (), 0, None, None, None, 0, speaks=speaks), who)
        if tried is None or tried.answered or not tried.reached:
            return tried
    return tried


def _as_user(spec: SocketSpec, who: Identity, seconds: float) -> str:
    values = {"request": _QUESTIONS[spec.speaks], "refusal": MAY_NOT_ASK.encode(), "most": _LONGEST_ANSWER}
    program = _CHILD.format(**values)
    numbers = map(str, (who.uid, who.gid, seconds, *who.groups))
    argv = [sys.executable, "-I", "-c", program, spec.path, *numbers]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + CONNECT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "error it did not finish in time"
    return done.stdout.strip() or "error it could not become that user"


def _as_self(spec: SocketSpec, seconds: float) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(seconds)
        try:
            client.connect(spec.path)
        except OSError as error:
            return f"error {error.strerror or error}"
        try:
            client.sendall(_QUESTIONS[spec.speaks])
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(_LONGEST_ANSWER)
            return "answered" if answer and MAY_NOT_ASK.encode() not in answer else "silent"
        except TimeoutError:
            return "hangs"
        except OSError:
            return "silent"


def _tried(word: str) -> Tried:
    if word.startswith("error "):
        return Tried(reached=False, error=word.removeprefix("error "))
    return Tried(reached=word != "hangs", answered=word == "answered", hangs=word == "hangs")


# Mail programs.


def mail_files(home: str, environ: Mapping[str, str]) -> Machine:
    """Return access to the files of the mail programs of this machine. `home` is "" for no home folder."""
    return Machine(
        home or _NO_HOME,
        {**environ, "UID": str(os.geteuid())},
        _regular_file,
        os.path.isfile,
        _files_in,
        lambda program: shutil.which(program) is not None,
        lambda program: mail_programs.release(program) if shutil.which(program) else 0,
    )


def _regular_file(path: str) -> str:
    """Return the text of a file. Raises OSError, also for what is no regular file: a pipe would wait for a writer."""
    with TextIOWrapper(open_regular(path), encoding="utf-8", errors="replace") as file:
        return file.read(_MOST)


def _files_in(folder: str) -> list[str]:
    try:
        return sorted(each.path for each in os.scandir(folder) if each.is_file())
    except OSError:
        return []


def age_of(path: str, now: float) -> float | None:
    """Return how many seconds ago a file was written, None if that is not known. `now` is Unix time."""
    with suppress(OSError):
        return now - Path(path).stat().st_mtime
    return None


def owner_of(config: Config) -> int:
    """Return the uid that the daemon of this configuration runs as: the owner of its first socket, else this user."""
    for spec in config.sockets:
        with suppress(OSError):
            return Path(spec.path).stat().st_uid
    return os.geteuid()


def owners_control(config: str) -> str:
    """Return the path of the control socket of a configuration's owner, "" if the owner is root or not known."""
    with suppress(OSError):
        owner = Path(config).stat().st_uid
        return f"/run/user/{owner}/cms/control.sock" if owner != ROOT else ""
    return ""


def personal_names() -> list[str]:
    """Return the names of this machine and of its users who are people, not services."""
    host = socket.gethostname()
    people = users.people(_FIRST_PERSON, _LAST_PERSON)
    homes = (Path(each.pw_dir).name for each in people)
    return [
        name
        for name in {*(each.pw_name for each in people), *homes, host, host.partition(".")[0]}
        if name != "localhost"
    ]
