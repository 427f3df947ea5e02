"""Checks the arguments of directives: each function takes a value and returns it checked, or raises Mistake.

Messages name the argument and what it takes. They do not quote the given value, which may be a secret in the wrong
place; the error names the line.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeGuard, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from cms.core.accounts import EVERY, METHODS, UNATTENDED, Scopes, Source
from cms_oauth.addresses import bare, fault, is_address
from cms_oauth.expand import Unusable, expanded
from cms_oauth.microsoft import TENANT_WORDS

# The value of an argument before it is checked: anything.
Given: TypeAlias = object

T = TypeVar("T")

# sockaddr_un has 108 bytes for a path, and the last is a NUL.
MAX_SOCKET_PATH = 107

# Entra's shortest tokens live for an hour. More than 50 minutes before their end would mean a request every few minutes.
MAX_REFRESH_BEFORE = 3000.0

# The default redirect address of the user's own application. Entra ignores the port of a `http://localhost` redirect,
# so a registration with `http://localhost` allows this. 8080 is the port that people already forward over SSH for cloud_mdir_sync.
OWN_REDIRECT = "http://localhost:8080"

# The address of cloud_mdir_sync's sign-in page.
PAGE = "http://127.0.0.1:8080/"

# A generator may have no end.
MAX_MEMBERS = 100_000

# The highest number of seconds: a longer pause is a mistake.
DAY = 24 * 60 * 60.0

# OpenID Connect's values of prompt, without those that Entra does not know.
PROMPTS = ("login", "select_account", "consent", "none")

SIGN_IN_WAYS = (*METHODS, *UNATTENDED)

# MSAL adds these itself, and raises an error if they are given.
_OWN_SCOPES = frozenset({"openid", "profile", "offline_access"})

# The nine bits that chmod(1) sets.
ALL_PERMISSIONS = 0o777

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})

# A request has 1,024 bytes for a protocol, its options and a user.
MAX_PROTOCOL = 40
_PROTOCOL = re.compile(rf"[A-Z][A-Z0-9_-]{{0,{MAX_PROTOCOL - 1}}}", re.ASCII)

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}", re.ASCII)
_PORT = re.compile(r"\d{1,5}", re.ASCII)
_HOST = re.compile(r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*", re.ASCII)
_SCOPE = re.compile(r"((?:https|api)://[^/\s]+(?:/[^/\s]+)*)/([A-Za-z0-9._-]+)", re.ASCII)

# RFC 6749, 3.3.
_ANY_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


class Place(NamedTuple):
    """A line of the configuration, or of a file that it reads."""

    file: str
    line: int

    def seen_from(self, other: Place) -> str:
        """Return this place in a message about another one."""
        return f"line {self.line}" if self.file == other.file else f"{self.file}:{self.line}"


class Mistake(Exception):
    """A directive cannot be used as it is written. The message has no full stop; `hint` says how to correct it.

    `place` is None for the line of the configuration that runs.
    """

    def __init__(self, message: str, hint: str = "", place: Place | None = None) -> None:
        super().__init__(message, hint, place)
        self.message = message
        self.hint = hint
        self.place = place


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the most similar known word, or all known words if none is similar."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[found[0]]}?" if found else f"Known: {', '.join(by_lower.values())}"


def kind_of(value: Given) -> str:
    """Return a value's type in words, for messages that must not quote the value."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def optional(given: Given, check: Callable[[Given], T]) -> T | None:
    """Return the checked argument, None if it was not given."""
    return None if given is None else check(given)


def text(name: str, value: Given) -> str:
    """Return a string that is not empty and has no control characters."""
    if not isinstance(value, str):
        raise Mistake(f"{name}= is a string, not {kind_of(value)}")
    if not value or not value.isprintable():
        raise Mistake(f"{name}= is empty or has control characters in it")
    return value


def choices(name: str, value: Given, known: Sequence[str]) -> tuple[str, ...]:
    """Return one or more of the known words, each once, in the order of `known`."""
    given = [choice(name, each, known) for each in texts(name, value)]
    return tuple(each for each in known if each in given)


def seconds(name: str, value: Given, least: float, *, zero: bool = False) -> float:
    """Return a number of seconds from `least` to a day; with `zero`, 0 is allowed too."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= DAY
    if not fits and not (zero and type(value) is int and value == 0):
        ways = f"0 for never, or from {least:.0f}" if zero else f"from {least:.0f}"
        raise Mistake(f"{name}= is a number of seconds: {ways} to {DAY:.0f}")
    assert isinstance(value, int | float), "checked above"
    return float(value)


def count(name: str, value: Given) -> int:
    """Return how many of something there may be: at least one."""
    if type(value) is not int or value < 1:
        raise Mistake(f"{name}= is a number, 1 or more")
    return value


def command(name: str, value: Given, folder: str) -> tuple[str, ...]:
    """Return a program and its arguments, from a list or from the path of a program.

    A program without a slash is found in PATH; others are paths, as in `path`. Arguments stay as they are.
    """
    given = value if isinstance(value, list | tuple) else [value]
    if not given:
        raise Mistake(f"{name}= is an empty list", f'Such as {name}=["notify-me", "--mail"]')
    program, *rest = (text(name, os.fspath(each) if isinstance(each, os.PathLike) else each) for each in given)
    if "/" in program or program.startswith(("~", "$")):
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


def is_collection(value: Given) -> TypeGuard[Iterable[Given]]:
    """True for a set, a generator, a view of a dict or the like: what has members, and is no list, text or dict."""
    return not isinstance(value, list | tuple | str | bytes | Mapping) and isinstance(value, Iterable)


def members(name: str, value: Iterable[Given]) -> list[Given]:
    """Return what is in a collection. A set gets an order that is the same in each run: that of lines, then of words."""
    found = list(islice(value, MAX_MEMBERS + 1))
    if len(found) > MAX_MEMBERS:
        raise Mistake(f"{name}= has no end, or more than {MAX_MEMBERS} members")
    # Otherwise a reload would take the same accounts for others.
    return (
        sorted(found, key=lambda each: (getattr(each, "line", 0), str(each)))
        if isinstance(value, set | frozenset)
        else found
    )


def sequence(name: str, value: Given) -> Sequence[Given]:
    """Return a list or tuple. For a single value the message says to write a list."""
    if not isinstance(value, list | tuple):
        raise Mistake(f"{name}= is a list, not {kind_of(value)}", f"Write {name}=[...]")
    return value


def texts(name: str, value: Given) -> tuple[str, ...]:
    """Return the strings of a list, each once, in order. The list must not be empty."""
    found = tuple(dict.fromkeys(text(name, each) for each in sequence(name, value)))
    if not found:
        raise Mistake(f"{name}= is an empty list")
    return found


def address(name: str, value: Given) -> str:
    """Return a mail address or sign-in name, as it was written, without what was pasted around it."""
    given = text(name, bare(value) if isinstance(value, str) else value)
    if why := fault(given):
        raise Mistake(f"{name}= is an address such as user@example.com", f"This {why}")
    return given


def mailbox(name: str, value: Given) -> str:
    """Return an address, or `*@domain.com` for every address of a domain."""
    given = value.strip() if isinstance(value, str) else ""
    return given if given.startswith(EVERY) and is_address(f"x{given[1:]}") else address(name, value)


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
    """Return a GUID in lower case, or one of `names`."""
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
            "The tenant has its own argument, tenant=",
        )
    return given.lower()


def origin(value: Given) -> str | None:
    """Return the Origin header's value, None for "": no header, although the registration has one."""
    if value == "":
        return None
    given = text("origin", value)
    parts = _url("origin", given)
    if parts.scheme not in {"http", "https"} or parts.path not in {"", "/"} or "?" in given or "#" in given:
        raise Mistake('origin= is http://HOST[:PORT] or https://HOST[:PORT], or "" for no Origin header')
    return given


def redirect_uri(value: Given) -> str:
    """Return a redirect address exactly as written, because Entra compares it like that. No port means any free port."""
    given, host = _redirect_uri(value)
    if host not in (*_LOOPBACK, ""):
        raise Mistake(
            "redirect_uri= with http:// goes to localhost or 127.0.0.1 only", "Elsewhere it has to be https://"
        )
    return given


def any_redirect_uri(value: Given) -> str:
    """Return a redirect address exactly as written. Other servers than Entra may know [::1], which is none of the other two."""
    given, host = _redirect_uri(value)
    if host not in (*_LOOPBACK, "::1", ""):
        raise Mistake(
            "redirect_uri= with http:// goes to localhost, 127.0.0.1 or [::1] only", "Elsewhere it has to be https://"
        )
    return given


def _redirect_uri(value: Given) -> tuple[str, str]:
    """Return a redirect address, and its host if that has to be this machine, else ""."""
    given = text("redirect_uri", value)
    parts = _url("redirect_uri", given)
    if parts.scheme not in {"http", "https"} or "#" in given:
        raise Mistake("redirect_uri= is an http:// or https:// address without a fragment")
    return given, str(parts.hostname) if parts.scheme == "http" else ""


def page(value: Given) -> str:
    """Return the sign-in page's address: on this machine, with a port."""
    given = text("url", value)
    parts = _url("url", given)
    here = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not here or parts.port is None or parts.path not in ("", "/") or "?" in given or "#" in given:
        raise Mistake("url= is http://127.0.0.1:PORT/ or http://localhost:PORT/", "The page is for this machine only")
    return given


def proxy(value: Given) -> tuple[str, str]:
    """Return a proxy's `http://HOST:PORT`, and the user that logs in to it, "" for none."""
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
            "url= is http://HOST:PORT",
            "The connection to the provider is encrypted anyway: cms asks the proxy for a tunnel",
        )
    return f"http://{parts.netloc.lower()}", unquote(userinfo)


def host(name: str, value: Given) -> str:
    """Return the name of a host, or of a domain with or without a leading dot, or `*`. No port."""
    given = text(name, value).lower()
    if given != "*" and not _HOST.fullmatch(given):
        raise Mistake(
            f"{name}= is names of hosts or domains such as login.example.com or .example.com", "Without ports"
        )
    return given


def mail_host(name: str, value: Given) -> str:
    """Return the host name of a mail server, with its port if one was given."""
    given = text(name, value).lower()
    host, colon, port = given.partition(":")
    sound = not colon or (_PORT.fullmatch(port) and 0 < int(port) < 1 << 16)
    if not sound or not _HOST.fullmatch(host) or host.startswith("."):
        raise Mistake(
            f"{name}= is a host's name such as outlook.office365.com, or one with its port", "Without a scheme"
        )
    return given


# Ten thousand accounts have the same few addresses.
@lru_cache(maxsize=256)
def _url(name: str, given: str) -> SplitResult:
    try:
        parts = urlsplit(given)
        sound = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc and " " not in given
        sound = sound and not parts.netloc.endswith(":")
    except ValueError:
        sound = False
    if not sound:
        raise Mistake(f"{name}= is not a valid address: the host, the port or both are wrong")
    return parts


def scopes(value: Given) -> Scopes:
    """Return scopes that one token can have, sorted: full names of one resource."""
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


def any_scopes(value: Given) -> Scopes:
    """Return scopes of any provider, in their order: words as RFC 6749 (3.3) has them."""
    given = texts("scopes", value)
    if not all(_ANY_SCOPE.fullmatch(each) for each in given):
        raise Mistake("scopes= is a list of scopes, none of which has a space or a quotation mark in it")
    return given


def pairs(name: str, value: Given) -> dict[str, str]:
    """Return the names and values of a dict of text."""
    if not isinstance(value, Mapping):
        raise Mistake(f"{name}= is a dict, not {kind_of(value)}", f'Such as {name}={{"hd": "example.com"}}')
    return {text(name, key): text(name, each) for key, each in value.items()}


def https(name: str, value: Given) -> str:
    """Return an address of HTTPS exactly as written, because servers compare it like that."""
    given = text(name, value)
    if _url(name, given).scheme != "https" or "?" in given or "#" in given:
        raise Mistake(f"{name}= is https://HOST[:PORT][/PATH]", "Tokens are sent over TLS only")
    return given


def refresh_before(value: Given) -> float:
    """Return seconds before expiry."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_REFRESH_BEFORE:
        raise Mistake(f"refresh_before= is a number of seconds, from 1 to {MAX_REFRESH_BEFORE:.0f}")
    return float(value)


def secret(name: str, value: Given) -> Source:
    """Return where to read a secret. A literal secret is refused, and never quoted."""
    if isinstance(value, Source):
        return value
    raise Mistake(
        f"{name}= takes no literal secret: name the place to read it from",
        f'{name}=File("PATH"), {name}=Credential("NAME") or {name}=Command(["PROGRAM", ...])',
    )


def permissions(name: str, value: Given) -> int:
    """Return permission bits of a socket. A program needs write permission to connect."""
    bits = _permission_bits(name, value)
    if not bits & 0o222:
        raise Mistake(f"{name}= lets no user connect: that needs write permission", "0o600 is for the owner only")
    return bits


def file_permissions(name: str, value: Given) -> int:
    """Return permission bits of a file that its owner can read and other users cannot write."""
    bits = _permission_bits(name, value)
    if not bits & 0o400:
        raise Mistake(f"{name}= does not let the file's owner read it", "0o600 is for the owner only")
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
    """Return the name of a protocol: the part of a request before its first comma or space."""
    given = text(name, value)
    if not _PROTOCOL.fullmatch(given):
        raise Mistake(f"{name}= is capitals and digits such as GRAPH, {MAX_PROTOCOL} at most")
    return given


def path(name: str, value: Given, folder: str) -> str:
    """Return an absolute path: `expanded` is what may be in it, and a relative path starts at `folder`."""
    return os.path.normpath(Path(folder) / _expanded(name, value))


def _expanded(name: str, value: Given) -> str:
    given = text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    try:
        return text(name, expanded(given))
    except Unusable as unusable:
        raise Mistake(f"{name}= cannot be used: {unusable.message}", _sentence(unusable.hint)) from None


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def file_path(name: str, value: Given, folder: str) -> str:
    """Return the absolute path of a file, socket or other thing that is not a folder."""
    found = path(name, value, folder)
    if _expanded(name, value).endswith("/"):
        raise Mistake(f"{name}= ends with a slash, and that is a folder", "Name a file in it")
    return found


def socket_path(value: Given, folder: str) -> str:
    """Return the absolute path of a socket, which must be shorter than other paths."""
    found = file_path("path", value, folder)
    if len(os.fsencode(found)) > MAX_SOCKET_PATH:
        raise Mistake(f"path= is longer than the {MAX_SOCKET_PATH} bytes that a socket may have", f"It is {found}")
    return found
