"""The way to a login host: as requests reads the environment, and what it is told where that says nothing of use."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from requests.utils import get_auth_from_url, get_environ_proxies, prepend_scheme_if_needed, select_proxy
from urllib3.util import parse_url

from cms.core.accounts import Proxy
from cms.core.proxies import SCHEMES, Direct, Malformed, Through, route

LOGIN = "https://login.example.com/common"

HOSTS = ("login.example.com", "LOGIN.Example.com", "localhost", "10.0.0.1", "127.0.0.1", "[::1]", "notexample.com")
VARIABLES = ("https_proxy", "HTTPS_PROXY", "Https_Proxy", "HTTPS_proxy", "all_proxy", "ALL_PROXY", "http_proxy")
EXEMPTIONS = ("no_proxy", "NO_PROXY", "No_Proxy", "NO_proxy")
# Fragments of NO_PROXY: names, dots, ports, networks, IPv6, patterns that mean nothing, and white space.
ENTRIES = (
    *(
        "*",
        "",
        ".",
        "com",
        "example.com",
        ".example.com",
        "..example.com",
        "EXAMPLE.com",
        "example.com.",
        "*.example.com",
    ),
    *("login.example.com:8443", "login.example.com:443", " example.com", "local host", "localhost", "::1", "[::1]"),
    *("10.0.0.1", "10.0.0.1:8443", "10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "10.0.0.1/33", "10.0.0.0/255.0.0.0"),
    *("fe80::/10", "/8", "10.0.0.1/", ".0.1", "0.0.1"),
)

environments = st.lists(
    st.tuples(st.sampled_from(VARIABLES), st.sampled_from(("", "http://a.test:1", "http://b.test:2")))
    | st.tuples(st.sampled_from(EXEMPTIONS), st.lists(st.sampled_from(ENTRIES), max_size=3).map(",".join)),
    max_size=6,
).map(dict)


@pytest.mark.skipif(
    tuple(map(int, requests.__version__.split(".")[:2])) < (2, 34),
    reason="older versions take notexample.com for a host of example.com",
)
@given(environ=environments, host=st.sampled_from(HOSTS), port=st.sampled_from(("", ":443", ":8443")))
def test_the_environment_is_read_as_requests_reads_it(environ: dict[str, str], host: str, port: str) -> None:
    """Whose rules administrators know: which name counts, which case, and whom NO_PROXY exempts."""
    url = f"https://{host}{port}/common"
    with patch.dict(os.environ, environ, clear=True):
        expected = select_proxy(url, get_environ_proxies(url))
    found = route(url, None, environ)

    assert (expected or "") == (found.url if isinstance(found, Through) else "")


@pytest.mark.parametrize(
    "address",
    [
        "http://proxy.test:3128",
        "HTTP://Proxy.Test:3128/",
        "proxy.test:3128",
        "//proxy.test:3128",
        "10.0.0.1:3128",
        "http://proxy.test",
        "http://proxy.test:",
        "https://proxy.test",
        "https://proxy.test:443/path?x#y",
        "http://ann:pass@proxy.test:3128",
        "http://ann:p%40ss%2F%23%3A@proxy.test:3128",
        "http://ann:p@ss@proxy.test:3128",
        "http://ann:@proxy.test:3128",
        "http://[::1]:3128",
        "http://[fe80::1%25eth0]:3128",
        "http://p_x:1",
        "socks5://proxy.test:1080",
        "SOCKS5H://ann:pass@proxy.test:1",
        "socks4a://proxy.test:1",
    ],
)
def test_an_address_is_read_as_requests_reads_it(address: str) -> None:
    """Scheme, host, port, user and password; a port that is not named is the usual one of the scheme."""
    url = str(prepend_scheme_if_needed(address, "http"))  # type: ignore[no-untyped-call]  # requests has none for it
    expected = parse_url(url)
    found = route(LOGIN, None, {"HTTPS_PROXY": address})

    assert isinstance(found, Through)
    assert (expected.scheme, (expected.host or "").strip("[]")) == (found.scheme, found.host)
    assert (expected.port or SCHEMES[found.scheme]) == found.port
    assert get_auth_from_url(url) == (found.user, found.password)
    # What goes to requests means the same again.
    assert get_auth_from_url(found.url) == (found.user, found.password)
    assert (found.scheme, found.port) == parse_url(found.url)[0:4:3]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("localhost:3128", "http://localhost:3128"),
        ("  http://proxy:3128\n", "http://proxy:3128"),
        ("http://ann@proxy:3128", "http://ann:@proxy:3128"),
    ],
)
def test_what_is_read_where_requests_reads_nothing(address: str, expected: str) -> None:
    """A short name without a scheme, as curl takes it; white space around; a user without a password."""
    found = route(LOGIN, None, {"HTTPS_PROXY": address})

    assert isinstance(found, Through)
    assert expected == found.url


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ftp://proxy:1", "another scheme"),
        ("socks://proxy:1", "another scheme"),
        ("socks9://proxy:1", "another scheme"),
        ("http:proxy:3128", "lacks //"),
        ("http:/proxy:3128", "lacks //"),
        ("http://", "no address"),
        ("http://:3128", "no address"),
        ("http://proxy:99999", "no address"),
        ("http://proxy:0", "no address"),
        ("http://proxy:port", "no address"),
        ("http://pro xy:1", "no address"),
        ("'http://proxy:1'", "no address"),
        ('"http://proxy:1"', "no address"),
        ("http://a:1,http://b:1", "no address"),
        ("http://[::1:1", "no address"),
        ("::1", "no address"),
        ("http://ann:secret#1@proxy:1", "percent-encoded"),
        ("http://ann:secret/1@proxy:1", "percent-encoded"),
        ("http://ann:s@cret?1@proxy:1", "percent-encoded"),
    ],
)
def test_an_address_of_no_proxy(address: str, why: str) -> None:
    """It is told by the variable's name, with a reason that quotes nothing: a password may be in it."""
    found = route(LOGIN, None, {"all_proxy": address})

    assert isinstance(found, Malformed)
    assert "all_proxy" == found.named_by
    assert why in found.why
    assert "cret" not in found.why


def test_a_password_is_in_the_url_only() -> None:
    """Neither what is shown of a proxy nor its repr has it."""
    found = route(LOGIN, None, {"HTTPS_PROXY": "http://ann:secret@proxy:1"})

    assert isinstance(found, Through)
    assert "secret" in found.url
    assert "secret" not in f"{found!r} {found.place}"


def test_the_configuration_counts_alone() -> None:
    """With its own list of hosts; its password is a source, which is not read here."""
    environ = {"HTTPS_PROXY": "http://elsewhere:1", "NO_PROXY": "*"}
    proxy = Proxy("http://[::1]:3128", (".example.org",), "corp\\ann")

    assert Through("http", "::1", 3128, "Proxy(...)", "corp\\ann") == route(LOGIN, proxy, environ)
    assert Direct() == route("https://login.example.org", proxy, environ)
