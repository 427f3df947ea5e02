"""Turns the facts that the `probe_*` modules gather into findings, with one function for each kind of fact. Pure.

Facts are values, so tests of these functions need no network, clock or permissions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cms.cli.doctor.findings import Finding, failed, passed, skipped, warned, yours
from cms.core.accounts import Account, Source
from cms.core.preflight import misfit_of, permission_of
from cms.core.status import REKEY, old_key
from cms.core.status_table import some
from cms.core.words import NAMELESS, duration
from cms_oauth.claims import Claims
from cms_oauth.diagnosis.certificates import CERTIFICATE, at_login
from cms_oauth.diagnosis.mail import reachable
from cms_oauth.diagnosis.provider import of_problem
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.microsoft import LOGIN_HOSTS, clouds_of_server
from cms_oauth.moves import Command, cms, fill

# Entra and Exchange tolerate a clock that is five minutes off. Half a minute means that nothing synchronises the clock.
SKEW_WARNS = 30.0
SKEW_FAILS = 300.0

# A vault file has a few kilobytes, and a new one is written beside the old one. On a full disk a renewed sign-in is lost.
SPACE_WARNS = 64 * 1024 * 1024
SPACE_FAILS = 1024 * 1024

# Warn of a sign-in that ends within a week.
FORECAST_WARNS = 7 * 86_400.0

# The issuers of the certificates of Microsoft's login hosts. Another issuer means that a proxy intercepts TLS.
PUBLIC_ISSUERS = ("digicert", "microsoft", "globalsign", "baltimore", "entrust", "sectigo", "geotrust", "cfca")

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


# The network.


@dataclass(frozen=True, slots=True)
class Names:
    """The addresses of a host, or why they could not be looked up."""

    host: str
    addresses: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Https:
    """The result of a TLS connection to a login host.

    - `issuer`: who issued its certificate; known even if the certificate is not `trusted`.
    - `version`: of TLS.
    - `skew`: by how many seconds this machine's clock is ahead of the host's Date.
    - `error`: what went wrong, "" for nothing.
    - `valid`: from when to when its certificate is valid, "" if it is trusted or not known.
    - `proxy`: the address of the proxy on the way, without credentials. `named_by`: what names it.
    - `ca`: the file of Tls(ca=).
    - `unusable`: what names certificate authorities that cannot be loaded, "" for nothing.
    - `unseen`: why cms did not connect, "" if it did.
    """

    host: str
    trusted: bool = False
    issuer: str = ""
    version: str = ""
    skew: float | None = None
    error: str = ""
    proxy: str = ""
    ca: str = ""
    unseen: str = ""
    valid: str = ""
    named_by: str = ""
    unusable: str = ""


@dataclass(frozen=True, slots=True)
class Reached:
    """Whether a mail server accepts connections: `error` says why not. `nameless`: its name was not resolved."""

    host: str
    port: int
    error: str = ""
    nameless: bool = False


def names(found: Names) -> Finding:
    if found.addresses:
        return passed("dns", f"{found.host} is {', '.join(found.addresses[:3])}")
    command = Command(("getent", "hosts", found.host))
    step = f"`{command}`; if that fails too, check /etc/resolv.conf and the network"
    return failed("dns", f"{found.host}: {found.error}", yours("no-name", "the host's name cannot be resolved", step))


def clock(found: Https) -> Finding:
    if found.skew is None:
        reason = found.unseen or found.error or "its answer has no Date"
        return skipped("clock", f"{found.host} sent no time: {reason}")
    order = "ahead of" if found.skew > 0 else "behind"
    said = f"{duration(abs(found.skew))} {order} {found.host}"
    if abs(found.skew) < SKEW_WARNS:
        return passed("clock", said)
    verdict = yours(
        "clock",
        "this machine's clock is wrong, and tokens are refused as expired or as not valid yet",
        "`timedatectl set-ntp true`, then `timedatectl status`",
    )
    return (failed if abs(found.skew) >= SKEW_FAILS else warned)("clock", said, verdict)


def tls(found: Https) -> Finding:
    if found.unseen:
        return skipped("tls", f"{found.host}: {found.unseen}")
    if not found.trusted:
        return _untrusted(found) if found.issuer else failed("tls", f"{found.host}: {found.error}", _unreachable(found))
    said = f"{found.host}: {found.version}, certificate from {found.issuer}"
    if found.ca:
        return passed("tls", f"{said}, trusted by Tls(ca=)")
    if found.host not in LOGIN_HOSTS or any(word in found.issuer.lower() for word in PUBLIC_ISSUERS):
        return passed("tls", said)
    return warned("tls", said, _INTERCEPTED)


_INTERCEPTED = Verdict(
    "interception",
    "a proxy between here and Microsoft, such as your company's, intercepts TLS: it can read the sign-in",
    "administrator",
    ("ask for an exception for the login host (Microsoft also asks for no TLS inspection there)",),
)


def _untrusted(found: Https) -> Finding:
    valid = f", valid {found.valid}" if found.valid else ""
    said = f"{found.host}: the certificate from {found.issuer}{valid} is not trusted: {found.error}"
    verdict = at_login(found.error, found.host)
    if verdict.name != CERTIFICATE.name:
        return failed("tls", said, verdict)
    return failed(
        "tls",
        said,
        yours(
            "corporate-certificate",
            "cms does not know its authority, such as that of your company's proxy, which intercepts TLS",
            'Tls(ca="FILE") in the configuration, with your company\'s root certificate in FILE (often'
            " /etc/ssl/certs/ca-certificates.crt)",
            "`cms reload`",
        ),
    )


def _unreachable(found: Https) -> Verdict:
    if found.unusable:
        cause = f"cms cannot load the certificate authorities that {found.unusable} names"
        move = "then `cms reload`" if found.ca else "or unset it, where cms is started, and start it again"
        return yours("wrong-authorities", cause, f"correct {found.unusable}, {move}")
    if found.proxy:
        return yours(
            "proxy", f"cms uses the proxy {found.proxy}, which {found.named_by} names", f"check {found.named_by}"
        )
    if found.named_by:
        return yours("proxy", f"{found.error}", f"correct {found.named_by}, or set Proxy(...) in the configuration")
    step = "check the firewall; if a proxy is required, set HTTPS_PROXY or Proxy(...) in the configuration"
    return yours("unreachable", "no TLS connection with the login host", step)


def environment(found: Sequence[str], wrong: Sequence[str]) -> list[Finding]:
    """Return the findings about variables that name files which are not there.

    Those in `wrong` make connections with login hosts impossible; those in `found` are ignored.
    """
    step = "correct the variable, or unset it, where cms and the mail programs are started"
    bad = [failed("environment", each, yours("wrong-variable", "cms cannot connect with it", step)) for each in wrong]
    ignored = yours("ignored-variable", "OpenSSL ignores it, in cms and in mail programs that use OpenSSL", step)
    bad += [warned("environment", each, ignored) for each in found]
    return bad or [passed("environment", "no variable about TLS that counts here names a missing file")]


def proxy(found: Https) -> Finding:
    if found.unseen:
        return skipped("proxy", f"{found.proxy}, to {found.host}: {found.unseen}")
    if not found.proxy and found.named_by:
        return failed("proxy", f"to {found.host}: {found.error}", _unreachable(found))
    if not found.proxy:
        return passed("proxy", f"none on the way to {found.host}")
    if found.error and not found.issuer:
        return failed("proxy", f"{found.proxy}, to {found.host}: {found.error}", _unreachable(found))
    return passed("proxy", f"{found.proxy}, to {found.host}; mail servers are reached without it")


def reached(found: Reached, users: Sequence[str]) -> Finding:
    if not found.error:
        return passed("mail servers", f"{found.host}:{found.port} accepts connections")
    if found.nameless:
        return skipped("mail servers", f"{found.host}:{found.port}: {found.error}; see dns (for {some(users)})")
    blocked = "many networks block outgoing connections to port 587 or 993: ask, or try from another network"
    step = blocked if clouds_of_server(found.host) else reachable("", found.host)
    verdict = yours("mail-port", f"no connection with {found.host}:{found.port}", step)
    return failed("mail servers", f"{found.host}:{found.port}: {found.error} (for {some(users)})", verdict)


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
        if row and row.get("problem") and row.get("state") == asked.code:
            return skipped("token", f"{what}: there is none, as the sign-in above says")
        verdict = yours(asked.code, asked.message, asked.hint or "`cms status`")
        return failed("token", f"{what}: {asked.code}", verdict)
    if asked.claims is None:
        return passed("token", f"{what}: opaque, as for all personal accounts: cms cannot look into it")
    return _claims(asked, asked.claims, what)


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
