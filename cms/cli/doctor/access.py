"""Decides whether a user can connect to a socket and may ask there, from modes and owners as the kernel does. Pure.

The user needs the x bit of every folder on the path and the w bit of the socket (unix(7)); then the socket's own rules
decide. ACLs are not read: the group bits show their mask.
"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import dataclass, replace

from cms.cli.doctor.findings import Finding, failed, passed, warned, yours
from cms.core.policy import Peer, Rules, admits
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT

CHECK = "socket"

_SEARCH = 0o1
_WRITE = 0o2


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of this machine. `groups` are the numbers of its supplementary groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A folder on the path, or the socket at its end. `mode` includes the type; `owner` and `group` are names."""

    path: str
    mode: int
    uid: int
    gid: int
    owner: str
    group: str


@dataclass(frozen=True, slots=True)
class SocketPath:
    """The path to a socket: its folders, from the root down, and the socket itself.

    `missing` is the first part that does not exist; `error` says why a part could not be read.
    """

    steps: tuple[Step, ...]
    missing: str = ""
    error: str = ""


def permitted(step: Step, identity: Identity, bit: int) -> bool:
    """True if the kernel lets a process of this user search a folder, or write to a socket."""
    if identity.uid == ROOT:
        return True
    if identity.uid == step.uid:
        return bool(step.mode & bit << 6)
    if step.gid in (identity.gid, *identity.groups):
        return bool(step.mode & bit << 3)
    return bool(step.mode & bit)


def barrier(there: SocketPath, identity: Identity) -> Step | None:
    """Return the first part of a path that this user may not pass, None if there is none."""
    *folders, last = there.steps
    return next(
        (step for step in folders if not permitted(step, identity, _SEARCH)),
        None if permitted(last, identity, _WRITE) else last,
    )


def assess(path: str, there: SocketPath, rules: Rules, identity: Identity, *, runs: bool = False) -> Finding:
    """Return whether this user gets tokens at this socket. `runs` says whether a daemon runs."""
    if there.error or there.missing:
        return _no_path(path, there, runs=runs)
    found = _assess(path, there, rules, identity)
    if found.level != "pass" or not identity.groups:
        return found
    alone = _assess(path, there, rules, replace(identity, groups=()))
    return found if alone.level == "pass" else _by_groups(path, identity)


def _assess(path: str, there: SocketPath, rules: Rules, identity: Identity) -> Finding:
    barred = barrier(there, identity)
    if barred:
        return failed(CHECK, f"{identity.name} cannot reach {path}", _barred(barred, path, identity, rules))
    if not admits(Peer(0, identity.uid, identity.gid, lambda: identity.groups), rules):
        return failed(CHECK, f"{identity.name} may not ask at {path}", _refused(identity))
    return passed(CHECK, f"{identity.name} may ask at {path}")


def _no_path(path: str, there: SocketPath, *, runs: bool) -> Finding:
    if there.error:
        cause = f"the path to the socket cannot be read: {there.error}"
        return failed(CHECK, f"{path} cannot be checked", yours("socket-unknown", cause, _AS_ROOT))
    cause = f"there is no {there.missing}"
    if runs:
        verdict = yours("lost-socket", f"{cause}, although the daemon runs: it was removed", PUT_BACK)
    else:
        verdict = yours("no-socket", cause, _START)
    return failed(CHECK, f"no program gets a token at {path}", verdict)


_AS_ROOT = (
    "run the command as root: `sudo cms doctor --as USER`, which asks the daemon if its configuration is not root's"
)
_START = "start the daemon: `cms run`, or `systemctl --user start cms`; the machine's: `sudo systemctl start cms`"
PUT_BACK = (
    "`cms reload` puts the socket back, as the daemon itself does within half a minute; `cms status` says if it cannot"
)


def _barred(step: Step, path: str, identity: Identity, rules: Rules) -> Verdict:
    """Return why a folder's mode, or the socket's own, keeps a user out."""
    bits = f"{stat.S_IMODE(step.mode):04o}, owner {step.owner}, group {step.group}"
    if step.path == path:
        cause = f"the socket's mode does not let {identity.name} in ({bits})"
        named = rules.users is not None or rules.groups is not None
        argument = "mode=0o666 where users= or groups= decide" if named else f"users=[{json.dumps(identity.name)}]"
        return yours(
            "socket-mode", cause, f"in the line of the socket: {argument}, or group= its primary group", _RELOAD
        )
    cause = f"the folder {step.path} does not let {identity.name} through ({bits})"
    elsewhere = f"put the socket into a folder that {identity.name} can reach, such as one below /run"
    # A folder of the system's, or one that logind makes anew at each login, is not for the daemon's owner to open.
    if _SHARED.fullmatch(step.path) or (step.uid == ROOT != rules.owner):
        return yours("folder-closed", cause, elsewhere)
    return yours("folder-closed", cause, f"`{Command(('chmod', 'o+x', step.path))}`; or {elsewhere}")


# The root, the folders in it, and those that logind makes.
_SHARED = re.compile(r"/[^/]*|/run/user(/\d+)?")


_RELOAD = "`cms reload`"


def ungiven(path: str, group: str) -> Finding:
    """Return the finding that the daemon's user cannot make this group the owner of its socket."""
    cause = f"only root and the members of {group} can give it a file"
    command = Command(("sudo", "usermod", "-aG", group, "USER"))
    step = f"`{command}`, with the daemon's USER, who then logs in again; or run cms as root"
    return failed(CHECK, f"{path} cannot belong to group {group}", yours("group", cause, step))


def _refused(identity: Identity) -> Verdict:
    return yours(
        "policy",
        f"users= and groups= of this socket do not name {identity.name}",
        f"add {json.dumps(identity.name)} to users= of this socket",
        _RELOAD,
    )


def _by_groups(path: str, identity: Identity) -> Finding:
    return warned(
        CHECK,
        f"{identity.name} may ask at {path} only because of a supplementary group",
        yours(
            "supplementary-group",
            f"a program that drops {identity.name}'s supplementary groups, as exim's transports do, may not ask",
            f"name the user itself, users=[{json.dumps(identity.name)}], or its primary group in groups= or group=",
            _RELOAD,
        ),
    )


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of a real connection as a user: `reached` a listener, `answered` by it; `error` in the kernel's words.

    `hangs` is True if the connection stayed open without an answer. The daemon closes connections of users who may not
    ask.
    """

    reached: bool
    answered: bool = False
    error: str = ""
    hangs: bool = False


def confirm(found: Finding, path: str, identity: Identity, tried: Tried | None, *, runs: bool = False) -> Finding:
    """Return the finding, corrected by the result of a real connection, which counts more than modes and owners."""
    if tried is None or not tried.reached or tried.answered is (found.level != "fail"):
        return _unheard(found, path, identity, tried, runs=runs)
    if tried.answered:
        return passed(CHECK, f"{identity.name} was answered at {path}")
    cause = "the daemon closed the connection without an answer: its rules differ from this configuration"
    return failed(CHECK, f"{identity.name} got no answer at {path}", yours("rules-differ", cause, _RELOAD))


def by_trial(path: str, there: SocketPath, identity: Identity, tried: Tried | None, *, runs: bool = False) -> Finding:
    """Return the finding for a socket whose rules are not known, from a real connection."""
    found = assess(path, there, Rules(ROOT, (), ()), identity, runs=runs)
    if found.level != "fail" and tried and tried.reached and not tried.answered:
        return failed(CHECK, f"{identity.name} may not ask at {path}", _refused(identity))
    return confirm(found, path, identity, tried, runs=runs)


def _unheard(found: Finding, path: str, identity: Identity, tried: Tried | None, *, runs: bool) -> Finding:
    """Return the finding, or another if no process listens or an access list keeps the user out."""
    if tried is None or tried.reached or found.level == "fail":
        return found
    if tried.hangs:
        cause = "a process listens there and does not answer: it is stopped, or the machine is overloaded"
        steps = (
            "`cms status`",
            "if that does not answer either: `systemctl --user restart cms`, or end it and `cms run`",
        )
        return failed(CHECK, f"{path} gives {identity.name} no answer in time", yours("daemon-hangs", cause, *steps))
    cause = f"connecting as {identity.name} failed: {tried.error}"
    move = PUT_BACK if runs else _START
    barred = (
        "if the socket is there and a daemon runs, an access list (`getfacl`) or a security module keeps the user out"
    )
    return failed(CHECK, f"{identity.name} cannot connect to {path}", yours("no-connection", cause, move, barred))
