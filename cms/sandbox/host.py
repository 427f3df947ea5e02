"""The servers, certificates, faults and records that every simulated provider has.

Two servers on loopback: HTTPS for the provider's endpoints and pages; plain HTTP for introspection (as Dovecot asks).
"""

from __future__ import annotations

import ssl
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import trustme

from cms.sandbox import person
from cms.sandbox.answering import Answering, Asked
from cms.sandbox.faults import Faults
from cms.sandbox.web import HOST_NAME, NOT_FOUND, Handler, Server, WebReply, WebRequest, as_json


class Host(ABC):
    """A simulated provider on loopback. `now` is Unix time."""

    endpoints: Answering
    # What its certificate is for.
    names: ClassVar[tuple[str, ...]] = ("localhost", "127.0.0.1", "::1")

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.faults = Faults()
        self._folder = tempfile.TemporaryDirectory(prefix="cms-sandbox-")
        self.ca_file, self.cert_file = _certify(Path(self._folder.name), self.names)
        self.secure = Server(self.answer, _showing(self.cert_file), now)
        self.plain = PlainServer(self.introspect, now)

    def __enter__(self) -> Self:
        """Listen on ports of the system's choice."""
        self.plain.start()
        self.secure.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """End all silences, close everything, and remove the certificates."""
        self.faults.clear()
        try:
            self.secure.stop()
            self.plain.stop()
        finally:
            self._folder.cleanup()

    def go_down(self) -> None:
        """Refuse connections, like an endpoint that is down. Users, tokens and applications stay."""
        self.faults.release()
        self.secure.pause()

    def come_up(self) -> None:
        """Listen again, on the same port."""
        self.secure.start()

    @property
    def authority(self) -> str:
        """The address of the provider, without a path."""
        return f"https://localhost:{self.secure.port}"

    def answer(self, request: WebRequest) -> WebReply:
        """Answer one HTTPS request. Subclasses can see every request and answer here."""
        return self.endpoints.answer(request)

    @property
    @abstractmethod
    def device_url(self) -> str:
        """The page where a person enters the code of a device."""

    @abstractmethod
    def add_user(self, name: str) -> object:
        """Make a user, and return what is known of it."""

    @abstractmethod
    def introspect(self, token: str) -> dict[str, Any]:
        """Return what the introspection endpoint says."""

    def sign_in(self, url: str, user: str, *, decision: str = "accept", follow: bool = True) -> person.Page:
        """Sign in as a person with a browser does: see `cms.sandbox.person.sign_in`."""
        return person.sign_in(url, user, ca_file=self.ca_file, decision=decision, follow=follow)

    def approve_device(self, user_code: str, user: str, *, decision: str = "accept") -> None:
        """Enter the code of a device as a person does."""
        person.enter_code(self.device_url, user_code, user, ca_file=self.ca_file, decision=decision)

    @property
    def requests(self) -> list[Asked]:
        """The HTTPS requests so far, in order."""
        return self.endpoints.requests

    def asked(self, endpoint: str = "token", **wanted: object) -> list[Asked]:
        """Return the requests so far at an endpoint ("" for any), with these values of `Asked`'s fields."""
        with self.endpoints.changed:
            return [
                each
                for each in self.requests
                if endpoint in ("", each.endpoint) and all(getattr(each, name) == wanted[name] for name in wanted)
            ]

    def count(self, endpoint: str = "token", **wanted: object) -> int:
        """Return how many requests there have been."""
        return len(self.asked(endpoint, **wanted))

    def wait_for(self, number: int, endpoint: str = "token", *, seconds: float = 60.0, **wanted: object) -> bool:
        """Wait until there have been so many requests; False when there were not in time."""
        with self.endpoints.changed:
            return self.endpoints.changed.wait_for(lambda: self.count(endpoint, **wanted) >= number, seconds)


class PlainServer(Server):
    """The plain HTTP server: introspection as a mail server asks for it, and further paths that a test adds."""

    def __init__(self, introspect: Callable[[str], dict[str, Any]], now: Callable[[], float] = time.time) -> None:
        super().__init__(lambda request: self.paths.get(request.path, _unknown)(request), now=now)
        self.paths: dict[str, Handler] = {
            "/introspect": lambda request: as_json(introspect(request.fields.get("token", "")))
        }

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{HOST_NAME}:{self.port}"

    @property
    def introspect_url(self) -> str:
        """Where a mail server asks; the token is appended."""
        return f"{self.url}/introspect?token="


def _unknown(_request: WebRequest) -> WebReply:
    return WebReply(NOT_FOUND)


def _certify(folder: Path, names: Iterable[str]) -> tuple[str, str]:
    """Write the certificate of an authority, and key and certificate of a server; return both names."""
    folder.chmod(0o755)  # a mail server or worker under another uid reads the CA here
    authority = trustme.CA()
    certificate = authority.issue_cert(*names)
    ca_file, cert_file = folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(cert_file))
    cert_file.chmod(0o600)
    return str(ca_file), str(cert_file)


def _showing(cert_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file)
    return context
