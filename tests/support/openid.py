"""A real OpenID server: where it is, a person with a browser there, and an account of cms's."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests
import trustme

from cms.core.accounts import Grant
from cms.core.lifecycle import Refused, Transient
from cms.grants.credentials import Secret
from cms.grants.oauth2.client import OAuth2
from cms.grants.providers import ExchangeEnd
from cms_oauth.providers import OWN, Server
from support.grants import ANN
from support.worlds import REDIRECT, code_flow

_FORM = re.compile(r"<form[^>]*?\saction=\"([^\"]*)\"[^>]*>(.*?)</form>", re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')
_MOST_PAGES = 20


class Place:
    """A running server, whose certificate is of `authority`.

    `wrong_secret` is its word for an application that cannot prove itself, `unknown_resource` its word for a resource
    that it does not know, "" if it knows no resources at all; `resource` is the one that it knows, then.
    """

    def __init__(
        self,
        issuer: str,
        authority: trustme.CA,
        ca_file: Path,
        *,
        wrong_secret: str,
        unknown_resource: str = "",
        resource: str = "",
    ) -> None:
        self.issuer = issuer
        self.authority = authority
        self.ca_file = str(ca_file)
        self.wrong_secret = wrong_secret
        self.unknown_resource = unknown_resource
        self.resource = resource
        authority.cert_pem.write_to_path(self.ca_file)


class Person:
    """A browser that fills in every form as this person, and stops where the redirect address begins."""

    def __init__(self, place: Place, name: str = ANN) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = place.ca_file
        # Keycloak has programs and people at one address, and tells them apart by this.
        self.session.headers["Accept"] = "text/html"
        self._name = name

    def go(self, url: str) -> dict[str, str]:
        """Return what the browser brings to the redirect address."""
        return dict(parse_qsl(urlsplit(self.arrive(url)).query))

    def enter(self, url: str, code: str) -> None:
        """Enter a code, and sign in. Each server has a name of its own for its field."""
        assert "" == self.arrive(url, user_code=code, device_user_code=code)

    def arrive(self, url: str, **more: str) -> str:
        """Return the redirect address with what the server adds, "" where the browser ends at a page without a form."""
        said = {"login": self._name, "username": self._name, "password": "any", **more}
        page = self.session.get(url, allow_redirects=False)
        for _ in range(_MOST_PAGES):
            if target := page.headers.get("Location"):
                target = urljoin(page.url, target)
                if target.startswith("http:"):
                    # The servers have TLS.
                    return target
                page = self.session.get(target, allow_redirects=False)
            elif form := _FORM.search(page.text):
                fields = {name: unescape(value) for name, value in _HIDDEN.findall(form[2])}
                action = urljoin(page.url, unescape(form[1]))
                page = self.session.post(action, data={**said, **fields}, allow_redirects=False)
            else:
                return ""
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

    def end(self, end: ExchangeEnd) -> Transient | Refused | None:
        """Have the server end a sign-in; return why it has not, None if it has."""
        return self.client.revoke(self.grant, end.cache, self.secret)

    def knowing(self, **more: Any) -> Account:
        """Return the same account of a configuration that says something else of the server."""
        assert self.grant.server
        return replace(self, grant=replace(self.grant, server=replace(self.grant.server, **more)))


def account(place: Place, client_id: str = "none", secret: Secret = "", **more: Any) -> Account:
    server = Server(place.issuer, identity=("openid", "email", "offline_access"), **more)
    grant = Grant(place.issuer, client_id, ANN, (("mail",),), redirect_uri=REDIRECT, provider=OWN, server=server)
    return Account(place, OAuth2(place.ca_file), grant, secret)
