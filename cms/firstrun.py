"""`cms init`: from nothing to a first token. Each step can be declined, and what a step needs is said where it is not there.

It writes a configuration, offers the systemd unit, signs in, tries the mail servers, and shows what the mail programs of
this machine need. Ctrl-C leaves what has been done, and says how to go on.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cms import fragments
from cms import login as terminal
from cms.accounts import CLOUDS, DEFAULT_REGISTRATION, Account, registration_for
from cms.config import Config
from cms.grants.messages import Explored
from cms.main import INTERRUPTED
from cms.remote import NoDaemon, Remote
from cms_oauth import paths

FAILED = 1

# Near enough to an address for a first file; the provider knows which ones there are.
_ADDRESS = re.compile(r"[^\s@\"'\\]+@[^\s@\"'\\]+")

# Microsoft's own domains for private persons, in all their countries: outlook.com, hotmail.co.uk, live.de, msn.com.
_PERSONAL = re.compile(r"(outlook|hotmail|live|msn)\.[a-z]{2,3}(\.[a-z]{2})?")
# The tenant that all personal accounts are in (Microsoft: "OpenID Connect on the Microsoft identity platform").
_PERSONAL_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"

SYSTEM_STATE = "/var/lib/cms"
SYSTEM_RUNTIME = "/run/cms"
UNIT = "cms.service"

# As `cms login` has them.
WAYS = ("browser", "paste", "device")

# systemctl talks to a running systemd, or there is none.
_SYSTEMCTL_SECONDS = 30.0
# A daemon loads its libraries and its configuration; on a small machine under load that takes a while.
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
# cms-oauth gives its test a minute.
_TEST_SECONDS = 90.0

_TEMPLATE = """\
# The configuration of cms: a Python file. `cms check` tries it, `cms reload` gives it to the running daemon.

# Who signs in.{whose}
# docs/configuration.md has all that can be said here.
account = Office365_Account({account})

# Where mail programs ask for tokens, and for which protocols.
# {who}
CredentialServer({socket})

# Where the key comes from that encrypts the sign-in on disk.
# {why}
{vault}
{more}"""

_USUAL = """
# The application is cloud_mdir_sync's, whose sign-ins may end after a day; client_id= names your own, which
# docs/microsoft-setup.md makes in ten minutes."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says. `config` is the file's path; `method` "" for whichever fits; steps are on unless False.

    `authority`, `client_id` and `redirect_uri` are "" for the usual ones; `try_smtp` and `try_imap` are servers to try
    in place of the account's own.
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

    @property
    def for_system(self) -> bool:
        """Whether this is the configuration of the whole machine's service."""
        return self.config == paths.system_config_file()


class Person(Protocol):
    """Whoever sits at the terminal. Raises KeyboardInterrupt where they give up."""

    @property
    def there(self) -> bool:
        """Whether anybody answers questions, be it with --yes."""
        ...

    def say(self, text: str) -> None: ...
    def complain(self, text: str) -> None: ...
    def agree(self, question: str) -> bool: ...
    def choose(self, question: str, choices: Sequence[str], usual: str) -> str: ...
    def reply(self, question: str, usual: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Tenant:
    """What is known of an address' organisation. `said` is for the person, `note` for the file."""

    id: str = ""
    personal: bool = False
    said: str = ""
    note: str = ""


Connect = Callable[[], Remote]


@dataclass(frozen=True, slots=True)
class Around:
    """What there is beside the terminal: how to look around, to load a configuration, and to reach the daemon."""

    explore: Callable[[str, str], Explored]
    load: Callable[[str], Config]
    connect: Connect


@dataclass(slots=True)
class Steps:
    """What is left to do by hand, as commands; each step that is done takes its own away."""

    option: str
    left: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = {
            "run": f"cms run{self.option}",
            "login": "cms login",
            "test": "cms status",
        }

    def done(self, name: str) -> None:
        self.left.pop(name, None)


def domain_of(user: str) -> str:
    return user.rpartition("@")[2].lower()


def is_address(user: str) -> bool:
    return bool(_ADDRESS.fullmatch(user))


def begin(wishes: Wishes, person: Person, around: Around) -> int:
    """Do all of it; return the exit status."""
    steps = Steps(f" -c {wishes.config}" if wishes.config != paths.config_file() else "")
    try:
        return _begin(wishes, person, steps, around)
    except KeyboardInterrupt:
        person.say("\nStopped here; what has been done stays.")
        if Path(wishes.config).exists():
            person.say(_go_on(steps))
        return INTERRUPTED


def _begin(wishes: Wishes, person: Person, steps: Steps, around: Around) -> int:
    if os.path.lexists(wishes.config):
        person.complain(
            f"{wishes.config} exists already and stays as it is\nedit it, then `cms check -c {wishes.config}`"
        )
        return FAILED
    tenant, no_keyring = _look_around(wishes, around)
    if tenant.said:
        person.say(tenant.said)
    write(Path(wishes.config), text_of(wishes, tenant, no_keyring), system=wishes.for_system)
    person.say(f"Wrote {wishes.config}.")
    if wishes.for_system:
        person.say(_SYSTEM_NEXT.format(config=wishes.config, user=wishes.user))
        return 0
    if not person.there:
        person.say(_go_on(steps))
        return 0
    return _live(wishes, person, steps, around)


def _live(wishes: Wishes, person: Person, steps: Steps, around: Around) -> int:
    """Do the steps that need a daemon."""
    # Read as `cms run` will read it.
    account, status = around.load(wishes.config).accounts[0], 0
    if wishes.unit and _has_systemd() and person.agree("Install the systemd unit, and start cms with your session?"):
        _install_unit(wishes, person, steps)
    if wishes.sign_in and person.agree(f"Sign in as {account.user} now?"):
        with daemon(wishes.config, around.connect) as problem:
            status = (
                _said(person, problem) if problem else _sign_in_and_test(wishes, person, steps, account, around.connect)
            )
    if wishes.show:
        _show(person, account)
    person.say(_go_on(steps))
    return status


def _said(person: Person, problem: str) -> int:
    person.complain(problem)
    return FAILED


def _go_on(steps: Steps) -> str:
    if not steps.left:
        return "All is set up: `cms status` shows how it is."
    apart = " (`cms run` in a terminal of its own)" if "run" in steps.left else ""
    return "\n".join([f"\nNext{apart}:\n", *(f"    {command}" for command in steps.left.values()), ""])


# Finding out.


def _look_around(wishes: Wishes, around: Around) -> tuple[Tenant, str]:
    """Return whose address this is, and why no keyring keeps a key here ("" if one does)."""
    known = known_tenant(wishes)
    login = wishes.authority or CLOUDS["global"].login
    explored = around.explore("" if known else f"{login}/{domain_of(wishes.user)}", wishes.ca)
    return known or tenant_of(wishes.user, explored), explored.no_keyring


def known_tenant(wishes: Wishes) -> Tenant | None:
    """Return what is known of an address without asking anybody, None for nothing."""
    if wishes.tenant:
        return Tenant(wishes.tenant)
    domain = domain_of(wishes.user)
    if _PERSONAL.fullmatch(domain):
        return Tenant(personal=True, said=f"{domain} is for personal accounts.")
    if not wishes.client_id and not _uses_default(wishes):
        caveat = registration_for(wishes.user, use_default=False).caveat
        return Tenant(said=f"{domain} has an application of its own: {caveat}.")
    return Tenant(said="Written without a tenant (--offline).") if wishes.offline else None


def _uses_default(wishes: Wishes) -> bool:
    """Say whether the sign-in is with the default application."""
    return not wishes.client_id and registration_for(wishes.user, use_default=False) is DEFAULT_REGISTRATION


def tenant_of(user: str, explored: Explored) -> Tenant:
    """Return what a look at the provider has shown."""
    domain = domain_of(user)
    if explored.tenant == _PERSONAL_TENANT:
        return Tenant(personal=True, said=f"{domain} is for personal accounts.")
    if explored.tenant:
        note = f" The tenant is that of {domain}."
        return Tenant(explored.tenant, said=f"{domain} is the tenant {explored.tenant}.", note=note)
    if explored.unknown:
        said = f"Microsoft knows no organisation called {domain}: is the address right? Written without a tenant."
        return Tenant(said=said)
    return Tenant(said=f"The tenant of {domain} could not be looked up ({explored.why}). Written without it.")


# The file.


def text_of(wishes: Wishes, tenant: Tenant, no_keyring: str) -> str:
    """Return the configuration's text."""
    system = wishes.for_system
    socket = f"{SYSTEM_RUNTIME}/cms.sock" if system else paths.default_socket()
    state = SYSTEM_STATE if system else paths.state_folder()
    rules = f"users={json.dumps(_mailers())}" if system else "mode=0o600"
    server = f'{json.dumps(socket)}, accounts=[account], protocols=["SMTP", "IMAP"], {rules}'
    vault = f"Vault(key=File({json.dumps(f'{state}/vault.key')}))"
    who = (
        "users= are who may ask." if system else 'mode=0o600: programs of this user only. For others: users=["mailer"].'
    )
    why = "The desktop's keyring has it; a file is the way without one:"
    if system or no_keyring:
        why = "A file that only cms reads: no keyring keeps it here."
    return _TEMPLATE.format(
        whose=f"{tenant.note}{_USUAL if _uses_default(wishes) else ''}",
        account=", ".join(_account_words(wishes, tenant)),
        who=who,
        socket=server,
        why=why,
        vault=vault if system or no_keyring else f"# {vault}",
        more=f"\n# The certificate authorities to trust.\nTls(ca={json.dumps(wishes.ca)})\n" if wishes.ca else "",
    )


def _account_words(wishes: Wishes, tenant: Tenant) -> Iterator[str]:
    # JSON strings are Python strings, in the quotes that the documentation has.
    said = {
        "user": wishes.user,
        "tenant": tenant.id,
        "client_id": wishes.client_id,
        "cloud": "personal" if tenant.personal else "",
        "authority": wishes.authority,
        "redirect_uri": wishes.redirect_uri,
    }
    return (f"{name}={json.dumps(value)}" for name, value in said.items() if value)


def _mailers() -> list[str]:
    """Return who asks the whole machine's cms: the mail server's user, else whoever has become root, else root."""
    for name in ("Debian-exim", os.environ.get("SUDO_USER", "")):
        with suppress(KeyError):
            if name:
                return [pwd.getpwnam(name).pw_name]
    return ["root"]


def write(path: Path, text: str, *, system: bool = False) -> None:
    """Write a file that is not there yet. The system's is for its service's user to read. Raises FileExistsError."""
    path.parent.mkdir(mode=0o755 if system else 0o700, parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        path.chmod(0o644 if system else 0o600)
        file.write(text)


_SYSTEM_NEXT = """
This is the configuration of the whole machine's service (docs/operations.md, As a service). Next, as root:

    useradd --system --home-dir /var/lib/cms --shell /usr/sbin/nologin cms
    cp systemd/system/cms.service systemd/system/cms.socket /etc/systemd/system/
    systemctl daemon-reload
    systemctl enable --now cms.service
    sudo -u cms cms login {user} --paste
"""


# The unit.


def _has_systemd() -> bool:
    """Say whether this user has a systemd that answers."""
    return shutil.which("systemctl") is not None and _systemctl("show-environment") == ""


def _systemctl(*words: str) -> str:
    """Give systemd a command; return what went wrong, "" for nothing."""
    try:
        done = subprocess.run(
            ["systemctl", "--user", *words],  # noqa: S607 - whichever the machine has
            capture_output=True,
            text=True,
            check=False,
            timeout=_SYSTEMCTL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"systemctl cannot be run: {type(error).__name__}"
    return "" if done.returncode == 0 else done.stderr.strip() or f"systemctl ended with status {done.returncode}"


def unit_text(config: str) -> str:
    """Return the user's unit with this installation's command in it."""
    text = fragments.data(f"systemd/user/{UNIT}").read_text()
    option = f" -c {config}" if config != paths.own_config_file() else ""
    return re.sub(r"^ExecStart=.*$", lambda _: f"ExecStart={_command()} run{option}", text, flags=re.MULTILINE)


def _command() -> str:
    """Return the path of this very `cms`: that of its virtual environment, not of a link that may move."""
    beside = Path(sys.executable).parent / "cms"
    return str(beside) if beside.exists() else shutil.which("cms") or f"{sys.executable} -P -m cms.main"


def unit_path() -> Path:
    """Return where systemd looks for this user's units (systemd.unit(5))."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    return folder / "systemd" / "user" / UNIT


def _install_unit(wishes: Wishes, person: Person, steps: Steps) -> None:
    path, text = unit_path(), unit_text(wishes.config)
    if path.exists() and path.read_text() != text:
        person.say(f"{path} is there already, is another one, and stays as it is: `systemctl --user start {UNIT}`")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    problem = _systemctl("daemon-reload") or _systemctl("enable", "--now", UNIT)
    if problem:
        person.say(f"Wrote {path}, but it could not be started: {problem}\nSee `journalctl --user -u {UNIT}`.")
        return
    steps.done("run")
    person.say(f"Wrote {path}; cms runs now, and with every session of yours.")


# A daemon for the steps that need one.


@contextmanager
def daemon(config: str, connect: Connect) -> Iterator[str]:
    """Have a daemon run for the block: the one that runs, else one that ends with it. Yield what is wrong, "" if nothing."""
    running = _runs(config, connect)
    if running is not None:
        yield running
        return
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-P", "-m", "cms.main", "run", f"--config={config}"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield _started(process, connect) or ""
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()


def _runs(config: str, connect: Connect) -> str | None:
    """Return None if no daemon runs, "" if one does with this configuration, else what is wrong."""
    try:
        with connect() as found:
            status = found.ask("status").get("json", {})
    except NoDaemon:
        return None
    other = status.get("daemon", {}).get("config", "")
    if os.path.realpath(other) == os.path.realpath(config):
        return ""
    return f"A daemon runs with another configuration, {other}: stop it, or take the account over into that file."


def _started(process: subprocess.Popen[bytes], connect: Connect) -> str | None:
    """Wait until a daemon answers; return what is wrong, None if nothing."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(NoDaemon), connect():
            return None
        time.sleep(_POLL_SECONDS)
    return "cms could not be started for the sign-in: `cms run` says why."


# The sign-in, and what it is for.


def _sign_in_and_test(wishes: Wishes, person: Person, steps: Steps, account: Account, connect: Connect) -> int:
    if status := _sign_in(wishes, person, account, connect):
        return status
    steps.done("login")
    if not wishes.test or not person.agree("Try the mail servers with it?"):
        return 0
    results = [_test(person, account, what, host) for what, host in _tests_of(wishes, account)]
    steps.done("test")
    return 0 if all(results) else FAILED


def _sign_in(wishes: Wishes, person: Person, account: Account, connect: Connect) -> int:
    browse = terminal.browser()
    usual = wishes.method or ("browser" if browse else "paste")
    method = wishes.method or person.choose("With a browser here, by pasting an address, or with a code?", WAYS, usual)
    with connect() as found:
        return terminal.sign_in(
            found, account.user, method, terminal.terminal(), say=person.say, browse=browse, shown_on=terminal.screen()
        )


def _tests_of(wishes: Wishes, account: Account) -> list[tuple[str, str]]:
    hosts = {"smtp": wishes.try_smtp or account.smtp_host, "imap": wishes.try_imap or account.imap_host}
    return [(what, host) for what, host in hosts.items() if host and what.upper() in account.scopes]


def _test(person: Person, account: Account, what: str, host: str) -> bool:
    """Log in at a mail server as `cms-oauth --test-...` does; say how it went."""
    code = "import sys; from cms_oauth.main import main; sys.exit(main())"
    words = [f"--user={account.user}", f"--cms_sock={paths.default_socket()}", f"--test-{what}={host}"]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TEST_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        person.say(f"{what.upper()}: {host} gave no answer in time. Again: `cms-oauth --test-{what}={host}`")
        return False
    if done.returncode == 0:
        person.say(f"{what.upper()}: {host} takes the token.")
        return True
    person.say(f"{what.upper()}: {host} does not take the token:\n\n{done.stdout}{done.stderr}")
    return False


def _show(person: Person, account: Account) -> None:
    """Show what the mail programs of this machine need."""
    tools = _chosen(person, fragments.found())
    program = "cms-oauth" if shutil.which("cms-oauth") else str(Path(_command()).parent / "cms-oauth")
    setting = fragments.Setting(account.user, _own_name(account), account.smtp_host, account.imap_host, program)
    for tool in tools:
        text = fragments.fragment(tool, setting)
        person.say(f"\n==== {tool.name}: {tool.goes}; docs/clients/{tool.page}.md ====\n\n{text}")
    if tools and paths.find_socket() != paths.default_socket():
        person.say(f"Programs look for the socket elsewhere: set CMS_SOCK={paths.default_socket()}")


def _chosen(person: Person, tools: Sequence[fragments.Tool]) -> list[fragments.Tool]:
    """Return the programs that the person wants to see something of."""
    if not tools:
        return []
    person.say(f"\nMail programs here: {', '.join(each.name for each in tools)}.")
    said = person.reply("Show what to put into the files of which (all, none, or names)", "all").lower()
    return [each for each in tools if said == "all" or each.name.lower() in said]


def _own_name(account: Account) -> str:
    """Return the user's name as the machine has it, else what stands before the @."""
    gecos = ""
    with suppress(KeyError):
        gecos = pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
    return gecos or account.user.partition("@")[0]
