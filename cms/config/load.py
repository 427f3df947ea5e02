"""Loads the configuration: runs the Python file and returns a `Config`.

Every error in the file, from a wrong argument to a syntax error, is a ConfigError that names the file and the line.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

from cms.config import trust
from cms.config.arguments import Mistake, nearest
from cms.config.consistency import foreign
from cms.config.directives import namespace
from cms.config.draft import AccountHandle, Draft, identity
from cms.config.model import Config, ConfigError
from cms.config.trust import SYSTEM, System
from cms.core.accounts import ALL_CONSENTED, Account, Grant, Scopes, app_scopes, mail_scopes, resource
from cms_oauth.microsoft import PERMISSIONS
from cms_oauth.providers import PROVIDERS, SIGN_INS_OWN, Server

# An exception that the file raises is shown on one line, cut off at this length.
MAX_TOLD = 200


def load(path: str, *, system: System = SYSTEM) -> Config:
    """Run the configuration file once and return its `Config`. Raises ConfigError.

    `system` answers questions about the machine. The file is a program and may never end, or end this process: cms calls
    this only in a process for it (`cms.config.child`).
    """
    draft = Draft(path, system)
    # Raised here and not where it was found, so that its traceback has no frames of the file: a traceback prints source
    # lines, which may contain secrets.
    fault = _run(_read(path, system), draft)
    if fault:
        raise fault
    return _compose(draft)


def _read(path: str, system: System) -> bytes:
    try:
        return trust.read(path, system)
    except trust.Untrusted as untrusted:
        raise ConfigError(path, None, untrusted.message, untrusted.hint) from None
    except FileNotFoundError:
        raise ConfigError(path, None, "there is no such file", "`cms init` writes one") from None
    except OSError as error:
        raise ConfigError(path, None, f"it cannot be read: {error.strerror}") from None


def _run(source: bytes, draft: Draft) -> ConfigError | None:
    """Run the file, and return its error, None if there is none."""
    names: dict[str, object] = {"__name__": "cms_configuration", "__file__": draft.file} | namespace(draft)
    try:
        # S102: a configuration is a Python program, and `trust` has checked who can write it.
        exec(compile(source, draft.file, "exec", dont_inherit=True), names)  # noqa: S102
    # BLE001: any exception that the program raises is an error of the file.
    except BaseException as error:  # noqa: BLE001
        return _told(error, draft.file, [name for name in names if not name.startswith("_")])
    return None


def _told(error: BaseException, file: str, known: list[str]) -> ConfigError:
    """Return the error for what a file raised: one sentence, and the line."""
    line = _line_of(error, file)
    match error:
        case Mistake(message=message, hint=hint, place=None):
            return ConfigError(file, line, message, hint)
        case Mistake(message=message, hint=hint, place=(where, found)):
            return ConfigError(where, found, message, hint)
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
            return ConfigError(file, line, "it ends the program here, which a configuration may not do")
        case KeyboardInterrupt():
            return ConfigError(file, line, "it was interrupted here")
    return ConfigError(file, line, _in_words(error))


def _line_of(error: BaseException, file: str) -> int | None:
    """Return the line of the file, the innermost, that led to this error; None if there is none."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return lines[-1] if lines else None


def _raised_in(error: BaseException, file: str) -> bool:
    """True if the file itself raised this error, not something that it called."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename == file


def _in_words(error: BaseException) -> str:
    """Return an exception as Python prints it, on one short line."""
    words = " ".join(traceback.format_exception_only(type(error), error)[0].split())
    return words if len(words) <= MAX_TOLD else f"{words[:MAX_TOLD]}..."


def _compose(draft: Draft) -> Config:
    """Return the `Config` of a file that has run to its end."""
    file = draft.file
    if not draft.accounts:
        # An error, so that a file that was emptied by accident does not remove a running daemon's accounts.
        raise ConfigError(file, None, "it names no account", 'Begin with account = Office365_Account(user="...")')
    _check_agreement(draft.accounts)
    protocols = _protocols_of(draft)
    _warn_of_idle(draft, protocols)
    accounts = _accounts(draft, protocols)
    finished = {identity(each): each for each in accounts.values()}
    _warn_of_resources(draft, accounts)
    return Config(
        file=file,
        accounts=tuple(accounts.values()),
        sockets=tuple(
            replace(
                each,
                accounts=tuple(
                    finished[found] for account in each.accounts if (found := identity(account)) in finished
                ),
                default=finished[identity(each.default)] if each.default else None,
            )
            for each in draft.sockets
        ),
        vault_key=draft.vault_key,
        vault_old_key=draft.vault_old_key,
        ca=draft.ca,
        warnings=draft.warnings,
        files=tuple(replace(each, account=finished[identity(each.account)]) for each in draft.files),
        page=draft.page,
        proxy=draft.proxy,
        hooks=tuple(draft.hooks),
        desktop=draft.desktop,
        audit=draft.audit,
        metrics=draft.metrics,
        fleet=draft.fleet,
        unserved=frozenset(each.account.grant.key for each in draft.accounts if each not in accounts),
    )


def _check_agreement(handles: list[AccountHandle]) -> None:
    """Raise ConfigError if two accounts have the same sign-in but different settings for it."""
    firsts: dict[str, AccountHandle] = {}
    for handle in handles:
        first = firsts.setdefault(handle.account.grant.key, handle)
        # Nearly always equal, so its fields are looked at only if it is not.
        if first.account.grant == handle.account.grant:
            continue
        where = first.place.seen_from(handle.place)
        raise ConfigError(
            *handle.place,
            f"{_difference(first.account.grant, handle.account.grant)}= is not what it is in {where}, and both accounts"
            " are one sign-in",
            "One person at one tenant and application signs in once: say the same in both lines",
        )


def _difference(first: Grant | Server | None, other: Grant | Server | None) -> str:
    """Return the name of the first field that two records of one kind do not have in common."""
    assert first, "accounts of one issuer have one kind of provider"
    assert other, "as above"
    name = next(each.name for each in fields(first) if getattr(first, each.name) != getattr(other, each.name))
    return _difference(getattr(first, name), getattr(other, name)) if name == "server" else name


def _protocols_of(draft: Draft) -> dict[AccountHandle, tuple[str, ...]]:
    """Return each account's protocols: those of its sockets and files, and IMAP if Office365 names it."""
    wanted: dict[str, set[str]] = {identity(each.account): set() for each in draft.accounts}
    only = {identity(each.account): each.protocols for each in draft.accounts if each.protocols}
    for socket in draft.sockets:
        for account in socket.accounts:
            whose = identity(account)
            wanted[whose].update(name for name in socket.protocols if name in only.get(whose, socket.protocols))
    for file in draft.files:
        wanted[identity(file.account)].add(file.protocol)
    for handle in draft.mailboxes:
        wanted[identity(handle.account)].add("IMAP")
    known = (*PERMISSIONS, *draft.protocols)
    return {each: tuple(name for name in known if name in wanted[identity(each.account)]) for each in draft.accounts}


def _warn_of_idle(draft: Draft, protocols: Mapping[AccountHandle, tuple[str, ...]]) -> None:
    if not draft.sockets and not draft.files:
        draft.warn_of_file(f"{draft.file}: there is no CredentialServer, so no program can ask for a token")
    for handle, names in protocols.items():
        if not names:
            whose = handle.account.user or "this account"
            draft.warn_at(handle.place, f"no CredentialServer serves {whose}, so nothing is done for it")


def _warn_of_resources(draft: Draft, accounts: Mapping[AccountHandle, Account]) -> None:
    """Warn of each Protocol that is for another cloud than that of an account it is served for."""
    for handle, account in accounts.items():
        for name, scopes in account.scopes.items():
            wrong = "" if name in PERMISSIONS or not handle.cloud else foreign(handle.cloud, scopes)
            if wrong:
                draft.warn_at(handle.place, f"{name} for {account.user or 'this account'}: {wrong}")


def _accounts(draft: Draft, protocols: Mapping[AccountHandle, tuple[str, ...]]) -> dict[AccountHandle, Account]:
    """Return the accounts that are served, complete. Accounts with the same Grant share its tokens, one per resource."""
    scopes = _scopes(draft, {handle: names for handle, names in protocols.items() if names})
    sets: dict[str, list[Scopes]] = {handle.account.grant.key: [] for handle in scopes}
    # A sign-in returns the token of the first set, so mail comes first.
    for is_mail in (True, False):
        for handle, each in scopes.items():
            found = [found for name, found in each.items() if (name in PERMISSIONS) == is_mail]
            sets[handle.account.grant.key] += found
    return {
        handle: replace(
            handle.account,
            grant=replace(handle.account.grant, scope_sets=_scope_sets(handle.account, sets)),
            scopes=found,
            mailbox=draft.mailboxes.get(handle, ""),
            needs=None if handle.cloud else {name: _permission(handle.needs[name]) for name in found},
        )
        for handle, found in scopes.items()
    }


def _scope_sets(account: Account, sets: Mapping[str, list[Scopes]]) -> tuple[Scopes, ...]:
    # No token is asked for under the name of a whole domain.
    return () if account.max_mailboxes else tuple(dict.fromkeys(sets[account.grant.key]))


def _scopes(draft: Draft, used: Mapping[AccountHandle, tuple[str, ...]]) -> dict[AccountHandle, dict[str, Scopes]]:
    """Return each account's scopes by protocol. Mail protocols of the same Grant and resource share one token."""
    shared: dict[tuple[str, str], set[str]] = {}
    needed: dict[str, dict[str, None]] = {}
    for handle, names in used.items():
        if handle.cloud:
            shared.setdefault((handle.account.grant.key, handle.cloud.resource), set()).update(names)
        else:
            needed.setdefault(handle.account.grant.key, {}).update(dict.fromkeys(_needs(handle, names)))
    found = {}
    for handle, names in used.items():
        grant, cloud = handle.account.grant, handle.cloud
        if cloud is None:
            # One token for all protocols: a refresh does not say which scopes it is for.
            found[handle] = dict.fromkeys(names, tuple(needed[grant.key]))
            continue
        asked = mail_scopes(cloud.resource, shared[grant.key, cloud.resource])
        mail = handle.scopes or (app_scopes(cloud) if grant.unattended else asked)
        found[handle] = {name: mail if name in PERMISSIONS else draft.protocols[name].scopes for name in names}
        _check_app_scopes(handle, found[handle])
    return found


def _needs(handle: AccountHandle, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the scopes that an account's protocols need. Raises ConfigError for a protocol that has none."""
    for name in names:
        if name not in handle.needs:
            title = PROVIDERS[handle.account.grant.provider].title
            raise ConfigError(
                *handle.place,
                f"there is no token of {title} for {name}",
                f"protocols= of the account leaves it out: protocols=[{', '.join(map(repr, handle.needs))}]",
            )
        yield from handle.needs[name]


def _permission(scopes: Scopes) -> str:
    """Return the scope that opens a mailbox: the first that is not for the sign-in itself, "" for none."""
    return next((each for each in scopes if each.lower() not in SIGN_INS_OWN), "")


def _check_app_scopes(handle: AccountHandle, scopes: Mapping[str, Scopes]) -> None:
    """Raise ConfigError if an application asks for single permissions: Entra accepts only .default from it."""
    grant = handle.account.grant
    for name, wanted in scopes.items():
        if grant.unattended and wanted[0].rpartition("/")[2] != ALL_CONSENTED:
            raise ConfigError(
                *handle.place,
                f'with sign_in="{grant.sign_in}" the scopes of {name} are one resource\'s {ALL_CONSENTED}',
                f'Such as "{resource(wanted)}/{ALL_CONSENTED}"',
            )
