"""Real OpenID servers: where one is, a person with a browser there, and an account of cms's."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests

from cms.core.accounts import Grant
from cms.grants.credentials import Secret
from cms.grants.oauth2.client import OAuth2
from cms.grants.providers import ExchangeEnd
from cms_oauth.providers import OWN, Server
from support.grants import ANN
from support.worlds import REDIRECT, code_flow

_FORM = re.compile(r"<form[^>]*?\saction=\"([^\"]*)\"[^>]*>(.*?)</form>", re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')
_MOST_PAGES = 20


@dataclass(frozen=True)
class Place:
    """A running server."""

    issuer: str
    ca_file: str


class Person:
    """A browser that fills in every form as this person, and stops where the redirect address begins."""

    def __init__(self, place: Place, name: str = ANN) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = place.ca_file
        self._name = name

    def go(self, url: str, **more: str) -> dict[str, str]:
        """Return what the browser brings to the redirect address, nothing where it ends at a page without a form."""
        said = {"login": self._name, "username": self._name, "password": "any", **more}
        page = self._session.get(url, allow_redirects=False)
        for _ in range(_MOST_PAGES):
            if target := page.headers.get("Location"):
                target = urljoin(page.url, target)
                if target.startswith(REDIRECT):
                    return dict(parse_qsl(urlsplit(target).query))
                page = self._session.get(target, allow_redirects=False)
            elif form := _FORM.search(page.text):
                fields = {name: unescape(value) for name, value in _HIDDEN.findall(form[2])}
                action = urljoin(page.url, unescape(form[1]))
                page = self._session.post(action, data={**said, **fields}, allow_redirects=False)
            else:
                return {}
        raise AssertionError(page.url)


@dataclass
class Account:
    """An account at the server, by one client."""

    place: Place
    client: OAuth2
    grant: Grant
    secret: Secret = ""

    def sign_in(self, user: str = ANN) -> ExchangeEnd:
        flow = code_flow(self.client.begin(self.grant, "browser", secret=self.secret))
        return flow.finish(Person(self.place, user).go(flow.url))

    def redeem(self, end: ExchangeEnd) -> ExchangeEnd:
        return self.client.redeem(self.grant, ("mail",), end.cache, end.subject, who=end.who, secret=self.secret)

    def knowing(self, **more: Any) -> Account:
        """Return the same account of a configuration that says something else of the server."""
        assert self.grant.server
        return replace(self, grant=replace(self.grant, server=replace(self.grant.server, **more)))


def account(place: Place, client_id: str = "none", secret: Secret = "", **more: Any) -> Account:
    server = Server(place.issuer, identity=("openid", "email", "offline_access"), **more)
    grant = Grant(place.issuer, client_id, ANN, (("mail",),), redirect_uri=REDIRECT, provider=OWN, server=server)
    return Account(place, OAuth2(place.ca_file), grant, secret)
