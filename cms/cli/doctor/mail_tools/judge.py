"""Compares what mail programs ask with what the configuration serves. Pure.

Command lines are read by the client's own option readers, so that the doctor accepts what they accept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cms.cli.doctor.findings import Finding, failed, passed, skipped, warned, yours
from cms.cli.doctor.mail_tools.found import (
    UNKNOWN,
    Command,
    Fault,
    Login,
    NotFollowed,
    Place,
    Request,
    Table,
    TokenPath,
    Use,
    Variable,
)
from cms.config.model import FileSpec, SocketSpec
from cms.core.accounts import accounts_meant, is_served
from cms.core.status_table import some
from cms_oauth import dial, git_credential, options, wire
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.fetch import Options
from cms_oauth.microsoft import PERMISSIONS

CHECK = "mail tools"


@dataclass(frozen=True, slots=True)
class Served:
    """What the configuration serves.

    - `sockets`, `files`: None without a configuration, so that nothing can be said about them.
    - `usual`: the socket that `cms-oauth` uses without an option.
    - `home`: for `~`, which the client expands; `expand` does the same for variables.
    - `real`: returns a path without symbolic links: /var/run is /run.
    - `is_file`: says whether there is a program.
    """

    sockets: Sequence[SocketSpec] | None
    files: Sequence[FileSpec] | None
    usual: str
    home: str = "/"
    real: Callable[[str], str] = str
    is_file: Callable[[str], bool] = lambda _path: True
    expand: Callable[[str], str] = str

    def find(self, path: str, speaks: str) -> SocketSpec | None:
        """Return the socket with this path, if it speaks that protocol."""
        return next(
            (each for each in self.sockets or () if each.speaks == speaks and self.real(each.path) == self.real(path)),
            None,
        )

    def paths(self, speaks: str) -> str:
        """Return the paths of the sockets, as text."""
        return ", ".join(each.path for each in self.sockets or () if each.speaks == speaks) or "none at all"


_OPEN_QUOTE = "a quote in it is not closed, so that --user has the rest of the line in it"


def judge(use: Use, served: Served) -> list[Finding]:
    """Return the findings about one use; none if it is about somebody else's socket, table or file."""
    if isinstance(use, Fault):
        return [_fault(use)]
    if isinstance(use, NotFollowed):
        return [skipped(CHECK, f"{use.place.tool}: {use.place}: {use.why}")]
    if isinstance(use, Command):
        return list(_command(use, served))
    if isinstance(use, Request):
        return _request(use, served)
    if isinstance(use, Variable):
        return [_variable(use, served)]
    return _table(use, served) if isinstance(use, Table) else _token_path(use, served)


def _where(place: Place) -> str:
    return f"{place.tool} ({place})"


def _line(place: Place) -> str:
    return f"in {place.path}, line {place.line}" if place.line else f"in {place.path}"


def _fault(fault: Fault) -> Finding:
    level = failed if fault.certain else warned
    step = f"{_line(fault.place)}: {fault.step}"
    return level(CHECK, f"{_where(fault.place)} {fault.message}", yours("tool-login", fault.cause, step))


# Commands.


def _command(use: Command, served: Served) -> Iterator[Finding]:
    where = _where(use.place)
    if use.path and UNKNOWN not in use.path and not served.is_file(use.path):
        step = f"{_line(use.place)}: write the path that `command -v {use.program}` prints"
        yield failed(CHECK, f"{where} gets no token", yours("tool-command", f"there is no {use.path}", step))
        return
    read = _options(use)
    if isinstance(read, dial.Failed):
        if any(UNKNOWN in word for word in use.words):
            yield skipped(CHECK, f"{where} computes the options of {use.program}: {' '.join(use.words)}")
        else:
            cause = f"{use.program} refuses the command: {read.message}"
            yield failed(
                CHECK, f"{where} gets no token", yours("tool-command", cause, f"{_line(use.place)}: {read.hint}")
            )
        return
    yield _asked(use.place, _Asked(read.socket or use.socket, read.user, read.protocol), served)
    verdict = _output(use, read)
    if verdict:
        yield failed(CHECK, f"{where} does not log in with its token", verdict)
    else:
        step = f"write --proto={use.login.protocol}"
        yield from _another_protocol(use.place, use.login.protocol, read.protocol, step)


def _options(use: Command) -> Options | dial.Failed:
    """Return the options as the program itself reads them, or why it refuses them."""
    if use.program == git_credential.NAME:
        read: Options | dial.Failed = git_credential.read(list(use.words))
        if isinstance(read, Options):
            read.protocol = use.login.protocol or UNKNOWN
            # git names the user that it logs in as.
            read.user = read.user or UNKNOWN
    else:
        read = options.understand(list(use.words))
    if isinstance(read, dial.Failed):
        return read
    known = {name: value for name in ("protocol", "user") if UNKNOWN not in (value := getattr(read, name))}
    try:
        wire.parse_request(
            wire.build_request(wire.TokenRequest(known.get("protocol", "SMTP"), user=known.get("user", "")))
        )
    except wire.BadRequest as bad:
        if " --" in read.user:
            # As of o'connor@example.com without quotes around it: sh takes what follows the apostrophe for one word.
            return dial.Failed(
                "bad-request", _OPEN_QUOTE, "close it: an address with an apostrophe needs quotes around it"
            )
        return dial.Failed("bad-request", bad.message, "correct --user and --proto")
    return read


def _output(use: Command, read: Options) -> Verdict | None:
    """Return what is wrong with the form of a command's output, None if its program can use it."""
    login, line = use.login, _line(use.place)
    if read.test and login != Login():
        return yours("tool-output", f"--test-{read.test} prints no token", f"{line}: remove it")
    if login.form and read.output != login.form:
        cause = f"{use.place.tool} takes a bare token, and this prints {read.output}"
        return yours("tool-output", cause, f"{line}: write --output={login.form}")
    if login.bare and read.newline:
        cause = f"{use.place.tool} would send the newline after the token too"
        return yours("tool-output", cause, f"{line}: write --no_newline too")
    return None


def _another_protocol(place: Place, login: str, asked: str, step: str) -> Iterator[Finding]:
    """Yield a warning if a token is asked for one protocol of mail, and used for another."""
    if login and asked != login and asked in PERMISSIONS:
        verdict = yours(
            "tool-protocol", f"the login is {login}, and the token is asked for {asked}", f"{_line(place)}: {step}"
        )
        yield warned(CHECK, f"{_where(place)} may not log in with its token", verdict)


# Sockets, users and protocols.


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of a socket. The socket is "" for the usual one, the user for the only account."""

    socket: str
    user: str
    protocol: str


def _asked(place: Place, asked: _Asked, served: Served) -> Finding:
    """Return whether a socket serves a user and a protocol."""
    where, path = _where(place), _path(asked.socket, served)
    if UNKNOWN in path or not path.startswith("/"):
        cause = f"{place} names the socket as {asked.socket}, which is no absolute path"
        verdict = yours("tool-socket-unknown", cause, "check that line yourself")
        return warned(CHECK, f"{where} computes the path of its socket", verdict)
    if served.sockets is None:
        return skipped(CHECK, f"{where} asks at {path}: without a configuration that cannot be checked")
    spec = served.find(path, "tokens")
    if spec is None:
        message = f"{where} asks at {path}, where this configuration has no socket"
        return failed(CHECK, message, _other_socket(place, path, served, named=bool(asked.socket)))
    wrong = _wrong_user(place, asked.user, spec) or _wrong_protocol(place, asked, spec)
    if wrong:
        return failed(CHECK, f"{where} asks for a token that it does not get", wrong)
    whom = "its user" if UNKNOWN in asked.user else asked.user or "the only account"
    what = "a protocol" if UNKNOWN in asked.protocol else asked.protocol
    return passed(CHECK, f"{where} asks for {what} of {whom} at {path}")


def _path(socket: str, served: Served) -> str:
    return served.home + socket[1:] if socket.startswith("~/") else served.expand(socket) or served.usual


def _other_socket(place: Place, path: str, served: Served, *, named: bool) -> Verdict:
    said = "the path is wrong" if named else "it names none, and the usual path is another"
    if served.find(path, "postfix"):
        said = "that is a PostfixTable, which does not speak this protocol"
    how = "in readsocket, or in the macro that is there" if place.tool == "exim" else "with --cms_sock= or CMS_SOCK"
    cause = f"{said}: the configuration has {served.paths('tokens')}"
    return yours("tool-socket", cause, f"{_line(place)}: name one of these {how}")


def _wrong_user(place: Place, user: str, spec: SocketSpec) -> Verdict | None:
    names = [each.user for each in spec.accounts]
    if UNKNOWN in user or "" in names or is_served(spec.accounts, user):
        return None
    if not user and len({each.user.lower() for each in spec.accounts if not each.domain}) == 1:
        return None
    cause = f"{spec.path} does not serve {user}" if user else "it names no user"
    return yours("tool-user", f"{cause}: it serves {some(names)}", f"{_line(place)}: name one of these")


def _wrong_protocol(place: Place, asked: _Asked, spec: SocketSpec) -> Verdict | None:
    """Find a protocol that the socket does not serve, or that the protocols= of the account leave out."""
    protocol = asked.protocol
    if UNKNOWN in protocol:
        return None
    meant = () if UNKNOWN in asked.user else accounts_meant(spec.accounts, asked.user)
    if protocol not in spec.protocols:
        cause, where = f"{spec.path} serves {', '.join(spec.protocols)}, and no {protocol}", "this CredentialServer"
    elif meant and not any(protocol in each.scopes for each in meant):
        cause, where = f"the protocols= of {meant[0].user or 'the account'} leave {protocol} out", "the account"
    else:
        return None
    step = f'add "{protocol}" to protocols= of {where}, or change line {place.line} of {place.path}'
    return yours("tool-protocol", cause, step, "`cms reload`")


def _variable(use: Variable, served: Served) -> Finding:
    path = _path(use.socket, served)
    where = f"CMS_SOCK ({use.place})"
    if UNKNOWN in path or served.sockets is None:
        return skipped(CHECK, f"{where} is {path}: that cannot be checked here")
    if served.find(path, "tokens"):
        return passed(CHECK, f"{where} is {path}")
    return failed(
        CHECK,
        f"{where} is {path}, where this configuration has no socket",
        _other_socket(use.place, path, served, named=True),
    )


def _request(use: Request, served: Served) -> list[Finding]:
    """Return the findings about a request, if it is ours.

    It is at one of our sockets; or it asks for a protocol that cms serves, for a login or for a user that cms serves:
    other programs' requests may begin with SMTP too.
    """
    head, _, user = use.text.partition(" ")
    protocol = head.partition(",")[0]
    spec = served.find(use.socket, "tokens")
    protocols = {*PERMISSIONS, *(name for each in served.sockets or () for name in each.protocols)}
    accounts = [account for each in served.sockets or () for account in each.accounts]
    if spec is None and (
        protocol not in protocols or use.socket.startswith("inet:") or not (use.login or is_served(accounts, user))
    ):
        return []
    where = _where(use.place)
    try:
        # The value of a variable is not known; any good one stands for it.
        request = wire.parse_request(use.text.replace(UNKNOWN, "x").encode())
    except wire.BadRequest as bad:
        if UNKNOWN in head:
            return [_asked(use.place, _Asked(use.socket, UNKNOWN, UNKNOWN), served)]
        cause = f"cms refuses the request: {bad.message}"
        step = f"{_line(use.place)}: write {{SMTP USER}}, as docs/protocol.md says"
        return [failed(CHECK, f"{where} gets no token", yours("tool-request", cause, step))]
    found = [_asked(use.place, _Asked(use.socket, user, protocol), served), *map(_fault, use.faults)]
    found += _another_protocol(use.place, use.login, protocol, f"write {use.login} in the place of {protocol}")
    if use.login and request.form.endswith("-b64"):
        cause = f"{use.place.tool} encodes what it sends, and {request.form} is encoded already"
        fault = Fault(use.place, "does not log in with its token", cause, f"write {protocol} without an option")
        found.append(_fault(fault))
    return found


def _table(use: Table, served: Served) -> list[Finding]:
    """Return the findings about a table, if cms serves it, or serves another one and no program but Postfix does."""
    if use.inside and served.find(use.inside.socket, "postfix"):
        use = use.inside
    where = _where(use.place)
    spec = served.find(use.socket, "postfix")
    if spec:
        users = some([each.user for each in spec.accounts])
        good = passed(CHECK, f"{where} looks up logins of {users} at {use.socket}")
        return [good, *map(_fault, use.faults)]
    if served.find(use.socket, "tokens"):
        cause = f"{use.socket} is a CredentialServer, which does not speak Postfix's protocol"
    elif served.paths("postfix") == "none at all":
        return []
    else:
        cause = "the path is wrong"
    step = f"{_line(use.place)}: name one of these, or add a PostfixTable to the configuration"
    verdict = yours("tool-socket", f"{cause}: the configuration has {served.paths('postfix')}", step)
    return [failed(CHECK, f"{where} looks up logins at {use.socket}, where this configuration has no table", verdict)]


def _token_path(use: TokenPath, served: Served) -> list[Finding]:
    """Return the findings about a file with a token, if cms keeps it."""
    path = _path(use.path, served)
    spec = next((each for each in served.files or () if served.real(each.path) == served.real(path)), None)
    if spec is None:
        return []
    where = _where(use.place)
    good = passed(CHECK, f"{where} reads the {spec.protocol} token of {spec.account.user} in {path}")
    found = [good, *map(_fault, use.faults)]
    if spec.protocol != use.protocol:
        cause = f"the login is {use.protocol}, and the token is for {spec.protocol}"
        step = f'write TokenFile("{spec.path}", ..., "{use.protocol}") in the configuration, then `cms reload`'
        found.append(warned(CHECK, f"{where} may not log in with its token", yours("tool-protocol", cause, step)))
    return found
