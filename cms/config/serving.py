"""The directives that serve tokens: CredentialServer, PostfixTable, TokenFile and Protocol."""

from __future__ import annotations

from collections.abc import Callable

from cms.config import arguments, trust
from cms.config.arguments import Given, Mistake, optional
from cms.config.draft import AccountHandle, Draft, ProtocolHandle, account_of, one_account, protocol_of, protocols_of
from cms.config.ignored import Ignored
from cms.config.model import FileSpec, SocketSpec
from cms_oauth.microsoft import PERMISSIONS

# A socket's mode if the file names none: for the owner only, as in cloud_mdir_sync.
DEFAULT_MODE = 0o600
# If users= or groups= decide, everyone may connect: cms refuses the others.
POLICY_MODE = 0o666
GROUP_MODE = 0o660

_WRITABLE_BY_ALL = 0o002
_READABLE_BY_ALL = 0o004


def credential_server(
    draft: Draft,
    path: Given,
    accounts: Given,
    umask: Given = None,
    protocols: Given = ("SMTP",),
    *,
    mode: Given = None,
    users: Given = None,
    groups: Given = None,
    group: Given = None,
) -> None:
    """CredentialServer: a socket for token requests."""
    checked = protocols_of("protocols", protocols)
    bits = _mode(umask, mode, policy=users is not None or groups is not None, group=group is not None)
    _listen(draft, path, accounts, protocols=checked, mode=bits, users=users, groups=groups, group=group)


def postfix_table(
    draft: Draft,
    path: Given,
    accounts: Given,
    default: Given = None,
    *,
    mode: Given = None,
    users: Given = None,
    groups: Given = None,
    group: Given = None,
) -> None:
    """PostfixTable: a socket that answers Postfix's table lookups."""
    chosen = optional(default, lambda given: one_account("default", given))
    if chosen and chosen.protocols and "SMTP" not in chosen.protocols:
        raise Mistake("default= has no SMTP among its own protocols=", "A Postfix table is for SMTP")
    bits = _mode(None, mode, policy=users is not None or groups is not None, group=group is not None)
    _listen(
        draft,
        path,
        accounts,
        protocols=("SMTP",),
        mode=bits,
        users=users,
        groups=groups,
        group=group,
        speaks="postfix",
        default=chosen,
    )


def _listen(
    draft: Draft,
    path: Given,
    accounts: Given,
    *,
    protocols: tuple[str, ...],
    mode: int,
    users: Given,
    groups: Given,
    group: Given,
    speaks: str = "tokens",
    default: AccountHandle | None = None,
) -> None:
    line, place = draft.line(), draft.writes(arguments.socket_path(path, draft.folder))
    served = _served(draft, accounts)
    every = next((each.account.user for each in served if each.account.domain), "")
    if every and users is None and groups is None:
        raise Mistake(
            f"a socket that serves {every} opens every mailbox of that domain: users= or groups= says to whom",
            'Such as users=["Debian-exim"], or users=[] for the user who runs cms alone',
        )
    socket = SocketSpec(
        line=line,
        path=place,
        accounts=tuple(each.account for each in served),
        protocols=protocols,
        mode=mode,
        users=optional(users, lambda given: _names("users", given, "user", draft.system.user_id)),
        groups=optional(groups, lambda given: _names("groups", given, "group", draft.system.group_id)),
        group=optional(group, lambda given: _name("group", given, "group", draft.system.group_id)),
        speaks=speaks,
        default=default.account if default else None,
    )
    if default and default not in served:
        raise Mistake("default= is not one of accounts=", "Name it in both")
    _warn_of_openness(draft, socket)
    draft.store(socket)


def protocol(draft: Draft, name: Given, scopes: Given) -> ProtocolHandle:
    """Protocol: a name for token requests that are not for mail, and the scopes of their tokens."""
    found = arguments.protocol_name("name", name)
    if found in PERMISSIONS:
        raise Mistake(f"{found} has its scopes already", "Office365_Account(scopes=[...]) changes them")
    made = ProtocolHandle(found, arguments.scopes(scopes))
    if draft.protocols.setdefault(found, made) != made:
        raise Mistake(f"{found} has other scopes above", "A name has one meaning in the whole file")
    return made


def token_file(  # noqa: PLR0917 - the documented arguments, which may be given by position
    draft: Draft, path: Given, account: Given, protocol: Given, mode: Given = DEFAULT_MODE, newline: Given = False
) -> None:
    """TokenFile: a file that always holds an account's token."""
    place = draft.writes(arguments.file_path("path", path, draft.folder))
    whose, wanted = one_account("account", account), protocol_of("protocol", protocol)
    if whose.protocols and wanted not in whose.protocols:
        raise Mistake("protocol= is not one of the account's own protocols=", "Name it in both")
    file = FileSpec(
        line=draft.line(),
        path=place,
        account=whose.account,
        protocol=wanted,
        mode=arguments.file_permissions("mode", mode),
        newline=arguments.flag("newline", newline),
    )
    _warn_of_file(draft, file)
    draft.store(file)


def _warn_of_file(draft: Draft, file: FileSpec) -> None:
    if file.mode & _READABLE_BY_ALL and not trust.keeps_others_out(file.path, draft.system):
        draft.warn(
            file.line,
            f"every user of this machine can read this token: the file's mode is 0o{file.mode:o} and no folder above"
            " it is closed to others",
        )
    if not draft.system.in_memory(file.path):
        draft.warn(
            file.line,
            f"the token is written to a disk in clear: {file.path} is not on a tmpfs. Folders below /run are, such as"
            " /run/user/UID",
        )


def _served(draft: Draft, given: Given) -> tuple[AccountHandle, ...]:
    members = arguments.sequence("accounts", given)
    if not members:
        raise Mistake("accounts= is an empty list", "Name what Office365_Account(...) returned")
    known = [each for each in members if not (isinstance(each, Ignored) and "GMail_Account" in repr(each))]
    if not known:
        raise Mistake(
            "accounts= has only Google accounts without client=",
            'GMail_Account(USER, client=File("google-client.json"))',
        )
    if len(known) < len(members):
        draft.warn(draft.line(), "the Google accounts without client= are left out")
    accounts = tuple(account_of("accounts", each) for each in known)
    if len(set(accounts)) < len(accounts):
        raise Mistake("accounts= names the same account twice")
    return accounts


def _warn_of_openness(draft: Draft, socket: SocketSpec) -> None:
    open_to_all = socket.mode & _WRITABLE_BY_ALL and socket.users is None and socket.groups is None
    if open_to_all and not trust.keeps_others_out(socket.path, draft.system):
        draft.warn(
            socket.line,
            f"every user of this machine can get these accounts' tokens: the socket's mode is 0o{socket.mode:o} and no"
            " folder above it is closed to others. Name users= or groups=, or put it in such a folder",
        )


def _mode(umask: Given, mode: Given, *, policy: bool, group: bool) -> int:
    """Return the socket's mode: as given under either name, else the default for how access is decided."""
    if umask is not None and mode is not None:
        raise Mistake("umask= and mode= are two names of one thing", "Leave one out")
    if umask is not None:
        return arguments.permissions("umask", umask)
    if mode is not None:
        return arguments.permissions("mode", mode)
    return POLICY_MODE if policy else GROUP_MODE if group else DEFAULT_MODE


def _names(name: str, given: Given, kind: str, number_of: Callable[[str], int | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_name(name, each, kind, number_of) for each in arguments.sequence(name, given)))


def _name(name: str, given: Given, kind: str, number_of: Callable[[str], int | None]) -> str:
    """Return a user's or group's name, or its number as text. It must exist, unless it is a number."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return str(given)
    found = arguments.text(name, given)
    if number_of(found) is None:
        raise Mistake(
            f"{name}= names a {kind} that does not exist: {found}",
            f"It takes a {kind} of this machine, each by its name or number; accounts= takes mail accounts",
        )
    return found
