"""The general provider against real OpenID servers: every case at each of them.

They check what the sandbox was written to check, by people who have never seen cms. `make test` has oidc-provider with its
defaults, `make test-providers` also Keycloak, which is downloaded for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.daemon import Daemon, ask
from support.grants import ANN, BEN
from support.openid import Account, Person, Place, account
from support.openid_servers import PROOFS, SECRET, SERVERS
from support.proofs import AppCertificate, write_private
from support.proxy import proxies
from support.waiting import until
from support.worlds import device_flow, token, trouble

from cms.core.accounts import Proxy
from cms.core.lifecycle import Refused
from cms.grants.credentials import Secret, parse
from cms.grants.oauth2.client import OAuth2
from cms.grants.oauth2.kept import Kept
from cms_oauth.providers import DYNAMIC

# The names of those to sign in at.
CHOSEN = os.environ.get("OPENID_SERVERS", "oidc-provider").split()


@pytest.fixture(scope="module")
def app() -> AppCertificate:
    return AppCertificate()


@pytest.fixture(scope="module", params=CHOSEN)
def place(
    request: pytest.FixtureRequest, app: AppCertificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with SERVERS[request.param](tmp_path_factory.mktemp("openid"), app) as running:
        yield running


def proven(place: Place, app: AppCertificate, proof: str) -> Account:
    """Return an account whose application proves itself in this way."""
    secret: Secret = SECRET if "secret" in proof else parse(app.pem()) if proof == "private_key_jwt" else ""
    return account(place, proof, secret, client_auth=_auth(proof))


def _auth(proof: str) -> str:
    return {"client_secret_basic": "basic", "client_secret_post": "post"}.get(proof, "")


@pytest.mark.parametrize("proof", PROOFS)
def test_every_way_to_prove_who_asks(place: Place, app: AppCertificate, proof: str) -> None:
    """A sign-in with a browser, and redemptions after it; the name is in the id token, or else userinfo's."""
    one = proven(place, app, proof)
    end = one.sign_in()
    again = one.redeem(end)

    assert ANN == end.who
    assert end.subject.startswith(f"{place.issuer} ")
    assert len({token(end), token(again), token(one.redeem(again))}) == 3


@pytest.mark.parametrize("proof", PROOFS)
def test_a_code_on_another_device(place: Place, app: AppCertificate, proof: str) -> None:
    """A poll before the person has come says nothing; afterwards the next one ends the sign-in."""
    one = proven(place, app, proof)
    flow = device_flow(one.client.begin(one.grant, "device", secret=one.secret))
    assert flow.poll() is None
    Person(place).enter(flow.url, flow.user_code)
    # Keycloak wants pauses between polls, and says nothing else before one has passed.
    end = until(flow.poll, "the end of the sign-in")

    assert end
    assert ANN == end.who
    assert token(one.redeem(end))


def test_an_address_with_the_code_in_it(place: Place) -> None:
    """Nobody types the code there."""
    one = account(place)
    flow = device_flow(one.client.begin(one.grant, "device"))
    assert flow.user_code in flow.complete_url
    assert "" == Person(place).arrive(flow.complete_url)
    end = until(flow.poll, "the end of the sign-in")

    assert end
    assert ANN == end.who


@pytest.mark.parametrize("proof", PROOFS)
def test_the_end_of_a_sign_in(place: Place, app: AppCertificate, proof: str) -> None:
    """At the address that the server's document has. Who asks once more hears that it has ended."""
    one = proven(place, app, proof)
    end = one.redeem(one.sign_in())
    assert one.end(end) is None

    assert isinstance(one.redeem(end).outcome, Refused)
    assert one.end(end) is None
    assert token(one.sign_in())


def test_an_application_that_registers_itself(place: Place) -> None:
    """Nobody has made a client for it."""
    one = account(place, DYNAMIC)
    end = one.sign_in()

    assert token(one.redeem(end))
    assert Kept.read(end.cache).client_id not in ("", DYNAMIC)
    assert one.end(end) is None
    assert isinstance(one.redeem(end).outcome, Refused)


def test_another_person(place: Place) -> None:
    """Whom the id token or userinfo names."""
    assert "wrong-user" == trouble(account(place).sign_in(BEN))


def test_reuse_ends_the_sign_in(place: Place) -> None:
    """The old token and its successor."""
    one = account(place)
    first = one.sign_in()
    second = one.redeem(first)
    assert isinstance(one.redeem(first).outcome, Refused)

    assert isinstance(one.redeem(second).outcome, Refused)


def test_a_lost_answer(place: Place) -> None:
    """It is asked for once more at once. Both servers take that for theft, and the person signs in again."""
    one = account(place)
    end = one.sign_in()
    with proxies() as relay:
        relay.inspector, relay.upstream_ca, relay.losing = place.authority, place.ca_file, 1
        through = replace(one, client=OAuth2(place.ca_file, Proxy(relay.url)))
        refused = through.redeem(end)

    assert isinstance(refused.outcome, Refused)
    assert 2 == len([each for each in relay.seen if each.startswith("POST")])
    assert "invalid_grant" == refused.outcome.trouble.error
    assert f"`cms login {ANN}`" in refused.outcome.trouble.hint
    assert token(one.redeem(one.sign_in()))


def test_a_resource_that_the_server_does_not_know(place: Place) -> None:
    """It is refused where the person signs in, with the word of RFC 8707; a server that knows no resources ignores it."""
    end = account(place, resource="https://another.example/").sign_in()
    if not place.unknown_resource:
        assert token(end)
        return

    assert isinstance(end.outcome, Refused)
    assert place.unknown_resource == end.outcome.trouble.error


@pytest.mark.parametrize("method", ["browser", "device"])
def test_a_resource(place: Place, method: str) -> None:
    """The token is for it alone: not for userinfo, so the person is believed. Keycloak knows no resources."""
    if not place.resource:
        return
    one = account(place, resource=place.resource).knowing(identity=("offline_access",))
    flow = one.client.begin(one.grant, method)
    if method == "device":
        waiting = device_flow(flow)
        Person(place).enter(waiting.url, waiting.user_code)
        end = until(waiting.poll, "the end of the sign-in")
    else:
        end = one.sign_in()

    assert end
    assert token(one.redeem(end))


def test_without_pkce(place: Place) -> None:
    """The server insists on it, and says so at the redirect address."""
    outcome = account(place, pkce=False).sign_in().outcome

    assert isinstance(outcome, Refused)
    assert "invalid_request" == outcome.trouble.error


def test_a_wrong_secret(place: Place) -> None:
    """The registration is to be looked at, not the person's sign-in."""
    outcome = account(place, "client_secret_post", "wrong").sign_in().outcome

    assert isinstance(outcome, Refused)
    assert place.wrong_secret == outcome.trouble.error
    assert "client_id" in outcome.trouble.hint


def test_another_name_of_the_issuer(place: Place) -> None:
    """Even a slash at its end makes another."""
    one = account(place).knowing(issuer=f"{place.issuer}/")
    one.grant = replace(one.grant, authority=f"{place.issuer}/")
    outcome = one.client.begin(one.grant, "browser")

    assert "garbage" == trouble(outcome)  # type: ignore[arg-type]  # it is no flow


@pytest.mark.parametrize(
    ("way", "proof"),
    [("--browser", "private_key_jwt"), ("--paste", "client_secret_basic"), ("--device", "client_secret_post")],
)
def test_a_person_with_cms(
    place: Place, app: AppCertificate, make_daemon: Callable[..., Daemon], way: str, proof: str
) -> None:
    """The commands from a configuration to tokens for a mail program, also after a restart, and to the end at the server."""
    daemon = make_daemon(os.geteuid())
    write_private(daemon.home / "proof", app.pem() if proof == "private_key_jwt" else SECRET)
    credential = "certificate=" if proof == "private_key_jwt" else f'client_auth="{_auth(proof)}", client_secret='
    sock = daemon.home / "cms.sock"
    daemon.configure(
        f"""\
Vault(key=File("{daemon.key}"))
Tls(ca="{place.ca_file}")
own = OAuth2_Account("{ANN}", issuer="{place.issuer}", client_id="{proof}", {credential}File("{daemon.home}/proof"),
    redirect_uri="http://127.0.0.1/oauth2", scopes=["mail", "openid", "email", "offline_access"])
CredentialServer("{sock}", accounts=[own], protocols=["IMAP"])
"""
    )
    daemon.start()
    person = Person(place)

    def browse(url: str, code: str = "") -> str:
        if code:
            person.enter(url, code)
            return ""
        address = person.arrive(url)
        if way == "--paste":
            return address
        assert person.session.get(address).ok
        return ""

    def told() -> bytes:
        return until(lambda: ask(sock, f"IMAP,token {ANN}\n".encode()), "a token")

    daemon.log_in(ANN, browse, way)
    tokens = {told()}
    assert 0 == daemon.cms("refresh", ANN).returncode
    tokens.add(told())
    daemon.stop()
    daemon.forget_tokens()
    daemon.start()
    tokens.add(told())
    ended = daemon.cms("logout", "--revoke", "--yes", ANN)

    assert 3 == len(tokens)
    assert 0 == ended.returncode, ended.stdout + ended.stderr
