"""How mail programs read values in their own files, and so how `mail_programs` writes a person's words there.

A name may have quotes, an address an apostrophe or a #, and a path spaces. Each program reads these in its own way.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cms_oauth.expand import literal


class Unwritable(Exception):
    """A program's file has no way to write a value. The text says why."""


@dataclass(frozen=True, slots=True)
class Form:
    """A place for values in a program's file. `pattern` finds it in an example; its one group is the value.

    `write` returns the text for another value there, in the place of everything that the pattern has matched.
    """

    pattern: str
    write: Callable[[str], str]


# What has a backslash before it inside double quotes, in most programs' files and in a From: header.
_IN_QUOTES = '"\\'


def mailbox(name: str, address: str) -> str:
    """Return `NAME <ADDRESS>` for a From: header (RFC 5322, 3.4)."""
    plain = re.fullmatch(r"[\w !#$%&'*+/=?^`{|}~-]+", name)
    return f"{name if plain else _escaped(name)} <{address}>"


def _marked(value: str, signs: str) -> str:
    """Return a value with a backslash before each of these signs."""
    return value.translate({ord(sign): f"\\{sign}" for sign in signs})


def _escaped(value: str) -> str:
    """Return a value in double quotes, with a backslash before those and backslashes in it."""
    return f'"{_marked(value, _IN_QUOTES)}"'


def _as_it_is(value: str) -> str:
    return value


def _python(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cms_path(value: str) -> str:
    """A path in cms's own configuration."""
    return _python(literal(value))


def _msmtp(value: str) -> str:
    """msmtp(1), mpop(1): only the outer quotes are removed; nothing inside is special."""
    return f'"{value}"'


def _msmtp_from(value: str) -> str:
    if re.search("%[UHCM]", value):
        raise Unwritable(f"msmtp replaces %U, %H, %C and %M, and {value} has one of these")
    return value


def _mbsync(value: str) -> str:
    """mbsync(1): quotes anywhere, a backslash before any sign, and comments."""
    return value if re.fullmatch(r"[\w@.%+-]+", value) else _escaped(value)


def _mutt(value: str) -> str:
    """The manual of mutt, "Syntax of Initialization Files": variables and commands count inside double quotes."""
    return f'"{_marked(value, _IN_QUOTES + "$`")}"'


def _aerc(value: str) -> str:
    """aerc's library takes # and ; as comments anywhere, and leaves what is in backquotes or triple quotes alone."""
    quotes = '"""' if "`" in value else "`"
    return f"{quotes}{value}{quotes}" if re.search(r"[#;]|^['\"`]|\\$", value) else value


def _ini(value: str) -> str:
    """Python's configparser, whose values refer to others by %(name)s."""
    return value.replace("%", "%%")


def _git(value: str) -> str:
    """git-config(1), Syntax."""
    return _escaped(value) if re.search(r'[#;"\\]', value) else value


def _s_nail_from(value: str) -> str:
    """s-nail(1): `set` alone reads a backslash differently from release to release, `wysh set` as a shell does."""
    return f'set from="{value}"' if not re.search(r"[\"\\$`']", value) else f"wysh set from={shlex.quote(value)}"


def _exim(value: str) -> str:
    """The value of a macro that is expanded as a string, in one place inside quotes, and then read as a list.

    So nothing can be quoted there. Small letters, because a macro may be called as a part of the address; exim compares
    without regard to case.
    """
    if value[0] in "!^+/-" or re.search(r"[\s\\${}]", value):
        raise Unwritable(f"in exim's tables {value} means something else")
    return value.lower()


def _postfix(value: str) -> str:
    """postconf(5): $ begins a parameter's name."""
    if " " in value or "," in value:
        raise Unwritable(f"in Postfix's tables {value} means something else")
    return value.replace("$", "$$")


def _fetchmail(value: str) -> str:
    r"""fetchmail(1): backslashes as in C; a quote can only be written by its number."""
    return '"' + value.replace("\\", "\\\\").replace('"', "\\042") + '"'


_QUOTED = r'"([^"\n]*)"'
_LOGIN_OR_ADDRESS = r"(user@domain\.com|alice)"
_TOKEN_FILE = Form(rf"(?<=TokenFile\(){_QUOTED}", _cms_path)

# A file that is part of cms, in a command.
PART = Form(r"(CONTRIB/[\w.-]+)", shlex.quote)

# By the program's page in docs/clients/. Where no form matches, a word stands in a URL or names a host, and is safe.
FORMS: Mapping[str, tuple[Form, ...]] = {
    "msmtp": (Form(_QUOTED, _msmtp), Form(r"(?<=^from )(\S+)", _msmtp_from)),
    "mpop": (Form(_QUOTED, _msmtp),),
    "git": (Form(r"(?<= = )(User Name .*|user@domain\.com|cms)$", _git),),
    "mutt": (Form(_QUOTED, _mutt),),
    "aerc": (Form(r"(?<= = )(User Name .*|cms-oauth .*)$", _aerc),),
    "mbsync": (Form(_QUOTED, _escaped), Form(r"(?<=^User )(\S+)", _mbsync)),
    "offlineimap": (Form(_QUOTED, lambda value: _ini(_python(value))), Form(r"(?<=^remoteuser = )(\S+)", _ini)),
    "getmail": (Form(_QUOTED, _python),),
    "s-nail": (Form(rf"set from={_QUOTED}", _s_nail_from), Form(r"(?<=vput ! password )(.*)$", _as_it_is)),
    "emacs": (Form(_QUOTED, _escaped),),
    "exim": (Form(_LOGIN_OR_ADDRESS, _exim),),
    "postfix": (Form(_LOGIN_OR_ADDRESS, _postfix),),
    "imapsync": (_TOKEN_FILE, Form(r"(?<=^    )(imapsync .*)$", _as_it_is)),
    "fetchmail": (_TOKEN_FILE, Form(_QUOTED, _fetchmail)),
}
