"""The first configuration: finds the tenant of a mail address, and makes the text of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cms.config import arguments
from cms.config.arguments import Mistake
from cms.config.settings import ca_fault
from cms.config.trust import SYSTEM, System, Untrusted, check_place
from cms.core.accounts import DEFAULT_REGISTRATION, registration_for
from cms.grants.messages import Explored
from cms.system import users
from cms.system.files import PRIVATE_FOLDER, make_folders, oddity
from cms_oauth import paths
from cms_oauth.documents import located
from cms_oauth.expand import Unusable, literal
from cms_oauth.microsoft import PERSONAL_TENANT, is_personal
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT
from cms_oauth.providers import GOOGLE, Provider, of_domain, of_host

SYSTEM_STATE = "/var/lib/cms"
SYSTEM_RUNTIME = "/run/cms"

# The user of Debian's exim.
EXIM = "Debian-exim"

_TEMPLATE = """\
# The configuration of cms: a Python file. `cms check` checks it, `cms reload` loads it into the running daemon.

# Who signs in.{whose}
# docs/configuration.md has all directives and arguments.
account = {account}

# Where mail programs ask for tokens, and for which protocols.
# {who}
CredentialServer({socket})

# Where to read the key that encrypts the sign-in on disk.
# {why}
{vault}
{more}"""

_USUAL = """
# This uses cloud_mdir_sync's application, whose sign-ins may end after a day. For your own (ten minutes, see
# docs/microsoft-setup.md), set client_id=."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of `cms init`. `config` is the file's path; `method` is "" to choose one; steps are on unless False.

    `authority`, `client_id` and `redirect_uri` are "" for the usual ones; `try_smtp` and `try_imap` are servers to test
    instead of the account's own; `write` is the folder for the settings of mail programs, "" to show them.
    """

    config: str
    user: str = ""
    offline: bool = False
    tenant: str = ""
    client_id: str = ""
    authority: str = ""
    redirect_uri: str = ""
    ca: str = ""
    try_smtp: str = ""
    try_imap: str = ""
    method: str = ""
    unit: bool = True
    sign_in: bool = True
    test: bool = True
    show: bool = True
    write: str = ""

    @property
    def for_system(self) -> bool:
        """True if this is the configuration of the system service."""
        return self.config == paths.system_config_file()

    def again(self, *options: str) -> Command:
        """Return the command that runs init again, for this file and this address."""
        named = [] if paths.is_usual_config(self.config) else ["-c", literal(self.config)]
        where = ["--system"] if self.for_system else named
        return Command(("cms", "init", *options, *where, f"--user={self.user}"))


@dataclass(frozen=True, slots=True)
class Tenant:
    """What is known about an address's organisation. `said` is printed, `note` goes into the file.

    `cloud` is its national cloud, "" for none. `provider` is whose address it is, None for Microsoft's.
    """

    id: str = ""
    personal: bool = False
    cloud: str = ""
    said: str = ""
    note: str = ""
    provider: Provider | None = None


def domain_of(user: str) -> str:
    return user.rpartition("@")[2].lower()


def known_tenant(wishes: Wishes) -> Tenant | None:
    """Return what is known about an address without asking the provider, None for nothing."""
    if wishes.tenant:
        return Tenant(wishes.tenant)
    domain = domain_of(wishes.user)
    if not wishes.authority and (other := of_domain(domain)):
        return Tenant(said=f"{domain} is a domain of {other.title}'s.", provider=other)
    if is_personal(domain):
        return Tenant(personal=True, said=f"{domain} is for personal accounts.")
    if not wishes.client_id and not uses_default(wishes):
        caveat = registration_for(wishes.user, use_default=False).caveat
        return Tenant(said=f"{domain} has its own application: {caveat}.")
    return Tenant(said="Written without a tenant (--offline).") if wishes.offline else None


def hosted_by(domain: str, exchangers: tuple[str, ...] | str) -> Tenant | None:
    """Return what the hosts that receive a domain's mail say about it, None if its mailboxes may be Microsoft's."""
    preferred = "" if isinstance(exchangers, str) or not exchangers else exchangers[0]
    if not (other := of_host(preferred)):
        return None
    said = f"{other.title} receives the mail of {domain} ({preferred})."
    return Tenant(said=f"{said} If your mailbox is at Microsoft: `cms init --tenant={domain}`.", provider=other)


def uses_default(wishes: Wishes, provider: Provider | None = None) -> bool:
    """True if the sign-in uses the default application. `provider` is whose address it is, None for Microsoft's."""
    known = wishes.client_id or provider
    return not known and registration_for(wishes.user, use_default=False) is DEFAULT_REGISTRATION


def lacks_client(wishes: Wishes, tenant: Tenant) -> str:
    """Return why no account can be made at this provider yet, and what to do, "" if one can."""
    row = tenant.provider
    if row is None or row.registers:
        return ""
    if row.name == GOOGLE:
        file = _client_file(wishes)
        found, move = file.exists(), f"{row.client}, save it as {file} (`chmod 600`), then `{wishes.again()}`"
    else:
        found, move = bool(wishes.client_id), f"{row.client}; then `{wishes.again('--client-id=ID')}`"
    return (
        "" if found else f"{row.title} gives tokens to registered clients only\n{move}\ndocs/providers.md has the steps"
    )


def _client_file(wishes: Wishes) -> Path:
    """Return where the file of Google's console is expected."""
    return Path(wishes.config).parent / "google-client.json"


def tenant_of(user: str, explored: Explored) -> Tenant:
    """Return what the provider's answer says about an address."""
    domain = domain_of(user)
    if explored.tenant == PERSONAL_TENANT:
        return Tenant(personal=True, said=f"{domain} is for personal accounts.")
    if explored.tenant:
        note = f" The tenant is that of {domain}."
        where = f", in the national cloud {explored.cloud}" if explored.cloud else ""
        said = f"{domain} is the tenant {explored.tenant}{where}."
        return Tenant(explored.tenant, said=said, note=note, cloud=explored.cloud)
    if explored.unknown:
        said = f"Microsoft knows no organisation called {domain}: is the address right? Written without a tenant."
        return Tenant(said=f"{said} For a mailbox elsewhere, docs/providers.md has the account to write in its place.")
    return Tenant(said=f"The tenant of {domain} could not be looked up ({explored.why}). Written without it.")


def text_of(wishes: Wishes, tenant: Tenant, no_keyring: str, *, credential: str = "") -> str:
    """Return the configuration's text. `credential` is the name of systemd's credential with the key, "" for none."""
    system = wishes.for_system
    socket = f"{SYSTEM_RUNTIME}/cms.sock" if system else paths.default_socket()
    state = SYSTEM_STATE if system else paths.state_folder()
    rules = f"users={json.dumps(mailers())}" if system else "mode=0o600"
    server = f'{_written(socket)}, accounts=[account], protocols=["SMTP", "IMAP"], {rules}'
    vault = f"Vault(key=File({_written(f'{state}/vault.key')}))"
    who = (
        "users= may ask for tokens."
        if system
        else 'mode=0o600: programs of this user only. For others: users=["mailer"].'
    )
    why = "cms uses the desktop's keyring. To use a file instead:"
    if system or no_keyring:
        why = "A file that only cms reads, because there is no keyring here."
    if credential:
        why = "A credential of systemd's: only this machine can decrypt it."
        vault = f'Vault(key=Credential("{credential}"))'
    return _TEMPLATE.format(
        whose=f"{tenant.note}{_USUAL if uses_default(wishes, tenant.provider) else ''}",
        account=account_line(wishes, tenant),
        who=who,
        socket=server,
        why=why,
        vault=vault if system or no_keyring else f"# {vault}",
        more=f"\n# The certificate authorities to trust.\nTls(ca={_written(wishes.ca)})\n" if wishes.ca else "",
    )


def _written(path: str) -> str:
    """Return an absolute path as Python text that the configuration reads as this path."""
    return json.dumps(literal(path))


def account_line(wishes: Wishes, tenant: Tenant) -> str:
    """Return the account as the configuration has it."""
    user, row = json.dumps(wishes.user), tenant.provider
    if row is None:
        return f"Office365_Account({', '.join(_account_words(wishes, tenant))})"
    if row.name == GOOGLE:
        return f'GMail_Account({user}, client=File("{_client_file(wishes).name}"))'
    said = {"provider": row.name, "client_id": wishes.client_id, "redirect_uri": wishes.redirect_uri}
    return (
        f"OAuth2_Account({', '.join([user, *(f'{name}={json.dumps(each)}' for name, each in said.items() if each)])})"
    )


def _account_words(wishes: Wishes, tenant: Tenant) -> Iterator[str]:
    # A JSON string is also a Python string, with double quotes as in the documentation.
    said = {
        "user": wishes.user,
        "tenant": tenant.id,
        "client_id": wishes.client_id,
        "cloud": "personal" if tenant.personal else tenant.cloud,
        "authority": wishes.authority,
        "redirect_uri": wishes.redirect_uri,
        # Its redirect address does not lead to this machine.
        "sign_in": "paste" if wishes.client_id == "thunderbird" else "",
    }
    return (f"{name}={json.dumps(value)}" for name, value in said.items() if value)


def mailers() -> list[str]:
    """Return the users who may ask the system's cms: the mail server's user, else the user who ran sudo, else root."""
    for name in (EXIM, os.environ.get("SUDO_USER", "")):
        known = users.user(name) if name else None
        if known:
            return [known.pw_name]
    return ["root"]


_AS_ROOT = f"`{Command(('sudo', 'cms', 'init', '--system'))}`"
_OTHER_PLACE = {
    "the configuration": "change that, or name another file with -c",
    "sign-ins": "change that, or set XDG_STATE_HOME to another folder",
    "the socket": "change that, or set XDG_RUNTIME_DIR to another folder",
}


def in_the_way(wishes: Wishes, system: System = SYSTEM) -> list[str]:
    """Return everything that would stop cms with this configuration, each with what to do: before anything is written."""
    found = list[str]()
    try:
        check_place(wishes.config, system)
    except Untrusted as untrusted:
        found.append(f"{untrusted.message}: {untrusted.hint}")
    folders = {"the configuration": Path(wishes.config).parent}
    if not wishes.for_system:
        try:
            folders["sign-ins"] = Path(paths.state_folder())
        except Unusable as unusable:
            found.append(f"{unusable.message}: {unusable.hint}")
        try:
            folders["the socket"] = Path(arguments.socket_path(literal(paths.default_socket()), "/")).parent
        except Unusable as unusable:
            found.append(f"{unusable.message}: {unusable.hint}")
        except Mistake as mistake:
            found.append(f"{mistake.message}. {mistake.hint}: set XDG_RUNTIME_DIR to a shorter one")
        except OSError as error:
            found.append(f"there is no folder for the socket: {error}: set XDG_RUNTIME_DIR to a folder of this user")
    as_root = wishes.for_system and system.caller() != ROOT
    found += [
        f"{why}, for {what}: {_AS_ROOT if as_root else _OTHER_PLACE[what]}"
        for what, folder in folders.items()
        if (why := _unwritable(folder))
    ]
    if (state := folders.get("sign-ins")) and (owner := _other_owner(state)):
        found.append(f"{state}, for sign-ins, belongs to {owner}: `{Command(('sudo', '-u', owner, 'cms', 'init'))}`")
    if wishes.ca and (why := ca_fault(wishes.ca)):
        found.append(f"--ca {why}")
    return list(dict.fromkeys(found))


def _other_owner(folder: Path) -> str:
    """Return the owner of a folder, "" for this user or if there is no such folder."""
    try:
        owner = folder.stat().st_uid
    except OSError:
        return ""
    return "" if owner == os.geteuid() else users.user_name(owner)


def _unwritable(folder: Path) -> str:
    """Return why no file can be written in a folder, which need not exist yet, "" if one can."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        what = oddity(there) or ("a file" if there.exists() else "a link that leads nowhere")
        return f"{there} is {what} and no folder"
    if os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        return ""
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY
    return f"{there} is on a read-only file system" if read_only else f"this user may not write to {there}"


def write(path: Path, text: str, *, system: bool = False) -> None:
    """Write a new file; the system's is readable for the service's user. Raises FileExistsError."""
    make_folders(path.parent, 0o755 if system else PRIVATE_FOLDER)
    with path.open("x", encoding="utf-8") as file:
        path.chmod(0o644 if system else 0o600)
        file.write(located(text))
