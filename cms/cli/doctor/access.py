"""Can this user connect to that socket, and does it answer them? Decided from modes and owners, as the kernel does. Pure.

Every folder that leads to the socket needs its x bit and the socket its w bit (unix(7)); then the socket's own rules
decide. ACLs are not read: the group bits are their mask.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace

from cms.cli.doctor.findings import Finding, failed, passed, warned, yours
from cms.core.policy import ROOT, Peer, Rules, admits
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.moves import Command

CHECK = "socket"

_SEARCH = 0o1
_WRITE = 0o2


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of this machine. `groups` are its supplementary groups' numbers."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A folder, or at the end the socket. `mode` has the type's bits too; `owner` and `group` are the names."""

    path: str
    mode: int
    uid: int
    gid: int
    owner: str
    group: str


@dataclass(frozen=True, slots=True)
class SocketPath:
    """The folders that lead to a socket, from the root on, and the socket itself.

    `missing` is the first part that does not exist; `error` says why a part could not be read.
    """

    steps: tuple[Step, ...]
    missing: str = ""
    error: str = ""


def permitted(step: Step, identity: Identity, bit: int) -> bool:
    """Whether the kernel lets a process of this user search a folder, or write to a socket."""
    if identity.uid == ROOT:
        return True
    if identity.uid == step.uid:
        return bool(step.mode & bit << 6)
    if step.gid in (identity.gid, *identity.groups):
        return bool(step.mode & bit << 3)
    return bool(step.mode & bit)


def barrier(there: SocketPath, identity: Identity) -> Step | None:
    """Return the first part of a path that does not let this user pass, None where all do."""
    *folders, last = there.steps
    return next(
        (step for step in folders if not permitted(step, identity, _SEARCH)),
        None if permitted(last, identity, _WRITE) else last,
    )


def assess(path: str, there: SocketPath, rules: Rules, identity: Identity) -> Finding:
    """Return whether this user gets tokens at this socket."""
    if there.error or there.missing:
        return _no_path(path, there)
    found = _assess(path, there, rules, identity)
    if found.level != "pass" or not identity.groups:
        return found
    alone = _assess(path, there, rules, replace(identity, groups=()))
    return found if alone.level == "pass" else _by_groups(path, identity)


def _assess(path: str, there: SocketPath, rules: Rules, identity: Identity) -> Finding:
    barred = barrier(there, identity)
    if barred:
        return failed(CHECK, f"{identity.name} does not get to {path}", _barred(barred, path, identity, rules))
    if not admits(Peer(0, identity.uid, identity.gid, identity.groups), rules):
        return failed(CHECK, f"{identity.name} may not ask at {path}", _refused(identity))
    return passed(CHECK, f"{identity.name} may ask at {path}")


def _no_path(path: str, there: SocketPath) -> Finding:
    if there.error:
        cause = f"the path to the socket cannot be read: {there.error}"
        return failed(CHECK, f"{path} is out of sight", yours("socket-unknown", cause, _AS_ROOT))
    cause = f"there is no {there.missing}"
    return failed(CHECK, f"nobody gets a token at {path}", yours("no-socket", cause, _START))


_AS_ROOT = (
    "give the command as root: `sudo cms doctor --as USER`, which asks the daemon where its configuration is not root's"
)
_START = "start the daemon: `cms run`, or `systemctl --user start cms`"


def _barred(step: Step, path: str, identity: Identity, rules: Rules) -> Verdict:
    """Explain a folder, or the socket's own bits, that keep a user out."""
    bits = f"{stat.S_IMODE(step.mode):04o}, owner {step.owner}, group {step.group}"
    if step.path == path:
        cause = f"the socket's mode does not let {identity.name} in ({bits})"
        named = rules.users is not None or rules.groups is not None
        argument = "mode=0o666 where users= or groups= decide" if named else f'users=["{identity.name}"]'
        return yours("socket-mode", cause, f"in its CredentialServer: {argument}, or group= its primary group", _RELOAD)
    cause = f"the folder {step.path} does not let {identity.name} through ({bits})"
    return yours(
        "folder-closed",
        cause,
        f"`{Command(('chmod', 'o+x', step.path))}`; or put the socket into a folder that {identity.name} gets to, such as one below /run",
    )


_RELOAD = "`cms reload`"


def ungiven(path: str, group: str) -> Finding:
    """Return that the daemon's user could not make a group the owner of its socket."""
    cause = f"only root and the members of {group} can give it a file"
    step = f"`sudo usermod -aG {group} USER`, with the daemon's USER, who then logs in again; or run cms as root"
    return failed(CHECK, f"{path} cannot belong to group {group}", yours("group", cause, step))


def _refused(identity: Identity) -> Verdict:
    return yours(
        "policy",
        f"users= and groups= of this CredentialServer do not name {identity.name}",
        f'add "{identity.name}" to users= of this CredentialServer',
        _RELOAD,
    )


def _by_groups(path: str, identity: Identity) -> Finding:
    return warned(
        CHECK,
        f"{identity.name} may ask at {path} by a supplementary group only",
        yours(
            "supplementary-group",
            f"a program that drops {identity.name}'s supplementary groups, as exim's transports do, is turned away",
            f'name the user itself, users=["{identity.name}"], or its primary group in groups= or group=',
            _RELOAD,
        ),
    )


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a real connection as a user: `reached` a listener, `answered` by it; `error` in the kernel's words.

    `hangs` says that the connection stayed open, and nothing came: a stranger's would have been closed.
    """

    reached: bool
    answered: bool = False
    error: str = ""
    hangs: bool = False


def confirm(found: Finding, path: str, identity: Identity, tried: Tried | None) -> Finding:
    """Return the finding as a real connection shows it: that is right where modes and owners tell another story."""
    if tried is None or not tried.reached or tried.answered is (found.level != "fail"):
        return _unheard(found, path, identity, tried)
    if tried.answered:
        return passed(CHECK, f"{identity.name} was answered at {path}")
    cause = "the daemon closed the connection without a word: its rules are others than this configuration's"
    return failed(CHECK, f"{identity.name} was turned away at {path}", yours("rules-differ", cause, _RELOAD))


def by_trial(path: str, there: SocketPath, identity: Identity, tried: Tried | None) -> Finding:
    """Return what a real connection shows of a socket whose rules are not known."""
    found = assess(path, there, Rules(ROOT, (), ()), identity)
    if found.level != "fail" and tried and tried.reached and not tried.answered:
        return failed(CHECK, f"{identity.name} may not ask at {path}", _refused(identity))
    return confirm(found, path, identity, tried)


def _unheard(found: Finding, path: str, identity: Identity, tried: Tried | None) -> Finding:
    """Return the finding, or another where nobody listens or an access list keeps the user out."""
    if tried is None or tried.reached or found.level == "fail":
        return found
    if tried.hangs:
        cause = "something listens there, and does not get to its clients: it is stopped, or the machine is overloaded"
        steps = (
            "`cms status`",
            "if that does not answer either: `systemctl --user restart cms`, or end it and `cms run`",
        )
        return failed(CHECK, f"{path} gives {identity.name} no answer in time", yours("daemon-hangs", cause, *steps))
    cause = f"connecting as {identity.name} failed: {tried.error}"
    step = "start the daemon: `cms run`; if it runs, an access list (`getfacl`) or a security module keeps the user out"
    return failed(CHECK, f"{identity.name} gets no connection at {path}", yours("no-connection", cause, step))
