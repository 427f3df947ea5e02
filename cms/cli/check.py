"""`cms check`: prints what a configuration means, and what would prevent a daemon from working with it.

It starts no daemon, and opens no file that contains a secret: a grant worker looks at certificates.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cms.cli import reach
from cms.cli.client import NoDaemon, understood
from cms.cli.connect import connect
from cms.config.model import AuditSpec, Config, FileSpec, SocketSpec
from cms.config.trust import service_of
from cms.core.accounts import Account, Fleet, Proxy, Source, application, says_who
from cms.core.old_key import REKEY, old_key
from cms.core.status import expiry_warning
from cms.core.status_table import MOST_IN_FULL, some
from cms.core.words import NAMELESS
from cms.system import users
from cms_oauth import paths
from cms_oauth.expand import Unusable, literal
from cms_oauth.moves import Command
from cms_oauth.providers import titled
from cms_oauth.text import printable


def warnings(found: Config) -> Iterator[str]:
    """Yield all warnings, the configuration's own first."""
    # Root may not be the one who uses the files and folders: what is right for the service's user is wrong for root.
    if who := others(found.file):
        yield (
            f"this is how root sees it, and the service runs as {who}: `{Command(('sudo', '-u', who, 'cms', 'check'))}` looks"
            " at its folders, its key and its secrets as the service does"
        )
        yield from found.warnings
        yield from obstacles(found, own=False)
        yield from expiries(found)
        yield from running_warnings(found)
        return
    yield from found.warnings
    yield from secret_files(found)
    yield from obstacles(found)
    yield from not_adopted(found)
    if warning := reach.namespace(found):
        yield warning
    yield from reach.folders(found)
    yield from expiries(found)
    yield from running_warnings(found)


def others(file: str) -> str:
    """Return the name of the user whose service has this configuration, if this process is root and the service is not."""
    uid = service_of(file)
    return users.user_name(uid) if uid else ""


def where_to_look(found: Config) -> str:
    """Return a note if cms-oauth finds none of the sockets without an option, "" if it finds one."""
    named = [spec.path for spec in found.sockets if spec.speaks != "postfix"]
    try:
        usual = {os.path.realpath(each) for each in paths.socket_candidates()}
    except Unusable as unusable:
        return f"note: cms-oauth finds no socket here: {unusable.message}; {unusable.hint}"
    if not named or any(os.path.realpath(each) in usual for each in named):
        return ""
    path = Command((literal(named[0]),))
    return f"note: cms-oauth does not find this socket: programs need --cms_sock={path} or CMS_SOCK={path}"


def obstacles(found: Config, *, own: bool = True) -> Iterator[str]:
    """Yield what is wrong with the key, the folders and the groups that a daemon would use, and what to do about it."""
    from cms.cli.doctor import checks  # noqa: PLC0415 - as for `cms doctor`

    for each in checks.usable(found, own=own):
        verdict = each.verdicts[0]
        yield f"{each.message}: {verdict.cause}; {', then '.join(verdict.steps)}"


def not_adopted(found: Config) -> Iterator[str]:
    """Yield a warning if this host still keeps sign-ins that the fleet could have."""
    if not found.fleet or found.fleet.serves_only:
        return
    with suppress(Unusable):
        folder = Path(paths.state_folder())
        own = [each.key for each in found.grants if not each.unattended and each.sign_in != "broker"]
        if left := sum((folder / f"{key}.vault").exists() for key in own):
            yield (
                f"{left} sign-in{'' if left == 1 else 's'} of this host from before Fleet(...): `cms fleet adopt` moves"
                " what the fleet does not have"
            )


# Not a warning for this one: other programs write the file for other users to read. A Kubernetes volume has mode 0644.
_WRITTEN_BY_OTHERS = "client_assertion"
_FLEET_KEY = "the fleet's key"
_SOURCES = ("client_secret", "certificate", "certificate_password", _WRITTEN_BY_OTHERS)


def secret_files(found: Config) -> Iterator[str]:
    """Yield what is wrong with the files that secrets are read from, except the vault's key (see `obstacles`)."""
    named = [(name, source) for grant in found.grants for name in _SOURCES if (source := getattr(grant, name))]
    if found.proxy and found.proxy.password:
        named.append(("the proxy's password", found.proxy.password))
    if found.fleet and found.fleet.password:
        named.append(("the database's password", found.fleet.password))
    named += [(_FLEET_KEY, each) for each in (*found.fleet.keys, *found.fleet.token_keys)] if found.fleet else []
    for name, source in dict.fromkeys(each for each in named if each[1].kind == "file"):
        (path,) = source.value
        if why := _file_problem(path, name):
            yield f"{name}: {path} {why}"


def _file_problem(path: str, name: str) -> str:
    """Return what is wrong with a secret's file and what to do, "" for nothing."""
    # The file is not opened: only the grant worker reads secrets.
    try:
        mode = Path(path).stat().st_mode
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if name == _FLEET_KEY and isinstance(error, FileNotFoundError):
            return "does not exist: `cms fleet init` makes it on one host, and the others get a copy"
        return f"cannot be read: {error.strerror}; the user who runs cms must be able to read it"
    if mode & stat.S_IROTH and name != _WRITTEN_BY_OTHERS:
        return f"can be read by every user of this machine: `{Command(('chmod', 'o-rwx', path))}`"
    return ""


def expiries(found: Config) -> Iterator[str]:
    """Yield a warning for each application certificate that ends soon. A grant worker opens them, as they contain keys."""
    certified = {grant.key: grant for grant in found.grants if grant.certificate}
    if not certified:
        return
    # Imported here because it loads half a daemon, and few configurations have certificates.
    from cms.cli import daemonless  # noqa: PLC0415
    from cms.system import logs  # noqa: PLC0415

    logs.setup(level="error")
    ends = daemonless.credential_ends(list(certified.values()))
    if isinstance(ends, str):
        yield f"the certificates could not be checked: {ends}"
        return
    for end in ends:
        if warning := expiry_warning(end.expires, time.time()):
            yield f"{certified[end.key].certificate}: {warning}"


def running_warnings(found: Config) -> list[str]:
    """Return the warnings about the tokens of a running daemon, if it runs with this configuration file."""
    try:
        with connect() as daemon:
            status = daemon.ask("status").get("json", {})
        with understood():
            if os.path.realpath(status.get("daemon", {}).get("config", "")) != os.path.realpath(found.file):
                return []
            return _warnings_of(found, status["accounts"])
    except NoDaemon:
        return []


def _warnings_of(found: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    warned = dict[str, list[str]]()
    for row in rows:
        if warning := row.get("warning"):
            warned.setdefault(warning, []).append(row["user"] or "an account")
    said = [printable(f"{some(names)}: {warning}") for warning, names in warned.items()]
    if found.vault_key and (former := old_key(found.vault_key, rows)):
        said.append(f"the key of stored sign-ins is from {former}, and the configuration names another one: {REKEY}")
    return said


def summary(config: Config) -> list[str]:
    """Return what a configuration means, as lines."""
    reached = reach.lines(config)
    key = config.vault_key or "chosen automatically: a systemd credential, else the desktop keyring, else memory only"
    return [
        f"{config.file}: good",
        *_account_lines(config.accounts),
        *(
            line
            for spec in config.sockets
            for line in (_socket_line(spec), *(f"  {each}" for each in reached[spec.path]))
        ),
        *(_file_line(spec) for spec in config.files),
        *([_proxy_line(config.proxy)] if config.proxy else []),
        *(f"audit: a record of each request goes to {each}" for each in _audit_places(config.audit)),
        *([_fleet_line(config.fleet)] if config.fleet else []),
        f"vault key: {key}",
        *(_old_key_line(each) for each in (config.vault_old_key,) if each),
        *filter(None, [reach.namespace_note()]),
    ]


def _fleet_line(fleet: Fleet) -> str:
    if fleet.serves_only:
        return "fleet: this host serves only: it has no key= of sign-ins, so others sign in and fetch the tokens"
    return f"fleet: this host shares its sign-ins; their key: {', '.join(map(str, fleet.keys))}"


def _old_key_line(source: Source) -> str:
    return f"old vault key: {source}, needed until `cms vault rekey` has moved every sign-in"


def _audit_places(audit: AuditSpec) -> list[str]:
    return [*filter(None, [audit.file]), *(["the journal: `journalctl -t cms-audit`"] if audit.journal else [])]


def _account_lines(accounts: Sequence[Account]) -> Iterator[str]:
    """Yield what each account is: once for those that are alike, if they are more than a few."""
    alike = dict[str, list[str]]()
    for each in accounts:
        said = f"{titled(each.grant.provider)}: {', '.join(each.scopes) or 'no protocol'}; signs in by {each.grant.sign_in}"
        said += "" if says_who(each.grant) else ", and the provider does not say who: cms cannot check that"
        said += f"; {each.max_mailboxes} mailboxes at a time" if each.max_mailboxes else ""
        alike.setdefault(f"{said}; application: {application(each.grant)}", []).append(_name(each))
    for said, names in alike.items():
        if len(names) > MOST_IN_FULL:
            yield f"{len(names)} accounts, {some(names)}{said}"
        else:
            yield from (f"account {each}{said}" for each in names)


def _proxy_line(proxy: Proxy) -> str:
    who = f", as {proxy.user}" if proxy.user else ""
    but = f"; not for: {', '.join(proxy.no_proxy)}" if proxy.no_proxy else ""
    return f"proxy {proxy.url}{who}: used to reach the identity provider{but}"


def _socket_line(spec: SocketSpec) -> str:
    named = [*(f"user {each}" for each in spec.users or ()), *(f"group {each}" for each in spec.groups or ())]
    limited = spec.users is not None or spec.groups is not None
    who = ", ".join(["its owner", "root", *named]) if limited else "all users that its mode allows"
    group = f", group {spec.group}" if spec.group else ""
    users = some([_name(account) for account in spec.accounts])
    what = "Postfix table" if spec.speaks == "postfix" else "socket"
    default = f", by host {_name(spec.default)}" if spec.default else ""
    served = f"serves {users} with {', '.join(spec.protocols)}{default}"
    return f"{what} {spec.path}: mode {spec.mode:04o}{group}; for {who}; {served}"


def _file_line(spec: FileSpec) -> str:
    end = " and a newline" if spec.newline else ""
    return f"token file {spec.path}: mode {spec.mode:04o}; the {spec.protocol} token of {_name(spec.account)}{end}"


def _name(account: Account) -> str:
    return account.user or NAMELESS
