"""How other programs keep a sign-in: the layouts that `cms import` knows, read from bytes. No I/O, and no decryption.

Each layout is a row of `FORMATS`: what the program is called, and how its contents become `Found`s. What a file does
not say (the application, who signed in) is "": the redemption tells.
"""

from __future__ import annotations

import configparser
import json
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cms.core import refusals
from cms.core.accounts import Grant, is_named, registration_of
from cms_oauth.addresses import is_address
from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object
from cms_oauth.microsoft import LOGIN_ALIASES, NATIVE_CLIENT
from cms_oauth.moves import Command
from cms_oauth.providers import DYNAMIC, GOOGLE, MICROSOFT, OWN, PROVIDERS, provider_at
from cms_oauth.text import printable

# Where its browser ends, by registration and flow; its other flows use this machine, or a code.
_MUTT_REDIRECTS = {("microsoft", "authcode"): NATIVE_CLIENT}

# email-oauth2-proxy derived keys with so many rounds before it noted their number beside the salt.
_PROXY_LEGACY_ROUNDS = 100_000

# `oauth2_flow` of its accounts that no person signs in to: what they need instead of an import.
_PROXY_UNATTENDED = {
    "service_account": "GMail_Account(USER, service_account=File(...)) needs no sign-in",
    "client_credentials": 'Office365_Account(USER, sign_in="app") needs no sign-in',
}

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
    encrypted. `provider` is a row's name, if the program says that instead of a host. `instead` is the next move if this
    kind of account has no sign-in.
    """

    program: str
    refresh_token: str = field(repr=False)
    user: str = ""
    name: str = ""
    client_id: str = ""
    host: str = ""
    encryption: Encryption | None = None
    redirect: str = ""
    provider: str = ""
    instead: str = ""

    @property
    def at(self) -> str:
        """The name of the provider where it is good, "" if it is not known."""
        return self.provider or provider_at(self.host)

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


def _provider(word: str) -> str:
    """Return the provider that a program's word means: users may add words of their own."""
    return word if word in PROVIDERS and word != OWN else ""


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
            provider=_provider(_text(body, "registration")),
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
    return [Found("oama", _text(body, "refresh_token"), user, provider=_provider(_text(body, "service")))]


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
        instead=_PROXY_UNATTENDED.get(option("oauth2_flow"), ""),
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
        if instead := _instead(found, grant, entry):
            raise Unfit(f"{place} holds no refresh token: {programs} gets tokens there without a person", instead)
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


def _instead(found: Sequence[Found], grant: Grant, entry: str) -> str:
    """Return the next move if the account that is meant is of a kind that has no sign-in, "" otherwise."""
    meant = _meant(found, grant, entry)
    return meant.instead if meant else ""


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
    if not _is_there(found, grant):
        title = PROVIDERS[found.at].title if found.at and found.at != MICROSOFT else found.host or "Microsoft"
        raise Unfit(
            f"{place} holds a sign-in at {title}, and the account signs in at {_host(grant.authority)}",
            _other_account(found, grant),
        )
    if not found.client_id and grant.client_id == DYNAMIC:
        raise Unfit(
            f"{place} does not say which application it was signed in with, and the account has none yet",
            f"set client_id= of the account to the one that {found.program} is configured with, and import again",
        )
    if found.client_id and found.client_id.lower() != grant.client_id.lower():
        raise Unfit(
            f"{place} was signed in with the application {_named(found.client_id)}, and the account uses "
            f"{_named(grant.client_id)}: a sign-in cannot go from one to the other",
            refusals.hint(
                f"if you know that application, {_how_to_name_it(grant)}, "
                "then `cms reload`, if cms is running, and import again; or sign in again: {login}",
                grant,
            ),
        )


def _is_there(found: Found, grant: Grant) -> bool:
    """Return True if the sign-in is good where the account signs in, or if the file does not say where it is good."""
    if not found.host:
        return found.provider in ("", grant.provider) or found.provider == provider_at(_host(grant.authority))
    host, ours = found.host.lower(), _host(grant.authority)
    if host == ours or {host, ours} <= LOGIN_ALIASES:
        return True
    # An authorization server may have its addresses at several hosts.
    return grant.server is not None and found.at in (grant.provider, provider_at(ours)) and found.at != ""


def _other_account(found: Found, grant: Grant) -> str:
    """Return the next move if the account is not at the place of the sign-in: mostly, the directive to write."""
    if grant.server is None and found.at in ("", MICROSOFT) and found.host:
        return refusals.hint("set cloud= or authority= of the account if it is the same mailbox; else {login}", grant)
    # The address is all that comes from the file: who pastes a line does not look at what is in it.
    user = json.dumps(found.user) if is_address(found.user) else "USER"
    directives = {
        GOOGLE: f'GMail_Account({user}, client=File("google-client.json"))',
        MICROSOFT: f"Office365_Account({user}, client_id=...)",
        "": f"OAuth2_Account({user}, issuer=..., client_id=...)",
    }
    return refusals.hint(
        "it needs an account at the same place: {directive} in the configuration, then `cms reload`, if cms is running, "
        "and import again with --account",
        grant,
        directive=directives.get(found.at, f'OAuth2_Account({user}, provider="{found.at}", client_id=...)'),
    )


def _how_to_name_it(grant: Grant) -> str:
    if grant.server is None:
        return "name it in client_id= of the account (and tenant= as that program has it)"
    if grant.provider == GOOGLE:
        return "give its file to client= of the account, or name it in client_id="
    return "name it in client_id= of the account"


def _named(client_id: str) -> str:
    if client_id == DYNAMIC:
        return "one that cms registers"
    known = registration_of(client_id)
    return f"{client_id} ({known.name})" if known else client_id
