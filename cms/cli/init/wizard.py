"""Runs the steps of `cms init`. The person can decline each one.

It writes a configuration, offers the systemd units, signs in, tests the mail servers, and shows the settings for the mail
programs of this machine. At the end, and after Ctrl-C, it prints the commands for the steps that are left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from cms.cli import browser, login
from cms.cli.client import NoDaemon, NotListening, Remote, understood
from cms.cli.init import application, mail_programs, show, systemd_units
from cms.cli.init.first_config import (
    EXIM,
    Tenant,
    Wishes,
    account_line,
    domain_of,
    hosted_by,
    in_the_way,
    known_tenant,
    lacks_client,
    mailers,
    tenant_of,
    text_of,
    uses_default,
    write,
)
from cms.cli.init.systemd_units import Systemd
from cms.cli.run_line import INTERRUPTED
from cms.cli.terminal import Terminal, working
from cms.config.model import Config, ConfigError
from cms.core.accounts import Account, accounts_meant
from cms.core.status import STATES
from cms.grants.messages import Explored
from cms.system.files import oddity
from cms.system.start import ISOLATION
from cms_oauth import paths
from cms_oauth.addresses import bare, fault
from cms_oauth.expand import literal
from cms_oauth.microsoft import CLOUDS, portal
from cms_oauth.moves import Command, cms
from cms_oauth.peer import ROOT
from cms_oauth.text import printable

FAILED = 1

# The methods of `cms login`.
WAYS = ("browser", "paste", "device")

# How long a daemon may take to start: on a small machine under load it takes a while to load its libraries.
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
# Longer than the minute that cms-oauth gives its test.
_TEST_SECONDS = 90.0

# The states of an account that waits for a person's sign-in.
_SIGNED_OUT = ("sign-in-required", "signing-in", "")

# Microsoft: "Authentication and the Microsoft identity platform in national clouds".
_OWN_APPLICATION = """\
nothing was written: the cloud {cloud} knows no application of the other clouds, so you need one of your own there
register it at {portal} (docs/microsoft-setup.md, National clouds), then `cms init --client-id=ID`"""


Connect = Callable[[], Remote]


@dataclass(frozen=True, slots=True)
class Around:
    """What the steps need from outside: how to ask DNS and Entra, load a configuration, and connect to the daemon."""

    exchangers: Callable[[str], tuple[str, ...] | str]
    explore: Callable[[str, str], Explored]
    load: Callable[[str], Config]
    connect: Connect


@dataclass(slots=True)
class Steps:
    """The commands for the steps that are left, by the step's name."""

    left: dict[str, list[str]]
    how: str = ""
    to_run: str = ""

    def done(self, name: str) -> None:
        self.left.pop(name, None)

    @property
    def said(self) -> str:
        if not self.left:
            return "\nAll is set up. `cms show PROGRAM` shows settings again, `cms status` the current state."
        how = f"{self.how}{self.to_run if 'run' in self.left else ''}"
        lines = (f"    {line}" for step in self.left.values() for line in step)
        return "\n".join([f"\nNext{how}:\n", *lines])


def steps_for(wishes: Wishes) -> Steps:
    """Return the steps after the file is written, with the commands for each."""
    if not wishes.for_system:
        option = () if paths.is_usual_config(wishes.config) else ("-c", literal(wishes.config))
        run, login = [str(cms("run", *option))], ["cms login"]
        left = {"run": run, "login": login, "test": ["cms status"]}
        return Steps(left, to_run=" (`cms run` in its own terminal)")
    login = [str(Command(("sudo", "-u", systemd_units.SERVICE_USER, *cms("login", wishes.user, "--paste").words)))]
    left = {"place": systemd_units.in_place(), "run": systemd_units.by_hand(), "login": login}
    return Steps(left, how=", as root (docs/operations.md, As a service)")


def begin(wishes: Wishes, person: Terminal, around: Around) -> int:
    """Run `cms init`; return the exit status."""
    if os.path.lexists(wishes.config):
        return _go_on(wishes, person, around)
    if found := in_the_way(wishes):
        person.complain("\n".join(["nothing was written, because of this:", *found]))
        return FAILED
    # Made before the file is written: `config_file` in it depends on which files exist.
    steps: Steps | None = None
    try:
        user = bare(wishes.user) or _address(person)
        if why := fault(user):
            system = " --system" if wishes.for_system else ""
            person.complain(_no_address(user, why) if user else f"no mail address\n`cms init{system} --user=ADDRESS`")
            return os.EX_USAGE
        wishes = replace(wishes, user=user)
        steps = steps_for(wishes)
        return _begin(wishes, person, steps, around)
    except KeyboardInterrupt:
        if steps and Path(wishes.config).exists():
            return _stopped(person, steps)
        person.say("\nStopped here; nothing was written.")
        return INTERRUPTED


def _go_on(wishes: Wishes, person: Terminal, around: Around) -> int:
    """Do what is missing for a configuration that exists; return the exit status. The file is never changed."""
    found = _existing(wishes, around)
    if isinstance(found, str):
        person.complain(found)
        return FAILED
    config, account = found
    person.say(f"{wishes.config} already exists and is not changed. Going on with what is missing for {account.user}.")
    wishes = replace(wishes, user=account.user)
    steps = steps_for(wishes)
    credential = config.vault_key is not None and config.vault_key.kind == "credential"
    drop_ins = _drop_ins(wishes, steps, credential=credential)
    try:
        if not wishes.for_system and _runs(wishes.config, around.connect) == "":
            steps.done("run")
        if not person.there:
            person.say(steps.said)
            return 0
        if wishes.for_system:
            return _service(wishes, person, steps, account, drop_ins)
        return _live(wishes, person, steps, account, around.connect, config=config, new=False)
    except KeyboardInterrupt:
        return _stopped(person, steps)


def _existing(wishes: Wishes, around: Around) -> tuple[Config, Account] | str:
    """Return the configuration that exists and the account to set up, or why init cannot go on with it."""
    if what := oddity(Path(wishes.config)):
        return f"{wishes.config} is {what}: name a regular file"
    edit = f"edit it, then `{cms('check', '-c', literal(wishes.config))}`"
    taken = f"{wishes.config} already exists and was not changed"
    try:
        config = around.load(wishes.config)
    except ConfigError as error:
        return f"{taken}, and cannot be loaded: {error.message}\n{edit}"
    meant = accounts_meant(config.accounts, bare(wishes.user))
    if not meant:
        lacking = f"{taken}. It lacks the account {printable(wishes.user)}"
        written = Path(wishes.config).read_text(encoding="utf-8")
        name = next(each for number in count(len(config.accounts) + 1) if (each := f"account{number}") not in written)
        return f"{lacking}\n{_to_add(wishes, around, name)}"
    return config, meant[0]


def _to_add(wishes: Wishes, around: Around, name: str) -> str:
    """Return what a person writes to give a configuration this account, under a name that it has not yet."""
    user = bare(wishes.user)
    if why := fault(user):
        return _no_address(user, why)
    wishes = replace(wishes, user=user)
    tenant, _ = _look_around(wishes, around)
    if why := _unregistered(wishes, tenant):
        return why
    return (
        f"write this line above its CredentialServer, and {name} into accounts= there:\n\n"
        f"    {name} = {account_line(wishes, tenant)}\n\n"
        f"then `{cms('check', '-c', literal(wishes.config))}`, `cms reload` if cms runs, and for the sign-in `{wishes.again()}`"
    )


def _unregistered(wishes: Wishes, tenant: Tenant) -> str:
    """Return why a client of the person's own is needed first, and how to get one, "" if none is."""
    if tenant.cloud and not wishes.client_id:
        return _OWN_APPLICATION.format(cloud=tenant.cloud, portal=portal(CLOUDS[tenant.cloud].login))
    return lacks_client(wishes, tenant)


def _stopped(person: Terminal, steps: Steps) -> int:
    person.say(f"\nStopped here. What has been done so far stays.\n{steps.said}")
    return INTERRUPTED


def _address(person: Terminal) -> str:
    """Ask until the answer is a mail address; return "" if the input ends."""
    while said := bare(person.ask("Mail address")):
        if not (why := fault(said)):
            return said
        person.complain(_no_address(said, why))
    return ""


def _no_address(said: str, why: str) -> str:
    # Without an @ nobody asks why.
    return f"{printable(said)} is not a mail address{f': it {why}' if '@' in said else ''}"


def _begin(wishes: Wishes, person: Terminal, steps: Steps, around: Around) -> int:
    tenant, no_keyring = _look_around(wishes, around)
    if tenant.said:
        person.say(tenant.said)
    if why := _unregistered(wishes, tenant):
        person.complain(why)
        return FAILED
    if person.there and uses_default(wishes, tenant.provider):
        wishes = application.chosen(wishes, tenant, person)
    credential = systemd_units.CREDENTIAL if wishes.for_system and _made_credential(wishes, person) else ""
    config = _write(wishes, text_of(wishes, tenant, no_keyring, credential=credential), around)
    if isinstance(config, str):
        person.complain(f"nothing was written, because of this:\n{config}")
        return FAILED
    person.say(f"Wrote {wishes.config}.")
    if os.geteuid() == ROOT and not wishes.for_system:
        person.say("This is for root's own programs. A service for the whole machine: `cms init --system`.")
    drop_ins = _drop_ins(wishes, steps, credential=bool(credential))
    if not person.there:
        person.say(steps.said)
        return 0
    account = config.accounts[0]
    if wishes.for_system:
        return _service(wishes, person, steps, account, drop_ins)
    return _live(wishes, person, steps, account, around.connect, config=config)


def _drop_ins(wishes: Wishes, steps: Steps, *, credential: bool) -> list[str]:
    """Return the drop-ins that the system's units need; they are among the commands that are left."""
    drop_ins = [systemd_units.EXIM_DROP_IN] if mailers() == [EXIM] else []
    if credential:
        drop_ins.append(systemd_units.CREDENTIAL_DROP_IN)
    if wishes.for_system:
        steps.left["run"] = systemd_units.by_hand(drop_ins)
    return drop_ins


def _write(wishes: Wishes, text: str, around: Around) -> Config | str:
    """Write the configuration and return it, as `cms run` will load it; or remove it and return why it does not load."""
    path = Path(wishes.config)
    write(path, text, system=wishes.for_system)
    try:
        return around.load(wishes.config)
    except ConfigError as error:
        # The fault is an option's, such as a mistyped --tenant: with the file there, the next init would refuse.
        path.unlink()
        return f"{error.message}. {error.hint}" if error.hint else error.message


def _service(wishes: Wishes, person: Terminal, steps: Steps, account: Account, drop_ins: Sequence[str]) -> int:
    """Set up the system service. Its user signs in later."""
    where = systemd_units.hidden()
    if where:
        person.say(f"The service cannot see {where}, where this cms is: install cms elsewhere.")
    else:
        question = "Create the user cms, install the systemd units, and start cms at boot?"
        _offer_units(wishes, person, steps, question, drop_ins)
    if wishes.show:
        machines = [each for each in mail_programs.found() if each.of_machine]
        show.offer(person, account, machines, wishes.write, "")
    person.say(steps.said)
    return 0


def _live(
    wishes: Wishes,
    person: Terminal,
    steps: Steps,
    account: Account,
    connect: Connect,
    *,
    config: Config,
    new: bool = True,
) -> int:
    """Do the steps that need a daemon. If the configuration is not new, the person may be signed in."""
    socket = show.socket_of(config, account)
    status, question = 0, f"Sign in as {account.user} now?"
    _offer_units(wishes, person, steps, "Install the systemd units, and start cms with your session?")
    if wishes.sign_in and (not new or person.agree(question)):
        with daemon(wishes.config, connect) as problem:
            if problem:
                person.complain(problem)
                status = FAILED
            elif not new and (state := _state(account, connect)) not in _SIGNED_OUT:
                person.say(f"{account.user} needs no sign-in: {STATES.get(state, state)}.")
                steps.done("login")
                status = _try_servers(wishes, person, steps, account, socket)
            elif new or person.agree(question):
                status = _sign_in_and_test(wishes, person, steps, account, connect, socket=socket)
    if wishes.show:
        show.offer(person, account, mail_programs.found(), wishes.write, socket)
    person.say(steps.said)
    return status


# Finding out.


def _look_around(wishes: Wishes, around: Around) -> tuple[Tenant, str]:
    """Return whose address it is, and why there is no keyring for the key ("" if there is one)."""
    domain, known, said = domain_of(wishes.user), known_tenant(wishes), ""
    login = wishes.authority or CLOUDS["global"].login
    with working("looking for a keyring" if known else f"looking up {domain}"):
        # A login host of Microsoft's is named for a mailbox of Microsoft's.
        if known is None and not wishes.authority:
            exchangers = around.exchangers(domain)
            known = hosted_by(domain, exchangers)
            if isinstance(exchangers, str):
                said = f"The mail servers of {domain} were not looked up ({exchangers}): only Microsoft is asked.\n"
        explored = around.explore("" if known else f"{login}/{domain}", wishes.ca)
    tenant = known or tenant_of(wishes.user, explored)
    return replace(tenant, said=said + tenant.said), explored.no_keyring


def _made_credential(wishes: Wishes, person: Terminal) -> bool:
    """Offer to keep the vault's key as a credential of systemd's. True if there is one then."""
    possible = wishes.unit and person.there and not systemd_units.hidden() and shutil.which("systemd-creds") is not None
    if not possible or not Systemd(system=True).ready():
        return False
    if not person.agree("Have systemd encrypt the vault's key for this machine?"):
        return False
    problem = systemd_units.make_credential()
    if problem:
        person.say(f"systemd-creds made no key, so a file has it: {problem}")
    return not problem


def _offer_units(wishes: Wishes, person: Terminal, steps: Steps, question: str, drop_ins: Sequence[str] = ()) -> None:
    systemd = Systemd(system=wishes.for_system)
    if not wishes.unit:
        return
    if not systemd.ready():
        person.say("systemd is not available here, so no units are offered: cms runs only while `cms run` does.")
        return
    if systemd.is_installed(wishes.config, drop_ins):
        person.say(f"{systemd_units.UNIT} is installed and runs.")
        steps.done("run")
        return
    if not person.agree(question):
        return
    installed = systemd.install(wishes.config, drop_ins)
    person.say(installed.said)
    if installed.running:
        steps.done("run")


# A daemon for the steps that need one.


@contextmanager
def daemon(config: str, connect: Connect) -> Iterator[str]:
    """Use the running daemon in the block, or else start one and stop it at the end. Yield an error, "" for none."""
    running = _runs(config, connect)
    if running is not None:
        yield running
        return
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, ISOLATION, "-m", "cms.main", "run", f"--config={literal(config)}"]
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
    """Return None if no daemon runs, "" if one runs with this configuration, else an error."""
    try:
        with connect() as found, understood():
            other = str(found.ask("status").get("json", {}).get("daemon", {}).get("config", ""))
            if os.path.realpath(other) == os.path.realpath(config):
                return ""
    except NotListening as error:
        return f"{error.message}: {error.hint}."
    except NoDaemon:
        return None
    return f"A daemon runs with another configuration, {printable(other)}: stop it, or add the account to that file."


def _started(process: subprocess.Popen[bytes], connect: Connect) -> str | None:
    """Wait until a daemon answers; return an error, None if it does."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(NoDaemon), connect():
            return None
        time.sleep(_POLL_SECONDS)
    return "cms could not be started for the sign-in: `cms run` says why."


# The sign-in, and what it is for.


def _sign_in_and_test(
    wishes: Wishes, person: Terminal, steps: Steps, account: Account, connect: Connect, *, socket: str
) -> int:
    if status := _sign_in(wishes, person, account, connect):
        return status
    steps.done("login")
    return _try_servers(wishes, person, steps, account, socket)


def _state(account: Account, connect: Connect) -> str:
    """Return the state of an account at the daemon, as soon as it is known: a daemon that has just started looks first."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with connect() as found, understood():
            rows = found.ask("status").get("json", {}).get("accounts", [])
            state = next((str(each.get("state")) for each in rows if each.get("user") == account.user), "")
        if state != "starting" or time.monotonic() > deadline:
            return state
        time.sleep(_POLL_SECONDS)


def _try_servers(wishes: Wishes, person: Terminal, steps: Steps, account: Account, socket: str) -> int:
    if not wishes.test or not person.agree("Test the mail servers with it?"):
        return 0
    results = [_test(person, account, socket, what, host) for what, host in _tests_of(wishes, account)]
    steps.done("test")
    return 0 if all(results) else FAILED


def _sign_in(wishes: Wishes, person: Terminal, account: Account, connect: Connect) -> int:
    here = account.grant.sign_in != "paste" and browser.browser(remote=bool(login.over_ssh()))
    usual = "browser" if here else "paste"
    method = wishes.method or person.choose("With a browser here, by pasting an address, or with a code?", WAYS, usual)
    with connect() as found:
        return login.sign_in_here(found, account.user, method, person.say)


def _tests_of(wishes: Wishes, account: Account) -> list[tuple[str, str]]:
    hosts = {"smtp": wishes.try_smtp or account.smtp_host, "imap": wishes.try_imap or account.imap_host}
    return [(what, host) for what, host in hosts.items() if host and what.upper() in account.scopes]


def _test(person: Terminal, account: Account, socket: str, what: str, host: str) -> bool:
    """Log in to a mail server with `cms-oauth --test-...`, and print the result."""
    code = "import sys; from cms_oauth.main import main; sys.exit(main())"
    words = [f"--user={account.user}", f"--cms_sock={literal(socket)}", f"--test-{what}={host}"]
    try:
        with working(f"testing {host}"):
            done = subprocess.run(
                [sys.executable, ISOLATION, "-c", code, *words],
                capture_output=True,
                text=True,
                check=False,
                timeout=_TEST_SECONDS,
                stdin=subprocess.DEVNULL,
            )
    except subprocess.TimeoutExpired:
        again = Command(("cms-oauth", f"--user={account.user}", f"--test-{what}={host}"))
        person.say(f"{what.upper()}: {host} did not answer in time. To try again: `{again}`")
        return False
    if done.returncode == 0:
        person.say(f"{what.upper()}: {host} accepts the token.")
        return True
    # Perhaps no server was reached, or there was no token: what follows says it.
    person.say(f"{what.upper()}: the test of {host} failed:\n\n{done.stdout}{done.stderr}")
    return False
