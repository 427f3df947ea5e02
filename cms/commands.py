"""The commands of `cms`, as click knows them. Each is a few lines over the daemon's control socket.

Nobody's mistake ends in a traceback: what happened, whose move it is, and the next command.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from cms import consent, moving, process, remote
from cms import login as terminal
from cms.accounts import Account, Proxy, application
from cms.config import LOAD_SECONDS, Config, ConfigError, FileSpec, SocketSpec, load
from cms.grants.messages import Place
from cms.main import INTERRUPTED, VALUES, Run, run_anew
from cms.remote import NoDaemon, Remote
from cms.status import CRITICAL, UNKNOWN, expiry_warning
from cms.version import VERSION
from cms_oauth import paths

FAILED = 1
_STDOUT = 1

_SYSTEMD = "/run/systemd/system"

# How long a daemon may take from claiming its state folder to listening at its control socket, in seconds: it loads
# libraries and its configuration meanwhile.
STARTING_SECONDS = 5.0
_POLL_SECONDS = 0.05

Command = TypeVar("Command", bound=Callable[..., Any])


def _say(text: str) -> None:
    click.echo(text)


def _complain(message: str, hint: str = "") -> None:
    click.echo("\n".join(filter(None, [f"cms: {message}", hint])), err=True)


def _config_option(command: Command) -> Command:
    option = click.option("-c", "--config", metavar="FILE", default="", help="The configuration file.")
    return option(command)


def _passphrase_option(command: Command) -> Command:
    option = click.option("--passphrase-file", metavar="PATH", default="", help="Where an export's passphrase is.")
    return option(command)


def _ways(*, browser: str, device: str, paste: str) -> Callable[[Command], Command]:
    """Give a command the options that say how to sign in, as its argument `method`: "" for none. The texts are helps."""

    def with_options(command: Command) -> Command:
        for way, text in (("--paste", paste), ("--device", device), ("--browser", browser)):
            command = click.option(way, is_flag=True, expose_value=False, callback=_one_way, help=text)(command)
        return command

    return with_options


def _one_way(context: click.Context, option: click.Parameter, value: bool) -> None:
    """Take the way that an option names. Raises UsageError for a second one, of which click would take the last."""
    before = context.params.setdefault("method", "")
    if value and before:
        raise click.UsageError(f"--{before} and --{option.name} are two ways to sign in: name one.")
    if value:
        context.params["method"] = option.name


def _config_path(config: str, usual: Callable[[], str] = paths.config_file) -> str:
    """Return the file that is meant: the command's own option, else that before the command, else the usual one."""
    before = click.get_current_context().find_root().params.get("config")
    return config or before or usual()


def _load(path: str) -> Config:
    """Load a configuration: a program, which may not end. Raises ConfigError."""
    loaded: Future[Config] = Future()

    def run() -> None:
        try:
            loaded.set_result(load(path))
        # BLE001: it is raised again, where somebody waits for it.
        except BaseException as error:  # noqa: BLE001
            loaded.set_exception(error)

    # A daemon thread: this process can end without it.
    loading = threading.Thread(target=run, name="configuration", daemon=True)
    loading.start()
    if not wait([loaded], LOAD_SECONDS).done:
        message = f"it did not end within {LOAD_SECONDS:g} s"
        raise ConfigError(path, _line_under_way(loading, path), message, "A configuration says what it has to and ends")
    return loaded.result()


def _line_under_way(thread: threading.Thread, path: str) -> int | None:
    """Return the line of a file that a thread is in, None if it is in none."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented, for just this
    while frame and frame.f_code.co_filename != path:
        frame = frame.f_back
    return frame.f_lineno if frame else None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="cms")
@_config_option
@click.pass_context
def cms(context: click.Context, config: str) -> None:
    """An OAuth2 token broker for mail: fresh Microsoft 365 access tokens on a Unix socket."""
    # Commands look for the option themselves.
    meant = cms.commands[context.invoked_subcommand or ""]
    if config and not any(each.name == "config" for each in meant.params):
        raise click.UsageError(f"-c is for the commands that read a configuration, and `cms {meant.name}` does not.")


@cms.command()
@_config_option
@click.option("--log-level", type=click.Choice(VALUES["--log-level"]), default="info", show_default=True)
@click.option(
    "--log-form",
    type=click.Choice(VALUES["--log-form"]),
    default="auto",
    show_default=True,
)
def run(config: str, log_level: str, log_form: str) -> None:
    """Run the daemon in the foreground."""
    run_anew(Run(_config_path(config), log_level, log_form))


@cms.command()
@click.argument("user", default="")
@_ways(
    browser="With a browser on this machine.",
    device="With a code, in a browser anywhere.",
    paste="In a browser anywhere, whose last address is pasted here.",
)
@_config_option
def login(user: str, method: str, config: str) -> int:
    """Sign in as USER, with or without a running daemon.

    USER is not needed if there is only one account.
    """
    try:
        return _login(user, method, config)
    except KeyboardInterrupt:
        # The terminal has shown ^C in the line.
        click.echo(err=True)
        _complain("the sign-in was given up")
        return INTERRUPTED


def _login(user: str, method: str, config: str) -> int:
    with _daemon_or_none(config) as found:
        return terminal.sign_in(
            found,
            user,
            method,
            terminal.terminal(),
            say=_say,
            browse=terminal.browser(),
            shown_on=terminal.screen(),
        )


@contextmanager
def _daemon_or_none(config: str) -> Iterator[Remote]:
    """Yield a conversation with the daemon that runs, else with one of this process for this command."""
    with ExitStack() as stack:
        found = _connect_if_running()
        yield stack.enter_context(found) if found else _one_or_the_other(config, stack)


def _one_or_the_other(config: str, stack: ExitStack) -> Remote:
    """Return a conversation with one of this process, or with a daemon that turns out to be starting."""
    from cms import alone, logs  # noqa: PLC0415 - half a daemon, which most commands do without

    logs.setup(level="error")
    process.harden()
    loaded = _load(_config_path(config))
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            own = stack.enter_context(alone.daemonless(loaded, paths.state_folder()))
        except process.InUse:
            if time.monotonic() > deadline:
                raise
        else:
            _complain("no daemon is running: this is done without one")
            return own
        time.sleep(_POLL_SECONDS)
        found = _connect_if_running()
        if found:
            return stack.enter_context(found)


def _connect_if_running() -> Remote | None:
    """Return a conversation with the daemon. Raises Barred if there is one, of somebody else."""
    try:
        return _connect()
    except remote.Barred:
        raise
    except NoDaemon:
        return None


@cms.command("import")
@click.argument("place", metavar="FILE_OR_NAME")
@click.option("--from", "source", metavar="FORMAT", default="", help="What it is, if that is not plain from it.")
@click.option(
    "--account", "user", metavar="USER", default="", help="For whom (not needed if there is only one account)."
)
@click.option("--force", is_flag=True, help="Replace a sign-in that is there already (cms's own exports).")
@_passphrase_option
@click.option("--entry", metavar="NAME", default="", help="Which one, if there are several sign-ins in it.")
@_config_option
def bring_in(place: str, *, source: str, user: str, entry: str, passphrase_file: str, config: str, force: bool) -> int:
    """Take over sign-ins from a file or a keyring entry.

    The file is one that `cms export` has written, or another program's.

    Formats: cms, mutt_oauth2, msal (oauth2ms), sasl-xoauth2, email-oauth2-proxy, oama, pizauth. The client id has to be
    the same; docs/moving.md has the commands for each program.
    """
    path = moving.whereabouts(place, source)
    if why_not := moving.plainly_none(path):
        _complain(why_not, "name the file that `cms export` or the program has written")
        return FAILED
    with _daemon_or_none(config) as found:
        if moving.is_ours(path, source):
            passphrase = moving.Passphrase(passphrase_file)
            return _ended(moving.restore(found, user, path, passphrase, force=force, say=_say))
        return _ended(moving.bring_in(found, user, Place(path, source, entry)))


@cms.command()
@click.argument("users_and_file", nargs=-1, required=True, metavar="[USER]... FILE")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@_passphrase_option
@_config_option
def export(users_and_file: tuple[str, ...], passphrase_file: str, config: str, *, force: bool) -> int:
    """Write sign-ins to FILE, for `cms import` elsewhere.

    Those of the USERs, or of all. FILE is encrypted with a passphrase, which is typed twice, or is the first line
    of --passphrase-file or of the standard input. What is signed in here stays so.
    """
    *users, file = users_and_file
    if why := moving.no_file_name(file):
        raise click.UsageError(f"FILE is missing ({why}): `cms export USER FILE`.")
    path = Path(file)
    try:
        moving.check_target(path, force=force)
        with _daemon_or_none(config) as found:
            answer = moving.export(found, tuple(users), moving.Passphrase(passphrase_file))
        if answer.get("ok"):
            moving.write_private(path, str(answer.get("export")), force=force)
    except FileExistsError:
        _complain(f"{path} exists already and stays as it is", "name another file, or overwrite it with --force")
        return FAILED
    if answer.get("ok"):
        answer["hint"] = f"to {path}. On the other machine: `cms import {path.name}`. Delete the file after that"
    return _ended(answer)


@cms.command()
@click.argument("user", default="")
@click.option("--all", "everybody", is_flag=True, help="Everybody, and what no account has.")
@click.option("--yes", is_flag=True, help="With --all: delete without asking.")
@_config_option
def logout(user: str, config: str, *, everybody: bool, yes: bool) -> int:
    """Delete the sign-in of USER from this machine.

    The vault's key goes with it if nobody else is signed in.
    """
    if user and everybody:
        raise click.UsageError("--all leaves nobody out: name a USER or say --all.")
    # A script has said what it means.
    if everybody and not yes and sys.stdin.isatty() and not moving.confirm("Delete every sign-in of this machine?"):
        _complain("nothing was deleted")
        return FAILED
    with _daemon_or_none(config) as found:
        return _ended(found.ask("leave") if everybody else found.ask("logout", user=user))


@cms.command()
@click.option("--yes", is_flag=True, help="Delete without asking.")
@_config_option
def prune(config: str, *, yes: bool) -> int:
    """Show and delete stored sign-ins that no account has.

    They were given for accounts that the configuration has no longer.
    """
    with _daemon_or_none(config) as found:
        return _ended(moving.converse(found, "prune", moving.answers(lambda: "", _say, yes=yes), yes=yes))


@cms.command()
@click.argument("user", default="")
def refresh(user: str) -> int:
    """Fetch new tokens now, for USER or for every account."""
    return _told("refresh", user=user)


@cms.command()
def reload() -> int:
    """Read the configuration again. A faulty one changes nothing."""
    return _told("reload")


@cms.command()
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--check",
    is_flag=True,
    help="Say one line and exit as monitoring plugins do: 0 good, 1 warning, 2 critical, 3 unknown.",
)
@click.option(
    "--watch", "live", is_flag=True, help="Show it live on this terminal, and the last requests; Ctrl-C ends."
)
def status(user: str, *, as_json: bool, check: bool, live: bool) -> int:
    """Show every account, and whose move it is.

    Or that of USER alone. Its token, its sign-in, its last error, and the next command.
    """
    if live:
        return _watch(user, alone=not (as_json or check))
    try:
        with _connect() as found:
            answer = found.ask("status", **_shown_to(user))
    except NoDaemon as error:
        if not check:
            raise
        # Monitoring shows what is on standard output.
        _say(f"{error.message}; {error.hint}")
        return CRITICAL if _is_configured() or not isinstance(error, remote.Absent) else UNKNOWN
    if not answer.get("ok"):
        return _ended(answer)
    text = answer["message"] if check else answer["text"]
    _say(json.dumps(answer["json"], indent=2) if as_json else str(text).rstrip("\n"))
    return int(answer["exit_code"]) if check else 0


def _shown_to(user: str) -> dict[str, Any]:
    """Return what a daemon is told of whom to show, and of the terminal where there is one."""
    fields: dict[str, Any] = {"user": user} if user else {}
    if sys.stdout.isatty():
        fields["columns"] = shutil.get_terminal_size().columns
    return fields


def _watch(user: str, *, alone: bool) -> int:
    from cms import watch  # noqa: PLC0415 - for this one option

    if not alone:
        raise click.UsageError("--watch is for a person: --json and --check are for programs.")
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("--watch needs a terminal; `cms status` prints the same once.")
    watch.watch(partial(_status_document, user), watch.Screen(sys.stdout.fileno()))
    return 0


def _status_document(user: str) -> dict[str, Any]:
    with _connect() as found:
        answer = found.ask("status", **_shown_to(user))
    if not answer.get("ok"):
        raise NoDaemon(str(answer.get("message")), str(answer.get("hint")))
    document: dict[str, Any] = answer.get("json", {})
    return document


@cms.command()
@_config_option
def check(config: str) -> int:
    """Say what the configuration means; start nothing.

    The key, the folders of the sockets and the groups are looked at as a daemon would use them. A daemon that runs with
    this configuration is asked what it warns of.
    """
    found = _load(_config_path(config))
    _say("\n".join(summary(found)))
    if note := _where_to_look(found):
        _say(note)
    for warning in (
        *found.warnings,
        *_secrets(found),
        *_obstacles(found),
        *_expiries(found),
        *_running_warnings(found.file),
    ):
        _complain(f"warning: {warning}")
    return 0


def _where_to_look(found: Config) -> str:
    """Return what programs have to be told where cms-oauth looks at none of the sockets, "" where it finds one."""
    named = [spec.path for spec in found.sockets if spec.speaks != "postfix"]
    usual = {os.path.realpath(each) for each in paths.socket_candidates()}
    if not named or any(os.path.realpath(each) in usual for each in named):
        return ""
    return f"note: cms-oauth does not look there by itself: programs need --cms_sock={named[0]} or CMS_SOCK={named[0]}"


def _obstacles(found: Config) -> Iterator[str]:
    """Yield what is wrong with the key, the folders and the groups that a daemon would use, and what to do about it."""
    from cms.doctor import consultation  # noqa: PLC0415 - as for `cms doctor`

    for each in consultation.usable(found):
        verdict = each.verdicts[0]
        yield f"{each.message}: {verdict.cause}; {', then '.join(verdict.steps)}"


# What else writes such a file, for programs of other users to read: a Kubernetes volume has mode 0644.
_WRITTEN_BY_OTHERS = "client_assertion"
_SOURCES = ("client_secret", "certificate", "certificate_password", _WRITTEN_BY_OTHERS)


def _secrets(found: Config) -> Iterator[str]:
    """Yield what is wrong with the files that secrets are read from. The vault's key cms makes where it is missing."""
    named = [(name, source) for grant in found.grants for name in _SOURCES if (source := getattr(grant, name))]
    if found.proxy and found.proxy.password:
        named.append(("the proxy's password", found.proxy.password))
    for name, source in dict.fromkeys(each for each in named if each[1].kind == "file"):
        (path,) = source.value
        if why := _closed_or_open(path, name):
            yield f"{name}: {path} {why}"


def _closed_or_open(path: str, name: str) -> str:
    """Return what is wrong with a secret's file, and what to do about it; "" for nothing."""
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}; whoever runs cms must be able to"
    if mode & stat.S_IROTH and name != _WRITTEN_BY_OTHERS:
        return f"can be read by everybody on this machine: `chmod o-rwx {shlex.quote(path)}`"
    return ""


def _expiries(found: Config) -> Iterator[str]:
    """Yield what to say of applications' certificates that end soon, where they can be read here."""
    certified = [grant for grant in found.grants if grant.certificate]
    if certified:
        # Half a second of cryptography, for the few configurations that have certificates.
        from cms.grants.application import certificate_expiry  # noqa: PLC0415
    for grant in certified:
        warning = expiry_warning(certificate_expiry(grant), time.time())
        if warning:
            yield f"{grant.certificate}: {warning}"


@cms.command("admin-consent-url")
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@_config_option
def admin_consent_url(user: str, config: str, *, as_json: bool) -> int:
    """Print what to send to whoever has to consent.

    That is an administrator, and the application that of USER, or of all accounts.
    The address comes first on standard output, then a letter that explains it.
    """
    accounts = consent.meant(_load(_config_path(config)).accounts, user)
    if isinstance(accounts, str):
        _complain(accounts)
        return os.EX_USAGE
    why_not = consent.nobody_to_ask(accounts[0])
    if why_not:
        _complain(why_not)
        return FAILED
    asked = consent.petition(accounts)
    _say(json.dumps(consent.as_data(asked), indent=2) if as_json else f"{asked.urls[0]}\n\n{consent.letter(asked)}")
    return 0


def _running_warnings(file: str) -> list[str]:
    """Return what the tokens that a daemon holds are warned about, if one runs with this configuration file."""
    try:
        with _connect() as found:
            status = found.ask("status").get("json", {})
    except NoDaemon:
        return []
    if os.path.realpath(status.get("daemon", {}).get("config", "")) != os.path.realpath(file):
        return []
    return [f"{row['user'] or 'an account'}: {row['warning']}" for row in status["accounts"] if row.get("warning")]


@cms.command()
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--bundle", metavar="FILE", default="", help="Write a report without names and secrets, for a bug report."
)
@click.option("--as", "asking", metavar="UNIXUSER", multiple=True, help="Who must reach the sockets as well.")
@_config_option
def doctor(user: str, bundle: str, asking: tuple[str, ...], config: str, *, as_json: bool) -> int:
    """Look for what is wrong with all that mail needs.

    For USER or for every account, with whose move it is. Exits as monitoring plugins do: 0 good, 1 warning, 2 critical.
    """
    from cms.doctor import consultation  # noqa: PLC0415 - ssl, http and smtplib, for this command only

    world = consultation.World(_config_path(config), _load, user, asking)
    return consultation.attend(world, bundle, _say, as_json=as_json)


@cms.command()
@_config_option
@click.option("--user", default="", metavar="ADDRESS", help="The mail address to sign in with.")
@click.option("--system", is_flag=True, help="For the whole machine's service: /etc/cms/cms.cfg.")
@click.option("--offline", is_flag=True, help="Do not look up the address's tenant.")
@click.option("--tenant", default="", help="The tenant, where it is known.")
@click.option("--client-id", default="", help="An application of your own.")
@click.option("--redirect-uri", default="", help="The redirect address of that application.")
@click.option("--authority", default="", hidden=True, help="Another login host, https://HOST[:PORT].")
@click.option("--ca", default="", metavar="FILE", help="Certificate authorities to trust, where a proxy inspects TLS.")
@click.option("--try-smtp", default="", hidden=True, help="Another mail server to try, HOST[:PORT].")
@click.option("--try-imap", default="", hidden=True, help="As --try-smtp.")
@_ways(
    browser="Sign in with a browser on this machine.",
    device="Sign in with a code, in a browser anywhere.",
    paste="Sign in anywhere, and paste the browser's last address.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: do every step that is not switched off.")
@click.option("--no-unit", "unit", flag_value=False, default=True, help="Install no systemd unit.")
@click.option("--no-sign-in", "sign_in", flag_value=False, default=True, help="Do not sign in.")
@click.option("--no-test", "test", flag_value=False, default=True, help="Do not try the mail servers.")
@click.option("--no-show", "show", flag_value=False, default=True, help="Show nothing for mail programs.")
def init(config: str, *, system: bool, yes: bool, method: str, **wishes: Any) -> int:
    """Set cms up, step by step.

    It writes a first configuration, starts cms, signs in and tries the mail servers; each step can be declined. A configuration that exists is never touched.
    """
    from cms import alone, firstfile, firstrun  # noqa: PLC0415 - half a daemon, which most commands do without

    named = _config_path(config, str)
    if system and named:
        raise click.UsageError("--system names the file already: leave -c out.")
    path = named or (paths.system_config_file() if system else paths.own_config_file())
    # The daemon that is told of it may have another current folder.
    chosen = firstfile.Wishes(os.path.abspath(path), method=method, **wishes)  # noqa: PTH100 - links stay links
    return firstrun.begin(chosen, _Terminal(yes=yes), firstrun.Around(alone.explored, _load, _connect))


class _Terminal:
    """Whoever sits at the terminal, for `cms init`; with `yes` nobody is asked anything."""

    def __init__(self, *, yes: bool) -> None:
        self._yes = yes

    @property
    def there(self) -> bool:
        return self._yes or sys.stdin.isatty()

    def say(self, text: str) -> None:
        _say(text)

    def complain(self, text: str) -> None:
        _complain(text)

    def agree(self, question: str) -> bool:
        return self._yes or bool(self._asked(lambda: click.confirm(question, default=True)))

    def choose(self, question: str, choices: Sequence[str], usual: str) -> str:
        if self._yes:
            return usual
        return str(self._asked(lambda: click.prompt(question, usual, type=click.Choice(choices))))

    def reply(self, question: str, usual: str) -> str:
        return usual if self._yes else str(self._asked(lambda: click.prompt(question, usual)))

    def ask(self, question: str) -> str:
        try:
            return str(self._asked(lambda: click.prompt(question))).strip()
        except KeyboardInterrupt:
            if sys.stdin.isatty():
                raise
            # The end of a pipe looks like Ctrl-C to click.
            return ""

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except click.Abort:
            raise KeyboardInterrupt from None


@cms.command(context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def demo(arguments: tuple[str, ...]) -> int:
    """Show everything in a sandbox: no account is needed."""
    from cms.sandbox.demo import main as run_demo  # noqa: PLC0415 - of no use to any other command

    return run_demo(arguments)


def _connect() -> Remote:
    try:
        return remote.connect(paths.control_candidates())
    except remote.Absent as absent:
        raise remote.Absent(absent.message, _how_to_start()) from None


def _how_to_start() -> str:
    if not _is_configured():
        return "nothing is configured yet: `cms init` does that, and starts it"
    # As sd_booted(3) tells.
    return "start it with `cms run`" + (", or `systemctl --user start cms`" if Path(_SYSTEMD).is_dir() else "")


def _is_configured() -> bool:
    return os.path.lexists(paths.config_file())


def _told(command: str, **fields: str) -> int:
    """Tell the daemon something and say what came of it."""
    with _connect() as found:
        return _ended(found.ask(command, **fields))


def _ended(answer: dict[str, Any]) -> int:
    message, hint = str(answer.get("message")), str(answer.get("hint") or "")
    if not answer.get("ok"):
        _complain(message, hint)
        return FAILED
    _say("\n".join(filter(None, [message, hint])))
    return 0


def summary(config: Config) -> list[str]:
    """Return what a configuration means, line by line."""
    key = config.vault_key or "found by itself: a systemd credential, else the desktop keyring, else memory only"
    return [
        f"{config.file}: good",
        *(_account_line(account) for account in config.accounts),
        *(_socket_line(spec) for spec in config.sockets),
        *(_file_line(spec) for spec in config.files),
        *([_proxy_line(config.proxy)] if config.proxy else []),
        f"vault key: {key}",
    ]


def _account_line(account: Account) -> str:
    protocols = ", ".join(account.scopes) or "no protocol"
    return f"account {_name(account)}: {protocols}; signs in by {account.grant.sign_in}; application: {application(account.grant)}"


def _proxy_line(proxy: Proxy) -> str:
    who = f", as {proxy.user}" if proxy.user else ""
    but = f"; without it: {', '.join(proxy.no_proxy)}" if proxy.no_proxy else ""
    return f"proxy {proxy.url}{who}: the way to Entra{but}"


def _socket_line(spec: SocketSpec) -> str:
    named = [*(f"user {each}" for each in spec.users or ()), *(f"group {each}" for each in spec.groups or ())]
    limited = spec.users is not None or spec.groups is not None
    who = ", ".join(["its owner", "root", *named]) if limited else "whoever its mode lets in"
    group = f", group {spec.group}" if spec.group else ""
    users = ", ".join(_name(account) for account in spec.accounts)
    what = "Postfix table" if spec.speaks == "postfix" else "socket"
    default = f", by host {_name(spec.default)}" if spec.default else ""
    served = f"serves {users} with {', '.join(spec.protocols)}{default}"
    return f"{what} {spec.path}: mode {spec.mode:04o}{group}; for {who}; {served}"


def _file_line(spec: FileSpec) -> str:
    end = " and a newline" if spec.newline else ""
    return f"token file {spec.path}: mode {spec.mode:04o}; the {spec.protocol} token of {_name(spec.account)}{end}"


def _name(account: Account) -> str:
    return account.user or "(whoever signs in)"


def main(arguments: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    try:
        ended = cms.main(list(arguments), standalone_mode=False)
    except click.Abort:
        _complain("given up")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        _complain(str(error))
        return os.EX_CONFIG
    except NoDaemon as error:
        _complain(error.message, error.hint)
        return os.EX_UNAVAILABLE
    except process.NotOurs as error:
        _complain(str(error))
        return os.EX_CANTCREAT
    except moving.Unsaid as error:
        _complain(str(error), "nothing was written or changed")
        return FAILED
    except OSError as error:
        if _is_of_output(error):
            return _unwritten(error)
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"{where}{error.strerror or error}")
        return os.EX_OSERR
    return ended if isinstance(ended, int) else 0


def _is_of_output(error: OSError) -> bool:
    """Whether what failed was to write on the terminal, or on what stands in its place, and not a file of ours."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return bool(trace and trace.tb_frame.f_code is click.echo.__code__)


def _unwritten(error: OSError) -> int:
    """Say that the standard output takes no more; return the exit status."""
    # The interpreter would try again at its end, with a traceback.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
    _complain(f"nobody takes the output: {error.strerror}")
    return os.EX_IOERR
