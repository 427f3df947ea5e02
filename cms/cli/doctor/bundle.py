"""Removes names, addresses and ids from a doctor's report, so that it can be sent to strangers. Pure.

Of a person only the domain of the address stays. A placeholder stands for the same thing everywhere in a report, so a
reader can still see who asked for what. Everything that looks like a secret is removed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from cms.core.accounts import REGISTRATIONS
from cms_oauth.diagnosis.verdicts import for_powershell
from cms_oauth.microsoft import CLOUDS, EXCHANGE, GRAPH, PERMISSIONS, ROLES

# A name of a single letter would match words of the report.
SHORTEST_NAME = 2

# Ids of known applications and resources, which say nothing about a person.
PUBLIC_IDS = frozenset((EXCHANGE, GRAPH, *(each.client_id for each in REGISTRATIONS)))

# Microsoft's hosts and permissions: long words that are not secrets.
_PLACES = (
    place.rpartition("/")[2]
    for each in CLOUDS.values()
    for place in (each.login, each.resource, each.app_resource, each.graph, each.imap_host, each.smtp_host)
)
PUBLIC_WORDS = frozenset(each.lower() for each in (*_PLACES, *PERMISSIONS.values(), *ROLES.values()))

# A letter or digit: a name beside one is part of a longer word.
_EDGE = r"[^\W_]"

# In a URL, the @ is written %40.
_ADDRESS = re.compile(r"((?:(?!%40)[^\s@\"'`<>(),;:=/\\{}\[\]&?])+)(@|%40)([^\W_](?:[\w.-]*[^\W_])?)")
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")
# Two adjacent colons, or more colons than a time of day has.
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]*::|(?:[0-9A-Fa-f]+:){3})[0-9A-Fa-f:]{2,39}(?:%\w+)?(?![\w:])")
# The user in the path of a home folder.
_HOME = re.compile(r"(?<=/home/)[^/\s:\"'`,]+")
# A JSON web token, and anything else that is longer than a word: keys, codes, refresh tokens, hashes.
_JWT = re.compile(r"eyJ[\w+/=-]{6,}(?:\.[\w+/=-]*)*")
_LONG = re.compile(r"[A-Za-z0-9+_=~!*.-]{20,}")
_HEX = re.compile(r"(?<![A-Za-z0-9])[0-9a-fA-F]{16,}(?![A-Za-z0-9])")
# The parts of the report's own long words, such as SmtpClientAuthenticationDisabled. No secret has this shape.
_JOINTS = re.compile(r"[+_=~!*.-]+")
_WORDS = re.compile(r"[a-z]{1,19}|(?:[A-Z]{0,5}[A-Z][a-z]{2,18})+|[A-Z]{1,19}")
# A passphrase of several joined words. The report has no such word itself.
_PASSPHRASE = re.compile(r"(?:[a-z]{2,}[+_=~!*-]+){3,}[a-z]{2,}")
# Marks an address that is a placeholder already. No text of a report has this character.
_DONE = "\0"
# user:password@ in the address of a proxy.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")


class Redactor:
    """Removes private data from texts. `names` are those of users and hosts, `home` is a home folder."""

    def __init__(
        self,
        names: Iterable[str] = (),
        home: str = "",
        addresses: Iterable[str] = (),
        mailboxes: Iterable[str] = (),
    ) -> None:
        self._home = home.rstrip("/")
        self._known: dict[str, dict[str, str]] = {}
        self._domains: set[str] = set()
        addresses = [each for each in addresses if "@" in each]
        locals_ = [each.rpartition("@")[0] for each in addresses]
        for each in locals_:
            self._placeholder("user", each)
        # Of these `_ADDRESS` would leave the part before a sign that is also a quote or part of a URL.
        odd = [each for each in addresses if "%" in each or not _ADDRESS.fullmatch(each)]
        self._odd = {form.lower(): each for each in odd for form in _forms(each)}
        kinds = (("user", locals_), ("name", names), ("mailbox", mailboxes))
        self._names = {name.lower(): kind for kind, each in kinds for name in each if len(name) >= SHORTEST_NAME}

    def redact(self, text: str) -> str:
        """Return the text without private data."""
        # The order matters: what an early step replaces as a whole may contain what a later step replaces.
        text = self._homes(text)
        text = _JWT.sub("<secret>", _CREDENTIALS.sub("<credentials>@", text))
        text = self._odd_addresses(text)
        text = _ADDRESS.sub(self._address, text)
        text = self._words(text)
        text = _LONG.sub(self._secret, text)
        text = self._ids(text)
        text = _IPV4.sub(self._numbered("address"), text)
        return _IPV6.sub(self._numbered("address"), text)

    def _homes(self, text: str) -> str:
        if self._home:
            text = re.sub(rf"{re.escape(self._home)}(?![\w.-])", "~", text)
        return _HOME.sub(self._numbered("name"), text)

    def _secret(self, found: re.Match[str]) -> str:
        """Return "<secret>" for a long word, or the word itself if it is an id (see `_ids`), public, or made of words."""
        word = found[0]
        plain = word.strip(".-").lower()
        if _GUID.fullmatch(word) or plain in PUBLIC_WORDS or plain in self._domains:
            return word
        made_of_words = all(map(_WORDS.fullmatch, filter(None, _JOINTS.split(word))))
        return word if made_of_words and not _PASSPHRASE.search(word) else "<secret>"

    def _address(self, found: re.Match[str]) -> str:
        if found[1].endswith("<credentials>"):
            return found[0]
        if found[1].startswith(_DONE):
            return found[0].removeprefix(_DONE)
        self._domains.add(found[3].lower())
        return f"{self._placeholder('user', found[1])}{found[2]}{found[3]}"

    def _odd_addresses(self, text: str) -> str:
        def placeholder(found: re.Match[str]) -> str:
            local, at, domain = self._odd[found[0].lower()].rpartition("@")
            self._domains.add(domain.lower())
            return f"{_DONE}{self._placeholder('user', local)}{at}{domain}"

        for form in sorted(self._odd, key=len, reverse=True):
            text = re.sub(rf"(?<!{_EDGE}){re.escape(form)}(?!{_EDGE})", placeholder, text, flags=re.IGNORECASE)
        return text

    def _ids(self, text: str) -> str:
        text = _GUID.sub(
            lambda found: found[0] if found[0].lower() in PUBLIC_IDS else self._placeholder("id", found[0]), text
        )
        return _HEX.sub("<secret>", text)

    def _words(self, text: str) -> str:
        """Replace names, the longest first, because one may be part of another."""
        for name in sorted(self._names, key=len, reverse=True):
            pattern = rf"(?<!{_EDGE}){re.escape(name)}(?!{_EDGE})"
            text = re.sub(pattern, self._numbered(self._names[name]), text, flags=re.IGNORECASE)
        return text

    def _numbered(self, kind: str) -> Callable[[re.Match[str]], str]:
        return lambda found: self._placeholder(kind, found[0])

    def _placeholder(self, kind: str, found: str) -> str:
        known = self._known.setdefault(kind, {})
        number = known.setdefault(found.lower(), f"{len(known) + 1}")
        return f"{kind}-{number}"


def _forms(address: str) -> set[str]:
    """Return how an address may be written: as it is, quoted for a shell or PowerShell, in a URL, in JSON."""
    shell, powershell = (each(address).removeprefix("'").removesuffix("'") for each in (shlex.quote, for_powershell))
    return {address, shell, powershell, quote(address), quote(address, safe="@"), json.dumps(shell)[1:-1]}


def addresses_in(data: Any) -> set[str]:
    """Return all mail addresses in JSON data. The name in such an address may also occur elsewhere in the data."""
    match data:
        case str():
            return {f"{found[1]}@{found[3]}" for found in _ADDRESS.finditer(data)}
        case dict():
            return addresses_in(list(data.values()))
        case list() | tuple():
            return set().union(*map(addresses_in, data))
    return set()


def redacted(data: Any, redactor: Redactor) -> Any:
    """Return JSON data with every string redacted, but not the names of fields, which are the report's own."""
    match data:
        case str():
            return redactor.redact(data)
        case dict():
            return {name: redacted(each, redactor) for name, each in data.items()}
        case list() | tuple():
            return [redacted(each, redactor) for each in data]
    return data
