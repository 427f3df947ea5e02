"""The configuration: a Python file in, a `Config` out. `load` is the one function here that does I/O.

Every fault of the file, from a wrong argument to a syntax error, is a ConfigError that names the file and the line.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import fields, replace

from cms.config import trust
from cms.config.arguments import Mistake, nearest
from cms.config.consistency import foreign
from cms.config.directives import AccountHandle, Directives, FileHandle, SocketHandle
from cms.config.model import Config, ConfigError, FileSpec, SocketSpec
from cms.config.trust import SYSTEM, System
from cms.core.accounts import ALL_CONSENTED, Account, Grant, Scopes, app_scopes, mail_scopes, resource
from cms_oauth.microsoft import PERMISSIONS

# An exception of the file's own is told on one line: this much of it says what it is about.
MAX_TOLD = 200


def load(path: str, *, system: System = SYSTEM) -> Config:
    """Run the configuration file once and return what it says. Raises ConfigError.

    `system` is what is asked of the machine. The file is somebody's program and may take its time: callers give it a
    thread and LOAD_SECONDS.
    """
    directives = Directives(path, system)
    # Raised here and not where it was found: nothing that travels with the error leads back into the file, whose
    # lines a traceback would print.
    fault = _run(_read(path, system), directives)
    if fault:
        raise fault
    return _compose(directives)


def _read(path: str, system: System) -> bytes:
    try:
        return trust.read(path, system)
    except trust.Untrusted as untrusted:
        raise ConfigError(path, None, untrusted.message, untrusted.hint) from None
    except FileNotFoundError:
        raise ConfigError(path, None, "there is no such file", "`cms init` writes one") from None
    except OSError as error:
        raise ConfigError(path, None, f"it cannot be read: {error.strerror}") from None


def _run(source: bytes, directives: Directives) -> ConfigError | None:
    """Run the file, and return what was wrong with it."""
    names: dict[str, object] = {"__name__": "cms_configuration", "__file__": directives.file} | directives.namespace()
    try:
        # S102: a configuration is a Python program; who may have written it has been checked.
        exec(compile(source, directives.file, "exec", dont_inherit=True), names)  # noqa: S102
    # BLE001: whatever somebody's program raises is told as a fault of that program.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return _told(error, directives.file, [name for name in names if not name.startswith("_")])
    return None


def _told(error: BaseException, file: str, known: list[str]) -> ConfigError:
    """Say in one sentence what a file raised, and in which of its lines."""
    line = _line_of(error, file)
    match error:
        case Mistake(message=message, hint=hint):
            return ConfigError(file, line, message, hint)
        case SyntaxError(msg=message, filename=where, lineno=found):
            return ConfigError(file, found if where == file else line, f"this is not Python: {message}")
        case NameError() if not _raised_in(error, file):
            pass
        case NameError(name=str(name)) if name[:1].isupper():
            capitalised = [each for each in known if each[:1].isupper()]
            return ConfigError(file, line, f"there is no directive {name}", nearest(name, capitalised))
        case NameError(name=str(name)):
            return ConfigError(file, line, f"the name {name} means nothing here", nearest(name, known))
        case SystemExit():
            return ConfigError(file, line, "it ends the program here, and a configuration may not")
    return ConfigError(file, line, _in_words(error))


def _line_of(error: BaseException, file: str) -> int | None:
    """Return the file's innermost line on the way to this error."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return lines[-1] if lines else None


def _raised_in(error: BaseException, file: str) -> bool:
    """Whether the file itself raised this error, and nothing that it called."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename == file


def _in_words(error: BaseException) -> str:
    """Return an exception as Python tells it, on one line of bearable length."""
    words = " ".join(traceback.format_exception_only(type(error), error)[0].split())
    return words if len(words) <= MAX_TOLD else f"{words[:MAX_TOLD]}..."


def _compose(directives: Directives) -> Config:
    """Return what a whole file says once every directive is known."""
    file = directives.file
    if not directives.accounts:
        # Refused rather than obeyed: a file that was emptied by accident must not take a running daemon's accounts.
        raise ConfigError(file, None, "it names no account", 'Begin with account = Office365_Account(user="...")')
    _check_agreement(file, directives.accounts)
    protocols = _protocols_of(directives)
    _warn_of_idle(directives, protocols)
    accounts = _accounts(directives, protocols)
    _warn_of_resources(directives, accounts)
    return Config(
        file=file,
        accounts=tuple(accounts.values()),
        sockets=tuple(_socket(each, accounts) for each in directives.sockets),
        vault_key=directives.vault_key,
        ca=directives.ca,
        warnings=tuple(directives.warnings),
        files=tuple(_file(each, accounts) for each in directives.files),
        page=directives.page,
        proxy=directives.proxy,
        hooks=tuple(directives.hooks),
        desktop=directives.desktop,
        unserved=frozenset(each.grant.key for each in directives.accounts if each not in accounts),
    )


def _check_agreement(file: str, accounts: list[AccountHandle]) -> None:
    """Refuse two accounts that are one sign-in and disagree about how it is done."""
    firsts: dict[str, AccountHandle] = {}
    for account in accounts:
        first = firsts.setdefault(account.grant.key, account)
        for each in fields(Grant):
            if getattr(first.grant, each.name) != getattr(account.grant, each.name):
                raise ConfigError(
                    file,
                    account.line,
                    f"{each.name}= is not what it is in line {first.line}, and both accounts are one sign-in",
                    "One person at one tenant and application signs in once: say the same in both lines",
                )


def _protocols_of(directives: Directives) -> dict[AccountHandle, tuple[str, ...]]:
    """Return what each account is for: the protocols of its sockets and files, and IMAP where Office365 names it."""
    wanted: dict[AccountHandle, set[str]] = {each: set() for each in directives.accounts}
    for socket in directives.sockets:
        for account in socket.accounts:
            wanted[account].update(socket.protocols)
    for file in directives.files:
        wanted[file.account].add(file.protocol)
    for account in directives.mailboxes:
        wanted[account].add("IMAP")
    known = (*PERMISSIONS, *directives.protocols)
    return {account: tuple(each for each in known if each in names) for account, names in wanted.items()}


def _warn_of_idle(directives: Directives, protocols: Mapping[AccountHandle, tuple[str, ...]]) -> None:
    if not directives.sockets and not directives.files:
        directives.warnings.append(f"{directives.file}: there is no CredentialServer, so nobody can ask for a token")
    for account, names in protocols.items():
        if not names:
            whose = account.user or "this account"
            directives.warn(account.line, f"no CredentialServer serves {whose}, so nothing is done for it")


def _warn_of_resources(directives: Directives, accounts: Mapping[AccountHandle, Account]) -> None:
    """Say where a Protocol is for another cloud than that of an account which it is served for."""
    for handle, account in accounts.items():
        for name, scopes in account.scopes.items():
            wrong = "" if name in PERMISSIONS else foreign(handle.cloud, scopes)
            if wrong:
                directives.warn(handle.line, f"{name} for {account.user or 'this account'}: {wrong}")


def _accounts(
    directives: Directives, protocols: Mapping[AccountHandle, tuple[str, ...]]
) -> dict[AccountHandle, Account]:
    """Return the accounts that are for something. Those over one Grant share its tokens, one for each resource."""
    used = {account: names for account, names in protocols.items() if names}
    scopes = _scopes(directives, used)
    sets: dict[str, list[Scopes]] = {account.grant.key: [] for account in used}
    # A sign-in's own token is that of the first set: mail before anything else.
    for is_mail in (True, False):
        for account, each in scopes.items():
            sets[account.grant.key] += [found for name, found in each.items() if (name in PERMISSIONS) == is_mail]
    return {
        account: Account(
            user=account.user,
            grant=replace(account.grant, scope_sets=tuple(dict.fromkeys(sets[account.grant.key]))),
            scopes=scopes[account],
            preflight=account.preflight,
            imap_host=account.cloud.imap_host,
            smtp_host=account.cloud.smtp_host,
            pop_host=account.cloud.pop_host,
            mailbox=directives.mailboxes.get(account, ""),
        )
        for account in used
    }


def _scopes(
    directives: Directives, used: Mapping[AccountHandle, tuple[str, ...]]
) -> dict[AccountHandle, dict[str, Scopes]]:
    """Return each account's scopes by protocol: mail protocols of one Grant and resource have one token together."""
    shared: dict[tuple[str, str], set[str]] = {}
    for account, names in used.items():
        shared.setdefault((account.grant.key, account.cloud.resource), set()).update(names)
    found = {}
    for account, names in used.items():
        asked = mail_scopes(account.cloud.resource, shared[account.grant.key, account.cloud.resource])
        mail = account.scopes or (app_scopes(account.cloud) if account.grant.unattended else asked)
        found[account] = {name: mail if name in PERMISSIONS else directives.protocols[name].scopes for name in names}
        _check_app_scopes(directives.file, account, found[account])
    return found


def _check_app_scopes(file: str, account: AccountHandle, scopes: Mapping[str, Scopes]) -> None:
    """Refuse single permissions where nobody signs in: Entra gives an application what was consented to, or nothing."""
    for name, wanted in scopes.items():
        if account.grant.unattended and wanted[0].rpartition("/")[2] != ALL_CONSENTED:
            raise ConfigError(
                file,
                account.line,
                f'with sign_in="{account.grant.sign_in}" the scopes of {name} are one resource\'s {ALL_CONSENTED}',
                f'Such as "{resource(wanted)}/{ALL_CONSENTED}"',
            )


def _file(told: FileHandle, accounts: Mapping[AccountHandle, Account]) -> FileSpec:
    return FileSpec(told.path, accounts[told.account], told.protocol, told.mode, told.newline, told.line)


def _socket(told: SocketHandle, accounts: Mapping[AccountHandle, Account]) -> SocketSpec:
    return SocketSpec(
        path=told.path,
        accounts=tuple(accounts[each] for each in told.accounts),
        protocols=told.protocols,
        mode=told.mode,
        users=told.users,
        groups=told.groups,
        group=told.group,
        line=told.line,
        speaks=told.speaks,
        default=None if told.default is None else accounts[told.default],
    )
