"""Checks how the configurations of mail tools ask cms for tokens: for which socket, user and protocol. Pure.

A tool runs `cms-oauth`, or connects to a socket itself, as exim does with `readsocket`. Both are found as text in its
configuration, without parsing the tool's whole grammar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cms.cli.doctor.findings import Finding, failed, passed, warned, yours
from cms.config.model import SocketSpec
from cms_oauth.diagnosis.verdicts import Verdict

CHECK = "mail tools"

# The configuration files of each tool. `~` is a user's home folder, and `*` any name.
PLACES = {
    "exim": (
        "/etc/exim4/exim4.conf",
        "/etc/exim4/exim4.conf.template",
        "/etc/exim4/conf.d/*/*",
        "/etc/exim/exim.conf",
        "/usr/exim/configure",
    ),
    "msmtp": ("~/.msmtprc", "~/.config/msmtp/config", "/etc/msmtprc"),
    "mpop": ("~/.mpoprc", "~/.config/mpop/config"),
    "mbsync": ("~/.mbsyncrc", "~/.config/isyncrc"),
    "mutt": ("~/.muttrc", "~/.mutt/muttrc", "~/.config/mutt/muttrc"),
    "neomutt": ("~/.neomuttrc", "~/.config/neomutt/neomuttrc"),
    "aerc": ("~/.config/aerc/accounts.conf",),
    "getmail": ("~/.getmail/*", "~/.config/getmail/*"),
    "offlineimap": ("~/.offlineimaprc", "~/.config/offlineimap/config"),
}

# A word with $ is expanded by exim, so its value is not known here.
_READSOCKET = re.compile(r"\$\{readsocket\s*\{([^{}]+)\}\s*\{\s*([A-Z][A-Z0-9_-]*)(?:,[^\s{}]*)?(?:\s+([^{}]*?))?\s*\}")
_COMMAND = re.compile(r"(?:\bCMS_SOCK=[\"']?([^\s\"']+)[\"']?\s+(?:\w+=\S*\s+)*(?:\S*/)?)?(cms-oauth\b[^\n]*)")

# exim's macros, which any later line may use (exim's specification, 6.4 "Macros in the configuration file").
_MACRO = re.compile(r"([A-Z]\w*)\s*==?\s*(.*?)\s*")
_MACRO_NAME = re.compile(r"[A-Z][A-Z0-9_]*")

# Characters that end a command within a tool's line.
_ENDS = re.compile(r"[|;&<>()]")

_USER = ("--user", "-u")
_SOCKET = ("--cms_sock", "--cms-sock")
_PROTOCOL = ("--proto",)
_TESTS = {"--test-smtp": "SMTP", "--test-imap": "IMAP", "--test-pop": "POP"}


@dataclass(frozen=True, slots=True)
class File:
    """A tool's configuration file. `error` says why it could not be read, "" if it was."""

    tool: str
    path: str
    text: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """One line that asks for a token. `socket` is "" for the usual place, `user` for the only account.

    `user` and `protocol` are "$" if the tool computes them for each request.
    """

    tool: str
    path: str
    line: int
    socket: str
    user: str
    protocol: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def uses(file: File) -> list[Use]:
    """Return the lines of a configuration that ask for a token, in order."""
    lines = list(_lines(file.text))
    macros = _macros(line for _, line in lines) if file.tool == "exim" else {}
    return [use for number, line in lines for use in _uses_in(file, number, line, macros)]


def _macros(lines: Iterable[str]) -> dict[str, str]:
    """Return exim's macros, with the macros in their values expanded."""
    macros: dict[str, str] = {}
    for found in filter(None, map(_MACRO.fullmatch, lines)):
        macros[found[1]] = _expanded(found[2], macros)
    return macros


def _expanded(text: str, macros: Mapping[str, str]) -> str:
    return _MACRO_NAME.sub(lambda found: macros.get(found[0], found[0]), text)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line that is not a comment, with its number. Lines that a backslash continues are joined."""
    begun, number = "", 0
    for here, line in enumerate(text.splitlines(), 1):
        number = number if begun else here
        if line.endswith("\\"):
            begun += line[:-1] + " "
            continue
        whole, begun = begun + line, ""
        if not whole.lstrip().startswith(("#", ";")):
            yield number, whole


def _uses_in(file: File, number: int, line: str, macros: Mapping[str, str]) -> Iterator[Use]:
    for found in _READSOCKET.finditer(line):
        place, user = (_expanded(text.strip(), macros) for text in (found[1], found[3] or ""))
        yield Use(file.tool, file.path, number, place, _plain(user), found[2])
    for found in _COMMAND.finditer(line):
        named = _options(found[2])
        place = named["socket"] or found[1] or ""
        yield Use(file.tool, file.path, number, place, _plain(named["user"]), named["protocol"])


def _plain(user: str) -> str:
    """Return a user, or "$" if the tool computes it: a variable, or a macro of another file."""
    return "$" if "$" in user or "%" in user or _MACRO_NAME.fullmatch(user) else user


def _options(command: str) -> dict[str, str]:
    """Return the socket, user and protocol that a `cms-oauth` command names."""
    # The command may be inside a tool's own quotes, or be a list of quoted words.
    words = [word.strip(",") for word in re.split(r"[\s\"'`\\]+", _ENDS.split(command)[0])]
    named = {"socket": "", "user": "", "protocol": "SMTP"}
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        given = value if equals else following
        if name in _USER:
            named["user"] = given
        elif name in _SOCKET:
            named["socket"] = given
        elif name in _PROTOCOL:
            named["protocol"] = given.upper() if given.isalnum() else "$"
        elif name in _TESTS:
            named["protocol"] = _TESTS[name]
    return named


@dataclass(frozen=True, slots=True)
class Served:
    """What the configuration serves. `usual` is the socket that `cms-oauth` uses without an option.

    `real` returns a path without symbolic links: /var/run is /run.
    """

    sockets: Sequence[SocketSpec]
    usual: str
    real: Callable[[str], str] = str


def assess(use: Use, served: Served) -> Finding:
    """Return whether a tool asks the right socket for the right user and protocol."""
    asked = use.socket or served.usual
    spec = next((each for each in served.sockets if served.real(each.path) == served.real(asked)), None)
    where = f"{use.tool} ({use.place})"
    if "$" in asked or not asked.startswith("/"):
        cause = f"{use.place} names the socket as {use.socket}, which is not an absolute path"
        verdict = yours("tool-socket-unknown", cause, "check that line yourself")
        return warned(CHECK, f"{where} computes the path of its socket", verdict)
    if spec is None:
        return failed(
            CHECK, f"{where} asks at {asked}, where this configuration has no socket", _other_socket(use, served)
        )
    wrong = _wrong_user(use, spec) or _wrong_protocol(use, spec)
    if wrong:
        return failed(CHECK, f"{where} asks for a token that it does not get", wrong)
    whom = {"": "the only account", "$": "the sender"}.get(use.user, use.user)
    return passed(CHECK, f"{where} asks for {use.protocol.replace('$', 'a protocol')} of {whom} at {asked}")


def _other_socket(use: Use, served: Served) -> Verdict:
    known = ", ".join(each.path for each in served.sockets) or "none at all"
    said = "the path is wrong" if use.socket else "it names none, and the usual path is another"
    how = "in readsocket, or in the macro that is there" if use.tool == "exim" else "with --cms_sock="
    return yours(
        "tool-socket",
        f"{said}: the configuration has {known}",
        f"in {use.path}, line {use.line}: name one of these {how}",
    )


def _wrong_user(use: Use, spec: SocketSpec) -> Verdict | None:
    names = [each.user for each in spec.accounts]
    if use.user == "$" or "" in names or use.user.lower() in {each.lower() for each in names}:
        return None
    known = ", ".join(names)
    if not use.user:
        return None if len({each.lower() for each in names}) == 1 else _user(use, "it names no user", known)
    return _user(use, f"{spec.path} does not serve {use.user}", known)


def _user(use: Use, cause: str, known: str) -> Verdict:
    return yours("tool-user", f"{cause}: it serves {known}", f"in {use.path}, line {use.line}: name one of these")


def _wrong_protocol(use: Use, spec: SocketSpec) -> Verdict | None:
    if use.protocol == "$" or use.protocol in spec.protocols:
        return None
    return yours(
        "tool-protocol",
        f"{spec.path} serves {', '.join(spec.protocols)}, and no {use.protocol}",
        f'add "{use.protocol}" to protocols= of this CredentialServer, or change line {use.line} of {use.path}',
        "`cms reload`",
    )
