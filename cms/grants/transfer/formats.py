"""How other programs keep a sign-in: the layouts that `cms import` knows, read from bytes. No I/O, and no decryption.

Each layout is a row of `FORMATS`: what the program is called, and how its contents become `Found`s. What a file does
not say (the application, who signed in) is "": the redemption tells.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cms.core import refusals
from cms.core.accounts import Grant, is_named, registration_of
from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object
from cms_oauth.microsoft import LOGIN_ALIASES, NATIVE_CLIENT
from cms_oauth.moves import Command
from cms_oauth.text import printable

# mutt_oauth2.py's other registration; a Microsoft one says nothing of the cloud, which its users edit in the script.
_MUTT_HOSTS = {"google": "accounts.google.com"}

# Where its browser ends, by registration and flow; its other flows use this machine, or a code.
_MUTT_REDIRECTS = {("microsoft", "authcode"): NATIVE_CLIENT}

# email-oauth2-proxy derived keys with so many rounds before it noted their number beside the salt.
_PROXY_LEGACY_ROUNDS = 100_000

# Python refuses to make a number of thousands of digits; no count of rounds has more than these.
_MOST_DIGITS = 10

_PIZAUTH_VERSION = 1
# A dump holds some accounts with a dozen short strings each: a larger number is damage or an attack.
_PIZAUTH_MOST = 10_000


class Unfit(Exception):
    """This cannot be taken over. `hint` is the next move; neither quotes what was read."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unknown(ValueError):
    """The contents are not of this layout."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a program has encrypted a token: what its key is derived from, beside the password."""

    salt: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Found:
    """One sign-in of another program's.

    `host` is its login service and `redirect` the address that its browser ended at; with `encryption` the token is still
    encrypted.
    """

    program: str
    refresh_token: str = field(repr=False)
    user: str = ""
    name: str = ""
    client_id: str = ""
    host: str = ""
    encryption: Encryption | None = None
    redirect: str = ""

    @property
    def called(self) -> str:
        return printable(self.name or self.user) or "(no name)"

    @property
    def to_type(self) -> str:
        """The name as a person types it in a shell."""
        return str(Command((self.called,))) if self.name or self.user else self.called


@dataclass(frozen=True, slots=True)
class Format:
    """A layout. `read` returns all that is in the contents, or raises Unknown."""

    program: str
    read: Callable[[bytes], list[Found]]


def _object(raw: bytes | str) -> dict[str, Any]:
    try:
        return read_object(raw)
    except ValueError:
        raise Unknown from None


def _text(body: dict[str, Any], name: str) -> str:
    """Return a field, "" for one that is missing or null; anything but text means another layout."""
    value = body.get(name)
    if not isinstance(value, str | None):
        raise Unknown
    return value or ""


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        raise Unknown from None


def read_mutt(raw: bytes) -> list[Found]:
    """mutt_oauth2.py: one JSON object, as its decryption pipe prints it."""
    body = _object(raw)
    if "registration" not in body or "refresh_token" not in body:
        raise Unknown
    return [
        Found(
            "mutt_oauth2.py",
            _text(body, "refresh_token"),
            _text(body, "email"),
            client_id=_text(body, "client_id"),
            host=_MUTT_HOSTS.get(_text(body, "registration"), ""),
            redirect=_MUTT_REDIRECTS.get((_text(body, "registration"), _text(body, "authflow")), ""),
        )
    ]


def read_msal(raw: bytes) -> list[Found]:
    """MSAL's serialized cache; oauth2ms keeps it as text inside its configuration."""
    body = _object(raw)
    wrapped = body.get("token_cache")
    cache = _object(wrapped) if isinstance(wrapped, str) else body
    tokens = cache.get("RefreshToken", {})
    accounts = cache.get("Account", {})
    if not ({"RefreshToken", "AccessToken", "Account"} & cache.keys()) or not isinstance(tokens, dict):
        raise Unknown
    users = {_text(each, "home_account_id"): _text(each, "username") for each in _entries(accounts)}
    return [
        Found(
            "oauth2ms" if wrapped else "MSAL",
            _text(each, "secret"),
            users.get(_text(each, "home_account_id"), ""),
            client_id=_text(each, "client_id"),
            host=_text(each, "environment"),
            redirect=_text(body, "redirect_uri"),
        )
        for each in _entries(tokens)
    ]


def _entries(table: object) -> list[dict[str, Any]]:
    if not isinstance(table, dict) or not all(isinstance(each, dict) for each in table.values()):
        raise Unknown
    return list(table.values())


def read_sasl(raw: bytes) -> list[Found]:
    """sasl-xoauth2: one JSON object; only overrides of its configuration name the application."""
    body = _object(raw)
    if not {"refresh_token", "expiry"} <= body.keys():
        raise Unknown
    return [
        Found(
            "sasl-xoauth2",
            _text(body, "refresh_token"),
            _text(body, "user"),
            client_id=_text(body, "client_id"),
            host=_host(_text(body, "token_endpoint")),
        )
    ]


def read_oama(raw: bytes) -> list[Found]:
    """oama: one JSON object; the application is in its configuration only. The address is wrapped in an object."""
    body = _object(raw)
    if not {"service", "refresh_token", "exp_date"} <= body.keys():
        raise Unknown
    email = body.get("email")
    user = _text(email, "unEmailAddress") if isinstance(email, dict) else _text(body, "email")
    host = "accounts.google.com" if _text(body, "service") == "google" else ""
    return [Found("oama", _text(body, "refresh_token"), user, host=host)]


def read_proxy(raw: bytes) -> list[Found]:
    """email-oauth2-proxy: an INI file with a section for each address; its cache store is of the same layout."""
    ini = configparser.ConfigParser(interpolation=None)
    try:
        ini.read_string(raw.decode())
    except (configparser.Error, UnicodeDecodeError):
        raise Unknown from None
    users = [section for section in ini.sections() if "@" in section]
    if not users:
        raise Unknown
    inherits = _proxy_inherits(ini)
    # A section that only others inherit from names a domain, not a person.
    return [_proxy_account(ini, user, inherits=inherits) for user in users if not (inherits and user.startswith("@"))]


def _proxy_inherits(ini: configparser.ConfigParser) -> bool:
    try:
        return ini.getboolean("emailproxy", "allow_catch_all_accounts", fallback=False)
    except ValueError:
        raise Unknown from None


def _proxy_account(ini: configparser.ConfigParser, user: str, *, inherits: bool) -> Found:
    sections = (user, f"@{user.rpartition('@')[2]}", "@") if inherits else (user,)

    def option(name: str) -> str:
        return next((ini.get(each, name) for each in sections if ini.has_option(each, name)), "")

    rounds = option("token_iterations")
    if rounds and not (rounds.isdecimal() and len(rounds) <= _MOST_DIGITS):
        raise Unknown
    return Found(
        "email-oauth2-proxy",
        ini.get(user, "refresh_token", fallback=""),
        user,
        client_id=option("client_id"),
        host=_host(option("token_url")),
        encryption=Encryption(option("token_salt"), int(rounds or _PROXY_LEGACY_ROUNDS)),
        redirect=option("redirect_uri"),
    )


class _Reader:
    """A dump of pizauth's, decrypted: little-endian numbers of fixed size, lengths before what they count."""

    def __init__(self, raw: bytes) -> None:
        self._rest = raw

    def take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        if len(taken) != size:
            raise Unknown
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def count(self) -> int:
        count = self.number(8)
        if count > _PIZAUTH_MOST:
            raise Unknown
        return count

    def text(self) -> str:
        try:
            return self.take(self.number(8)).decode()
        except UnicodeDecodeError:
            raise Unknown from None

    def optional(self) -> str:
        return self.text() if self.number(1) else ""

    def texts(self) -> list[str]:
        return [self.text() for _ in range(self.count())]

    def pairs(self) -> list[tuple[str, str]]:
        return [(self.text(), self.text()) for _ in range(self.count())]

    def end(self) -> None:
        if self._rest:
            raise Unknown


def read_pizauth(raw: bytes) -> list[Found]:
    """pizauth's dump, once decrypted: every account with what identifies it, and its tokens if it is signed in."""
    reader = _Reader(raw)
    if reader.number(8) != _PIZAUTH_VERSION:
        raise Unknown
    found = [_pizauth_account(reader) for _ in range(reader.count())]
    reader.end()
    return found


def _pizauth_account(reader: _Reader) -> Found:
    name, auth_uri, fields, client_id = reader.text(), reader.text(), reader.pairs(), reader.text()
    reader.optional()  # the client secret
    redirect = reader.text()
    reader.texts()  # the scopes
    token_uri = reader.text()
    token = _pizauth_token(reader) if reader.number(4) else ""
    hints = [value for key, value in fields if key == "login_hint"] or _hints(auth_uri)
    return Found("pizauth", token, next(iter(hints), ""), name, client_id, _host(token_uri), redirect=redirect)


def _hints(address: str) -> list[str]:
    try:
        return parse_qs(urlsplit(address).query).get("login_hint", [])
    except ValueError:
        raise Unknown from None


def _pizauth_token(reader: _Reader) -> str:
    reader.text()  # the access token
    for _ in ("obtained", "expires"):
        reader.take(8 + 4)  # seconds and nanoseconds
    return reader.optional()


# In the order in which contents are tried: what says most about itself first.
FORMATS = {
    "mutt_oauth2": Format("mutt_oauth2.py", read_mutt),
    "msal": Format("oauth2ms, or any program with an MSAL cache", read_msal),
    "oama": Format("oama", read_oama),
    "sasl-xoauth2": Format("sasl-xoauth2", read_sasl),
    "email-oauth2-proxy": Format("email-oauth2-proxy", read_proxy),
    "pizauth": Format("pizauth", read_pizauth),
}


def read(raw: bytes, source: str, place: str) -> list[Found]:
    """Return the sign-ins in the contents of a file, of the format `source` or of whichever fits. Raises Unfit."""
    for name, layout in FORMATS.items():
        if source in ("", name):
            try:
                return layout.read(raw)
            except Unknown:
                continue
    said = f"nothing that {FORMATS[source].program} writes" if source in FORMATS else "of no format that cms knows"
    raise Unfit(f"{place} is {said}", f"the formats are {', '.join(FORMATS)}; name one with --from")


def choose(found: Sequence[Found], grant: Grant, entry: str, place: str) -> Found:
    """Return the one sign-in that is meant for this grant. Raises Unfit."""
    signed_in = [each for each in found if each.refresh_token]
    if not signed_in:
        programs = ", ".join(dict.fromkeys(each.program for each in found)) or "the program"
        raise Unfit(
            f"{place} holds no refresh token: {programs} has not signed in there",
            refusals.hint("sign in with that program first, or at once with cms: {login}", grant),
        )
    chosen = _meant(signed_in, grant, entry)
    if not chosen:
        names = ", ".join(dict.fromkeys(each.to_type for each in signed_in))
        wanted = entry or grant.login
        said = f"none of them is {wanted}" if wanted else "which of them is not said"
        raise Unfit(f"{place} holds several sign-ins, and {said}: {names}", "name one of them with --entry=NAME")
    _check(chosen, grant, place)
    return chosen


def _meant(found: Sequence[Found], grant: Grant, entry: str) -> Found | None:
    if entry:
        found = [each for each in found if is_named(entry, each.name, each.user)]
    elif len(found) > 1:
        # A lone one need not be called what the account is: the redemption tells who it really is.
        found = [each for each in found if is_named(each.user, grant.login)]
    # One person may have used several applications.
    fitting = [each for each in found if each.client_id.lower() == grant.client_id.lower()]
    return next(iter([*fitting, *found]), None)


def _check(found: Found, grant: Grant, place: str) -> None:
    """Refuse what cannot be redeemed where the account is: a sign-in belongs to one application at one service."""
    ours = _host(grant.authority)
    if found.host and found.host.lower() != ours and not {found.host.lower(), ours} <= LOGIN_ALIASES:
        raise Unfit(
            f"{place} holds a sign-in at {found.host}, and the account signs in at {ours}",
            refusals.hint("set cloud= or authority= of the account if it is the same mailbox; else {login}", grant),
        )
    if found.client_id and found.client_id.lower() != grant.client_id.lower():
        raise Unfit(
            f"{place} was signed in with the application {_named(found.client_id)}, and the account uses "
            f"{_named(grant.client_id)}: a sign-in cannot go from one to the other",
            refusals.hint(
                "if you know that application, name it in client_id= of the account (and tenant= as that program has it), "
                "then `cms reload`, if cms is running, and import again; or sign in again: {login}",
                grant,
            ),
        )


def _named(client_id: str) -> str:
    known = registration_of(client_id)
    return f"{client_id} ({known.name})" if known else client_id
