"""Reads exim's configuration (exim's specification, chapters 6 and 11). Pure.

exim reads physical lines: it replaces macros, skips what `.ifdef` excludes, follows `.include`, and then joins lines that a
backslash continues. `${readsocket{SOCKET}{REQUEST}...}` and `${run{COMMAND}}` may stand anywhere in a value.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import UNKNOWN, Fault, Files, Machine, Place, Request, Use, numbered

_PLACES = (
    *("/etc/exim/exim.conf", "/etc/exim.conf", "/usr/exim/configure", "/usr/local/etc/exim/configure"),
    "/etc/mail/exim.conf",
)

# Debian makes the configuration from these, if there is no exim4.conf, by update-exim4.conf(8).
_DEBIAN = "/etc/exim4"
_PARTS = ("main", "acl", "router", "transport", "retry", "rewrite", "auth")

_MACRO = re.compile(r"([A-Z]\w*)\s*==?\s*(.*?)\s*", re.DOTALL)
_DIRECTIVE = re.compile(r"\.(ifdef|ifndef|elifdef|elifndef|else|endif|include_if_exists|include)\b\s*(.*)")
_INSTANCE = re.compile(r"(\w+)\s*:\s*")
_OPTION = re.compile(r"(?:hide\s+)?([a-z]\w*)\s*=\s*(.*)", re.DOTALL)
_ITEM = re.compile(r"\$\{(readsocket|run)\b\s*(?:,\s*\w+)*\s*(?=\{)")

_VARIABLE = re.compile(r"\$(?:\w+|\{)")

# A request has at most 1 KB. What is longer is not looked into.
_LONGEST = 2_048

# Macros that exim defines itself, or Debian's update-exim4.conf: whether they are is not known here.
_THEIRS = re.compile(r"\b(_[A-Z]|DC_|DEBCONF)\w+")

_MECHANISMS = {"XOAUTH2", "OAUTHBEARER"}


@dataclass
class _Branch:
    """An `.ifdef` that is open. `taken` is True once one of its parts was read; `open` if this part is read."""

    open: bool
    taken: bool
    certain: bool = True


@dataclass
class _Instance:
    """A driver: its options, and its first line."""

    options: dict[str, tuple[str, Place]] = field(default_factory=dict)


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "exim")
    paths = machine.first(f"{_DEBIAN}/exim4.conf") or _debian(files) or machine.first(*_PLACES)
    yield from _Reader(files).uses(paths)
    yield from files.unread


def _debian(files: Files) -> list[str]:
    """Return the files that Debian's exim is made from. dc_use_split_config says which."""
    machine, text = files.machine, files.text(f"{_DEBIAN}/update-exim4.conf.conf")
    split = re.search(r"^dc_use_split_config=['\"]?true", text, re.MULTILINE)
    parts = [path for part in _PARTS for path in machine.matching(f"{_DEBIAN}/conf.d/{part}")] if split else []
    template = parts or machine.first(f"{_DEBIAN}/exim4.conf.template")
    return [*machine.first(f"{_DEBIAN}/exim4.conf.localmacros"), *template] if template else []


class _Reader:
    def __init__(self, files: Files) -> None:
        self._files = files
        self._macros: dict[str, str] = {}
        self._branches: list[_Branch] = []

    def uses(self, paths: list[str]) -> Iterator[Use]:
        section, instance = "", _Instance()
        for line, place in self._logical_lines(paths):
            macro, begins = _MACRO.fullmatch(line), re.fullmatch(r"begin\s+(\w+)", line)
            opens, option = _INSTANCE.fullmatch(line), _OPTION.fullmatch(line)
            if macro:
                self._macros[macro[1]] = macro[2]
                continue
            if begins or opens:
                yield from self._of_instance(section, instance)
                instance = _Instance()
            if begins:
                section = begins[1]
            elif option and section == "authenticators":
                instance.options[option[1]] = (_unquoted(option[2]), place)
            else:
                yield from self._items(line, place)
        yield from self._of_instance(section, instance)

    def _logical_lines(self, paths: list[str]) -> Iterator[tuple[str, Place]]:
        begun, place = "", Place("exim", "")
        for text, here in self._physical_lines(paths):
            place = place if begun else here
            if text.endswith("\\"):
                begun += text[:-1] or " "
            elif begun + text:
                yield begun + text, place
                begun = ""

    def _physical_lines(self, paths: list[str]) -> Iterator[tuple[str, Place]]:
        for path in paths:
            yield from self._of_file(path, None)

    def _of_file(self, path: str, included: Place | None) -> Iterator[tuple[str, Place]]:
        for number, line in numbered(self._files.text(path, included)):
            place = Place("exim", path, number)
            text, replaced = self._expanded(line.strip())
            directive = _DIRECTIVE.match(text)
            if text.startswith("#"):
                continue
            if directive and directive[1].startswith("include"):
                if self._reads:
                    yield from self._included(directive[1], directive[2].strip().strip('"'), place)
            elif directive:
                self._condition(directive[1], directive[2], replaced=replaced)
            elif self._reads:
                yield text, place

    def _expanded(self, text: str) -> tuple[str, bool]:
        """Return a line with its macros replaced, in the order of their definitions, and whether there was any."""
        defined = re.match(r"[A-Z]\w*(?=\s*==?)", text)
        kept, rest = (defined[0], text[defined.end() :]) if defined else ("", text)
        before = rest
        for name, value in self._macros.items():
            rest = rest.replace(name, value)
        return kept + rest, rest != before

    @property
    def _reads(self) -> bool:
        return all(each.open for each in self._branches)

    def _condition(self, word: str, rest: str, *, replaced: bool) -> None:
        holds = replaced != word.endswith("ndef")
        certain = replaced or not _THEIRS.search(rest)
        if word in {"ifdef", "ifndef"}:
            self._branches.append(_Branch(holds or not certain, holds and certain, certain))
        elif not self._branches:
            return
        elif word == "endif":
            self._branches.pop()
        else:
            branch = self._branches[-1]
            branch.open = not branch.taken and (word == "else" or holds or not certain)
            branch.taken = branch.taken or (branch.open and certain)

    def _included(self, word: str, path: str, place: Place) -> Iterator[tuple[str, Place]]:
        whole = self._files.machine.expand(path, posixpath.dirname(place.path))
        if word == "include" or self._files.machine.is_file(whole):
            yield from self._of_file(whole, place)

    def _items(self, text: str, place: Place, faults: tuple[Fault, ...] = (), login: str = "") -> Iterator[Use]:
        """Yield what a value asks."""
        items = list(_ITEM.finditer(text))
        closing = _closing(text) if items else {}
        for found in items:
            arguments = _arguments(text, found.end(), closing)
            if found[1] == "readsocket" and len(arguments) > 1:
                yield Request(place, _value(arguments[0]), _value(arguments[1]), faults, login)
            elif found[1] == "run" and arguments:
                words = [_value(each) for each in re.findall(r'"[^"]*"|\S+', arguments[0])]
                words = [each.strip('"') for each in words]
                asked = shell.program(words, place, self._files.machine)
                yield from (*asked, *(faults if asked else ()))

    def _of_instance(self, section: str, instance: _Instance) -> Iterator[Use]:
        if section != "authenticators":
            return
        faults: list[Fault] = []
        name, place = instance.options.get("public_name", ("", Place("exim", "")))
        driver, where = instance.options.get("driver", ("plaintext", place))
        if name.upper() not in _MECHANISMS and place.line:
            cause = f"the authenticator is for {name}, which takes no token"
            faults.append(Fault(place, "does not log in with its token", cause, "write: public_name = XOAUTH2"))
        if driver != "plaintext":
            cause = f"`driver = {driver}` does not send what client_send says"
            faults.append(Fault(where, "does not log in with its token", cause, "write: driver = plaintext"))
        for option, (value, line) in instance.options.items():
            yield from self._items(value, line, *((tuple(faults), "SMTP") if option == "client_send" else ()))


def _unquoted(value: str) -> str:
    """Return an option's value without quotes. In quotes, a backslash escapes."""
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if quoted else value


def _closing(text: str) -> dict[int, int]:
    """Return where each brace that opens is closed. A backslash escapes one."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for each in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if each[0] == "{":
            opened.append(each.start())
        elif each[0] == "}" and opened:
            found[opened.pop()] = each.start()
    return found


def _arguments(text: str, at: int, closing: Mapping[int, int]) -> list[str]:
    """Return the arguments in braces that begin here."""
    found: list[str] = []
    while at in closing:
        found.append(text[at + 1 : closing[at]])
        at = closing[at] + 1
        at += len(text[at : at + _LONGEST]) - len(text[at : at + _LONGEST].lstrip())
    return found


def _value(text: str) -> str:
    """Return an argument with UNKNOWN for each expansion in it."""
    if len(text) > _LONGEST:
        return UNKNOWN
    value, at, closing = "", 0, _closing(text)
    while at < len(text):
        variable = _VARIABLE.match(text, at)
        if variable:
            value, at = value + UNKNOWN, closing.get(variable.end() - 1, variable.end() - 1) + 1
        elif text[at] == "\\":
            value, at = value + text[at + 1 : at + 2].replace("n", "\n"), at + 2
        else:
            value, at = value + text[at], at + 1
    return value.strip()
