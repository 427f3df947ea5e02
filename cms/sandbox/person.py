"""Simulates a person with a browser: opens the link, signs in or declines, and follows redirects.

It uses the same pages that a person would see. The browser runs in the calling process, so a redirect listener sees the
caller's uid.
"""

from __future__ import annotations

import html
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

# Far above what a page of the sandbox or of a redirect listener takes.
TIMEOUT = 10.0

_FORM = re.compile(r'<form method="post" action="([^"]*)">(.*?)</form>', re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)">')


@dataclass(frozen=True, slots=True)
class Page:
    """The page at which the browser ended. `url` and `text` may contain an authorization code."""

    status: int
    url: str = field(repr=False)
    text: str = field(repr=False)
    location: str = field(default="", repr=False)

    @property
    def fields(self) -> Mapping[str, str]:
        """The parameters of the page's URL."""
        return dict(parse_qsl(urlsplit(self.url).query))


class Stuck(Exception):
    """The page has no form for the person to fill in. The text is that of the page."""


class Browser:
    """Fetches pages without proxies and cookies; trusts one CA."""

    def __init__(self, ca_file: str) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        secure = urllib.request.HTTPSHandler(context=context)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), secure, _StayHere())

    def get(self, url: str) -> Page:
        """Open an address."""
        return self._open(urllib.request.Request(url))  # noqa: S310 - the caller's own address

    def submit(self, url: str, fields: Mapping[str, str], origin: str = "") -> Page:
        """Post a form, as from a page of `origin`."""
        headers = {"Origin": _origin(origin or url)}
        return self._open(urllib.request.Request(url, urlencode(fields).encode(), headers))  # noqa: S310 - as above

    def _open(self, request: urllib.request.Request) -> Page:
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return _page(request, answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as answer:
            with answer:
                return _page(request, answer.code, answer.headers, answer.read())


def sign_in(url: str, user: str, *, ca_file: str, decision: str = "accept", follow: bool = True) -> Page:
    """Open an authorization link, sign in as `user` (or decline), and go where that leads.

    With `follow` false the last step is left out: the page's `url` is the address that a person would copy out of the
    browser. Raises Stuck when Entra shows an error page instead.
    """
    browser = Browser(ca_file)
    page = answered = browser.get(url)
    if not page.location:
        action, hidden = _form(page)
        answered = browser.submit(action, {**hidden, "user": user, "decision": decision}, page.url)
    if answered.location:
        return browser.get(answered.location) if follow else Page(answered.status, answered.location, "")
    action, fields = _form(answered)
    if not follow:
        return Page(answered.status, f"{action}?{urlencode(fields)}", "")
    return browser.submit(action, fields, answered.url)


def enter_code(url: str, code: str, user: str, *, ca_file: str, decision: str = "accept") -> Page:
    """Open the page for devices, enter the code and sign in as `user`, or decline."""
    browser = Browser(ca_file)
    page = browser.get(url)
    action, hidden = _form(page)
    done = browser.submit(action, {**hidden, "user_code": code, "user": user, "decision": decision}, page.url)
    if done.status != _OK:
        raise Stuck(_words(done))
    return done


_OK = 200


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to `sign_in`, which has to see them."""

    def redirect_request(self, *_args: object, **_more: object) -> None:
        """Refuse to follow."""


def _page(request: urllib.request.Request, status: int, headers: Message, body: bytes) -> Page:
    location = urljoin(request.full_url, headers["Location"]) if headers["Location"] else ""
    return Page(status, request.full_url, body.decode(errors="replace"), location)


def _form(page: Page) -> tuple[str, dict[str, str]]:
    found = _FORM.search(page.text)
    if found is None:
        raise Stuck(_words(page))
    hidden = {html.unescape(name): html.unescape(value) for name, value in _HIDDEN.findall(found[2])}
    return urljoin(page.url, html.unescape(found[1])), hidden


def _words(page: Page) -> str:
    text = " ".join(_TAG.sub(" ", page.text).split())
    return f"{page.status}: {html.unescape(text)}"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
