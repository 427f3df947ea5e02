"""What a configuration file can say: the directives, and what one run of a file has said with them.

A `Directives` belongs to one load and is the only place where that load leaves anything. Each directive checks its
arguments (`cms.config.arguments`) and raises Mistake; which line it stands in is found on the call stack.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cms.config import arguments, consistency, trust
from cms.config.arguments import Given, Mistake
from cms.core.accounts import (
    REGISTRATIONS,
    UNATTENDED,
    Grant,
    Proxy,
    Registration,
    Scopes,
    Source,
    registration_for,
    registration_of,
)
from cms.core.notices import EVENTS, GRACE_SECONDS, REMIND_SECONDS, USUAL_EVENTS, Hook
from cms_oauth.microsoft import CLOUDS, CONSUMERS, PERMISSIONS, TENANT_WORDS, Cloud

T = TypeVar("T")

# The socket's bits where the file names none: the owner's alone, as in CMS.
DEFAULT_MODE = 0o600
# Where users or groups decide, everybody may connect: who is refused is refused before a byte is read.
POLICY_MODE = 0o666
GROUP_MODE = 0o660

# A person who is told more often than this hears nothing any more.
MIN_REMIND = 60.0

_WRITABLE_BY_ALL = 0o002
_READABLE_BY_ALL = 0o004

# What a socket speaks: the token protocol (docs/protocol.md), or Postfix's socketmap.
SPEAKS = ("tokens", "postfix")

# What an application proves itself with, as arguments of Office365_Account.
CREDENTIALS = ("client_secret", "certificate", "client_assertion")

# Ways to sign in that Entra and its broker have for public clients only.
_PUBLIC_ONLY = ("device", "broker")

_BROWSE = "cms serves tokens and moves no mail"
_INSTEAD = "mbsync does that, with a token from cms-oauth"


@dataclass(frozen=True, slots=True, eq=False)
class AccountHandle:
    """What Office365_Account returns. Each is itself and equal to no other; `grant` has no scope sets yet."""

    line: int
    user: str
    grant: Grant
    cloud: Cloud
    scopes: Scopes | None
    preflight: bool


@dataclass(frozen=True, slots=True, eq=False)
class IgnoredHandle:
    """What a directive returns that cms has no use for."""

    directive: str


@dataclass(frozen=True, slots=True)
class ProtocolHandle:
    """What Protocol returns: a name that requests may have where a mail protocol stands, and what its tokens are for."""

    name: str
    scopes: Scopes


@dataclass(frozen=True, slots=True)
class FileHandle:
    """What TokenFile was told."""

    line: int
    path: str
    account: AccountHandle
    protocol: str
    mode: int
    newline: bool


@dataclass(frozen=True, slots=True)
class SocketHandle:
    """What CredentialServer or PostfixTable was told. `speaks` is a word of `SPEAKS`; `default` is a PostfixTable's."""

    line: int
    path: str
    accounts: tuple[AccountHandle, ...]
    protocols: tuple[str, ...]
    mode: int
    users: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    group: str | None
    speaks: str = "tokens"
    default: AccountHandle | None = None


class Directives:
    """The directives of one load, and what they have been told so far."""

    def __init__(self, file: str, system: trust.System) -> None:
        self.file = file
        self.folder = str(Path(file).absolute().parent)
        self.system = system
        self.accounts: list[AccountHandle] = []
        self.sockets: list[SocketHandle] = []
        self.files: list[FileHandle] = []
        # The protocols with scopes of their own, by name.
        self.protocols: dict[str, ProtocolHandle] = {}
        self.mailboxes: dict[AccountHandle, str] = {}
        self.vault_key: Source | None = None
        self.ca: str | None = None
        self.hooks: list[Hook] = []
        self.desktop = True
        self.page = ""
        self.proxy: Proxy | None = None
        # What cms reads, by resolved path: none of it may be where it writes.
        self._reads = {os.path.realpath(file): "the configuration itself"}
        self._once: dict[str, int] = {}
        self.warnings: list[str] = []

    def namespace(self) -> dict[str, Given]:
        """Return what the file's names mean before its first line."""
        directives: dict[str, Callable[..., Given]] = {
            "Office365_Account": self._office365_account,
            "Office365": self._office365,
            "CredentialServer": self._credential_server,
            "PostfixTable": self._postfix_table,
            "TokenFile": self._token_file,
            "Protocol": self._protocol,
            "Vault": self._vault,
            "Tls": self._tls,
            "Notify": self._notify,
            "SignInPage": self._sign_in_page,
            "Proxy": self._proxy,
            "File": self._file,
            "Credential": _credential,
            "Command": _command,
            "MailDir": self._maildir,
            "GMail": self._gmail,
            "GMail_Account": self._gmail_account,
        }
        return {name: _checked(name, each) for name, each in directives.items()} | {"cfg": _Cfg(self)}

    def warn(self, line: int, message: str) -> None:
        """Keep a sentence for whoever runs cms."""
        self.warnings.append(f"{self.file}:{line}: {message}")

    def line(self) -> int:
        """Return the line of the file that is running: the innermost, where the file has functions of its own."""
        stack = traceback.walk_stack(inspect.currentframe())
        return next(line for frame, line in stack if frame.f_code.co_filename == self.file)

    # The names and the order of arguments are the documented ones.

    def _office365_account(
        self,
        user: Given = None,
        tenant: Given = None,
        client_id: Given = None,
        use_default_registration: Given = False,
        *,
        sign_in: Given = "browser",
        sign_in_as: Given = None,
        client_secret: Given = None,
        certificate: Given = None,
        certificate_password: Given = None,
        client_assertion: Given = None,
        cloud: Given = "global",
        authority: Given = None,
        scopes: Given = None,
        redirect_uri: Given = None,
        origin: Given = None,
        prompt: Given = None,
        refresh_before: Given = None,
        preflight: Given = True,
        imap_host: Given = None,
        smtp_host: Given = None,
        pop_host: Given = None,
    ) -> AccountHandle:
        address = _optional(user, lambda given: arguments.address("user", given))
        login = _login(address, sign_in_as)
        way = arguments.choice("sign_in", sign_in, arguments.SIGN_IN_WAYS)
        home = _cloud(cloud, imap_host=imap_host, smtp_host=smtp_host, pop_host=pop_host)
        registered = _registration(login, client_id, use_default_registration, way)
        grant = Grant(
            authority=_authority(home, registered, authority, tenant),
            client_id=registered.client_id,
            login="" if way in UNATTENDED else (login or "").lower(),
            sign_in=way,
            redirect_uri=_optional(redirect_uri, arguments.redirect_uri) or registered.redirect_uri,
            origin=registered.origin if origin is None else arguments.origin(origin),
            prompt=_optional(prompt, lambda given: arguments.choice("prompt", given, arguments.PROMPTS)),
            registration=registered.name,
            client_secret=_secret("client_secret", client_secret),
            certificate=_secret("certificate", certificate),
            certificate_password=_secret("certificate_password", certificate_password),
            client_assertion=_secret("client_assertion", client_assertion),
            refresh_before=_optional(refresh_before, arguments.refresh_before),
        )
        _check_credentials(grant)
        _check_unattended(grant, address, sign_in_as, tenant)
        looked_into = arguments.flag("preflight", preflight)
        own = _optional(scopes, arguments.scopes)
        return self._add(AccountHandle(self.line(), address or "", grant, home, own, looked_into))

    def _add(self, account: AccountHandle) -> AccountHandle:
        for other in self.accounts:
            if account.user.casefold() == other.user.casefold() and (
                account.user or account.grant.key == other.grant.key
            ):
                whose = account.user or "whoever signs in"
                raise Mistake(
                    f"a second account for {whose}; the first is in line {other.line}", "Use the first for both"
                )
        self.accounts.append(account)
        case = consistency.Case(account.grant, account.cloud, account.user, account.scopes or ())
        for warning in consistency.warnings(case):
            self.warn(account.line, warning)
        return account

    def _office365(self, mailbox: Given, account: Given) -> IgnoredHandle:
        found = _account("account", account)
        name = arguments.text("mailbox", mailbox)
        if found in self.mailboxes:
            self.warn(
                self.line(), f"cms opens one mailbox of each account, the first that is named; {_BROWSE}: {_INSTEAD}"
            )
        self.mailboxes.setdefault(found, name)
        return IgnoredHandle("Office365")

    def _credential_server(
        self,
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
        checked = _protocols(protocols)
        bits = _mode(umask, mode, policy=users is not None or groups is not None, group=group is not None)
        self._listen(path, accounts, protocols=checked, mode=bits, users=users, groups=groups, group=group)

    def _postfix_table(
        self,
        path: Given,
        accounts: Given,
        default: Given = None,
        *,
        mode: Given = None,
        users: Given = None,
        groups: Given = None,
        group: Given = None,
    ) -> None:
        chosen = _optional(default, lambda given: _account("default", given))
        bits = _mode(None, mode, policy=users is not None or groups is not None, group=group is not None)
        self._listen(
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
        self,
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
        socket = SocketHandle(
            line=self.line(),
            path=self._free_path(path),
            accounts=self._served(accounts),
            protocols=protocols,
            mode=mode,
            users=_optional(users, lambda given: _names("users", given, "user", self.system.user_id)),
            groups=_optional(groups, lambda given: _names("groups", given, "group", self.system.group_id)),
            group=_optional(group, lambda given: _name("group", given, "group", self.system.group_id)),
            speaks=speaks,
            default=default,
        )
        if default and default not in socket.accounts:
            raise Mistake("default= is not one of accounts=", "Name it in both")
        self._warn_of_openness(socket)
        self.sockets.append(socket)

    def _protocol(self, name: Given, scopes: Given) -> ProtocolHandle:
        found = arguments.protocol_name("name", name)
        if found in PERMISSIONS:
            raise Mistake(f"{found} has its scopes already", "Office365_Account(scopes=[...]) changes them")
        made = ProtocolHandle(found, arguments.scopes(scopes))
        if self.protocols.setdefault(found, made) != made:
            raise Mistake(f"{found} has other scopes above", "One name stands for one thing in the whole file")
        return made

    def _token_file(
        self, path: Given, account: Given, protocol: Given, mode: Given = DEFAULT_MODE, newline: Given = False
    ) -> None:
        file = FileHandle(
            line=self.line(),
            path=self._free(arguments.file_path("path", path, self.folder)),
            account=_account("account", account),
            protocol=_protocol("protocol", protocol),
            mode=arguments.file_permissions("mode", mode),
            newline=arguments.flag("newline", newline),
        )
        self._warn_of_file(file)
        self.files.append(file)

    def _warn_of_file(self, file: FileHandle) -> None:
        if file.mode & _READABLE_BY_ALL and not trust.keeps_others_out(file.path, self.system):
            self.warn(
                file.line,
                f"every user of this machine can read this token: the file's mode is 0o{file.mode:o} and no folder above"
                " it is closed to others",
            )
        if not self.system.in_memory(file.path):
            self.warn(
                file.line,
                f"the token is written to a disk in clear: {file.path} is on no tmpfs. A folder below /run is, such as"
                " /run/user/UID",
            )

    def _free_path(self, given: Given) -> str:
        return self._free(arguments.socket_path(given, self.folder))

    def _free(self, path: str) -> str:
        real = os.path.realpath(path)
        if real in self._reads:
            raise Mistake(f"{path} is {self._reads[real]}, which cms reads", "One path each")
        if real in self._written():
            raise Mistake(f"line {self._written()[real]} has something at {path} already", "One path each")
        return path

    def _read(self, path: str, what: str) -> str:
        """Keep in mind that cms reads this, and return it."""
        real = os.path.realpath(path)
        if real in self._written():
            raise Mistake(f"line {self._written()[real]} writes to {path}", "One path each")
        self._reads[real] = f"{what} of line {self.line()}"
        return path

    def _written(self) -> dict[str, int]:
        """Return where cms puts sockets and files, resolved, with the line that says so."""
        said: list[SocketHandle | FileHandle] = [*self.sockets, *self.files]
        return {os.path.realpath(each.path): each.line for each in said}

    def _served(self, given: Given) -> tuple[AccountHandle, ...]:
        members = arguments.sequence("accounts", given)
        if not members:
            raise Mistake("accounts= is an empty list", "Name what Office365_Account(...) returned")
        known = [each for each in members if not _is_google(each)]
        if not known:
            raise Mistake(
                "accounts= has Google accounts only", "cms serves Microsoft accounts; pizauth and oama know Google's"
            )
        if len(known) < len(members):
            self.warn(self.line(), "the Google accounts are left out: cms serves Microsoft accounts only")
        accounts = tuple(_account("accounts", each) for each in known)
        if len(set(accounts)) < len(accounts):
            raise Mistake("accounts= names the same account twice")
        return accounts

    def _warn_of_openness(self, socket: SocketHandle) -> None:
        everybody = socket.mode & _WRITABLE_BY_ALL and socket.users is None and socket.groups is None
        if everybody and not trust.keeps_others_out(socket.path, self.system):
            self.warn(
                socket.line,
                f"every user of this machine can get these accounts' tokens: the socket's mode is 0o{socket.mode:o} and no"
                " folder above it is closed to others. Name users= or groups=, or put it in such a folder",
            )

    def _vault(self, key: Given) -> None:
        self._check_once("Vault")
        self.vault_key = _key_source(key)

    def _notify(
        self,
        command: Given = None,
        events: Given = USUAL_EVENTS,
        remind: Given = REMIND_SECONDS,
        grace: Given = GRACE_SECONDS,
        *,
        desktop: Given = None,
    ) -> None:
        if command is None and desktop is None:
            raise Mistake("there is nothing to notify with", 'Such as Notify(["notify-me", "--mail"])')
        if desktop is not None:
            self._check_once("Notify(desktop=...)")
            self.desktop = arguments.flag("desktop", desktop)
        if command is not None:
            line = self.line()
            hook = Hook(
                arguments.command("command", command, self.folder),
                arguments.choices("events", events, tuple(EVENTS)),
                arguments.seconds("remind", remind, MIN_REMIND, zero=True),
                arguments.seconds("grace", grace, 0.0),
                line=line,
            )
            self._warn_of_program(hook)
            self.hooks.append(hook)

    def _warn_of_program(self, hook: Hook) -> None:
        """Warn of a hook that is not there, or that somebody else could change."""
        program, found = hook.argv[0], shutil.which(hook.argv[0])
        if found is None:
            self.warn(hook.line, f"there is no program {program}: nobody is notified before there is one")
            return
        try:
            trust.check(found, self.system)
        except trust.Untrusted as untrusted:
            self.warn(
                hook.line, f"others could change {program}, which runs as whoever runs cms. {untrusted.hint} mends that"
            )

    def _tls(self, ca: Given) -> None:
        self._check_once("Tls")
        path = self._read(arguments.path("ca", ca, self.folder), "the ca=")
        try:
            certificates = Path(path).read_bytes()
        except OSError as error:
            raise Mistake(f"ca= cannot be read: {path}: {error.strerror}") from None
        if b"-----BEGIN CERTIFICATE-----" not in certificates:
            raise Mistake(f"ca= holds no certificate in PEM form: {path}")
        self.ca = path

    def _sign_in_page(self, url: Given = arguments.PAGE) -> None:
        self._check_once("SignInPage")
        self.page = arguments.page(url)

    def _proxy(self, url: Given, no_proxy: Given = (), *, password: Given = None) -> None:
        self._check_once("Proxy")
        address, user = arguments.proxy(url)
        secret = _optional(password, lambda given: arguments.secret("password", given))
        if secret and not user:
            raise Mistake("password= belongs to a user, and url= names none", 'Such as "http://USER@HOST:PORT"')
        names = tuple(arguments.host("no_proxy", each) for each in arguments.sequence("no_proxy", no_proxy))
        self.proxy = Proxy(address, names, user, secret)

    def _check_once(self, directive: str) -> None:
        if directive in self._once:
            raise Mistake(
                f"a second {directive}; the first is in line {self._once[directive]}",
                "There is one for the whole daemon",
            )
        self._once[directive] = self.line()

    def _file(self, path: Given) -> Source:
        return Source("file", (self._read(arguments.path("path", path, self.folder), "the File"),))

    def _maildir(self, *_: Given, **__: Given) -> IgnoredHandle:
        return self._ignore("MailDir", f"{_BROWSE}: {_INSTEAD}")

    def _gmail(self, *_: Given, **__: Given) -> IgnoredHandle:
        return self._ignore(
            "GMail", f"{_BROWSE}, and serves Microsoft accounts only: mbsync does that, with pizauth or oama"
        )

    def _gmail_account(self, *_: Given, **__: Given) -> IgnoredHandle:
        return self._ignore("GMail_Account", "cms serves Microsoft accounts only; pizauth and oama know Google's")

    def _ignore(self, directive: str, reason: str) -> IgnoredHandle:
        self.warn(self.line(), f"{directive} is ignored: {reason}")
        return IgnoredHandle(directive)


class _Cfg:
    """CMS's `cfg`: the file may set its one documented attribute, a function that sorts mail into folders."""

    _directives: Directives

    def __init__(self, directives: Directives) -> None:
        object.__setattr__(self, "_directives", directives)

    def __setattr__(self, name: str, value: Given) -> None:
        if name != "direct_message":
            raise Mistake(f"cfg has no attribute {name}", arguments.nearest(name, ["direct_message"]))
        self._directives.warn(self._directives.line(), f"cfg.direct_message is ignored: {_BROWSE}: {_INSTEAD}")


def _checked(name: str, directive: Callable[..., T]) -> Callable[..., T]:
    """Return the directive with faults of its argument list told as Mistakes, and its name before every Mistake."""
    signature = inspect.signature(directive)
    known = [each.name for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    takes_anything = len(known) < len(signature.parameters)

    @functools.wraps(directive)
    def checked(*positional: Given, **named: Given) -> T:
        for each in named:
            if each not in known and not takes_anything:
                raise Mistake(f"{name} has no argument {each}=", arguments.nearest(each, known))
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise Mistake(f"{name}: {error}") from None
        try:
            return directive(*positional, **named)
        except Mistake as mistake:
            raise Mistake(f"{name}: {mistake.message}", mistake.hint) from None

    checked.__name__ = checked.__qualname__ = name
    return checked


def _optional(given: Given, check: Callable[[Given], T]) -> T | None:
    return None if given is None else check(given)


def _account(name: str, given: Given) -> AccountHandle:
    if isinstance(given, AccountHandle):
        return given
    what = f"what {given.directive} returned" if isinstance(given, IgnoredHandle) else arguments.kind_of(given)
    raise Mistake(f"{name}= takes what Office365_Account(...) returned, not {what}")


def _is_google(given: Given) -> bool:
    return isinstance(given, IgnoredHandle) and given.directive == "GMail_Account"


def _cloud(name: Given, **hosts: Given) -> Cloud:
    """Return the cloud of this name, with the mail hosts that an account has of its own."""
    own = {each: arguments.mail_host(each, given) for each, given in hosts.items() if given is not None}
    return replace(CLOUDS[arguments.choice("cloud", name, tuple(CLOUDS))], **own)


def _login(user: str | None, sign_in_as: Given) -> str | None:
    """Return who signs in, None for whoever does."""
    if sign_in_as is None:
        return user
    if user is None:
        raise Mistake("sign_in_as= says who signs in for user=, and there is no user=")
    return arguments.address("sign_in_as", sign_in_as)


def _registration(login: str | None, client_id: Given, use_default_registration: Given, way: str) -> Registration:
    """Return the registration that an account uses: named, the domain's, the default, or one of the owner's own."""
    use_default = arguments.flag("use_default_registration", use_default_registration)
    if client_id is None and way == "managed-identity":
        # The machine's own identity, which needs no name.
        return Registration("", "", "common", arguments.OWN_REDIRECT, None, "")
    if client_id is None:
        return registration_for(login, use_default=use_default)
    if use_default:
        raise Mistake("client_id= and use_default_registration=True exclude each other")
    by_name = {each.name: each for each in REGISTRATIONS}
    given = arguments.guid("client_id", client_id, tuple(by_name))
    redirect = arguments.BROKER_REDIRECT if way == "broker" else arguments.OWN_REDIRECT
    own = Registration("", given, "common", redirect, None, "")
    return by_name.get(given) or registration_of(given) or own


def _authority(cloud: Cloud, registered: Registration, authority: Given, tenant: Given) -> str:
    host = _optional(authority, arguments.authority) or _login_host(cloud, registered)
    return f"{host}/{_optional(tenant, arguments.tenant) or _home_tenant(cloud, registered)}"


def _login_host(cloud: Cloud, registered: Registration) -> str:
    """Return a cloud's login host. The registrations that cms knows are in the worldwide cloud only."""
    if registered.name and cloud.login != CLOUDS["global"].login:
        raise Mistake(
            f'cloud="{cloud.name}" needs client_id=: each national cloud has applications of its own',
            "docs/microsoft-setup.md says how to register one",
        )
    return cloud.login


def _home_tenant(cloud: Cloud, registered: Registration) -> str:
    return CONSUMERS if cloud.name == "personal" else registered.tenant


def _secret(name: str, given: Given) -> Source | None:
    return _optional(given, lambda found: arguments.secret(name, found))


def _check_credentials(grant: Grant) -> None:
    """Refuse what an application cannot prove itself with. An application has one credential at a time."""
    given = [name for name in CREDENTIALS if getattr(grant, name)]
    if len(given) > 1:
        raise Mistake(f"{given[0]}= and {given[1]}= exclude each other", "An application proves itself in one way")
    if grant.certificate_password and not grant.certificate:
        raise Mistake("certificate_password= opens certificate=, and there is none")
    if given and grant.registration:
        raise Mistake(f"{given[0]}= belongs to an application of your own", "Name that one in client_id=")
    if given and grant.sign_in == "managed-identity":
        raise Mistake(
            f'{given[0]}= is not for sign_in="managed-identity"', "Azure vouches for its machine: leave it out"
        )
    if given and grant.sign_in in _PUBLIC_ONLY:
        raise Mistake(
            f'sign_in="{grant.sign_in}" is for applications without {given[0]}=', 'sign_in="paste" works anywhere'
        )
    if not given and grant.sign_in == "app":
        raise Mistake(
            f'sign_in="app" needs one of {", ".join(f"{name}=" for name in CREDENTIALS)}',
            'Such as certificate=File("/etc/cms/app.pem")',
        )


def _check_unattended(grant: Grant, user: str | None, sign_in_as: Given, tenant: Given) -> None:
    """Refuse what makes no sense where nobody signs in."""
    if not grant.unattended:
        return
    way = f'sign_in="{grant.sign_in}"'
    if user is None:
        raise Mistake(f"{way} needs user=, the mailbox", "An application has none of its own")
    if sign_in_as is not None:
        raise Mistake(f"sign_in_as= says who signs in, and with {way} nobody does", "Leave it out")
    if grant.sign_in == "managed-identity":
        _check_machine(grant, tenant)
    elif grant.registration:
        raise Mistake(f"{way} needs client_id=", "The application is one of your own (docs/microsoft-setup.md)")
    elif grant.authority.rpartition("/")[2] in TENANT_WORDS:
        raise Mistake(f"{way} needs tenant=, the one that the application works in", "Its GUID, or its domain")


def _check_machine(grant: Grant, tenant: Given) -> None:
    """Refuse what says more of a machine's identity than Azure asks."""
    way = f'sign_in="{grant.sign_in}"'
    if tenant is not None:
        raise Mistake(f"tenant= is not for {way}", "The machine's identity is in a tenant already: leave it out")
    if grant.registration:
        raise Mistake(f"{way} needs a client_id= of your own, or none", "It names a user-assigned identity")
    if grant.authority.endswith(f"/{CONSUMERS}"):
        raise Mistake(f'{way} is not for cloud="personal"', "Outlook.com lets people sign in, and no machines")


def _protocols(given: Given) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_protocol("protocols", each) for each in arguments.sequence("protocols", given)))
    if not found:
        raise Mistake("protocols= is an empty list")
    return found


def _protocol(name: str, given: Given) -> str:
    """Return the name of a mail protocol, or of one with scopes of its own."""
    return given.name if isinstance(given, ProtocolHandle) else arguments.choice(name, given, tuple(PERMISSIONS))


def _mode(umask: Given, mode: Given, *, policy: bool, group: bool) -> int:
    """Return the socket's bits: as given under either name, else what goes with how access is decided."""
    if umask is not None and mode is not None:
        raise Mistake("umask= and mode= are two names of one thing", "Leave one out")
    if umask is not None:
        return arguments.permissions("umask", umask)
    if mode is not None:
        return arguments.permissions("mode", mode)
    return POLICY_MODE if policy else GROUP_MODE if group else DEFAULT_MODE


def _names(name: str, given: Given, kind: str, number_of: Callable[[str], int | None]) -> tuple[str, ...]:
    members: Sequence[Given] = arguments.sequence(name, given)
    return tuple(dict.fromkeys(_name(name, each, kind, number_of) for each in members))


def _name(name: str, given: Given, kind: str, number_of: Callable[[str], int | None]) -> str:
    """Return a user's or group's name, or its number as text. It must exist, unless it is a number."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return str(given)
    found = arguments.text(name, given)
    if number_of(found) is None:
        raise Mistake(f"{name}= names a {kind} that does not exist: {found}")
    return found


def _key_source(given: Given) -> Source:
    if given in ("keyring", "memory"):
        return Source(str(given))
    if isinstance(given, Source):
        return given
    raise Mistake(
        "key= says where the vault's key comes from, never what it is",
        'key=File("PATH"), key=Credential("NAME"), key=Command(["PROGRAM", ...]), key="keyring" or key="memory"',
    )


def _credential(name: Given) -> Source:
    found = arguments.text("name", name)
    if os.sep in found or found in {".", ".."}:
        raise Mistake("name= is a systemd credential's name, not a path", 'File("PATH") takes a path')
    return Source("credential", (found,))


def _command(argv: Given) -> Source:
    return Source("command", tuple(arguments.text("argv", each) for each in _full(arguments.sequence("argv", argv))))


def _full(members: Sequence[Given]) -> Sequence[Given]:
    if not members:
        raise Mistake("argv= is an empty list", 'Such as Command(["pass", "show", "cms"])')
    return members
