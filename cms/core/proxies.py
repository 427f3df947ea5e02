"""The way to a login host: directly, or through the proxy that the configuration or the environment names. Pure.

The grant worker and `cms doctor` both go by `route`, so that they cannot disagree. It reads the environment as requests
does (`requests.utils`, `urllib.request.getproxies_environment`), because administrators know those rules, but for three
things: `HOST:PORT` needs no scheme, white space around an address does no harm, and a user without a password is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

from cms.core.accounts import Proxy
from cms_oauth.frozen import dataclass

# What cms can speak to a proxy, with the usual ports. SOCKS needs the Python package PySocks.
SCHEMES = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

# What names the proxy of the configuration.
DIRECTIVE = "Proxy(...)"

_PORTS = range(1, 1 << 16)
_SUFFIX = "_proxy"

# A scheme without its slashes; and the host of an address, in brackets if it is an IPv6 address, with its port.
_NO_SLASHES = re.compile(r"(?:https?|socks\w*):(?!//)", re.IGNORECASE)
_PLACE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+(?:%(?:25)?[\w.-]+)?)\]|([^\s\x00-\x1f\x7f\"'<>\[\\\]^`{|}:@%]+))(?::(\d{0,5}))?"
)


@dataclass(frozen=True, slots=True)
class Direct:
    """No proxy is on the way."""


@dataclass(frozen=True, slots=True)
class Through:
    """A proxy is on the way. `named_by` is a variable's name, or `DIRECTIVE`; `user` is "" for none."""

    scheme: str
    host: str
    port: int
    named_by: str
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """Its address without user and password."""
        return f"{self.scheme}://{self._netloc}"

    @property
    def url(self) -> str:
        """Its address with user and password: a secret."""
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{self.scheme}://{who}{self._netloc}"

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def resolves(self) -> bool:
        """True if the proxy looks up the names of hosts, so that this machine need not be able to."""
        return not self.is_socks or self.scheme in ("socks4a", "socks5h")

    @property
    def _netloc(self) -> str:
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Malformed:
    """The variable `named_by` has no address of a proxy. `why` completes "HTTPS_PROXY ..."; it quotes no password."""

    named_by: str
    why: str


Route: TypeAlias = Direct | Through | Malformed


def route(url: str, proxy: Proxy | None, environ: Mapping[str, str]) -> Route:
    """Return the way to `url`, an https:// address.

    A proxy of the configuration counts alone: what the environment says does not matter then. Its password is not here.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if proxy is not None:
        found = _parsed(DIRECTIVE, proxy.url) if proxy.serves(host) else Direct()
        return replace(found, user=proxy.user) if isinstance(found, Through) else found
    variables = _variables(environ)
    name, address = variables.get("https") or variables.get("all") or ("", "")
    if not address or _is_exempt(host, parts.port, environ, variables):
        return Direct()
    return _parsed(name, address)


def _variables(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return name and value of each `*_proxy` variable, by what it is for: "https", "all", "no".

    One in lower case counts before others, also where it is empty, which switches them off.
    """
    named = [(name, value) for name, value in environ.items() if name.lower().endswith(_SUFFIX)]
    lower = [(name, value) for name, value in named if name.endswith(_SUFFIX)]
    found = {name.lower().removesuffix(_SUFFIX): (name, value) for name, value in named if value}
    found |= {name.lower().removesuffix(_SUFFIX): (name, value) for name, value in lower}
    return {purpose: pair for purpose, pair in found.items() if pair[1]}


def _is_exempt(
    host: str, port: int | None, environ: Mapping[str, str], variables: Mapping[str, tuple[str, str]]
) -> bool:
    """Return True if NO_PROXY names the host. A port counts only where the URL names it."""
    # requests looks twice: at these two names, with networks and ports, and by urllib's rules, with `*`.
    listed = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").replace(" ", "").split(",")
    address = _address(host)
    if address is not None:
        if any(address in network if network else each == host for each, network in _networks(listed)):
            return True
    elif any(_is_below(place, each) for each in listed for place in (host, f"{host}:{port}" if port else host)):
        return True
    _, others = variables.get("no", ("", ""))
    return others == "*" or any(_is_below(host, each.strip().lower()) for each in others.split(","))


def _is_below(place: str, name: str) -> bool:
    """Return True for the name itself and all that ends with it after a dot. Leading dots do not matter."""
    name = name.lstrip(".")
    return bool(name) and f".{place}".endswith(f".{name}")


def _address(host: str) -> IPv4Address | None:
    try:
        return IPv4Address(host)
    except AddressValueError:
        return None


def _networks(listed: list[str]) -> Iterator[tuple[str, IPv4Network | None]]:
    """Yield each entry with the network that it is, such as 10.0.0.0/8, None for others. There are none of IPv6."""
    for each in listed:
        _, slash, bits = each.partition("/")
        try:
            yield each, IPv4Network(each, strict=False) if slash and int(bits) else None
        except ValueError:
            yield each, None


def _parsed(name: str, given: str) -> Through | Malformed:
    """Return the proxy that a variable names."""
    text = given.strip()
    if _NO_SLASHES.match(text):
        return Malformed(name, "lacks // behind the scheme")
    if "://" not in text:
        text = f"http://{text.removeprefix('//')}"
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        return Malformed(name, f"has another scheme than {', '.join(SCHEMES)}" if scheme.isalnum() else _NOTHING)
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(netloc) :]:
        return Malformed(name, _UNQUOTED)
    who, _, place = netloc.rpartition("@")
    found = _PLACE.fullmatch(place)
    if found is None or (found[3] and int(found[3]) not in _PORTS):
        return Malformed(name, _NOTHING)
    user, _, password = who.partition(":")
    host = (found[1] or found[2]).lower().replace("%25", "%")
    return Through(scheme, host, int(found[3] or SCHEMES[scheme]), name, unquote(user), unquote(password))


_NOTHING = "is no address of a proxy such as http://HOST:PORT"
_UNQUOTED = "has a user or password that is not percent-encoded: write %23 for #, %2F for /, %3F for ?"
