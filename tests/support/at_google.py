"""A simulated provider in Google's place: cms knows Google by its addresses, so a proxy leads those to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cms.sandbox.habits import CLIENT_ID, google
from cms.sandbox.host import Host
from cms.sandbox.issuer import Issuer
from support.proxy import Proxy

TOKEN_HOST, USERINFO_HOST = "oauth2.googleapis.com", "openidconnect.googleapis.com"


class AtGoogle(Issuer):
    """The provider, under the name of Google's token endpoint."""

    names = (*Host.names, TOKEN_HOST, USERINFO_HOST)
    proxy: Proxy

    @property
    def authority(self) -> str:
        return f"https://{TOKEN_HOST}"

    @property
    def settings_lines(self) -> str:
        """Return the directives that lead a daemon here, and make it trust this provider."""
        return f'Tls(ca="{self.ca_file}")\nProxy("{self.proxy.url}")\n'

    def refresh_token(self, user: str, *scopes: str) -> str:
        """Return what another program has after this user has signed in with it, by the same client id."""
        begun = self.issued.begin(self.issued.user(user), self.issued.clients[CLIENT_ID], scopes)
        return str(self.issued.tokens(begun, offline=True)["refresh_token"])


@contextmanager
def at_google(users: Iterable[str]) -> Iterator[AtGoogle]:
    """Yield the provider, with these users, while a proxy leads to it."""
    with AtGoogle(google(), users) as found:
        found.proxy = Proxy()
        found.proxy.places |= dict.fromkeys(
            (f"{TOKEN_HOST}:443", f"{USERINFO_HOST}:443"), f"localhost:{found.secure.port}"
        )
        found.proxy.start()
        try:
            yield found
        finally:
            found.proxy.stop()
