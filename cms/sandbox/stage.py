"""The `cms demo` command: all of cms against the sandbox, from the first sign-in to an authenticated submission.

The programs are the real ones, run as separate processes; Entra, the submission server and the person at the browser
are simulated. Everything lives in one temporary folder, which is removed at the end.

The servers need the libraries of the extra "sandbox", so they are imported only when the demonstration starts.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cms.sandbox import habits, person
from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.show import Show

if TYPE_CHECKING:
    from cms.sandbox.entra import Entra
    from cms.sandbox.host import Host
    from cms.sandbox.imap import Imap
    from cms.sandbox.issuer import Issuer
    from cms.sandbox.submission import Submission

USER = "you@sandbox.example"
# An account at a provider that behaves as Google does.
GOOGLE = "you@mail.example"
# The third account of a sandbox that stays.
TEAM = "team@sandbox.example"

# The last line of the demonstration: that of a passed SMTP test.
PASSED = "reply: retcode (235); Msg: b'2.7.0 Authentication successful'"

# How long to wait for a step: a loaded machine needs seconds, and a step that takes longer has failed.
STEP_SECONDS = 60.0
POLL_SECONDS = 0.05
# Before a token is asked for again that is not there yet, as after a restart: what cms-oauth says of a loaded machine.
AGAIN_SECONDS = 1.0

# How many lines of the daemon's log are shown after a failure.
LOG_LINES = 40

# Variables that point to this user's own daemon, keyring, browser, proxy or certificates.
_OWN = re.compile(
    r"(?i)CMS_SOCK|(RUNTIME|STATE|CONFIGURATION|CREDENTIALS)_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*"
    r"|DBUS_SESSION_BUS_ADDRESS|DISPLAY|WAYLAND_DISPLAY|BROWSER|XDG_.*|HOME|.*_PROXY|(REQUESTS|CURL)_CA_BUNDLE|SSL.*"
)

# What each account has to say of the sandbox.
_SERVERS = """\
    redirect_uri="http://localhost/",
    smtp_host={smtp!r},
    imap_host={imap!r},
)
"""

_MICROSOFT = """\
{name} = Office365_Account(
    user={user!r},
    client_id={client_id!r},
    authority={authority!r},
"""

_GOOGLE = """\
google = OAuth2_Account(
    user={user!r},
    issuer={issuer!r},
    client_id={client_id!r},
    client_secret=File({secret!r}),
    scopes=["https://mail.google.com/", "openid", "email"],
    prompt="consent",
    parameters={{"access_type": "offline"}},
"""

_REST = """\
CredentialServer({socket!r}, accounts=[{names}], protocols=["SMTP", "IMAP"])
Vault(key=File({key!r}))
Tls(ca={ca!r})
"""

INTERRUPTED = 130

_MISSING = (
    "cms demo needs a library that is not installed: {name}. In the folder with the source of cms, say `make demo`, "
    f"or install it: {shlex.quote(f'{sys.prefix}/bin/pip')} install '.[sandbox]'"
)


def main(argv: Sequence[str] = ()) -> int:
    """Run the demonstration; return the exit status. With --keep the sandbox stays until Ctrl-C."""
    stays = list(argv) == ["--keep"]
    if argv and not stays:
        print("cms demo takes no arguments but --keep", file=sys.stderr)
        return os.EX_USAGE
    # These signals end the daemon that the demonstration has started, as Ctrl-C does.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return run_demo(steps=keep if stays else None)
    except ModuleNotFoundError as error:
        print(_MISSING.format(name=(error.name or "").partition(".")[0]), file=sys.stderr)
        return os.EX_UNAVAILABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Failed(Exception):
    """The demonstration cannot go on; the text says why."""


class TryAgain(Failed):
    """A program ended with the status of sysexits.h that says: try again later."""


@dataclass
class Stage:
    """The temporary folder, and the environment that keeps the programs inside it."""

    folder: Path
    show: Show
    entra: Entra
    issuer: Issuer
    submission: Submission
    imap: Imap
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = inside(self.folder, os.environ)
        self.ca.write_text("".join(Path(each.ca_file).read_text() for each in (self.entra, self.issuer)))

    @property
    def ca(self) -> Path:
        """The certificate authorities of both providers."""
        return self.folder / "ca.pem"

    @property
    def config(self) -> Path:
        return self.folder / "config" / "cms" / "cms.cfg"

    @property
    def socket(self) -> Path:
        return self.folder / "cms.sock"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    def run(self, program: str, *words: str, settings: Mapping[str, str] | None = None) -> str:
        """Run a command to its end, show it and what it says, and return its standard output."""
        self.show.command([program, *words], settings)
        try:
            done = subprocess.run(
                [*_PROGRAMS[program], *words],
                env={**self.environment, **(settings or {})},
                capture_output=True,
                text=True,
                timeout=STEP_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{program} did not end within {STEP_SECONDS:.0f} s") from None
        for line in (done.stdout + done.stderr).splitlines():
            self.show.line(line)
        if done.returncode:
            kind = TryAgain if done.returncode == os.EX_TEMPFAIL else Failed
            raise kind(f"{program} ended with status {done.returncode}")
        return done.stdout

    def _until_there(self, *words: str) -> str:
        """Run a command, and again while it says to try later, as a mail program's queue does."""
        until = _now() + STEP_SECONDS
        while True:
            try:
                return self.run(*words)
            except TryAgain:
                if _now() > until:
                    raise
            time.sleep(AGAIN_SECONDS)

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Run `cms run` until the block ends, and end it by SIGTERM."""
        words = ["run", "-c", str(self.config)]
        self.show.command(["cms", *words])
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*_PROGRAMS["cms"], *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._await(process)
            self.show.line(f"(runs as process {process.pid})")
            yield
        finally:
            self._end(process)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        until = _now() + STEP_SECONDS
        control = str(self.folder / "run" / "cms" / "control.sock")
        while not _listens(control):
            if process.poll() is not None:
                raise Failed(f"the daemon ended with status {process.returncode}")
            if _now() > until:
                raise Failed(f"the daemon does not listen on {control}")
            time.sleep(POLL_SECONDS)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STEP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed("the daemon did not end after SIGTERM") from None

    def sign_in(self, user: str = USER) -> None:
        """Run `cms login`, and sign in as the person when it shows the link."""
        words = ["login", user, "--browser"]
        self.show.command(["cms", *words])
        with subprocess.Popen(
            [*_PROGRAMS["cms"], *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                self._follow(process, user)
            finally:
                process.kill()  # does nothing to one that has ended
        if process.returncode:
            raise Failed(f"cms login ended with status {process.returncode}")

    def _follow(self, process: subprocess.Popen[str], user: str) -> None:
        link = re.compile(f"(?:{re.escape(self.entra.authority)}|{re.escape(self.issuer.authority)})" + r"/\S+")
        opened = False
        assert process.stdout is not None
        for line in process.stdout:
            self.show.line(_shortened(line.rstrip()))
            found = link.search(line)
            if found and not opened:
                opened = True
                self.show.line(f"(the browser opens the link; {user} signs in and accepts)")
                person.sign_in(found[0], user, ca_file=str(self.ca))
        process.wait(STEP_SECONDS)

    def fetch(self, user: str = USER, output: str = "xoauth2") -> str:
        """Fetch a token over the socket, and check that the provider reports it as this user's."""
        said = self._until_there("cms-oauth", f"--user={user}", f"--cms_sock={self.socket}", f"--output={output}")
        token = said.strip().rpartition("auth=Bearer ")[2].rstrip("\x01")
        told = (self.issuer if user == GOOGLE else self.entra).introspect(token)
        if told.get("email") != user:
            raise Failed("this is not a valid token")
        self.show.line(f"(introspection: active, {told['email']}, {told['scope']})")
        return token


# Replaced in tests, as _wait is.
_now = time.monotonic

# -P: no file in the current folder is imported instead of a library.
_PROGRAMS = {
    "cms": (sys.executable, "-P", "-m", "cms.main"),
    "cms-oauth": (sys.executable, "-P", "-m", "cms_oauth.main"),
}


def run_demo(out: TextIO = sys.stdout, steps: Callable[[Stage], None] | None = None) -> int:
    """Start the sandbox, run the demonstration, and clean up. Returns 0, or 1 after printing what failed.

    Raises ModuleNotFoundError where a library of the extra "sandbox" is missing.
    """
    from cms.sandbox.entra import Entra  # noqa: PLC0415 - needs the extra's libraries, as the next lines do
    from cms.sandbox.imap import Imap  # noqa: PLC0415 - as above
    from cms.sandbox.issuer import Issuer  # noqa: PLC0415 - as above
    from cms.sandbox.submission import Submission  # noqa: PLC0415 - as above

    show = Show(out)
    show.line("This is a sandbox: a simulated Entra and Google, simulated mail servers, and the real cms between them.")
    show.line("No account of yours is touched, and nothing leaves this machine.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cms-demo-")))
        entra = stack.enter_context(Entra([USER, TEAM]))
        issuer = stack.enter_context(Issuer(habits.google(), [GOOGLE]))
        knows = _by_either(entra, issuer)
        imap = stack.enter_context(Imap(knows, entra.cert_file, users=(USER, GOOGLE, TEAM)))
        submission = stack.enter_context(Submission(knows, entra.cert_file, deliver=imap.deliver))
        stage = Stage(folder, show, entra, issuer, submission, imap)
        try:
            (steps or play)(stage)
        except (Failed, OSError, person.Stuck) as problem:
            _explain(stage, problem)
            return 1
    return 0


def _by_either(*places: Host) -> Callable[[str], dict[str, Any]]:
    """Return the introspection of a server that takes the tokens of these providers."""
    return lambda token: next(
        (told for each in places if (told := each.introspect(token))["active"]), {"active": False}
    )


def play(stage: Stage) -> None:
    """Go through every step; raises Failed."""
    _set(stage)
    with stage.daemon():
        stage.show.heading("A person signs in to each account, once")
        stage.sign_in()
        stage.sign_in(GOOGLE)
        stage.show.heading("A mail program fetches a token of each")
        first = stage.fetch()
        stage.fetch(GOOGLE)
        stage.show.heading("The token is renewed without the person")
        stage.run("cms", "refresh", USER)
        if first == stage.fetch():
            raise Failed("the token is the same as before the refresh")
        stage.show.line("(another token than before)")
        stage.show.heading("The daemon is restarted: SIGTERM, then")
    with stage.daemon():
        stage.fetch()
        stage.show.line("(without another sign-in)")
        stage.run("cms", "status")
        stage.show.heading("The mail servers take the token")
        _test_mail(stage)


def keep(stage: Stage) -> None:
    """Sign in with three accounts, and leave everything running for a person to play with; raises Failed."""
    _set(stage, more=True)
    with stage.daemon():
        stage.show.heading("All sign in, once")
        for user in (USER, GOOGLE, TEAM):
            stage.sign_in(user)
        stage.show.heading("The sandbox stays until Ctrl-C, which removes it. In another terminal:")
        (stage.folder / "env.sh").write_text(_settings(stage))
        for line in (
            f". {stage.folder}/env.sh",
            "cms status",
            "cms doctor",
            f"cms-oauth --user={USER} --test-smtp=localhost:{stage.submission.port}",
            f"cms-oauth --user={USER} --test-imap=localhost:{stage.imap.port}",
            f"cms show msmtp --user={TEAM} > ~/.msmtprc",
            f"printf 'Subject: hello\\n\\nIt works.\\n' | msmtp {USER}",
            f"cms show mbsync --user={USER} > ~/.mbsyncrc; mkdir ~/Mail; mbsync work",
            f"cms show mutt --user={USER} > ~/.muttrc",
            "mutt",
            f"cms logout {TEAM}",
            f"cms login {TEAM}",
        ):
            stage.show.line(f"    {line}")
        stage.show.line("HOME is a folder of the sandbox there: your own files are neither read nor changed.")
        stage.show.line(
            "In a browser, `cms login` leads to the simulated Entra, whose certificate no browser knows: accept it."
        )
        stage.show.line("Debian has these programs in the packages msmtp, mutt, isync and libsasl2-modules-kdexoauth2.")
        with suppress(KeyboardInterrupt):
            _wait()


# Until a signal's handler raises.
_wait = signal.pause


def _settings(stage: Stage) -> str:
    """Return what a shell reads so that its commands ask this sandbox, and leave the person's files alone."""
    names = ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "NO_PROXY")
    settings = {name: stage.environment[name] for name in names}
    settings |= {"CMS_SOCK": str(stage.socket), "SSL_CERT_FILE": str(stage.ca)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*lines, f'PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"', "cd", ""])


def inside(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which every program stays within the folder, and make what it names."""
    kept = {name: value for name, value in environ.items() if not _OWN.fullmatch(name)}
    places = {"HOME": "home", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"}
    for name in places.values():
        (folder / name).mkdir(mode=0o700)
    folders = {name: str(folder / place) for name, place in places.items()}
    # Unbuffered, so that the output of a program is shown at once although it goes to a pipe.
    return kept | folders | {"NO_PROXY": "localhost,127.0.0.1", "PYTHONUNBUFFERED": "1"}


def _set(stage: Stage, *, more: bool = False) -> None:
    """Write the configuration: of one account at each provider, or of one more."""
    show = stage.show
    show.heading("The stage")
    show.line(f"simulated Entra:       {stage.entra.authority}")
    show.line(f"simulated Google:      {stage.issuer.authority}")
    servers = {"smtp": f"localhost:{stage.submission.port}", "imap": f"localhost:{stage.imap.port}"}
    show.line(f"simulated submission:  {servers['smtp']}")
    show.line(f"simulated mailboxes:   {servers['imap']}")
    stage.config.parent.mkdir(mode=0o700)
    secret = stage.folder / "google-secret"
    microsoft = {"client_id": CLIENT_ID, "authority": stage.entra.authority}
    google = {"issuer": stage.issuer.issuer, "client_id": habits.CLIENT_ID, "secret": str(secret)}
    accounts = {
        "account": _MICROSOFT.format(name="account", user=USER, **microsoft),
        "google": _GOOGLE.format(user=GOOGLE, **google),
    }
    if more:
        accounts["team"] = _MICROSOFT.format(name="team", user=TEAM, **microsoft)
    rest = _REST.format(
        socket=str(stage.socket), names=", ".join(accounts), key=str(stage.folder / "key"), ca=str(stage.ca)
    )
    stage.config.write_text("".join(each + _SERVERS.format(**servers) for each in accounts.values()) + rest)
    for file, content in ((stage.folder / "key", secrets.token_bytes(32)), (secret, habits.CLIENT_SECRET.encode())):
        file.touch(mode=0o600)
        file.write_bytes(content)
    show.command(["cat", str(stage.config)])
    for line in stage.config.read_text().splitlines():
        show.line(line)
    show.heading("The daemon")


def _test_mail(stage: Stage) -> None:
    """Log in to read and to send. The last line of a passed SMTP test is the last line of all."""
    for protocol, server in (("imap", stage.imap), ("smtp", stage.submission)):
        stage.run(
            "cms-oauth",
            f"--user={USER}",
            f"--cms_sock={stage.socket}",
            f"--test-{protocol}=localhost:{server.port}",
            settings={"SSL_CERT_FILE": str(stage.ca)},
        )
        if not any(login.accepted for login in server.logins):
            raise Failed(f"the {protocol.upper()} server has seen no login that counts")


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        return trial.connect_ex(path) == 0


def _shortened(line: str) -> str:
    """Return a line of a login, without the parameters of the link."""
    return re.sub(r"(/auth(?:orize)?\?)\S{60,}", r"\1...", line)


def _explain(stage: Stage, problem: Exception) -> None:
    stage.show.line(f"\nThe demonstration failed: {problem}")
    if stage.log.exists():
        stage.show.line(f"The daemon's log ends so ({stage.log} is removed now):")
        for line in stage.log.read_text(errors="replace").splitlines()[-LOG_LINES:]:
            stage.show.line(f"  {line}")
