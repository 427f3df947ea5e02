"""Checks of the arguments of directives: a value in, the checked value out, or a Mistake.

Messages name the argument and what it takes. They do not quote what was given: it could be a secret in the wrong
place, and the error names the line.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from cms.core.accounts import METHODS, UNATTENDED, Scopes, Source
from cms_oauth.microsoft import TENANT_WORDS

# What a configuration gives: anything, until it is checked.
Given: TypeAlias = object

T = TypeVar("T")

# RFC 5321: 64 octets of local part, the @, 255 of domain.
MAX_ADDRESS = 320

# sockaddr_un has 108 bytes for a path, the last of which is a NUL.
MAX_SOCKET_PATH = 107

# Entra's shortest tokens live for an hour: more than 50 minutes before the end would be a request every few minutes.
MAX_REFRESH_BEFORE = 3000.0

# The redirect address of the user's own application when the configuration names none. Entra compares everything of
# a `http://localhost` redirect but its port, so a registration with `http://localhost` allows this. 8080 is the port
# that people already forward over SSH for CMS.
OWN_REDIRECT = "http://localhost:8080"

# Where CMS had its sign-in page.
PAGE = "http://127.0.0.1:8080/"

# The most that a number of seconds may be: a longer pause is a mistake.
DAY = 24 * 60 * 60.0

# OpenID Connect's, less those that Entra does not know.
PROMPTS = ("login", "select_account", "consent", "none")

SIGN_IN_WAYS = (*METHODS, *UNATTENDED)

# MSAL adds these itself and refuses to be given them.
_OWN_SCOPES = frozenset({"openid", "profile", "offline_access"})

# The nine bits that chmod(1) sets.
ALL_PERMISSIONS = 0o777

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})

# Requests have 1,024 bytes for a protocol, its options and a user.
MAX_PROTOCOL = 40
_PROTOCOL = re.compile(rf"[A-Z][A-Z0-9_-]{{0,{MAX_PROTOCOL - 1}}}", re.ASCII)

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}", re.ASCII)
_HOST = re.compile(r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*", re.ASCII)
_SCOPE = re.compile(r"((?:https|api)://[^/\s]+(?:/[^/\s]+)*)/([A-Za-z0-9._-]+)", re.ASCII)


class Mistake(Exception):
    """The configuration says something that cannot be. The message ends without a full stop; `hint` is the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a sentence that names the known word most like this one, or all of them where none is like it."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[found[0]]}?" if found else f"Known: {', '.join(by_lower.values())}"


def kind_of(value: Given) -> str:
    """Name a value's type, for messages that must not quote it."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def optional(given: Given, check: Callable[[Given], T]) -> T | None:
    """Return an argument as it is checked, None where it was not given."""
    return None if given is None else check(given)


def text(name: str, value: Given) -> str:
    """Return a string without control characters, and not empty."""
    if not isinstance(value, str):
        raise Mistake(f"{name}= is a string, not {kind_of(value)}")
    if not value or not value.isprintable():
        raise Mistake(f"{name}= is empty or has control characters in it")
    return value


def choices(name: str, value: Given, known: Sequence[str]) -> tuple[str, ...]:
    """Return some of the known words, each once, in their own order; at least one."""
    given = [choice(name, each, known) for each in texts(name, value)]
    return tuple(each for each in known if each in given)


def seconds(name: str, value: Given, least: float, *, zero: bool = False) -> float:
    """Return seconds of a day at most, from `least` up; with `zero`, 0 as well."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= DAY
    if not fits and not (zero and type(value) is int and value == 0):
        ways = f"0 for never, or from {least:.0f}" if zero else f"from {least:.0f}"
        raise Mistake(f"{name}= is a number of seconds: {ways} to {DAY:.0f}")
    assert isinstance(value, int | float), "it fits"
    return float(value)


def command(name: str, value: Given, folder: str) -> tuple[str, ...]:
    """Return a program and its arguments, from a list or from the program's path alone.

    A program without a slash is looked up in PATH; `~` is a home folder, and a relative path starts at `folder`.
    """
    given = value if isinstance(value, list | tuple) else [value]
    if not given:
        raise Mistake(f"{name}= is an empty list", f'Such as {name}=["notify-me", "--mail"]')
    program, *rest = (text(name, os.fspath(each) if isinstance(each, os.PathLike) else each) for each in given)
    if "/" in program or program.startswith("~"):
        program = path(name, program, folder)
    elif not isinstance(value, list | tuple) and " " in program:
        raise Mistake(
            f"{name}= is one program's name, and no shell reads it", f'A list: {name}=["PROGRAM", "ARGUMENT"]'
        )
    return (program, *rest)


def flag(name: str, value: Given) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise Mistake(f"{name}= is True or False, not {kind_of(value)}")
    return value


def choice(name: str, value: Given, known: Sequence[str]) -> str:
    """Return one of the known words."""
    word = text(name, value)
    if word not in known:
        raise Mistake(f"{name}= is one of {', '.join(known)}", nearest(word, known))
    return word


def sequence(name: str, value: Given) -> Sequence[Given]:
    """Return a list or tuple. One bare value is a mistake that the message mends."""
    if not isinstance(value, list | tuple):
        raise Mistake(f"{name}= is a list, not {kind_of(value)}", f"Write {name}=[...]")
    return value


def texts(name: str, value: Given) -> tuple[str, ...]:
    """Return the strings of a list that is not empty, each once, in order."""
    found = tuple(dict.fromkeys(text(name, each) for each in sequence(name, value)))
    if not found:
        raise Mistake(f"{name}= is an empty list")
    return found


def address(name: str, value: Given) -> str:
    """Return a mail address or sign-in name, as it was written."""
    given = text(name, value)
    local, at, domain = given.rpartition("@")
    if not (local and at and domain) or " " in given or "@" in local or len(given.encode()) > MAX_ADDRESS:
        raise Mistake(f"{name}= is an address such as user@example.com")
    return given


def tenant(value: Given) -> str:
    """Return a tenant: GUID, domain, or one of Entra's three words."""
    given = text("tenant", value).lower()
    if given in TENANT_WORDS or _GUID.fullmatch(given) or _DOMAIN.fullmatch(given):
        return given
    raise Mistake(
        f"tenant= is a GUID, a domain, {', '.join(TENANT_WORDS[:-1])} or {TENANT_WORDS[-1]}",
        nearest(given, TENANT_WORDS),
    )


def guid(name: str, value: Given, names: Sequence[str]) -> str:
    """Return a GUID in lower case, or one of the names that stand for one."""
    given = text(name, value).lower()
    if given in names or _GUID.fullmatch(given):
        return given
    raise Mistake(
        f"{name}= is an application's GUID, or one of {', '.join(names)}",
        "Entra shows it as the application (client) ID",
    )


def authority(value: Given) -> str:
    """Return `https://HOST[:PORT]` in lower case."""
    given = text("authority", value)
    parts = _url("authority", given)
    if parts.scheme != "https" or parts.path or "?" in given or "#" in given:
        raise Mistake(
            "authority= is https://HOST or https://HOST:PORT and nothing else",
            "The tenant has an argument of its own, tenant=",
        )
    return given.lower()


def origin(value: Given) -> str | None:
    """Return the Origin header's value; "" means no header although the registration has one."""
    if value == "":
        return None
    given = text("origin", value)
    parts = _url("origin", given)
    if parts.scheme not in {"http", "https"} or parts.path not in {"", "/"} or "?" in given or "#" in given:
        raise Mistake('origin= is http://HOST[:PORT] or https://HOST[:PORT], or "" for no Origin header')
    return given


def redirect_uri(value: Given) -> str:
    """Return a redirect address, as it was written: Entra compares it to the letter. Without a port: any free one."""
    given = text("redirect_uri", value)
    parts = _url("redirect_uri", given)
    if parts.scheme not in {"http", "https"} or "#" in given:
        raise Mistake("redirect_uri= is an http:// or https:// address without a fragment")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise Mistake(
            "redirect_uri= with http:// goes to localhost or 127.0.0.1 only", "Elsewhere Entra wants https://"
        )
    return given


def page(value: Given) -> str:
    """Return the sign-in page's address: on this machine, with a port."""
    given = text("url", value)
    parts = _url("url", given)
    here = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not here or parts.port is None or parts.path not in ("", "/") or "?" in given or "#" in given:
        raise Mistake("url= is http://127.0.0.1:PORT/ or http://localhost:PORT/", "The page is for this machine only")
    return given


def proxy(value: Given) -> tuple[str, str]:
    """Return a proxy's `http://HOST:PORT`, and the user that it is asked as, "" for none."""
    given = text("url", value)
    userinfo, at, _place = given.removeprefix("http://").rpartition("@")
    if ":" in userinfo:
        raise Mistake(
            "url= has a password in it",
            'A password is given as a source, never as text: Proxy("http://USER@HOST:PORT", password=File("PATH"))',
        )
    parts = _url("url", given.replace(f"{userinfo}{at}", "", 1))
    if parts.scheme != "http" or parts.port is None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Mistake(
            "url= is http://HOST:PORT", "What goes through is encrypted in any case: the proxy is asked for a tunnel"
        )
    return f"http://{parts.netloc.lower()}", unquote(userinfo)


def host(name: str, value: Given) -> str:
    """Return a host's name, a domain's with or without a dot before it, or `*`; without a port."""
    given = text(name, value).lower()
    if given != "*" and not _HOST.fullmatch(given):
        raise Mistake(
            f"{name}= is names of hosts or domains such as login.example.com or .example.com", "Without ports"
        )
    return given


def mail_host(name: str, value: Given) -> str:
    """Return a mail server's name, without a port: mail tools have that in their own configuration."""
    given = text(name, value).lower()
    if not _HOST.fullmatch(given) or given.startswith("."):
        raise Mistake(f"{name}= is a host's name such as outlook.office365.com", "Without a scheme or a port")
    return given


def _url(name: str, given: str) -> SplitResult:
    try:
        parts = urlsplit(given)
        sound = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc and " " not in given
        sound = sound and not parts.netloc.endswith(":")
    except ValueError:
        sound = False
    if not sound:
        raise Mistake(f"{name}= is no address: the host, the port or both are wrong")
    return parts


def scopes(value: Given) -> Scopes:
    """Return scopes that one token can have, sorted: full names, all of one resource."""
    given = texts("scopes", value)
    if _OWN_SCOPES.intersection(given):
        raise Mistake("scopes= names openid, profile or offline_access", "Leave them out: every sign-in asks for them")
    found = [_SCOPE.fullmatch(each) for each in given]
    matches = [each for each in found if each]
    if len(matches) < len(found):
        raise Mistake(
            "scopes= takes full names",
            'Such as "https://outlook.office.com/SMTP.Send": Entra takes a bare name for one of Graph\'s',
        )
    if len({each[1].lower() for each in matches}) > 1:
        raise Mistake("scopes= names more than one resource, and a token is for one")
    if len(given) > 1 and any(each[2] == ".default" for each in matches):
        raise Mistake("scopes= has .default and more, and Entra refuses that", "Name .default alone")
    return tuple(sorted(given))


def refresh_before(value: Given) -> float:
    """Return seconds before expiry."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_REFRESH_BEFORE:
        raise Mistake(f"refresh_before= is a number of seconds, from 1 to {MAX_REFRESH_BEFORE:.0f}")
    return float(value)


def secret(name: str, value: Given) -> Source:
    """Return where a secret is read from. The secret itself is refused, and never quoted."""
    if isinstance(value, Source):
        return value
    raise Mistake(
        f"{name}= takes no literal: say where it is, not what it is",
        f'{name}=File("PATH"), {name}=Credential("NAME") or {name}=Command(["PROGRAM", ...])',
    )


def permissions(name: str, value: Given) -> int:
    """Return permission bits of a socket: connecting needs the right to write."""
    bits = _permission_bits(name, value)
    if not bits & 0o222:
        raise Mistake(f"{name}= lets nobody connect: that takes the right to write", "0o600 is the owner's alone")
    return bits


def file_permissions(name: str, value: Given) -> int:
    """Return permission bits of a file that is there to be read."""
    bits = _permission_bits(name, value)
    if not bits & 0o400:
        raise Mistake(f"{name}= keeps the file from its own owner", "0o600 is the owner's alone")
    if bits & 0o022:
        raise Mistake(f"{name}= lets others write the file, and what they write is sent as a credential")
    return bits


def _permission_bits(name: str, value: Given) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mistake(f"{name}= is permission bits such as 0o600, not {kind_of(value)}")
    if not 0 <= value <= ALL_PERMISSIONS:
        meant = f"0o{value}" if re.fullmatch("[0-7]{3}", str(value)) else "0o600"
        raise Mistake(f"{name}= is permission bits from 0o000 to 0o777", f"Octal: {meant}")
    return value


def protocol_name(name: str, value: Given) -> str:
    """Return a name for a protocol, as requests have it before their first comma or space."""
    given = text(name, value)
    if not _PROTOCOL.fullmatch(given):
        raise Mistake(f"{name}= is capitals and digits such as GRAPH, {MAX_PROTOCOL} at most")
    return given


def path(name: str, value: Given, folder: str) -> str:
    """Return an absolute path: `~` is a home folder, and a relative one starts at `folder`."""
    given = text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    try:
        return os.path.normpath(Path(folder) / Path(given).expanduser())
    except RuntimeError:
        raise Mistake(f"{name}= begins with ~, and that user's home folder is not known", "Write it out") from None


def file_path(name: str, value: Given, folder: str) -> str:
    """Return the absolute path of something that is no folder."""
    found = path(name, value, folder)
    if str(value).endswith("/"):
        raise Mistake(f"{name}= ends with a slash, and that is a folder", "Name a file in it")
    return found


def socket_path(value: Given, folder: str) -> str:
    """Return the absolute path of a socket, which has room for fewer bytes than other paths."""
    found = file_path("path", value, folder)
    if len(os.fsencode(found)) > MAX_SOCKET_PATH:
        raise Mistake(f"path= is longer than the {MAX_SOCKET_PATH} bytes that a socket may have", f"It is {found}")
    return found
