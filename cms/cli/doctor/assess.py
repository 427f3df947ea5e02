"""Turns the facts that the `probe_*` modules gather into findings, with one function for each kind of fact. Pure.

Facts are values, so tests of these functions need no network, clock or permissions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cms.cli.doctor.findings import Finding, failed, passed, skipped, warned, yours
from cms.core.accounts import Account, Source
from cms.core.old_key import REKEY, old_key
from cms.core.preflight import LENGTHENS, misfit_of, permission_of
from cms.core.status import RENEW_CERTIFICATE, expiry
from cms.core.words import NAMELESS, duration
from cms.grants.messages import FleetReport
from cms_oauth.claims import Claims
from cms_oauth.diagnosis.provider import of_problem
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.moves import Command, cms, fill
from cms_oauth.providers import MICROSOFT

# A vault file has a few kilobytes, and a new one is written beside the old one. On a full disk a renewed sign-in is lost.
SPACE_WARNS = 64 * 1024 * 1024
SPACE_FAILS = 1024 * 1024

# Warn of a sign-in that ends within a week.
FORECAST_WARNS = 7 * 86_400.0

_WRITABLE_BY_OTHERS = 0o077


# The program itself.


@dataclass(frozen=True, slots=True)
class Library:
    """A library that cms needs: the installed version ("" for none), and the lowest that cms was tested with."""

    name: str
    found: str
    lowest: str


def python(found: Sequence[int], lowest: Sequence[int]) -> Finding:
    said = ".".join(map(str, found))
    if tuple(found[: len(lowest)]) >= tuple(lowest):
        return passed("python", said)
    wanted = ".".join(map(str, lowest))
    return failed("python", said, yours("old-python", f"cms needs Python {wanted}", "install cms with a newer one"))


def libraries(found: Sequence[Library]) -> Finding:
    old = [each for each in found if _numbers(each.found) < _numbers(each.lowest)]
    if not old:
        return passed("libraries", ", ".join(f"{each.name} {each.found}" for each in found) or "none is needed")
    told = ", ".join(f"{each.name} {each.found or 'is missing'} (needs {each.lowest})" for each in old)
    command = Command(("pip", "install", "--upgrade", *(f"{each.name}>={each.lowest}" for each in old)))
    step = f"in the environment of cms: `{command}`"
    return failed("libraries", told, yours("old-library", "cms was not tested with versions that old", step))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, up to the first part that is not a number."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


# The machine.


@dataclass(frozen=True, slots=True)
class Folder:
    """The state folder. `free` is in bytes; `vaults` the number of sign-ins; `error` why the folder could not be read.

    If this user has no place for one, `error` says why, and `step` what to do.
    """

    path: str
    exists: bool = True
    uid: int = 0
    owner: str = ""
    mode: int = 0o700
    free: int = 0
    vaults: int = 0
    error: str = ""
    step: str = ""


def state_folder(found: Folder, uid: int) -> Finding:
    """Return whether the state folder is private and has space. `uid` is the user who runs the doctor."""
    if not found.exists:
        return passed("state folder", f"{found.path} does not exist yet: cms creates it")
    if found.step:
        return failed("state folder", "there is no place for sign-ins", yours("no-home", found.error, found.step))
    if found.error:
        return skipped("state folder", f"{found.path}: {found.error}")
    said = f"{found.path}: owner {found.owner}, mode {found.mode:04o}, {found.free // (1 << 20)} MiB free"
    if uid not in {found.uid, 0}:
        step = f"`{Command(('sudo', '-u', found.owner, 'cms'))} ...`"
        return failed("state folder", said, yours("not-ours", f"it belongs to {found.owner}", step))
    if found.mode & _WRITABLE_BY_OTHERS:
        return warned(
            "state folder",
            said,
            yours("open-folder", "other users can enter it", f"`{Command(('chmod', '700', found.path))}`"),
        )
    if found.free < SPACE_WARNS:
        verdict = yours("disk-full", "a renewed sign-in that cannot be written is lost", "free space on that disk")
        return (failed if found.free < SPACE_FAILS else warned)("state folder", said, verdict)
    return passed("state folder", f"{said}, {found.vaults} sign-in{'' if found.vaults == 1 else 's'}")


def fleet(found: FleetReport, *, serves_only: bool) -> Finding:
    """Return whether the fleet's database can be used, and whether it has all that this host knows."""
    if found.version < found.program:
        said = f"the tables have version {found.version}, and this cms makes {found.program}"
        verdict = yours("fleet-version", "they lack what this version of cms has", "`cms fleet upgrade`")
        return warned("fleet", said, verdict)
    if late := sum(each.unshared for each in found.sign_ins):
        cause = "if this host is lost before it has shared them, each needs a new sign-in"
        move = "keep this host running: it shares them as soon as the database takes them"
        return warned("fleet", f"{late} renewed, and not yet shared", yours("fleet-unshared", cause, move))
    role = "this host serves only" if serves_only else "this host signs in and fetches tokens"
    number = len(found.sign_ins)
    return passed("fleet", f"{number} sign-in{'' if number == 1 else 's'} in the database; {role}")


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """Where the vault's key comes from. `kind` is Source's, "" if cms chooses; `where` the path or name.

    `problem` says what is wrong, as far as can be seen without reading the key, and `step` what to do.
    """

    kind: str
    where: str = ""
    problem: str = ""
    step: str = ""


def key(found: KeyFacts, rows: Sequence[Mapping[str, Any]]) -> Finding:
    """Return whether the vault's key is available. `rows` are the accounts of a status, none without a daemon."""
    if row := next((each for each in rows if each.get("state") == "locked"), None):
        said = str((row.get("problem") or {}).get("message") or row.get("state"))
        return failed("key", said, yours("locked", "the vault's key cannot be read", _move_of(row)))
    if found.problem:
        return failed("key", f"{found.where}: {found.problem}", yours("key", "no sign-in can be read", found.step))
    if any(row.get("persisted") is False for row in rows) and found.kind != "memory":
        cause = "sign-ins are kept in memory only, and are lost when cms ends"
        return warned("key", "none", yours("memory-only", cause, 'Vault(key=File("...")) names a place for a key'))
    if former := old_key(Source(found.kind, (found.where,)), rows):
        return warned("key", former, yours("old-key", "the configuration names another key", REKEY))
    used = next((str(row["key_from"]) for row in rows if row.get("key_from")), "")
    return passed("key", used or " ".join(filter(None, (_KINDS.get(found.kind, found.kind), found.where))))


_KINDS = {
    "": "chosen automatically: a systemd credential, else the desktop keyring",
    "file": "file",
    "credential": "systemd credential",
    "command": "command",
    "keyring": "desktop keyring",
    "memory": "memory only, as configured",
}


def _move_of(row: Mapping[str, Any]) -> str:
    return str(row.get("next_move") or "`cms status`")


# The daemon.


def daemon(status: Mapping[str, Any], installed: str, config: str, changed: float | None) -> list[Finding]:
    """Return the findings about the running daemon, from its status.

    `config` is the configuration that the doctor read, "" for none; `changed` how many seconds ago it was written.
    """
    told = status.get("daemon", {})
    version, uptime = str(told.get("version")), float(told.get("uptime", 0))
    said = f"cms {version}, process {told.get('pid')}, up {duration(uptime)}"
    found = [passed("daemon", said)]
    if version != installed:
        step = "`systemctl --user restart cms`, or stop it and `cms run`"
        cause = f"cms {installed} is installed, and another version runs"
        found = [warned("daemon", said, yours("old-daemon", cause, step))]
    if config and told.get("config") != config:
        cause = f"it runs with {told.get('config')}, and the doctor read {config}"
        found.append(warned("daemon", "another configuration", yours("other-config", cause, "name it with -c FILE")))
    elif changed is not None and changed < float(told.get("loaded", uptime)):
        cause = f"the configuration was written {duration(changed)} ago, after the daemon had read it"
        found.append(warned("daemon", "it may not know the configuration", yours("reload", cause, "`cms reload`")))
    warnings = [each for each in told.get("warnings", ()) if isinstance(each, str)]
    return [*found, *(warned("daemon", each) for each in warnings)]


def no_daemon(message: str, hint: str, *, runs: bool = False) -> Finding:
    """Return the finding about a daemon that does not answer. `runs` says that there is one all the same."""
    if runs:
        return failed("daemon", message, Verdict("no-control-socket", "no command reaches it", "wait", (hint,)))
    return failed("daemon", message, yours("no-daemon", "without it no mail program gets a token", hint))


# Sign-ins and tokens.


def sign_in(row: Mapping[str, Any], wall: float) -> Finding:
    """Return the finding about a sign-in, from a row of the status. `wall` is Unix time."""
    who = f"{row.get('user') or NAMELESS}, {', '.join(row.get('protocols', ()))}"
    state, problem = str(row.get("state")), row.get("problem")
    if not problem and row.get("credential_due"):
        ends = expiry(float(row.get("credential_expires_at") or 0) - wall)
        return warned("sign-in", f"{who}: {state}; {ends}", yours("certificate-ends", ends, RENEW_CERTIFICATE))
    if not problem:
        return _forecast(row, who, wall)
    verdicts = _verdicts_of(problem, row)
    said = f"{who}: {state}: {problem.get('message')}"
    # Mail still works with the current token, until it expires.
    return (warned if row.get("usable") else failed)("sign-in", said, *verdicts)


def _verdicts_of(problem: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """Return what a problem means: from the provider's table if it was named there, else in the daemon's own words."""
    # Not the link or code of a waiting sign-in: anyone who reads it could use it, and people pass reports on.
    step = _FINISH if row.get("state") == "signing-in" else _move_of(row)
    own = Verdict(str(problem.get("kind")), str(problem.get("message")), "you", (step,))
    named = of_problem(problem, str(row.get("provider")), str(row.get("user", "")))
    return named or (replace(own, mover="wait") if row.get("state") == "failing" else own,)


_FINISH = "finish the sign-in that is waiting: `cms status` shows how"


def _forecast(row: Mapping[str, Any], who: str, wall: float) -> Finding:
    told = row.get("forecast")
    said = f"{who}: {row.get('state')}"
    if not told:
        return passed("sign-in", said)
    left = float(told["due"]) - wall
    until = f"{said}; it ends in {duration(left)} ({told['certainty']}: {told['reason']})"
    if left > FORECAST_WARNS:
        return passed("sign-in", until)
    step = fill("sign in before: {login}", {"login": cms("login", str(row.get("user", "")))})
    return warned("sign-in", until, yours("sign-in-ends", str(told["reason"]), step))


@dataclass(frozen=True, slots=True)
class Asked:
    """The daemon's answer to a token request over a socket: the token's `claims`, or the refusal.

    `got` is True if there is a token, and `user` is whose it is. `claims` is None for an opaque token, and without one.
    The token itself is not here, because reports contain this.
    """

    account: Account
    protocol: str
    got: bool = False
    claims: Claims | None = None
    code: str = ""
    message: str = ""
    hint: str = ""
    user: str = ""

    @property
    def who(self) -> str:
        """Whose token it is or would be, for people."""
        return self.user or self.account.user or NAMELESS


def token(asked: Asked, row: Mapping[str, Any] | None = None) -> Finding:
    """Return whether there is a token with the claims that its protocol needs; what the status's `row` tells is not told."""
    what = f"{asked.who}, {asked.protocol}"
    if not asked.got:
        if not asked.code:
            return skipped("token", f"{what}: {asked.message}")
        if row and _is_told(asked, row):
            return skipped("token", f"{what}: there is none, as the sign-in above says")
        verdict = yours(asked.code, asked.message, asked.hint or "`cms status`")
        return failed("token", f"{what}: {asked.code}", verdict)
    if asked.claims is None:
        usual = ", as for all personal accounts" if asked.account.grant.provider == MICROSOFT else ""
        found = passed("token", f"{what}: opaque{usual}: cms cannot look into it")
    else:
        found = _claims(asked, asked.claims, what)
    if row and row.get("too_long") and found.level == "pass":
        step = "if such a program uses it, make it shorter; or use one that has room for it"
        return warned("token", f"{what}: {row['too_long']}", yours("long-token", LENGTHENS, step))
    return found


def _is_told(asked: Asked, row: Mapping[str, Any]) -> bool:
    """Return True if the finding about the sign-in has failed for the same reason."""
    problem = row.get("problem")
    if not problem or row.get("state") == asked.code:
        return bool(problem)
    reason = problem.get("message")
    return bool(reason) and not row.get("usable") and str(reason) in asked.message


def _claims(asked: Asked, claims: Claims, what: str) -> Finding:
    wrong = misfit_of(asked.account, claims, asked.protocol)
    if wrong:
        level = failed if wrong.certain else warned
        return level("token", f"{what}: {wrong.message}", yours("unfit-token", wrong.message, wrong.hint))
    granted = " ".join(claims.roles or claims.scopes) or "no permission by name"
    return passed("token", f"{what}: for {claims.audience or 'no resource by name'}, {granted}")


def consent(asked: Asked) -> Finding | None:
    """Return whether the sign-in covers what a mail protocol needs, None if that is not known."""
    permission = permission_of(asked.account, asked.protocol)
    if not permission or asked.claims is None or asked.claims.application or not asked.claims.scopes:
        return None
    what = f"{asked.who}, {asked.protocol}"
    if permission.lower() in {each.rpartition("/")[2].lower() for each in asked.claims.scopes}:
        return passed("consent", f"{what}: {permission} was consented to")
    step = fill("sign in again and consent: {login}", {"login": cms("login", asked.user or asked.account.user)})
    verdict = yours("consent", "the sign-in was given before the configuration asked for that", step)
    return failed("consent", f"{what}: {permission} was not consented to", verdict)


# Mail servers.


@dataclass(frozen=True, slots=True)
class MailTest:
    """A mail server's answer to a login. `code` is a key of `wire.EXIT_CODES`, "" for success.

    `verdicts` explain the refusal, if the test has any; `reply` is the server's text.
    """

    protocol: str
    user: str
    host: str
    code: str = ""
    message: str = ""
    hint: str = ""
    reply: str = ""
    mailbox: str = ""
    verdicts: tuple[Verdict, ...] = ()


def mail(found: MailTest) -> Finding:
    """Return whether a mail server accepts the token."""
    what = f"{found.user} at {found.host}"
    check = f"mailbox {found.mailbox}" if found.mailbox else found.protocol
    if not found.code:
        done = f"{found.mailbox} was opened" if found.mailbox else "the login passed, and a command after it"
        return passed(check, f"{what}: {done}")
    said = found.message if found.user in found.message else f"{what}: {found.message}"
    mover = "wait" if found.code == "unavailable" else "you"
    own = Verdict(found.code, found.message, mover, (found.hint or "try again",))
    return failed(check, said, *(found.verdicts or [own]))
