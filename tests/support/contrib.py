"""The files of contrib/ with their adjustable lines adjusted, and nothing else about them changed."""

from __future__ import annotations

import re
from pathlib import Path

from cms.cli.init.mail_programs import TOOLS, Setting, fragment

ROOT = Path(__file__).parents[2]


def exim_conf(**macros: str) -> str:
    """Return contrib/exim4.conf with these macros' values."""
    text = (ROOT / "contrib" / "exim4.conf").read_text()
    for name, value in macros.items():
        # A value may go on after a backslash.
        line = f"{name} = {value}".replace("\\", r"\\")
        text, found = re.subn(rf"^{name} =(?:.*\\\n)*.*$", line, text, flags=re.MULTILINE)
        assert found == 1, f"{name} is defined {found} times"
    return text


# An address with signs that mean something to shells and to mail programs.
ODD = "o'connor#1+r&d!y%z$x@domain.com"


def adjusted(tool: str, login: str, user: str) -> dict[str, str]:
    """Return what `cms init` shows a login with this address to adjust in exim's or Postfix's file: values by name."""
    (found,) = [each for each in TOOLS if each.name == tool]
    setting = Setting(user, "User Name", "localhost", "localhost", login=login)
    lines = re.split(r"^(\w+) =", fragment(found, setting), flags=re.MULTILINE)
    return {name: value.strip() for name, value in zip(lines[1::2], lines[2::2], strict=True)}


def replaced(text: str, **words: str) -> str:
    """Return a text with words of an example replaced: each must be there."""
    for old, new in words.items():
        assert old in text, f"no {old} in the example"
        text = text.replace(old, new)
    return text
