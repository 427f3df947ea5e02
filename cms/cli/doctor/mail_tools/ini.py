"""Reads INI files as Python's configparser does, and tells the lines of their options. Pure."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping

from cms.cli.doctor.mail_tools.found import Place, numbered

_SECTION = re.compile(r"\[(.+)\]")


class Ini:
    """A file that was read. Raises configparser.Error for one that its program refuses.

    `interpolates` is True if `%(name)s` is replaced, and `%%` means a percent sign.
    """

    def __init__(self, tool: str, path: str, text: str, *, interpolates: bool = False) -> None:
        interpolation = configparser.BasicInterpolation() if interpolates else None
        self._parser = configparser.ConfigParser(interpolation=interpolation)
        self._parser.read_string(text)
        self._tool = tool
        self._path = path
        self._lines = _lines(text)

    def sections(self) -> list[str]:
        return self._parser.sections()

    def has(self, section: str, option: str) -> bool:
        return self._parser.has_option(section, option)

    def value(self, section: str, option: str, default: str = "") -> str:
        """Return an option's value, `default` if there is none. Raises configparser.Error for a stray percent sign."""
        return self._parser.get(section, option, fallback=default)

    def place(self, section: str, option: str = "") -> Place:
        """Return the line of an option, or of its section if it is not there."""
        return Place(self._tool, self._path, self._lines.get((section, option)) or self._lines.get((section, ""), 0))


def mistake(error: configparser.Error) -> str:
    """Return what configparser refuses, without quoting the line, which may hold a password."""
    if isinstance(error, configparser.DuplicateOptionError):
        return f"line {error.lineno} sets {error.option} a second time"
    if isinstance(error, configparser.DuplicateSectionError):
        return f"line {error.lineno} begins [{error.section}] a second time"
    if isinstance(error, configparser.InterpolationError):
        return f"the value of {error.option} has a percent sign that is not doubled"
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} stands before the first section"
    return (
        f"line {error.errors[0][0]} is no option"
        if isinstance(error, configparser.ParsingError)
        else "it is no INI file"
    )


def _lines(text: str) -> Mapping[tuple[str, str], int]:
    section, found = "", dict[tuple[str, str], int]()
    for number, line in numbered(text):
        header = _SECTION.match(line.strip())
        section = header[1] if header else section
        option = "" if header else re.split("[=:]", line, maxsplit=1)[0].strip().lower()
        # An option may be indented, and what looks like it in a continuation stands below.
        found.setdefault((section, option), number)
    return found
