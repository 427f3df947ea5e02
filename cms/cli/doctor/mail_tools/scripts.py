"""Reads what a person runs beside mail programs: startup files, scripts, units of systemd; in shell and in Python. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from cms.cli.doctor.mail_tools import python_code, shell
from cms.cli.doctor.mail_tools.found import Files, Machine, Place, Use, Variable, numbered

# Files that a login, a shell or a desktop session runs.
_STARTUP = (
    *("~/.profile", "~/.bash_profile", "~/.bash_login", "~/.bashrc", "~/.bash_aliases"),
    *("~/.zshenv", "~/.zprofile", "~/.zshrc", "~/.zlogin", "~/.xprofile", "~/.xsessionrc", "~/.xsession"),
)
# Files whose assignments are the environment of everything.
_ENVIRONMENT = ("/etc/environment", "~/.pam_environment")

_FOLDERS = ("~/bin", "~/.local/bin")
_SHELL = re.compile(r"#!\s*\S*?(?:/|env\s+)(?:sh|bash|dash|ash|zsh|ksh|mksh)\b")
_PYTHON = re.compile(r"#!.*\bpython[0-9.]*\b")

_UNIT = re.compile(r"(Environment|Exec\w+)\s*=\s*[-@:+!]*(.*)")


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "shell")
    profiles = machine.matching("/etc/profile.d", "*.sh")
    for path in (*profiles, *(each for name in _STARTUP for each in machine.first(name))):
        yield from _started(files, path)
    environment = machine.matching(f"{machine.config_home}/environment.d", "*.conf")
    for path in (*(each for name in _ENVIRONMENT for each in machine.first(name)), *environment):
        yield from _started(files, path, exported=frozenset({"CMS_SOCK"}))
    for folder in _FOLDERS:
        for path in machine.matching(folder):
            yield from _script(files, path)
    for path in machine.matching(f"{machine.config_home}/systemd/user", "*.service"):
        yield from _unit(files, path)
    # A startup file that cannot be read is the shell's business.


def _started(files: Files, path: str, exported: frozenset[str] = frozenset()) -> list[Use]:
    def follow(name: str, place: Place) -> str:
        whole = files.machine.expand(name)
        # The system's files are many, and none is about cms.
        return files.text(whole, place) if whole.startswith(f"{files.machine.home}/") else ""

    variables = shell.known(files.machine)
    start = shell.Start(Place("shell", path, 1), variables, exported, follow, startup=True)
    return shell.walk(files.text(path), start)


def _script(files: Files, path: str) -> list[Use]:
    text = files.text(path)
    first = text.partition("\n")[0]
    if _PYTHON.match(first):
        return python_code.asks(text, Place("python", path, 1), files.machine)
    return shell.asks(text, Place("shell", path, 1), files.machine) if _SHELL.match(first) else []


def _unit(files: Files, path: str) -> Iterator[Use]:
    exported: dict[str, str] = {}
    begun, number = "", 0
    for here, line in numbered(files.text(path)):
        number = number if begun else here
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            begun += f"{line[:-1]} "
            continue
        found, begun = _UNIT.fullmatch((begun + line).strip()), ""
        if not found:
            continue
        place = Place("shell", path, number)
        try:
            words = shlex.split(_specified(found[2], files.machine))
        except ValueError:
            continue
        if found[1] == "Environment":
            exported |= {name: value for name, _, value in (each.partition("=") for each in words)}
            yield from (Variable(place, value) for name, value in exported.items() if name == "CMS_SOCK")
        else:
            yield from shell.program(words, place, files.machine, exported=exported)


def _specified(text: str, machine: Machine) -> str:
    """Return a line of a unit with the specifiers for folders replaced (systemd.unit(5))."""
    folders = {"h": machine.home, "t": machine.environ.get("XDG_RUNTIME_DIR", "%t"), "%": "%"}
    return re.sub("%([ht%])", lambda found: folders[found[1]], text)
